//! How long the rest of a run will probably take, from the times of earlier runs.
//!
//! The steps that are left are played through as the scheduler would run them: under the budgets, the one with the longest
//! way to go first. The guess is only as good as what is remembered: with nothing remembered there is none, and a
//! step that never ran counts as nothing, which is said ([`Forecast::at_least`]).

use super::{Ahead, Fate};
use crate::history::Remembered;
use crate::resources::Resources;
use std::time::Duration;

/// A guess at the time that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// The time.
    pub left: Duration,
    /// Whether steps are among them that nobody knows anything of, so that it will be more.
    pub at_least: bool,
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// Running, with the time since it began.
    Running(Duration),
    Done,
}

/// The steps of the plan, and how far each is.
#[derive(Debug, Default)]
pub struct Course {
    steps: Vec<Ahead>,
    expected: Vec<Option<Duration>>,
    states: Vec<State>,
    began: Vec<Option<Duration>>,
    /// Time that a step and all that waits for it need, one after the other.
    ways: Vec<Duration>,
    limit: Option<Resources>,
    /// Steps that were begun though they are not in the plan.
    unplanned: (usize, usize),
}

impl Course {
    /// Nothing has begun.
    pub fn new(mut steps: Vec<Ahead>, remembered: &Remembered, limit: Resources) -> Self {
        for (at, step) in steps.iter_mut().enumerate() {
            step.after.retain(|&before| before < at);
        }
        let expected: Vec<_> = steps.iter().map(|step| remembered.wall(&step.component, &step.step)).collect();
        let state = |step: &Ahead| if matches!(step.fate, Fate::Cached(_)) { State::Done } else { State::Waiting };
        let states: Vec<_> = steps.iter().map(state).collect();
        let mut course = Self {
            ways: vec![Duration::ZERO; steps.len()],
            began: vec![None; steps.len()],
            limit: Some(limit),
            unplanned: (0, 0),
            steps,
            expected,
            states,
        };
        course.measure_ways();
        course
    }

    /// A step's way is its own time and the longest way of those that wait for it. A plan lists what a step needs before it.
    fn measure_ways(&mut self) {
        for at in (0..self.steps.len()).rev() {
            self.ways[at] += self.expected[at].unwrap_or_default();
            for &before in &self.steps[at].after {
                self.ways[before] = self.ways[before].max(self.ways[at]);
            }
        }
    }

    fn find(&self, component: &str, step: &str) -> Option<usize> {
        self.steps.iter().position(|ahead| ahead.component == component && ahead.step == step)
    }

    /// A step begins, `now` after the run; gives why it has to run and how long it will probably take.
    pub fn begin(&mut self, component: &str, step: &str, now: Duration) -> (Option<&str>, Option<Duration>) {
        let Some(at) = self.find(component, step) else {
            self.unplanned.1 += 1;
            return (None, None);
        };
        self.states[at] = State::Running(Duration::ZERO);
        self.began[at] = Some(now);
        let why = match &self.steps[at].fate {
            Fate::Run(why) => Some(why.as_str()),
            Fate::Cached(_) => None,
        };
        (why, self.expected[at])
    }

    /// A step has ended.
    pub fn end(&mut self, component: &str, step: &str) {
        match self.find(component, step) {
            Some(at) => self.states[at] = State::Done,
            None => self.unplanned.0 += 1,
        }
    }

    /// How many steps are done, of how many.
    pub fn count(&self) -> (usize, usize) {
        let done = self.states.iter().filter(|state| **state == State::Done).count();
        (done + self.unplanned.0, self.states.len() + self.unplanned.1)
    }

    /// The time left, `now` after the run began.
    pub fn forecast(&self, now: Duration) -> Option<Forecast> {
        let limit = self.limit?;
        let mut states = self.states.clone();
        for (state, began) in states.iter_mut().zip(&self.began) {
            if let (State::Running(elapsed), Some(began)) = (state, began) {
                *elapsed = now.saturating_sub(*began);
            }
        }
        let open = || states.iter().zip(&self.expected).filter(|(state, _)| **state != State::Done);
        if !open().any(|(_, expected)| expected.is_some()) {
            return None;
        }
        let at_least = open().any(|(_, expected)| expected.is_none());
        Some(Forecast { left: self.play(states, limit), at_least })
    }

