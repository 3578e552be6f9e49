//! Runs the tasks of a graph side by side under two budgets: cores and memory.
//!
//! A task states how many cores it keeps busy and how much memory it takes, and begins when those that it comes after have
//! ended well and both are free. Of those that could begin, the one with the longest way to the end of the graph does,
//! since the run cannot end before it. What a task needs beyond the whole machine is clamped: it then runs alone. What
//! only fetches takes no core, so that compiling goes on beside it. When a task fails, those behind it are left out; all
//! others are finished.
//!
//! A build tool is given as many jobs as there are cores (`-j`, `-p`), though others run beside it, and all but the tasks on the
//! longest way run with a lower priority. Giving each its share of the cores instead would leave cores idle when one step
//! is left with its small share; giving all the same priority would slow down the longest way: on two cores, one thread of
//! Grafana's pages (535 s) beside a compiler with two (555 s of work) gets two thirds of a core, so that both end after 674 s
//! instead of 555. Memory, which oversubscription costs, has a budget of its own. A make jobserver would be heard by make and
//! cargo alone, which have a tenth of the work; Go and Node do not know it.
//!
//! Some tasks are done by somebody else (all downloads share one client); they are only waited for, see [`Task::external`].

use crate::interrupt;
use crate::resources::Resources;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often an idle run looks for an interrupt.
const LOOK: Duration = Duration::from_millis(200);

/// One task of a graph.
#[derive(Clone, Debug)]
pub struct Task {
    /// What it takes of the machine.
    pub need: Resources,
    /// How long it will probably take.
    pub time: Duration,
    /// The tasks that have to end well before it begins, by number; all smaller than its own.
    pub after: Vec<usize>,
    /// Whether somebody else does it, who says so by [`Crew::end`].
    pub external: bool,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Waits,
    Runs,
    Good,
    /// It failed, or was left out because one before it failed, or because the run was given up.
    Lost,
}

struct State {
    free: Resources,
    stands: Vec<Stand>,
    given_up: bool,
}

