//! What the services print, kept in files of a bounded size.
//!
//! Each service writes into a FIFO of its own, `run/NAME.out`, and the supervisor carries the lines into `run/log/NAME.log`. The
//! FIFO has a name and is opened for reading *and* writing by both ends, which Linux and macOS allow:
//!
//! - A service is then a reader of its own FIFO: when the supervisor dies, writing does not fail (no SIGPIPE, no EPIPE). It goes on
//!   until the FIFO is full, and then waits for the next supervisor, which finds the FIFO by its name.
//! - What was written while there was no supervisor is in the FIFO and is read by the next one; it is lost only if the service dies
//!   too, before a new supervisor has opened the FIFO.
//! - The supervisor never sees an end of file, so that services and their children may come and go.
//!
//! The supervisor's descriptor does not wait; the service's does (they are opened separately, since waiting is a property of the
//! opened file).
//!
//! On Linux the bytes go from the FIFO into the file inside the kernel (splice(2)): they are never only in the supervisor's memory, so
//! that not even its death in the middle loses or doubles any. Elsewhere, and where a file system cannot do that, they are read and
//! written, and what was read and not yet written is lost with the supervisor.
//!
//! **Rotation** happens by size and only between two lines: `NAME.log` becomes `NAME.log.1` and so on. A line longer than the whole
//! limit is kept whole up to twice the limit. **A full disk** never holds a service up: what cannot be written is counted, and a
//! line says how much was lost when there is space again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::stat::Mode;

use crate::os;
use crate::service::LogPolicy;

/// How much one service may be read in one round, so that a flood does not keep the others waiting.
const ROUND: usize = 256 * 1024;

/// What the kernel keeps of a service's output while nobody reads it, where it lets us choose.
const PIPE_SIZE: i32 = 256 * 1024;

/// One service's output on its way into its log.
#[derive(Debug)]
pub struct Output {
    fifo_path: PathBuf,
    fifo: File,
    log: Log,
    /// Whether the kernel moves bytes from this FIFO into this file by itself.
    direct: bool,
}

impl Output {
    /// Opens the FIFO, made if need be, and the log.
    ///
    /// # Errors
    /// When either cannot be made or opened.
    pub fn open(fifo_path: &Path, log_path: &Path, policy: LogPolicy) -> Result<Self> {
        let is_fifo = fs::symlink_metadata(fifo_path).map(|meta| meta.file_type().is_fifo());
        if !matches!(is_fifo, Ok(true)) {
            let _ = fs::remove_file(fifo_path);
            nix::unistd::mkfifo(fifo_path, Mode::S_IRUSR | Mode::S_IWUSR)
                .with_context(|| format!("cannot make the FIFO {}", fifo_path.display()))?;
        }
        let fifo = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(fifo_path)
            .with_context(|| format!("cannot open the FIFO {}", fifo_path.display()))?;
        os::enlarge_pipe(&fifo, PIPE_SIZE);
        Ok(Self { fifo_path: fifo_path.to_owned(), fifo, log: Log::open(log_path, policy)?, direct: true })
    }

    /// The end that the service writes to, as its standard output and error.
    ///
    /// # Errors
    /// When the FIFO cannot be opened.
    pub fn writer(&self) -> Result<File> {
        let open = OpenOptions::new().read(true).write(true).open(&self.fifo_path);
        open.with_context(|| format!("cannot open the FIFO {}", self.fifo_path.display()))
    }

