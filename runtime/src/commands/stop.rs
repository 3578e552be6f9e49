//! `dkm stop`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{act, request, resolve};
use crate::cli::Act;
use crate::control::{Verb, client};
use crate::home::Home;
use crate::supervise::child;

/// Asks for it. Without a supervisor there is nothing to ask, unless an earlier one left something running.
///
/// # Errors
/// When a name is unknown, or the supervisor refuses.
pub fn run(home: &Home, options: &Act) -> Result<ExitCode> {
    let stream = match client::connect(home)? {
        Some(stream) => stream,
        None => {
            let (unknown, names) = resolve(home, &options.names.services)?;
            if !unknown.is_empty() {
                bail!("there is no service {}. There are: {}", unknown.join(", "), names.join(", "));
            }
            if !anything_left(home)? {
                println!("nothing runs");
                return Ok(ExitCode::SUCCESS);
            }
            client::connect_or_start(home)?
        }
    };
    act::ask(home, stream, &request(Verb::Stop, options))
}

/// Whether processes of any service live although no supervisor does.
///
/// # Errors
/// When the services cannot be read.
pub fn anything_left(home: &Home) -> Result<bool> {
    Ok(home.services()?.iter().any(|service| child::holder(&home.service_lock(&service.name)).is_some()))
}
