//! The one place that starts build commands.
//!
//! No shell is involved: a command is a program and its arguments, with an environment that holds nothing but what is
//! listed, in a process group of its own, and without network unless it is one that fetches. It is echoed so that it can be copied, its output goes to the log line by line,
//! and anything but exit status 0 is an error. Whatever it leaves running is ended with it, wherever it went ([`crate::attend`]).

use crate::attend;
use crate::error::Kind;
pub use crate::failed::{CommandFailed, Network};
use crate::interrupt;
use crate::progress::Step;
use crate::resources::Cost;
use crate::sandbox;
pub use crate::text::quote;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, PipeReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use wait4::Wait4 as _;

/// How long output is still read after the command itself has ended: a grandchild may hold the pipe for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// A command that is ready to run.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program, looked up in the environment's `PATH` when it is a bare name.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: BTreeMap<String, OsString>,
    /// The folder it runs in.
    pub dir: PathBuf,
    /// Whether it may use the network; most may not.
    pub network: Network,
    /// Whether others that want a core go first.
    pub patient: bool,
}

enum Event {
    Line(String),
    OutputEnded,
    Exited(std::io::Result<wait4::ResUse>),
}

impl Command {
    /// A command without arguments.
    pub fn new(program: impl Into<PathBuf>, dir: &Path, env: &BTreeMap<String, OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: env.clone(),
            dir: dir.to_owned(),
            network: Network::Closed,
            patient: false,
        }
    }

    /// Says whether the command may use the network.
    pub fn with_network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Lets others go first.
    pub fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The command as one would type it, without its environment.
    pub fn echo(&self) -> String {
        std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(quote)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The command as a script that does the same again anywhere: folder, environment, words.
    pub fn script(&self) -> String {
        let mut script = format!("#!/bin/sh\ncd {} || exit 1\nexec env -i \\\n", quote(self.dir.as_os_str()));
        for (name, value) in &self.env {
            let _ = writeln!(script, "  {name}={} \\", quote(value));
        }
        let _ = writeln!(script, "  {}", self.echo());
        script
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// [`Kind::Compile`] when it cannot be started, [`CommandFailed`] when it ends badly, [`Kind::Interrupted`] when the run
    /// was.
    pub fn run(&self, step: &Step) -> anyhow::Result<()> {
        interrupt::check()?;
        step.command(&format!("cd {} && {}", quote(self.dir.as_os_str()), self.echo()))?;
        let started = Instant::now();
        let (status, mut cost) = self.spawn_and_wait(step)?;
        cost.wall = started.elapsed();
        step.spend(cost);
        interrupt::check()?;
        if status.success() { Ok(()) } else { Err(self.failure(status, step).into()) }
    }

    fn spawn_and_wait(&self, step: &Step) -> anyhow::Result<(ExitStatus, Cost)> {
        let (reader, writer) = std::io::pipe()?;
        let attended = attend::words(self.network != Network::Open && sandbox::PROGRAM.is_some());
        let is_attended = attended.is_some();
        let mut words = attended.unwrap_or_default();
        if self.patient {
            // A quarter of the weight that a program has beside it, on Linux.
            words.extend(["nice", "-n", "6"].map(OsString::from));
        }
        words.push((&self.program).into());
        words.extend(self.args.iter().cloned());
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(&self.env).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
        let child = command.spawn().map_err(|error| {
            Kind::Compile.error(format!("cannot start {}: {error} (in {})", self.program.display(), self.dir.display()))
        })?;
        // The command holds the pipe's writing end; it has to go, or reading would never end.
        drop(command);
        let group = interrupt::Group::enter(child.id(), is_attended);
        let metered = step.meter(child.id());
        let (sender, events) = mpsc::channel();
        let lines = sender.clone();
        let watcher = || std::thread::Builder::new().name("watcher".to_owned());
        let unwatched = |error| {
            // Without its watchers nobody would ever know how it ends.
            group.end();
            Kind::Compile.error(format!("cannot watch {}: {error}", self.program.display()))
        };
        watcher().spawn(move || read_lines(reader, &lines)).map_err(unwatched)?;
        watcher().spawn(move || sender.send(Event::Exited(child.wait4()))).map_err(unwatched)?;
        let outcome = follow(&events, step, &group)?;
        let peak = outcome.rusage.maxrss.max(metered.map_or(0, |metered| metered.peak()));
        let cost = Cost { cpu: outcome.rusage.utime + outcome.rusage.stime, peak, ..Cost::default() };
        Ok((outcome.status, cost))
    }

    fn failure(&self, status: ExitStatus, step: &Step) -> CommandFailed {
        let mut guard = step.log();
        let log = guard.get();
        let again = log.as_ref().map(|log| log.again());
        let tail: Vec<_> = log.as_ref().map(|log| log.tail().map(str::to_owned).collect()).unwrap_or_default();
        CommandFailed {
            program: self.program.clone(),
            status,
            first_error: log.as_ref().and_then(|log| log.telling()).map(str::to_owned),
            network: self.network,
            wanted: tail.iter().find_map(|line| sandbox::complaint(line)).map(str::to_owned),
            tail,
            command: self.echo(),
            dir: self.dir.clone(),
            again: again.filter(|script| std::fs::write(script, self.script()).is_ok()),
            shell: None,
            log: log.map(|log| log.path().to_owned()).unwrap_or_default(),
        }
    }
}

/// Passes lines on until the command has ended and its output with it.
fn follow(events: &mpsc::Receiver<Event>, step: &Step, group: &interrupt::Group) -> anyhow::Result<wait4::ResUse> {
    let mut exited: Option<(wait4::ResUse, Instant)> = None;
    loop {
        let patience = exited.map_or(Duration::MAX, |(_, since)| DRAIN.saturating_sub(since.elapsed()));
        let event = if exited.is_some() { events.recv_timeout(patience).ok() } else { events.recv().ok() };
        match (event, exited) {
            (Some(Event::Line(line)), _) => step.output(&line),
            (Some(Event::Exited(outcome)), _) => {
                // Daemons that a build tool leaves behind would hold the pipe and the folder.
                group.end();
                exited = Some((outcome?, Instant::now()));
            }
            (Some(Event::OutputEnded) | None, Some((outcome, _))) => return Ok(outcome),
            // A command may close its output long before it ends.
            (Some(Event::OutputEnded), None) => {}
            (None, None) => return Err(Kind::Compile.error("cannot follow the command: its watchers are gone")),
        }
    }
}

/// Splits output at line feeds and at the carriage returns of progress bars.
fn read_lines(reader: PipeReader, events: &mpsc::Sender<Event>) {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let mut raw = Vec::new();
    loop {
        raw.clear();
        match reader.read_until(b'\n', &mut raw) {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                let text = String::from_utf8_lossy(&raw);
                for line in text.trim_end_matches(['\n', '\r']).split('\r') {
                    if events.send(Event::Line(line.to_owned())).is_err() {
                        return;
                    }
                }
            }
        }
    }
    let _ = events.send(Event::OutputEnded);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Ui, Verbosity};

    fn run(script: &str) -> (anyhow::Result<Cost>, String, tempfile::TempDir) {
        let folder = tempfile::Builder::new().prefix("a folder ").tempdir().unwrap();
        let ui = Ui::new(Verbosity::Quiet);
        ui.keep_logs(folder.path()).unwrap();
        let step = ui.step("test", "run");
        let env = BTreeMap::from([("PATH".to_owned(), std::env::var_os("PATH").unwrap()), ("MARK".to_owned(), "it's".into())]);
        let command = Command::new("sh", folder.path(), &env).args(["-c", script]);
        let result = command.run(&step).map(|()| step.cost());
        let text = std::fs::read_to_string(folder.path().join("logs/test/run.log")).unwrap();
        (result, text, folder)
    }

    #[test]
    fn output_of_both_streams_is_logged_and_the_cost_is_known() {
        let (result, log, _folder) = run("echo out; echo err >&2; echo $MARK; printf 'no newline'");
        let cost = result.unwrap();
        assert!(cost.peak > 100_000, "peak {}", cost.peak);
        for line in ["out", "err", "it's", "no newline"] {
            assert!(log.lines().any(|logged| logged == line), "{line} is not in {log}");
        }
    }

    #[test]
    fn a_failure_shows_the_first_error_the_last_lines_and_a_script_that_repeats_it() {
        let (result, _, folder) = run("echo 'a.c:1:2: error: broken'; seq 50; exit 3");
        let text = format!("{:#}", result.unwrap_err());
        for part in ["exit status: 3", "first error: a.c:1:2: error: broken", "| 50", "run again:"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let script = folder.path().join("logs/test/run.again.sh");
        let again = std::process::Command::new("sh").arg(script).output().unwrap();
        assert_eq!(again.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&again.stdout).contains("broken"));
    }

    #[test]
    fn what_a_command_leaves_running_ends_with_it() {
        let (result, log, _folder) = run("sleep 1000 & echo $!");
        result.unwrap();
        let pid = log.lines().last().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        // Killed, it stays a zombie until init has reaped it.
        let gone = || {
            rustix::process::test_kill_process(pid).is_err()
                || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
                    .is_ok_and(|stat| stat.contains(") Z "))
        };
        while !gone() {
            assert!(Instant::now() < deadline, "the background process still runs");
            std::thread::yield_now();
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quote("a/b=c".as_ref()), "a/b=c");
        assert_eq!(quote("it's here".as_ref()), r"'it'\''s here'");
        assert_eq!(quote("".as_ref()), "''");
    }
}
