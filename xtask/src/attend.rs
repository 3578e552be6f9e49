//! Keeps a build command together: when it has ended, or is to end, nothing that it started lives on.
//!
//! A command runs in a process group of its own, and a signal to that group reaches whoever stayed in it. Who has left it (setsid,
//! a daemon) is out of reach. So on Linux a command is started by this very program ([`run`], a hidden command), as the child of
//! an attendant that inherits whatever loses its parent (a subreaper). The attendant
//!
//! - lets TERM and INT, which the whole group gets, end the command, and passes them on to children that left the group;
//! - kills everything at once when it is told so by [`END`], or when the run that it belongs to dies;
//! - kills what is left when the command has ended, and then ends as the command did.
//!
//! A namespace of process numbers would do the same, but in it every command would have the same small numbers, and tools name
//! files in a common temporary folder by their number (GNU make's job server does). Where there is no attendant (macOS), what
//! leaves its group is left alone.

use crate::error::Kind;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

/// The hidden command that [`run`] is.
pub const COMMAND: &str = "attended";

/// Tells an attendant to kill everything that it has.
pub const END: rustix::process::Signal = rustix::process::Signal::USR1;

/// This program, if it can attend to commands on this machine.
pub static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    // In a unit test "this program" is the test program, see `sandbox`.
    if cfg!(test) || !cfg!(target_os = "linux") { None } else { std::env::current_exe().ok() }
});

/// The words before a command that put it into an attendant's care; none where there is none.
pub fn words(without_network: bool) -> Option<Vec<OsString>> {
    let mut words: Vec<OsString> = vec![PROGRAM.as_ref()?.into(), COMMAND.into(), std::process::id().to_string().into()];
    if without_network {
        words.push("--without-network".into());
    }
    words.push("--".into());
    Some(words)
}

/// Runs `words[0]` with the arguments that follow, for the run that is process `parent`, and ends as it did.
///
/// # Errors
/// When it cannot be started, or not without network if that is wanted.
pub fn run(parent: u32, without_network: bool, words: &[OsString]) -> anyhow::Result<ExitCode> {
    let (program, args) = words.split_first().ok_or_else(|| Kind::Usage.error(format!("{COMMAND} needs a command")))?;
    if without_network {
        crate::sandbox::close()?;
    }
    let mut command = std::process::Command::new(program);
    command.args(args);
    os::attend(parent, command)
}

#[cfg(target_os = "linux")]
mod os {
    use super::END;
    use crate::error::Kind;
    use crate::meter;
    use anyhow::Context as _;
    use rustix::process::{self, Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus};
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
    use std::process::{Command, ExitCode};
    use std::time::{Duration, Instant};

    /// What does not even end by KILL (it hangs in the kernel) is waited for no longer.
    const PATIENCE: Duration = Duration::from_secs(5);

    pub fn attend(parent: u32, mut command: Command) -> anyhow::Result<ExitCode> {
        process::set_child_subreaper(Some(process::getpid()))?;
        let mut signals = signal_hook::iterator::Signals::new([SIGCHLD, SIGTERM, SIGINT, SIGHUP, END.as_raw()])?;
        // Were the run killed, its command should not go on for nobody.
        process::set_parent_process_death_signal(Some(END))?;
        let alive = process::getppid().is_some_and(|pid| u32::try_from(pid.as_raw_pid()) == Ok(parent));
        anyhow::ensure!(alive, "the run that this command belongs to has died");
        let child = command
            .spawn()
            .map_err(|error| Kind::Compile.error(format!("cannot start {}: {error}", command.get_program().display())))?;
        let first = Pid::from_child(&child);
        for signal in signals.forever() {
            if signal == END.as_raw() {
                sweep();
                return Ok(end_by(Signal::KILL.as_raw()));
            } else if signal != SIGCHLD {
                pass_on(signal);
            } else if let Some(status) = reap(first) {
                sweep();
                return Ok(status.terminating_signal().map_or_else(|| code(status), end_by));
            }
        }
        Err(std::io::Error::last_os_error()).context("cannot wait for the command")
    }

    /// Takes in whoever has ended; how the command has, if it is among them.
    fn reap(first: Pid) -> Option<WaitStatus> {
        let mut found = None;
        while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
            if pid == first {
                found = Some(status);
            }
        }
        found
    }

    /// The processes whose parent we are.
    fn children() -> impl Iterator<Item = Pid> {
        let me = process::getpid();
        meter::children_of(me.as_raw_pid()).into_iter().filter_map(Pid::from_raw)
    }

    /// Those that are not in our group have not got the signal that the group did.
    fn pass_on(signal: i32) {
        let (group, signal) = (process::getpgrp(), if signal == SIGINT { Signal::INT } else { Signal::TERM });
        for child in children().filter(|&child| process::getpgid(Some(child)).is_ok_and(|its| its != group)) {
            let _ = process::kill_process(child, signal);
            let _ = process::kill_process(child, Signal::CONT);
        }
    }

    /// Kills all children until there are none: the children of one that dies are ours by then.
    fn sweep() {
        let end = Instant::now() + PATIENCE;
        loop {
            match process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => continue,
                Ok(None) if Instant::now() < end => {}
                // There are none any more.
                _ => return,
            }
            for child in children() {
                let _ = process::kill_process(child, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn code(status: WaitStatus) -> ExitCode {
        ExitCode::from(status.exit_status().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    /// Ends as a command that was ended by a signal, so that whoever waits for it sees the same.
    fn end_by(signal: i32) -> ExitCode {
        // One core file is enough.
        let _ = process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    use std::process::{Command, ExitCode};

    pub fn attend(_: u32, _: Command) -> anyhow::Result<ExitCode> {
        anyhow::bail!("this system lets nobody inherit the children of others")
    }
}
