//! Making a service's process: the one place where the launcher starts programs of others.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use super::environment::cannot_run;
pub use super::environment::{forget_manager, restrict, surroundings};
use super::state::Process;
use crate::home::Home;
use crate::service::{Question, Service};
use crate::{os, ports};

/// Starts the service's program, its output going to `output`, its messages to the socket `notify` if it tells of itself, and
/// it enters the control group that `group` lists.
///
/// No second copy is ever made: the service's lock is taken first, and it stays with the process and its children.
///
/// # Errors
/// In words fit for `status`: a process of the service is still there, a port is taken, the program cannot be run.
pub fn launch(home: &Home, service: &Service, output: &File, notify: Option<&Path>, group: Option<File>) -> Result<Process> {
    let Some(lock) = lock(&home.service_lock(&service.name))? else {
        bail!("processes of an earlier {} are still there", service.name);
    };
    let taken = ports::obstacles(&service.ports)?;
    if !taken.is_empty() {
        bail!("{}", taken.join(", "));
    }
    let mut command = command(home, service)?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("cannot open its output")?)
        .stderr(output.try_clone().context("cannot open its output")?);
    if let Some(notify) = notify {
        command.env("NOTIFY_SOCKET", notify);
    }
    if let Some(health) = service.health.as_ref().filter(|health| health.probe.question == Question::Notify) {
        command.env("WATCHDOG_USEC", health.period_s.0.as_micros().to_string());
    }
    // The lock first: a limit on the size of files would be in its way.
    os::lead_session(&mut command, &lock);
    if let Some(group) = group {
        os::enter_group(&mut command, group);
    }
    restrict(&mut command, service)?;
    let child = command.spawn().with_context(|| cannot_run(home, service))?;
    let pid = i32::try_from(child.id()).context("cannot use its PID")?;
    // The child is ours until we reap it, so the number is still its own.
    Ok(Process { pid, started: os::start_time(pid), adopted: false })
}

/// What the service's program is started with, whoever starts it: arguments, folder, environment. Its limits are left to [`restrict`].
///
/// # Errors
/// When one of its environment files cannot be read.
pub fn command(home: &Home, service: &Service) -> Result<Command> {
    let surroundings = surroundings(home, service)?;
    let mut command = Command::new(&service.command[0]);
    forget_manager(&mut command);
    command
        .args(&service.command[1..])
        .current_dir(&surroundings.folder)
        .envs(surroundings.environment)
        .env(os::SERVICE_VARIABLE, &service.name);
    Ok(command)
}

/// Takes a lock for good, as long as the file stays open here or in a process that inherits it. None: somebody has it.
///
/// # Errors
/// When the file cannot be made or opened.
pub fn lock(path: &Path) -> Result<Option<File>> {
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.with_context(|| format!("cannot open the lock {}", path.display()))?;
    // Whoever only looks whether somebody holds it (see `holder`) holds it too, for microseconds: a few tries tell the two apart.
    for last in [false, false, false, false, true] {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if last => break,
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
    Ok(None)
}

/// Writes the number of who holds a lock into it: over what is there, since on a full disk nothing could be written to an empty file.
///
/// # Errors
/// When it cannot be written.
pub fn sign(lock: &File) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let text = format!("{}\n", std::process::id());
    lock.write_all_at(text.as_bytes(), 0)?;
    lock.set_len(text.len() as u64)
}

/// The PID in a lock that somebody holds; none when nobody does.
#[must_use]
pub fn holder(path: &Path) -> Option<i32> {
    let file = File::open(path).ok()?;
    match file.try_lock_shared() {
        // Several may look at the same time: sharing keeps them from taking each other for a holder.
        Ok(()) => None,
        Err(_) => Some(std::fs::read_to_string(path).ok().and_then(|text| text.lines().next()?.parse().ok()).unwrap_or(0)),
    }
}

/// How a process ended, in words.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended by itself".to_owned(),
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(number)) => {
            let name =
                nix::sys::signal::Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.to_string());
            format!("killed by {name}{}", if status.core_dumped() { " (core dumped)" } else { "" })
        }
        (None, None) => "ended".to_owned(),
    }
}
