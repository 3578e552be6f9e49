use std::fmt::Write;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const POLICY: Policy = Policy {
    stop_timeout: Duration::from_secs(10),
    ready_timeout: Duration::from_secs(60),
    restart: Restart::Always,
    first_pause: Duration::from_millis(500),
    longest_pause: Duration::from_secs(30),
    good_run: Duration::from_secs(30),
    jitter: 128,
};

fn process(pid: i32) -> Process {
    Process { pid, started: Some(1), adopted: false }
}

fn bad(how: &str) -> Event {
    Event::Ended { how: how.to_owned(), failed: true }
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
        self.event(bad("exit status 1"));
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
        life.now += if good { POLICY.good_run } else { POLICY.good_run - Duration::from_millis(1) };
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
        let middle = pause(failures, &POLICY).as_secs_f64();
        for jitter in [0, 255] {
            let ratio = pause(failures, &Policy { jitter, ..POLICY }).as_secs_f64() / middle;
            assert!((0.94..=1.06).contains(&ratio), "{failures} {jitter}: {ratio}");
        }
    }
    assert_eq!(pause(u32::MAX, &POLICY), pause(10, &POLICY));
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
    let actions = life.event(bad("killed"));
    assert_eq!(actions, [Action::Send(Signal::SIGTERM), Action::Look]);
    assert_eq!(life.event(Event::Tick), [Action::Look], "and no launch before it is gone");
    life.event(Event::Gone);
    assert_eq!(life.ripen().1, [Action::Launch]);
}

#[test]
fn a_stop_while_it_dies_is_a_stop_and_a_start_while_it_stops_is_a_restart() {
    let mut life = Life::new();
    life.run();
    life.event(bad("killed"));
    life.event(Event::Stop);
    life.event(Event::Gone);
    assert_eq!(life.state, State::Stopped { reason: None });
    life.run();
    life.event(Event::Stop);
    life.event(Event::Start);
    life.event(bad("terminated"));
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

#[test]
fn what_is_not_to_be_restarted_stays_where_it_ended() {
    for (restart, failed, again) in [
        (Restart::Never, true, false),
        (Restart::Never, false, false),
        (Restart::OnFailure, false, false),
        (Restart::OnFailure, true, true),
        (Restart::Always, false, true),
    ] {
        let policy = Policy { restart, ..POLICY };
        let mut life = Life::new();
        life.run();
        for event in [Event::Ended { how: "x".into(), failed }, Event::Gone] {
            life.state = step(life.state, event, life.now, &policy).0;
        }
        let wanted = if again { "backing-off" } else { "exited" };
        assert_eq!((life.state.word(), life.state.wanted()), (wanted, again), "{restart:?}, failed: {failed}");
        assert_eq!(life.state.trouble().is_some(), failed && !again);
        life.event(Event::Start);
        assert_eq!(life.state, State::Waiting);
    }
    let never = Policy { restart: Restart::Never, ..POLICY };
    let (state, _) = step(State::Waiting, Event::NotLaunched("no".into()), Instant::now(), &never);
    assert_eq!(state.word(), "exited");
}

#[test]
fn what_is_unwell_is_asked_to_stop_and_tried_again() {
    let mut life = Life::new();
    life.run();
    assert_eq!(life.event(Event::Unwell("no answer".into())), [Action::AskToStop]);
    assert!(life.state.wanted());
    life.event(bad("terminated"));
    life.event(Event::Gone);
    assert!(matches!(&life.state, State::BackingOff { reason, failures: 1, .. } if reason == "no answer"), "{:?}", life.state);
}

/// What can happen in the world around a service.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Start,
    Stop,
    Restart,
    Clear,
    Ready,
    Unwell,
    /// The first process ends, leaving so many others behind.
    Death {
        failed: bool,
        leaves: u8,
    },
    /// Another of its processes ends.
    OtherDeath,
    Time(u64),
    /// From now on processes cannot be made, or survive KILL.
    Trouble {
        no_launch: bool,
        immortal: bool,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        Just(Happening::Start),
        Just(Happening::Stop),
        Just(Happening::Restart),
        Just(Happening::Clear),
        Just(Happening::Ready),
        Just(Happening::Unwell),
        (any::<bool>(), 0_u8..3).prop_map(|(failed, leaves)| Happening::Death { failed, leaves }),
        Just(Happening::OtherDeath),
        (0_u64..40_000).prop_map(Happening::Time),
        (any::<bool>(), any::<bool>()).prop_map(|(no_launch, immortal)| Happening::Trouble { no_launch, immortal }),
    ]
}

/// A service in a world that has processes of its own mind.
struct World {
    life: Life,
    policy: Policy,
    leader: bool,
    others: u8,
    no_launch: bool,
    immortal: bool,
    /// Whether somebody was told to have outlived KILL: only then may there be processes of a service that does not run.
    survived: bool,
}

