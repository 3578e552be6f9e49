//! What the services print, kept in files of a bounded size.
//!
//! Each service writes into a FIFO of its own, `run/NAME.out`, and the supervisor carries the lines into `run/log/NAME.log`. The
//! FIFO has a name and is opened for reading *and* writing by both ends, which Linux and macOS allow:
//!
//! - A service is then a reader of its own FIFO: when the supervisor dies, writing does not fail (no SIGPIPE, no EPIPE).
//! - What is in the FIFO then is not lost, and the service does not wait: a [`keeper`] holds it too, and carries the output on
//!   until the next supervisor finds the FIFO by its name. Only if supervisor, keeper and service are all killed, what the
//!   service wrote last and nobody has read is lost.
//! - The supervisor never sees an end of file, so that services and their children may come and go.
//!
//! The supervisor's descriptor does not wait; the service's does (they are opened separately, since waiting is a property of the
//! opened file).
//!
//! On Linux the bytes go from the FIFO into the file inside the kernel (splice(2)): they are never only in the supervisor's memory, so
//! that not even its death in the middle loses or doubles any. Lines that get stamps go through a [`spool`], which promises the same.
//! Elsewhere, and where a file system cannot do that, they are read and written, and what was read and not yet written is lost
//! with the supervisor.
//!
//! | file | concept |
//! |---|---|
//! | [`file`] | the file that is written, its rotation, a full disk |
//! | [`names`] | which files belong to a log |
//! | [`index`] | when which part of a log came |
//! | [`spool`] | stamped lines, each once |
//! | [`stamp`] | the form of times |
//! | [`compress`] | rotated files made small, by another process |
//! | [`keeper`] | the supervisor's stand-in after its death |
//! | [`crash`] | the last lines before a service's death |
//! | [`read`] | reading it all back |

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::stat::Mode;

use super::ear::Ear;
use super::outlet::Forward;
use crate::home::Home;
use crate::os;
use crate::service::{LogPolicy, OnFull};

pub mod compress;
pub mod crash;
pub mod file;
pub mod index;
pub mod keeper;
pub mod names;
pub mod read;
pub mod spool;

pub use dkumonitor_interface::stamp;
pub use file::Log;
pub use read::{History, Line, last_lines, last_lines_and_end};
use spool::{Place, Spool};

/// How much one service may be read in one round, so that a flood does not keep the others waiting.
const ROUND: usize = 256 * 1024;

/// How often one log may be rotated in one round: many small files take time too.
const ROTATIONS: u32 = 8;

/// What the kernel keeps of a service's output while nobody reads it, where it lets us choose.
const PIPE_SIZE: i32 = 256 * 1024;

/// How often is tried whether a full disk has space again.
const RETRY: Duration = Duration::from_secs(1);

/// One service's output on its way into its log.
#[derive(Debug)]
pub struct Output {
    fifo_path: PathBuf,
    fifo: File,
    spool_path: PathBuf,
    log: Log,
    spool: Option<Spool>,
    /// Whether the kernel moves bytes from this FIFO into this file system by itself.
    direct: bool,
    /// What was read by hand and waits for space, with the policy `block`.
    pending: Vec<u8>,
    /// Whether nothing is read until there is space.
    blocked: bool,
    /// When to try again, while a disk is full.
    retry_at: Option<Instant>,
    compressed_until: u64,
    /// Who else is given what the service prints.
    forward: Option<Forward>,
}

