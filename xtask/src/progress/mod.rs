//! What a run tells while work goes on: to the person, to programs, to the logs and to the history.
//!
//! [`Ui`] is the one funnel. Who does something takes a [`Step`] from it, feeds it, and closes it; from there it goes to
//! the terminal (a running step is a spinner with its last line of output, a finished one a line that stays), or where
//! standard error is no terminal to plain lines, to the events ([`crate::events`]), to the logs ([`crate::logs`]) and to
//! the history ([`crate::history`]). Nobody else prints while a run goes on.

mod forecast;
mod text;

pub use text::{bytes, printable, seconds};

use crate::events::{self, Event, StepResult};
use crate::history::{History, Remembered, Span};
use crate::logs::{Logs, StepLog};
use crate::meter::{Meter, Metered};
use crate::schedule::Resources;
use crate::shell::Cost;
use forecast::Course;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Room for a step's title, so that times stand in one column; longer titles push theirs aside.
const TITLE: usize = 34;

/// No step's bytes are told to programs more often.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Failures only.
    Quiet,
    /// A line for each step.
    Normal,
    /// The tools' own output too.
    Verbose,
}

/// What a run is about to do with a step.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It has to run, for this reason.
    Run(String),
    /// It need not; what it cost when it ran, if that is known.
    Cached(Option<Cost>),
}

/// A step of the plan, as far as those who watch need to know it.
#[derive(Clone, Debug)]
pub struct Ahead {
    /// The component.
    pub component: String,
    /// The step, by the name that [`Ui::step`] will be given.
    pub step: String,
    /// Which steps of the plan have to be done before, by their place in it.
    pub after: Vec<usize>,
    /// What it takes of the machine.
    pub need: Resources,
    /// What will be done with it.
    pub fate: Fate,
}

/// What is told of a run. Cheap to clone; every clone tells of the same run.
#[derive(Clone)]
pub struct Ui(Arc<Run>);

struct Run {
    bars: Option<MultiProgress>,
    verbosity: Verbosity,
    started: Instant,
    history: History,
    logs: OnceLock<Logs>,
    meter: OnceLock<Meter>,
    course: Mutex<Course>,
}

impl Ui {
    /// A view on standard error; spinners only where that is a terminal.
    pub fn new(verbosity: Verbosity) -> Self {
        let bars = (std::io::stderr().is_terminal() && verbosity != Verbosity::Quiet).then(MultiProgress::new);
        Self(Arc::new(Run {
            bars,
            verbosity,
            started: Instant::now(),
            history: History::begin(),
            logs: OnceLock::new(),
            meter: OnceLock::new(),
            course: Mutex::new(Course::default()),
        }))
    }

    /// Begins the logs of this run in the build folder, and to watch what it takes; without them no command can be run.
    ///
    /// # Errors
    /// Those of [`Logs::begin`].
    pub fn keep_logs(&self, build: &Path) -> anyhow::Result<()> {
        if self.0.logs.get().is_none() {
            // Nobody else can have begun them meanwhile: a run does so once, before it has a second thread.
            let _ = self.0.logs.set(Logs::begin(build)?);
            let _ = self.0.meter.set(Meter::start());
        }
        Ok(())
    }

    /// Says what will be done, before anything is: all steps, each after those that it needs, to be run within `limit`.
    /// How long they will take is guessed from what is remembered in the build folder.
    pub fn plan(&self, stack: Option<&str>, bundle: &str, steps: Vec<Ahead>, limit: Resources, build: &Path) {
        let cached: Vec<_> = steps.iter().filter_map(|step| self.cached(step)).collect();
        let course = Course::new(steps, &Remembered::read(build), limit);
        let expected_s = course.forecast(Duration::ZERO).map(|forecast| forecast.left.as_secs_f64());
        events::emit(&Event::Plan { stack, bundle, steps: course.count().1, cached: cached.len(), expected_s });
        for span in cached {
            events::emit(&span.event(""));
            self.0.history.add(span);
        }
        *self.course() = course;
    }

