//! What an earlier supervisor left running.
//!
//! Whether a service's processes live is told by its lock, which they inherited. Which process was the first one stands in the
//! lock file, written by that process itself; that the number still means the same process is checked by its start time (kept in
//! `run/state.json`) or, where the supervisor died before it wrote that, by the tag in the process's environment.

use super::child;
use super::store::Stored;
use crate::home::Home;
use crate::os;
use crate::supervise::state::Process;

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
    let known = stored.service(name).filter(|_| stored.boot == boot && !stored.closed);
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
    if is_it { Found::Alive(Process { pid, started, adopted: true }) } else { Found::Rest { group: pid, wanted } }
}

/// The PID of a service's living first process when no supervisor is there to ask.
#[must_use]
pub fn living(home: &Home, name: &str, stored: &Stored) -> Option<i32> {
    match look(home, name, stored, &os::boot_id()) {
        Found::Alive(process) => Some(process.pid),
        _ => None,
    }
}
