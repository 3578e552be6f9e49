//! What the verbs that change something have in common: ask, show what happens, report what went wrong.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::harmless;
use crate::control::{Problem, Reply, Request, Status, client};
use crate::home::Home;
use crate::supervise::logs;

/// How many of a failing service's last lines are shown.
const LAST_LINES: usize = 10;

/// Asks, and reports in lines; 1 when a service did not arrive where it should.
///
/// # Errors
/// When the supervisor refuses or goes away.
pub fn ask(home: &Home, stream: UnixStream, request: &Request) -> Result<ExitCode> {
    let told = |reply: &Reply| {
        if let Reply::Progress { service } = reply {
            println!("{}", line(service));
        }
    };
    let Reply::Done { services, problems, .. } = client::ask(stream, request, told)? else {
        bail!("the supervisor gave an answer of another kind");
    };
    if !request.wait {
        services.iter().for_each(|service| println!("{}", line(service)));
    }
    problems.iter().for_each(|problem| explain(home, problem));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A service's state in one line.
fn line(service: &Status) -> String {
    let process = service.pid.map_or_else(String::new, |pid| format!("  process {pid}"));
    // What a service that was started a moment ago waits for is of interest only later.
    let reason = service.reason.as_ref().filter(|_| service.state != "starting");
    let reason = reason.map_or_else(String::new, |reason| format!("  {reason}"));
    format!("{:<12} {}{process}{}", service.name, service.state, harmless(reason.as_bytes()))
}

fn explain(home: &Home, problem: &Problem) {
    let Problem { service, message } = problem;
    eprintln!("{service}: {}", harmless(message.as_bytes()));
    let path = home.log(service);
    let lines = logs::last_lines(&path, LAST_LINES);
    if !lines.is_empty() {
        eprintln!("The last lines of {}:", path.display());
        for line in harmless(&lines).lines() {
            eprintln!("  {line}");
        }
    }
}
