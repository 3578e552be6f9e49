//! One running step, told to everybody who wants to know.

use super::{Ui, Verbosity, View, bytes, plain, printable, seconds, terminal};
use crate::events::{self, Event, StepResult};
use crate::history::Span;
use crate::logs::StepLog;
use crate::meter::{Meter, Metered};
use crate::resources::Cost;
use console::truncate_str;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// No step's bytes are told to programs more often.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// The step's place in the view.
enum Line {
    Terminal(terminal::Line),
    Plain(plain::Line),
}

/// How far a download is, and when that was told last.
#[derive(Default)]
struct Bytes {
    total: Option<u64>,
    told: Option<Instant>,
}

/// One running step. Dropped without being closed it counts as failed, but leaves no line: an error follows.
pub struct Step {
    ui: Ui,
    component: String,
    what: String,
    title: String,
    line: Option<Line>,
    started: Instant,
    log: Mutex<Option<StepLog>>,
    /// None until a command has run.
    cost: Mutex<Option<Cost>>,
    bytes: Mutex<Bytes>,
    closed: bool,
}

/// A step's log, its only holder's for a while.
pub struct LogGuard<'a>(MutexGuard<'a, Option<StepLog>>);

impl LogGuard<'_> {
    /// The log, if the run keeps any.
    pub fn get(&mut self) -> Option<&mut StepLog> {
        self.0.as_mut()
    }
}

impl Step {
    /// Begins a step, titled `component what`.
    pub(super) fn begin(ui: &Ui, component: &str, what: &str) -> Self {
        let title = format!("{component} {what}");
        let mut course = ui.course();
        let (why, expected) = course.begin(component, what, ui.elapsed());
        events::emit(&Event::StepBegin { component, step: what, why, expected_s: expected.map(|time| time.as_secs_f64()) });
        drop(course);
        let line = match &ui.0.view {
            View::Terminal(terminal) => Line::Terminal(terminal.add(component, what)),
            View::Plain(plain) => Line::Plain(plain.add(&title)),
        };
        Self {
            ui: ui.clone(),
            component: component.to_owned(),
            what: what.to_owned(),
            title,
            line: Some(line),
            started: Instant::now(),
            log: Mutex::new(None),
            cost: Mutex::new(None),
            bytes: Mutex::default(),
            closed: false,
        }
    }

    /// Says that a long step begins, where no spinner can show it.
    pub fn announce(&self) {
        if let View::Plain(plain) = &self.ui.0.view {
            self.ui.show(&plain.timed(&format!("  … {}", self.title)));
        }
    }

    /// Shows the step's latest line of output.
    pub fn message(&self, text: &str) {
        match &self.line {
            Some(Line::Terminal(line)) => line.message(text),
            Some(Line::Plain(line)) => line.message(text),
            None => {}
        }
    }

