//! What clients ask: begun, waited for, answered. What is asked goes on when the client goes away.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::events::Follower;
use super::state::{Event, Next, State};
use super::unit::Unit;
use super::{Supervisor, usage};
use crate::control::server::Client;
use crate::control::{Change, Problem, Reply, Request, Status, Until, Verb};
use crate::os;
use crate::service::StopSignal;

/// How long `wait` waits when it is not told.
const WAIT: Duration = Duration::from_secs(60);

/// What a client is there for.
#[derive(Debug)]
pub(super) enum Doing {
    /// Its request is not here yet, or it has its answer.
    Nothing,
    /// It waits for services to arrive somewhere.
    Waiting(Wait),
    /// It is told what happens.
    Following(Follower),
    /// It waits for another program to take our place.
    Upgrading,
}

impl Doing {
    /// When there has to be an answer in any case.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if let Self::Waiting(wait) = self { wait.by } else { None }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}

/// What a client waits for, and what it is to be told beside that.
#[derive(Debug, Default)]
pub(super) struct Wait {
    targets: Vec<Target>,
    problems: Vec<Problem>,
    pub(super) changes: Vec<Change>,
    began: Option<Instant>,
    by: Option<Instant>,
}

/// Where a service is to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Ready, because it was asked to start.
    Up,
    /// Stopped, because it was asked to stop.
    Down,
    /// What `wait` says: nobody asked for anything.
    When(Until),
    /// Where it is.
    Here,
}

/// One service that a client waits for.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) unit: usize,
    goal: Goal,
    /// What the client was last told.
    shown: &'static str,
    /// How it ended, once it has: a problem or none.
    outcome: Option<Option<String>>,
}

impl Wait {
    pub(super) fn add(&mut self, units: &[Unit], at: usize, goal: Goal) {
        // Of a start everything is told, of the rest only what changes.
        let shown = if goal == Goal::Up { "" } else { units[at].word() };
        self.targets.push(Target { unit: at, goal, shown, outcome: None });
    }

    pub(super) fn problem(&mut self, service: &str, message: impl Into<String>) {
        self.problems.push(Problem { service: service.to_owned(), message: message.into() });
    }

    /// Whether it is about a service.
    pub(super) fn is_about(&self, at: usize) -> bool {
        self.targets.iter().any(|target| target.unit == at)
    }

    /// A service has another place now.
    pub(super) fn follow(&mut self, new_place: &[usize]) {
        self.targets.iter_mut().for_each(|target| target.unit = new_place[target.unit]);
    }
}

impl Supervisor {
    /// Does what a client asks, or begins to.
    pub(super) fn obey(&mut self, at: usize, request: &Request, now: Instant) {
        let begun = self.prepare(request).and_then(|()| match request.verb {
            Verb::Events => self.follow(at, request).map(|()| None),
            Verb::UpgradeSelf => self.begin_upgrade(request, now).map(|()| {
                self.clients[at].1 = Doing::Upgrading;
                None
            }),
            _ => self.begin(request, now).map(Some),
        });
        match begun {
            Ok(None) => {}
            Ok(Some(mut wait)) => {
                let bound = request.verb == Verb::Wait;
                let timeout = request.timeout_ms.map(Duration::from_millis).or(bound.then_some(WAIT));
                wait.by = timeout.and_then(|timeout| now.checked_add(timeout));
                wait.began = Some(now);
                if request.wait || bound {
                    self.clients[at].1 = Doing::Waiting(wait);
                } else {
                    self.settle(now);
                    self.finish(at, wait, request.usage);
                }
            }
            Err(message) => refuse(&mut self.clients[at].0, message),
        }
    }

