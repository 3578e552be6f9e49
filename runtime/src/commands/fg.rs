//! `dkm fg`: one service's output, as if it ran in the foreground.
//!
//! Services have no standard input (it is /dev/null), so that nothing that is typed could reach one.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use super::follow::{Followed, LOOK};
use super::names::Known;
use super::{events, exit, interrupt, look, no_supervisor};
use crate::cli::dkm::Named1;
use crate::control::client::{Conversation, Heard};
use crate::control::{Reply, Request, Verb, client};
use crate::home::Home;
use crate::supervise::logs::stamp;
use crate::text::shown;

/// Follows a service until Ctrl-C or its end.
///
/// # Errors
/// When it does not run.
pub fn run(home: &Home, options: &Named1) -> Result<ExitCode> {
    let name = Known::at_least(home).need_one(&options.service)?;
    let stream = client::connect(home)?.ok_or_else(|| no_supervisor(home))?;
    // What is remembered of the time before is not told.
    let begin = stamp::now();
    let mut log = Followed::from_end(&name, &home.log(&name));
    let (_, services) = look(home, false)?;
    let state = services.iter().find(|service| service.name == name).map_or("unknown", |service| service.state.as_str());
    if matches!(state, "stopped" | "exited" | "broken" | "unknown") {
        return Err(exit::ending(
            exit::NOT_RUNNING,
            format!("{name} does not run: it is {state}. `dkm start {name}` starts it"),
        ));
    }
    interrupt::prepare();
    eprintln!("==> {name} ({state}); Ctrl-C leaves it running <==");
    let request = Request { follow: true, ..Request::new(Verb::Events, std::slice::from_ref(&name)) };
    let mut conversation = Conversation::begin(stream, &request)?;
    let mut ended = false;
    loop {
        for (_, line) in log.lines() {
            println!("{}", shown(&line));
        }
        std::io::stdout().flush()?;
        if ended {
            return Err(exit::ending(exit::NOT_RUNNING, format!("{name} does not run any more")));
        }
        match conversation.listen(Some(Instant::now() + LOOK))? {
            Heard::Nothing => {}
            Heard::Interrupted => {
                eprintln!("{name} runs on");
                return Ok(ExitCode::from(exit::INTERRUPTED));
            }
            Heard::Reply(Reply::Event { event }) if event.at < begin => {}
            Heard::Reply(Reply::Event { event }) => {
                eprintln!("==> {} <==", events::line(&event));
                ended = event.state.is_some_and(|state| matches!(state.as_str(), "stopped" | "exited" | "broken"));
            }
            Heard::Reply(Reply::Done { .. }) => {}
            Heard::Reply(_) => bail!("the supervisor gave an answer of another kind"),
        }
    }
}
