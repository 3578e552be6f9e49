//! The life of one service: states that carry their data, and the one function that leads from one to the next.
//!
//! [`step`] is pure: state, event and time in, state and actions out. Nothing here asks a clock, a process or a file, so that time
//! and faults are tested without sleeping. The supervisor carries the actions out and reports what came of them as events.
//!
//! | state | meaning | leaves by |
//! |---|---|---|
//! | `Stopped` | does not run and is not meant to | `Start` |
//! | `Exited` | ended by itself, and its definition says not to restart it | `Start` |
//! | `Waiting` | meant to run; others have to be ready first | `Clear`, `Stop` |
//! | `Starting` | a process runs, probes have not all passed | `Ready`, `Ended`, `Stop`, `Restart` |
//! | `Running` | a process runs and is ready | `Ended`, `Unwell`, `Stop`, `Restart` |
//! | `Stopping` | asked to end, or its first process ended and others of its group are left | `Gone`, time |
//! | `BackingOff` | died, the next try is set | time, `Start`, `Stop` |
//!
//! Every transition is in docs/services.md, in a table that a test compares with [`step`].
//!
//! **Restart**: at once the first time, then after pauses that double from the definition's first to its longest, with 10 % of jitter.
//! A good run forgets earlier failures. It never gives up for good, and a manual start does not wait.
//!
//! **Stop**: the service's signal to its group, CONT so that a stopped process can hear it, KILL after its time, and
//! [`LAST_WAIT`] later the stop is over, whoever survived that being named.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::service::Restart;

/// How long after KILL a process may still be there, in an uninterruptible system call.
pub const LAST_WAIT: Duration = Duration::from_secs(5);
/// How often a group without its first process is looked at: the end of its other members is not always told.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running first process of a service; it leads a session and a group of its own, so that its PID names them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its PID.
    pub pid: i32,
    /// When it started, as [`os::start_time`](crate::os::start_time) has it: tells it from a later process of the same number.
    pub started: Option<u64>,
    /// Started by an earlier supervisor: not our child, so its exit status will not be known.
    pub adopted: bool,
}

/// Where a service is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Does not run and is not meant to.
    Stopped {
        /// Why, when not by request.
        reason: Option<String>,
    },
    /// Ended by itself, and is not to be restarted.
    Exited {
        /// How.
        reason: String,
        /// Whether badly: with another status than 0, by a signal, or because it could not be started.
        failed: bool,
    },
    /// Meant to run; others have to be ready first.
    Waiting,
    /// A process runs; its probes have not all passed.
    Starting {
        /// The process.
        process: Process,
        /// Since when it runs.
        since: Instant,
        /// Failures in a row before this run.
        failures: u32,
        /// Whether the time to become ready is over.
        late: bool,
    },
    /// A process runs and is ready.
    Running {
        /// The process.
        process: Process,
        /// Since when it is ready.
        since: Instant,
        /// Failures in a row before this run.
        failures: u32,
    },
    /// On its way down.
    Stopping {
        /// The process, or what is left of its group.
        process: Process,
        /// Whether the first process itself has ended.
        leader_gone: bool,
        /// When the patience ends.
        until: Instant,
        /// Whether KILL was sent.
        killed: bool,
        /// What comes after.
        next: Next,
    },
    /// Died; the next try is set.
    BackingOff {
        /// The next try.
        until: Instant,
        /// Failures in a row.
        failures: u32,
        /// What happened last.
        reason: String,
    },
}

/// What comes after a stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// A start, as asked.
    Start,
    /// Nothing, because it ended by itself.
    Exit {
        /// How.
        reason: String,
        /// Whether badly.
        failed: bool,
    },
    /// A restart, because it died.
    Retry {
        /// Failures in a row.
        failures: u32,
        /// What happened.
        reason: String,
    },
}

/// What can happen to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it to run.
    Start,
    /// Somebody wants it not to run, and everything that had to stop before it has.
    Stop,
    /// Somebody wants it to run anew.
    Restart,
    /// Nothing that it has to wait for is on its way any more.
    Clear,
    /// The process was made.
    Launched(Process),
    /// It could not be made.
    NotLaunched(String),
    /// All probes passed.
    Ready,
    /// The first process ended.
    Ended {
        /// How, in words.
        how: String,
        /// Whether badly: with another status than 0, by a signal, or nobody knows.
        failed: bool,
    },
    /// Its health check has failed too often, in these words.
    Unwell(String),
    /// Nothing of the service's processes is left.
    Gone,
    /// Processes of the service outlived KILL, in these words.
    Survived(String),
    /// Time has passed.
    Tick,
}