    /// Whether a request can be met; reads definitions anew where that is what it is about.
    fn prepare(&mut self, request: &Request) -> Result<(), String> {
        let begins = matches!(request.verb, Verb::Start | Verb::Restart | Verb::Update | Verb::UpgradeSelf);
        if self.closing && begins {
            return Err("the supervisor is shutting down: ask again when it has ended".to_owned());
        }
        if begins && let Some(moved) = self.home.moved() {
            return Err(moved);
        }
        if matches!(request.verb, Verb::Start | Verb::Restart) {
            self.refresh().map_err(|error| format!("{error:#}"))?;
        }
        // What is new in the files is known to these once they have read them.
        if matches!(request.verb, Verb::Reread | Verb::Update) {
            return Ok(());
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

    /// The services that a request names.
    fn named(&self, request: &Request) -> Vec<usize> {
        let named = |unit: &Unit| request.services.is_empty() || request.services.iter().any(|name| unit.answers_to(name));
        (0..self.units.len()).filter(|&at| named(&self.units[at])).collect()
    }

    fn begin(&mut self, request: &Request, now: Instant) -> Result<Wait, String> {
        let mut wait = Wait::default();
        let named = self.named(request);
        match request.verb {
            Verb::Start => self.start(request, &mut wait, now),
            Verb::Stop => self.bring_down(named, &Next::Rest, &mut wait),
            Verb::Restart => self.bring_down(named, &Next::Start, &mut wait),
            Verb::Shutdown => {
                self.close_down();
                named.iter().for_each(|&unit| wait.add(&self.units, unit, Goal::Down));
            }
            Verb::Signal => {
                let name = request.signal.clone().ok_or("which signal is to be sent?")?;
                let signal = StopSignal::try_from(name).map_err(|error| error.to_string())?.0;
                named.iter().for_each(|&unit| self.send(unit, signal, &mut wait));
            }
            Verb::Reload => {
                if request.services.is_empty() {
                    return Err("which services are to read their configuration again? Name them".to_owned());
                }
                named.iter().for_each(|&unit| self.reload(unit, &mut wait));
            }
            Verb::Wait => named.iter().for_each(|&unit| wait.add(&self.units, unit, Goal::When(request.until))),
            Verb::Clear => named.iter().for_each(|&unit| {
                self.units[unit].output.clear();
                wait.add(&self.units, unit, Goal::Here);
            }),
            Verb::ReopenLogs => {
                named.iter().for_each(|&unit| self.units[unit].output.reopen());
                if request.services.is_empty() {
                    self.log.close();
                }
                named.iter().for_each(|&unit| wait.add(&self.units, unit, Goal::Here));
            }
            Verb::Reread => {
                wait.changes = self.differences(&request.services).map_err(|error| format!("{error:#}"))?;
            }
            Verb::Update => self.update(&request.services, &mut wait, now).map_err(|error| format!("{error:#}"))?,
            Verb::Status | Verb::Events | Verb::UpgradeSelf => {
                named.iter().for_each(|&unit| wait.add(&self.units, unit, Goal::Here));
            }
        }
        Ok(wait)
    }

    /// Starts what is named, and what that requires.
    fn start(&mut self, request: &Request, wait: &mut Wait, now: Instant) {
        let starts = |unit: &Unit| match request.services.as_slice() {
            [] => unit.service.enabled,
            names => names.iter().any(|name| unit.starts_by(name)),
        };
        let mut targets: Vec<usize> = (0..self.units.len()).filter(|&at| starts(&self.units[at])).collect();
        let mut at = 0;
        while let Some(&target) = targets.get(at) {
            let more: Vec<usize> = self.units[target].requires.iter().copied().filter(|unit| !targets.contains(unit)).collect();
            targets.extend(more);
            at += 1;
        }
        for target in targets {
            let unit = &mut self.units[target];
            let name = unit.service.name.clone();
            if let Some(broken) = &unit.broken {
                wait.problems.push(Problem { service: name, message: broken.clone() });
                // What is in force from before may run on, and is not made anew by a file that is not good.
                if unit.service.command.is_empty() || unit.state.process().is_none() {
                    continue;
                }
            }
            // What has to be stopped because its file is gone is not started again.
            if !unit.removed {
                unit.pending = None;
            }
            self.drive(target, Event::Start, now);
            wait.add(&self.units, target, Goal::Up);
        }
    }

    /// Starts everything that is enabled, asked by nobody.
    pub(super) fn start_all(&mut self, now: Instant) {
        let mut wait = Wait::default();
        self.start(&Request::new(Verb::Start, &[]), &mut wait, now);
        for problem in wait.problems {
            self.announce(Some(&problem.service), &problem.message);
        }
    }

    /// Stops or restarts services, and those that cannot do without them.
    fn bring_down(&mut self, mut targets: Vec<usize>, next: &Next, wait: &mut Wait) {
        let named = targets.len();
        let mut at = 0;
        while let Some(&target) = targets.get(at) {
            let more: Vec<usize> = (0..self.units.len())
                .filter(|&other| self.units[other].requires.contains(&target) && !targets.contains(&other))
                .filter(|&other| !self.units[other].is_stopped())
                .collect();
            targets.extend(more);
            at += 1;
        }
        for (at, target) in targets.into_iter().enumerate() {
            let unit = &mut self.units[target];
            let starts_again = *next == Next::Start;
            if starts_again
                && at < named
                && let Some(broken) = unit.broken.clone()
            {
                // Stopped it could not be started again.
                wait.problem(&unit.service.name, broken);
                continue;
            }
            // A restart of all leaves alone what is not enabled and does not run.
            if starts_again && unit.is_stopped() && !unit.service.enabled && named > 1 {
                continue;
            }
            unit.pending = Some(next.clone());
            wait.add(&self.units, target, if starts_again { Goal::Up } else { Goal::Down });
        }
    }

    fn send(&mut self, at: usize, signal: Signal, wait: &mut Wait) {
        let name = self.units[at].service.name.clone();
        match self.units[at].state {
            State::Stopping { leader_gone: true, .. } => wait.problem(&name, "its first process has ended"),
            _ => match self.units[at].state.process() {
                Some(process) if os::signal_process(process.pid, signal) => {
                    self.announce(Some(&name), &format!("was sent {signal}"));
                    wait.add(&self.units, at, Goal::Here);
                }
                _ => wait.problem(&name, "does not run"),
            },
        }
    }

    fn reload(&mut self, at: usize, wait: &mut Wait) {
        match self.units[at].service.reload_signal {
            Some(signal) => self.send(at, signal.0, wait),
            None => {
                let name = self.units[at].service.name.clone();
                let text = format!(
                    "knows no signal for that (its definition has no reload-signal); `dkm restart {name}` makes it read its \
                     configuration"
                );
                wait.problem(&name, text);
            }
        }
    }

    fn follow(&mut self, at: usize, request: &Request) -> Result<(), String> {
        let names = || self.named(request).into_iter().map(|unit| self.units[unit].service.name.clone());
        let services: Vec<String> = if request.services.is_empty() { Vec::new() } else { names().collect() };
        let past: Vec<_> = self.events.about(&services).cloned().collect();
        let (client, doing) = &mut self.clients[at];
        for event in past {
            client.send(&Reply::Event { event });
        }
        if request.follow {
            *doing = Doing::Following(Follower::new(services));
        } else {
            self.finish(at, Wait::default(), false);
        }
        Ok(())
    }

    pub(super) fn reopen_logs(&mut self) {
        self.units.iter_mut().for_each(|unit| unit.output.reopen());
        self.log.close();
    }

    /// Tells those who wait what has changed, and answers those whose time has come.
    pub(super) fn answer(&mut self, now: Instant) {
        for at in 0..self.clients.len() {
            if !self.clients[at].1.is_waiting() {
                continue;
            }
            let Doing::Waiting(mut wait) = std::mem::replace(&mut self.clients[at].1, Doing::Nothing) else { continue };
            for target in &mut wait.targets {
                let unit = &self.units[target.unit];
                if target.outcome.is_none() {
                    target.outcome = self.outcome(target);
                }
                if target.shown != unit.word() {
                    target.shown = unit.word();
                    let service = self.status(target.unit, now);
                    self.clients[at].0.send(&Reply::Progress { service });
                }
            }
            if wait.by.is_some_and(|by| now >= by) {
                self.run_out(&mut wait, now);
            }
            if wait.targets.iter().all(|target| target.outcome.is_some()) {
                self.finish(at, wait, false);
            } else {
                self.clients[at].1 = Doing::Waiting(wait);
            }
        }
    }

    /// Its time is over: what has not arrived is a problem.
    fn run_out(&self, wait: &mut Wait, now: Instant) {
        let waited = wait.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began)).as_secs_f64();
        for target in wait.targets.iter_mut().filter(|target| target.outcome.is_none()) {
            let status = self.status(target.unit, now);
            let reason = status.reason.map_or_else(String::new, |reason| format!(": {reason}"));
            target.outcome = Some(Some(format!("is {} after {waited:.1} s{reason}", status.state)));
        }
    }

