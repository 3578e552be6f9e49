//! Who may do what: on Linux root is refused what runs or changes something, unless told.
//!
//! A supervisor started by root would run every service as root, and leave files in the data folder that its owner cannot change.
//! Whoever wants that says so. Looking is harmless, and open to root. On macOS collectd's plugins for disks and processors need
//! root, so that it is allowed there; a line says that every service then runs as root.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use super::exit;
use crate::cli::dkm::Verb;

/// The variable that allows root, for machines on which it is always meant.
pub const VARIABLE: &str = "DKM_ALLOW_ROOT";

/// Whether `--allow-root` was given.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Takes note of `--allow-root`.
pub fn allow() {
    TOLD.store(true, Ordering::Relaxed);
}

/// Whether root was allowed, by the flag or by the environment.
#[must_use]
pub fn is_allowed() -> bool {
    TOLD.load(Ordering::Relaxed) || std::env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

/// Refuses root, or tells what it means.
///
/// # Errors
/// When root may not.
pub fn check(verb: &Verb) -> Result<()> {
    if only_looks(verb) { Ok(()) } else { may_change() }
}

/// The same, for what runs or changes something.
///
/// # Errors
/// When root may not.
pub fn may_change() -> Result<()> {
    if !nix::unistd::geteuid().is_root() || is_allowed() {
        return Ok(());
    }
    if cfg!(target_os = "macos") {
        eprintln!(
            "dkm: this is root: collectd's plugins for disks and processors need it here, and every other service gets it too"
        );
        return Ok(());
    }
    Err(exit::ending(
        exit::NOT_ALLOWED,
        format!(
            "this is root, and the services would run as root. Call dkm as the owner of the data folder; or, if root is \
             meant, with --allow-root or {VARIABLE}=1"
        ),
    ))
}

/// Whether a verb leaves everything as it is.
fn only_looks(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Status(_)
            | Verb::Wait(_)
            | Verb::Pid(_)
            | Verb::Avail(_)
            | Verb::Version(_)
            | Verb::Events(_)
            | Verb::Tail(_)
            | Verb::Maintail(_)
            | Verb::Logs(_)
            | Verb::Fg(_)
            | Verb::Reread(_)
            | Verb::Completions { .. }
            | Verb::Complete { .. }
            | Verb::Shell
            | Verb::Top(_)
    )
}