    /// What to poll.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fifo.as_raw_fd()
    }

    /// Carries over what is there, up to a bounded amount.
    pub fn carry(&mut self, buffer: &mut [u8]) {
        if self.direct {
            self.carry_directly(buffer);
        } else {
            self.carry_by_hand(buffer);
        }
    }

    fn carry_directly(&mut self, buffer: &mut [u8]) {
        let mut left = os::waiting_bytes(&self.fifo).min(ROUND);
        while left > 0 {
            let mut count = left;
            let mut rotate = false;
            if self.log.is_full_with(left) {
                let seen = os::peek(&self.fifo, buffer).unwrap_or(0);
                let cut = self.log.cut(&buffer[..seen]);
                rotate = cut.is_some();
                count = cut.unwrap_or(seen);
            }
            match self.log.take_from(&self.fifo, count) {
                Ok(moved) => {
                    left = left.saturating_sub(moved);
                    if rotate && moved == count {
                        self.log.rotate();
                    } else if moved == 0 {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // What cannot be moved is read, so that the service does not wait; the log counts what it cannot keep.
                    self.direct =
                        !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP));
                    self.carry_by_hand(buffer);
                    return;
                }
            }
        }
    }

    fn carry_by_hand(&mut self, buffer: &mut [u8]) {
        let mut total = 0;
        while total < ROUND {
            match self.fifo.read(buffer) {
                Ok(0) => return,
                Ok(count) => {
                    self.log.write(&buffer[..count]);
                    total += count;
                    // A short read: nothing was left.
                    if count < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// A file that rotates by size between two lines.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    /// Whether the last byte written was a line end.
    at_line_start: bool,
    /// Bytes that could not be written.
    dropped: u64,
    policy: LogPolicy,
}

impl Log {
    /// Opens or makes the file; what it holds stays.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, policy: LogPolicy) -> Result<Self> {
        let mut log = Self { path: path.to_owned(), file: None, size: 0, at_line_start: true, dropped: 0, policy };
        log.reopen().with_context(|| format!("cannot open the log {}", path.display()))?;
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        // Not for appending: splice(2) refuses that. We are the only writer, and write where we know the end to be.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.at_line_start = self.size == 0 || last_byte(&file, self.size) == Some(b'\n');
        self.file = Some(file);
        Ok(())
    }

    /// Whether so many more bytes are too many for this file.
    fn is_full_with(&self, count: usize) -> bool {
        self.size + count as u64 > self.policy.max_bytes
    }

    /// Where to cut bytes that are too many: what comes before goes into this file, the rest into the next one. None: all of them
    /// belong into this file.
    fn cut(&self, bytes: &[u8]) -> Option<usize> {
        if !self.is_full_with(bytes.len()) {
            return None;
        }
        let room = usize::try_from(self.policy.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
        // The last line end that still fits; else the first one after, or none.
        let after = |at: usize| at + 1;
        let fits = bytes[..room.min(bytes.len())].iter().rposition(|&byte| byte == b'\n').map(after);
        let cut = match fits {
            Some(cut) => Some(cut),
            None if self.at_line_start && self.size > 0 => Some(0),
            None => bytes.iter().position(|&byte| byte == b'\n').map(after),
        };
        cut.or((self.size > self.policy.max_bytes.saturating_mul(2)).then_some(0))
    }

    /// Lets the kernel move bytes from a pipe to the end of the file; how many it moved.
    ///
    /// # Errors
    /// When it moves none: the disk is full, or the file is not of a kind that it can do that with.
    fn take_from(&mut self, pipe: &File, count: usize) -> io::Result<usize> {
        if count == 0 {
            return Ok(0);
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        self.own_up()?;
        let Some(file) = &self.file else { return Ok(0) };
        // Somebody may have emptied the file under us.
        self.size = self.size.min(file.metadata()?.len());
        let moved = os::move_bytes(pipe, file, self.size, count)?;
        self.size += moved as u64;
        self.at_line_start = last_byte(file, self.size) == Some(b'\n');
        Ok(moved)
    }

    /// Says how much was lost, once there is space again.
    fn own_up(&mut self) -> io::Result<()> {
        if self.dropped == 0 {
            return Ok(());
        }
        let start = if self.at_line_start { "" } else { "\n" };
        let line = format!("{start}[dkm: {} bytes were lost here: they could not be written]\n", self.dropped);
        if self.put(line.as_bytes()) < line.len() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.dropped = 0;
        Ok(())
    }

    /// Writes bytes as they come; never fails, see the module's documentation.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while let Some(cut) = self.cut(bytes) {
            self.append(&bytes[..cut]);
            self.rotate();
            bytes = &bytes[cut..];
        }
        self.append(bytes);
    }

    /// Adds a line of our own, on a line of its own.
    pub fn note(&mut self, line: &str) {
        let start = if self.at_line_start { "" } else { "\n" };
        self.write(format!("{start}{line}\n").as_bytes());
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.file.is_none() && self.reopen().is_err() {
            self.dropped += bytes.len() as u64;
            return;
        }
        if self.own_up().is_err() {
            self.dropped += bytes.len() as u64;
            return;
        }
        let written = self.put(bytes);
        self.dropped += (bytes.len() - written) as u64;
    }

    /// Writes as much as goes; how much went.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let Some(file) = &self.file else { return 0 };
        // Somebody may have emptied the file under us.
        self.size = self.size.min(file.metadata().map_or(self.size, |meta| meta.len()));
        let mut done = 0;
        while done < bytes.len() {
            match file.write_at(&bytes[done..], self.size + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if done > 0 {
            self.at_line_start = bytes[done - 1] == b'\n';
            self.size += done as u64;
        }
        done
    }

    fn rotate(&mut self) {
        let old = |number: u32| -> PathBuf {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            name.into()
        };
        for number in (1..self.policy.keep).rev() {
            let _ = fs::rename(old(number), old(number + 1));
        }
        if self.policy.keep == 0 {
            let _ = fs::remove_file(&self.path);
        } else {
            let _ = fs::rename(&self.path, old(1));
        }
        self.file = None;
        let _ = self.reopen();
    }
}

/// The byte before `end`.
fn last_byte(file: &File, end: u64) -> Option<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, end.checked_sub(1)?).ok().map(|()| byte[0])
}

/// The last `count` lines of a file, its last rotated predecessor included when it alone has too few. Empty when there is no file.
#[must_use]
pub fn last_lines(path: &Path, count: usize) -> Vec<u8> {
    /// No more than this is read: lines of a log are short.
    const LIMIT: u64 = 4 << 20;
    let read = |path: &Path| -> Vec<u8> {
        let Ok(mut file) = File::open(path) else { return Vec::new() };
        let size = file.metadata().map_or(0, |meta| meta.len());
        let mut out = Vec::new();
        if io::Seek::seek(&mut file, io::SeekFrom::Start(size.saturating_sub(LIMIT))).is_ok() {
            let _ = file.take(LIMIT).read_to_end(&mut out);
        }
        out
    };
    let mut bytes = read(path);
    if bytes.iter().filter(|&&byte| byte == b'\n').count() < count {
        let mut name = path.as_os_str().to_owned();
        name.push(".1");
        let mut older = read(Path::new(&name));
        older.append(&mut bytes);
        bytes = older;
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let start = if count == 0 {
        bytes.len()
    } else {
        body.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n').nth(count - 1).map_or(0, |(at, _)| at + 1)
    };
    bytes.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(folder: &Path, keep: u32) -> String {
        let mut out = String::new();
        for number in (1..=keep).rev() {
            out += &fs::read_to_string(folder.join(format!("x.log.{number}"))).unwrap_or_default();
        }
        out + &fs::read_to_string(folder.join("x.log")).unwrap()
    }

    #[test]
    fn rotation_loses_and_tears_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let mut log = Log::open(&temp.path().join("x.log"), LogPolicy { max_bytes: 1_000, keep: 50 }).unwrap();
        let text: String = (0..2_000).map(|number| format!("line {number}\n")).collect();
        for chunk in text.as_bytes().chunks(37) {
            log.write(chunk);
        }
        assert_eq!(all(temp.path(), 50), text);
        for number in 1..=5 {
            let old = fs::read_to_string(temp.path().join(format!("x.log.{number}"))).unwrap();
            assert!(old.ends_with('\n') && old.len() <= 1_050, "{} bytes", old.len());
        }
    }

    #[test]
    fn only_so_many_files_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let mut log = Log::open(&temp.path().join("x.log"), LogPolicy { max_bytes: 100, keep: 2 }).unwrap();
        for number in 0..1_000 {
            log.write(format!("line {number}\n").as_bytes());
        }
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 3);
    }

    #[test]
    fn an_endless_line_is_cut_in_the_end() {
        let temp = tempfile::tempdir().unwrap();
        let mut log = Log::open(&temp.path().join("x.log"), LogPolicy { max_bytes: 100, keep: 1 }).unwrap();
        for _ in 0..100 {
            log.write(&[b'x'; 50]);
        }
        assert!(fs::metadata(temp.path().join("x.log")).unwrap().len() <= 300);
    }

    #[test]
    fn the_last_lines_reach_into_the_rotated_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        fs::write(temp.path().join("x.log.1"), "a\nb\nc\n").unwrap();
        fs::write(&path, "d\ne\n").unwrap();
        assert_eq!(last_lines(&path, 1), b"e\n");
        assert_eq!(last_lines(&path, 3), b"c\nd\ne\n");
        assert_eq!(last_lines(&path, 99), b"a\nb\nc\nd\ne\n");
        assert_eq!(last_lines(&path, 0), b"");
        assert_eq!(last_lines(&temp.path().join("none"), 5), b"");
    }

    #[test]
    fn rotation_out_of_a_pipe_loses_and_tears_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let policy = LogPolicy { max_bytes: 1_000, keep: 50 };
        let mut output = Output::open(&temp.path().join("x.out"), &temp.path().join("x.log"), policy).unwrap();
        let mut writer = output.writer().unwrap();
        let text: String = (0..2_000).map(|number| format!("line {number}\n")).collect();
        for (at, chunk) in text.as_bytes().chunks(137).enumerate() {
            writer.write_all(chunk).unwrap();
            if at % 3 == 0 {
                output.carry(&mut [0; 4096]);
            }
        }
        output.carry(&mut [0; 4096]);
        assert_eq!(all(temp.path(), 50), text);
        for number in 1..=5 {
            let old = fs::read_to_string(temp.path().join(format!("x.log.{number}"))).unwrap();
            assert!(old.ends_with('\n') && old.len() <= 1_000, "{} bytes", old.len());
        }
        assert_eq!(output.direct, cfg!(target_os = "linux"), "the quick way was taken where there is one");
    }

    #[test]
    fn a_file_that_was_emptied_is_gone_on_with_from_its_start() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("x.log");
        let mut output = Output::open(&temp.path().join("x.out"), &log, LogPolicy::default()).unwrap();
        let mut writer = output.writer().unwrap();
        writer.write_all(b"before\n").unwrap();
        output.carry(&mut [0; 4096]);
        fs::write(&log, "").unwrap();
        writer.write_all(b"after\n").unwrap();
        output.carry(&mut [0; 4096]);
        assert_eq!(fs::read(&log).unwrap(), b"after\n");
    }

    #[test]
    fn a_writer_survives_the_reader_and_nothing_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        let (fifo, log) = (temp.path().join("x.out"), temp.path().join("x.log"));
        let first = Output::open(&fifo, &log, LogPolicy::default()).unwrap();
        let mut writer = first.writer().unwrap();
        drop(first);
        writer.write_all(b"while nobody reads\n").unwrap();
        let mut second = Output::open(&fifo, &log, LogPolicy::default()).unwrap();
        second.carry(&mut [0; 1024]);
        assert_eq!(fs::read(&log).unwrap(), b"while nobody reads\n");
    }
}
