//! `dkmadmin`: what concerns a bundle and not a running monitor.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Admin, AdminVerb};

pub mod verify;
mod version;

/// Runs a verb.
///
/// # Errors
/// Whatever the verb could not do, in words.
pub fn run(arguments: &Admin) -> Result<ExitCode> {
    match &arguments.verb {
        AdminVerb::Version => version::run(),
        AdminVerb::Verify(arguments) => verify::run(arguments),
    }
}
