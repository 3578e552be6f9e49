//! Another program takes the supervisor's place.
//!
//! The supervisor writes down what it knows and becomes the new program by exec(2): the same process, so that it stays the parent of
//! its services, keeps its lock (no other supervisor can come between) and its socket (nobody is turned away), and is the same to
//! systemd. The new program then takes the services over as after a death ([`adopt`](super::adopt)), and answers the client that asked.
//!
//! First the new program has to show that it can: it is run as `dkm @rehearse DATA` and has to end well in [`REHEARSAL`]. Then those
//! who wait for an answer get it, for [`PATIENCE`] at most. Whatever fails before exec leaves the supervisor as it was; a program that
//! fails after it leaves the services running, for the next `dkm` to take over.

use std::ffi::{CString, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};

use super::outlet::{Outlet, Showing};
use super::requests::{Doing, Wait, refuse};
use super::{LAST_WORDS, Supervisor, child, environment, logs, prepare, store};
use crate::control::Request;
use crate::control::server::Client;
use crate::home::Home;
use crate::os;

/// What a new program is told to show by that it can take over. No verb begins like this.
const REHEARSE: &str = "@rehearse";
/// What it is told to take over by.
const RESUME: &str = "@resume";
/// How long showing it may take.
const REHEARSAL: Duration = Duration::from_secs(10);
/// How long others may still wait for their answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// An upgrade under way.
#[derive(Debug)]
pub struct Upgrade {
    program: PathBuf,
    /// The process that shows that it can; none once it has.
    rehearsal: Option<i32>,
    /// The end of the present step.
    until: Instant,
}

impl Upgrade {
    /// When the present step ends in any case.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.until
    }
}

impl Supervisor {
    /// Begins to let another program take our place.
    pub(super) fn begin_upgrade(&mut self, request: &Request, now: Instant) -> Result<(), String> {
        if self.upgrade.is_some() {
            return Err("the supervisor is being replaced already".to_owned());
        }
        let named = request.program.as_ref().map_or_else(|| self.home.root().join("bin/dkm"), PathBuf::from);
        let begin = || -> Result<Upgrade> {
            let program = named.canonicalize().with_context(|| format!("cannot find the program {}", named.display()))?;
            let mut command = Command::new(&program);
            command.arg0("dkm").arg(REHEARSE).arg(self.home.root()).stdin(Stdio::null()).stdout(Stdio::null());
            let log = std::fs::OpenOptions::new().append(true).create(true).open(self.home.supervisor_log());
            command.stderr(log.context("cannot open the supervisor's log")?);
            environment::forget_manager(&mut command);
            os::leave_terminal(&mut command);
            let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
            let rehearsal = Some(i32::try_from(child.id()).context("cannot use its PID")?);
            Ok(Upgrade { program, rehearsal, until: now + REHEARSAL })
        };
        self.upgrade = Some(begin().map_err(|error| format!("{error:#}"))?);
        Ok(())
    }

