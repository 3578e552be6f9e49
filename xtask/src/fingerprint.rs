//! The content of a tree: hashed once when it is made, compared cheaply ever after.

use crate::parallel::on_all_cores;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use walkdir::WalkDir;

/// A file or link of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path relative to the tree.
    pub path: PathBuf,
    /// What is there.
    #[serde(flatten)]
    pub kind: EntryKind,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Permission bits.
        mode: u32,
        /// Of the content, hexadecimal.
        sha256: String,
    },
    /// A symbolic link.
    Link {
        /// What it points to, as written.
        target: PathBuf,
    },
}

impl Entry {
    /// The bytes of a file.
    pub fn size(&self) -> Option<u64> {
        match self.kind {
            EntryKind::File { size, .. } => Some(size),
            EntryKind::Link { .. } => None,
        }
    }
}

/// All files and links of a tree, sorted by path, hashed on all cores.
///
/// # Errors
/// When something cannot be read, or is neither file nor link nor folder.
pub fn scan(root: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(root) {
        let entry = entry.with_context(|| format!("cannot read {}", root.display()))?;
        if !entry.file_type().is_dir() {
            found.push((entry.path().strip_prefix(root)?.to_owned(), entry.path().to_owned()));
        }
    }
    found.sort();
    let next = AtomicUsize::new(0);
    let work = || -> anyhow::Result<Vec<(usize, Entry)>> {
        let mut entries = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((path, full)) = found.get(at) else { return Ok(entries) };
            let kind = look(full).with_context(|| format!("cannot read {}", full.display()))?;
            entries.push((at, Entry { path: path.clone(), kind }));
        }
    };
    let parts = on_all_cores(work);
    let mut entries = Vec::with_capacity(found.len());
    for part in parts {
        entries.extend(part?);
    }
    entries.sort_by_key(|(at, _)| *at);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn look(path: &Path) -> anyhow::Result<EntryKind> {
    let meta = path.symlink_metadata()?;
    if meta.is_symlink() {
        return Ok(EntryKind::Link { target: fs::read_link(path)? });
    }
    anyhow::ensure!(meta.is_file(), "it is neither a file nor a link nor a folder");
    Ok(EntryKind::File { size: meta.len(), mode: meta.mode() & 0o7777, sha256: hash_file(path)? })
}

/// What tells cheaply that nobody has written to a file: its size, mode and inode, when its content changed, and when
/// anything about it did. The last is the one time that nothing can set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Inode.
    pub inode: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Nanoseconds since 1970.
    pub ctime_ns: i64,
}

impl Stamp {
    /// Of what was looked at.
    pub fn of(meta: &Metadata) -> Self {
        let ns = |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            size: meta.len(),
            mode: meta.mode(),
            inode: meta.ino(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Of what is at a path, a link itself and not what it points to.
    ///
    /// # Errors
    /// When nothing is there, or it cannot be looked at.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&path.symlink_metadata()?))
    }

    /// How long a stamp is when it is written down.
    pub const BYTES: usize = 36;

    /// The stamp as it is written down.
    pub fn bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.mode.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.inode.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.mtime_ns.to_le_bytes());
        bytes[28..].copy_from_slice(&self.ctime_ns.to_le_bytes());
        bytes
    }

    /// What [`Self::bytes`] has written down.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let eight = |from: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[from..from + 8]);
            part
        };
        let mut mode = [0; 4];
        mode.copy_from_slice(&bytes[8..12]);
        Self {
            size: u64::from_le_bytes(eight(0)),
            mode: u32::from_le_bytes(mode),
            inode: u64::from_le_bytes(eight(12)),
            mtime_ns: i64::from_le_bytes(eight(20)),
            ctime_ns: i64::from_le_bytes(eight(28)),
        }
    }
}

/// One hash over the stamps of these files, in this order: the same only as long as nobody has written to any of them.
///
/// # Errors
/// When one of them is not there.
pub fn stamps<'a>(paths: impl Iterator<Item = &'a Path>) -> io::Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        hash.update(Stamp::at(path)?.bytes());
    }
    Ok(hex(&hash.finalize()))
}

/// One hash over the names and stamps of everything in a tree, its folders included: the same only as long as nobody has
/// written to any of it. Looked at on all cores.
///
/// # Errors
/// When something cannot be looked at.
pub fn tree_stamp(root: &Path) -> anyhow::Result<String> {
    let seen = Mutex::new(Vec::new());
    let queue = Queue::new(root.to_owned());
    let outcomes = on_all_cores(|| -> anyhow::Result<()> {
        let mut own = Vec::new();
        while let Some(folder) = queue.take() {
            let outcome = look_into(&folder, &queue, &mut own);
            queue.done();
            outcome.with_context(|| format!("cannot look into {}", folder.display()))?;
        }
        seen.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
        Ok(())
    });
    outcomes.into_iter().collect::<anyhow::Result<()>>()?;
    let mut all: Vec<(PathBuf, Stamp)> = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut hash = Sha256::new();
    for (path, stamp) in all {
        hash.update(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
        hash.update([0]);
        hash.update(stamp.bytes());
    }
    Ok(hex(&hash.finalize()))
}

fn look_into(folder: &Path, queue: &Queue, seen: &mut Vec<(PathBuf, Stamp)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, meta) = (entry.path(), entry.metadata()?);
        if meta.is_dir() {
            queue.add(path.clone());
        }
        seen.push((path, Stamp::of(&meta)));
    }
    Ok(())
}

