//! The full output of everything that ran, on disk.
//!
//! `build/build.log` holds every line of a run with its time, component and step; `build/logs/<component>/<step>.log` holds
//! the same for one step, without the prefix, from the last run in which the step ran. Earlier runs' `build.log` are kept as
//! `build.log.1` (the last) to `build.log.5`.

mod telling;

use anyhow::Context as _;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How many lines of a step's output are kept to be shown when it fails.
const TAIL: usize = 20;

/// How many earlier runs' logs are kept.
const GENERATIONS: usize = 5;

/// The logs of one run. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    folder: PathBuf,
    all: Arc<Mutex<File>>,
}

impl Logs {
    /// Begins `build.log` anew in `build`; the old ones move up by one, the oldest goes.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn begin(build: &Path) -> anyhow::Result<Self> {
        let folder = build.join("logs");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = build.join("build.log");
        let generation = |number: usize| if number == 0 { path.clone() } else { build.join(format!("build.log.{number}")) };
        for number in (0..GENERATIONS).rev() {
            let (from, to) = (generation(number), generation(number + 1));
            if from.exists() {
                std::fs::rename(&from, &to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
            }
        }
        let all = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { folder, all: Arc::new(Mutex::new(all)) })
    }

    /// Begins a step's own log anew.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn step(&self, component: &str, step: &str) -> anyhow::Result<StepLog> {
        let folder = self.folder.join(file_name(component));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{}.log", file_name(step)));
        let own = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let title = format!("{component}/{step}");
        Ok(StepLog { all: self.clone(), title, own, path, tail: VecDeque::new(), telling: None })
    }

    /// Writes a line to `build.log` only; `title` says whose it is.
    pub fn line(&self, title: &str, line: &str) {
        let now = jiff::Timestamp::now();
        let text = format!("{now:.3} {title} | {line}\n");
        // A log that cannot be written (a full disk) must not hide the failure that is being logged.
        let _ = self.all.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
    }
}

/// A name as a file may bear it, and as nobody has to quote it.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._+-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    if name.starts_with('.') { format!("_{name}") } else { name }
}

/// The log of one step, and what of it a person should see when the step fails.
pub struct StepLog {
    all: Logs,
    title: String,
    own: File,
    path: PathBuf,
    tail: VecDeque<String>,
    /// The line that tells most so far, with its rank.
    telling: Option<(u8, String)>,
}

impl StepLog {
    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a script that runs the step's failed command again belongs.
    pub fn again(&self) -> PathBuf {
        self.path.with_extension("again.sh")
    }

    /// Marks the begin of a command: the lines to be shown on failure are this command's.
    pub fn command(&mut self, echo: &str) {
        self.tail.clear();
        self.telling = None;
        self.write(&format!("$ {echo}"));
    }

    /// Adds a line of output.
    pub fn line(&mut self, line: &str) {
        self.write(line);
        let rank = telling::rank(line);
        if rank > self.telling.as_ref().map_or(0, |(rank, _)| *rank) {
            self.telling = Some((rank, line.to_owned()));
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }

    fn write(&mut self, line: &str) {
        self.all.line(&self.title, line);
        let _ = self.own.write_all(format!("{line}\n").as_bytes());
    }

    /// The line of the last command that says what went wrong, if there is one.
    pub fn telling(&self) -> Option<&str> {
        self.telling.as_ref().map(|(_, line)| line.as_str())
    }

    /// The last lines of the last command.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_log_keeps_all_lines_and_the_first_telling_one() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::begin(folder.path()).unwrap();
        let mut log = logs.step("x", "y needs").unwrap();
        assert_eq!(log.path(), folder.path().join("logs/x/y-needs.log"));
        log.command("make");
        log.line("a.c:1:1: error: first");
        for number in 0..100 {
            log.line(&format!("line {number}"));
        }
        assert_eq!(log.telling(), Some("a.c:1:1: error: first"));
        assert_eq!(log.tail().last(), Some("line 99"));
        let own = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(own.lines().count(), 102);
        let all = std::fs::read_to_string(folder.path().join("build.log")).unwrap();
        assert!(all.lines().all(|line| line.contains("Z x/y needs | ")), "{all}");
    }

    #[test]
    fn the_logs_of_earlier_runs_move_up_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        for run in 0..GENERATIONS + 3 {
            Logs::begin(folder.path()).unwrap().line("run", &run.to_string());
        }
        let mut runs = Vec::new();
        for entry in std::fs::read_dir(folder.path()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let run = text.trim().rsplit(' ').next().unwrap().to_owned();
            runs.push(format!("{} {run}", entry.file_name().to_string_lossy()));
        }
        runs.sort();
        assert_eq!(runs, ["build.log 7", "build.log.1 6", "build.log.2 5", "build.log.3 4", "build.log.4 3", "build.log.5 2"]);
    }

    #[test]
    fn names_of_steps_become_names_of_files() {
        assert_eq!(file_name("compile needs"), "compile-needs");
        assert_eq!(file_name("../up"), "_..-up");
        assert_eq!(file_name("übung 2+x"), "übung-2+x");
    }
}
