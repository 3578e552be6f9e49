//! `dkm restart`.

use std::process::ExitCode;

use anyhow::Result;

use super::{act, request};
use crate::cli::Act;
use crate::control::{Verb, client};
use crate::home::Home;

/// Asks for it, starting the supervisor if need be.
///
/// # Errors
/// When there is no supervisor to be had, or it refuses.
pub fn run(home: &Home, options: &Act) -> Result<ExitCode> {
    let stream = client::connect_or_start(home)?;
    act::ask(home, stream, &request(Verb::Restart, options))
}
