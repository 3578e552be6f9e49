//! What runs cost: `build/history/` keeps the last ones, failed ones too, `build/timings.html` shows the newest that built
//! anything as a page, and at the end of a run there is a table.

mod page;
mod table;

use crate::events::{Event, StepResult};
use crate::meter::Load;
use crate::resources::Cost;
use crate::text;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many runs are kept.
const KEPT: usize = 20;

/// The version of a run's file; others are not read.
const FORMAT: u32 = 1;

/// One step of one component, while it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Span {
    /// The component.
    pub component: String,
    /// The step.
    pub step: String,
    /// When it began, in seconds since the run did.
    pub begin_s: f64,
    /// How long it took, in seconds; of a cached step when it ran last.
    pub wall_s: f64,
    /// Processor time of its commands, in seconds; none for a step without commands.
    pub cpu_s: Option<f64>,
    /// Most memory that its commands had at once, in bytes.
    pub peak: Option<u64>,
    /// How it ended.
    pub result: StepResult,
}

impl Span {
    /// A step that began so long after the run, took so long, and cost this.
    pub fn new(
        component: &str,
        step: &str,
        (begin, wall): (Duration, Duration),
        cost: Option<Cost>,
        result: StepResult,
    ) -> Self {
        Self {
            component: component.to_owned(),
            step: step.to_owned(),
            begin_s: begin.as_secs_f64(),
            wall_s: wall.as_secs_f64(),
            cpu_s: cost.map(|cost| cost.cpu.as_secs_f64()),
            peak: cost.map(|cost| cost.peak),
            result,
        }
    }

    /// A step that did not have to run, with what it cost when it did.
    pub fn cached(component: &str, step: &str, at: Duration, before: Option<Cost>) -> Self {
        let wall = before.map(|cost| cost.wall).unwrap_or_default();
        // Who knows no more than the time has no figures for the rest.
        let cost = before.filter(|cost| cost.peak > 0);
        Self::new(component, step, (at, wall), cost, StepResult::Cached)
    }

    /// Its end as programs are told it.
    pub fn event<'a>(&'a self, note: &'a str) -> Event<'a> {
        Event::StepEnd {
            component: &self.component,
            step: &self.step,
            result: self.result,
            wall_s: self.wall_s,
            cpu_s: self.cpu_s,
            peak: self.peak,
            note,
        }
    }
}

/// The steps of a run, gathered while it goes on.
pub struct History {
    began: Instant,
    /// When, for people and file names.
    at: jiff::Timestamp,
    spans: Mutex<Vec<Span>>,
}

/// A run as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Run {
    format: u32,
    bundle: String,
    /// When it began.
    at: String,
    wall_s: f64,
    /// Whether it ended well.
    good: bool,
    /// What ran, in its order, and then what did not have to.
    steps: Vec<Span>,
    /// The machine's load meanwhile; empty where that is not known.
    #[serde(default)]
    load: Vec<Load>,
}

impl Run {
    /// How many steps ended so.
    fn count(&self, result: StepResult) -> usize {
        self.steps.iter().filter(|step| step.result == result).count()
    }

    /// "12 built, 7 cached, 1 failed", without what there was none of.
    fn counts(&self) -> String {
        let all = [(StepResult::Built, "built"), (StepResult::Cached, "cached"), (StepResult::Failed, "failed")];
        let some = all.iter().map(|(result, word)| (self.count(*result), word)).filter(|(count, _)| *count > 0);
        some.map(|(count, word)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
    }

    /// The steps that ran.
    fn ran(&self) -> impl Iterator<Item = &Span> {
        self.steps.iter().filter(|step| step.result != StepResult::Cached)
    }
}

impl History {
    /// Begins with the run.
    pub fn begin() -> Self {
        Self { began: Instant::now(), at: jiff::Timestamp::now(), spans: Mutex::new(Vec::new()) }
    }

    /// Adds a step that has ended.
    pub fn add(&self, span: Span) {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    /// Writes the run to `build/history/`. If it built anything, the page is written too, and there is a table of its steps
    /// for a terminal that wide, if it is one.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn end(
        &self,
        build: &Path,
        (bundle, good): (&str, bool),
        load: Vec<Load>,
        columns: Option<usize>,
    ) -> anyhow::Result<Option<String>> {
        let mut steps = self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if steps.is_empty() {
            return Ok(None);
        }
        // What ran, in its order, and then what did not have to.
        steps.sort_by(|a, b| {
            (a.result == StepResult::Cached).cmp(&(b.result == StepResult::Cached)).then(a.begin_s.total_cmp(&b.begin_s))
        });
        let at = format!("{:.0}", self.at);
        let wall_s = self.began.elapsed().as_secs_f64();
        let run = Run { format: FORMAT, bundle: bundle.to_owned(), at, wall_s, good, steps, load };
        let folder = build.join("history");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write(&folder.join(file_name(self.at)), &serde_json::to_vec_pretty(&run)?)?;
        forget_old(&folder)?;
        if run.steps.iter().all(|step| step.result == StepResult::Cached) {
            return Ok(None);
        }
        write(&build.join("timings.html"), page::page(&run).as_bytes())?;
        Ok(Some(table::table(&run, columns)))
    }
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, content)
        .and_then(|()| std::fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// How long each step took when it ran last.
#[derive(Debug, Default)]
pub struct Remembered(BTreeMap<(String, String), Duration>);

impl Remembered {
    /// From the kept runs of a build folder; what cannot be read of them is not remembered.
    pub fn read(build: &Path) -> Self {
        let mut all = BTreeMap::new();
        for path in runs(&build.join("history")) {
            let Some(run) = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<Run>(&text).ok()) else {
                continue;
            };
            let known = run.steps.into_iter().filter(|span| span.result != StepResult::Failed && span.wall_s > 0.0);
            for span in known.filter(|_| run.format == FORMAT) {
                let wall = Duration::try_from_secs_f64(span.wall_s).unwrap_or_default();
                all.insert((span.component, span.step), wall);
            }
        }
        Self(all)
    }

    /// These seconds.
    #[cfg(test)]
    pub fn of<const N: usize>(times: [(&str, &str, f64); N]) -> Self {
        let entry = |(component, step, secs): (&str, &str, f64)| {
            ((component.to_owned(), step.to_owned()), Duration::from_secs_f64(secs))
        };
        Self(times.into_iter().map(entry).collect())
    }

    /// A step's time.
    pub fn wall(&self, component: &str, step: &str) -> Option<Duration> {
        self.0.get(&(component.to_owned(), step.to_owned())).copied()
    }
}

/// The name of a run that began then. Two runs can begin in one second, and colons are no letters for file names everywhere.
fn file_name(at: jiff::Timestamp) -> String {
    format!("{at:.3}.json").replace(':', "-")
}

/// The kept runs, the oldest first: the names are times. One that is yet to come was written before the clock was set back, and
/// is older than all others.
fn runs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut runs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    runs.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    let now = file_name(jiff::Timestamp::now());
    runs.sort_by_cached_key(|path| (path.file_name().is_some_and(|name| name <= now.as_str()), path.clone()));
    runs
}

