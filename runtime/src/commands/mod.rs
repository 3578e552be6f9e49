//! The verbs of `dkm`, one a file.
//!
//! Those that change something talk to a supervisor, and start one if there is none. Those that only show something never do: they
//! ask a living supervisor, or else look at what the last one left ([`look`]).
//!
//! What services wrote and what they are about is shown harmless ([`text`]); a reader that goes away is no error; Ctrl-C ends the
//! waiting and not what is waited for ([`interrupt`]); the numbers that verbs end with are in [`exit`].

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::CommandFactory;

use crate::cli::dkm::{Act, ActNamed, Dkm, Names, Verb, Waiting};
use crate::control::{self, Reply, Request, Status, SupervisorStatus, client};
use crate::home::{Home, VARIABLE};
use crate::os;
use crate::supervise;
use crate::supervise::store::Stored;

pub mod act;
pub mod avail;
pub mod check;
pub mod complete;
pub mod events;
pub mod exit;
pub mod fg;
pub mod follow;
pub mod interrupt;
pub mod logs;
pub mod names;
pub mod pid;
pub mod reread;
pub mod root;
pub mod run;
pub mod shell;
pub mod shutdown;
pub mod signal;
pub mod start;
pub mod status;
pub mod stop;
pub mod tail;
pub mod top;
pub mod version;
pub mod wait;

/// Runs a verb. `called_as`: the name that the program was called by, which tells the data folder.
///
/// # Errors
/// Whatever the verb could not do, in words.
pub fn run(arguments: &Dkm, called_as: &OsStr) -> Result<ExitCode> {
    // A supervisor writes to pipes of its services.
    let is_one =
        |verb: &Verb| matches!(verb, Verb::Supervisor { .. }) || matches!(verb, Verb::Run(run) if run.service.is_none());
    if !arguments.verb.as_ref().is_some_and(is_one) {
        os::terminal::end_with_the_reader();
    }
    match &arguments.verb {
        Some(Verb::Completions { shell }) => return complete::script(*shell),
        Some(Verb::Complete { words }) => return Ok(complete::answer(arguments, called_as, words)),
        None if !on_a_terminal() => {
            eprint!("{}", Dkm::command().render_help());
            return Ok(ExitCode::from(2));
        }
        _ => {}
    }
    let home = find(arguments, called_as)?;
    if arguments.allow_root {
        root::allow();
    }
    if let Some(verb) = &arguments.verb {
        root::check(verb)?;
    }
    match &arguments.verb {
        Some(verb) => act(&home, verb),
        None => shell::run(&home),
    }
}

/// Runs a verb for a data folder.
fn act(home: &Home, verb: &Verb) -> Result<ExitCode> {
    use control::Verb as Asked;
    match verb {
        Verb::Start(options) => start::run(home, Asked::Start, options),
        Verb::Stop(options) => stop::run(home, options),
        Verb::Restart(options) => start::run(home, Asked::Restart, options),
        Verb::Reload(options) if options.names.services.is_empty() => reread::update(home, options),
        Verb::Reload(options) => start::running(home, Asked::Reload, options),
        Verb::Update(options) => reread::update(home, options),
        Verb::Add(options) | Verb::Remove(options) => reread::update(home, &as_act(options)),
        Verb::Reread(options) => reread::run(home, *options),
        Verb::Signal(options) => signal::run(home, options),
        Verb::Clear(options) => signal::clear(home, options),
        Verb::Reopenlogs => signal::reopen(home),
        Verb::Shutdown(options) => shutdown::run(home, options),
        Verb::UpgradeSelf(options) => shutdown::upgrade(home, *options),
        Verb::Status(options) => status::run(home, options),
        Verb::Wait(options) => wait::run(home, options),
        Verb::Pid(options) => pid::run(home, options),
        Verb::Avail(options) => avail::run(home, options),
        Verb::Version(options) => version::run(home, *options),
        Verb::Events(options) => events::run(home, options),
        Verb::Tail(options) => tail::run(home, options),
        Verb::Maintail(options) => tail::main(home, options),
        Verb::Logs(options) => logs::run(home, options),
        Verb::Fg(options) => fg::run(home, options),
        Verb::Run(options) => run::run(home, options),
        Verb::Top(options) => top::run(home, options),
        Verb::Shell => shell::run(home),
        Verb::Check(options) => check::run(home, options),
        Verb::Supervisor { start, forward } => {
            let beginning = supervise::Beginning { start: *start, forward: forward.forward_logs };
            supervise::run(home.clone(), beginning).map(|()| ExitCode::SUCCESS)
        }
        // Neither needs a data folder: `run` has answered them.
        Verb::Completions { .. } | Verb::Complete { .. } => Ok(ExitCode::SUCCESS),
    }
}

