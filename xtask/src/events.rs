//! What happens in a run, for programs: one JSON object a line on standard output (`--json`).
//!
//! docs/events.md describes every event; [`FORMAT`] is raised when a reader of the old description would go wrong. There is one
//! stream for the whole process, as there is one standard output: it is opened by `main`, told by whoever knows, and
//! closed by `main` again, or by the signal that ends the program. Without `--json` everything here does nothing.
//!
//! A line is written and flushed whole. If nobody reads any more (a closed pipe, a full disk), that is said once on
//! standard error and the run goes on without events: hours of compiling do not depend on who watches.

use crate::error::{self, Kind};
use crate::failed::CommandFailed;
use serde::Serialize;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The version of the format.
pub const FORMAT: u32 = 1;

static STREAM: Mutex<Option<Stream>> = Mutex::new(None);

struct Stream {
    began: Instant,
    /// Whether a `failure` was written: the run's own is written only when no step had one.
    failed: bool,
}

/// What can happen.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Event<'a> {
    /// The first line.
    RunBegin {
        /// `package`, `fetch` …
        command: &'a str,
        /// Version of this program.
        version: &'a str,
        /// Its process.
        pid: u32,
    },
    /// What will be done, known before anything is.
    Plan {
        /// The stack's name; none for the root's.
        stack: Option<&'a str>,
        /// The bundle's name.
        bundle: &'a str,
        /// How many steps there are.
        steps: usize,
        /// How many of them need not run.
        cached: usize,
        /// How long the rest will probably take, in seconds, if earlier runs allow a guess.
        expected_s: Option<f64>,
    },
    /// A step begins to run.
    StepBegin {
        /// The component.
        component: &'a str,
        /// The step.
        step: &'a str,
        /// Why it has to be run; none where nobody asked.
        why: Option<&'a str>,
        /// How long it took when it ran last, in seconds.
        expected_s: Option<f64>,
    },
    /// How far a download is.
    StepProgress {
        /// The component.
        component: &'a str,
        /// The step.
        step: &'a str,
        /// Bytes that have arrived.
        bytes: u64,
        /// Bytes that there will be.
        total: Option<u64>,
    },
    /// A line of a tool's output; with `--verbose` only.
    Output {
        /// The component.
        component: &'a str,
        /// The step.
        step: &'a str,
        /// The line, without colours.
        line: &'a str,
    },
    /// A step has ended, or did not have to run.
    StepEnd {
        /// The component.
        component: &'a str,
        /// The step.
        step: &'a str,
        /// How.
        result: StepResult,
        /// Seconds on the clock; of a cached step those when it ran.
        wall_s: f64,
        /// Seconds of processor time; none where no command ran.
        cpu_s: Option<f64>,
        /// Most memory in use at once, in bytes; none where no command ran.
        peak: Option<u64>,
        /// What there is to say about it.
        note: &'a str,
    },
    /// A step or the run has failed.
    Failure(FailureEvent<'a>),
    /// A file for the person who runs this.
    Artifact {
        /// Its path.
        path: &'a str,
        /// Its hash; none for a folder.
        sha256: Option<&'a str>,
        /// Its size; none for a folder.
        bytes: Option<u64>,
    },
    /// A line for people that is none of the above.
    Message {
        /// The line.
        text: &'a str,
    },
    /// The last line.
    RunEnd {
        /// The exit status.
        exit_status: u8,
        /// Its meaning.
        result: &'a str,
        /// Seconds since the first line.
        wall_s: f64,
    },
}

/// How a step has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// It ran, and well.
    Built,
    /// It did not have to run.
    Cached,
    /// It ran, and not well.
    Failed,
}

impl StepResult {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Built => "built",
            Self::Cached => "cached",
            Self::Failed => "failed",
        }
    }
}

/// Why a step or the run has failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailureEvent<'a> {
    /// The component; none for the run itself.
    pub component: Option<&'a str>,
    /// The step.
    pub step: Option<&'a str>,
    /// [`error::Kind::name`].
    pub kind: &'a str,
    /// The exit status that this kind has.
    pub exit_status: u8,
    /// What is said to people.
    pub message: String,
    /// How the command ended that failed, if one did.
    pub command_status: Option<String>,
    /// Its first line that looks like an error.
    pub first_error: Option<&'a str>,
    /// The command, as one would type it.
    pub command: Option<&'a str>,
    /// Where it ran.
    pub dir: Option<String>,
    /// A script that runs it again.
    pub again: Option<String>,
    /// The step's log.
    pub log: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    format: u32,
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// Begins the stream on standard output, with the run's first event.
pub fn open(command: &str) {
    *STREAM.lock().unwrap_or_else(PoisonError::into_inner) = Some(Stream { began: Instant::now(), failed: false });
    emit(&Event::RunBegin { command, version: env!("CARGO_PKG_VERSION"), pid: std::process::id() });
}

/// Whether there is a stream.
pub fn wanted() -> bool {
    STREAM.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Tells an event, if anybody wants to know.
pub fn emit(event: &Event<'_>) {
    let mut stream = STREAM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = stream.as_mut() {
        open.failed |= matches!(event, Event::Failure(_));
        if let Err(error) = write(event) {
            *stream = None;
            // Nobody may be left to read this either.
            let _ = writeln!(std::io::stderr(), "cannot write events: {error}; the run goes on without them");
        }
    }
}

fn write(event: &Event<'_>) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&Line { format: FORMAT, time: format!("{:.3}", jiff::Timestamp::now()), event })?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// Tells that a step has failed.
pub fn failure(place: Option<(&str, &str)>, error: &anyhow::Error) {
    if !wanted() {
        return;
    }
    let kind = error::kind_of(error);
    let failed = error.chain().find_map(|cause| cause.downcast_ref::<CommandFailed>());
    emit(&Event::Failure(FailureEvent {
        component: place.map(|(component, _)| component),
        step: place.map(|(_, step)| step),
        kind: kind.name(),
        exit_status: kind as u8,
        message: format!("{error:#}"),
        command_status: failed.map(|failed| failed.status.to_string()),
        first_error: failed.and_then(|failed| failed.first_error.as_deref()),
        command: failed.map(|failed| failed.command.as_str()),
        dir: failed.map(|failed| failed.dir.display().to_string()),
        again: failed.and_then(|failed| failed.again.as_ref()).map(|path| path.display().to_string()),
        log: failed.map(|failed| failed.log.display().to_string()),
    }));
}

/// Ends the stream of a run that failed; the failure itself is told unless it was a step's and has been.
pub fn end(error: &anyhow::Error, kind: Kind) {
    let told = STREAM.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|stream| stream.failed);
    if !told {
        failure(None, error);
    }
    close(kind as u8, kind.name());
}

/// Ends the stream with the run's last event. What comes later is not told.
pub fn close(exit_status: u8, result: &str) {
    let began = STREAM.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|stream| stream.began);
    let Some(began) = began else { return };
    emit(&Event::RunEnd { exit_status, result, wall_s: began.elapsed().as_secs_f64() });
    *STREAM.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
