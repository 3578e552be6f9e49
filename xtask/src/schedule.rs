//! Runs components side by side under two budgets: cores and memory.
//!
//! Every component is a chain of steps. A step states how many cores it keeps busy and how much memory it takes, and waits
//! until both are free; of those that wait and fit, the one whose chain has the longest way to go runs first, since the
//! run cannot end before it. What a step needs beyond the whole machine is clamped: it then runs alone.

use crate::interrupt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a step that waits looks for an interrupt.
const LOOK: Duration = Duration::from_millis(200);

/// Cores and memory: of the machine, or what a step needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Cores.
    pub cores: u32,
    /// Memory in MB.
    pub memory_mb: u64,
}

impl Resources {
    /// No more than there is.
    pub fn within(self, limit: Self) -> Self {
        Self { cores: self.cores.min(limit.cores), memory_mb: self.memory_mb.min(limit.memory_mb) }
    }

    /// Whether it can be had of what is free.
    pub fn fits(self, free: Self) -> bool {
        self.cores <= free.cores && self.memory_mb <= free.memory_mb
    }

    /// What is left when this is taken.
    pub fn without(self, taken: Self) -> Self {
        Self { cores: self.cores.saturating_sub(taken.cores), memory_mb: self.memory_mb.saturating_sub(taken.memory_mb) }
    }

    /// What is there when this is given back.
    pub fn with(self, given: Self) -> Self {
        Self { cores: self.cores.saturating_add(given.cores), memory_mb: self.memory_mb.saturating_add(given.memory_mb) }
    }
}

/// A step that waits.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    need: Resources,
    /// The time that its component still needs, itself included.
    remaining: Duration,
}

struct State {
    free: Resources,
    waiting: Vec<Ticket>,
    last_number: u64,
    given_up: bool,
}

/// Hands out the machine.
pub struct Scheduler {
    total: Resources,
    state: Mutex<State>,
    changed: Condvar,
}

impl Scheduler {
    /// A scheduler for this much of a machine.
    pub fn new(total: Resources) -> Self {
        let state = State { free: total, waiting: Vec::new(), last_number: 0, given_up: false };
        Self { total, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Takes a place among those that wait. `remaining` is the time that the step's component still needs, the step
    /// included. Nobody runs before he waits; who is to be compared with others has to be announced before they do.
    pub fn announce(&self, need: Resources, remaining: Duration) -> Claim<'_> {
        let need = need.within(self.total);
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.waiting.push(Ticket { number, need, remaining });
        Claim { scheduler: self, number, need }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no further step begin; those that run go on to their end.
    pub fn give_up(&self) {
        self.lock().given_up = true;
        self.changed.notify_all();
    }
}

/// Why a step was not begun: another component failed, and the run was given up for it.
#[derive(Debug)]
pub struct GivenUp;

impl std::fmt::Display for GivenUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not begun, since another component failed (--fail-fast)")
    }
}

impl std::error::Error for GivenUp {}

/// Whose turn it is: of those that fit, the one with the longest way to go; of equals, who came first.
fn next(waiting: &[Ticket], free: Resources) -> Option<u64> {
    waiting
        .iter()
        .filter(|ticket| ticket.need.fits(free))
        .max_by_key(|ticket| (ticket.remaining, u64::MAX - ticket.number))
        .map(|ticket| ticket.number)
}

/// A place among those that wait; given up when dropped.
pub struct Claim<'a> {
    scheduler: &'a Scheduler,
    number: u64,
    need: Resources,
}

impl<'a> Claim<'a> {
    /// Waits until the step may run.
    ///
    /// # Errors
    /// [`crate::error::Kind::Interrupted`] when the run is, [`GivenUp`] when it has been given up.
    pub fn wait(self) -> anyhow::Result<Permit<'a>> {
        let scheduler = self.scheduler;
        let mut state = scheduler.lock();
        loop {
            interrupt::check()?;
            if state.given_up {
                return Err(GivenUp.into());
            }
            if next(&state.waiting, state.free) == Some(self.number) {
                state.free.cores -= self.need.cores;
                state.free.memory_mb -= self.need.memory_mb;
                let need = self.need;
                // The claim is dropped on return, which needs the lock.
                drop(state);
                return Ok(Permit { scheduler, need });
            }
            state = scheduler.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.scheduler.lock().waiting.retain(|ticket| ticket.number != self.number);
        // Another one may fit as well, or instead.
        self.scheduler.changed.notify_all();
    }
}

