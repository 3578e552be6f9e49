//! `lock`: what can be done with the pins.
//!
//! Reading the lock refuses what can never be right ([`crate::stack::lock`]); `check` finds what most likely is not, and
//! `bump` is the way to change a pin so that neither has anything to say.

mod bump;
mod check;
mod download;
mod edit;
mod licences;
mod version;

pub use edit::rewritten;

use crate::cli;

/// Hands over to the one that is wanted.
///
/// # Errors
/// Theirs.
pub fn run(command: &cli::Lock) -> anyhow::Result<()> {
    match command {
        cli::Lock::Check(args) => check::run(args),
        cli::Lock::Bump(args) => bump::run(args),
    }
}
