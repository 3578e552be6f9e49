//! `dkm pid`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{look, resolve};
use crate::cli::Pid;
use crate::home::Home;

/// What does not run, as the LSB numbers it.
const STOPPED: u8 = 3;

/// Prints process numbers.
///
/// # Errors
/// When a name is unknown.
pub fn run(home: &Home, options: &Pid) -> Result<ExitCode> {
    let (supervisor, services) = look(home)?;
    let pids: Vec<i32> = match &options.service {
        None => vec![supervisor.map_or(0, |supervisor| supervisor.pid)],
        Some(name) => {
            let (unknown, names) = resolve(home, std::slice::from_ref(name))?;
            if !unknown.is_empty() {
                bail!("there is no service {}", name.escape_debug());
            }
            let asked = services.iter().filter(|service| names.contains(&service.name));
            asked.map(|service| service.pid.unwrap_or(0)).collect()
        }
    };
    pids.iter().for_each(|pid| println!("{pid}"));
    Ok(if pids.contains(&0) { ExitCode::from(STOPPED) } else { ExitCode::SUCCESS })
}
