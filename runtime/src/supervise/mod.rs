//! The supervisor: one process for one data folder, one thread, one loop. (In the foreground there is a second thread, which only
//! writes what was said to standard output: [`outlet`].)
//!
//! The loop waits in poll(2) for signals, requests, output of services, answers to probes and the end of adopted processes, and
//! until the earliest deadline; with nothing of these it does not wake up at all. Each round it
//!
//! 1. takes in what happened (events),
//! 2. settles: carries [`state::step`] on until nothing follows any more ([`Supervisor::settle`]),
//! 3. writes `run/state.json` if anything changed (at most every 20 ms), and tells those who wait.
//!
//! **One supervisor**: it holds `run/supervisor.lock`, which its services do not inherit; a second one ends at once.
//!
//! **Its own death** (kill -9, out of memory) stops no service: they hold their own locks ([`child`]) and write into FIFOs that do
//! not break ([`logs`]). The next supervisor adopts those that live, restarts those that were meant to run and died meanwhile, and
//! makes no second copy of any ([`adopt`]). A new program takes its place without that ([`upgrade`]).
//!
//! TERM, INT and QUIT stop all services and then the supervisor. HUP applies changed definitions ([`changes`]). USR1 makes the
//! control socket anew. USR2 opens all logs anew.
//!
//! **Above it** may be systemd ([`systemd`]) or, in a container, nobody: whatever process is given to it as a child is reaped.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::clock::{now_unix, utc};
use crate::control::SupervisorStatus;
use crate::control::server::{self, Client};
use crate::home::Home;
use crate::os;
use crate::service::LogPolicy;

mod act;
pub mod adopt;
pub mod cgroup;
pub mod changes;
pub mod child;
pub mod ear;
pub mod environment;
pub mod events;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod notify;
pub mod outlet;
pub mod probe;
mod requests;
mod settle;
pub mod state;
pub mod store;
pub mod systemd;
mod unit;
pub mod upgrade;
pub mod usage;

use outlet::{Outlet, Showing};
use requests::Doing;
use state::{Event, Next, State};
use unit::Unit;

/// The supervisor's own log: two files of this many bytes.
const OWN_LOG: LogPolicy = LogPolicy { max_bytes: 1_000_000, keep: 1, ..LogPolicy::DEFAULT };

/// `run/state.json` is not written more often: a thousand services that start at once are not a thousand files.
const STORE_GAP: Duration = Duration::from_millis(20);

/// It takes no more than this part of the time.
const STORE_SHARE: u32 = 10;

/// When what could not be written is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// How an adopted process is looked at when the system cannot tell of its end.
const UNWATCHED: Duration = Duration::from_secs(1);

/// How long the listener is left alone when no descriptor is left for who wants in.
const CROWDED: Duration = Duration::from_millis(100);

/// How long a slow reader of what is printed is waited for at the end.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Memory is given back no more often than this, unless clients were here: what is used all the time is soon there again.
const REST_GAP: Duration = Duration::from_secs(1);

/// The signals that mean something to us.
const SIGNALS: [Signal; 7] =
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// The supervisor and everything it knows.
#[derive(Debug)]
pub struct Supervisor {
    home: Home,
    units: Vec<Unit>,
    clients: Vec<(Client, Doing)>,
    listener: UnixListener,
    /// Until when nobody is let in, because no descriptor is left.
    crowded_until: Option<Instant>,
    signals: UnixStream,
    /// What makes us the only one; held as long as we live.
    lock: std::fs::File,
    log: logs::Log,
    outlet: Outlet,
    me: SupervisorStatus,
    boot: String,
    /// Our own control group, if services may have theirs below it.
    delegated: Option<std::path::PathBuf>,
    events: events::Memory,
    manager: systemd::Manager,
    metrics: metrics::Metrics,
    upgrade: Option<upgrade::Upgrade>,
    /// Whether the supervisor ends when all services have.
    closing: bool,
    /// Whether `run/state.json` is behind.
    dirty: bool,
    /// Before when it is not written again.
    store_at: Instant,
    /// Why it could not be written.
    store_problem: Option<String>,
    tidying: Tidying,
    keeper: logs::keeper::Keeper,
    /// Before when no wait is a rest.
    rest_at: Instant,
    /// For spreading pauses; no more random than that needs.
    seed: u64,
    buffer: Vec<u8>,
}