    /// Marks the begin of a command in the step's log, which is begun with the first one.
    ///
    /// # Errors
    /// When the log cannot be made, or the run keeps none.
    pub fn command(&self, echo: &str) -> anyhow::Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.is_none() {
            let logs = self.ui.0.logs.get().ok_or_else(|| anyhow::anyhow!("cannot log {echo}: this run keeps no logs"))?;
            *log = Some(logs.step(&self.component, &self.what)?);
        }
        if let Some(log) = log.as_mut() {
            log.command(echo);
        }
        Ok(())
    }

    /// Takes a line of a tool's output: logs it, shows it as the latest, and prints it when the run is verbose.
    pub fn output(&self, line: &str) {
        if let Some(log) = self.log.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            log.line(line);
        }
        if self.ui.0.verbosity == Verbosity::Verbose {
            let line = printable(line);
            events::emit(&Event::Output { component: &self.component, step: &self.what, line: &line });
            if self.ui.0.view.is_live() {
                self.ui.show(&format!("    {} | {line}", self.title));
            }
        }
        self.message(line);
    }

    /// The step's log.
    pub fn log(&self) -> LogGuard<'_> {
        LogGuard(self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Watches the memory of a command, given its first process.
    pub fn meter(&self, root: u32) -> Option<Metered> {
        self.ui.0.meter.get().map(|meter: &Meter| meter.enter(root))
    }

    /// Adds what a command of the step has cost.
    pub fn spend(&self, cost: Cost) {
        let mut spent = self.cost.lock().unwrap_or_else(PoisonError::into_inner);
        *spent = Some(spent.unwrap_or_default().then(cost));
    }

    /// What its commands have cost so far.
    pub fn cost(&self) -> Cost {
        self.cost.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default()
    }

    /// Turns the step's line into a counter of bytes, of `total` if that is known.
    pub fn length(&self, total: Option<u64>) {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).total = total;
        if let Some(Line::Terminal(line)) = &self.line {
            line.length(total);
        }
    }

    /// Sets how many bytes have arrived.
    pub fn position(&self, count: u64) {
        let mut known = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let total = known.total;
        let due = known.told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY) || total == Some(count);
        if due {
            known.told = Some(Instant::now());
            events::emit(&Event::StepProgress { component: &self.component, step: &self.what, bytes: count, total });
        }
        match &self.line {
            Some(Line::Terminal(line)) => line.position(count),
            Some(Line::Plain(line)) if due => {
                line.message(&total.map_or_else(|| bytes(count), |total| format!("{} of {}", bytes(count), bytes(total))));
            }
            _ => {}
        }
    }

    /// The time since the step began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends the step as `outcome` is; `note` is what stands behind its time when that is good.
    ///
    /// # Errors
    /// Exactly where `outcome` is one.
    pub fn close<T>(self, outcome: anyhow::Result<T>, note: impl FnOnce(&T) -> String) -> anyhow::Result<T> {
        match &outcome {
            Ok(value) => self.done(&note(value)),
            Err(error) => {
                events::failure(Some((&self.component, &self.what)), error);
                if !self.ui.0.view.is_terminal() {
                    plain::annotate(&format!("{} failed", self.title), error);
                }
                self.fail("");
            }
        }
        outcome
    }

    /// Ends the step well; `note` stands behind its time.
    pub fn done(mut self, note: &str) {
        self.finish(StepResult::Built, note);
        self.show("✓", note);
    }

    /// Ends the step well, whose result was there already.
    pub fn reused(mut self, note: &str) {
        self.finish(StepResult::Cached, note);
        self.show("✓", note);
    }

    /// Ends the step badly; `note` stands behind its time. Shown even when the run is quiet.
    pub fn fail(mut self, note: &str) {
        self.finish(StepResult::Failed, note);
        self.show("✗", note);
    }

    fn show(&self, mark: &str, note: &str) {
        let failed = mark == "✗";
        let end = format!("{:>8}  {note}", seconds(self.elapsed()));
        let text = match &self.ui.0.view {
            View::Terminal(terminal) => {
                let width = terminal.width();
                let line = format!("  {mark} {} {}", terminal::fit(&self.component, &self.what, width), end.trim_end());
                // Why something failed is never cut.
                if failed { line } else { truncate_str(&line, width, "…").into_owned() }
            }
            View::Plain(plain) => {
                let title = format!("{:<width$}", self.title, width = terminal::TITLE);
                let line = plain.timed(format!("  {mark} {title} {end}").trim_end());
                let verbose = self.ui.0.verbosity == Verbosity::Verbose;
                match plain.group(&self.title, self.log().get().map(|log| &*log), failed, verbose) {
                    Some(group) => format!("{group}\n{line}"),
                    None => line,
                }
            }
        };
        if failed { self.ui.force_line(&text) } else { self.ui.show(&text) }
    }

    fn finish(&mut self, result: StepResult, note: &str) {
        self.closed = true;
        self.line = None;
        let begin = self.started.saturating_duration_since(self.ui.0.started);
        let cost = *self.cost.lock().unwrap_or_else(PoisonError::into_inner);
        let span = Span::new(&self.component, &self.what, (begin, self.elapsed()), cost, result);
        if let Some(logs) = self.ui.0.logs.get() {
            logs.line(
                &format!("{}/{}", self.component, self.what),
                &format!("({} in {}) {note}", result.word(), seconds(self.elapsed())),
            );
        }
        events::emit(&span.event(note));
        self.ui.0.history.add(span);
        self.ui.course().end(&self.component, &self.what);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.closed {
            self.finish(StepResult::Failed, "");
        }
    }
}
