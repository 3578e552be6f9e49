//! One service under supervision: its definition, its state, and what belongs to its process.

use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;

use super::ear::Ear;
use super::health::Watching;
use super::logs::Output;
use super::notify::Ears;
use super::probe::{Probing, Surroundings};
use super::state::{Next, Policy, Process, State};
use super::{UNWATCHED, cgroup, child};
use crate::clock::now_unix;
use crate::control::{ChangeKind, Status};
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
    /// The definition in force.
    pub(super) service: Service,
    /// What comes into force once no process of the old one is left.
    pub(super) next_service: Option<Service>,
    /// How the file differs from what is in force, as far as that is known.
    pub(super) definition: Option<ChangeKind>,
    /// Why there is no definition by which it could be started.
    pub(super) broken: Option<String>,
    /// Whether it is forgotten once it has stopped.
    pub(super) removed: bool,
    /// The places of the services that it waits for.
    pub(super) before: Vec<usize>,
    /// The places of those among them that it cannot do without.
    pub(super) requires: Vec<usize>,
    pub(super) state: State,
    /// A stop that waits for those that come after this service: `Rest`, or `Start` for a restart.
    pub(super) pending: Option<Next>,
    /// How often it was restarted because it died, since the last start on request.
    pub(super) restarts: u32,
    pub(super) output: Output,
    pub(super) probing: Option<Probing>,
    pub(super) health: Option<Watching>,
    /// Where it tells of itself.
    pub(super) ears: Option<Ears>,
    /// Whether everybody was told that it is not well.
    told_ill: bool,
    /// What it last said of itself.
    says: Option<String>,
    /// Becomes readable when an adopted process ends; children of our own are reaped.
    pub(super) watch: Option<OwnedFd>,
    /// When to look again whether anything of the group is left.
    pub(super) look_at: Option<Instant>,
    /// Its control group, if it has one.
    pub(super) group: Option<PathBuf>,
    /// Processes outside the group that were asked to end already.
    pub(super) asked: Vec<i32>,
    /// While a stop waits for the service to read what it was sent.
    drain: Option<Drain>,
    /// When an adopted process that cannot be watched is looked at.
    pub(super) unwatched_at: Option<Instant>,
    /// Since when it is in its state, by the clock on the wall.
    pub(super) since: u64,
}

impl Unit {
    pub(super) fn new(home: &Home, service: Service) -> Result<Self> {
        let name = &service.name;
        let output = Output::open(&home.service_output(name), &home.log(name), service.log.clone())?;
        Ok(Self {
            service,
            next_service: None,
            definition: None,
            broken: None,
            removed: false,
            before: Vec::new(),
            requires: Vec::new(),
            state: State::Stopped { reason: None },
            pending: None,
            restarts: 0,
            output,
            probing: None,
            health: None,
            ears: None,
            told_ill: false,
            says: None,
            watch: None,
            look_at: None,
            group: None,
            asked: Vec::new(),
            drain: None,
            unwatched_at: None,
            since: now_unix(),
        })
    }

    /// Whether a request names it.
    pub(super) fn answers_to(&self, name: &str) -> bool {
        name == "all" || self.service.answers_to(name)
    }

    /// Whether a request to start names it: "all" and patterns leave out what is not enabled.
    pub(super) fn starts_by(&self, name: &str) -> bool {
        if name == "all" { self.service.enabled } else { self.service.starts_by(name) }
    }

    pub(super) fn policy(&self, jitter: u8) -> Policy {
        let service = &self.service;
        Policy {
            stop_timeout: Duration::from_secs(service.stop_timeout_s.into()),
            ready_timeout: Duration::from_secs(service.ready_timeout_s.into()),
            restart: service.restart,
            first_pause: service.restart_pause_s.0,
            longest_pause: service.restart_longest_pause_s.0,
            good_run: service.good_run_s.0,
            jitter,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped { .. } | State::Exited { .. })
    }

    /// Whether it is, or will be, on its way down.
    pub(super) fn going_down(&self) -> bool {
        self.pending.is_some() && self.state.process().is_some() || matches!(self.state, State::Stopping { .. })
    }

    pub(super) fn leads(&self, pid: i32) -> bool {
        self.state.process().is_some_and(|process| process.pid == pid && !process.adopted)
    }