/// The compression of rotated logs.
#[derive(Debug, Default)]
struct Tidying {
    /// The process that does it.
    process: Option<i32>,
    /// Whether there is more to do than it knows of.
    due: bool,
}

/// What a polled descriptor belongs to.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Listener,
    Client(usize),
    Output(usize),
    Asking(usize),
    Ears(usize),
    Watch(usize),
    Metrics,
}

/// How a supervisor begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beginning {
    /// Whether every enabled service is started first, as systemd and containers want it. Else it starts none by itself.
    pub start: bool,
    /// Whether what services print is printed too.
    pub forward: bool,
}

/// Runs the supervisor of a data folder until it is told to end.
///
/// # Errors
/// When it cannot begin: a folder that cannot be written.
pub fn run(home: Home, beginning: Beginning) -> Result<()> {
    let showing = Showing::wanted(&home, beginning.forward)?;
    let signals = prepare()?;
    let Some(lock) = lock(&home)? else {
        if std::io::stdout().is_terminal() {
            println!("another supervisor is at work for {}", home.root().display());
        }
        return Ok(());
    };
    // What it starts has to be of one version.
    crate::install::switch::complete(home.root())?;
    let mut keeper = logs::keeper::Keeper::default();
    let held = keeper.take_over(&home)?;
    let listener = server::listen()?;
    let mut supervisor = Supervisor::new(home, signals, lock, listener, Outlet::open(showing)?)?;
    supervisor.keeper = keeper;
    drop(held);
    supervisor.note(&format!("supervisor {} started, process {}", supervisor.me.version, supervisor.me.pid));
    supervisor.adopt(&[]);
    if beginning.start {
        supervisor.start_all(Instant::now());
    }
    supervisor.go()
}

/// What has to be so before anything else.
fn prepare() -> Result<UnixStream> {
    // What the supervisor and its services make is nobody else's business.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // First of all, so that no signal finds us unprepared once others know of us.
    let signals = os::catch_signals(&SIGNALS).context("cannot prepare for signals")?;
    os::become_subreaper();
    // Every service takes a few descriptors. Theirs are limited as ours were before.
    os::raise_open_files();
    Ok(signals)
}

/// The lock that makes us the only one. None: there is another.
fn lock(home: &Home) -> Result<Option<std::fs::File>> {
    std::fs::create_dir_all(home.run().join("log")).with_context(|| format!("cannot make {}", home.run().display()))?;
    std::env::set_current_dir(home.run()).with_context(|| format!("cannot enter {}", home.run().display()))?;
    let Some(lock) = child::lock(&home.supervisor_lock())? else { return Ok(None) };
    child::sign(&lock).with_context(|| format!("cannot write {}", home.supervisor_lock().display()))?;
    Ok(Some(lock))
}

/// Does what this program was started for by a supervisor and not by a user, if that is what the arguments say.
#[must_use]
pub fn help(arguments: &[OsString]) -> Option<ExitCode> {
    logs::help(arguments).or_else(|| upgrade::help(arguments))
}

impl Supervisor {
    fn new(home: Home, signals: UnixStream, lock: std::fs::File, listener: UnixListener, outlet: Outlet) -> Result<Self> {
        let me = SupervisorStatus {
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: now_unix(),
            problems: Vec::new(),
        };
        let mut supervisor = Self {
            log: logs::Log::open(&home.supervisor_log(), OWN_LOG)?,
            outlet,
            listener,
            crowded_until: None,
            seed: me.since ^ u64::from(me.pid.unsigned_abs()) << 32 | 1,
            boot: os::boot_id(),
            delegated: cgroup::delegated(),
            home,
            units: Vec::new(),
            clients: Vec::new(),
            signals,
            lock,
            me,
            events: events::Memory::default(),
            manager: systemd::Manager::find(Instant::now()),
            metrics: metrics::Metrics::default(),
            upgrade: None,
            closing: false,
            dirty: true,
            store_at: Instant::now(),
            store_problem: None,
            tidying: Tidying::default(),
            keeper: logs::keeper::Keeper::default(),
            rest_at: Instant::now(),
            buffer: vec![0; 64 * 1024],
        };
        supervisor.load()?;
        if let Err(error) = supervisor.configure(Instant::now()) {
            supervisor.note(&format!("{error:#}"));
        }
        Ok(supervisor)
    }

