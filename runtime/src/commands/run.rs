//! `dkm run`: a service's command as if it had been typed here.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::exit;
use super::names::Known;
use crate::cli::dkm::Run;
use crate::home::Home;
use crate::supervise::{self, child};

/// Becomes the service's program, or the supervisor.
///
/// # Errors
/// When the service runs already, or its program cannot be run.
pub fn run(home: &Home, options: &Run) -> Result<ExitCode> {
    let Some(asked) = &options.service else {
        let beginning = supervise::Beginning { start: true, forward: options.forward.forward_logs };
        return supervise::run(home.clone(), beginning).map(|()| ExitCode::SUCCESS);
    };
    let name = Known::defined(home)?.need_one(asked)?;
    let service = home.services()?.into_iter().find(|service| service.name == name);
    let service = service.with_context(|| format!("there is no definition of {name} any more"))?;
    std::fs::create_dir_all(home.run()).with_context(|| format!("cannot make {}", home.run().display()))?;
    let Some(mut lock) = child::lock(&home.service_lock(&name))? else {
        return Err(exit::ending(
            exit::FAILED,
            format!("{name} runs already. `dkm stop {name}` first, or `dkm fg {name}` to see what it prints"),
        ));
    };
    // It stays locked as long as the program runs, so that nothing else starts a second copy.
    let mut keep = || -> std::io::Result<()> {
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(fcntl(&lock, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)?)
    };
    keep().with_context(|| format!("cannot keep the lock {}", home.service_lock(&name).display()))?;
    let mut command = child::command(home, &service)?;
    child::restrict(&mut command, &service)?;
    Err(command.exec()).with_context(|| format!("cannot run {}", service.command[0]))
}
