//! A build command that ended badly: all that helps to see why, and what is said of it.

use crate::text::{printable, quote};
use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Whether a command may use the network, and what it means if it wants to and may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It fetches.
    Open,
    /// It compiles: all that it needs was fetched before.
    Closed,
    /// It fetches, but must find everything on this machine (`--offline`).
    Offline,
}

/// A command that ended badly, with all that helps to see why.
#[derive(Debug)]
pub struct CommandFailed {
    /// The program.
    pub program: PathBuf,
    /// How it ended.
    pub status: ExitStatus,
    /// The first line of its output that looks like an error.
    pub first_error: Option<String>,
    /// The last lines of its output.
    pub tail: Vec<String>,
    /// Whether it might use the network.
    pub network: Network,
    /// The first of the last lines that says that the network was out of reach: as a rule it names what was wanted.
    pub wanted: Option<String>,
    /// The command, as one would type it.
    pub command: String,
    /// Where it ran.
    pub dir: PathBuf,
    /// A script that runs it again; none when that could not be written.
    pub again: Option<PathBuf>,
    /// The command that opens a shell where it ran; none where there is no such.
    pub shell: Option<String>,
    /// The step's log.
    pub log: PathBuf,
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed ({})", self.program.display(), self.status)?;
        if let Some(line) = self.first_error.as_ref().filter(|line| self.tail != [line.as_str()]) {
            write!(f, "\n  first error: {}", printable(line))?;
        }
        for line in &self.tail {
            write!(f, "\n  | {}", printable(line))?;
        }
        match (&self.wanted, self.network) {
            (Some(line), Network::Closed) => write!(
                f,
                "\n  It tried to use the network, which is closed while compiling: {line}\n  What a build needs is fetched \
                 before, by what its lock files pin; add what is missing to the lock file by a patch."
            )?,
            (Some(line), Network::Offline) => write!(f, "\n  missing:     {line}")?,
            (Some(_), Network::Open) | (None, _) => {}
        }
        // Its parts put together again have no `/.` at the end.
        let dir: PathBuf = self.dir.components().collect();
        write!(f, "\n  command:     {}\n  in:          {}", self.command, dir.display())?;
        if let Some(script) = &self.again {
            write!(f, "\n  run again:   sh {}", quote(script.as_os_str()))?;
        }
        if let Some(shell) = &self.shell {
            write!(f, "\n  a shell:     {shell}")?;
        }
        write!(f, "\n  log:         {}", self.log.display())
    }
}

impl std::error::Error for CommandFailed {}