    /// Makes its process. What its probes and its health check need is made ready before.
    ///
    /// # Errors
    /// In words fit for `status`.
    pub(super) fn launch(&mut self, home: &Home, delegated: Option<&Path>, now: Instant) -> Result<Process> {
        anyhow::ensure!(!self.service.command.is_empty(), "{}", self.broken.as_deref().unwrap_or("nothing defines it"));
        self.asked.clear();
        self.look_at = None;
        self.says = None;
        self.output.set_policy(self.service.log.clone());
        self.listen(home)?;
        self.probing = Some(Probing::new(&self.service.probes, self.surroundings(home)?, now)?);
        let writer = self.output.writer()?;
        let path = self.ears.is_some().then(|| home.service_notify(&self.service.name));
        let made = delegated.map(|below| cgroup::make(below, &self.service.name)).transpose();
        let (group, procs) = made.context("cannot make its control group")?.unzip();
        self.group = group;
        child::launch(home, &self.service, &writer, path.as_deref(), procs)
    }

    /// Listens to what the service may say.
    pub(super) fn listen(&mut self, home: &Home) -> Result<()> {
        self.output.listen(Ear::new(self.service.awaited_texts()));
        self.ears = None;
        if self.service.notifies() {
            self.ears = Some(Ears::open(&home.service_notify(&self.service.name))?);
        }
        Ok(())
    }

    fn surroundings(&self, home: &Home) -> Result<Surroundings> {
        child::surroundings(home, &self.service)
    }

    /// Begins to look whether it is well, if it is ready and somebody wants that.
    pub(super) fn begin_watching(&mut self, home: &Home, now: Instant) -> Result<()> {
        if let (State::Running { .. }, Some(health)) = (&self.state, &self.service.health) {
            self.health = Some(Watching::new(health, self.surroundings(home)?, now)?);
        }
        Ok(())
    }

    /// Asks a service that was taken over what it has not yet answered.
    pub(super) fn resume(&mut self, home: &Home, now: Instant) -> Result<()> {
        // Without probes there is nothing to ask: it has lived for long enough.
        if matches!(self.state, State::Starting { .. }) && !self.service.probes.is_empty() {
            self.probing = Some(Probing::new(&self.service.probes, self.surroundings(home)?, now)?);
        }
        self.begin_watching(home, now)
    }

    /// How it is not well, or none that it is well again, if nobody was told yet.
    pub(super) fn news_of_health(&mut self) -> Option<Option<String>> {
        let ill = self.health.as_ref().is_some_and(|health| health.ill().is_some());
        if ill == self.told_ill || self.health.is_none() {
            return None;
        }
        self.told_ill = ill;
        Some(self.ill().map(str::to_owned))
    }

    /// Takes in what the service has printed.
    pub(super) fn carry(&mut self, buffer: &mut [u8]) {
        self.output.carry(buffer);
        for number in self.output.heard() {
            self.hear(number);
        }
    }

    fn hear(&mut self, number: usize) {
        if number == Service::HEALTH {
            self.health.iter_mut().for_each(Watching::hear);
        } else if let Some(probing) = &mut self.probing {
            probing.hear(number);
            let late = matches!(self.state, State::Starting { late: true, .. });
            probing.go_on(false, late, Instant::now());
        }
    }

    /// Takes in what the service says of itself; whether `status` has to tell something new.
    pub(super) fn heed(&mut self) -> bool {
        let Some(said) = self.ears.as_ref().map(Ears::listen) else { return false };
        let notify = |probe: &crate::service::Probe| probe.question == crate::service::Question::Notify;
        if said.ready {
            let numbers: Vec<usize> = (0..self.service.probes.len()).filter(|&at| notify(&self.service.probes[at])).collect();
            numbers.into_iter().for_each(|number| self.hear(number));
        }
        if said.alive && self.service.health.as_ref().is_some_and(|health| notify(&health.probe)) {
            self.hear(Service::HEALTH);
        }
        let news = said.status.is_some() && said.status != self.says;
        if news {
            self.says = said.status.filter(|text| !text.is_empty());
        }
        news
    }

    /// A child has ended that was asked something for this service; whether there was one.
    pub(super) fn asked_child_ended(&mut self, pid: i32, status: ExitStatus, now: Instant) -> bool {
        if self.probing.as_mut().is_some_and(|probing| probing.child_ended(pid, status)) {
            self.ask(true, now);
            return true;
        }
        if let Some(health) = &mut self.health
            && health.child_ended(pid, status)
        {
            health.go_on(true, now);
            return true;
        }
        false
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
        let probing = self.probing.as_ref().filter(|probing| !probing.passed()).and_then(Probing::deadline);
        let health = self.health.as_ref().map(Watching::deadline);
        let drain = self.drain.as_ref().map(|drain| drain.look_at);
        let output = self.output.deadline();
        [self.state.deadline(&self.policy(0)), self.look_at, probing, health, self.unwatched_at, drain, output]
            .into_iter()
            .flatten()
            .min()
    }

