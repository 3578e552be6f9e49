//! `dkm check`.

use std::process::{ExitCode, Stdio};

use anyhow::Result;
use serde::Serialize;

use super::exit;
use super::names::Known;
use crate::cli::dkm::Shown;
use crate::home::{Home, SUPERVISOR};
use crate::service::Service;
use crate::supervise::{child, metrics, probe};
use crate::text::{harmless, json};

/// What came of checking one service.
#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    good: bool,
    /// In words.
    result: String,
    /// What the service's own check printed, when it found fault.
    #[serde(skip_serializing_if = "String::is_empty")]
    output: String,
}

/// Checks the definitions, then runs each service's own check; of all services also the supervisor's configuration.
///
/// # Errors
/// When a definition cannot be used or a name is unknown.
pub fn run(home: &Home, options: &Shown) -> Result<ExitCode> {
    let names = Known::defined(home)?.need(&options.names.services)?;
    let mut findings = Vec::new();
    let mut tell = |finding: Finding| {
        if !options.output.json {
            println!("{}: {}", finding.name, harmless(finding.result.as_bytes()));
            print!("{}", finding.output);
        }
        findings.push(finding);
    };
    for service in home.services()?.iter().filter(|service| names.contains(&service.name)) {
        tell(check(home, service));
    }
    if options.names.services.is_empty() && home.root().join(SUPERVISOR).exists() {
        let read = metrics::Settings::read(home);
        let (good, result) = read.map_or_else(|error| (false, format!("{error:#}")), |_| (true, "good".to_owned()));
        tell(Finding { name: "supervisor".to_owned(), good, result, output: String::new() });
    }
    if options.output.json {
        println!("{}", json(&findings, true)?);
    }
    let good = findings.iter().all(|finding| finding.good);
    Ok(ExitCode::from(if good { exit::GOOD } else { exit::FAILED }))
}

fn check(home: &Home, service: &Service) -> Finding {
    let finding = |good, result: String, output| Finding { name: service.name.clone(), good, result, output };
    if let Err(error) = probe::check(service) {
        return finding(false, format!("{error:#}"), String::new());
    }
    let Some(program) = service.check.first() else {
        return finding(true, "the definition is good; the service has no check of its own".to_owned(), String::new());
    };
    // In the surroundings that the service has.
    let check = Service { command: service.check.clone(), ..service.clone() };
    let command = child::command(home, &check).and_then(|mut command| child::restrict(&mut command, &check).map(|()| command));
    let mut command = match command {
        Ok(command) => command,
        Err(error) => return finding(false, format!("{error:#}"), String::new()),
    };
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => finding(true, "good".to_owned(), String::new()),
        Ok(output) => {
            let printed = harmless(&output.stdout) + &harmless(&output.stderr);
            finding(false, format!("{} {}", service.check.join(" "), child::describe(output.status)), printed)
        }
        Err(error) => finding(false, format!("cannot run {program}: {error}"), String::new()),
    }
}