impl World {
    fn new(restart: Restart) -> Self {
        let policy = Policy { restart, ..POLICY };
        Self { life: Life::new(), policy, leader: false, others: 0, no_launch: false, immortal: false, survived: false }
    }

    fn is_empty(&self) -> bool {
        !self.leader && self.others == 0
    }

    fn give(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let (state, actions) = step(self.life.state.clone(), event, self.life.now, &self.policy);
            self.life.state = state;
            for action in actions {
                events.extend(self.act(action));
            }
        }
        self.check();
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Launch => {
                assert!(self.life.state.process().is_none(), "launch in {:?}", self.life.state);
                assert!(self.is_empty() || self.survived, "a second copy beside the first");
                // The lock is what stands in the way of a second copy then.
                if self.no_launch || !self.is_empty() {
                    return Some(Event::NotLaunched("no".into()));
                }
                self.leader = true;
                self.survived = false;
                Some(Event::Launched(process(9)))
            }
            Action::Send(Signal::SIGKILL) if !self.immortal => {
                let was = std::mem::take(&mut self.leader);
                self.others = 0;
                was.then(|| bad("killed"))
            }
            Action::Look => {
                let gone = matches!(self.life.state, State::Stopping { leader_gone: true, .. }) && self.is_empty();
                gone.then_some(Event::Gone)
            }
            Action::LookForTheLast if self.is_empty() => Some(Event::Gone),
            Action::LookForTheLast => {
                self.survived = true;
                Some(Event::Survived("still there".into()))
            }
            Action::AskToStop | Action::Send(_) => {
                assert!(self.life.state.process().is_some());
                None
            }
        }
    }

    /// What holds at any time.
    fn check(&self) {
        let state = &self.life.state;
        if matches!(state, State::Stopping { .. } | State::BackingOff { .. } | State::Starting { late: false, .. }) {
            assert!(state.deadline(&self.policy).is_some(), "{state:?} would last for ever");
        }
        if self.leader && !self.survived {
            assert!(state.process().is_some(), "a process nobody knows of in {state:?}");
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start => self.give(Event::Start),
            Happening::Stop => self.give(Event::Stop),
            Happening::Restart => self.give(Event::Restart),
            Happening::Clear => self.give(Event::Clear),
            Happening::Ready => self.give(Event::Ready),
            Happening::Unwell => self.give(Event::Unwell("ill".into())),
            Happening::Death { failed, leaves } if self.leader => {
                self.leader = false;
                self.others += leaves;
                // Whose end is not the supervisor's business any more is not told.
                if self.life.state.process().is_some() {
                    self.give(Event::Ended { how: "x".into(), failed });
                }
            }
            Happening::OtherDeath if self.others > 0 => {
                self.others -= 1;
                self.give(Event::Tick);
            }
            Happening::Death { .. } | Happening::OtherDeath => {}
            Happening::Time(ms) => {
                self.life.now += Duration::from_millis(ms);
                self.give(Event::Tick);
            }
            Happening::Trouble { no_launch, immortal } => (self.no_launch, self.immortal) = (no_launch, immortal),
        }
    }

    fn ripen(&mut self) {
        if let Some(at) = self.life.state.deadline(&self.policy) {
            self.life.now = self.life.now.max(at);
        }
        self.give(Event::Tick);
    }
}

// The same cases in every run, so that none fails by luck.
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(2_000) })]

    /// Whatever happens in whatever order: there is never a second copy (see [`World::act`]), nothing transient lasts for ever,
    /// a stop always ends, and a start always leads to a running service once nothing is in its way.
    #[test]
    fn no_life_goes_wrong(
        restart in prop_oneof![Just(Restart::Always), Just(Restart::OnFailure), Just(Restart::Never)],
        happenings in prop::collection::vec(happening(), 1..80),
    ) {
        let mut world = World::new(restart);
        for happening in happenings {
            world.happen(happening);
        }
        // A stop ends, even of what cannot be killed.
        world.happen(Happening::Stop);
        for _ in 0..4 {
            world.ripen();
        }
        prop_assert!(matches!(world.life.state, State::Stopped { .. }), "a stop has not ended: {:?}", world.life.state);
        // What survived goes in the end, and then nothing keeps it from running.
        (world.leader, world.others, world.no_launch, world.immortal) = (false, 0, false, false);
        for event in [Event::Start, Event::Clear, Event::Ready] {
            world.give(event);
        }
        prop_assert_eq!(world.life.state.word(), "running");
    }
}