/// The right to run; given back when dropped.
pub struct Permit<'a> {
    scheduler: &'a Scheduler,
    need: Resources,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.scheduler.lock();
        state.free.cores += self.need.cores;
        state.free.memory_mb += self.need.memory_mb;
        self.scheduler.changed.notify_all();
    }
}

/// Does something for each item on as many threads as there are items, or as can be had; the results stand in the items'
/// order.
pub fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let begin = |item| std::thread::Builder::new().spawn_scoped(scope, move || work(item)).map_err(|_| item);
        let threads: Vec<_> = items.iter().map(begin).collect();
        let end = |thread| match thread {
            Ok(thread) => std::thread::ScopedJoinHandle::join(thread).unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // No thread was to be had; this one has time.
            Err(item) => work(item),
        };
        threads.into_iter().map(end).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn need(cores: u32, memory_mb: u64) -> Resources {
        Resources { cores, memory_mb }
    }

    #[test]
    fn the_longest_way_to_go_comes_first_among_those_that_fit() {
        let ticket =
            |number, cores, memory, secs| Ticket { number, need: need(cores, memory), remaining: Duration::from_secs(secs) };
        let waiting = [ticket(1, 1, 100, 10), ticket(2, 2, 100, 500), ticket(3, 1, 9000, 300), ticket(4, 1, 100, 10)];
        assert_eq!(next(&waiting, need(2, 10_000)), Some(2));
        assert_eq!(next(&waiting, need(1, 10_000)), Some(3));
        assert_eq!(next(&waiting, need(1, 500)), Some(1));
        assert_eq!(next(&waiting, need(0, 10_000)), None);
    }

    #[test]
    fn budgets_are_never_exceeded_and_a_need_beyond_the_machine_runs_alone() {
        let scheduler = Scheduler::new(need(3, 1000));
        let (cores, memory, peak) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let items: Vec<_> = (0..60_u64).map(|at| need(1 + (at % 5) as u32, 100 * (at % 13))).collect();
        side_by_side(&items, |item| {
            let permit = scheduler.announce(*item, Duration::from_secs(item.memory_mb)).wait().unwrap();
            let now = cores.fetch_add(permit.need.cores, Ordering::SeqCst) + permit.need.cores;
            let used = memory.fetch_add(permit.need.memory_mb as u32, Ordering::SeqCst) + permit.need.memory_mb as u32;
            peak.fetch_max(now, Ordering::SeqCst);
            assert!(now <= 3 && used <= 1000, "{now} cores, {used} MB");
            std::thread::yield_now();
            memory.fetch_sub(permit.need.memory_mb as u32, Ordering::SeqCst);
            cores.fetch_sub(permit.need.cores, Ordering::SeqCst);
        });
        assert!(peak.load(Ordering::SeqCst) > 1, "nothing ran side by side");
        assert_eq!(scheduler.state.lock().unwrap().free, need(3, 1000));
    }

    #[test]
    fn who_was_announced_with_a_longer_way_goes_first_even_if_he_comes_late() {
        let scheduler = Scheduler::new(need(1, 1));
        let long = scheduler.announce(need(1, 1), Duration::from_secs(100));
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let short = scheduler.announce(need(1, 1), Duration::from_secs(1));
            let order = &order;
            scope.spawn(move || {
                let _permit = short.wait().unwrap();
                order.lock().unwrap().push("short");
            });
            let _permit = long.wait().unwrap();
            order.lock().unwrap().push("long");
        });
        assert_eq!(*order.lock().unwrap(), ["long", "short"]);
    }

    #[test]
    fn given_up_nothing_begins_any_more() {
        let scheduler = Scheduler::new(need(1, 1));
        scheduler.give_up();
        let error = scheduler.announce(need(1, 1), Duration::ZERO).wait().err().unwrap();
        assert!(error.is::<GivenUp>());
    }
}
