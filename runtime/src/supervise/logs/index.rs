//! When the bytes of a log came: a small file beside it, so that lines without stamps have times too.
//!
//! ```text
//! 0   8  "dkmidx1\n"
//! 8   8  the inode of the log that it belongs to
//! 16  8  the time of the first entry, in milliseconds since 1970
//! 24  8  bit 0: the lines carry stamps of their own
//! 32     entries of 8 bytes: an offset in the log, and the time at which what begins there came, in hundredths of a second since
//!        the time above; both as unsigned 32-bit numbers. Of two with the same offset the later one holds.
//! ```
//!
//! Numbers are little-endian. An entry is written before the bytes that it is about, at most a hundred a second. It is a help: what cannot
//! be written to it is left out, and a log of which it says nothing is read all the same. The inode tells whether it belongs to the
//! file it lies beside, whatever a rotation that was interrupted, or somebody's hand, has left.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::names;

const MAGIC: &[u8; 8] = b"dkmidx1\n";
const HEADER: usize = 32;
const ENTRY: usize = 8;
const STAMPED: u64 = 1;
/// Milliseconds of one step of an entry's time.
const TICK: u64 = 10;

/// The index of a log that is being written.
#[derive(Debug)]
pub struct Index {
    file: File,
    /// The time of its beginning.
    pub base: u64,
    /// Whether the lines carry stamps.
    pub stamped: bool,
    end: u64,
    last: Option<(u64, u64)>,
}

impl Index {
    /// The index beside a log, if it is this log's: the one with that inode.
    pub fn open(log: &Path, inode: u64) -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open(names::index_of(log)).ok()?;
        let head = Head::read(&file).filter(|head| head.inode == inode)?;
        let length = file.metadata().ok()?.len();
        // What was written by half is written over.
        let end = length - (length - HEADER as u64) % ENTRY as u64;
        Some(Self { file, base: head.base, stamped: head.stamped, end, last: None })
    }

    /// Begins one, in place of whatever is there.
    pub fn create(log: &Path, inode: u64, stamped: bool, now: u64) -> Option<Self> {
        let path = names::index_of(log);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path).ok()?;
        let mut head = Vec::with_capacity(HEADER);
        head.extend(MAGIC);
        for number in [inode, now, if stamped { STAMPED } else { 0 }] {
            head.extend(number.to_le_bytes());
        }
        if file.write_all_at(&head, 0).is_err() {
            let _ = fs::remove_file(&path);
            return None;
        }
        Some(Self { file, base: now, stamped, end: HEADER as u64, last: None })
    }

    /// Notes that what is written at `offset` comes now.
    pub fn mark(&mut self, offset: u64, now: u64) {
        let tick = now.saturating_sub(self.base) / TICK;
        if self.last.is_some_and(|(at, then)| then == tick && at <= offset) {
            return;
        }
        let (Ok(short_offset), Ok(short_tick)) = (u32::try_from(offset), u32::try_from(tick)) else { return };
        let mut entry = [0; ENTRY];
        entry[..4].copy_from_slice(&short_offset.to_le_bytes());
        entry[4..].copy_from_slice(&short_tick.to_le_bytes());
        if self.file.write_all_at(&entry, self.end).is_ok() {
            self.end += ENTRY as u64;
            self.last = Some((offset, tick));
        }
    }
}

struct Head {
    inode: u64,
    base: u64,
    stamped: bool,
}

impl Head {
    fn read(file: &File) -> Option<Self> {
        let mut head = [0; HEADER];
        file.read_exact_at(&mut head, 0).ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let (inode, base, flags) = (number(8)?, number(16)?, number(24)?);
        head.starts_with(MAGIC).then_some(Self { inode, base, stamped: flags & STAMPED != 0 })
    }
}

/// Brings an index that lies beside a log but belongs to another file to that one, where it is still missing: its rotation was
/// interrupted between the two names.
pub fn mend(log: &Path, inode: Option<u64>) {
    let path = names::index_of(log);
    let Ok(file) = File::open(&path) else { return };
    let head = Head::read(&file);
    if head.is_some() && head.as_ref().map(|head| head.inode) == inode {
        return;
    }
    let owner = names::old(log).into_iter().rev().find(|old| {
        let its = fs::metadata(&old.path).map(|meta| meta.ino()).ok();
        its.is_some() && its == head.as_ref().map(|head| head.inode) && !names::index_of(&old.path).exists()
    });
    let _ = match owner {
        Some(old) => fs::rename(&path, names::index_of(&old.path)),
        None => fs::remove_file(&path),
    };
}

