//! `dkm pid`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::names::Known;
use super::{exit, look};
use crate::cli::dkm::Shown;
use crate::home::Home;

/// Prints process numbers.
///
/// # Errors
/// When a name is unknown.
pub fn run(home: &Home, options: &Shown) -> Result<ExitCode> {
    let (supervisor, services) = look(home, false)?;
    let pids: Vec<(String, i32)> = if options.names.services.is_empty() {
        vec![("supervisor".to_owned(), supervisor.map_or(0, |supervisor| supervisor.pid))]
    } else {
        let names = Known::at_least(home).need(&options.names.services)?;
        let asked = services.into_iter().filter(|service| names.contains(&service.name));
        asked.map(|service| (service.name, service.pid.unwrap_or(0))).collect()
    };
    if options.output.json {
        let all: Vec<_> = pids.iter().map(|(name, pid)| json!({"name": name, "pid": (*pid != 0).then_some(pid)})).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        pids.iter().for_each(|(_, pid)| println!("{pid}"));
    }
    let stopped = pids.iter().any(|(_, pid)| *pid == 0);
    Ok(ExitCode::from(if stopped { exit::STOPPED } else { exit::GOOD }))
}