fn forget_old(folder: &Path) -> anyhow::Result<()> {
    for old in runs(folder).iter().rev().skip(KEPT) {
        std::fs::remove_file(old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(())
}

/// A time in seconds, for people.
fn seconds(secs: f64) -> String {
    text::seconds(Duration::try_from_secs_f64(secs).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(component: &str, step: &str, result: StepResult) -> Span {
        let cost = Cost { wall: Duration::from_secs(7), cpu: Duration::from_secs(9), peak: 5_000_000 };
        match result {
            StepResult::Cached => Span::cached(component, step, Duration::ZERO, Some(cost)),
            _ => Span::new(component, step, (Duration::from_secs(1), Duration::from_secs(2)), Some(cost), result),
        }
    }

    #[test]
    fn a_run_is_kept_shown_and_told_and_old_runs_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        for at in 0..KEPT + 3 {
            let history = History { at: jiff::Timestamp::from_second(1_000_000 + at as i64).unwrap(), ..History::begin() };
            history.add(span("go-carbon", "<compile>", StepResult::Built));
            history.add(span("collectd", "compile", StepResult::Failed));
            let table = history.end(folder.path(), ("dkumonitor-1", false), Vec::new(), None).unwrap().unwrap();
            assert!(table.contains("go-carbon <compile>") && table.contains("5.0 MB"), "{table}");
        }
        let kept = runs(&folder.path().join("history"));
        assert_eq!(kept.len(), KEPT);
        let last: Run = serde_json::from_slice(&std::fs::read(kept.last().unwrap()).unwrap()).unwrap();
        assert!(!last.good && last.steps.iter().any(|step| step.result == StepResult::Failed), "{last:?}");
        assert!(folder.path().join("timings.html").exists());
    }

    #[test]
    fn runs_from_before_the_clock_was_set_back_are_the_oldest() {
        let folder = tempfile::tempdir().unwrap();
        let run = |at: jiff::Timestamp, wall| {
            let history = History { at, ..History::begin() };
            history.add(Span { wall_s: wall, ..span("a", "compile", StepResult::Built) });
            history.end(folder.path(), ("x", true), Vec::new(), None).unwrap();
        };
        let then: jiff::Timestamp = "2999-01-01T00:00:00Z".parse().unwrap();
        for at in 0..KEPT {
            run(then + jiff::SignedDuration::from_secs(at as i64), 100.0);
        }
        run(jiff::Timestamp::now(), 7.0);
        let kept = runs(&folder.path().join("history"));
        assert_eq!(kept.len(), KEPT);
        assert!(!kept.last().unwrap().to_str().unwrap().contains("2999"), "{kept:?}");
        assert_eq!(Remembered::read(folder.path()).wall("a", "compile"), Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_run_that_built_nothing_is_kept_but_leaves_the_last_page_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(History::begin().end(folder.path(), ("x", true), Vec::new(), None).unwrap(), None);
        assert!(!folder.path().join("history").exists());
        let history = History::begin();
        history.add(span("a", "compile", StepResult::Cached));
        assert_eq!(history.end(folder.path(), ("x", true), Vec::new(), None).unwrap(), None);
        assert_eq!(runs(&folder.path().join("history")).len(), 1);
        assert!(!folder.path().join("timings.html").exists());
    }

    #[test]
    fn what_a_step_took_is_remembered_though_it_was_cached_since_or_failed() {
        let folder = tempfile::tempdir().unwrap();
        for (at, result) in [StepResult::Built, StepResult::Failed, StepResult::Cached].into_iter().enumerate() {
            let history = History { at: jiff::Timestamp::from_second(at as i64).unwrap(), ..History::begin() };
            history.add(span("a", "compile", result));
            history.add(Span::cached("a", "unknown", Duration::ZERO, None));
            history.end(folder.path(), ("x", true), Vec::new(), None).unwrap();
        }
        std::fs::write(folder.path().join("history/2999-01-01T00-00-00Z.json"), "{\"format\": 1").unwrap();
        let remembered = Remembered::read(folder.path());
        assert_eq!(remembered.wall("a", "compile"), Some(Duration::from_secs(7)));
        assert_eq!((remembered.wall("a", "unknown"), remembered.wall("b", "compile")), (None, None));
    }
}