/// What an index says, for a reader.
#[derive(Debug)]
pub struct Times {
    /// Whether the lines carry stamps.
    pub stamped: bool,
    /// Offsets, ascending, and the milliseconds since 1970 at which what begins there came.
    entries: Vec<(u64, u64)>,
}

impl Times {
    /// Reads the index of a log or of a rotated file. `inode`: of the log, where it is the one that is being written.
    #[must_use]
    pub fn read(log: &Path, inode: Option<u64>) -> Option<Self> {
        Self::read_last(log, inode, u64::MAX)
    }

    /// The same, but no more than the last so many entries: for what came just now.
    #[must_use]
    pub fn read_last(log: &Path, inode: Option<u64>, count: u64) -> Option<Self> {
        let path = names::index_of(log);
        let file = File::open(&path).ok()?;
        let head = Head::read(&file)?;
        if inode.is_some_and(|inode| inode != head.inode) {
            return None;
        }
        let there = file.metadata().ok()?.len().checked_sub(HEADER as u64)? / ENTRY as u64;
        let skipped = there.saturating_sub(count);
        let mut bytes = vec![0; usize::try_from(there - skipped).ok()? * ENTRY];
        file.read_exact_at(&mut bytes, HEADER as u64 + skipped * ENTRY as u64).ok()?;
        let mut entries: Vec<(u64, u64)> = Vec::new();
        for entry in bytes.chunks_exact(ENTRY) {
            let number = |at: usize| entry.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes).map(u64::from);
            let (offset, tick) = (number(0)?, number(4)?);
            // What was emptied, or taken back after an interruption, was written again from a lower offset on.
            while entries.last().is_some_and(|&(last, _)| last >= offset) {
                entries.pop();
            }
            entries.push((offset, head.base + tick * TICK));
        }
        Some(Self { stamped: head.stamped, entries })
    }

    /// When the byte at `offset` came; none when that was before the index began.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<u64> {
        let after = self.entries.partition_point(|&(start, _)| start <= offset);
        Some(self.entries.get(after.checked_sub(1)?)?.1)
    }

    /// From which offset on something may have come at `since` or later. The clock may have been set back: the first such
    /// entry counts.
    #[must_use]
    pub fn offset_of(&self, since: u64) -> u64 {
        // The times of entries are rounded down.
        let first = self.entries.iter().position(|&(_, ms)| ms + TICK > since);
        match first {
            Some(0) => 0,
            Some(at) => self.entries[at].0,
            None => self.entries.last().map_or(0, |&(offset, _)| offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_time_at_which_they_came() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("x.log");
        let mut index = Index::create(&log, 7, false, 1_000_000).unwrap();
        for (offset, now) in [(0, 1_000_000), (50, 1_000_001), (100, 1_002_345), (200, 1_002_999)] {
            index.mark(offset, now);
        }
        drop(index);
        // Half an entry is no entry, and is written over.
        let path = names::index_of(&log);
        let mut bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), HEADER + 3 * ENTRY, "what came within a tick has one entry");
        bytes.extend([1, 2, 3]);
        fs::write(&path, &bytes).unwrap();
        assert!(Index::open(&log, 8).is_none(), "another file's index was taken");
        Index::open(&log, 7).unwrap().mark(300, 1_005_000);
        let times = Times::read(&log, Some(7)).unwrap();
        assert_eq!(times.at(0), Some(1_000_000));
        assert_eq!(times.at(99), Some(1_000_000));
        assert_eq!(times.at(100), Some(1_002_340));
        assert_eq!(times.at(9_999), Some(1_005_000));
        assert_eq!(times.offset_of(0), 0);
        assert_eq!(times.offset_of(1_002_345), 100);
        assert_eq!(times.offset_of(9_000_000), 300);
    }

    #[test]
    fn an_index_left_behind_by_its_log_follows_it() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("x.log");
        fs::write(&log, "old\n").unwrap();
        let inode = fs::metadata(&log).unwrap().ino();
        Index::create(&log, inode, false, 1).unwrap();
        let old = names::rotated(&log, 5);
        fs::rename(&log, &old).unwrap();
        mend(&log, None);
        assert!(names::index_of(&old).exists() && !names::index_of(&log).exists());
        // One whose log is nowhere is removed.
        Index::create(&log, 12_345, false, 1).unwrap();
        mend(&log, Some(1));
        assert!(!names::index_of(&log).exists());
    }
}