    /// A child has ended; whether it was the one that shows whether it can take over.
    pub(super) fn rehearsal_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.rehearsal == Some(pid)) else { return false };
        upgrade.rehearsal = None;
        upgrade.until = Instant::now() + PATIENCE;
        if !status.success() {
            let text = format!(
                "{} cannot take over: it {}. What it said is in {}",
                upgrade.program.display(),
                child::describe(status),
                self.home.supervisor_log().display()
            );
            self.give_up_upgrade(&text);
        }
        true
    }

    fn give_up_upgrade(&mut self, why: &str) {
        self.upgrade = None;
        self.announce(None, &format!("the supervisor stays: {why}"));
        for (client, doing) in &mut self.clients {
            if matches!(doing, Doing::Upgrading) {
                *doing = Doing::Nothing;
                refuse(client, why.to_owned());
            }
        }
    }

    /// Does the next step of an upgrade, if it is time.
    pub(super) fn go_on_upgrading(&mut self, now: Instant) {
        let Some(upgrade) = &self.upgrade else { return };
        if let Some(pid) = upgrade.rehearsal {
            if now >= upgrade.until {
                os::signal_group(pid, Signal::SIGKILL);
                let text = format!("{} has not shown in time that it can take over", upgrade.program.display());
                self.give_up_upgrade(&text);
            }
            return;
        }
        let others = self.clients.iter().any(|(_, doing)| doing.is_waiting());
        if !others || now >= upgrade.until {
            let program = upgrade.program.clone();
            // It only comes back if it did not work.
            if let Err(error) = self.become_program(&program) {
                self.give_up_upgrade(&format!("{error:#}"));
                for at in 0..self.units.len() {
                    self.resume(at, now);
                }
            }
        }
    }

    fn become_program(&mut self, program: &Path) -> Result<()> {
        self.units.iter_mut().for_each(|unit| unit.carry(&mut self.buffer));
        self.stored(false).write(&self.home)?;
        self.note(&format!("becoming {}", program.display()));
        // Programs that ask are ended; the new one asks again.
        for unit in &mut self.units {
            unit.probing = None;
            unit.health = None;
            unit.output.reopen();
            unit.output.end_line();
        }
        self.outlet.finish(LAST_WORDS);
        let asking =
            self.clients.iter().find(|(_, doing)| matches!(doing, Doing::Upgrading)).map(|(client, _)| client.stream());
        let asking = asking.map(AsRawFd::as_raw_fd);
        let kept = [Some(self.lock.as_raw_fd()), Some(self.listener.as_raw_fd()), self.keeper.pipe(), asking];
        let told = kept.iter().map(|fd| fd.unwrap_or(-1)).chain([self.outlet.showing().number()]);
        let numbers: Vec<String> = told.map(|number| number.to_string()).collect();
        let numbers = numbers.join(",");
        let root = self.home.root().as_os_str().as_bytes();
        let arguments = [b"dkm".as_slice(), RESUME.as_bytes(), root, numbers.as_bytes()];
        let arguments = arguments.map(CString::new).into_iter().collect::<Result<Vec<_>, _>>()?;
        let path = CString::new(program.as_os_str().as_bytes())?;
        let keep = |keep: bool| kept.iter().flatten().for_each(|fd| os::keep_on_exec(&os::borrow(*fd), keep));
        keep(true);
        // A signal that came while nobody can take it would end us; so it waits.
        let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK);
        let error = nix::unistd::execv(&path, &arguments);
        let _ = before.map(|mask| mask.thread_set_mask());
        keep(false);
        Err(error.err().unwrap_or(nix::errno::Errno::UnknownErrno)).with_context(|| format!("cannot run {}", program.display()))
    }
}

/// Does what this program was started for, if it was by a supervisor that it shall replace.
#[must_use]
pub fn help(arguments: &[OsString]) -> Option<ExitCode> {
    let done = match arguments {
        [_, word, root] if word == REHEARSE => rehearse(Path::new(root)),
        [_, word, root, numbers] if word == RESUME => resume(Path::new(root), &numbers.to_string_lossy()),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dkm: {error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Shows that this program understands the data folder.
fn rehearse(root: &Path) -> Result<()> {
    let home = Home::open(root)?;
    home.definitions()?;
    let stored = store::Stored::read(&home);
    ensure!(stored.v == 1, "cannot understand run/state.json");
    println!("{}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Goes on as the supervisor that this process was until now.
fn resume(root: &Path, numbers: &str) -> Result<()> {
    let signals = prepare()?;
    let home = Home::open(root)?;
    std::env::set_current_dir(home.run()).with_context(|| format!("cannot enter {}", home.run().display()))?;
    let mut inherited = numbers.split(',').map(|number| number.parse().ok().and_then(os::inherited));
    let mut next = |what: &str| inherited.next().flatten().with_context(|| format!("cannot find {what} where it was left"));
    let lock = std::fs::File::from(next("the supervisor's lock")?);
    let same = |one: &std::fs::Metadata, other: &std::fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    let there = std::fs::metadata(home.supervisor_lock()).context("cannot look at the supervisor's lock")?;
    ensure!(same(&lock.metadata()?, &there), "cannot take over: what was left is not the supervisor's lock");
    let listener = UnixListener::from(next("the control socket")?);
    listener.set_nonblocking(true)?;
    // The keeper lives until we hold the FIFOs.
    let keepers_pipe = next("the keeper");
    let client = next("the client").ok().map(UnixStream::from);
    // Before anything is looked at: whose end was told to nobody yet.
    let ended: Vec<(i32, ExitStatus)> = std::iter::from_fn(os::reap).collect();
    let mut keeper = logs::keeper::Keeper::default();
    let held = keeper.take_over(&home)?;
    let outlet = Outlet::open(Showing::of_number(numbers.split(',').nth(4)))?;
    let mut supervisor = Supervisor::new(home, signals, lock, listener, outlet)?;
    supervisor.keeper = keeper;
    drop((held, keepers_pipe));
    let text = format!("supervisor {} has taken over, process {}", supervisor.me.version, supervisor.me.pid);
    supervisor.announce(None, &text);
    supervisor.adopt(&ended);
    if let Some(stream) = client {
        stream.set_nonblocking(true)?;
        supervisor.clients.push((Client::inherited(stream), Doing::Nothing));
        supervisor.finish(0, Wait::default(), false);
    }
    supervisor.go()
}
