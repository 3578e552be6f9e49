//! One log: the file that is being written, and when it gives way to a new one.
//!
//! **Rotation** happens between two lines, when the file would grow beyond its size or its first line beyond its age: one rename
//! to a name that says when ([`names`]), and a new file. Only a line longer than twice the size is cut. Dying between any two steps
//! leaves every byte under a name that belongs to the log.
//!
//! **A full disk** holds nobody up: what cannot be written is counted, up to the end of the line that was torn, and a line says
//! how much it was when there is space again. With the policy `block` nothing is taken that cannot be written.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::index::{self, Index};
use super::{names, stamp};
use crate::os;
use crate::service::{LogPolicy, OnFull};
use crate::supervise::ear::Ear;

/// By how much a file that could not be rotated has to grow, at least, before it is tried again.
const MIN_PATIENCE: u64 = 64 * 1024;

/// What could not be written.
#[derive(Debug, Default)]
struct Lost {
    bytes: u64,
    lines: u64,
    /// Whether the last line of it is not at its end: the rest of it is of no use either.
    within_line: bool,
    /// Why, in the system's words.
    why: String,
}

/// A log, see the module's documentation.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    policy: LogPolicy,
    file: Option<File>,
    inode: u64,
    size: u64,
    /// Whether the last byte written was a line end.
    at_line_start: bool,
    index: Option<Index>,
    /// After a rotation that was not possible: how large the file has to be before the next try.
    patience: u64,
    lost: Lost,
    /// How many lines were lost since it was opened first.
    dropped: u64,
    /// When the rotated files ended, ascending, once anybody has looked. Kept, since a folder may have thousands of files.
    old: Option<VecDeque<u64>>,
    /// When the oldest rotated file expires, in milliseconds since 1970.
    pub(super) expiry: Option<u64>,
    rotations: u64,
    /// Listens to what is written.
    pub(super) ear: Ear,
}

