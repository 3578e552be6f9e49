//! What the states ask for is done: processes are made and signalled, what they leave behind is found.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::adopt::{self, Found};
use super::state::{Action, Event, LOOK_AGAIN, Process, State};
use super::store::Stored;
use super::{Supervisor, cgroup, logs};
use crate::os;

impl Supervisor {
    /// Has rotated logs compressed, by one process at a time.
    pub(super) fn tidy(&mut self) {
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
    pub(super) fn keep(&mut self, now: Instant) {
        if self.units.iter().all(|unit| unit.state.process().is_none()) {
            return;
        }
        if let Err(error) = self.keeper.ensure(&self.home, now) {
            self.note(&format!("{error:#}"));
        }
    }

    /// Keeps what a service said before it died without having been asked to.
    pub(super) fn report(&mut self, at: usize, how: &str) {
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

    /// Does what a state asks for, and says what came of it.
    pub(super) fn act(&mut self, at: usize, action: Action, now: Instant) -> Option<Event> {
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
                if signal == Signal::SIGKILL {
                    self.units[at].group.iter().for_each(|group| cgroup::kill(group));
                }
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
        out.extend(unit.group.iter().flat_map(|group| cgroup::members(group)).filter(|&pid| os::start_time(pid).is_some()));
        out.sort_unstable();
        out.dedup();
        out
    }

    fn launch(&mut self, at: usize, now: Instant) -> Event {
        let unit = &mut self.units[at];
        let again = matches!(unit.state, State::BackingOff { .. });
        unit.restarts = if again { unit.restarts + 1 } else { 0 };
        match unit.launch(&self.home, self.delegated.as_deref(), now) {
            Ok(process) => Event::Launched(process),
            Err(error) => match self.overlooked(at, now) {
                Some(process) => Event::Launched(process),
                None => {
                    self.units[at].probing = None;
                    Event::NotLaunched(format!("{error:#}"))
                }
            },
        }
    }

    /// The process that keeps a service from being started, if it is one of its own: an earlier supervisor was killed between fork
    /// and exec, and nobody could tell its last child until it was the service.
    fn overlooked(&mut self, at: usize, now: Instant) -> Option<Process> {
        let name = self.units[at].service.name.clone();
        let found = adopt::look(&self.home, &name, &Stored::default(), &self.boot);
        let Found::Alive(process) = found else { return None };
        if !self.units[at].watch_adopted(process, now) {
            return None;
        }
        self.announce(Some(&name), &format!("adopted process {}, which an earlier supervisor had begun", process.pid));
        Some(process)
    }
}