    /// Whether a service has arrived where a client wants it: none, not yet; some, a problem or none.
    fn outcome(&self, target: &Target) -> Option<Option<String>> {
        let unit = &self.units[target.unit];
        if target.goal == Goal::Here {
            return Some(None);
        }
        if unit.pending.is_some() {
            return None;
        }
        if let Goal::When(until) = target.goal {
            let there = match until {
                Until::Ready => unit.state.serves(),
                Until::Stopped => unit.is_stopped(),
                Until::Settled => unit.is_stopped() || unit.state.serves() || !unit.state.promising() && unit.state.wanted(),
            };
            return there.then_some(None);
        }
        match (target.goal, &unit.state) {
            (Goal::Up, state) if state.serves() => Some(None),
            (Goal::Up, State::Starting { late: true, .. }) => {
                let reason = unit.reason().unwrap_or_default();
                Some(Some(format!("runs, and is not ready after {} s: it {reason}", unit.service.ready_timeout_s)))
            }
            (Goal::Up, State::Waiting) => self.blocked(target.unit).map(Some),
            (Goal::Up, State::Stopped { reason: None }) => Some(Some("was stopped by another command".to_owned())),
            (Goal::Down, State::Stopped { reason: None } | State::Exited { .. }) => Some(None),
            (Goal::Down, State::Running { .. } | State::Starting { .. }) => {
                Some(Some("was started by another command".to_owned()))
            }
            (_, state) => state.trouble().map(|trouble| Some(trouble.to_owned())),
        }
    }