    fn cached(&self, step: &Ahead) -> Option<Span> {
        match step.fate {
            Fate::Cached(before) => Some(Span::cached(&step.component, &step.step, self.elapsed(), before)),
            Fate::Run(_) => None,
        }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.0.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Prints a line that stays, unless the run is quiet.
    pub fn line(&self, text: &str) {
        events::emit(&Event::Message { text: text.trim() });
        if let Some(logs) = self.0.logs.get() {
            logs.line("run", text.trim());
        }
        self.show(text);
    }

    /// Tells of a file that was made for the person, unless the run is quiet.
    pub fn artifact(&self, path: &Path, sha256: Option<&str>, size: Option<u64>) {
        events::emit(&Event::Artifact { path: &path.to_string_lossy(), sha256, bytes: size });
        if let Some(sha256) = sha256 {
            self.show(&format!("sha256 {sha256}"));
        }
        self.show(&format!("{} ({})", path.display(), seconds(self.elapsed())));
    }

    /// Ends the run: writes its history, and shows the table of its steps.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn end(&self, build: &Path, bundle: &str, good: bool) -> anyhow::Result<()> {
        let load = self.0.meter.get().map(Meter::load).unwrap_or_default();
        if let Some(table) = self.0.history.end(build, bundle, good, load)? {
            self.show(&format!("{table}\n  as a page: {}", build.join("timings.html").display()));
        }
        Ok(())
    }

    fn show(&self, text: &str) {
        if self.0.verbosity != Verbosity::Quiet {
            self.force_line(text);
        }
    }

    fn force_line(&self, text: &str) {
        match &self.0.bars {
            // Printing fails only when standard error is gone; then nobody is left to be told.
            Some(bars) => drop(bars.println(text)),
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }

    /// Begins a step, titled `component what`.
    pub fn step(&self, component: &str, what: &str) -> Step {
        let title = format!("{component} {what}");
        let mut course = self.course();
        let (why, expected) = course.begin(component, what, self.elapsed());
        events::emit(&Event::StepBegin { component, step: what, why, expected_s: expected.map(|time| time.as_secs_f64()) });
        drop(course);
        let bar = self.0.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(spinner_style());
            bar.set_prefix(format!("{title:<TITLE$}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Step {
            ui: self.clone(),
            component: component.to_owned(),
            what: what.to_owned(),
            title,
            bar,
            started: Instant::now(),
            expected,
            log: Mutex::new(None),
            cost: Mutex::new(None),
            bytes: Mutex::new(Bytes { total: None, told: None }),
            closed: false,
        }
    }
}

fn spinner_style() -> ProgressStyle {
    // Both templates are constants; were one ever broken, indicatif's own default is good enough.
    ProgressStyle::with_template("  {spinner} {prefix} {elapsed:>5}  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn bytes_style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix} {elapsed:>5}  {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// How far a download is, and when that was told last.
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
    bar: Option<ProgressBar>,
    started: Instant,
    /// How long it took when it ran last.
    expected: Option<Duration>,
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
    /// Says that a long step begins, where no spinner can show it.
    pub fn announce(&self) {
        if self.bar.is_none() {
            self.ui.show(&format!("  … {}", self.title));
        }
    }

    /// Shows the step's latest line of output.
    pub fn message(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(text));
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
            self.ui.show(&format!("    {} | {line}", self.title));
        }
        self.message(line);
    }

    /// The step's log.
    pub fn log(&self) -> LogGuard<'_> {
        LogGuard(self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Watches the memory of a command, given its first process.
    pub fn meter(&self, root: u32) -> Option<Metered> {
        self.ui.0.meter.get().map(|meter| meter.enter(root))
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

    /// Turns the step's line into a counter of `total` bytes; unknown totals are left out.
    pub fn length(&self, total: Option<u64>) {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).total = total;
        if let (Some(bar), Some(total)) = (&self.bar, total) {
            bar.set_style(bytes_style());
            bar.set_length(total);
        }
    }

    /// Sets how many bytes have arrived.
    pub fn position(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
        let mut known = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if events::wanted() && known.told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY) {
            known.told = Some(Instant::now());
            let total = known.total;
            events::emit(&Event::StepProgress { component: &self.component, step: &self.what, bytes, total });
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

    /// Ends the step badly; `note` stands behind its time. Shown even when the run is quiet.
    pub fn fail(mut self, note: &str) {
        self.finish(StepResult::Failed, note);
        self.show("✗", note);
    }

    fn show(&self, mark: &str, note: &str) {
        let line = format!("  {mark} {:<width$} {:>8}  {note}", self.title, seconds(self.elapsed()), width = TITLE);
        let line = line.trim_end();
        if mark == "✗" { self.ui.force_line(line) } else { self.ui.show(line) }
    }

    fn finish(&mut self, result: StepResult, note: &str) {
        self.closed = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let begin = self.started.saturating_duration_since(self.ui.0.started);
        let span = if result == StepResult::Cached {
            let before = self.expected.map(|wall| Cost { wall, ..Cost::default() });
            Span::cached(&self.component, &self.what, begin, before)
        } else {
            let cost = *self.cost.lock().unwrap_or_else(PoisonError::into_inner);
            Span::new(&self.component, &self.what, (begin, self.elapsed()), cost, result)
        };
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
