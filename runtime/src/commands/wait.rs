//! `dkm wait`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use super::act::Watch;
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
    let request = Request {
        wait: true,
        until: if options.ready { Until::Ready } else { Until::Settled },
        timeout_ms: u64::try_from(limit.as_millis()).ok(),
        ..Request::new(Verb::Wait, &found.names)
    };
    let mut watch = Watch::new(&request, limit, options.output);
    loop {
        let mut services = look(home, false)?.1;
        services.retain(|service| found.names.contains(&service.name));
        services.iter().for_each(|service| watch.knows(service));
        let code = status::code(&services);
        let arrived = if options.ready { code == exit::GOOD } else { !services.iter().any(under_way) };
        if arrived {
            watch.clear();
            status::show(&services, options.output.json)?;
            return Ok(ExitCode::from(code));
        }
        if watch.is_over() {
            return Err(watch.give_up(TIME_OVER, &format!("not there after {}", span(limit))));
        }
        // Without a supervisor one may come.
        if !ask(home, &request, &mut watch)? && interrupt::sleep(LOOK) {
            return Err(watch.give_up(exit::INTERRUPTED, "interrupted"));
        }
    }
}

fn under_way(service: &Status) -> bool {
    matches!(service.state.as_str(), "waiting" | "starting" | "stopping")
}

/// Lets the living supervisor wait; whether it has, or the time is over. There may be none, or it may go away meanwhile.
fn ask(home: &Home, request: &Request, watch: &mut Watch) -> Result<bool> {
    let Some(stream) = client::connect(home)? else { return Ok(false) };
    let mut conversation = Conversation::begin(stream, request)?;
    loop {
        match conversation.listen(Some(watch.next_look())) {
            Ok(Heard::Reply(Reply::Done { .. })) => return Ok(true),
            Ok(Heard::Reply(Reply::Progress { service })) => watch.told(&service),
            Ok(Heard::Reply(_)) => bail!("the supervisor gave an answer of another kind"),
            Ok(Heard::Nothing) if watch.is_over() => return Ok(true),
            Ok(Heard::Nothing) => watch.draw(),
            Ok(Heard::Interrupted) => return Err(watch.give_up(exit::INTERRUPTED, "interrupted")),
            Err(_) if client::connect(home)?.is_none() => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
