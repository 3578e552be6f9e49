//! `dkm version`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::look;
use crate::cli::dkm::Output;
use crate::home::Home;

/// Shows the versions of this program and of the living supervisor.
///
/// # Errors
/// When a living supervisor cannot be asked.
pub fn run(home: &Home, output: Output) -> Result<ExitCode> {
    let here = env!("CARGO_PKG_VERSION");
    let (supervisor, _) = look(home, false)?;
    if output.json {
        let there = supervisor.map(|supervisor| json!({"version": supervisor.version, "pid": supervisor.pid}));
        println!("{}", serde_json::to_string_pretty(&json!({"dkm": here, "supervisor": there}))?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("dkm {here}");
    match supervisor {
        None => println!("no supervisor runs"),
        Some(supervisor) => {
            let hint = if supervisor.version == here { "" } else { "; `dkm upgrade-self` brings it up to this program" };
            println!("supervisor {}, process {}{hint}", supervisor.version, supervisor.pid);
        }
    }
    Ok(ExitCode::SUCCESS)
}