/// Every state, by a name for the table.
fn states(now: Instant) -> Vec<(&'static str, State)> {
    let stopping = |leader_gone, killed, next| State::Stopping { process: process(7), leader_gone, until: now, killed, next };
    let retry = Next::Retry { failures: 1, reason: "x".into() };
    let exit = Next::Exit { reason: "x".into(), failed: true };
    let starting = |late| State::Starting { process: process(7), since: now - POLICY.ready_timeout, failures: 0, late };
    vec![
        ("stopped", State::Stopped { reason: None }),
        ("exited", State::Exited { reason: "x".into(), failed: true }),
        ("waiting", State::Waiting),
        ("starting", starting(false)),
        ("starting, late", starting(true)),
        ("running", State::Running { process: process(7), since: now, failures: 0 }),
        ("stopping", stopping(false, false, Next::Rest)),
        ("stopping, to start anew", stopping(false, false, Next::Start)),
        ("stopping what is left", stopping(true, false, Next::Rest)),
        ("stopping what an end left behind", stopping(true, false, retry)),
        ("stopping what the last end left behind", stopping(true, false, exit)),
        ("stopping, KILL sent", stopping(false, true, Next::Rest)),
        ("backing-off", State::BackingOff { until: now, failures: 2, reason: "x".into() }),
    ]
}

/// Every event, by a name for the table, and the policy it meets.
fn events() -> Vec<(&'static str, Event, Restart)> {
    let ended = |failed| Event::Ended { how: "x".into(), failed };
    vec![
        ("start", Event::Start, Restart::Always),
        ("stop", Event::Stop, Restart::Always),
        ("restart", Event::Restart, Restart::Always),
        ("nothing to wait for", Event::Clear, Restart::Always),
        ("process made", Event::Launched(process(8)), Restart::Always),
        ("process not made", Event::NotLaunched("x".into()), Restart::Always),
        ("process not made (`restart = \"never\"`)", Event::NotLaunched("x".into()), Restart::Never),
        ("ready", Event::Ready, Restart::Always),
        ("first process ended", ended(true), Restart::Always),
        ("first process ended (not to be restarted)", ended(true), Restart::Never),
        ("health check failed", Event::Unwell("x".into()), Restart::Always),
        ("nothing is left", Event::Gone, Restart::Always),
        ("somebody outlived KILL", Event::Survived("x".into()), Restart::Always),
        ("time is up", Event::Tick, Restart::Always),
    ]
}

fn name_of(state: &State) -> String {
    match state {
        State::Starting { late: true, .. } => "starting, late".to_owned(),
        State::Stopping { killed: true, .. } => "stopping, KILL sent".to_owned(),
        State::Stopping { next: Next::Rest, leader_gone: true, .. } => "stopping what is left".to_owned(),
        State::Stopping { next: Next::Start, leader_gone: true, .. } => "stopping what is left, to start anew".to_owned(),
        State::Stopping { next: Next::Start, .. } => "stopping, to start anew".to_owned(),
        State::Stopping { next: Next::Retry { .. }, leader_gone: true, .. } => "stopping what an end left behind".to_owned(),
        State::Stopping { next: Next::Retry { .. }, .. } => "stopping, to try again".to_owned(),
        State::Stopping { next: Next::Exit { .. }, .. } => "stopping what the last end left behind".to_owned(),
        other => other.word().to_owned(),
    }
}

fn action_in_words(action: &Action) -> String {
    match action {
        Action::Launch => "make the process".to_owned(),
        Action::AskToStop => "send the stop signal, CONT".to_owned(),
        Action::Send(signal) => format!("send {}, CONT", signal.as_str().trim_start_matches("SIG")),
        Action::Look => "look who is left".to_owned(),
        Action::LookForTheLast => "name who is left".to_owned(),
    }
}

/// Events that only come in answer to an action that these states do not take.
fn cannot_be(state: &State, event: &Event) -> bool {
    match event {
        Event::Launched(_) | Event::NotLaunched(_) => !matches!(state, State::Waiting | State::BackingOff { .. }),
        Event::Gone => !matches!(state, State::Stopping { leader_gone: true, .. } | State::Stopping { killed: true, .. }),
        Event::Survived(_) => !matches!(state, State::Stopping { killed: true, .. }),
        _ => false,
    }
}

fn table() -> String {
    let now = Instant::now();
    let mut out = String::from("| state | event | next state | what is done |\n|---|---|---|---|\n");
    for (name, state) in states(now) {
        for (event_name, event, restart) in events() {
            let (next, actions) = step(state.clone(), event.clone(), now, &Policy { restart, ..POLICY });
            if cannot_be(&state, &event) || (next == state && actions.is_empty()) {
                continue;
            }
            let actions: Vec<String> = actions.iter().map(action_in_words).collect();
            let next = if next == state { "the same".to_owned() } else { name_of(&next) };
            let _ = writeln!(out, "| {name} | {event_name} | {next} | {} |", actions.join("; "));
        }
    }
    out
}

#[test]
fn the_documented_table_is_the_code() {
    let text = include_str!("../../../../docs/services.md");
    let begin = "<!-- transitions: begin -->\n";
    let documented = text.split(begin).nth(1).and_then(|rest| rest.split("<!-- transitions: end -->").next());
    let table = table();
    assert!(documented == Some(table.as_str()), "put this between the marks of docs/services.md:\n{table}");
}