    /// Plays the run to its end; gives how long that takes.
    fn play(&self, mut states: Vec<State>, limit: Resources) -> Duration {
        let mut clock = Duration::ZERO;
        let mut free = limit;
        // What runs, with the time on `clock` at which it ends.
        let mut running: Vec<(Duration, usize)> = Vec::new();
        for (at, state) in states.iter().enumerate() {
            if let State::Running(elapsed) = state {
                free = free.without(self.steps[at].need.within(limit));
                running.push((self.expected[at].unwrap_or_default().saturating_sub(*elapsed), at));
            }
        }
        loop {
            let ready = |at: &usize| {
                states[*at] == State::Waiting && self.steps[*at].after.iter().all(|&before| states[before] == State::Done)
            };
            let next = (0..states.len())
                .filter(ready)
                .filter(|&at| self.steps[at].need.within(limit).fits(free))
                .max_by_key(|&at| (self.ways[at], usize::MAX - at));
            if let Some(at) = next {
                states[at] = State::Running(Duration::ZERO);
                free = free.without(self.steps[at].need.within(limit));
                running.push((clock + self.expected[at].unwrap_or_default(), at));
                continue;
            }
            let Some(first) = (0..running.len()).min_by_key(|&place| running[place].0) else { return clock };
            let (end, at) = running.swap_remove(first);
            clock = clock.max(end);
            states[at] = State::Done;
            free = free.with(self.steps[at].need.within(limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Resources = Resources { cores: 2, memory_mb: 1000 };

    fn step(name: &str, after: &[usize], cores: u32) -> Ahead {
        Ahead {
            component: "x".to_owned(),
            step: name.to_owned(),
            after: after.to_vec(),
            need: Resources { cores, memory_mb: 0 },
            fate: Fate::Run("was never built here".to_owned()),
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Two chains of 10 + 20 and 40 seconds, and a step of one that needs both.
    fn course() -> Course {
        let steps = vec![step("a", &[], 1), step("b", &[0], 1), step("c", &[], 1), step("d", &[1, 2], 1)];
        let remembered = Remembered::of([("x", "a", 10.0), ("x", "b", 20.0), ("x", "c", 40.0), ("x", "d", 1.0)]);
        Course::new(steps, &remembered, LIMIT)
    }

    #[test]
    fn the_longest_path_is_what_is_left_and_it_shrinks_as_time_goes_by() {
        let mut course = course();
        assert_eq!(course.forecast(secs(0)), Some(Forecast { left: secs(41), at_least: false }));
        course.begin("x", "a", secs(0));
        assert_eq!(course.begin("x", "c", secs(0)), (Some("was never built here"), Some(secs(40))));
        assert_eq!(course.forecast(secs(5)).unwrap().left, secs(36));
        course.end("x", "a");
        course.end("x", "c");
        assert_eq!(course.forecast(secs(40)).unwrap().left, secs(21));
        assert_eq!(course.count(), (2, 4));
        course.end("x", "b");
        course.end("x", "d");
        assert_eq!(course.forecast(secs(70)), None);
    }

    #[test]
    fn on_one_core_all_steps_run_one_after_the_other() {
        let course = Course { limit: Some(Resources { cores: 1, memory_mb: 1 }), ..course() };
        assert_eq!(course.forecast(secs(0)).unwrap().left, secs(71));
    }

    #[test]
    fn a_need_beyond_the_machine_runs_alone() {
        let steps = vec![step("a", &[], 64), step("b", &[], 1)];
        let course = Course::new(steps, &Remembered::of([("x", "a", 10.0), ("x", "b", 5.0)]), LIMIT);
        assert_eq!(course.forecast(secs(0)).unwrap().left, secs(15));
    }

    #[test]
    fn without_memory_nothing_is_promised_and_with_half_of_it_a_lower_bound() {
        let steps = || vec![step("a", &[], 1), step("b", &[0], 1)];
        assert_eq!(Course::new(steps(), &Remembered::default(), LIMIT).forecast(secs(0)), None);
        let half = Course::new(steps(), &Remembered::of([("x", "a", 3.0)]), LIMIT);
        assert_eq!(half.forecast(secs(1)), Some(Forecast { left: secs(3), at_least: true }));
        assert_eq!(Course::default().forecast(secs(0)), None);
    }

    #[test]
    fn what_is_cached_is_done_and_what_was_not_planned_is_counted_too() {
        let mut steps = vec![step("a", &[], 1), step("b", &[0], 1)];
        steps[0].fate = Fate::Cached(None);
        let mut course = Course::new(steps, &Remembered::of([("x", "a", 3.0), ("x", "b", 4.0)]), LIMIT);
        assert_eq!(course.count(), (1, 2));
        assert_eq!(course.forecast(secs(0)).unwrap().left, secs(4));
        course.begin("x", "surprise", secs(0));
        assert_eq!(course.count(), (1, 3));
        course.end("x", "surprise");
        assert_eq!(course.count(), (2, 3));
    }
}
