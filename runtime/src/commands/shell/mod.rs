//! The shell: the verbs of `dkm`, one line each, with completion and a history.
//!
//! Each line is run as a `dkm` of its own, so that no verb can take the shell down, and Ctrl-C means to it what it means anywhere.
//! On a terminal lines are edited ([`editor`]); from a file or a pipe they are read, and the end is that of the last one that
//! failed.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste, Event, KeyEventKind, read};
use ratatui::crossterm::{execute, terminal};
use unicode_width::UnicodeWidthStr;

use super::names::Known;
use super::{complete, interrupt, root};
use crate::home::{Home, write_renamed};
use crate::text::harmless_line;

mod editor;

use editor::{Editor, Outcome};

const PROMPT: &str = "dkm> ";
/// So many lines are remembered.
const REMEMBERED: usize = 500;

/// Runs the shell until its end.
///
/// # Errors
/// When the terminal cannot be used, or lines cannot be read.
pub fn run(home: &Home) -> Result<ExitCode> {
    let mut shell = Shell { home: home.clone(), last_failure: 0 };
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        for line in io::stdin().lock().lines() {
            if shell.line(&line.context("cannot read commands")?) == Next::End {
                break;
            }
        }
        return Ok(ExitCode::from(shell.last_failure));
    }
    // Ctrl-C is for the verbs that the shell runs.
    interrupt::prepare();
    println!(
        "dkm {} for {}. Verbs as on the command line; Tab completes, \"help\" lists, \"exit\" ends.",
        env!("CARGO_PKG_VERSION"),
        home.root().display()
    );
    shell.line("status");
    let mut history = History::open(&shell.home);
    loop {
        interrupt::forget();
        match read_line(&shell.home, &history.lines).context("cannot use this terminal")? {
            None => break,
            Some(line) => {
                history.add(&line);
                if shell.line(&line) == Next::End {
                    break;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the shell goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Line,
    End,
}

struct Shell {
    home: Home,
    last_failure: u8,
}

impl Shell {
    /// Does what a line says.
    fn line(&mut self, line: &str) -> Next {
        let words = match editor::split(line) {
            Ok(words) => words,
            Err(error) => {
                self.complain(&error);
                return Next::Line;
            }
        };
        let Some((verb, rest)) = words.split_first() else { return Next::Line };
        match verb.as_str() {
            "exit" | "quit" | "EOF" => return Next::End,
            "open" => self.open(rest),
            "shell" => self.complain("this is the shell"),
            "?" => self.verb(&[&["help".to_owned()], rest].concat()),
            _ => self.verb(&words),
        }
        Next::Line
    }

    fn complain(&mut self, message: &str) {
        eprintln!("dkm: {message}");
        self.last_failure = 1;
    }

    /// Runs a verb as a process of its own, and waits for it.
    fn verb(&mut self, words: &[String]) {
        // What has been printed belongs before what the verb prints.
        let _ = io::stdout().flush();
        let run = || {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg0("dkm");
            if root::is_allowed() {
                command.arg("--allow-root");
            }
            command.arg("--home").arg(self.home.root()).args(words).status()
        };
        match run() {
            Ok(status) if status.success() => {}
            Ok(status) => self.last_failure = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
            Err(error) => self.complain(&format!("cannot run {}: {error}", words[0])),
        }
    }

    /// Turns to another data folder: by its path, or as supervisorctl has it, by `unix://` and the socket's.
    fn open(&mut self, words: &[String]) {
        let [place] = words else { return self.complain("open needs a data folder, or unix:// and the path of its socket") };
        let path = place.strip_prefix("unix://").map_or_else(|| PathBuf::from(place), |socket| Path::new(socket).join("../.."));
        // A socket is no folder: what lies above is found by names alone.
        let path = if place.starts_with("unix://") { lexical(&path) } else { path };
        match Home::open(&path) {
            Ok(home) => {
                self.home = home;
                self.verb(&["status".to_owned()]);
            }
            Err(error) => self.complain(&format!("{error:#}")),
        }
    }
}

/// A path without `..`, by its names.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

/// The terminal, without its own editing; as it was once this is dropped, whatever happens.
struct Raw;

impl Raw {
    fn new() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let raw = Self;
        execute!(io::stdout(), EnableBracketedPaste)?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), DisableBracketedPaste);
        let _ = terminal::disable_raw_mode();
    }
}

