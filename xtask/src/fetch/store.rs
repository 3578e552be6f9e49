//! The store's files: taken in only when right, and checked cheaply when they are used again.
//!
//! Beside each archive stands its fingerprint: size, times and inode as they were when the archive was last hashed. As
//! long as these are the same, nobody has written to the file. When they differ (it was copied, restored, touched), the
//! archive is hashed again. Bits that rot without any write are found by unpacking: gzip, bzip2 and xz have checksums.

use super::Pin;
use crate::fingerprint::{hash_file, hex};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How much is read at once.
pub(super) const CHUNK: usize = 256 * 1024;

/// The store's folder.
pub(super) struct Store {
    folder: PathBuf,
}

/// What the store has of a pinned archive.
pub(super) enum State {
    Missing,
    /// There, and known to be right.
    Whole(PathBuf),
    /// There, but wrong; with the reason.
    Damaged(PathBuf, String),
}

/// What tells cheaply that a file was not written to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fingerprint {
    size: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// As above; the one time that nothing can set back.
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(path: &Path) -> Option<Self> {
        let data = path.metadata().ok()?;
        Some(Self {
            size: data.len(),
            inode: data.ino(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }

    fn path(archive: &Path) -> PathBuf {
        let mut name = archive.as_os_str().to_owned();
        name.push(".ok");
        name.into()
    }

    fn read(archive: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(archive)).ok()?).ok()
    }

    /// Remembers that the archive is right. Failing costs only a hash the next time.
    fn write(archive: &Path) {
        let Some(now) = Self::of(archive) else { return };
        let (path, beside) = (Self::path(archive), Self::path(&Self::path(archive)));
        let written = serde_json::to_vec(&now).map_err(io::Error::from).and_then(|text| std::fs::write(&beside, text));
        let _ = written.and_then(|()| std::fs::rename(beside, path));
    }
}

impl Store {
    pub(super) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(super) fn make(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))
    }

    pub(super) fn check(&self, pin: &Pin<'_>) -> State {
        let path = self.folder.join(pin.file_name());
        let Some(now) = Fingerprint::of(&path) else { return State::Missing };
        if Fingerprint::read(&path).is_some_and(|known| known == now) && pin.source.size.is_none_or(|size| size == now.size) {
            return State::Whole(path);
        }
        match hash_file(&path) {
            Ok(found) if found == pin.sha256 => {
                Fingerprint::write(&path);
                State::Whole(path)
            }
            Ok(found) => State::Damaged(path, format!("is damaged (sha256 {found})")),
            Err(error) => State::Damaged(path, format!("cannot be read ({error})")),
        }
    }

    pub(super) fn throw_away(&self, path: &Path) -> anyhow::Result<()> {
        // The fingerprint is only a hint and may be missing.
        let _ = std::fs::remove_file(Fingerprint::path(path));
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// The unfinished download of an archive, as an earlier run left it or new.
    pub(super) fn part(&self, pin: &Pin<'_>) -> io::Result<Part> {
        Part::open(self.folder.join(format!("{}.part", pin.sha256)))
    }

    /// A new, empty copy of an archive of this machine, apart from what a download may have left to go on with.
    pub(super) fn copy(&self, pin: &Pin<'_>) -> io::Result<Part> {
        Part::open(self.folder.join(format!("{}.copy", pin.sha256)))
    }

    /// Takes a part whose content was found right: synced, then renamed, so that the name never stands for less.
    pub(super) fn accept(&self, pin: &Pin<'_>, part: &Part) -> io::Result<PathBuf> {
        let path = self.folder.join(pin.file_name());
        part.file.sync_all().map_err(about(&part.path))?;
        std::fs::rename(&part.path, &path).map_err(about(&path))?;
        // Belongs to the part; worth nothing without it.
        let _ = std::fs::remove_file(part.note_path());
        File::open(&self.folder)?.sync_all()?;
        Fingerprint::write(&path);
        Ok(path)
    }
}

/// Where a part came from, and by what its server recognises the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) url: String,
    /// A strong `ETag` or a `Last-Modified`, as it goes into `If-Range`.
    pub(super) validator: String,
}

/// A growing file and the hash of what is in it.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
}

/// Lets an error say which file it is about.
fn about(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Part {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(about(&path))?;
        Ok(Self { path, file, hasher: Sha256::new(), length: 0 })
    }

    fn note_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".json");
        name.into()
    }

    /// Where the part came from; nothing where it cannot be gone on with.
    pub(super) fn note(&self) -> Option<Note> {
        serde_json::from_slice(&std::fs::read(self.note_path()).ok()?).ok()
    }

    /// Writes down where the part comes from. Without that it is begun anew the next time.
    pub(super) fn set_note(&self, note: Option<&Note>) -> io::Result<()> {
        match note {
            Some(note) => std::fs::write(self.note_path(), serde_json::to_vec(note)?).map_err(about(&self.note_path())),
            None => match std::fs::remove_file(self.note_path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Empties it.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.set_note(None)?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Hashes what an earlier run left, to go on behind it. Gives the length.
    pub(super) fn catch_up(&mut self) -> io::Result<u64> {
        if self.length == 0 {
            self.file.rewind()?;
            let (hasher, length) = (&mut self.hasher, &mut self.length);
            each_chunk(&mut self.file, |chunk| {
                hasher.update(chunk);
                *length += chunk.len() as u64;
                Ok(())
            })?;
        }
        Ok(self.length)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(about(&self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Fills it from a file, hashing while the copy is written.
    pub(super) fn copy_all(&mut self, from: &mut File, progress: impl Fn(u64)) -> io::Result<()> {
        self.restart()?;
        each_chunk(from, |chunk| {
            self.add(chunk)?;
            progress(self.length);
            Ok(())
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn sha256(&self) -> String {
        hex(&self.hasher.clone().finalize())
    }

    /// Removes it.
    pub(super) fn discard(self) {
        // Whatever stays is overwritten by the next run.
        let _ = std::fs::remove_file(self.note_path());
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Gives a file's content in large pieces.
fn each_chunk(file: &mut File, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&chunk[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
