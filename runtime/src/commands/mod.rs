//! The verbs of `dkm`, one a file.
//!
//! Those that change something talk to a supervisor, and start one if there is none. Those that only show something never do: they
//! ask a living supervisor, or else look at what the last one left ([`look`]).

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::cli::{Act, Dkm, Verb};
use crate::control::{self, Reply, Request, Status, SupervisorStatus, client};
use crate::home::Home;
use crate::supervise;
use crate::supervise::store::Stored;

mod act;
mod check;
mod pid;
mod restart;
mod shutdown;
mod start;
mod status;
mod stop;
mod tail;

/// Runs a verb. `called_as`: the name that the program was called by, which tells the data folder.
///
/// # Errors
/// Whatever the verb could not do, in words.
pub fn run(arguments: &Dkm, called_as: &OsStr) -> Result<ExitCode> {
    let home = Home::find(arguments.home.as_deref(), called_as)?;
    match &arguments.verb {
        Verb::Start(options) => start::run(&home, options),
        Verb::Stop(options) => stop::run(&home, options),
        Verb::Restart(options) => restart::run(&home, options),
        Verb::Shutdown(options) => shutdown::run(&home, options),
        Verb::Status(options) => status::run(&home, options),
        Verb::Pid(options) => pid::run(&home, options),
        Verb::Tail(options) => tail::run(&home, options),
        Verb::Check(options) => check::run(&home, options),
        Verb::Supervisor => supervise::run(home).map(|()| ExitCode::SUCCESS),
    }
}

/// The request for a verb that changes something.
fn request(verb: control::Verb, options: &Act) -> Request {
    Request { wait: !options.no_wait, ..Request::new(verb, &options.names.services) }
}

/// What runs, as far as can be known without starting anything: the living supervisor's answer, or what the last one left, checked
/// against what lives. The supervisor is none when none lives.
///
/// # Errors
/// When a living supervisor cannot be asked, or the services cannot be read.
fn look(home: &Home) -> Result<(Option<SupervisorStatus>, Vec<Status>)> {
    if let Some(stream) = client::connect(home)? {
        let request = Request::new(control::Verb::Status, &[]);
        let Reply::Done { supervisor, services, .. } = client::ask(stream, &request, |_| {})? else {
            bail!("the supervisor gave an answer of another kind");
        };
        return Ok((Some(supervisor), services));
    }
    let stored = Stored::read(home);
    let services = home.services()?.into_iter().map(|service| {
        let name = service.name;
        let known = stored.service(&name);
        match supervise::adopt::living(home, &name, &stored) {
            Some(pid) => Status {
                state: "running".to_owned(),
                pid: Some(pid),
                wanted: true,
                since: known.map_or(0, |known| known.since),
                reason: Some("no supervisor: the next command that needs one adopts it".to_owned()),
                name,
                ..Status::default()
            },
            None => Status {
                state: "stopped".to_owned(),
                since: known.map_or(0, |known| known.since),
                reason: known.filter(|known| known.pid.is_some()).map(|_| "ended while there was no supervisor".to_owned()),
                name,
                ..Status::default()
            },
        }
    });
    Ok((None, services.collect()))
}

/// The names among `asked` that no service has, aliases being known too; and the canonical names of the others, all when none was
/// asked for.
///
/// # Errors
/// When the services cannot be read.
fn resolve(home: &Home, asked: &[String]) -> Result<(Vec<String>, Vec<String>)> {
    let services = home.services().context("cannot tell which services there are")?;
    if asked.is_empty() || asked.iter().any(|name| name == "all") {
        return Ok((Vec::new(), services.into_iter().map(|service| service.name).collect()));
    }
    let unknown = asked.iter().filter(|name| !services.iter().any(|service| service.answers_to(name))).cloned().collect();
    let known = services.into_iter().filter(|service| asked.iter().any(|name| service.answers_to(name)));
    Ok((unknown, known.map(|service| service.name).collect()))
}

/// Text from a service or a file, made harmless for a terminal: control characters are shown, not obeyed.
fn harmless(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn escape_sequences_are_shown_and_not_obeyed() {
        assert_eq!(super::harmless(b"a\x1b[2Jb\t\xff\r\n"), "a\\u{1b}[2Jb\t\u{fffd}\\r\n");
    }
}