    fn note(&mut self, line: &str) {
        self.log.note(&format!("{} {line}", utc(now_unix())));
        self.outlet.say(line);
    }

    /// Remembers what happened, and tells who follows.
    fn tell(&mut self, event: crate::control::Event) {
        for (client, doing) in &mut self.clients {
            if let Doing::Following(follower) = doing {
                follower.tell(client, &event);
            }
        }
        self.events.keep(event);
    }

    /// A line in our log that is an event as well.
    fn announce(&mut self, service: Option<&str>, text: &str) {
        self.note(&service.map_or_else(|| text.to_owned(), |service| format!("{service}: {text}")));
        self.tell(events::said(service, text));
    }

    /// Works until the end, and ends in order.
    fn go(&mut self) -> Result<()> {
        self.manager.say("READY=1");
        let result = self.work();
        self.close();
        result
    }

    /// The loop.
    fn work(&mut self) -> Result<()> {
        // Before the answer to this is known something may already run.
        self.settle(Instant::now());
        self.tidying.due = logs::compress::is_due(&self.home.run().join("log"));
        loop {
            let now = Instant::now();
            self.settle(now);
            self.answer(now);
            self.forget_removed();
            self.store(now);
            self.tidy();
            self.keep(now);
            self.manager.live(now);
            self.measure(now);
            self.crowded_until = self.crowded_until.filter(|&until| until > now);
            self.go_on_upgrading(now);
            if self.closing && self.units.iter().all(Unit::is_stopped) {
                return Ok(());
            }
            self.clients.retain(|(client, _)| !client.is_over(now));
            for (source, flags) in self.wait()? {
                self.take_in(source, flags);
            }
        }
    }

