//! `dkm status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::exit::{FAILED, GOOD, STOPPED, UNDERWAY, UNKNOWN};
use super::look;
use super::names::Known;
use crate::cli::dkm::Shown;
use crate::clock::{now_unix, span};
use crate::control::Status;
use crate::home::Home;
use crate::text::harmless_line;

/// Shows what runs.
///
/// # Errors
/// When neither a supervisor nor the folder tells.
pub fn run(home: &Home, options: &Shown) -> Result<ExitCode> {
    let (supervisor, mut services) = look(home, false)?;
    for problem in supervisor.iter().flat_map(|supervisor| &supervisor.problems) {
        eprintln!("dkm: the supervisor: {}", harmless_line(problem.as_bytes()));
    }
    let unknown = narrow(home, &options.names.services, &mut services);
    show(&services, options.output.json)?;
    Ok(ExitCode::from(if unknown { UNKNOWN } else { code(&services) }))
}

/// Keeps the services asked for, and tells of names that nobody answers to; whether there are any.
pub fn narrow(home: &Home, asked: &[String], services: &mut Vec<Status>) -> bool {
    if asked.is_empty() {
        return false;
    }
    let found = Known::at_least(home).find(asked);
    services.retain(|service| found.names.contains(&service.name));
    found.unknown.iter().for_each(|name| eprintln!("dkm: there is no service {}", name.escape_debug()));
    !found.unknown.is_empty()
}

/// Prints services as a table or as JSON.
pub fn show(services: &[Status], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(services)?);
    } else {
        print!("{}", table(services, now_unix()));
    }
    Ok(())
}

/// The end's number for these services.
pub fn code(services: &[Status]) -> u8 {
    let of = |service: &Status| match service.state.as_str() {
        "running" => GOOD,
        "backing-off" | "broken" => FAILED,
        "exited" if service.failed => FAILED,
        "stopped" | "exited" => STOPPED,
        _ => UNDERWAY,
    };
    let codes: Vec<u8> = services.iter().map(of).collect();
    [FAILED, STOPPED, UNDERWAY].into_iter().find(|code| codes.contains(code)).unwrap_or(GOOD)
}

fn table(services: &[Status], now: u64) -> String {
    let width = services.iter().map(|service| service.name.len()).max().unwrap_or(0).max("SERVICE".len());
    let mut out = format!("{:<width$}  {:<11}  {:>8}  {:<14}  NOTE\n", "SERVICE", "STATE", "PID", "SINCE");
    for service in services {
        let pid = service.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let since = match service.since {
            0 => "-".to_owned(),
            since => span(Duration::from_secs(now.saturating_sub(since))),
        };
        let line = format!("{:<width$}  {:<11}  {pid:>8}  {since:<14}  {}", service.name, service.state, note(service));
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// What is to be said of a service beside its state.
pub fn note(service: &Status) -> String {
    let mut parts = Vec::new();
    if let Some(reason) = &service.reason {
        parts.push(harmless_line(reason.as_bytes()));
    }
    if let Some(millis) = service.next_try_ms {
        parts.push(format!("next try in {}", span(Duration::from_millis(millis))));
    }
    if service.restarts > 0 {
        parts.push(format!("{} restart{}", service.restarts, if service.restarts == 1 { "" } else { "s" }));
    }
    if let Some(ill) = &service.ill {
        parts.push(format!("not well: {}", harmless_line(ill.as_bytes())));
    }
    if let Some(says) = &service.says {
        parts.push(format!("says: {}", harmless_line(says.as_bytes())));
    }
    if service.definition.is_some() {
        parts.push("its definition has changed (`dkm update` applies it)".to_owned());
    }
    if service.adopted {
        parts.push("adopted".to_owned());
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, state: &str) -> Status {
        Status { name: name.into(), state: state.into(), since: 100, ..Status::default() }
    }

    #[test]
    fn the_worst_state_counts() {
        let services: Vec<Status> =
            ["running", "starting", "stopped", "backing-off"].iter().map(|state| service("x", state)).collect();
        assert_eq!([1, 2, 3, 4].map(|count| code(&services[..count])), [0, 150, 3, 1]);
    }

    #[test]
    fn the_table_is_aligned() {
        let mut dead = service("carbonapi", "backing-off");
        dead.reason = Some("TCP port 2002 is taken by process 7 (nginx)".into());
        dead.next_try_ms = Some(460);
        dead.restarts = 2;
        let mut alive = service("go-carbon", "running");
        alive.pid = Some(4711);
        let wanted = "\
SERVICE    STATE             PID  SINCE           NOTE
go-carbon  running          4711  1 min 5 s
carbonapi  backing-off         -  1 min 5 s       TCP port 2002 is taken by process 7 (nginx); next try in 0.5 s; 2 restarts
";
        assert_eq!(table(&[alive, dead], 165), wanted);
    }
}
