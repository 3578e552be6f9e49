//! The keeper: a second process that does nothing, until the supervisor dies.
//!
//! A FIFO lives as long as somebody has it open. If the supervisor and then a service died, what the service had written last would be
//! gone; and a service that lives on would come to a stand as soon as its FIFO is full. So the supervisor starts its own program as
//! `dkm @keep DATA`, once a service runs. It holds every FIFO open for reading, and waits for one of
//!
//! - the end of the supervisor, which is the end of a pipe that the supervisor holds: then it carries the services' output into
//!   their logs in the supervisor's place, by the same code ([`Output`]), until nobody is left who could write, or the next
//!   supervisor comes;
//! - TERM, from a supervisor that ends or from the next one, which takes over from here;
//! - HUP: there are new FIFOs to hold.
//!
//! **One at a time writes logs.** A keeper first takes `run/keeper.lock` and then looks whether a supervisor lives; a supervisor first takes its
//! own lock and then ends the keeper ([`Keeper::take_over`]). So none of the two can overlook the other.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::{Log, Output, stamp};
use crate::home::Home;
use crate::os;
use crate::service::LogPolicy;
use crate::supervise::{OWN_LOG, child};

/// What the program is told to be a keeper by. No verb begins like this.
pub const WORD: &str = "@keep";

/// The name of the lock in `DATA/run`.
const LOCK: &str = "keeper.lock";

/// How long a new supervisor waits for the old keeper's end before it kills it. A keeper only has to finish one round.
const PATIENCE: Duration = Duration::from_secs(2);

/// A keeper that did not stay so long is not replaced at once.
const AGAIN: Duration = Duration::from_secs(1);

/// How often a new keeper looks whether the old one has gone.
const LOOK: u16 = 10;

/// The supervisor's end of its keeper.
#[derive(Debug, Default)]
pub struct Keeper {
    process: Option<(i32, PipeWriter)>,
    again_at: Option<Instant>,
}

impl Keeper {
    /// Ends the keeper that an earlier supervisor has left, if there is one, a new one being started first, so that there is no
    /// moment without; to be called with the supervisor's lock held and before any log is opened. What is returned holds the
    /// FIFOs until the supervisor has opened them itself.
    ///
    /// # Errors
    /// When the old one does not go.
    pub fn take_over(&mut self, home: &Home) -> Result<Vec<File>> {
        let path = home.run().join(LOCK);
        if child::holder(&path).is_none() {
            return Ok(Vec::new());
        }
        let held = hold(home).into_iter().map(|(_, fifo)| fifo).collect();
        // Without a new one it has to do: it is tried again later.
        let _ = self.ensure(home, Instant::now());
        let (begin, mut killed, mut told) = (Instant::now(), false, None);
        loop {
            match child::holder(&path) {
                None => return Ok(held),
                old if old == self.pid() => return Ok(held),
                Some(pid) if told != Some(pid) => {
                    // It may have the lock and not yet have written its number.
                    told = Some(pid);
                    os::signal_process(pid, Signal::SIGTERM);
                }
                Some(pid) if begin.elapsed() > PATIENCE && !killed => {
                    killed = true;
                    os::signal_process(pid, Signal::SIGKILL);
                }
                Some(pid) if begin.elapsed() > PATIENCE * 2 => {
                    anyhow::bail!("process {pid} keeps the logs ({} is locked) and does not end", path.display());
                }
                Some(_) => {}
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts the keeper if there is none and it is not too soon.
    ///
    /// # Errors
    /// When no process can be made. It is tried again later.
    pub fn ensure(&mut self, home: &Home, now: Instant) -> Result<()> {
        if self.process.is_some() || self.again_at.is_some_and(|at| at > now) {
            return Ok(());
        }
        self.again_at = Some(now + AGAIN);
        let (reader, writer) = io::pipe().context("cannot start the keeper of logs")?;
        let pid = super::helper(WORD, home, reader.into()).context("cannot start the keeper of logs")?;
        self.process = Some((pid, writer));
        Ok(())
    }

    /// When it is to be tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.again_at.filter(|_| self.process.is_none())
    }

    /// Whether this was the keeper, which has ended.
    pub fn has_ended(&mut self, pid: i32) -> bool {
        let was_it = self.pid() == Some(pid);
        if was_it {
            self.process = None;
        }
        was_it
    }

    /// Its PID.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|(pid, _)| *pid)
    }

    /// The pipe whose end is our death to it.
    #[must_use]
    pub fn pipe(&self) -> Option<RawFd> {
        self.process.as_ref().map(|(_, pipe)| pipe.as_raw_fd())
    }

    /// Tells it that there are new FIFOs.
    pub fn look_again(&self) {
        if let Some(pid) = self.pid() {
            os::signal_process(pid, Signal::SIGHUP);
        }
    }

    /// Ends it.
    pub fn dismiss(&mut self) {
        if let Some((pid, _)) = self.process.take() {
            os::signal_process(pid, Signal::SIGTERM);
        }
    }
}

/// Opens every FIFO of the data folder for reading, and for nothing else: so the end of the last writer is seen.
fn hold(home: &Home) -> Vec<(String, File)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(home.run()).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_fifo = entry.file_type().is_ok_and(|kind| kind.is_fifo());
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".out")).map(str::to_owned);
        let Some(name) = name.filter(|_| is_fifo) else { continue };
        if let Ok(fifo) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
            out.push((name, fifo));
        }
    }
    out
}

