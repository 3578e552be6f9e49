//! The way of stamped lines: none lost and none twice, even if the supervisor is killed between any two instructions.
//!
//! Lines that get a stamp have to be read and written, and what was read and not yet written would be gone with the supervisor.
//! So the kernel first moves the bytes from the FIFO into a spool file, `run/NAME.spool` (splice(2), at once and without a copy
//! in our memory); from there they are read, stamped and written, and only then noted as done, together with how long the log
//! was then. A supervisor that finds a spool takes back what the log has beyond that length and stamps it again.
//!
//! ```text
//! 0   8  the inode of the log
//! 8   8  its length when the bytes before the next number were in it
//! 16  8  up to where the spool is done
//! 32     bytes as they came
//! ```
//!
//! The file is emptied when all of it is done, so that it stays small, and mostly lives in memory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::os;

/// Where the bytes begin.
const START: u64 = 32;
/// The spool is emptied when it is done and has grown to this many bytes: not each time, since that costs.
const EMPTY_FROM: u64 = 1 << 20;

/// A spool.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    end: u64,
    done: u64,
}

/// What a spool knows of the log that its bytes go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The log's inode.
    pub inode: u64,
    /// Its length.
    pub size: u64,
}

impl Spool {
    /// Opens a spool that is there, and says what it knows of its log.
    pub fn open(path: &Path) -> io::Result<Option<(Self, Place)>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let end = file.metadata()?.len();
        let mut head = [0; 24];
        if end < START || file.read_exact_at(&mut head, 0).is_err() {
            // It died when it was new, before anything was moved into it.
            return Ok(None);
        }
        let number = |at: usize| head.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes);
        // Done beyond its end: it was emptied, and that was not yet noted.
        let done = if number(16) > end { START } else { number(16).max(START) };
        let place = Place { inode: number(0), size: number(8) };
        Ok(Some((Self { path: path.to_owned(), file, end, done }, place)))
    }

    /// Makes one.
    pub fn create(path: &Path, place: Place) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut spool = Self { path: path.to_owned(), file, end: START, done: START };
        spool.note(place)?;
        spool.file.set_len(START)?;
        Ok(spool)
    }

    /// Lets the kernel move bytes from a pipe into it; how many.
    pub fn take_from(&mut self, pipe: &File, count: usize) -> io::Result<usize> {
        let moved = os::move_bytes(pipe, &self.file, self.end, count)?;
        self.end += moved as u64;
        Ok(moved)
    }

    /// The next bytes that are not done.
    pub fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let left = usize::try_from(self.end - self.done).unwrap_or(usize::MAX);
        let part = left.min(buffer.len());
        self.file.read_exact_at(&mut buffer[..part], self.done)?;
        Ok(&buffer[..part])
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.done == self.end
    }

    /// Notes that so many more bytes are done, and where the log stands.
    pub fn advance(&mut self, count: usize, place: Place) -> io::Result<()> {
        self.done += count as u64;
        if self.is_done() && self.end >= EMPTY_FROM {
            self.file.set_len(START)?;
            (self.end, self.done) = (START, START);
        }
        self.note(place)
    }

    fn note(&mut self, place: Place) -> io::Result<()> {
        let mut head = [0; 24];
        for (part, number) in head.chunks_exact_mut(8).zip([place.inode, place.size, self.done]) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        self.file.write_all_at(&head, 0)
    }

    /// Removes it; what it holds has to be done.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}
