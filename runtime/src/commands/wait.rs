//! `dkm wait`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::exit::{TIME_OVER, UNKNOWN, ending};
use super::names::Known;
use super::{act, exit, interrupt, look, status};
use crate::cli::dkm::Wait;
use crate::clock::span;
use crate::control::client::{Conversation, Heard};
use crate::control::{Reply, Request, Status, Until, Verb, client};
use crate::home::Home;

/// How often to look for a supervisor that is not there yet.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until services are where they should be.
///
/// # Errors
/// When the time is over first, or a living supervisor cannot be asked.
pub fn run(home: &Home, options: &Wait) -> Result<ExitCode> {
    interrupt::prepare();
    let found = Known::at_least(home).find(&options.names.services);
    if !found.unknown.is_empty() {
        return Err(ending(UNKNOWN, Known::at_least(home).nobody(&found.unknown)));
    }
    let limit = match options.timeout {
        Some(span) => span.0,
        None => act::patience(&home.services().unwrap_or_default(), Verb::Restart),
    };
    let until = Instant::now() + limit;
    let over = |services: &[Status]| {
        let names: Vec<String> = services
            .iter()
            .filter(|service| service.state != "running")
            .map(|service| format!("{} ({})", service.name, service.state))
            .collect();
        ending(TIME_OVER, format!("not there after {}: {}", span(limit), names.join(", ")))
    };
    loop {
        let services = match ask(home, options, &found.names, until)? {
            Some(services) => services,
            None => look(home, false)?.1.into_iter().filter(|service| found.names.contains(&service.name)).collect(),
        };
        let code = status::code(&services);
        let arrived = if options.ready { code == exit::GOOD } else { !services.iter().any(under_way) };
        if arrived {
            status::show(&services, options.output.json)?;
            return Ok(ExitCode::from(code));
        }
        if Instant::now() >= until {
            return Err(over(&services));
        }
        if interrupt::sleep(LOOK) {
            return Err(ending(exit::INTERRUPTED, "interrupted"));
        }
    }
}

fn under_way(service: &Status) -> bool {
    matches!(service.state.as_str(), "waiting" | "starting" | "stopping")
}

/// Lets the living supervisor wait; none when there is none, or when it went away meanwhile.
fn ask(home: &Home, options: &Wait, names: &[String], until: Instant) -> Result<Option<Vec<Status>>> {
    let Some(stream) = client::connect(home)? else { return Ok(None) };
    let request = Request {
        wait: true,
        until: if options.ready { Until::Ready } else { Until::Settled },
        ..Request::new(Verb::Wait, names)
    };
    let mut conversation = Conversation::begin(stream, &request)?;
    loop {
        match conversation.listen(Some(until)) {
            Ok(Heard::Reply(Reply::Done { services, .. })) => return Ok(Some(services)),
            Ok(Heard::Reply(Reply::Progress { .. })) => {}
            Ok(Heard::Reply(_)) => bail!("the supervisor gave an answer of another kind"),
            Ok(Heard::Nothing) => return Ok(None),
            Ok(Heard::Interrupted) => return Err(ending(exit::INTERRUPTED, "interrupted")),
            Err(_) if client::connect(home)?.is_none() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
