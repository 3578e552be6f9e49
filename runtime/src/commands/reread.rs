//! `dkm reread` and `dkm update`: how the definitions differ from what the supervisor works with, and applying that.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{act, exit, no_supervisor, request};
use crate::cli::dkm::{Act, Output};
use crate::control::{Change, ChangeKind, Reply, Request, Verb, client};
use crate::home::Home;
use crate::text::{harmless_line, json};

/// Shows the difference.
///
/// # Errors
/// When no supervisor runs, or it refuses.
pub fn run(home: &Home, output: Output) -> Result<ExitCode> {
    let stream = client::connect(home)?.ok_or_else(|| no_supervisor(home))?;
    let Reply::Done { changes, .. } = client::ask(home, stream, &Request::new(Verb::Reread, &[]))? else {
        bail!("the supervisor gave an answer of another kind");
    };
    if output.json {
        println!("{}", json(&changes, true)?);
    } else {
        show(&changes);
    }
    let broken = changes.iter().any(|change| change.kind == ChangeKind::Broken);
    Ok(ExitCode::from(if broken { exit::FAILED } else { exit::GOOD }))
}

/// Applies the difference.
///
/// # Errors
/// When there is no supervisor to be had, or it refuses.
pub fn update(home: &Home, options: &Act) -> Result<ExitCode> {
    let stream = client::connect_or_start(home)?;
    act::ask(home, stream, &request(Verb::Update, &options.names.services, options.waiting), &options.waiting, options.output)
}

/// Prints differences, one a line.
pub fn show(changes: &[Change]) {
    if changes.is_empty() {
        println!("the definitions are those in force");
    }
    for change in changes {
        let kind = match change.kind {
            ChangeKind::Added => "new",
            ChangeKind::Changed => "changed",
            ChangeKind::Removed => "gone",
            ChangeKind::Broken => "cannot be used",
        };
        let details = if change.details.is_empty() { String::new() } else { format!(": {}", change.details.join(", ")) };
        println!("{}: {kind}{}", change.service, harmless_line(details.as_bytes()));
    }
}