    /// Why a service that waits will wait for long: one that it cannot do without is in trouble.
    fn blocked(&self, at: usize) -> Option<String> {
        let unit = &self.units[at];
        let mut stuck = unit.requires.iter().map(|&other| &self.units[other]).filter(|other| {
            let underway = other.pending == Some(Next::Start) || other.pending.is_none() && other.state.promising();
            !underway && !other.state.serves()
        });
        let other = stuck.next()?;
        let reason = other.reason().map_or_else(String::new, |reason| format!(": {reason}"));
        Some(format!("requires {}, which is {}{reason}", other.service.name, other.word()))
    }

    /// A service as others see it, with what only its neighbours tell.
    pub(super) fn status(&self, at: usize, now: Instant) -> Status {
        let mut status = self.units[at].status(now);
        if self.units[at].state == State::Waiting {
            status.reason = self.blocked(at).or_else(|| {
                let waiting = |&&other: &&usize| !self.units[other].state.serves();
                let names: Vec<&str> = self.units[at]
                    .before
                    .iter()
                    .filter(waiting)
                    .map(|&other| self.units[other].service.name.as_str())
                    .collect();
                (!names.is_empty()).then(|| format!("waits for {}", names.join(", ")))
            });
        }
        status
    }

    pub(super) fn finish(&mut self, at: usize, wait: Wait, with_usage: bool) {
        let now = Instant::now();
        let mut services: Vec<Status> = wait.targets.iter().map(|target| self.status(target.unit, now)).collect();
        if with_usage {
            let leaders: Vec<Option<i32>> = services.iter().map(|status| status.pid).collect();
            for (status, usage) in services.iter_mut().zip(usage::of_families(&leaders)) {
                status.usage = status.pid.map(|_| usage);
            }
        }
        let mut problems = wait.problems;
        problems.extend(wait.targets.iter().filter_map(|target| {
            let message = target.outcome.clone().flatten()?;
            Some(Problem { service: self.units[target.unit].service.name.clone(), message })
        }));
        let mut supervisor = self.me.clone();
        supervisor.problems = self.own_problems();
        let (client, _) = &mut self.clients[at];
        client.send(&Reply::Done { supervisor, services, problems, changes: wait.changes });
        client.finish();
    }

    /// What is wrong with the supervisor itself.
    fn own_problems(&self) -> Vec<String> {
        self.store_problem.iter().cloned().chain(self.home.moved()).collect()
    }
}

/// Says no.
pub(super) fn refuse(client: &mut Client, message: String) {
    client.send(&Reply::Error { message });
    client.finish();
}
