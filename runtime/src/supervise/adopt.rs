//! What an earlier supervisor left running.
//!
//! Whether a service's processes live is told by its lock, which they inherited. Which process was the first one stands in the
//! lock file, written by that process itself; that the number still means the same process is checked by its start time (kept in
//! `run/state.json`) or, where the supervisor died before it wrote that, by the tag in the process's environment.
//!
//! What the earlier supervisor was about to do goes on: a stop that was asked for is asked for again, a pause before the next try is
//! kept, what waited waits. The supervisor may be ourselves before [`upgrade`](super::upgrade): then the processes are our children
//! still, and how they end is told.

use std::time::{Duration, Instant};

use super::state::{LAST_WAIT, Next, Process, State};
use super::store::Stored;
use super::unit::Unit;
use super::{UNWATCHED, cgroup, child};
use crate::clock::now_unix;
use crate::control::Status;
use crate::home::Home;
use crate::os;
use crate::service::Restart;

/// What was found of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, and nothing was meant to be there.
    Nothing,
    /// Nothing, but it was meant to run: it died while nobody looked.
    Missed,
    /// Its first process.
    Alive(Process),
    /// Only what its first process left behind. `wanted`: it was meant to run.
    Rest {
        /// The first process's PID, which still names the group.
        group: i32,
        /// Whether it was meant to run.
        wanted: bool,
    },
}

/// Looks what is there of a service.
#[must_use]
pub fn look(home: &Home, name: &str, stored: &Stored, boot: &str) -> Found {
    let known = stored.known(name, boot);
    let wanted = known.is_some_and(|status| status.wanted);
    let Some(pid) = child::holder(&home.service_lock(name)) else {
        return if wanted { Found::Missed } else { Found::Nothing };
    };
    let started = os::start_time(pid);
    let remembered = known.filter(|status| status.pid == Some(pid)).and_then(|status| status.process_started);
    let root = home.root().to_string_lossy();
    let is_it = match (started, remembered) {
        (None, _) => false,
        (Some(now), Some(then)) => now == then,
        (Some(_), None) => !os::tagged(os::Tag { data: &root, service: name }, Some(vec![pid])).is_empty(),
    };
    let adopted = os::parent_of(pid) != i32::try_from(std::process::id()).ok();
    if is_it { Found::Alive(Process { pid, started, adopted }) } else { Found::Rest { group: pid, wanted } }
}

impl Unit {
    /// Becomes what an earlier supervisor left; a line for the log when that is anything. `known`: what it knew, where that is about
    /// this start of the machine.
    pub(super) fn take_over(&mut self, found: Found, known: Option<&Status>, now: Instant) -> Option<String> {
        if let Some(known) = known {
            self.since = known.since;
            self.restarts = known.restarts;
        }
        match found {
            Found::Nothing => {
                self.state = match known {
                    Some(Status { state, reason: Some(reason), failed, .. }) if state == "exited" => {
                        State::Exited { reason: reason.clone(), failed: *failed }
                    }
                    Some(Status { state, reason, .. }) if state == "stopped" => State::Stopped { reason: reason.clone() },
                    _ => State::Stopped { reason: None },
                };
                None
            }
            Found::Missed => Some(self.take_over_missed(known, now)),
            Found::Alive(process) => {
                if process.adopted && !self.watch_adopted(process, now) {
                    return self.take_over(Found::Missed, known, now);
                }
                self.take_over_living(process, known, now);
                Some(format!("{} process {}", if process.adopted { "adopted" } else { "kept" }, process.pid))
            }
            Found::Rest { group, wanted } => {
                let process = Process { pid: group, started: None, adopted: true };
                let reason = "died while there was no supervisor, and left processes behind".to_owned();
                let line = reason.clone();
                let next = if wanted { self.after_an_unseen_end(reason) } else { Next::Rest };
                let until = now + self.policy(0).stop_timeout.min(LAST_WAIT);
                self.state = State::Stopping { process, leader_gone: true, until, killed: false, next };
                Some(line)
            }
        }
    }

    /// Has the end of an adopted process told; whether it lives. (It may have ended, and its number gone to another, since it was
    /// found.)
    pub(super) fn watch_adopted(&mut self, process: Process, now: Instant) -> bool {
        self.watch = os::watch(process.pid).ok();
        let lives = os::start_time(process.pid) == process.started;
        if !lives {
            self.watch = None;
        }
        self.unwatched_at = (lives && self.watch.is_none()).then(|| now + UNWATCHED);
        lives
    }

    fn after_an_unseen_end(&self, reason: String) -> Next {
        if self.service.restart == Restart::Never {
            Next::Exit { reason, failed: true }
        } else {
            Next::Retry { failures: 1, reason }
        }
    }

    fn take_over_missed(&mut self, known: Option<&Status>, now: Instant) -> String {
        let word = known.map_or("", |known| known.state.as_str());
        if word == "waiting" || word == "stopping" {
            self.state = State::Waiting;
            return "is still to be started".to_owned();
        }
        if let Some(Status { reason: Some(reason), next_try_ms: Some(left), failures, .. }) = known {
            // The supervisor was not there for some of the pause, and nobody knows for how much.
            let left = Duration::from_millis(*left).min(self.policy(0).longest_pause);
            self.state = State::BackingOff { until: now + left, failures: *failures, reason: reason.clone() };
            return "is still to be tried again".to_owned();
        }
        let reason = "died while there was no supervisor".to_owned();
        self.since = now_unix();
        self.state = match self.after_an_unseen_end(reason.clone()) {
            Next::Retry { failures, reason } => State::BackingOff { until: now, failures, reason },
            _ => State::Exited { reason: reason.clone(), failed: true },
        };
        reason
    }

    fn take_over_living(&mut self, process: Process, known: Option<&Status>, now: Instant) {
        self.group = cgroup::of_process(process.pid, &self.service.name);
        let failures = known.map_or(0, |known| known.failures);
        let lived = known.map_or(0, |known| now_unix().saturating_sub(known.since));
        let since = now.checked_sub(Duration::from_secs(lived)).unwrap_or(now);
        self.state = match known {
            Some(known) if known.state == "running" => State::Running { process, since, failures },
            _ => State::Starting { process, since: now, failures, late: false },
        };
        self.pending = match known.filter(|known| known.pid == Some(process.pid)) {
            Some(known) if !known.wanted => Some(Next::Rest),
            Some(known) if known.state == "stopping" => Some(Next::Start),
            _ => None,
        };
    }
}

/// The PID of a service's living first process when no supervisor is there to ask.
#[must_use]
pub fn living(home: &Home, name: &str, stored: &Stored) -> Option<i32> {
    match look(home, name, stored, &os::boot_id()) {
        Found::Alive(process) => Some(process.pid),
        _ => None,
    }
}
