//! What runs cost: `build/history/` keeps the last ones, `build/timings.html` shows the newest as a page.

use crate::events::{Event, StepResult};
use crate::progress;
use crate::shell::Cost;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
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
        Self::new(component, step, (at, wall), before, StepResult::Cached)
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
    steps: Vec<Span>,
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

    /// Writes the run to `build/history/`; if it built anything, the page too, and gives the table of its steps.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn end(&self, build: &Path, bundle: &str, good: bool) -> anyhow::Result<Option<String>> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if spans.is_empty() {
            return Ok(None);
        }
        spans.sort_by(|a, b| a.begin_s.total_cmp(&b.begin_s));
        let at = format!("{:.0}", self.at);
        let wall_s = self.began.elapsed().as_secs_f64();
        let run = Run { format: FORMAT, bundle: bundle.to_owned(), at: at.clone(), wall_s, good, steps: spans };
        let folder = build.join("history");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // Colons are no letters for file names everywhere.
        write(&folder.join(format!("{}.json", at.replace(':', "-"))), &serde_json::to_vec_pretty(&run)?)?;
        forget_old(&folder)?;
        write(&build.join("timings.html"), page(&run).as_bytes())?;
        Ok(Some(table(&run.steps)))
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

/// The kept runs, the oldest first: the names are times.
fn runs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut runs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    runs.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    runs.sort();
    runs
}

fn forget_old(folder: &Path) -> anyhow::Result<()> {
    for old in runs(folder).iter().rev().skip(KEPT) {
        std::fs::remove_file(old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(())
}

fn seconds(secs: f64) -> String {
    progress::seconds(Duration::try_from_secs_f64(secs).unwrap_or_default())
}

/// Component, step, time, processor time and memory of each step.
fn table(spans: &[Span]) -> String {
    let mut text = format!("  {:<36} {:>10} {:>10} {:>10}", "step", "time", "cpu", "peak");
    for span in spans {
        let title = format!("{} {}", span.component, span.step);
        let _ = write!(
            text,
            "\n  {title:<36} {:>10} {:>10} {:>10}",
            seconds(span.wall_s),
            seconds(span.cpu_s.unwrap_or_default()),
            progress::bytes(span.peak.unwrap_or_default())
        );
    }
    text
}

/// A page that needs nothing but itself: one bar for each step, as long as it took, where it was in time.
fn page(run: &Run) -> String {
    let total = run.steps.iter().map(|span| span.begin_s + span.wall_s).fold(0.001, f64::max);
    let mut rows = String::new();
    for span in &run.steps {
        let (left, width) = (100.0 * span.begin_s / total, (100.0 * span.wall_s / total).max(0.15));
        let cores = if span.wall_s > 0.0 { span.cpu_s.unwrap_or_default() / span.wall_s } else { 0.0 };
        let _ = writeln!(
            rows,
            "<tr class=\"{}\"><th>{} <b>{}</b></th><td class=bar><i style=\"margin-left:{left:.3}%;width:{width:.3}%\"></i></td>\
             <td>{}</td><td>{}</td><td>{cores:.1}</td><td>{}</td></tr>",
            if span.result == StepResult::Failed { "bad" } else { "good" },
            escape(&span.component),
            escape(&span.step),
            seconds(span.wall_s),
            seconds(span.cpu_s.unwrap_or_default()),
            progress::bytes(span.peak.unwrap_or_default()),
        );
    }
    let title = format!("{} on {}", escape(&run.bundle), escape(&run.at));
    format!(
        "<!DOCTYPE html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{title}</title>\n\
         <style>{STYLE}</style>\n<h1>{title}</h1>\n<p>{} from the first step to the last.</p>\n<table>\n\
         <tr><th>step</th><th class=axis><span>0</span><span>{}</span><span>{}</span></th><th>time</th><th>cpu</th><th>cores</th><th>peak</th></tr>\n\
         {rows}</table>\n</html>\n",
        seconds(total),
        seconds(total / 2.0),
        seconds(total),
    )
}

const STYLE: &str = ":root{color-scheme:light dark;--line:#8884;--good:#3b7dd8;--bad:#d0453a}\
body{font:14px/1.5 system-ui,sans-serif;margin:2rem}h1{font-size:1.2rem}table{border-collapse:collapse;width:100%}\
th,td{padding:.2rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}\
th:first-child{text-align:left;font-weight:400}.bar{width:60%;padding:0}.bar i{display:block;height:1.1rem;border-radius:2px;background:var(--good)}\
.bad .bar i{background:var(--bad)}.axis span{display:inline-block;width:33%;font-weight:400}.axis span:first-child{text-align:left}\
.axis span:nth-child(2){text-align:center}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_kept_shown_and_told_and_old_runs_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        for at in 0..KEPT + 3 {
            let history = History { at: jiff::Timestamp::from_second(1_000_000 + at as i64).unwrap(), ..History::begin() };
            let times = (Duration::from_secs(1), Duration::from_secs(2));
            let cost = Some(Cost { peak: 5_000_000, ..Cost::default() });
            history.add(Span::new("go-carbon", "<compile>", times, cost, StepResult::Built));
            history.add(Span::new("collectd", "compile", times, None, StepResult::Failed));
            let table = history.end(folder.path(), "dkumonitor-1", false).unwrap().unwrap();
            assert!(table.contains("go-carbon <compile>") && table.contains("5.0 MB"), "{table}");
        }
        let runs: Vec<_> = std::fs::read_dir(folder.path().join("history")).unwrap().flatten().collect();
        assert_eq!(runs.len(), KEPT);
        let page = std::fs::read_to_string(folder.path().join("timings.html")).unwrap();
        assert!(page.contains("&lt;compile&gt;") && page.contains("class=\"bad\"") && !page.contains("<compile>"), "{page}");
    }

    #[test]
    fn a_run_without_steps_leaves_the_last_page_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(History::begin().end(folder.path(), "x", true).unwrap(), None);
        assert!(!folder.path().join("timings.html").exists());
    }
}
