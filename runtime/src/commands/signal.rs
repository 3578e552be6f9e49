//! `dkm signal`, `dkm clear` and `dkm reopenlogs`: what the supervisor does at once.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{exit, no_supervisor};
use crate::cli::dkm::{Named, Signal};
use crate::control::{Reply, Request, Verb, client};
use crate::home::Home;
use crate::text::{harmless_line, json};

/// Sends a signal.
///
/// # Errors
/// When no supervisor runs, or it refuses.
pub fn run(home: &Home, options: &Signal) -> Result<ExitCode> {
    let request = Request { signal: Some(options.signal.to_string()), ..Request::new(Verb::Signal, &options.named.services) };
    at_once(home, &request, options.named.output.json, &format!("got {}", options.signal), exit::NOT_RUNNING)
}

/// Empties logs.
///
/// # Errors
/// When no supervisor runs, or it refuses.
pub fn clear(home: &Home, options: &Named) -> Result<ExitCode> {
    at_once(home, &Request::new(Verb::Clear, &options.services), options.output.json, "cleared", exit::FAILED)
}

/// Has the supervisor open its files anew.
///
/// # Errors
/// When no supervisor runs, or it refuses.
pub fn reopen(home: &Home) -> Result<ExitCode> {
    at_once(home, &Request::new(Verb::ReopenLogs, &[]), false, "reopened", exit::FAILED)
}

/// Asks, and says of each service that it is done, or what the problem is; then the end is `bad`.
fn at_once(home: &Home, request: &Request, as_json: bool, done: &str, bad: u8) -> Result<ExitCode> {
    let stream = client::connect(home)?.ok_or_else(|| no_supervisor(home))?;
    let reply = client::ask(home, stream, request)?;
    let Reply::Done { services, problems, .. } = &reply else { bail!("the supervisor gave an answer of another kind") };
    if as_json {
        println!("{}", json(&reply, true)?);
    } else {
        for service in services.iter().filter(|service| problems.iter().all(|problem| problem.service != service.name)) {
            println!("{}: {done}", service.name);
        }
    }
    problems.iter().for_each(|problem| eprintln!("{}: {}", problem.service, harmless_line(problem.message.as_bytes())));
    Ok(ExitCode::from(if problems.is_empty() { exit::GOOD } else { bad }))
}
