//! What a member of an archive that is read holds: small ones are in memory, larger ones in a temporary file that has no name.
//!
//! Promises: no more than [`IN_MEMORY`] of any member is in memory, nor of what is made of it here. The file is gone with the content, and with the
//! process, however that ends. It is read, and not mapped: pages that are mapped are memory of the process.
//!
//! The file lies where temporary files do (`TMPDIR`), where the gate unpacks the bundle too.

use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The largest member that is in memory, in bytes.
pub const IN_MEMORY: u64 = 1024 * 1024;

/// So much of a larger one is passed on at a time, in bytes.
const PIECE: usize = 128 * 1024;

/// What a member holds.
#[derive(Debug)]
pub struct Content(Kept);

#[derive(Debug)]
enum Kept {
    Memory(Vec<u8>),
    File(File, u64),
}

impl Content {
    /// That of a member that has none.
    pub const fn none() -> Self {
        Self(Kept::Memory(Vec::new()))
    }

    /// Takes so many bytes, or fewer where there are no more.
    ///
    /// # Errors
    /// When they cannot be read, or ([`Kind::Preflight`]) not be kept meanwhile.
    pub fn read(from: &mut dyn Read, size: u64) -> anyhow::Result<Self> {
        let mut bytes = Vec::with_capacity(usize::try_from(size.min(IN_MEMORY))?);
        from.take(size.min(IN_MEMORY)).read_to_end(&mut bytes)?;
        if size <= IN_MEMORY || (bytes.len() as u64) < IN_MEMORY {
            return Ok(Self(Kept::Memory(bytes)));
        }
        let rest = size - IN_MEMORY;
        Self::spool(&mut bytes.as_slice().chain(from.take(rest)))
    }

    /// That of a file, which is not to be written to meanwhile.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self(Kept::File(file, size)))
    }

    fn spool(from: &mut dyn Read) -> anyhow::Result<Self> {
        let cannot = || format!("cannot keep it meanwhile in {} (TMPDIR names another folder)", std::env::temp_dir().display());
        let mut file = tempfile::tempfile().kind(Kind::Preflight, cannot)?;
        let (mut buffer, mut size) = (vec![0; PIECE], 0);
        loop {
            let count = fill(from, &mut buffer)?;
            file.write_all(&buffer[..count]).kind(Kind::Preflight, cannot)?;
            size += count as u64;
            if count < PIECE {
                return Ok(Self(Kept::File(file, size)));
            }
        }
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Kept::Memory(bytes) => bytes.len() as u64,
            Kept::File(_, size) => *size,
        }
    }

    /// All of it, where it is in memory.
    pub fn in_memory(&self) -> Option<&[u8]> {
        match &self.0 {
            Kept::Memory(bytes) => Some(bytes),
            Kept::File(..) => None,
        }
    }

    /// All of it, wherever it is: for what has to be in memory to be looked at.
    ///
    /// # Errors
    /// When it cannot be read again.
    pub fn whole(&self) -> io::Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.in_memory() {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut bytes = Vec::new();
        self.reader().read_to_end(&mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    /// Its first bytes, or so many as there are.
    ///
    /// # Errors
    /// When they cannot be read again.
    pub fn head(&self, most: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.reader().take(most).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Reads it from its beginning; there may be several readers at once.
    pub fn reader(&self) -> Reader<'_> {
        Reader { content: self, at: 0 }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// When that fails.
    pub fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        self.pieces(&mut |piece| to.write_all(piece))
    }

    /// Its SHA-256, hexadecimal.
    ///
    /// # Errors
    /// When it cannot be read again.
    pub fn sha256(&self) -> io::Result<String> {
        let mut hash = Sha256::new();
        self.pieces(&mut |piece| {
            hash.update(piece);
            Ok(())
        })?;
        Ok(fingerprint::hex(&hash.finalize()))
    }

    fn pieces(&self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if let Some(bytes) = self.in_memory() {
            return take(bytes);
        }
        let (mut reader, mut buffer) = (self.reader(), vec![0; PIECE]);
        loop {
            let count = fill(&mut reader, &mut buffer)?;
            take(&buffer[..count])?;
            if count < PIECE {
                return Ok(());
            }
        }
    }
}

impl From<Vec<u8>> for Content {
    /// That of what is in memory already.
    fn from(bytes: Vec<u8>) -> Self {
        Self(Kept::Memory(bytes))
    }
}

/// Reads until the buffer is full or there is no more; how many bytes.
pub fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut full = 0;
    while full < buffer.len() {
        match from.read(&mut buffer[full..]) {
            Ok(0) => break,
            Ok(count) => full += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(full)
}

/// A place in a content.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    content: &'a Content,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = match &self.content.0 {
            Kept::Memory(bytes) => {
                let from = usize::try_from(self.at).unwrap_or(usize::MAX).min(bytes.len());
                (&bytes[from..]).read(into)?
            }
            Kept::File(file, _) => file.read_at(into, self.at)?,
        };
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.content.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: u64) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn small_and_large_contents_are_read_alike() {
        for size in [0, 1, IN_MEMORY, IN_MEMORY + 1, IN_MEMORY + 3 * PIECE as u64, 3 * IN_MEMORY + 7] {
            let bytes = bytes(size);
            let content = Content::read(&mut bytes.as_slice(), size).unwrap();
            assert_eq!((content.size(), content.in_memory().is_some()), (size, size <= IN_MEMORY));
            assert_eq!(content.head(3).unwrap(), bytes[..bytes.len().min(3)]);
            assert!(*content.whole().unwrap() == *bytes);
            assert_eq!(content.sha256().unwrap(), fingerprint::hex(&Sha256::digest(&bytes)));
            let mut written = Vec::new();
            content.write_to(&mut written).unwrap();
            assert!(written == bytes);
            let (mut one, mut other) = (content.reader(), content.reader());
            let (mut last, mut first) = (Vec::new(), [0]);
            one.seek(SeekFrom::Start(size.saturating_sub(3))).unwrap();
            one.read_to_end(&mut last).unwrap();
            assert_eq!(last, bytes[bytes.len().saturating_sub(3)..]);
            assert_eq!(other.read(&mut first).unwrap(), usize::from(size > 0));
            assert_eq!(one.seek(SeekFrom::End(0)).unwrap(), size);
            assert!(one.seek(SeekFrom::Current(-i64::MAX)).is_err());
        }
    }

    #[test]
    fn what_ends_early_is_as_long_as_it_was() {
        for size in [10, IN_MEMORY * 2] {
            let content = Content::read(&mut bytes(size - 1).as_slice(), size).unwrap();
            assert_eq!(content.size(), size - 1);
        }
        let content = Content::read(&mut bytes(20).as_slice(), 10).unwrap();
        assert_eq!(*content.whole().unwrap(), *bytes(10));
    }
}
