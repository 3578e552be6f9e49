//! The supervisor: one process for one data folder, one thread, one loop.
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
//! makes no second copy of any.
//!
//! TERM and INT stop all services and then the supervisor. USR1 makes the control socket anew. HUP is noted and nothing more.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::clock::{now_unix, utc};
use crate::control::server::{self, Client};
use crate::control::{Problem, Reply, Request, SupervisorStatus, Verb};
use crate::home::Home;
use crate::os;
use crate::service::LogPolicy;

pub mod adopt;
pub mod child;
pub mod logs;
pub mod probe;
pub mod state;
pub mod store;
mod unit;

use state::{Action, Event, LOOK_AGAIN, Next, State};
use unit::Unit;

/// The supervisor's own log: two files of this many bytes.
const OWN_LOG: LogPolicy = LogPolicy { max_bytes: 1_000_000, keep: 1, ..LogPolicy::DEFAULT };

/// `run/state.json` is not written more often: a thousand services that start at once are not a thousand files.
const STORE_GAP: Duration = Duration::from_millis(20);

/// How an adopted process is looked at when the system cannot tell of its end.
const UNWATCHED: Duration = Duration::from_secs(1);

/// The supervisor and everything it knows.
#[derive(Debug)]
pub struct Supervisor {
    home: Home,
    units: Vec<Unit>,
    clients: Vec<(Client, Option<Wait>)>,
    listener: UnixListener,
    signals: UnixStream,
    log: logs::Log,
    me: SupervisorStatus,
    boot: String,
    /// Whether the supervisor ends when all services have.
    closing: bool,
    /// Whether `run/state.json` is behind.
    dirty: bool,
    /// Before when it is not written again.
    store_at: Instant,
    tidying: Tidying,
    keeper: logs::keeper::Keeper,
    /// Whether code was used since the last rest that is seldom needed.
    rested: bool,
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

/// A client that waits for services to arrive somewhere.
#[derive(Debug)]
struct Wait {
    verb: Verb,
    targets: Vec<Target>,
}

/// One service that a client waits for.
#[derive(Debug)]
struct Target {
    unit: usize,
    /// What the client was last told.
    shown: &'static str,
    /// How it ended, once it has: a problem or none.
    outcome: Option<Option<String>>,
}

/// What a polled descriptor belongs to.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Listener,
    Client(usize),
    Output(usize),
    Probe(usize),
    Watch(usize),
}

/// Runs the supervisor of a data folder until it is told to end.
///
/// # Errors
/// When it cannot begin: services that cannot be used, a folder that cannot be written.
pub fn run(home: Home) -> Result<()> {
    // What the supervisor and its services make is nobody else's business.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // First of all, so that no signal finds us unprepared once others know of us.
    let signals = os::catch_signals(&[Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGHUP])
        .context("cannot prepare for signals")?;
    let Some(lock) = lock(&home)? else {
        if std::io::stdout().is_terminal() {
            println!("another supervisor is at work for {}", home.root().display());
        }
        return Ok(());
    };
    // What it starts has to be of one version.
    crate::install::switch::complete(home.root())?;
    os::become_subreaper();
    let mut keeper = logs::keeper::Keeper::default();
    let held = keeper.take_over(&home)?;
    let mut supervisor = Supervisor::new(home, signals)?;
    supervisor.keeper = keeper;
    drop(held);
    supervisor.note(&format!("supervisor {} started, process {}", supervisor.me.version, supervisor.me.pid));
    supervisor.adopt();
    let result = supervisor.work();
    supervisor.close();
    drop(lock);
    result
}

/// The lock that makes us the only one. None: there is another.
fn lock(home: &Home) -> Result<Option<std::fs::File>> {
    std::fs::create_dir_all(home.run().join("log")).with_context(|| format!("cannot make {}", home.run().display()))?;
    std::env::set_current_dir(home.run()).with_context(|| format!("cannot enter {}", home.run().display()))?;
    let Some(lock) = child::lock(&home.supervisor_lock())? else { return Ok(None) };
    let number = format!("{}\n", std::process::id());
    lock.set_len(0).and_then(|()| std::io::Write::write_all(&mut &lock, number.as_bytes()))?;
    Ok(Some(lock))
}

