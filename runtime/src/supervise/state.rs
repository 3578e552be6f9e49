//! The life of one service: states that carry their data, and the one function that leads from one to the next.
//!
//! [`step`] is pure: state, event and time in, state and actions out. Nothing here asks a clock, a process or a file, so that time
//! and faults are tested without sleeping. The supervisor carries the actions out and reports what came of them as events.
//!
//! | state | meaning | leaves by |
//! |---|---|---|
//! | `Stopped` | does not run and is not meant to | `Start` |
//! | `Waiting` | meant to run; others have to be ready first | `Clear`, `Stop` |
//! | `Starting` | a process runs, probes have not all passed | `Ready`, `Ended`, `Stop`, `Restart` |
//! | `Running` | a process runs and is ready | `Ended`, `Stop`, `Restart` |
//! | `Stopping` | asked to end, or its first process ended and others of its group are left | `Gone`, time |
//! | `BackingOff` | died, the next try is set | time, `Start`, `Stop` |
//!
//! **Restart**: at once the first time, then after pauses from [`FIRST_PAUSE`] doubling to [`LONGEST_PAUSE`], with 10 % of jitter.
//! A run of [`GOOD_RUN`] forgets earlier failures. It never gives up for good, and a manual start does not wait.
//!
//! **Stop**: the service's signal to its group, CONT so that a stopped process can hear it, KILL after its time, and
//! [`LAST_WAIT`] later the stop is over, whoever survived that being named.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// The pause before the second retry.
pub const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No pause is longer, jitter aside.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A service that was ready for this long has its earlier failures forgotten.
pub const GOOD_RUN: Duration = Duration::from_secs(30);
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
    /// The first process ended, in these words.
    Ended(String),
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
        !matches!(self, Self::Stopped { .. } | Self::Stopping { next: Next::Rest, .. })
    }

    /// Whether it will probably be ready soon, so that those after it should wait. One that died twice in a row, could not be
    /// made, or is late holds nobody up: a monitor with a part missing is better than none.
    #[must_use]
    pub fn promising(&self) -> bool {
        match self {
            Self::Waiting => true,
            Self::Starting { failures, late, .. } => !late && *failures < 2,
            Self::Stopping { next, .. } => *next != Next::Rest,
            Self::BackingOff { failures, .. } => *failures < 2,
            Self::Stopped { .. } | Self::Running { .. } => false,
        }
    }

    /// What went wrong, if the service is in trouble that a waiting command should report instead of waiting on.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::BackingOff { failures: 2.., reason, .. } => Some(reason),
            Self::Stopped { reason: Some(reason) } => Some(reason),
            _ => None,
        }
    }

    /// The word for it in `status`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stopped { .. } => "stopped",
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
pub fn pause(failures: u32, jitter: u8) -> Duration {
    if failures <= 1 {
        return Duration::ZERO;
    }
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures - 2)).min(LONGEST_PAUSE);
    // From 95 % to 105 %.
    doubled * 95 / 100 + doubled * u32::from(jitter) / 2_550
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
        Event::NotLaunched(reason) => {
            // There is no point in trying the same again at once.
            let failures = if let State::BackingOff { failures, .. } = state { failures + 1 } else { 2 }.max(2);
            (State::BackingOff { until: now + pause(failures, policy.jitter), failures, reason }, vec![])
        }
        Event::Ready => match state {
            State::Starting { process, failures, .. } => (State::Running { process, since: now, failures }, vec![]),
            other => (other, vec![]),
        },
        Event::Ended(how) => ended(state, how, now, policy),
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
        State::Stopped { .. } | State::BackingOff { .. } => (State::Waiting, vec![]),
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
        State::Stopped { .. } | State::Waiting | State::BackingOff { .. } if next == Next::Start => (State::Waiting, vec![]),
        State::Stopped { .. } | State::Waiting | State::BackingOff { .. } => (State::Stopped { reason: None }, vec![]),
    }
}

fn ended(state: State, how: String, now: Instant, policy: &Policy) -> (State, Vec<Action>) {
    let (process, failures) = match state {
        State::Starting { process, failures, .. } => (process, failures + 1),
        State::Running { process, since, failures } => {
            (process, if now.saturating_duration_since(since) >= GOOD_RUN { 1 } else { failures + 1 })
        }
        State::Stopping { process, until, killed, next, .. } => {
            return (State::Stopping { process, leader_gone: true, until, killed, next }, vec![Action::Look]);
        }
        other => return (other, vec![]),
    };
    // What it left behind may hold its ports and files: it goes first.
    let next = Next::Retry { failures, reason: how };
    let until = now + policy.stop_timeout.min(LAST_WAIT);
    let state = State::Stopping { process, leader_gone: true, until, killed: false, next };
    (state, vec![Action::Send(Signal::SIGTERM), Action::Look])
}