impl Log {
    /// Opens or makes the file; what it holds stays.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, policy: LogPolicy) -> Result<Self> {
        let mut log = Self::closed(path, policy);
        log.reopen(stamp::now()).with_context(|| format!("cannot open the log {}", path.display()))?;
        Ok(log)
    }

    /// A log that is opened when there is something to write.
    #[must_use]
    pub fn closed(path: &Path, policy: LogPolicy) -> Self {
        Self {
            path: path.to_owned(),
            policy,
            file: None,
            inode: 0,
            size: 0,
            at_line_start: true,
            index: None,
            patience: 0,
            lost: Lost::default(),
            dropped: 0,
            old: None,
            expiry: None,
            rotations: 0,
            ear: Ear::default(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept of it.
    #[must_use]
    pub fn policy(&self) -> &LogPolicy {
        &self.policy
    }

    /// Goes on by another policy. Lines with and without stamps are not mixed in one file.
    pub fn set_policy(&mut self, policy: LogPolicy) {
        self.policy = policy;
        self.close();
    }

    /// Lets go of the file; the next line goes to the one that then has the name.
    pub fn close(&mut self) {
        self.file = None;
        self.index = None;
    }

    /// Removes it with all that was rotated; the next line begins it anew.
    pub fn clear(&mut self) {
        names::old(&self.path).iter().for_each(|old| names::remove(&self.path, old.ended));
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(names::index_of(&self.path));
        self.close();
        (self.size, self.at_line_start, self.lost, self.expiry, self.old) = (0, true, Lost::default(), None, None);
    }

    /// How often it was rotated since it was opened.
    #[must_use]
    pub fn rotations(&self) -> u64 {
        self.rotations
    }

    /// How many lines could not be written, since it was opened first.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether something could not be written, and nobody has been told yet.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.lost.bytes > 0
    }

    /// The file's inode and size, opening it if need be.
    pub(super) fn place(&mut self, now: u64) -> io::Result<(u64, u64)> {
        self.ready(now)?;
        Ok((self.inode, self.size))
    }

    /// Takes back what was written beyond `size`, if this is still the file with that inode.
    pub(super) fn take_back(&mut self, inode: u64, size: u64, now: u64) -> io::Result<()> {
        self.ready(now)?;
        let Some(file) = &self.file else { return Ok(()) };
        if self.inode == inode && self.size > size {
            file.set_len(size)?;
            self.close();
            self.ready(now)?;
        }
        Ok(())
    }

    /// Has the file open and its size right, whatever happened to it meanwhile.
    fn ready(&mut self, now: u64) -> io::Result<()> {
        if let Some(file) = &self.file {
            let meta = file.metadata()?;
            if meta.nlink() > 0 {
                if meta.len() != self.size {
                    // Somebody has emptied it under us, or added to it.
                    self.size = meta.len();
                    self.at_line_start = ends_a_line(file, self.size);
                }
                return Ok(());
            }
            // Somebody has removed it.
            self.close();
        }
        self.reopen(now)
    }

    fn reopen(&mut self, now: u64) -> io::Result<()> {
        let file = open(&self.path)?;
        let meta = file.metadata()?;
        index::mend(&self.path, Some(meta.ino()));
        self.inode = meta.ino();
        self.size = meta.len();
        self.at_line_start = ends_a_line(&file, self.size);
        self.index = Index::open(&self.path, self.inode);
        self.patience = 0;
        self.file = Some(file);
        let mixed = self.index.as_ref().is_some_and(|index| index.stamped != self.policy.timestamps);
        if mixed && self.size > 0 {
            self.rotate(now);
        } else if mixed {
            self.index = None;
        }
        Ok(())
    }

    /// Whether so many more bytes are too many for this file, or it is too old for any.
    pub(super) fn is_full_with(&self, count: usize, now: u64) -> bool {
        self.size + count as u64 > self.limit() || self.is_old(now)
    }

    /// Beyond this the file is rotated.
    fn limit(&self) -> u64 {
        if self.policy.max_bytes == 0 { u64::MAX } else { self.policy.max_bytes.max(self.patience) }
    }

    fn is_old(&self, now: u64) -> bool {
        let age = self.policy.max_age_s.saturating_mul(1_000);
        let born = self.index.as_ref().map(|index| index.base);
        age > 0 && self.size > self.patience && born.is_some_and(|born| now >= born.saturating_add(age))
    }

    /// Where to cut bytes that are too many: what comes before goes into this file, the rest into the next one. None: all of them
    /// belong into this file.
    pub(super) fn cut(&self, bytes: &[u8], now: u64) -> Option<usize> {
        if !self.is_full_with(bytes.len(), now) {
            return None;
        }
        let room = if self.is_old(now) { 0 } else { self.limit().saturating_sub(self.size) };
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        // The last line end that still fits; else the first one after, or none.
        let after = |at: usize| at + 1;
        let fits = bytes[..room.min(bytes.len())].iter().rposition(|&byte| byte == b'\n').map(after);
        let cut = match fits {
            Some(cut) => Some(cut),
            None if self.at_line_start && self.size > 0 => Some(0),
            None => bytes.iter().position(|&byte| byte == b'\n').map(after),
        };
        cut.or((self.size > self.limit().saturating_mul(2)).then_some(0))
    }

    /// Lets the kernel move bytes from a pipe to the end of the file; how many it moved.
    ///
    /// # Errors
    /// When it moves none: the disk is full, or the file is not of a kind that it can do that with.
    pub(super) fn take_from(&mut self, pipe: &File, count: usize, now: u64) -> io::Result<usize> {
        if count == 0 {
            return Ok(0);
        }
        self.ready(now)?;
        self.mark(now);
        let Some(file) = &self.file else { return Ok(0) };
        let moved = os::move_bytes(pipe, file, self.size, count)?;
        self.size += moved as u64;
        self.at_line_start = ends_a_line(file, self.size);
        if self.ear.listens() {
            let bytes = self.last(moved);
            self.ear.hear(&bytes);
        }
        Ok(moved)
    }

    /// The last bytes, which never were in our memory; the file has them.
    pub(super) fn last(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let file = self.file.as_ref();
        match file.map(|file| file.read_exact_at(&mut bytes, self.size.saturating_sub(count as u64))) {
            Some(Ok(())) => bytes,
            _ => Vec::new(),
        }
    }

    fn mark(&mut self, now: u64) {
        if self.index.is_none() {
            self.index = Index::create(&self.path, self.inode, self.policy.timestamps, now);
        }
        if let Some(index) = &mut self.index {
            index.mark(self.size, now);
        }
    }

    /// Says how much was lost, if there is space again.
    ///
    /// # Errors
    /// When there is none.
    pub fn own_up(&mut self, now: u64) -> io::Result<()> {
        if !self.has_lost() {
            return Ok(());
        }
        self.ready(now)?;
        let start = if self.at_line_start { "" } else { "\n" };
        let stamp = stamp::format(now);
        let prefix = if self.policy.timestamps { format!("{stamp} ") } else { String::new() };
        let Lost { bytes, lines, why, .. } = &self.lost;
        let line = format!("{start}{prefix}[dkm {stamp}: {bytes} bytes ({lines} lines) were lost here: {why}]\n");
        self.put_all(line.as_bytes(), now)?;
        self.lost = Lost::default();
        Ok(())
    }

    /// Counts what is not written.
    pub(super) fn lose(&mut self, bytes: &[u8], why: &io::Error) {
        let Some(&last) = bytes.last() else { return };
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.lost.bytes += bytes.len() as u64;
        self.lost.lines += lines;
        self.dropped += lines;
        self.lost.within_line = last != b'\n';
        self.lost.why = why.to_string();
    }

    /// Writes bytes as they come, rotating where due; how many of them are done with. Fewer than all only with the policy `block`.
    pub(super) fn write_raw(&mut self, bytes: &[u8], now: u64) -> usize {
        let mut done = 0;
        loop {
            // Before anything is decided by the size, and after a rotation.
            let ready = self.ready(now);
            let rest = &bytes[done..];
            let cut = if ready.is_ok() { self.cut(rest, now) } else { None };
            let part = &rest[..cut.unwrap_or(rest.len())];
            let went = self.append(part, now);
            done += went;
            if cut.is_none() || went < part.len() {
                return done;
            }
            self.rotate(now);
        }
    }

    /// Writes bytes that begin with the start of a line or go on with the last one; never fails, see the module's documentation.
    pub fn write(&mut self, bytes: &[u8]) {
        self.write_raw(bytes, stamp::now());
    }

    /// Adds a line of our own, on a line of its own.
    pub fn note(&mut self, line: &str) {
        let start = if self.at_line_start { "" } else { "\n" };
        self.write(format!("{start}{line}\n").as_bytes());
    }

    fn append(&mut self, bytes: &[u8], now: u64) -> usize {
        let block = self.policy.on_full == OnFull::Block;
        let skipped = self.skip_torn_line(bytes);
        let rest = &bytes[skipped..];
        if rest.is_empty() {
            return bytes.len();
        }
        match self.own_up(now).and_then(|()| self.ready(now)) {
            Ok(()) => {}
            Err(_) if block => return skipped,
            Err(error) => {
                self.lose(rest, &error);
                return bytes.len();
            }
        }
        match self.put(rest, now) {
            (written, None) => skipped + written,
            (written, Some(_)) if block => skipped + written,
            (written, Some(error)) => {
                self.lose(&rest[written..], &error);
                bytes.len()
            }
        }
    }

    /// Writes as much as goes: how much went, and why not all.
    fn put(&mut self, bytes: &[u8], now: u64) -> (usize, Option<io::Error>) {
        self.mark(now);
        let Some(file) = &self.file else { return (0, Some(io::ErrorKind::NotFound.into())) };
        let mut done = 0;
        let mut error = None;
        while done < bytes.len() {
            match file.write_at(&bytes[done..], self.size + done as u64) {
                Ok(0) => {
                    error = Some(io::ErrorKind::WriteZero.into());
                    break;
                }
                Ok(count) => done += count,
                Err(interrupted) if interrupted.kind() == io::ErrorKind::Interrupted => {}
                Err(other) => {
                    error = Some(other);
                    break;
                }
            }
        }
        if done > 0 {
            if self.ear.listens() {
                self.ear.hear(&bytes[..done]);
            }
            self.at_line_start = bytes[done - 1] == b'\n';
            self.size += done as u64;
        }
        (done, error)
    }

    /// Writes all of it or nothing.
    pub(super) fn put_all(&mut self, bytes: &[u8], now: u64) -> io::Result<()> {
        let (before, at_line_start) = (self.size, self.at_line_start);
        let (_, Some(error)) = self.put(bytes, now) else { return Ok(()) };
        if let Some(file) = &self.file
            && self.size > before
            && file.set_len(before).is_ok()
        {
            (self.size, self.at_line_start) = (before, at_line_start);
        }
        Err(error)
    }

    /// Writes the first of some bytes with a stamp before each line: as many as fit into `scratch` and into this file. How many
    /// went, and whether the file has to be rotated before the next.
    ///
    /// # Errors
    /// When nothing could be written; nothing went then.
    pub(super) fn write_stamped(&mut self, bytes: &[u8], scratch: &mut Vec<u8>, now: u64) -> io::Result<(usize, bool)> {
        let skipped = self.skip_torn_line(bytes);
        if skipped > 0 {
            return Ok((skipped, false));
        }
        self.own_up(now)?;
        self.ready(now)?;
        scratch.clear();
        let mut stamp = stamp::format(now);
        stamp.push(' ');
        let (mut done, mut rotate) = (0, false);
        let mut at_line_start = self.at_line_start;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let line = &rest[..os::find_byte(b'\n', rest).map_or(rest.len(), |at| at + 1)];
            let prefix = if at_line_start { stamp.as_str() } else { "" };
            let length = prefix.len() + line.len();
            let begun = self.size > 0 || done > 0;
            let endless = self.size + scratch.len() as u64 > self.limit().saturating_mul(2);
            rotate = begun && (at_line_start || endless) && self.is_full_with(scratch.len() + length, now);
            if rotate || scratch.len() + length > scratch.capacity() {
                break;
            }
            scratch.extend_from_slice(prefix.as_bytes());
            scratch.extend_from_slice(line);
            at_line_start = line.ends_with(b"\n");
            done += line.len();
        }
        self.put_all(scratch, now)?;
        Ok((done, rotate))
    }

    /// Counts the rest of a line that was torn by a full disk as lost; how many bytes that is.
    fn skip_torn_line(&mut self, bytes: &[u8]) -> usize {
        if !self.lost.within_line {
            return 0;
        }
        let end = bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| at + 1);
        let why = io::Error::other(std::mem::take(&mut self.lost.why));
        self.lose(&bytes[..end], &why);
        end
    }

    /// Gives the file its final name and begins a new one; removes what is too much.
    pub(super) fn rotate(&mut self, now: u64) {
        // The names ascend even if the clock is set back.
        let newest = self.old().back().copied();
        let ended = newest.map_or(now, |newest| now.max(newest + 1));
        let to = names::rotated(&self.path, ended);
        // The old file is let go only when there is a new one: with no descriptor left, or no space, it goes on growing.
        let renamed = fs::rename(&self.path, &to).is_ok();
        if !renamed || open(&self.path).is_err() {
            if renamed {
                let _ = fs::rename(&to, &self.path);
            }
            self.patience = self.size.saturating_add(self.policy.max_bytes.max(MIN_PATIENCE));
            return;
        }
        self.old().push_back(ended);
        let _ = fs::rename(names::index_of(&self.path), names::index_of(&to));
        self.rotations += 1;
        self.close();
        self.size = 0;
        self.at_line_start = true;
        // What cannot be opened now is tried again with the next line.
        let _ = self.reopen(now);
        self.prune(now);
    }

    fn old(&mut self) -> &mut VecDeque<u64> {
        self.old.get_or_insert_with(|| names::old(&self.path).into_iter().map(|old| old.ended).collect())
    }

    /// Removes rotated files until the policy is kept, oldest first.
    pub(super) fn prune(&mut self, now: u64) {
        let keep = usize::try_from(self.policy.keep).unwrap_or(usize::MAX);
        let age = self.policy.keep_age_s.saturating_mul(1_000);
        let mut too_many = self.old().len().saturating_sub(keep);
        let expired = |ended: u64| age > 0 && ended.saturating_add(age) <= now;
        while too_many > 0 || self.old().front().is_some_and(|&ended| expired(ended)) {
            self.remove_oldest();
            too_many = too_many.saturating_sub(1);
        }
        if self.policy.keep_bytes > 0 {
            let path = self.path.clone();
            let bytes: Vec<u64> = self.old().iter().map(|&ended| names::bytes(&path, ended)).collect();
            let mut sum: u64 = bytes.iter().sum();
            for bytes in bytes {
                if sum <= self.policy.keep_bytes.saturating_sub(self.policy.max_bytes) {
                    break;
                }
                self.remove_oldest();
                sum -= bytes;
            }
        }
        self.expiry = self.old().front().filter(|_| age > 0).map(|ended| ended.saturating_add(age));
    }

    fn remove_oldest(&mut self) {
        if let Some(ended) = self.old().pop_front() {
            names::remove(&self.path, ended);
        }
    }
}

/// Opens or makes a log. Not for appending: splice(2) refuses that. We are the only writer, and write where we know the end to be.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether the byte before `end` ends a line; the start of a file begins one.
fn ends_a_line(file: &File, end: u64) -> bool {
    let mut byte = [0];
    let Some(last) = end.checked_sub(1) else { return true };
    file.read_exact_at(&mut byte, last).is_ok() && byte[0] == b'\n'
}