impl Supervisor {
    fn new(home: Home, signals: UnixStream) -> Result<Self> {
        let units = home.services()?.into_iter().map(|service| Unit::new(&home, service)).collect::<Result<Vec<_>>>()?;
        let me = SupervisorStatus {
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: now_unix(),
            problems: Vec::new(),
        };
        Ok(Self {
            log: logs::Log::open(&home.supervisor_log(), OWN_LOG)?,
            listener: server::listen()?,
            seed: me.since ^ u64::from(me.pid.unsigned_abs()) << 32 | 1,
            boot: os::boot_id(),
            home,
            units,
            clients: Vec::new(),
            signals,
            me,
            closing: false,
            dirty: true,
            store_at: Instant::now(),
            tidying: Tidying::default(),
            keeper: logs::keeper::Keeper::default(),
            rested: false,
            buffer: vec![0; 64 * 1024],
        })
    }

    fn note(&mut self, line: &str) {
        self.log.note(&format!("{} {line}", utc(now_unix())));
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
            self.store(now);
            self.tidy();
            self.keep(now);
            if self.closing && self.units.iter().all(Unit::is_stopped) {
                return Ok(());
            }
            self.clients.retain(|(client, _)| !client.is_over(now));
            // Nothing is due: this may be a rest of days.
            if !self.rested && self.clients.is_empty() && self.deadline().is_none() {
                self.rested = true;
                os::forget_code();
            }
            for (source, flags) in self.wait()? {
                self.take_in(source, flags);
            }
        }
    }

    /// Waits until something happens, and says what.
    fn wait(&self) -> Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds = vec![
            PollFd::new(os::borrow(self.signals.as_raw_fd()), PollFlags::POLLIN),
            PollFd::new(os::borrow(self.listener.as_raw_fd()), PollFlags::POLLIN),
        ];
        let mut add = |source, (fd, flags)| {
            sources.push(source);
            fds.push(PollFd::new(os::borrow(fd), flags));
        };
        for (at, (client, _)) in self.clients.iter().enumerate() {
            add(Source::Client(at), client.interest());
        }
        for (at, unit) in self.units.iter().enumerate() {
            if let Some(fd) = unit.output.fd() {
                add(Source::Output(at), (fd, PollFlags::POLLIN));
            }
            if let Some(interest) = unit.probing.as_ref().and_then(probe::Probing::interest) {
                add(Source::Probe(at), interest);
            }
            if let Some(watch) = &unit.watch {
                add(Source::Watch(at), (watch.as_raw_fd(), PollFlags::POLLIN));
            }
        }
        let timeout = match self.deadline() {
            None => PollTimeout::NONE,
            // One more: poll counts in whole milliseconds, and to wake early is to wake twice.
            Some(at) => {
                let millis = at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1_000);
                PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(sources.into_iter().zip(events).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// The earliest time at which something is due without anything having happened.
    fn deadline(&self) -> Option<Instant> {
        let units = self.units.iter().filter_map(Unit::deadline);
        let clients = self.clients.iter().filter_map(|(client, _)| client.deadline());
        let keeper = self.keeper.deadline().filter(|_| self.units.iter().any(|unit| unit.state.process().is_some()));
        units.chain(clients).chain(self.dirty.then_some(self.store_at)).chain(keeper).min()
    }

    fn take_in(&mut self, source: Source, flags: PollFlags) {
        let now = Instant::now();
        match source {
            Source::Signals => self.take_signals(now),
            Source::Listener => {
                self.rested = false;
                let new = server::accept(&self.listener, self.clients.len(), now);
                self.clients.extend(new.into_iter().map(|client| (client, None)));
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
            Source::Output(at) => self.units[at].output.carry(&mut self.buffer),
            Source::Probe(at) => self.units[at].ask(true, now),
            Source::Watch(at) => {
                self.units[at].watch = None;
                self.drive(at, Event::Ended("ended".to_owned()), now);
            }
        }
    }

    fn take_signals(&mut self, now: Instant) {
        for signal in os::noted_signals(&self.signals) {
            match signal {
                Signal::SIGCHLD => {
                    while let Some((pid, status)) = os::reap() {
                        self.ended(pid, &child::describe(status), now);
                    }
                }
                Signal::SIGTERM | Signal::SIGINT => {
                    self.note(&format!("{signal}: stopping everything"));
                    self.close_down();
                }
                Signal::SIGUSR1 => match server::listen() {
                    Ok(listener) => {
                        self.listener = listener;
                        self.note("made the control socket anew");
                    }
                    Err(error) => self.note(&format!("{error:#}")),
                },
                _ => {}
            }
        }
    }

    /// A child has ended: a service's first process, or an orphan that came to us.
    fn ended(&mut self, pid: i32, how: &str, now: Instant) {
        if self.tidying.process == Some(pid) {
            self.tidying.process = None;
        }
        if self.keeper.has_ended(pid) && !self.closing {
            self.note(&format!("the keeper of logs, process {pid}, {how}"));
        }
        let owner = self.units.iter().position(|unit| unit.leads(pid));
        if let Some(at) = owner {
            let unit = &mut self.units[at];
            unit.output.carry(&mut self.buffer);
            self.note(&format!("{}: process {pid} {how}", self.units[at].service.name));
            self.drive(at, Event::Ended(how.to_owned()), now);
        }
        // Whoever still looks for the rest of a group may have what it waits for.
        for at in 0..self.units.len() {
            if self.units[at].look_at.is_some() {
                self.drive(at, Event::Tick, now);
            }
        }
    }

    /// Has rotated logs compressed, by one process at a time.
    fn tidy(&mut self) {
        for unit in &mut self.units {
            self.tidying.due |= unit.output.has_rotated();
        }
        if self.tidying.due && self.tidying.process.is_none() {
            self.tidying.due = false;
            match logs::compress::start(&self.home) {
                Ok(pid) => self.tidying.process = Some(pid),
                Err(error) => self.note(&format!("{error:#}")),
            }
        }
    }

    /// Has somebody there who takes over the logs if we die, once there is anything to take over.
    fn keep(&mut self, now: Instant) {
        if self.units.iter().all(|unit| unit.state.process().is_none()) {
            return;
        }
        if let Err(error) = self.keeper.ensure(&self.home, now) {
            self.note(&format!("{error:#}"));
        }
    }

    /// Keeps what a service said before it died without having been asked to.
    fn report(&mut self, at: usize, how: &str) {
        let unit = &self.units[at];
        let (State::Starting { process, .. } | State::Running { process, .. }) = &unit.state else { return };
        let name = &unit.service.name;
        let crash = logs::crash::Crash { service: name, pid: process.pid, how };
        match unit.output.report(&self.home.crashes(), crash) {
            Ok(Some(path)) => self.note(&format!("{name}: its last lines are in {}", path.display())),
            Ok(None) => {}
            Err(error) => self.note(&format!("{error:#}")),
        }
    }

    fn close_down(&mut self) {
        self.closing = true;
        for unit in &mut self.units {
            if !unit.is_stopped() {
                unit.pending = Some(Next::Rest);
            }
        }
    }

    /// Carries everything on until nothing follows any more.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut changed = false;
            for at in 0..self.units.len() {
                changed |= self.settle_one(at, now);
            }
            if !changed {
                return;
            }
        }
    }

    fn settle_one(&mut self, at: usize, now: Instant) -> bool {
        if self.units[at].output.deadline().is_some_and(|due| due <= now) {
            self.units[at].output.tick(&mut self.buffer);
        }
        let before = self.units[at].state.clone();
        let pending = self.units[at].pending.is_some();
        if pending && !self.must_outlive_others(at) && !self.units[at].has_to_drain(now) {
            let next = self.units[at].pending.take();
            self.drive(at, if next == Some(Next::Start) { Event::Restart } else { Event::Stop }, now);
        }
        if self.units[at].state == State::Waiting && !self.has_to_wait(at) {
            self.drive(at, Event::Clear, now);
        }
        if self.units[at].deadline().is_some_and(|due| due <= now) {
            self.units[at].ask(false, now);
            if self.units[at].unwatched_end() {
                self.drive(at, Event::Ended("ended".to_owned()), now);
            }
            self.drive(at, Event::Tick, now);
        }
        if self.units[at].is_ready() {
            self.drive(at, Event::Ready, now);
        }
        self.units[at].state != before || pending != self.units[at].pending.is_some()
    }

    /// Whether a service that is asked to stop has to run on, because others that come after it are still on their way down.
    fn must_outlive_others(&self, at: usize) -> bool {
        let name = &self.units[at].service.name;
        self.units.iter().any(|other| other.going_down() && other.service.after.contains(name))
    }

    /// Whether a service that should start has to wait for another one.
    fn has_to_wait(&self, at: usize) -> bool {
        self.units[at].service.after.iter().any(|name| {
            let unit = self.units.iter().find(|unit| unit.service.name == *name);
            unit.is_some_and(|unit| match &unit.pending {
                Some(next) => *next == Next::Start,
                None => unit.state.promising(),
            })
        })
    }

    /// Gives a service an event, carries out what follows, and the events that follow from that.
    fn drive(&mut self, at: usize, event: Event, now: Instant) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if let Event::Ended(how) = &event {
                self.report(at, how);
            }
            let jitter = self.random();
            let unit = &mut self.units[at];
            let before = std::mem::replace(&mut unit.state, State::Waiting);
            let (after, actions) = state::step(before.clone(), event, now, &unit.policy(jitter));
            unit.state = after;
            if unit.state != before {
                self.dirty = true;
                if let Some(line) = unit.changed(&before) {
                    self.note(&line);
                }
            }
            for action in actions {
                events.extend(self.act(at, action, now));
            }
        }
    }

    fn random(&mut self) -> u8 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed.to_le_bytes()[3]
    }

    fn act(&mut self, at: usize, action: Action, now: Instant) -> Option<Event> {
        match action {
            Action::Launch => Some(self.launch(at, now)),
            Action::AskToStop => {
                self.units[at].send(self.units[at].service.stop_signal.0);
                None
            }
            Action::Send(signal) => {
                let rest = self.leftovers(at);
                self.units[at].send(signal);
                self.units[at].send_each(&rest, signal);
                None
            }
            Action::Look => {
                if !matches!(self.units[at].state, State::Stopping { leader_gone: true, .. }) {
                    return None;
                }
                let rest = self.leftovers(at);
                let unit = &mut self.units[at];
                unit.look_at = (!rest.is_empty()).then(|| now + LOOK_AGAIN);
                // Those that left the group did not hear the signal that it got.
                let new: Vec<i32> = rest.iter().copied().filter(|pid| !unit.asked.contains(pid)).collect();
                unit.asked.extend(&new);
                unit.send_each(&new, Signal::SIGTERM);
                rest.is_empty().then_some(Event::Gone)
            }
            Action::LookForTheLast => {
                let rest = self.leftovers(at);
                self.units[at].look_at = None;
                if rest.is_empty() {
                    return Some(Event::Gone);
                }
                let list: Vec<String> = rest.iter().map(ToString::to_string).collect();
                Some(Event::Survived(format!("outlived KILL: process {}", list.join(", "))))
            }
        }
    }

    /// The living processes of a service, its first one included: its group, and those that left it.
    fn leftovers(&self, at: usize) -> Vec<i32> {
        let unit = &self.units[at];
        let Some(process) = unit.state.process() else { return Vec::new() };
        let mut out = if os::group_exists(process.pid) { os::group_members(process.pid) } else { Vec::new() };
        let root = self.home.root().to_string_lossy();
        let tag = os::Tag { data: &root, service: &unit.service.name };
        // What we started comes to us when its parent ends; what another supervisor started may be anywhere.
        let among = (!process.adopted).then(|| {
            let mut leaders: Vec<i32> = self.units.iter().filter_map(|unit| Some(unit.state.process()?.pid)).collect();
            leaders.sort_unstable();
            os::children().into_iter().filter(|pid| leaders.binary_search(pid).is_err()).collect()
        });
        out.extend(os::tagged(tag, among));
        out.sort_unstable();
        out.dedup();
        out
    }

    fn launch(&mut self, at: usize, now: Instant) -> Event {
        let unit = &mut self.units[at];
        let again = matches!(unit.state, State::BackingOff { .. });
        unit.restarts = if again { unit.restarts + 1 } else { 0 };
        unit.asked.clear();
        unit.look_at = None;
        unit.output.set_policy(unit.service.log.clone());
        let launched = unit.output.writer().and_then(|writer| child::launch(&self.home, &unit.service, &writer));
        match launched {
            Ok(process) => match probe::Probing::new(&unit.service.probes, now) {
                Ok(probing) => {
                    unit.probing = Some(probing);
                    Event::Launched(process)
                }
                // The definitions were checked when they were read.
                Err(error) => {
                    os::signal_group(process.pid, Signal::SIGKILL);
                    Event::NotLaunched(format!("{error:#}"))
                }
            },
            Err(error) => Event::NotLaunched(format!("{error:#}")),
        }
    }

    /// Does what a client asks, or begins to.
    fn obey(&mut self, at: usize, request: &Request, now: Instant) {
        let waits = request.wait && matches!(request.verb, Verb::Start | Verb::Stop | Verb::Restart | Verb::Shutdown);
        if let Err(message) = self.prepare(request) {
            let (client, _) = &mut self.clients[at];
            client.send(&Reply::Error { message });
            client.finish();
            return;
        }
        let targets: Vec<usize> = if request.services.is_empty() {
            (0..self.units.len()).collect()
        } else {
            (0..self.units.len())
                .filter(|&unit| request.services.iter().any(|name| self.units[unit].answers_to(name)))
                .collect()
        };
        match request.verb {
            Verb::Status => {}
            Verb::Shutdown => self.close_down(),
            Verb::Start => {
                for &unit in &targets {
                    self.units[unit].pending = None;
                    self.drive(unit, Event::Start, now);
                }
            }
            Verb::Stop | Verb::Restart => {
                let next = if request.verb == Verb::Stop { Next::Rest } else { Next::Start };
                for &unit in &targets {
                    self.units[unit].pending = Some(next.clone());
                }
            }
            Verb::Clear => targets.iter().for_each(|&unit| self.units[unit].output.clear()),
            Verb::ReopenLogs => targets.iter().for_each(|&unit| self.units[unit].output.reopen()),
            _ => {}
        }
        // Of a start everything is told, of a stop only what changes.
        let shown = |unit: usize| if request.verb == Verb::Start { "" } else { self.units[unit].word() };
        let targets = targets.into_iter().map(|unit| Target { unit, shown: shown(unit), outcome: None }).collect();
        let wait = Wait { verb: request.verb, targets };
        if waits {
            self.clients[at].1 = Some(wait);
        } else {
            self.settle(now);
            self.finish(at, &wait);
        }
    }

    /// Whether a request can be met; reads definitions anew where that is what it is about.
    fn prepare(&mut self, request: &Request) -> Result<(), String> {
        if matches!(
            request.verb,
            Verb::Signal | Verb::Reload | Verb::Wait | Verb::Reread | Verb::Update | Verb::Events | Verb::UpgradeSelf
        ) {
            return Err("this supervisor does not know how to do that".to_owned());
        }
        if self.closing && matches!(request.verb, Verb::Start | Verb::Restart) {
            return Err("the supervisor is shutting down: ask again when it has ended".to_owned());
        }
        if matches!(request.verb, Verb::Start | Verb::Restart) {
            self.refresh().map_err(|error| format!("{error:#}"))?;
        }
        let unknown: Vec<&str> = request
            .services
            .iter()
            .filter(|name| !self.units.iter().any(|unit| unit.answers_to(name)))
            .map(String::as_str)
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let known: Vec<&str> = self.units.iter().map(|unit| unit.service.name.as_str()).collect();
        Err(format!("there is no service {}. There are: {}", unknown.join(", ").escape_debug(), known.join(", ")))
    }

    /// Takes up new and changed definitions, of services that do not run.
    fn refresh(&mut self) -> Result<()> {
        for service in self.home.services()? {
            probe::check(&service.probes).with_context(|| format!("cannot use the service {}", service.name))?;
            match self.units.iter_mut().find(|unit| unit.service.name == service.name) {
                Some(unit) if unit.state.process().is_none() => unit.service = service,
                Some(_) => {}
                None => {
                    self.units.push(Unit::new(&self.home, service)?);
                    self.keeper.look_again();
                }
            }
        }
        Ok(())
    }

    /// Tells those who wait what has changed, and answers those whose time has come.
    fn answer(&mut self, now: Instant) {
        for at in 0..self.clients.len() {
            let Some(mut wait) = self.clients[at].1.take() else { continue };
            for target in &mut wait.targets {
                let unit = &self.units[target.unit];
                if target.outcome.is_none() {
                    target.outcome = unit.outcome(wait.verb);
                }
                if target.shown != unit.word() {
                    target.shown = unit.word();
                    self.clients[at].0.send(&Reply::Progress { service: unit.status(now) });
                }
            }
            if wait.targets.iter().all(|target| target.outcome.is_some()) {
                self.finish(at, &wait);
            } else {
                self.clients[at].1 = Some(wait);
            }
        }
    }

    fn finish(&mut self, at: usize, wait: &Wait) {
        let now = Instant::now();
        let services = wait.targets.iter().map(|target| self.units[target.unit].status(now)).collect();
        let problems = wait.targets.iter().filter_map(|target| {
            let message = target.outcome.clone().flatten()?;
            Some(Problem { service: self.units[target.unit].service.name.clone(), message })
        });
        let problems = problems.collect();
        let done = Reply::Done { supervisor: self.me.clone(), services, problems, changes: Vec::new() };
        let (client, _) = &mut self.clients[at];
        client.send(&done);
        client.finish();
    }

    fn store(&mut self, now: Instant) {
        if !self.dirty || now < self.store_at {
            return;
        }
        self.dirty = false;
        self.store_at = now + STORE_GAP;
        if let Err(error) = self.stored(false).write(&self.home) {
            self.note(&format!("{error:#}"));
        }
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
            self.clients.retain(|(client, wait)| wait.is_some() && !client.is_over(Instant::now()));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn adopt(&mut self) {
        let stored = store::Stored::read(&self.home);
        let now = Instant::now();
        for at in 0..self.units.len() {
            let found = adopt::look(&self.home, &self.units[at].service.name, &stored, &self.boot);
            let since = stored.service(&self.units[at].service.name).map(|status| status.since);
            if let Some(line) = self.units[at].take_over(found, since, now) {
                self.note(&line);
            }
            if matches!(self.units[at].state, State::Stopping { .. }) {
                self.drive(at, Event::Tick, now);
            }
        }
    }
}

/// A descriptor that tells of a process's end; none when the system gives none.
fn watch(pid: i32) -> Option<OwnedFd> {
    os::watch(pid).ok()
}