    /// What a question that is being asked waits for.
    pub(super) fn asking(&self) -> Option<(RawFd, PollFlags)> {
        let probing = self.probing.as_ref().and_then(Probing::interest);
        probing.or_else(|| self.health.as_ref().and_then(Watching::interest))
    }

    /// Goes on with what is being asked. `woken`: there is an answer.
    pub(super) fn ask(&mut self, woken: bool, now: Instant) {
        if let State::Starting { late, process, .. } = self.state
            && let Some(probing) = &mut self.probing
        {
            // An adopted one may have said it while nobody listened.
            if late && process.adopted {
                probing.believe();
            }
            if woken || late || probing.deadline().is_some_and(|at| at <= now) {
                probing.go_on(woken, late, now);
            }
        }
        if let Some(health) = &mut self.health
            && (woken || health.deadline() <= now)
        {
            health.go_on(woken, now);
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

    /// Takes note of a new state; what there is to say about it when it is more than a detail.
    pub(super) fn changed(&mut self, before: &State) -> Option<String> {
        if !matches!(self.state, State::Starting { .. }) {
            self.probing = None;
        }
        if !matches!(self.state, State::Running { .. }) {
            self.health = None;
            self.told_ill = false;
        }
        if self.state.process().is_none() {
            self.watch = None;
            self.unwatched_at = None;
            self.look_at = None;
            self.says = None;
            self.group.take().iter().for_each(|group| cgroup::remove(group));
        }
        let late = matches!(self.state, State::Starting { late: true, .. });
        if self.state.word() == before.word() && !late {
            return None;
        }
        let found_ready = matches!(&self.state, State::Running { process, .. } if process.adopted);
        if !found_ready {
            self.since = now_unix();
        }
        Some(match &self.state {
            State::Starting { late: true, .. } => format!("not ready in time: {}", self.reason().unwrap_or_default()),
            State::Starting { process, .. } => format!("process {}", process.pid),
            State::BackingOff { until, reason, failures } => {
                let pause = until.saturating_duration_since(Instant::now()).as_secs_f64();
                format!("{reason}; failure {failures} in a row, next try in {pause:.1} s")
            }
            State::Stopped { reason: Some(reason) } | State::Exited { reason, .. } => reason.clone(),
            State::Stopping { next: Next::Retry { reason, .. }, leader_gone: false, .. } => reason.clone(),
            _ => String::new(),
        })
    }

    /// The word for its state in `status`.
    pub(super) fn word(&self) -> &'static str {
        if self.broken.is_some() && self.is_stopped() { "broken" } else { self.state.word() }
    }

    pub(super) fn reason(&self) -> Option<String> {
        match &self.state {
            State::Stopped { .. } | State::Exited { .. } if self.broken.is_some() => self.broken.clone(),
            State::Stopped { reason } => reason.clone(),
            State::Exited { reason, .. } => Some(reason.clone()),
            State::BackingOff { reason, .. } | State::Stopping { next: Next::Retry { reason, .. }, .. } => Some(reason.clone()),
            State::Starting { .. } => {
                Some(self.probing.as_ref().map_or_else(String::new, |probing| format!("waits for {}", probing.waits_for())))
            }
            State::Waiting => {
                let names: Vec<&str> = self.service.waits_for().collect();
                Some(format!("waits for {}", names.join(", ")))
            }
            _ => self.broken.clone(),
        }
    }

    /// How it is not well, as far as that is known.
    pub(super) fn ill(&self) -> Option<&str> {
        self.health.as_ref().and_then(Watching::ill)
    }

    pub(super) fn status(&self, now: Instant) -> Status {
        let process = self.state.process();
        let (next_try_ms, failures) = match &self.state {
            State::BackingOff { until, failures, .. } => {
                (u64::try_from(until.saturating_duration_since(now).as_millis()).ok(), *failures)
            }
            State::Starting { failures, .. } | State::Running { failures, .. } => (None, *failures),
            State::Stopping { next: Next::Retry { failures, .. }, .. } => (None, *failures),
            _ => (None, 0),
        };
        Status {
            name: self.service.name.clone(),
            state: self.word().to_owned(),
            pid: process.map(|process| process.pid),
            wanted: match &self.pending {
                Some(next) => *next == Next::Start,
                None => self.state.wanted(),
            },
            since: self.since,
            restarts: self.restarts,
            failures,
            next_try_ms,
            reason: self.reason(),
            adopted: process.is_some_and(|process| process.adopted),
            enabled: self.service.enabled,
            failed: matches!(self.state, State::Exited { failed: true, .. }),
            ill: self.ill().map(str::to_owned),
            says: self.says.clone(),
            definition: self.definition,
            usage: None,
            process_started: process.and_then(|process| process.started),
        }
    }
}
