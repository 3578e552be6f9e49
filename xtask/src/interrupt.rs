//! Ctrl-C and SIGTERM: the first ends every running command's process group, a second one kills them.
//!
//! Commands run in groups of their own, so a terminal's Ctrl-C does not reach them by itself. Where no command runs, the
//! program leaves at once: everything it writes is written beside and renamed, so there is nothing to tidy up first.

use crate::error::Kind;
use crate::{events, progress};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long leaving may take.
const PATIENCE: Duration = Duration::from_millis(300);

static RECEIVED: AtomicUsize = AtomicUsize::new(0);
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Begins to listen for the signals.
///
/// # Errors
/// When the handlers cannot be set or the thread not started.
pub fn listen() -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            let before = RECEIVED.fetch_add(1, Ordering::SeqCst);
            let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
            if groups.is_empty() {
                tidy_up();
                std::process::exit(Kind::Interrupted as i32);
            }
            let signal = if before == 0 { Signal::TERM } else { Signal::KILL };
            for group in groups.iter().copied().filter_map(Pid::from_raw) {
                let _ = kill_process_group(group, signal);
            }
        }
    })?;
    Ok(())
}

/// Clears the terminal and ends the events, unless that takes long: a reader that has stopped reading, or a terminal that
/// was stopped, must not keep a program that is to leave.
fn tidy_up() {
    let (sender, done) = std::sync::mpsc::channel();
    let tidying = std::thread::Builder::new().name("tidying".to_owned()).spawn(move || {
        progress::clear();
        events::close(Kind::Interrupted as u8, Kind::Interrupted.name());
        let _ = sender.send(());
    });
    if tidying.is_ok() {
        let _ = done.recv_timeout(PATIENCE);
    }
}

/// Fails once a signal has come.
///
/// # Errors
/// [`Kind::Interrupted`].
pub fn check() -> anyhow::Result<()> {
    if RECEIVED.load(Ordering::SeqCst) == 0 {
        Ok(())
    } else {
        Err(Kind::Interrupted.error("interrupted; what was finished is kept, the next run goes on from there"))
    }
}

/// A running command's process group, known to the signal handler for as long as this lives.
pub struct Group(i32);

impl Group {
    /// Enters the group that the process `id` leads.
    pub fn enter(id: u32) -> Self {
        let id = i32::try_from(id).unwrap_or(i32::MAX);
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        // A signal between the start of the command and this line has found no group to end.
        if RECEIVED.load(Ordering::SeqCst) > 0
            && let Some(group) = Pid::from_raw(id)
        {
            let _ = kill_process_group(group, Signal::TERM);
        }
        Self(id)
    }

    /// Kills whatever of the group still runs.
    pub fn end(&self) {
        if let Some(group) = Pid::from_raw(self.0) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}
