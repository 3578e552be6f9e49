//! The full output of everything that ran, on disk.
//!
//! `build/build.log` holds every line of a run with its time and component; `build/logs/<component>.log` holds the same
//! for one component, without the prefix. The previous run's `build.log` is kept as `build.log.1`.

use anyhow::Context as _;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How many lines of a step's output are kept to be shown when it fails.
const TAIL: usize = 20;

/// The logs of one run. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    folder: PathBuf,
    all: Arc<Mutex<File>>,
}

impl Logs {
    /// Begins `build.log` anew in `build`, keeping the old one as `build.log.1`.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn begin(build: &Path) -> anyhow::Result<Self> {
        let folder = build.join("logs");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = build.join("build.log");
        if path.exists() {
            let old = build.join("build.log.1");
            std::fs::rename(&path, &old).with_context(|| format!("cannot rename {} to {}", path.display(), old.display()))?;
        }
        let all = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { folder, all: Arc::new(Mutex::new(all)) })
    }

    /// Begins a component's own log anew.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn component(&self, component: &str) -> anyhow::Result<ComponentLog> {
        let path = self.folder.join(format!("{component}.log"));
        let own = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(ComponentLog { all: self.clone(), component: component.to_owned(), own, path, tail: VecDeque::new(), telling: None })
    }

    fn write(&self, component: &str, line: &str) {
        let now = jiff::Timestamp::now();
        let text = format!("{now:.3} {component} | {line}\n");
        // A log that cannot be written (a full disk) must not hide the failure that is being logged.
        let _ = self.all.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
    }
}

/// The log of one component, and what of it a person should see when a step fails.
pub struct ComponentLog {
    all: Logs,
    component: String,
    own: File,
    path: PathBuf,
    tail: VecDeque<String>,
    telling: Option<String>,
}

impl ComponentLog {
    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
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
        if self.telling.is_none() && is_telling(line) {
            self.telling = Some(line.to_owned());
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }

    fn write(&mut self, line: &str) {
        self.all.write(&self.component, line);
        let _ = self.own.write_all(format!("{line}\n").as_bytes());
    }

    /// The first line of the last command that looks like an error, if it is not among the last ones anyway.
    pub fn telling(&self) -> Option<&str> {
        self.telling.as_deref().filter(|line| !self.tail.iter().any(|last| last == line))
    }

    /// The last lines of the last command.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}

/// Whether a line of a tool's output is the kind that says what went wrong: compilers' `file:line:column: error`, Go's
/// `file.go:12:3:`, linkers, configure, npm, yarn, webpack, make.
pub fn is_telling(line: &str) -> bool {
    const WORDS: [&str; 13] = [
        ": error:",
        ": fatal error:",
        "configure: error:",
        "error[E",
        "error: ",
        "Error: ",
        "ERROR in ",
        "npm error ",
        "npm ERR! ",
        "YN0001",
        "undefined reference",
        "cannot find package",
        "panic: ",
    ];
    WORDS.iter().any(|word| line.contains(word)) || is_go_error(line)
}

/// `./main.go:12:3: undefined: x` or `path/x.go:7:2: cannot find …`.
fn is_go_error(line: &str) -> bool {
    line.split_once(".go:").is_some_and(|(_, rest)| {
        let mut parts = rest.splitn(3, ':');
        let number =
            |part: Option<&str>| part.is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        number(parts.next()) && number(parts.next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_tell_are_told_from_the_rest() {
        for line in [
            "./main.go:12:3: undefined: x",
            "src/daemon.c:7:1: error: unknown type name",
            "configure: error: no acceptable C compiler found",
            "npm error code ENOENT",
            "ERROR in ./public/app/index.ts",
        ] {
            assert!(is_telling(line), "{line}");
        }
        for line in ["checking for error_t... yes", "go: downloading x v1.2.3", "compiled main.go: fine"] {
            assert!(!is_telling(line), "{line}");
        }
    }

    #[test]
    fn a_components_log_keeps_all_lines_and_the_first_telling_one() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::begin(folder.path()).unwrap();
        let mut log = logs.component("x").unwrap();
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
        assert!(all.lines().all(|line| line.contains("Z x | ")), "{all}");
    }
}
