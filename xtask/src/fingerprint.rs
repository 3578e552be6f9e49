//! The content of a tree: hashed once when it is made, compared cheaply ever after.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
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
        /// When it was last written, nanoseconds since 1970: together with the size, the cheap sign of a change.
        mtime_ns: i64,
    },
    /// A symbolic link.
    Link {
        /// What it points to, as written.
        target: PathBuf,
    },
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
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> anyhow::Result<Vec<(usize, Entry)>> {
        let mut entries = Vec::new();
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some((path, full)) = found.get(at) else { return Ok(entries) };
            let kind = look(full).with_context(|| format!("cannot read {}", full.display()))?;
            entries.push((at, Entry { path: path.clone(), kind }));
        }
    };
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..crate::host::cores()).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a hashing thread died"))?)
            .collect::<Vec<_>>()
    });
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
    Ok(known(path, hash_file(path)?)?)
}

/// A file whose hash is known already, with its size, mode and time as they are now.
///
/// # Errors
/// When it is not there.
pub fn known(path: &Path, sha256: String) -> io::Result<EntryKind> {
    let meta = path.symlink_metadata()?;
    Ok(EntryKind::File { size: meta.len(), mode: meta.mode() & 0o7777, sha256, mtime_ns: mtime_ns(&meta) })
}

fn mtime_ns(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

/// The SHA-256 of a file, hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
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

/// The first difference between a tree and its record, by size, time and mode, with nothing missing and nothing added;
/// none when they agree.
pub fn difference(root: &Path, entries: &[Entry]) -> Option<String> {
    let mut expected =
        entries.iter().map(|entry| (entry.path.as_path(), &entry.kind)).collect::<std::collections::HashMap<_, _>>();
    for found in WalkDir::new(root) {
        let Ok(found) = found else { return Some(format!("{} cannot be read", root.display())) };
        if found.file_type().is_dir() {
            continue;
        }
        let Ok(path) = found.path().strip_prefix(root) else { continue };
        let Some(kind) = expected.remove(path) else { return Some(format!("{} was added", path.display())) };
        let same = match kind {
            EntryKind::Link { target } => fs::read_link(found.path()).is_ok_and(|link| link == *target),
            EntryKind::File { size, mode, mtime_ns: time, .. } => found.path().symlink_metadata().is_ok_and(|meta| {
                meta.is_file() && meta.len() == *size && meta.mode() & 0o7777 == *mode && mtime_ns(&meta) == *time
            }),
        };
        if !same {
            return Some(format!("{} was changed", path.display()));
        }
    }
    expected.keys().min().map(|path| format!("{} is missing", path.display()))
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
        let entries = scan(root).unwrap();
        assert_eq!(difference(root, &entries), None);
        fs::write(root.join("new"), "").unwrap();
        assert_eq!(difference(root, &entries).unwrap(), "new was added");
        fs::remove_file(root.join("new")).unwrap();
        fs::write(root.join("a b/file"), "two").unwrap();
        assert_eq!(difference(root, &entries).unwrap(), "a b/file was changed");
        fs::remove_file(root.join("a b/file")).unwrap();
        assert_eq!(difference(root, &entries).unwrap(), "a b/file is missing");
    }
}
