//! The view where there is no terminal: lines with the time since the run began, as steps begin and end.
//!
//! What runs long says from time to time that it still does, for people and for services that end what is silent. Tools'
//! output is shown as it comes (`--verbose`), or, where a service folds groups, in one when its step has ended; a failed
//! step's output is shown there in any case, as nobody may be able to look at the log afterwards.

use super::ci::Service;
use crate::failed::CommandFailed;
use crate::logs::StepLog;
use crate::text::{clock, printable, write_stderr};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What runs longer says so again and again.
const BEAT: Duration = Duration::from_secs(60);

/// How many lines of a failed step are shown in a group when nobody asked for output.
const FAILED_LINES: usize = 500;

/// An annotation's text is cut there; services refuse longer ones.
const ANNOTATION: usize = 3000;

/// Whether a failure was put where the service shows it first: the run's own is only when no step's was.
static ANNOTATED: AtomicBool = AtomicBool::new(false);

/// A step that runs.
struct Running {
    title: String,
    began: Instant,
    told: Instant,
    last: String,
}

/// The lines of a run.
pub(super) struct Plain {
    service: Option<Service>,
    began: Instant,
    running: Arc<Mutex<BTreeMap<u64, Running>>>,
}

impl Plain {
    /// On standard error. `beats` says whether what runs long is to say so.
    pub(super) fn new(began: Instant, beats: bool) -> Self {
        let running: Arc<Mutex<BTreeMap<u64, Running>>> = Arc::default();
        if beats {
            let watched = Arc::downgrade(&running);
            // Without a thread there are just fewer lines. It ends with the run, a second later at most.
            let _ = std::thread::Builder::new().name("beat".to_owned()).spawn(move || {
                while let Some(running) = watched.upgrade() {
                    let lines = beat(&mut running.lock().unwrap_or_else(PoisonError::into_inner), began, Instant::now());
                    drop(running);
                    lines.iter().for_each(|line| write_stderr(line));
                    std::thread::sleep(Duration::from_secs(1));
                }
            });
        }
        Self { service: Service::of_this_run(), began, running }
    }

    /// A line with the time.
    pub(super) fn timed(&self, text: &str) -> String {
        timed(self.began.elapsed(), text)
    }

    /// A step begins.
    pub(super) fn add(&self, title: &str) -> Line {
        let now = Instant::now();
        let running = Running { title: title.to_owned(), began: now, told: now, last: String::new() };
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let number = all.last_key_value().map_or(0, |(number, _)| number + 1);
        all.insert(number, running);
        Line { running: Arc::clone(&self.running), number }
    }

    /// Whether tools' output is to be shown as it comes.
    pub(super) fn is_live(&self) -> bool {
        self.service.is_none()
    }

    /// The output of a step that has ended, as a group, where the service folds groups.
    pub(super) fn group(&self, title: &str, log: Option<&StepLog>, failed: bool, all: bool) -> Option<String> {
        let service = self.service?;
        let log = log.filter(|_| failed || all)?;
        let text = String::from_utf8_lossy(&std::fs::read(log.path()).ok()?).into_owned();
        let mut lines: Vec<String> = text.lines().map(printable).collect();
        if !all && lines.len() > FAILED_LINES {
            let more = lines.len() - FAILED_LINES;
            lines.drain(..more);
            lines.insert(0, format!("… {more} lines before that are in {}", log.path().display()));
        }
        let mut group = service.group(title, &lines.join("\n"), failed, jiff::Timestamp::now().as_second());
        group.truncate(group.trim_end_matches('\n').len());
        Some(group)
    }
}

/// Puts a failure where the service shows it first.
pub(super) fn annotate(title: &str, error: &anyhow::Error) {
    let Some(service) = Service::of_this_run() else { return };
    let failed = error.chain().find_map(|cause| cause.downcast_ref::<CommandFailed>());
    let mut text = match failed {
        Some(failed) => {
            let mut text = format!("{} failed ({})", failed.program.display(), failed.status);
            if let Some(line) = &failed.first_error {
                let _ = write!(text, "\n{}", printable(line));
            }
            text
        }
        None => format!("{error:#}"),
    };
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= ANNOTATION).unwrap_or(text.len());
    text.truncate(end);
    if let Some(line) = service.failure(title, &text) {
        ANNOTATED.store(true, Ordering::SeqCst);
        write_stderr(&line);
    }
}

/// The same for a failure of the run, unless a step's was told.
pub fn annotate_run(error: &anyhow::Error) {
    if !ANNOTATED.load(Ordering::SeqCst) {
        annotate("cargo xtask", error);
    }
}

/// A step that runs; dropped when it ends.
pub(super) struct Line {
    running: Arc<Mutex<BTreeMap<u64, Running>>>,
    number: u64,
}

impl Line {
    /// Remembers the latest line of output.
    pub(super) fn message(&self, text: &str) {
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.number) {
            running.last = printable(text);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

fn timed(time: Duration, text: &str) -> String {
    format!("[{:>5}] {text}", clock(time))
}

/// The lines of those that have not been told of for long.
fn beat(all: &mut BTreeMap<u64, Running>, began: Instant, now: Instant) -> Vec<String> {
    let mut lines = Vec::new();
    for running in all.values_mut().filter(|running| now.saturating_duration_since(running.told) >= BEAT) {
        running.told = now;
        let text = format!("  … {} runs for {}  {}", running.title, clock(now - running.began), running.last);
        lines.push(timed(now - began, text.trim_end()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_long_says_so_once_a_minute() {
        let began = Instant::now();
        let running = |title: &str, after: u64, last: &str| {
            let at = began + Duration::from_secs(after);
            Running { title: title.to_owned(), began: at, told: at, last: last.to_owned() }
        };
        let mut all = BTreeMap::from([(0, running("a compile", 0, "CC x.o")), (1, running("b compile", 50, ""))]);
        let mut at = |secs| beat(&mut all, began, began + Duration::from_secs(secs));
        assert_eq!(at(59), Vec::<String>::new());
        assert_eq!(at(61), ["[ 1:01]   … a compile runs for 1:01  CC x.o"]);
        assert_eq!(at(62), Vec::<String>::new());
        assert_eq!(at(125), ["[ 2:05]   … a compile runs for 2:05  CC x.o", "[ 2:05]   … b compile runs for 1:15"]);
    }

    #[test]
    fn a_step_that_has_ended_says_nothing_more() {
        let plain = Plain::new(Instant::now(), false);
        let line = plain.add("a compile");
        line.message("\u{1b}[31mlast");
        assert_eq!(plain.running.lock().unwrap()[&0].last, "last");
        drop(line);
        assert!(plain.running.lock().unwrap().is_empty());
    }
}