/// Lets a line be typed; none at the end.
fn read_line(home: &Home, history: &[String]) -> io::Result<Option<String>> {
    let _raw = Raw::new()?;
    let mut out = io::stdout();
    let mut editor = Editor::new(history);
    let services: Vec<String> = Known::at_least(home).names().map(str::to_owned).collect();
    let complete = |before: &[String], last: &str| -> Vec<String> {
        let mut found: Vec<String> = complete::candidates(before, last, &services).into_iter().map(|(word, _)| word).collect();
        if before.is_empty() {
            found.extend(["exit", "open", "quit"].into_iter().filter(|word| word.starts_with(last)).map(str::to_owned));
        }
        found
    };
    loop {
        let columns = terminal::size().map_or(80, |(columns, _)| usize::from(columns));
        let (text, cursor) = editor.view(columns.saturating_sub(PROMPT.len() + 1));
        write!(out, "\r\x1b[K{PROMPT}{text}\r\x1b[{}C", PROMPT.len() + cursor)?;
        out.flush()?;
        let outcome = match read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => editor.press(key, complete),
            Event::Paste(text) => {
                editor.paste(&text);
                Outcome::Draw
            }
            _ => Outcome::Draw,
        };
        match outcome {
            Outcome::Draw => {}
            Outcome::Done(line) => {
                write!(out, "\r\n")?;
                return Ok(Some(line));
            }
            Outcome::Cancelled => {
                write!(out, "^C\r\n")?;
                editor = Editor::new(history);
            }
            Outcome::End => {
                write!(out, "\r\n")?;
                return Ok(None);
            }
            Outcome::Clear => write!(out, "\x1b[2J\x1b[H")?,
            Outcome::Show(words) => write!(out, "\r\n{}", columns_of(&words, columns))?,
        }
    }
}

/// Words in as many columns as fit.
fn columns_of(words: &[String], columns: usize) -> String {
    let width = words.iter().map(|word| word.width()).max().unwrap_or(0) + 2;
    let a_row = (columns / width).max(1);
    let rows = words
        .chunks(a_row)
        .map(|row| row.iter().map(|word| format!("{word:<width$}")).collect::<String>().trim_end().to_owned());
    rows.map(|row| row + "\r\n").collect()
}

/// The lines typed before, kept in `run/shell.history`.
struct History {
    lines: Vec<String>,
    path: PathBuf,
    /// Whether the file is ours: root, looking at somebody's data folder, leaves no file behind in it.
    ours: bool,
}

impl History {
    fn open(home: &Home) -> Self {
        let path = home.run().join("shell.history");
        let text = fs::read(&path).unwrap_or_default();
        let lines = String::from_utf8_lossy(&text).lines().map(|line| harmless_line(line.as_bytes())).collect();
        let owner = fs::metadata(home.run()).map(|meta| meta.uid());
        Self { lines, path, ours: owner.is_ok_and(|uid| uid == nix::unistd::geteuid().as_raw()) }
    }

    fn add(&mut self, line: &str) {
        if line.trim().is_empty() || line.starts_with(' ') || self.lines.last().is_some_and(|last| last == line) {
            return;
        }
        self.lines.push(line.to_owned());
        self.lines.drain(..self.lines.len().saturating_sub(REMEMBERED));
        if self.ours {
            // A history that cannot be kept is no reason to stop.
            let _ = write_renamed(&self.path, (self.lines.join("\n") + "\n").as_bytes(), 0o600);
        }
    }
}