/// Keeps the FIFOs of the data folder `root` until it is not needed any more.
///
/// # Errors
/// When it cannot begin.
pub fn run(root: &OsStr) -> Result<()> {
    let signals =
        os::catch_signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).context("cannot prepare for signals")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let home = Home::open(Path::new(root))?;
    let master = child::holder(&home.supervisor_lock());
    let mut held = hold(&home);
    let lock = loop {
        if let Some(lock) = child::lock(&home.run().join(LOCK))? {
            break lock;
        }
        // The old one is about to go. If the supervisor is, this one is still wanted.
        let mut fds = [PollFd::new(os::borrow(signals.as_raw_fd()), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(LOOK));
        match told(&signals) {
            Some(Told::End) => return Ok(()),
            Some(Told::Look) => held = hold(&home),
            None => {}
        }
    };
    child::sign(&lock).context("cannot write the keeper's number")?;
    loop {
        let mut fds = [
            PollFd::new(os::borrow(signals.as_raw_fd()), PollFlags::POLLIN),
            PollFd::new(os::borrow(io::stdin().as_raw_fd()), PollFlags::POLLIN),
        ];
        match os::rest(&mut fds, None) {
            Ok(()) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait"),
        }
        let ended = fds[1].revents().is_some_and(|events| !events.is_empty());
        match told(&signals) {
            Some(Told::End) => return Ok(()),
            Some(Told::Look) => held = hold(&home),
            None => {}
        }
        if ended {
            break;
        }
    }
    if !is_alone(&home, master, &signals) {
        // The next one is there already, and has opened the FIFOs itself.
        return Ok(());
    }
    let result = stand_in(&home, held, &signals);
    drop(lock);
    result
}

/// Whether no supervisor lives. One that is about to die closes its end of the pipe a little before it lets go of its lock.
/// One that becomes another program closes it too, keeps the lock and its number, and then ends this keeper.
fn is_alone(home: &Home, master: Option<i32>, signals: &UnixStream) -> bool {
    let begin = Instant::now();
    loop {
        match child::holder(&home.supervisor_lock()) {
            None => return true,
            dying if dying == master && begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
                if matches!(told(signals), Some(Told::End)) {
                    return false;
                }
            }
            Some(_) => return false,
        }
    }
}

enum Told {
    End,
    Look,
}

fn told(signals: &UnixStream) -> Option<Told> {
    let noted = os::noted_signals(signals);
    let end = noted.iter().any(|signal| *signal != Signal::SIGHUP);
    if end { Some(Told::End) } else { noted.first().map(|_| Told::Look) }
}

/// Carries the services' output in the place of a supervisor that has died, until nobody is left who could write.
fn stand_in(home: &Home, held: Vec<(String, File)>, signals: &UnixStream) -> Result<()> {
    // With definitions that cannot be used the lines are kept all the same.
    let services = home.definitions().unwrap_or_default().services;
    let mut outputs: Vec<Output> = Vec::new();
    for (name, fifo) in held {
        let policy =
            services.iter().find(|service| service.name == name).map_or_else(LogPolicy::default, |found| found.log.clone());
        outputs.push(Output::over(fifo, &home.service_output(&name), &home.log(&name), policy));
    }
    if let Ok(mut log) = Log::open(&home.supervisor_log(), OWN_LOG) {
        log.note(&format!(
            "{} the supervisor has died: process {} carries the logs on until the next one comes",
            crate::clock::utc(stamp::now() / 1_000),
            std::process::id()
        ));
    }
    let mut buffer = vec![0; 64 * 1024];
    while !outputs.is_empty() {
        let mut fds = vec![PollFd::new(os::borrow(signals.as_raw_fd()), PollFlags::POLLIN)];
        // One that waits for space is not asked.
        fds.extend(outputs.iter().map(|output| {
            let (fd, flags) = output.fd().map_or((signals.as_raw_fd(), PollFlags::empty()), |fd| (fd, PollFlags::POLLIN));
            PollFd::new(os::borrow(fd), flags)
        }));
        let deadline = outputs.iter().filter_map(Output::deadline).min();
        match poll(&mut fds, until(deadline)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait"),
        }
        if matches!(told(signals), Some(Told::End)) {
            return Ok(());
        }
        let mut events = fds.iter().skip(1).map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        outputs.retain_mut(|output| goes_on(output, events.next().unwrap_or(PollFlags::empty()), &mut buffer));
    }
    Ok(())
}

/// Does what is due for one output; whether anybody is left who could write to it, or anything that is not in the log.
fn goes_on(output: &mut Output, events: PollFlags, buffer: &mut [u8]) -> bool {
    if events.contains(PollFlags::POLLIN) {
        output.carry(buffer);
    } else if output.deadline().is_some_and(|due| due <= Instant::now()) {
        output.tick(buffer);
    }
    !events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) || output.has_more()
}

fn until(deadline: Option<Instant>) -> PollTimeout {
    let Some(at) = deadline else { return PollTimeout::NONE };
    let millis = at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1_000);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}