    /// Waits until something happens, and says what.
    fn wait(&mut self) -> Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Signals];
        let mut fds = vec![PollFd::new(os::borrow(self.signals.as_raw_fd()), PollFlags::POLLIN)];
        let mut add = |source, (fd, flags)| {
            sources.push(source);
            fds.push(PollFd::new(os::borrow(fd), flags));
        };
        if self.crowded_until.is_none() {
            add(Source::Listener, (self.listener.as_raw_fd(), PollFlags::POLLIN));
        }
        for (at, (client, _)) in self.clients.iter().enumerate() {
            add(Source::Client(at), client.interest());
        }
        for (at, unit) in self.units.iter().enumerate() {
            if let Some(fd) = unit.output.fd() {
                add(Source::Output(at), (fd, PollFlags::POLLIN));
            }
            if let Some(interest) = unit.asking() {
                add(Source::Asking(at), interest);
            }
            if let Some(ears) = &unit.ears {
                add(Source::Ears(at), (ears.fd(), PollFlags::POLLIN));
            }
            if let Some(watch) = &unit.watch {
                add(Source::Watch(at), (watch.as_raw_fd(), PollFlags::POLLIN));
            }
        }
        if let Some(interest) = self.metrics.interest() {
            add(Source::Metrics, interest);
        }
        let (now, work) = (Instant::now(), self.next_work());
        let left = |at: Instant| at.saturating_duration_since(now);
        let wait = [work, self.metrics.deadline()].into_iter().flatten().min().map(left);
        // Nothing is due but, perhaps, a round of metrics: this may be a rest of days, once the last work is a moment ago.
        let idle = work.is_none() && self.clients.is_empty();
        let rest_in = idle.then(|| left(self.rest_at));
        let result = match wait.into_iter().chain(rest_in).min() {
            _ if rest_in.is_some_and(|rest_in| rest_in.is_zero()) => {
                self.rest_at = now + REST_GAP;
                os::rest(&mut fds, wait)
            }
            None => poll(&mut fds, PollTimeout::NONE).map(drop),
            // One more: poll counts in whole milliseconds, and to wake early is to wake twice.
            Some(wait) => {
                let millis = wait.as_micros().div_ceil(1_000);
                let timeout = PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX);
                poll(&mut fds, timeout).map(drop)
            }
        };
        match result {
            Ok(()) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(sources.into_iter().zip(events).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// The earliest time at which something is due without anything having happened, metrics aside.
    fn next_work(&self) -> Option<Instant> {
        let units = self.units.iter().filter_map(Unit::deadline);
        let clients = self.clients.iter().flat_map(|(client, doing)| [client.deadline(), doing.deadline()]).flatten();
        let upgrade = self.upgrade.as_ref().map(upgrade::Upgrade::deadline);
        let own = [self.dirty.then_some(self.store_at), self.crowded_until, self.manager.deadline(), upgrade];
        let keeper = self.keeper.deadline().filter(|_| self.units.iter().any(|unit| unit.state.process().is_some()));
        units.chain(clients).chain(own.into_iter().flatten()).chain(keeper).min()
    }

    fn take_in(&mut self, source: Source, flags: PollFlags) {
        let now = Instant::now();
        match source {
            Source::Signals => self.take_signals(now),
            Source::Listener => {
                // Much is used for a client that is seldom needed.
                self.rest_at = now;
                let (new, crowded) = server::accept(&self.listener, self.clients.len(), now);
                self.crowded_until = crowded.then(|| now + CROWDED);
                self.clients.extend(new.into_iter().map(|client| (client, Doing::Nothing)));
            }
            Source::Client(at) => {
                let (client, _) = &mut self.clients[at];
                if flags.contains(PollFlags::POLLOUT) {
                    client.write();
                }
                let request = client.read();
                if flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                    client.hang_up();
                }
                if let Some(request) = request {
                    self.obey(at, &request, now);
                }
            }
            Source::Output(at) => self.units[at].carry(&mut self.buffer),
            Source::Asking(at) => self.units[at].ask(true, now),
            Source::Metrics => self.metrics.go_on(),
            Source::Ears(at) => self.dirty |= self.units[at].heed(),
            Source::Watch(at) => {
                self.units[at].watch = None;
                self.drive(at, unseen_end(), now);
            }
        }
    }

    fn take_signals(&mut self, now: Instant) {
        for signal in os::noted_signals(&self.signals) {
            match signal {
                Signal::SIGCHLD => self.reap(now),
                Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => {
                    self.announce(None, &format!("{signal}: stopping everything"));
                    self.close_down();
                }
                Signal::SIGUSR1 => match server::listen() {
                    Ok(listener) => {
                        self.listener = listener;
                        self.note("made the control socket anew");
                    }
                    Err(error) => self.note(&format!("{error:#}")),
                },
                Signal::SIGUSR2 => {
                    self.reopen_logs();
                    self.note("opened all logs anew");
                }
                Signal::SIGHUP => self.update_by_signal(now),
                _ => {}
            }
        }
    }

    fn reap(&mut self, now: Instant) {
        while let Some((pid, status)) = os::reap() {
            self.ended(pid, status, now);
        }
    }

    /// A child has ended: a service's first process, one that asked something, or an orphan that came to us.
    fn ended(&mut self, pid: i32, status: ExitStatus, now: Instant) {
        if self.tidying.process == Some(pid) {
            self.tidying.process = None;
        } else if self.keeper.has_ended(pid) {
            if !self.closing {
                self.note(&format!("the keeper of logs, process {pid}, {}", child::describe(status)));
            }
        } else if let Some(at) = self.units.iter().position(|unit| unit.leads(pid)) {
            self.units[at].carry(&mut self.buffer);
            self.units[at].output.end_line();
            let how = child::describe(status);
            self.note(&format!("{}: process {pid} {how}", self.units[at].service.name));
            self.drive(at, Event::Ended { how, failed: !status.success() }, now);
        } else if !self.rehearsal_ended(pid, status) {
            let _ = self.units.iter_mut().any(|unit| unit.asked_child_ended(pid, status, now));
        }
        // Whoever still looks for the rest of a group may have what it waits for.
        for at in 0..self.units.len() {
            if self.units[at].look_at.is_some() {
                self.drive(at, Event::Tick, now);
            }
        }
    }

    fn close_down(&mut self) {
        self.closing = true;
        self.manager.say("STOPPING=1");
        for unit in &mut self.units {
            if !unit.is_stopped() {
                unit.pending = Some(Next::Rest);
            }
        }
    }

    fn random(&mut self) -> u8 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed.to_le_bytes()[3]
    }

    fn store(&mut self, now: Instant) {
        if !self.dirty || now < self.store_at {
            return;
        }
        self.dirty = false;
        self.manager.tell(self.in_one_line());
        let written = self.stored(false).write(&self.home);
        // With thousands of services it takes its time; others have most of it.
        self.store_at = now + STORE_GAP.max(now.elapsed() * STORE_SHARE);
        match written {
            Ok(()) => self.store_problem = None,
            Err(error) => {
                // Once is enough to say, and tried it is until it goes.
                let problem = format!("{error:#}");
                if self.store_problem.as_ref() != Some(&problem) {
                    self.note(&problem);
                }
                self.store_problem = Some(problem);
                self.dirty = true;
                self.store_at = now + STORE_AGAIN;
            }
        }
    }

    /// What the services do, for the manager above us.
    fn in_one_line(&self) -> String {
        if !self.manager.listens() {
            return String::new();
        }
        let running = self.units.iter().filter(|unit| matches!(unit.state, State::Running { .. })).count();
        let mut out = format!("{running} of {} services run", self.units.len());
        for unit in &self.units {
            let trouble = unit.ill().map(|_| "not well").or_else(|| unit.state.trouble().map(|_| unit.word()));
            if let Some(trouble) = trouble {
                out += &format!(", {} is {trouble}", unit.service.name);
            }
        }
        out
    }

    fn stored(&self, closed: bool) -> store::Stored {
        let now = Instant::now();
        store::Stored {
            v: 1,
            boot: self.boot.clone(),
            closed,
            supervisor: self.me.clone(),
            services: self.units.iter().map(|unit| unit.status(now)).collect(),
        }
    }

    /// The end in order: everything has stopped.
    fn close(&mut self) {
        let closed = self.units.iter().all(Unit::is_stopped);
        let _ = self.stored(closed).write(&self.home);
        let _ = std::fs::remove_file(crate::control::SOCKET);
        self.keeper.dismiss();
        self.note("supervisor ended");
        // Answers are short and mostly sent; who does not read them does not hold us up for long.
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end && self.clients.iter().any(|(client, _)| !client.is_over(Instant::now())) {
            for (client, _) in &mut self.clients {
                client.write();
            }
            self.clients.retain(|(client, doing)| doing.is_waiting() && !client.is_over(Instant::now()));
            std::thread::sleep(Duration::from_millis(1));
        }
        self.outlet.finish(LAST_WORDS);
    }

    /// Takes over what an earlier supervisor left. `ended`: children of ours that have ended since then.
    fn adopt(&mut self, ended: &[(i32, ExitStatus)]) {
        let stored = store::Stored::read(&self.home);
        let now = Instant::now();
        for at in 0..self.units.len() {
            let name = self.units[at].service.name.clone();
            let known = stored.known(&name, &self.boot);
            let end = ended.iter().find(|(pid, _)| known.is_some_and(|known| known.pid == Some(*pid)));
            let found = match end {
                Some(&(pid, _)) => adopt::Found::Alive(state::Process { pid, started: None, adopted: false }),
                None => adopt::look(&self.home, &name, &stored, &self.boot),
            };
            let line = self.units[at].take_over(found, known, now);
            if let Some(line) = line {
                self.announce(Some(&name), &line);
                self.resume(at, now);
            }
            if let Some(&(pid, status)) = end {
                self.ended(pid, status, now);
            }
            if matches!(self.units[at].state, State::Stopping { .. }) {
                self.drive(at, Event::Tick, now);
            }
        }
    }

    /// Listens and looks again for a service that was taken over.
    fn resume(&mut self, at: usize, now: Instant) {
        let unit = &mut self.units[at];
        let result =
            unit.state.process().map_or(Ok(()), |_| unit.listen(&self.home)).and_then(|()| unit.resume(&self.home, now));
        if let Err(error) = result {
            let name = unit.service.name.clone();
            self.announce(Some(&name), &format!("{error:#}"));
        }
    }
}

/// The end of a process that was not our child: how it ended nobody knows.
fn unseen_end() -> Event {
    Event::Ended { how: "ended".to_owned(), failed: true }
}
