//! Work spread over the cores of the machine.

use crate::interrupt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The first of these items for which `look` finds something, with what it found. Looked at on all cores.
pub fn first_on_all_cores<T: Sync, R: Send>(items: &[T], look: impl Fn(&T) -> Option<R> + Sync) -> Option<(usize, R)> {
    let next = AtomicUsize::new(0);
    let found = on_all_cores(|| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if let Some(found) = look(items.get(at)?) {
                return Some((at, found));
            }
        }
    });
    found.into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// Does the same on as many threads as there are cores; what each has found.
pub fn on_all_cores<R: Send>(work: impl Fn() -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (1..cores()).filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, &work).ok()).collect();
        let mut found = vec![work()];
        found.extend(threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
        found
    })
}

/// Does something for each item, on so many threads.
///
/// # Errors
/// That of the first item, by its place in the list, that failed; [`crate::error::Kind::Interrupted`] after a signal.
pub fn each_on<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let share = || -> anyhow::Result<Vec<(usize, R)>> {
        let mut done = Vec::new();
        loop {
            interrupt::check()?;
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return Ok(done) };
            done.push((at, work(item)?));
        }
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.clamp(1, items.len().max(1))).map(|_| scope.spawn(share)).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut all = Vec::with_capacity(items.len());
    for part in parts {
        all.extend(part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}