/// The data folder that is meant.
fn find(arguments: &Dkm, called_as: &OsStr) -> Result<Home> {
    let Some(socket) = &arguments.socket else { return Home::find(arguments.home.as_deref(), called_as) };
    let folder = std::path::absolute(socket).ok().and_then(|path| Some(path.parent()?.join("..")));
    let root: PathBuf = folder.with_context(|| format!("cannot use the socket {}", socket.display()))?;
    Home::open(&root).with_context(|| format!("the socket {} is not in the run of a data folder", socket.display()))
}

fn on_a_terminal() -> bool {
    use std::io::{IsTerminal, stdin, stdout};
    stdin().is_terminal() && stdout().is_terminal()
}

fn as_act(options: &ActNamed) -> Act {
    Act { names: Names { services: options.services.clone() }, waiting: options.waiting, output: options.output }
}

/// The request for a verb that changes something.
fn request(verb: control::Verb, services: &[String], waiting: Waiting) -> Request {
    Request { wait: !waiting.no_wait, ..Request::new(verb, services) }
}

/// What runs, as far as can be known without starting anything: the living supervisor's answer, or what the last one left, checked
/// against what lives. The supervisor is none when none lives.
///
/// # Errors
/// When a living supervisor cannot be asked.
fn look(home: &Home, usage: bool) -> Result<(Option<SupervisorStatus>, Vec<Status>)> {
    client::persist(|| look_once(home, usage))
}

fn look_once(home: &Home, usage: bool) -> Result<(Option<SupervisorStatus>, Vec<Status>)> {
    if let Some(stream) = client::connect(home)? {
        let request = Request { usage, ..Request::new(control::Verb::Status, &[]) };
        let Reply::Done { supervisor, services, .. } = client::ask(home, stream, &request)? else {
            bail!("the supervisor gave an answer of another kind");
        };
        return Ok((Some(supervisor), services));
    }
    let stored = Stored::read(home);
    let services = names::Known::at_least(home);
    let services = services.names().map(|name| {
        let known = stored.service(name);
        let since = known.map_or(0, |known| known.since);
        let enabled = known.is_none_or(|known| known.enabled);
        let living = supervise::adopt::living(home, name, &stored);
        let (state, reason) = match living {
            Some(_) => ("running", Some("no supervisor: the next command that needs one adopts it")),
            None => ("stopped", known.filter(|known| known.pid.is_some()).map(|_| "ended while there was no supervisor")),
        };
        Status {
            name: name.to_owned(),
            state: state.to_owned(),
            pid: living,
            wanted: living.is_some(),
            since,
            enabled,
            reason: reason.map(str::to_owned),
            ..Status::default()
        }
    });
    Ok((None, services.collect()))
}

/// Why there is nothing to ask, for verbs that are about what a supervisor does.
fn no_supervisor(home: &Home) -> anyhow::Error {
    exit::ending(
        exit::NOT_RUNNING,
        format!(
            "no supervisor runs for {}: `dkm start` starts one (another data folder is named by --home or {VARIABLE})",
            home.root().display()
        ),
    )
}
