//! `dkm start`, `dkm restart`, and what else only asks for something and waits for it.

use std::process::ExitCode;

use anyhow::Result;

use super::{act, no_supervisor, request};
use crate::cli::dkm::Act;
use crate::control::{Verb, client};
use crate::home::Home;

/// Asks for it, starting the supervisor if need be.
///
/// # Errors
/// When there is no supervisor to be had, or it refuses.
pub fn run(home: &Home, verb: Verb, options: &Act) -> Result<ExitCode> {
    let stream = client::connect_or_start(home)?;
    act::ask(home, stream, &request(verb, &options.names.services, options.waiting), &options.waiting, options.output)
}

/// Asks for what makes no sense without a supervisor that runs.
///
/// # Errors
/// When none runs, or it refuses.
pub fn running(home: &Home, verb: Verb, options: &Act) -> Result<ExitCode> {
    let stream = client::connect(home)?.ok_or_else(|| no_supervisor(home))?;
    act::ask(home, stream, &request(verb, &options.names.services, options.waiting), &options.waiting, options.output)
}
