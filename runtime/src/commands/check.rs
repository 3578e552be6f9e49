//! `dkm check`.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Result, bail};

use super::{harmless, resolve};
use crate::cli::Names;
use crate::home::Home;
use crate::supervise::{child, probe};

/// Checks the definitions, then runs each service's own check.
///
/// # Errors
/// When a definition cannot be used or a name is unknown.
pub fn run(home: &Home, options: &Names) -> Result<ExitCode> {
    let (unknown, names) = resolve(home, &options.services)?;
    if !unknown.is_empty() {
        bail!("there is no service {}", unknown.join(", ").escape_debug());
    }
    let mut bad = false;
    for service in home.services()?.iter().filter(|service| names.contains(&service.name)) {
        if let Err(error) = probe::check(&service.probes) {
            println!("{}: {error:#}", service.name);
            bad = true;
            continue;
        }
        let Some((program, arguments)) = service.check.split_first() else {
            println!("{}: the definition is good; the service has no check of its own", service.name);
            continue;
        };
        let folder = service.directory.as_ref().map_or(home.root(), Path::new);
        let run =
            Command::new(program).args(arguments).envs(&service.environment).current_dir(folder).stdin(Stdio::null()).output();
        match run {
            Ok(output) if output.status.success() => println!("{}: good", service.name),
            Ok(output) => {
                println!("{}: {} {}", service.name, service.check.join(" "), child::describe(output.status));
                print!("{}{}", harmless(&output.stdout), harmless(&output.stderr));
                bad = true;
            }
            Err(error) => {
                println!("{}: cannot run {program}: {error}", service.name);
                bad = true;
            }
        }
    }
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