fn gone(state: State, now: Instant, policy: &Policy) -> (State, Vec<Action>) {
    match state {
        State::Stopping { next: Next::Rest, .. } => (State::Stopped { reason: None }, vec![]),
        State::Stopping { next: Next::Start, .. } => (State::Waiting, vec![]),
        State::Stopping { next: Next::Retry { failures, reason }, .. } => {
            (State::BackingOff { until: now + pause(failures, policy.jitter), failures, reason }, vec![])
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
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { stop_timeout: Duration::from_secs(10), ready_timeout: Duration::from_secs(60), jitter: 128 };

    fn process(pid: i32) -> Process {
        Process { pid, started: Some(1), adopted: false }
    }

    /// A service and its time, moved by hand.
    struct Life {
        state: State,
        now: Instant,
    }

    impl Life {
        fn new() -> Self {
            Self { state: State::Stopped { reason: None }, now: Instant::now() }
        }

        fn event(&mut self, event: Event) -> Vec<Action> {
            let (state, actions) = step(self.state.clone(), event, self.now, &POLICY);
            self.state = state;
            actions
        }

        /// Lets time pass up to the deadline.
        fn ripen(&mut self) -> (Duration, Vec<Action>) {
            let deadline = self.state.deadline(&POLICY).expect("a deadline");
            let waited = deadline.saturating_duration_since(self.now);
            self.now = self.now.max(deadline);
            (waited, self.event(Event::Tick))
        }

        fn run(&mut self) {
            self.event(Event::Start);
            assert_eq!(self.event(Event::Clear), [Action::Launch]);
            self.event(Event::Launched(process(7)));
            self.event(Event::Ready);
            assert_eq!(self.state.word(), "running");
        }

        fn die(&mut self) {
            self.event(Event::Ended("exit status 1".into()));
            self.event(Event::Gone);
            assert_eq!(self.state.word(), "backing-off");
        }
    }

    #[test]
    fn restarts_at_once_then_doubles_to_the_longest_and_never_gives_up() {
        let mut life = Life::new();
        life.run();
        let mut pauses = Vec::new();
        for _ in 0..20 {
            life.die();
            let (waited, actions) = life.ripen();
            assert_eq!(actions, [Action::Launch]);
            pauses.push(waited.as_secs_f64());
            life.event(Event::Launched(process(8)));
            life.event(Event::Ready);
        }
        let near = |value: f64, wanted: f64| (value - wanted).abs() <= wanted * 0.06;
        assert_eq!(pauses[0], 0.0, "the first restart is at once");
        for (at, wanted) in [(1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (19, 30.0)] {
            assert!(near(pauses[at], wanted), "pause {at} is {} and not about {wanted}", pauses[at]);
        }
    }

    #[test]
    fn a_good_run_forgets_failures_and_a_short_one_does_not() {
        let mut life = Life::new();
        life.run();
        for good in [false, true] {
            life.die();
            life.ripen();
            life.event(Event::Launched(process(8)));
            life.event(Event::Ready);
            life.die();
            assert!(matches!(life.state, State::BackingOff { failures: 2.., .. }));
            life.ripen();
            life.event(Event::Launched(process(9)));
            life.event(Event::Ready);
            life.now += if good { GOOD_RUN } else { GOOD_RUN - Duration::from_millis(1) };
            life.die();
            let forgotten = matches!(life.state, State::BackingOff { failures: 1, .. });
            assert_eq!(forgotten, good);
            life.ripen();
            life.event(Event::Launched(process(9)));
            life.event(Event::Ready);
        }
    }

    #[test]
    fn jitter_stays_within_five_percent() {
        for failures in 2..40 {
            let middle = pause(failures, 128).as_secs_f64();
            for jitter in [0, 255] {
                let ratio = pause(failures, jitter).as_secs_f64() / middle;
                assert!((0.94..=1.06).contains(&ratio), "{failures} {jitter}: {ratio}");
            }
        }
        assert_eq!(pause(u32::MAX, 128), pause(10, 128));
    }

    #[test]
    fn a_manual_start_does_not_wait_for_the_pause() {
        let mut life = Life::new();
        life.run();
        life.die();
        life.ripen();
        life.event(Event::Launched(process(8)));
        life.die();
        life.event(Event::Start);
        assert_eq!(life.event(Event::Clear), [Action::Launch]);
    }

    #[test]
    fn a_stop_kills_after_its_time_and_ends_whatever_happens() {
        let mut life = Life::new();
        life.run();
        assert_eq!(life.event(Event::Stop), [Action::AskToStop]);
        let (waited, actions) = life.ripen();
        assert_eq!((waited, actions[0]), (POLICY.stop_timeout, Action::Send(Signal::SIGKILL)));
        let (waited, actions) = life.ripen();
        assert_eq!((waited, actions.as_slice()), (LAST_WAIT, [Action::LookForTheLast].as_slice()));
        life.event(Event::Survived("process 7 outlived KILL".into()));
        assert_eq!(life.state.trouble(), Some("process 7 outlived KILL"));
    }

    #[test]
    fn what_a_dead_service_left_behind_goes_before_the_next_copy() {
        let mut life = Life::new();
        life.run();
        let actions = life.event(Event::Ended("killed".into()));
        assert_eq!(actions, [Action::Send(Signal::SIGTERM), Action::Look]);
        assert_eq!(life.event(Event::Tick), [Action::Look], "and no launch before it is gone");
        life.event(Event::Gone);
        assert_eq!(life.ripen().1, [Action::Launch]);
    }

    #[test]
    fn a_stop_while_it_dies_is_a_stop_and_a_start_while_it_stops_is_a_restart() {
        let mut life = Life::new();
        life.run();
        life.event(Event::Ended("killed".into()));
        life.event(Event::Stop);
        life.event(Event::Gone);
        assert_eq!(life.state, State::Stopped { reason: None });
        life.run();
        life.event(Event::Stop);
        life.event(Event::Start);
        life.event(Event::Ended("terminated".into()));
        life.event(Event::Gone);
        assert_eq!(life.state, State::Waiting);
    }

    #[test]
    fn what_cannot_be_made_is_trouble_at_once_and_tried_again() {
        let mut life = Life::new();
        life.event(Event::Start);
        life.event(Event::Clear);
        life.event(Event::NotLaunched("TCP port 1 is taken".into()));
        assert_eq!(life.state.trouble(), Some("TCP port 1 is taken"));
        assert!(!life.state.promising(), "it holds nobody up");
        let (waited, actions) = life.ripen();
        assert!(waited > Duration::ZERO);
        assert_eq!(actions, [Action::Launch]);
    }

    #[test]
    fn late_is_told_and_still_becomes_ready() {
        let mut life = Life::new();
        life.event(Event::Start);
        life.event(Event::Clear);
        life.event(Event::Launched(process(7)));
        assert!(life.state.promising());
        assert_eq!(life.ripen(), (POLICY.ready_timeout, vec![]));
        assert!(!life.state.promising());
        assert_eq!(life.state.deadline(&POLICY), None, "nothing wakes the loop for it any more");
        life.event(Event::Ready);
        assert_eq!(life.state.word(), "running");
    }

    /// Any events in any order: there is never a launch while a process is there, and whatever waits for time has a deadline.
    #[test]
    fn random_lives_never_start_a_second_copy() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % below as u64).unwrap()
        };
        for _ in 0..300 {
            let mut life = Life::new();
            for _ in 0..200 {
                let events = [
                    Event::Start,
                    Event::Stop,
                    Event::Restart,
                    Event::Clear,
                    Event::Ready,
                    Event::Tick,
                    Event::Tick,
                    Event::Ended("x".into()),
                    Event::Gone,
                ];
                let event = events[random(events.len())].clone();
                life.now += Duration::from_millis(random(20_000) as u64);
                let had_process = life.state.process().is_some();
                // Only what has ended leaves nothing behind.
                if event == Event::Gone && !matches!(life.state, State::Stopping { leader_gone: true, .. }) {
                    continue;
                }
                for action in life.event(event) {
                    match action {
                        Action::Launch => {
                            assert!(!had_process && life.state.process().is_none(), "launch in {:?}", life.state);
                            let failed = random(4) == 0;
                            life.event(if failed { Event::NotLaunched("no".into()) } else { Event::Launched(process(9)) });
                        }
                        Action::LookForTheLast => drop(life.event(Event::Survived("still there".into()))),
                        Action::AskToStop | Action::Send(_) | Action::Look => assert!(life.state.process().is_some()),
                    }
                }
                if matches!(life.state, State::Stopping { .. } | State::BackingOff { .. }) {
                    assert!(life.state.deadline(&POLICY).is_some());
                }
            }
        }
    }
}