/// Folders that are still to be looked into.
struct Queue {
    /// The folders, and how many are being looked into now.
    state: Mutex<(Vec<PathBuf>, usize)>,
    changed: Condvar,
}

impl Queue {
    fn new(first: PathBuf) -> Self {
        Self { state: Mutex::new((vec![first], 0)), changed: Condvar::new() }
    }

    fn add(&self, folder: PathBuf) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.push(folder);
        self.changed.notify_one();
    }

    /// The next folder; none when all have been looked into.
    fn take(&self) -> Option<PathBuf> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(folder) = state.0.pop() {
                state.1 += 1;
                return Some(folder);
            }
            if state.1 == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 -= 1;
        if state.1 == 0 {
            self.changed.notify_all();
        }
    }
}

/// A reader that hashes what is read through it.
pub struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashed<R> {
    /// One through which nothing was read yet.
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// The SHA-256 of all that was read, hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

impl<R: io::Read> io::Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.hash.update(&into[..count]);
        Ok(count)
    }
}

/// The SHA-256 of a file, hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(path: &Path) -> io::Result<String> {
    Ok(hex(&digest_of::<Sha256>(&File::open(path)?)?))
}

/// The hash of what is left to read of a file, no more than a piece of which is in memory.
///
/// # Errors
/// When it cannot be read.
pub fn digest_of<D: Digest>(mut file: &File) -> io::Result<Vec<u8>> {
    let mut hash = D::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that hexadecimal digits stand for; none where these are others.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// The first difference between what a tree should hold and what it does, both sorted by path; none when they agree.
pub fn difference(expected: &[Entry], found: &[Entry]) -> Option<String> {
    let (mut expected, mut found) = (expected.iter().peekable(), found.iter().peekable());
    loop {
        return match (expected.peek(), found.peek()) {
            (None, None) => None,
            (Some(want), have) if have.is_none_or(|have| want.path < have.path) => {
                Some(format!("{} is missing", want.path.display()))
            }
            (want, Some(have)) if want.is_none_or(|want| have.path < want.path) => {
                Some(format!("{} was added", have.path.display()))
            }
            (Some(want), Some(have)) if want.kind != have.kind => Some(format!("{} was changed", want.path.display())),
            _ => {
                expected.next();
                found.next();
                continue;
            }
        };
    }
}

/// A hash over the names, modes and content of a source folder, independent of where it lies and of times.
///
/// # Errors
/// When something cannot be read.
pub fn hash_source(
    root: &Path,
    files: impl Iterator<Item = Result<ignore::DirEntry, ignore::Error>>,
) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    for entry in files {
        let entry = entry.with_context(|| format!("cannot read {}", root.display()))?;
        if entry.file_type().is_some_and(|kind| kind.is_dir()) {
            continue;
        }
        let kind = look(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
        let text = match kind {
            EntryKind::File { mode, sha256, .. } => format!("{} {sha256}", if mode & 0o111 == 0 { 'f' } else { 'x' }),
            EntryKind::Link { target } => format!("l {}", target.display()),
        };
        hash.update(format!("{}\0{text}\n", entry.path().strip_prefix(root)?.display()));
    }
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_seen_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("a b")).unwrap();
        fs::write(root.join("a b/file"), "one").unwrap();
        std::os::unix::fs::symlink("a b", root.join("link")).unwrap();
        let (entries, stamp) = (scan(root).unwrap(), tree_stamp(root).unwrap());
        let seen = || (difference(&entries, &scan(root).unwrap()), tree_stamp(root).unwrap() == stamp);
        assert_eq!(seen(), (None, true));
        fs::write(root.join("new"), "").unwrap();
        assert_eq!(seen(), (Some("new was added".to_owned()), false));
        fs::remove_file(root.join("new")).unwrap();
        assert_eq!(seen(), (None, true), "the time of the tree's own folder does not count");
        // Of another size: the times of two writings may be the same.
        fs::write(root.join("a b/file"), "another").unwrap();
        assert_eq!(seen(), (Some("a b/file was changed".to_owned()), false));
        fs::remove_file(root.join("a b/file")).unwrap();
        assert_eq!(seen(), (Some("a b/file is missing".to_owned()), false));
    }
}