/// What has to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the process; answer with `Launched` or `NotLaunched`.
    Launch,
    /// Send the service's stop signal to all its processes, then CONT.
    AskToStop,
    /// Send this signal to all its processes, then CONT.
    Send(Signal),
    /// Look whether any process is left; answer with `Gone` if none is.
    Look,
    /// KILL did not help: name who is left by `Survived`, or answer with `Gone`.
    LookForTheLast,
}

/// What [`step`] needs to know beside the state.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// From the stop signal to KILL.
    pub stop_timeout: Duration,
    /// From the start to ready.
    pub ready_timeout: Duration,
    /// Whether what ends by itself is started again.
    pub restart: Restart,
    /// The pause before the second retry.
    pub first_pause: Duration,
    /// No pause is longer, jitter aside.
    pub longest_pause: Duration,
    /// A service that was ready for this long has its earlier failures forgotten.
    pub good_run: Duration,
    /// A number from 0 to 255, anything: spreads the pauses.
    pub jitter: u8,
}

impl State {
    /// The process, if there is one.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        match self {
            Self::Starting { process, .. } | Self::Running { process, .. } | Self::Stopping { process, .. } => Some(*process),
            _ => None,
        }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self, policy: &Policy) -> Option<Instant> {
        match self {
            Self::Starting { since, late: false, .. } => Some(*since + policy.ready_timeout),
            Self::Stopping { until, .. } | Self::BackingOff { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Whether the service is meant to run.
    #[must_use]
    pub fn wanted(&self) -> bool {
        !matches!(
            self,
            Self::Stopped { .. } | Self::Exited { .. } | Self::Stopping { next: Next::Rest | Next::Exit { .. }, .. }
        )
    }

    /// Whether it will probably be ready soon, so that those after it should wait. One that died twice in a row, could not be
    /// made, or is late holds nobody up: a monitor with a part missing is better than none.
    #[must_use]
    pub fn promising(&self) -> bool {
        match self {
            Self::Waiting => true,
            Self::Starting { failures, late, .. } => !late && *failures < 2,
            Self::Stopping { next, .. } => matches!(next, Next::Start | Next::Retry { .. }),
            Self::BackingOff { failures, .. } => *failures < 2,
            Self::Stopped { .. } | Self::Exited { .. } | Self::Running { .. } => false,
        }
    }

    /// Whether those that require it have what they need: it is ready, or has done its work and ended well.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Exited { failed: false, .. })
    }

    /// Whether those that require it have to stop: it does not run, and will not by itself.
    #[must_use]
    pub fn deserts(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Exited { failed: true, .. })
    }

    /// What went wrong, if the service is in trouble that a waiting command should report instead of waiting on.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::BackingOff { failures: 2.., reason, .. } => Some(reason),
            Self::Stopped { reason: Some(reason) } | Self::Exited { reason, failed: true } => Some(reason),
            _ => None,
        }
    }

    /// The word for it in `status`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stopped { .. } => "stopped",
            Self::Exited { .. } => "exited",
            Self::Waiting => "waiting",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Stopping { .. } => "stopping",
            Self::BackingOff { .. } => "backing-off",
        }
    }
}

/// The pause before the next try after so many failures in a row.
#[must_use]
pub fn pause(failures: u32, policy: &Policy) -> Duration {
    if failures <= 1 {
        return Duration::ZERO;
    }
    let doubled = policy.first_pause.saturating_mul(2_u32.saturating_pow(failures - 2)).min(policy.longest_pause);
    // From 95 % to 105 %.
    doubled * 95 / 100 + doubled * u32::from(policy.jitter) / 2_550
}

/// The next state, and what to do.
#[must_use]
pub fn step(state: State, event: Event, now: Instant, policy: &Policy) -> (State, Vec<Action>) {
    match event {
        Event::Start => start(state),
        Event::Stop => stop(&state, Next::Rest, now, policy),
        Event::Restart => stop(&state, Next::Start, now, policy),
        Event::Clear => match state {
            State::Waiting => (State::Waiting, vec![Action::Launch]),
            other => (other, vec![]),
        },
        Event::Launched(process) => {
            let failures = if let State::BackingOff { failures, .. } = state { failures } else { 0 };
            (State::Starting { process, since: now, failures, late: false }, vec![])
        }
        Event::NotLaunched(reason) if policy.restart == Restart::Never => (State::Exited { reason, failed: true }, vec![]),
        Event::NotLaunched(reason) => {
            // There is no point in trying the same again at once.
            let failures = if let State::BackingOff { failures, .. } = state { failures + 1 } else { 2 }.max(2);
            (State::BackingOff { until: now + pause(failures, policy), failures, reason }, vec![])
        }
        Event::Ready => match state {
            State::Starting { process, failures, .. } => (State::Running { process, since: now, failures }, vec![]),
            other => (other, vec![]),
        },
        Event::Ended { how, failed } => ended(state, how, failed, now, policy),
        Event::Unwell(how) => match state {
            State::Running { process, since, failures } => {
                let failures = failures_after(since, failures, now, policy);
                let until = now + policy.stop_timeout;
                let next = Next::Retry { failures, reason: how };
                (State::Stopping { process, leader_gone: false, until, killed: false, next }, vec![Action::AskToStop])
            }
            other => (other, vec![]),
        },
        Event::Gone => gone(state, now, policy),
        Event::Survived(who) => match state {
            State::Stopping { .. } => (State::Stopped { reason: Some(who) }, vec![]),
            other => (other, vec![]),
        },
        Event::Tick => tick(state, now, policy),
    }
}

