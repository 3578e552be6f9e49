//! `dkm events`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::names::Known;
use super::{exit, interrupt, no_supervisor};
use crate::cli::dkm::Events;
use crate::clock::utc;
use crate::control::client::{Conversation, Heard};
use crate::control::{Event, Reply, Request, Verb, client};
use crate::home::Home;
use crate::text::{harmless_line, json};

/// Shows what happened, and with `--follow` what happens.
///
/// # Errors
/// When no supervisor runs, a name is unknown, or the supervisor goes away.
pub fn run(home: &Home, options: &Events) -> Result<ExitCode> {
    Known::at_least(home).need(&options.names.services)?;
    let stream = client::connect(home)?.ok_or_else(|| no_supervisor(home))?;
    if options.follow {
        interrupt::prepare();
    }
    let request = Request { follow: options.follow, ..Request::new(Verb::Events, &options.names.services) };
    let mut conversation = Conversation::begin(stream, &request)?;
    loop {
        match conversation.listen(None)? {
            Heard::Reply(Reply::Event { event }) if options.output.json => println!("{}", json(&event, false)?),
            Heard::Reply(Reply::Event { event }) => println!("{}", line(&event)),
            Heard::Reply(Reply::Done { .. }) if options.follow => {}
            Heard::Reply(Reply::Done { .. }) => return Ok(ExitCode::SUCCESS),
            Heard::Interrupted => return Ok(ExitCode::from(exit::INTERRUPTED)),
            Heard::Reply(_) | Heard::Nothing => bail!("the supervisor gave an answer of another kind"),
        }
    }
}

/// An event in one line.
pub fn line(event: &Event) -> String {
    let who = event.service.as_deref().unwrap_or("supervisor");
    let state = match (&event.before, &event.state) {
        (Some(before), Some(state)) => format!(" {before} → {state}"),
        (None, Some(state)) => format!(" {state}"),
        _ => String::new(),
    };
    let pid = event.pid.map_or_else(String::new, |pid| format!(", process {pid}"));
    let more = if event.text.is_empty() { String::new() } else { format!(": {}", harmless_line(event.text.as_bytes())) };
    let missed =
        if event.missed > 0 { format!("({} events before this one were missed)\n", event.missed) } else { String::new() };
    let time = utc(event.at / 1_000);
    format!("{missed}{}.{:03}Z  {who}{state}{pid}{more}", time.trim_end_matches('Z'), event.at % 1_000)
}
