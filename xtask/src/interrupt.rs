//! Ctrl-C and SIGTERM: the first ends every running command's process group, a second one kills all that commands have started.
//!
//! Commands run in groups of their own, so a terminal's Ctrl-C does not reach them by itself. What does not end by itself
//! within [`GRACE`] is killed without a second signal: who cancels a build in CI cannot send one. Where no command runs, the
//! program leaves at once: everything it writes is written beside and renamed, so there is nothing to tidy up first but
//! the terminal and the events. What has left its group is ended by its command's attendant ([`crate::attend`]).

use crate::error::Kind;
use crate::{attend, events, progress};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long leaving may take.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long commands have to end after the first signal.
const GRACE: Duration = Duration::from_secs(8);

static RECEIVED: AtomicUsize = AtomicUsize::new(0);
/// The groups of running commands, and whether an attendant leads each.
static GROUPS: Mutex<BTreeMap<i32, bool>> = Mutex::new(BTreeMap::new());

/// Begins to listen for the signals.
///
/// # Errors
/// When the handlers cannot be set or the thread not started.
pub fn listen() -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            let before = RECEIVED.fetch_add(1, Ordering::SeqCst);
            let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if groups.is_empty() {
                tidy_up();
                std::process::exit(Kind::Interrupted as i32);
            }
            groups.iter().for_each(|(group, attended)| stop(*group, *attended, before + 1));
            if before == 0 {
                after_the_first(groups.len());
            }
        }
    })?;
    Ok(())
}

/// Ends a group as the `count`th signal wants it.
fn stop(group: i32, attended: bool, count: usize) {
    let Some(group) = Pid::from_raw(group) else { return };
    let _ = match (count, attended) {
        (0..=1, _) => kill_process_group(group, Signal::TERM),
        // The attendant kills the others, those out of our reach too; so it has to live.
        (_, true) => kill_process(group, attend::END),
        (_, false) => kill_process_group(group, Signal::KILL),
    };
    // What was stopped takes nothing but KILL until it goes on.
    let _ = kill_process_group(group, Signal::CONT);
}

/// Says what can be done, and does it when nobody else has after a while. In a thread, as standard error may not take it.
fn after_the_first(count: usize) {
    let _ = std::thread::Builder::new().name("grace".to_owned()).spawn(move || {
        let what = if count == 1 { "a command".to_owned() } else { format!("{count} commands") };
        progress::say(&format!("  interrupted: waiting for {what} to end, {} s at most; once more kills", GRACE.as_secs()));
        std::thread::sleep(GRACE);
        RECEIVED.fetch_add(1, Ordering::SeqCst);
        let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        groups.iter().for_each(|(group, attended)| stop(*group, *attended, 2));
    });
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
    /// Enters the group that the process `id` leads, which is an attendant or the command itself.
    pub fn enter(id: u32, attended: bool) -> Self {
        let id = i32::try_from(id).unwrap_or(i32::MAX);
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(id, attended);
        // A signal between the start of the command and this line has found no group to end.
        let received = RECEIVED.load(Ordering::SeqCst);
        if received > 0 {
            stop(id, attended, received);
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