fn start(state: State) -> (State, Vec<Action>) {
    match state {
        State::Stopped { .. } | State::Exited { .. } | State::BackingOff { .. } => (State::Waiting, vec![]),
        State::Stopping { process, leader_gone, until, killed, .. } => {
            (State::Stopping { process, leader_gone, until, killed, next: Next::Start }, vec![])
        }
        other => (other, vec![]),
    }
}

fn stop(state: &State, next: Next, now: Instant, policy: &Policy) -> (State, Vec<Action>) {
    match *state {
        State::Starting { process, .. } | State::Running { process, .. } => {
            let until = now + policy.stop_timeout;
            (State::Stopping { process, leader_gone: false, until, killed: false, next }, vec![Action::AskToStop])
        }
        State::Stopping { process, leader_gone, until, killed, .. } => {
            (State::Stopping { process, leader_gone, until, killed, next }, vec![])
        }
        _ if next == Next::Start => (State::Waiting, vec![]),
        State::Stopped { .. } | State::Exited { .. } | State::Waiting | State::BackingOff { .. } => {
            (State::Stopped { reason: None }, vec![])
        }
    }
}

/// Failures in a row when a process that was ready since then ends now.
fn failures_after(since: Instant, failures: u32, now: Instant, policy: &Policy) -> u32 {
    if now.saturating_duration_since(since) >= policy.good_run { 1 } else { failures.saturating_add(1) }
}

fn ended(state: State, how: String, failed: bool, now: Instant, policy: &Policy) -> (State, Vec<Action>) {
    let (process, failures) = match state {
        State::Starting { process, failures, .. } => (process, failures.saturating_add(1)),
        State::Running { process, since, failures } => (process, failures_after(since, failures, now, policy)),
        State::Stopping { process, until, killed, next, .. } => {
            return (State::Stopping { process, leader_gone: true, until, killed, next }, vec![Action::Look]);
        }
        other => return (other, vec![]),
    };
    let next = match policy.restart {
        Restart::Always => Next::Retry { failures, reason: how },
        Restart::OnFailure if failed => Next::Retry { failures, reason: how },
        Restart::OnFailure | Restart::Never => Next::Exit { reason: how, failed },
    };
    // What it left behind may hold its ports and files: it goes first.
    let until = now + policy.stop_timeout.min(LAST_WAIT);
    let state = State::Stopping { process, leader_gone: true, until, killed: false, next };
    (state, vec![Action::Send(Signal::SIGTERM), Action::Look])
}

fn gone(state: State, now: Instant, policy: &Policy) -> (State, Vec<Action>) {
    match state {
        State::Stopping { next: Next::Rest, .. } => (State::Stopped { reason: None }, vec![]),
        State::Stopping { next: Next::Start, .. } => (State::Waiting, vec![]),
        State::Stopping { next: Next::Exit { reason, failed }, .. } => (State::Exited { reason, failed }, vec![]),
        State::Stopping { next: Next::Retry { failures, reason }, .. } => {
            (State::BackingOff { until: now + pause(failures, policy), failures, reason }, vec![])
        }
        other => (other, vec![]),
    }
}

fn tick(state: State, now: Instant, policy: &Policy) -> (State, Vec<Action>) {
    match state {
        State::Starting { process, since, failures, late: false } if now >= since + policy.ready_timeout => {
            (State::Starting { process, since, failures, late: true }, vec![])
        }
        State::BackingOff { until, .. } if now >= until => (state, vec![Action::Launch]),
        State::Stopping { process, leader_gone, until, killed: false, next } if now >= until => {
            let state = State::Stopping { process, leader_gone, until: now + LAST_WAIT, killed: true, next };
            (state, vec![Action::Send(Signal::SIGKILL), Action::Look])
        }
        State::Stopping { until, killed: true, .. } if now >= until => (state, vec![Action::LookForTheLast]),
        State::Stopping { leader_gone: true, .. } => (state, vec![Action::Look]),
        other => (other, vec![]),
    }
}

#[cfg(test)]
mod tests;
