//! One service under supervision: its definition, its state, and what belongs to its process.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::adopt::Found;
use super::logs::Output;
use super::probe::{self, Probing};
use super::state::{LAST_WAIT, Next, Policy, Process, State};
use super::{UNWATCHED, watch};
use crate::clock::now_unix;
use crate::control::{Status, Verb};
use crate::home::Home;
use crate::os;
use crate::service::{Port, Service};

/// How often the sockets of a service that is about to be stopped are looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// A stop that waits for sockets to be read.
#[derive(Debug)]
struct Drain {
    until: Instant,
    look_at: Instant,
    /// How many looks in a row found nothing.
    empty: u32,
}

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) service: Service,
    pub(super) state: State,
    /// A stop that waits for those that come after this service: `Rest`, or `Start` for a restart.
    pub(super) pending: Option<Next>,
    /// How often it was restarted because it died, since the last start on request.
    pub(super) restarts: u32,
    pub(super) output: Output,
    pub(super) probing: Option<Probing>,
    /// Becomes readable when an adopted process ends; children of our own are reaped.
    pub(super) watch: Option<OwnedFd>,
    /// When to look again whether anything of the group is left.
    pub(super) look_at: Option<Instant>,
    /// Processes outside the group that were asked to end already.
    pub(super) asked: Vec<i32>,
    /// While a stop waits for the service to read what it was sent.
    drain: Option<Drain>,
    /// When an adopted process that cannot be watched is looked at.
    unwatched_at: Option<Instant>,
    /// Since when it is in its state, by the clock on the wall.
    since: u64,
}

impl Unit {
    pub(super) fn new(home: &Home, service: Service) -> Result<Self> {
        probe::check(&service.probes).with_context(|| format!("cannot use the service {}", service.name))?;
        let name = &service.name;
        let output = Output::open(&home.service_output(name), &home.log(name), service.log.clone())?;
        Ok(Self {
            service,
            state: State::Stopped { reason: None },
            pending: None,
            restarts: 0,
            output,
            probing: None,
            watch: None,
            look_at: None,
            asked: Vec::new(),
            drain: None,
            unwatched_at: None,
            since: now_unix(),
        })
    }

    pub(super) fn answers_to(&self, name: &str) -> bool {
        name == "all" || self.service.answers_to(name)
    }

    pub(super) fn policy(&self, jitter: u8) -> Policy {
        Policy {
            stop_timeout: Duration::from_secs(self.service.stop_timeout_s.into()),
            ready_timeout: Duration::from_secs(self.service.ready_timeout_s.into()),
            jitter,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped { .. })
    }

    /// Whether it is, or will be, on its way down.
    pub(super) fn going_down(&self) -> bool {
        self.pending.is_some() && self.state.process().is_some() || matches!(self.state, State::Stopping { .. })
    }

    pub(super) fn leads(&self, pid: i32) -> bool {
        self.state.process().is_some_and(|process| process.pid == pid && !process.adopted)
    }

    /// Whether a stop has to wait, because the service has not yet read what the system has accepted for it. Its stop signal makes
    /// it close its sockets, and what is in them is lost. Two looks in a row have to find nothing, and the wait is bounded.
    pub(super) fn has_to_drain(&mut self, now: Instant) -> bool {
        let patience = Duration::from_secs(self.service.drain_timeout_s.into());
        if patience.is_zero() || !matches!(self.state, State::Starting { .. } | State::Running { .. }) {
            self.drain = None;
            return false;
        }
        let drain = self.drain.get_or_insert(Drain { until: now + patience, look_at: now, empty: 0 });
        if now >= drain.look_at {
            let unread = |port: &Port| os::unread_bytes(port.number().ok()?, &port.protocols);
            let unread: u64 = self.service.ports.iter().filter_map(unread).sum();
            drain.empty = if unread == 0 { drain.empty + 1 } else { 0 };
            drain.look_at = now + DRAIN_LOOK;
        }
        let over = drain.empty >= 2 || now >= drain.until;
        if over {
            self.drain = None;
        }
        !over
    }