/// Runs a graph.
pub struct Crew {
    total: Resources,
    tasks: Vec<Task>,
    /// The time from the begin of each task to the end of the graph, at the least.
    remaining: Vec<Duration>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Crew {
    /// A crew for this much of a machine.
    pub fn new(total: Resources, tasks: Vec<Task>) -> Self {
        let mut remaining: Vec<Duration> = tasks.iter().map(|task| task.time).collect();
        for at in (0..tasks.len()).rev() {
            for before in &tasks[at].after {
                remaining[*before] = remaining[*before].max(tasks[*before].time + remaining[at]);
            }
        }
        let stands = tasks.iter().map(|task| if task.external { Stand::Runs } else { Stand::Waits }).collect();
        let state = Mutex::new(State { free: total, stands, given_up: false });
        Self { total, tasks, remaining, state, changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no further task begin; those that run go on to their end.
    pub fn give_up(&self) {
        self.lock().given_up = true;
        self.changed.notify_all();
    }

    /// Says that an external task has ended.
    pub fn end(&self, task: usize, good: bool) {
        let mut state = self.lock();
        if state.stands[task] == Stand::Runs {
            state.stands[task] = if good { Stand::Good } else { Stand::Lost };
        }
        self.changed.notify_all();
    }

    /// Runs the graph to its end. `work` does a task, which it is told to be urgent or not, and says whether it ended well.
    pub fn run(&self, work: impl Fn(usize, bool) -> bool + Sync) {
        let work = |task: usize, need: Resources, urgent: bool| {
            // A panic is passed on when the thread is joined; nobody may wait for it until then.
            let guard = Ending { crew: self, task, need, good: false };
            let good = work(task, urgent);
            Ending::end(guard, good);
        };
        let work = &work;
        std::thread::scope(|scope| {
            let mut state = self.lock();
            loop {
                self.leave_out(&mut state);
                if let Some(task) = self.next(&state) {
                    let need = self.tasks[task].need.within(self.total);
                    let urgent = self.is_urgent(&state, task);
                    state.stands[task] = Stand::Runs;
                    state.free.cores -= need.cores;
                    state.free.memory_mb -= need.memory_mb;
                    drop(state);
                    if std::thread::Builder::new().spawn_scoped(scope, move || work(task, need, urgent)).is_err() {
                        // No thread was to be had; this one has time.
                        work(task, need, urgent);
                    }
                    state = self.lock();
                } else if state.stands.iter().any(|stand| matches!(stand, Stand::Waits | Stand::Runs)) {
                    state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
                    state.given_up |= interrupt::check().is_err();
                } else {
                    return;
                }
            }
        });
    }

    /// Leaves out what cannot begin any more.
    fn leave_out(&self, state: &mut State) {
        for (at, task) in self.tasks.iter().enumerate() {
            let lost = state.given_up || task.after.iter().any(|before| state.stands[*before] == Stand::Lost);
            if lost && state.stands[at] == Stand::Waits {
                state.stands[at] = Stand::Lost;
            }
        }
    }

    /// Whether no task that is left has a longer way to go, so that the run ends the later the later this one does.
    fn is_urgent(&self, state: &State, task: usize) -> bool {
        let left = state.stands.iter().zip(&self.remaining).filter(|(stand, _)| matches!(stand, Stand::Waits | Stand::Runs));
        left.map(|(_, remaining)| *remaining).max() == Some(self.remaining[task])
    }

    /// The tasks that could begin, were there room for all of them.
    fn ready<'s>(&'s self, state: &'s State) -> impl Iterator<Item = (usize, &'s Task)> {
        self.tasks.iter().enumerate().filter(|(at, task)| {
            state.stands[*at] == Stand::Waits && task.after.iter().all(|before| state.stands[*before] == Stand::Good)
        })
    }

    /// Whose turn it is: of those that could begin, the one with the longest way to go; of equals, who stands first.
    fn next(&self, state: &State) -> Option<usize> {
        let fitting = self.ready(state).filter(|(_, task)| task.need.within(self.total).fits(state.free));
        fitting.max_by_key(|(at, _)| (self.remaining[*at], usize::MAX - at)).map(|(at, _)| at)
    }
}

/// Gives back what a task took, also when it panics.
struct Ending<'a> {
    crew: &'a Crew,
    task: usize,
    need: Resources,
    good: bool,
}

impl Ending<'_> {
    fn end(mut self, good: bool) {
        self.good = good;
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.crew.lock();
        state.free.cores += self.need.cores;
        state.free.memory_mb += self.need.memory_mb;
        drop(state);
        self.crew.end(self.task, self.good);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn need(cores: u32, memory_mb: u64) -> Resources {
        Resources { cores, memory_mb }
    }

    fn task(need: Resources, secs: u64, after: &[usize]) -> Task {
        Task { need, time: Duration::from_secs(secs), after: after.to_vec(), external: false }
    }

    /// Runs a graph and gives the order in which its tasks began.
    fn order(total: Resources, tasks: Vec<Task>, good: impl Fn(usize) -> bool + Sync) -> Vec<usize> {
        let order = Mutex::new(Vec::new());
        Crew::new(total, tasks).run(|task, _| {
            order.lock().unwrap().push(task);
            good(task)
        });
        order.into_inner().unwrap()
    }

    #[test]
    fn the_longest_way_to_go_comes_first_and_nothing_before_what_it_needs() {
        // Two chains: 0 → 1 (short, then long) and 2; and 3 behind both.
        let one = need(1, 1);
        let tasks = vec![task(one, 1, &[]), task(one, 100, &[0]), task(one, 50, &[]), task(one, 1, &[1, 2])];
        assert_eq!(order(one, tasks, |_| true), [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_on_the_longest_way_is_urgent_and_the_rest_is_not() {
        let one = need(1, 1);
        let tasks = vec![task(one, 1, &[]), task(one, 100, &[0]), task(one, 50, &[]), task(one, 1, &[1, 2])];
        let urgent = Mutex::new(Vec::new());
        Crew::new(need(2, 2), tasks).run(|at, is_urgent| {
            urgent.lock().unwrap().push((at, is_urgent));
            // The long one runs until the one beside it has begun.
            while at == 1 && !urgent.lock().unwrap().iter().any(|(at, _)| *at == 2) {
                std::thread::yield_now();
            }
            true
        });
        let mut urgent = urgent.into_inner().unwrap();
        urgent.sort_unstable();
        assert_eq!(urgent, [(0, true), (1, true), (2, false), (3, true)]);
    }

    #[test]
    fn what_does_not_fit_waits_for_others_to_end_and_one_beyond_the_machine_runs_alone() {
        let total = need(3, 1000);
        let (cores, memory, peak) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let tasks: Vec<_> = (0..60_u64).map(|at| task(need((at % 5) as u32, 100 * (at % 13)), at, &[])).collect();
        let needs: Vec<_> = tasks.iter().map(|task| task.need.within(total)).collect();
        Crew::new(total, tasks).run(|at, _| {
            let now = cores.fetch_add(needs[at].cores, Ordering::SeqCst) + needs[at].cores;
            let used = memory.fetch_add(needs[at].memory_mb as u32, Ordering::SeqCst) + needs[at].memory_mb as u32;
            peak.fetch_max(now, Ordering::SeqCst);
            assert!(now <= 3 && used <= 1000, "{now} cores, {used} MB");
            std::thread::yield_now();
            memory.fetch_sub(needs[at].memory_mb as u32, Ordering::SeqCst);
            cores.fetch_sub(needs[at].cores, Ordering::SeqCst);
            true
        });
        assert!(peak.load(Ordering::SeqCst) > 1, "nothing ran side by side");
    }

    #[test]
    fn what_stands_behind_a_failure_is_left_out_and_the_rest_is_finished() {
        let one = need(1, 1);
        let tasks =
            || vec![task(one, 9, &[]), task(one, 5, &[0]), task(one, 1, &[]), task(one, 1, &[2]), task(one, 1, &[1, 3])];
        assert_eq!(order(one, tasks(), |at| at != 0), [0, 2, 3]);
        let crew = Crew::new(one, tasks());
        let begun = Mutex::new(Vec::new());
        crew.run(|at, _| {
            begun.lock().unwrap().push(at);
            crew.give_up();
            false
        });
        assert_eq!(begun.into_inner().unwrap(), [0], "given up, something has begun");
    }

    #[test]
    fn what_somebody_else_does_is_waited_for() {
        let one = need(1, 1);
        let tasks = vec![Task { external: true, ..task(need(0, 0), 1, &[]) }, task(one, 1, &[0]), task(one, 1, &[])];
        let crew = Crew::new(one, tasks);
        let order = Mutex::new(Vec::new());
        crew.run(|at, _| {
            order.lock().unwrap().push(at);
            if at == 2 {
                crew.end(0, true);
            }
            true
        });
        assert_eq!(order.into_inner().unwrap(), [2, 1]);
    }
}
