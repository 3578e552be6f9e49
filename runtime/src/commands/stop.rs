//! `dkm stop`.

use std::process::ExitCode;

use anyhow::Result;

use super::names::Known;
use super::{act, request};
use crate::cli::dkm::Act;
use crate::control::{Verb, client};
use crate::home::Home;
use crate::supervise::child;

/// Asks for it. Without a supervisor there is nothing to ask, unless an earlier one left something running.
///
/// # Errors
/// When a name is unknown, or the supervisor refuses.
pub fn run(home: &Home, options: &Act) -> Result<ExitCode> {
    let known = Known::at_least(home);
    known.need(&options.names.services)?;
    let stream = match client::connect(home)? {
        Some(stream) => stream,
        None if anything_left(home, &known) => client::connect_or_start(home)?,
        None => {
            println!("{}", if options.output.json { "[]" } else { "nothing runs" });
            return Ok(ExitCode::SUCCESS);
        }
    };
    act::ask(home, stream, &request(Verb::Stop, &options.names.services, options.waiting), &options.waiting, options.output)
}

/// Whether processes of any service live although no supervisor does.
pub fn anything_left(home: &Home, known: &Known) -> bool {
    known.names().any(|name| child::holder(&home.service_lock(name)).is_some())
}
