//! What a run tells while work goes on: to the person, to programs, to the logs and to the history.
//!
//! [`Ui`] is the one funnel. Who does something takes a [`Step`] from it, feeds it, and closes it; from there it goes to
//! the terminal (a running step is a spinner with its last line of output, a finished one a line that stays), or where
//! standard error is no terminal to plain lines, to the events ([`crate::events`]), to the logs ([`crate::logs`]) and to
//! the history ([`crate::history`]). Nobody else prints while a run goes on.

mod ci;
mod forecast;
mod plain;
mod step;
mod terminal;

pub use crate::text::{bytes, printable, seconds};
pub use plain::annotate_run;
pub use step::Step;
pub use terminal::{clear, say};

use crate::events::{self, Event};
use crate::history::{History, Remembered, Span};
use crate::logs::Logs;
use crate::meter::Meter;
use crate::resources::{Cost, Resources};
use crate::text::write_stderr;
use forecast::Course;
use plain::Plain;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use terminal::Terminal;

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

/// Where lines for people go.
enum View {
    Terminal(Terminal),
    Plain(Plain),
}

impl View {
    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Whether tools' output is to be shown as it comes.
    fn is_live(&self) -> bool {
        match self {
            Self::Terminal(_) => true,
            Self::Plain(plain) => plain.is_live(),
        }
    }
}

struct Run {
    view: View,
    verbosity: Verbosity,
    started: Instant,
    history: History,
    logs: OnceLock<Logs>,
    meter: OnceLock<Meter>,
    course: Arc<Mutex<Course>>,
}

impl Ui {
    /// A view on standard error; spinners only where that is a terminal.
    pub fn new(verbosity: Verbosity) -> Self {
        let started = Instant::now();
        // Events and spinners on the same terminal would make each other unreadable.
        let events = events::wanted() && std::io::stdout().is_terminal();
        let terminal = (verbosity != Verbosity::Quiet && !events).then(Terminal::on_stderr).flatten();
        let view = match terminal {
            Some(terminal) => View::Terminal(terminal),
            None => View::Plain(Plain::new(started, verbosity != Verbosity::Quiet)),
        };
        Self(Arc::new(Run {
            view,
            verbosity,
            started,
            history: History::begin(),
            logs: OnceLock::new(),
            meter: OnceLock::new(),
            course: Arc::default(),
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
        let (done, all) = course.count();
        *self.course() = course;
        if let View::Terminal(terminal) = &self.0.view
            && done < all
        {
            terminal.count(&self.0.course, self.0.started);
        }
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

    /// Ends the run's steps: writes its history, and shows the table.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn end(&self, build: &Path, bundle: &str, good: bool) -> anyhow::Result<()> {
        let mut columns = None;
        if let View::Terminal(terminal) = &self.0.view {
            terminal.end();
            columns = Some(terminal.width());
        }
        let load = self.0.meter.get().map(Meter::load).unwrap_or_default();
        let table = self.0.history.end(build, (bundle, good), load, columns);
        if let Ok(Some(table)) = &table {
            self.show(&format!("{table}\n  as a page: {}", build.join("timings.html").display()));
        }
        table.map(drop)
    }

    fn show(&self, text: &str) {
        if self.0.verbosity != Verbosity::Quiet {
            self.force_line(text);
        }
    }

    fn force_line(&self, text: &str) {
        match &self.0.view {
            View::Terminal(terminal) => terminal.line(text),
            View::Plain(_) => write_stderr(text),
        }
    }

    /// Begins a step, titled `component what`.
    pub fn step(&self, component: &str, what: &str) -> Step {
        Step::begin(self, component, what)
    }
}