    /// Whether all probes have passed and nobody has said so yet.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Starting { .. }) && self.probing.as_ref().is_none_or(Probing::passed)
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let probing = self.probing.as_ref().filter(|probing| !probing.passed()).map(Probing::deadline);
        let drain = self.drain.as_ref().map(|drain| drain.look_at);
        let output = self.output.deadline();
        [self.state.deadline(&self.policy(0)), self.look_at, probing, self.unwatched_at, drain, output]
            .into_iter()
            .flatten()
            .min()
    }

    /// Goes on with the probes. `woken`: one of them has an answer.
    pub(super) fn ask(&mut self, woken: bool, now: Instant) {
        let State::Starting { late, .. } = self.state else { return };
        if let Some(probing) = &mut self.probing
            && (woken || probing.deadline() <= now)
        {
            probing.go_on(woken, late, now);
        }
    }

    /// Whether an adopted process that cannot be watched has ended.
    pub(super) fn unwatched_end(&mut self) -> bool {
        let Some(process) = self.state.process().filter(|_| self.unwatched_at.is_some()) else { return false };
        self.unwatched_at = Some(Instant::now() + UNWATCHED);
        let ended = os::start_time(process.pid) != process.started;
        if ended {
            self.unwatched_at = None;
        }
        ended
    }

    /// Sends a signal to the whole group, and CONT after it: a stopped process hears nothing else.
    pub(super) fn send(&self, signal: Signal) {
        if let Some(process) = self.state.process() {
            os::signal_group(process.pid, signal);
            os::signal_group(process.pid, Signal::SIGCONT);
        }
    }

    /// Sends a signal to single processes that are not in the group.
    pub(super) fn send_each(&self, pids: &[i32], signal: Signal) {
        let group = self.state.process().map(|process| process.pid);
        for &pid in pids.iter().filter(|&&pid| os::group_of(pid) != group) {
            os::signal_process(pid, signal);
            os::signal_process(pid, Signal::SIGCONT);
        }
    }

    /// Takes note of a new state; a line for the log when it is more than a detail.
    pub(super) fn changed(&mut self, before: &State) -> Option<String> {
        if !matches!(self.state, State::Starting { .. }) {
            self.probing = None;
        }
        if self.state.process().is_none() {
            self.watch = None;
            self.unwatched_at = None;
            self.look_at = None;
        }
        let late = matches!(self.state, State::Starting { late: true, .. });
        if self.state.word() == before.word() && !late {
            return None;
        }
        let found_ready = matches!(&self.state, State::Running { process, .. } if process.adopted);
        if !found_ready {
            self.since = now_unix();
        }
        let name = &self.service.name;
        let detail = match &self.state {
            State::Starting { late: true, .. } => format!(", not ready in time: {}", self.reason().unwrap_or_default()),
            State::Starting { process, .. } => format!(", process {}", process.pid),
            State::BackingOff { until, reason, failures } => {
                let pause = until.saturating_duration_since(Instant::now()).as_secs_f64();
                format!(", {reason}; failure {failures} in a row, next try in {pause:.1} s")
            }
            State::Stopped { reason: Some(reason) } => format!(", {reason}"),
            _ => String::new(),
        };
        Some(format!("{name}: {}{detail}", self.state.word()))
    }

    pub(super) fn word(&self) -> &'static str {
        self.state.word()
    }

    fn reason(&self) -> Option<String> {
        match &self.state {
            State::Stopped { reason } => reason.clone(),
            State::BackingOff { reason, .. } | State::Stopping { next: Next::Retry { reason, .. }, .. } => Some(reason.clone()),
            State::Starting { .. } => {
                Some(self.probing.as_ref().map_or_else(String::new, |probing| format!("waits for {}", probing.waits_for())))
            }
            State::Waiting => Some(format!("waits for {}", self.service.after.join(", "))),
            _ => None,
        }
    }

    pub(super) fn status(&self, now: Instant) -> Status {
        let process = self.state.process();
        let next_try_ms = match &self.state {
            State::BackingOff { until, .. } => u64::try_from(until.saturating_duration_since(now).as_millis()).ok(),
            _ => None,
        };
        Status {
            name: self.service.name.clone(),
            state: self.state.word().to_owned(),
            pid: process.map(|process| process.pid),
            wanted: self.state.wanted() && self.pending != Some(Next::Rest),
            since: self.since,
            restarts: self.restarts,
            next_try_ms,
            reason: self.reason(),
            adopted: process.is_some_and(|process| process.adopted),
            enabled: self.service.enabled,
            process_started: process.and_then(|process| process.started),
            ..Status::default()
        }
    }

    /// Whether a client that asked for `verb` has its answer: none, not yet; some, a problem or none.
    pub(super) fn outcome(&self, verb: Verb) -> Option<Option<String>> {
        if self.pending.is_some() {
            return None;
        }
        if let Some(trouble) = self.state.trouble() {
            return Some(Some(trouble.to_owned()));
        }
        match (verb, &self.state) {
            (Verb::Start | Verb::Restart, State::Running { .. }) => Some(None),
            (Verb::Start | Verb::Restart, State::Starting { late: true, .. }) => {
                let reason = self.reason().unwrap_or_default();
                Some(Some(format!("runs, and is not ready after {} s: it {reason}", self.service.ready_timeout_s)))
            }
            (Verb::Start | Verb::Restart, State::Stopped { .. }) => Some(Some("was stopped by another command".to_owned())),
            (Verb::Stop | Verb::Shutdown, State::Stopped { .. }) => Some(None),
            (Verb::Stop, State::Running { .. } | State::Starting { .. }) => {
                Some(Some("was started by another command".to_owned()))
            }
            _ => None,
        }
    }

    /// Becomes what an earlier supervisor left; a line for the log when that is anything.
    /// `since`: since when it is as it is, where that is known.
    pub(super) fn take_over(&mut self, found: Found, since: Option<u64>, now: Instant) -> Option<String> {
        let name = self.service.name.clone();
        match found {
            Found::Nothing => None,
            Found::Missed => {
                let reason = "died while there was no supervisor".to_owned();
                let line = format!("{name}: {reason}");
                self.state = State::BackingOff { until: now, failures: 1, reason };
                Some(line)
            }
            Found::Alive(process) => {
                self.watch = watch(process.pid);
                // It may have ended, and its number gone to another, between the look and the watch.
                if os::start_time(process.pid) != process.started {
                    self.watch = None;
                    return self.take_over(Found::Missed, None, now);
                }
                self.unwatched_at = self.watch.is_none().then(|| now + UNWATCHED);
                // Without probes there is nothing to ask: it has lived for long enough.
                self.probing = Probing::new(&self.service.probes, now).ok().filter(|_| !self.service.probes.is_empty());
                self.since = since.unwrap_or(self.since);
                self.state = State::Starting { process, since: now, failures: 0, late: false };
                Some(format!("{name}: adopted process {}", process.pid))
            }
            Found::Rest { group, wanted } => {
                let process = Process { pid: group, started: None, adopted: true };
                let reason = "died while there was no supervisor, and left processes behind".to_owned();
                let line = format!("{name}: {reason}");
                let next = if wanted { Next::Retry { failures: 1, reason } } else { Next::Rest };
                let until = now + self.policy(0).stop_timeout.min(LAST_WAIT);
                self.state = State::Stopping { process, leader_gone: true, until, killed: false, next };
                Some(line)
            }
        }
    }
}