impl Output {
    /// Opens the FIFO, made if need be. The log is opened when something comes; what an interrupted supervisor has left half done
    /// is finished.
    ///
    /// # Errors
    /// When the FIFO cannot be made or opened.
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
        Ok(Self::over(fifo, fifo_path, log_path, policy))
    }

    /// Reads from a FIFO that is open already and does not wait.
    pub(crate) fn over(fifo: File, fifo_path: &Path, log_path: &Path, policy: LogPolicy) -> Self {
        let mut output = Self {
            fifo_path: fifo_path.to_owned(),
            fifo,
            spool_path: fifo_path.with_extension("spool"),
            log: Log::closed(log_path, policy),
            spool: None,
            direct: true,
            pending: Vec::new(),
            blocked: false,
            retry_at: None,
            compressed_until: 0,
            forward: None,
        };
        output.recover();
        output
    }

    /// Whether anything is under way that is not in the log.
    pub(crate) fn has_more(&self) -> bool {
        let spooled = self.spool.as_ref().is_some_and(|spool| !spool.is_done());
        os::waiting_bytes(&self.fifo) > 0 || spooled || !self.pending.is_empty()
    }

    /// How many lines could not be kept since the supervisor began.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.log.dropped()
    }

    /// The end that the service writes to, as its standard output and error.
    ///
    /// # Errors
    /// When the FIFO cannot be opened.
    pub fn writer(&self) -> Result<File> {
        let open = OpenOptions::new().read(true).write(true).open(&self.fifo_path);
        open.with_context(|| format!("cannot open the FIFO {}", self.fifo_path.display()))
    }

    /// What to poll; none while a full disk keeps us from reading.
    #[must_use]
    pub fn fd(&self) -> Option<RawFd> {
        (!self.blocked).then(|| self.fifo.as_raw_fd())
    }

    /// When [`tick`](Self::tick) is due without anything having happened: only while a disk is full, or when a file expires.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let left = self.log.expiry.map(|at| Duration::from_millis(at.saturating_sub(stamp::now())));
        let expiry = left.and_then(|left| Instant::now().checked_add(left));
        [self.retry_at, expiry].into_iter().flatten().min()
    }

    /// Does what is due: tries whether there is space again, removes what has expired.
    pub fn tick(&mut self, buffer: &mut [u8]) {
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            let _ = self.log.own_up(stamp::now());
            self.carry(buffer);
        }
        let now = stamp::now();
        if self.log.expiry.is_some_and(|at| at <= now) {
            self.log.prune(now);
        }
    }

    /// Goes on by another policy.
    pub fn set_policy(&mut self, policy: LogPolicy) {
        if *self.log.policy() != policy {
            self.finish_spool();
            self.log.set_policy(policy);
        }
    }

    /// Lets go of the log, which somebody has renamed; the next line begins a new one.
    pub fn reopen(&mut self) {
        self.finish_spool();
        self.log.close();
    }

    /// Removes what was logged so far, the rotated files too.
    pub fn clear(&mut self) {
        self.finish_spool();
        self.log.clear();
    }

    /// Listens for texts in what comes from now on.
    pub fn listen(&mut self, ear: Ear) {
        self.log.ear = ear;
    }

    /// Which of the texts have come since this was asked last.
    pub fn heard(&mut self) -> Vec<usize> {
        self.log.ear.heard()
    }

    /// Gives what comes from now on to somebody else too, whether or not the log can keep it.
    pub fn forward_to(&mut self, forward: Option<Forward>) {
        self.forward = forward;
    }

    /// Has a line that is not complete forwarded as it is: its writer is gone, or we are.
    pub fn end_line(&mut self) {
        if let Some(forward) = &mut self.forward {
            forward.end();
        }
    }

    fn forward(&mut self, bytes: &[u8]) {
        if let Some(forward) = &mut self.forward {
            forward.take(bytes);
        }
    }

    /// Whether files were rotated that are to be compressed since this was asked last.
    pub fn has_rotated(&mut self) -> bool {
        let before = std::mem::replace(&mut self.compressed_until, self.log.rotations());
        before != self.compressed_until && self.log.policy().compress
    }

    /// Keeps the last lines of a service that has died, in the folder `reports`; where, if the policy wants it.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn report(&self, reports: &Path, crash: crash::Crash<'_>) -> Result<Option<PathBuf>> {
        crash::report(reports, crash, self.log.path(), self.log.policy(), stamp::now())
    }

    /// Carries over what is there, up to a bounded amount.
    pub fn carry(&mut self, buffer: &mut [u8]) {
        let now = stamp::now();
        self.blocked = false;
        if !self.direct || !self.pending.is_empty() {
            self.carry_by_hand(buffer, now);
        } else if self.log.policy().timestamps {
            self.carry_stamped(buffer, now);
        } else {
            self.carry_directly(buffer, now);
        }
        self.retry_at = if self.blocked || self.log.has_lost() {
            Some(Instant::now() + RETRY)
        } else {
            // What is in the spool wakes nobody.
            self.spool.as_ref().is_some_and(|spool| !spool.is_done()).then(Instant::now)
        };
    }

    fn blocks(&self) -> bool {
        self.log.policy().on_full == OnFull::Block
    }

    fn carry_directly(&mut self, buffer: &mut [u8], now: u64) {
        let mut left = os::waiting_bytes(&self.fifo).min(ROUND);
        let mut rotations = 0;
        while left > 0 {
            if self.log.has_lost() {
                // What was lost is said first, and only between two lines.
                return self.carry_by_hand(buffer, now);
            }
            let mut count = left;
            let mut rotate = false;
            if self.log.place(now).is_ok() && self.log.is_full_with(left, now) {
                // Without a descriptor left for the look the file grows on.
                if let Ok(seen @ 1..) = os::peek(&self.fifo, buffer) {
                    let cut = self.log.cut(&buffer[..seen], now);
                    rotate = cut.is_some();
                    count = cut.unwrap_or(seen);
                }
            }
            match self.log.take_from(&self.fifo, count, now) {
                Ok(moved) => {
                    left = left.saturating_sub(moved);
                    if let Some(forward) = &mut self.forward {
                        forward.take(&self.log.last(moved));
                    }
                    if rotate && moved == count {
                        self.log.rotate(now);
                        rotations += 1;
                        if rotations == ROTATIONS {
                            return;
                        }
                    } else if moved == 0 {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.fall_back(&error, buffer, now),
            }
        }
    }

    /// What cannot be moved stays where it is or is read, as the policy says; the log counts what it cannot keep.
    fn fall_back(&mut self, error: &io::Error, buffer: &mut [u8], now: u64) {
        self.direct = !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP));
        if self.direct && self.blocks() {
            self.blocked = true;
        } else {
            self.carry_by_hand(buffer, now);
        }
    }

    fn carry_by_hand(&mut self, buffer: &mut [u8], now: u64) {
        if self.log.policy().timestamps {
            self.finish_spool();
        }
        let (raw, _) = buffer.split_at_mut(buffer.len() / 2);
        let mut scratch = Vec::new();
        let mut total = 0;
        while total < ROUND {
            let waiting = std::mem::take(&mut self.pending);
            let count = if waiting.is_empty() {
                match self.fifo.read(raw) {
                    Ok(0) => return,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return,
                }
            } else {
                raw[..waiting.len()].copy_from_slice(&waiting);
                waiting.len()
            };
            total += count;
            let done = self.store(&raw[..count], &mut scratch, now);
            self.forward(&raw[..done]);
            if done < count {
                self.pending = raw[done..count].to_vec();
                self.blocked = true;
                return;
            }
            // A short read: nothing was left.
            if waiting.is_empty() && count < raw.len() {
                return;
            }
        }
    }

    /// Writes bytes, stamped if need be; how many are done with. Fewer than all only with the policy `block`.
    fn store(&mut self, raw: &[u8], scratch: &mut Vec<u8>, now: u64) -> usize {
        if !self.log.policy().timestamps {
            return self.log.write_raw(raw, now);
        }
        scratch.reserve(raw.len() + SCRATCH);
        let mut done = 0;
        while done < raw.len() {
            match self.log.write_stamped(&raw[done..], scratch, now) {
                Ok((count, rotate)) => {
                    done += count;
                    if rotate {
                        self.log.rotate(now);
                    }
                }
                Err(_) if self.blocks() => return done,
                Err(error) => {
                    self.log.lose(&raw[done..], &error);
                    return raw.len();
                }
            }
        }
        done
    }

    fn carry_stamped(&mut self, buffer: &mut [u8], now: u64) {
        let mut left = os::waiting_bytes(&self.fifo).min(ROUND);
        if !self.work_off(buffer, ROTATIONS, now) {
            return;
        }
        while left > 0 {
            if self.spool.is_none() {
                match self.place(now).and_then(|place| Spool::create(&self.spool_path, place)) {
                    Ok(spool) => self.spool = Some(spool),
                    Err(error) => return self.fall_back(&error, buffer, now),
                }
            }
            let Some(spool) = &mut self.spool else { return };
            match spool.take_from(&self.fifo, left) {
                Ok(0) => return,
                Ok(moved) => left = left.saturating_sub(moved),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.fall_back(&error, buffer, now),
            }
            if !self.work_off(buffer, ROTATIONS, now) {
                return;
            }
        }
    }

    fn place(&mut self, now: u64) -> io::Result<Place> {
        let (inode, size) = self.log.place(now)?;
        Ok(Place { inode, size })
    }

    /// Brings what is in the spool into the log, with no more than so many rotations; whether all of it is done with.
    fn work_off(&mut self, buffer: &mut [u8], mut rotations: u32, now: u64) -> bool {
        let Some(mut spool) = self.spool.take() else { return true };
        let mut scratch = Vec::with_capacity(buffer.len() + SCRATCH);
        let mut going = true;
        while going && !spool.is_done() {
            let Ok(raw) = spool.read(buffer) else { break };
            let (count, rotate) = match self.log.write_stamped(raw, &mut scratch, now) {
                Ok(done) => done,
                Err(_) if self.blocks() => {
                    self.blocked = true;
                    going = false;
                    (0, false)
                }
                Err(error) => {
                    self.log.lose(raw, &error);
                    (raw.len(), false)
                }
            };
            self.forward(&raw[..count]);
            let place = self.place(now).unwrap_or_default();
            going &= spool.advance(count, place).is_ok();
            if rotate {
                self.log.rotate(now);
                // Before anything is in the new file, so that nothing of it is taken back.
                let place = self.place(now).unwrap_or_default();
                rotations -= 1;
                going &= spool.advance(0, place).is_ok() && rotations > 0;
            }
        }
        let done = spool.is_done();
        self.spool = Some(spool);
        done
    }

    /// Finishes what an earlier supervisor has begun.
    fn recover(&mut self) {
        let now = stamp::now();
        if self.log.policy().keep_age_s > 0 {
            self.log.prune(now);
        }
        let Ok(Some((spool, place))) = Spool::open(&self.spool_path) else { return };
        let _ = self.log.take_back(place.inode, place.size, now);
        self.spool = Some(spool);
        self.finish_spool();
    }

    /// Works the spool off and removes it, so that something else may write to the log.
    fn finish_spool(&mut self) {
        if self.spool.is_some()
            && self.work_off(&mut vec![0; SCRATCH], u32::MAX, stamp::now())
            && let Some(spool) = self.spool.take()
        {
            spool.remove();
        }
    }
}

/// Room for the stamps of a chunk of lines.
const SCRATCH: usize = 32 * 1024;

/// Starts this very program for work that the supervisor has no time for; its PID. It ends by itself and is reaped like any child.
fn helper(word: &str, home: &Home, input: Stdio) -> Result<i32> {
    let program = if cfg!(target_os = "linux") { PathBuf::from("/proc/self/exe") } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.arg0("dkm").arg(word).arg(home.root());
    command.stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
    os::leave_terminal(&mut command);
    Ok(i32::try_from(command.spawn()?.id())?)
}

/// Does what [`helper`] was started for, if that is what the arguments say.
#[must_use]
pub fn help(arguments: &[OsString]) -> Option<ExitCode> {
    let [_, word, root] = arguments else { return None };
    let result = match word.to_str()? {
        compress::WORD => compress::run(root),
        keeper::WORD => keeper::run(root),
        _ => return None,
    };
    Some(result.map_or_else(
        |error| {
            eprintln!("dkm {}: {error:#}", word.display());
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    ))
}

#[cfg(test)]
mod tests;
