//! `dkm avail`.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::look;
use super::names::Known;
use crate::cli::dkm::Shown;
use crate::control::ChangeKind;
use crate::home::Home;
use crate::text::{harmless_line, json};

/// A service that is defined.
#[derive(Debug, Serialize)]
struct Available {
    name: String,
    /// `in use`, `new` (the supervisor does not know it yet), `changed` (works by an older definition), or `gone` (there is no
    /// definition any more); `known` without a supervisor.
    definition: &'static str,
    enabled: bool,
    after: Vec<String>,
    requires: Vec<String>,
    aliases: Vec<String>,
    summary: String,
}

/// Shows every service that is defined.
///
/// # Errors
/// When definitions cannot be used, a name is unknown, or a living supervisor cannot be asked.
pub fn run(home: &Home, options: &Shown) -> Result<ExitCode> {
    let (supervisor, known) = look(home, false)?;
    let names = Known::defined(home)?.need(&options.names.services)?;
    let services = home.services()?;
    let state = |name: &str| match known.iter().find(|status| status.name == name) {
        _ if supervisor.is_none() => "known",
        None => "new",
        Some(status) => match status.definition {
            None => "in use",
            Some(ChangeKind::Added) => "new",
            Some(ChangeKind::Removed) => "gone",
            Some(ChangeKind::Changed | ChangeKind::Broken) => "changed",
        },
    };
    let of = |name: &String| {
        let service = services.iter().find(|service| service.name == *name).cloned();
        Available {
            name: name.clone(),
            definition: if service.is_none() { "gone" } else { state(name) },
            enabled: service.as_ref().is_some_and(|service| service.enabled),
            after: service.as_ref().map(|service| service.after.clone()).unwrap_or_default(),
            requires: service.as_ref().map(|service| service.requires.clone()).unwrap_or_default(),
            aliases: service.as_ref().map(|service| service.aliases.clone()).unwrap_or_default(),
            summary: service.map(|service| service.summary).unwrap_or_default(),
        }
    };
    let all: Vec<Available> = names.iter().map(of).collect();
    if options.output.json {
        println!("{}", json(&all, true)?);
        return Ok(ExitCode::SUCCESS);
    }
    let width = all.iter().map(|service| service.name.len()).max().unwrap_or(0).max("SERVICE".len());
    println!("{:<width$}  {:<10}  {:<8}  {:<20}  WHAT IT DOES", "SERVICE", "DEFINITION", "START", "AFTER");
    for service in all {
        let start = if service.enabled { "with all" } else { "by name" };
        let after = [service.requires, service.after].concat().join(" ");
        let line = format!(
            "{:<width$}  {:<10}  {start:<8}  {after:<20}  {}",
            service.name,
            service.definition,
            harmless_line(service.summary.as_bytes())
        );
        println!("{}", line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
