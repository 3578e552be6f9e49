//! The view on a terminal: a line for each running step, and below them one for all.

use super::forecast::Course;
use crate::text::{about, clock, printable, title, write_stderr};
use console::measure_text_width;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Room for a step's title, so that times stand in one column.
pub(super) const TITLE: usize = 34;

/// How often spinners turn.
const TICK: Duration = Duration::from_millis(120);

/// What is drawn now, for whoever ends the program.
static SCREEN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// The lines of a run.
pub(super) struct Terminal {
    bars: MultiProgress,
    total: Mutex<Option<ProgressBar>>,
}

impl Terminal {
    /// On standard error, if that is a terminal that can move its cursor.
    pub(super) fn on_stderr() -> Option<Self> {
        let able = std::env::var_os("TERM").is_none_or(|term| !term.is_empty() && term != "dumb");
        if !able || !std::io::stderr().is_terminal() {
            return None;
        }
        let bars = MultiProgress::new();
        *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bars.clone());
        Some(Self { bars, total: Mutex::new(None) })
    }

    /// Prints a line that stays, above those that run.
    pub(super) fn line(&self, text: &str) {
        // Printing fails only when standard error is gone; then nobody is left to be told.
        let _ = self.bars.println(text);
    }

    /// Shows how far all steps are, until [`Self::end`].
    pub(super) fn count(&self, course: &Arc<Mutex<Course>>, began: Instant) {
        let style = ProgressStyle::with_template("  {spinner} {total}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let course = Arc::clone(course);
        let last = Arc::new(Mutex::new(String::new()));
        let total = move |_: &ProgressState, out: &mut dyn Write| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever draws may hold the course himself.
            if let Ok(course) = course.try_lock() {
                *last = total_line(&course, began.elapsed());
            }
            let _ = out.write_str(&last);
        };
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style.with_key("total", total)));
        bar.enable_steady_tick(TICK);
        *self.total.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    /// Adds the line of a step that begins.
    pub(super) fn add(&self, component: &str, step: &str) -> Line {
        let bar = ProgressBar::new_spinner().with_style(style("{wide_msg}")).with_prefix(fit(component, step, self.width()));
        let bar = match &*self.total.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(total) => self.bars.insert_before(total, bar),
            None => self.bars.add(bar),
        };
        bar.enable_steady_tick(TICK);
        Line { bar, counts: Mutex::new(false) }
    }

    /// How wide it is, in columns.
    pub(super) fn width(&self) -> usize {
        console::Term::stderr().size_checked().map_or(80, |(_, width)| usize::from(width))
    }

    /// Takes away what was shown of the total.
    pub(super) fn end(&self) {
        if let Some(total) = self.total.lock().unwrap_or_else(PoisonError::into_inner).take() {
            total.finish_and_clear();
        }
    }
}

/// Prints a line above what is drawn, for those who know no view.
pub fn say(line: &str) {
    let bars = SCREEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bars {
        Some(bars) => drop(bars.println(line)),
        None => write_stderr(line),
    }
}

/// Clears what is drawn, for a program that leaves at once.
pub fn clear() {
    let bars = SCREEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(bars) = bars {
        let _ = bars.clear();
    }
}

/// The line of one running step; it goes when this is dropped.
pub(super) struct Line {
    bar: ProgressBar,
    /// Whether it shows bytes.
    counts: Mutex<bool>,
}

impl Line {
    /// Shows the latest line of output.
    pub(super) fn message(&self, text: &str) {
        self.bar.set_message(printable(text));
    }

    /// Shows bytes and their rate from now on, of `total` if that is known.
    pub(super) fn length(&self, total: Option<u64>) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = true;
        match total {
            Some(total) => {
                self.bar.set_style(style("{decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {wide_msg}"));
                self.bar.set_length(total);
            }
            None => self.bar.set_style(style("{decimal_bytes} {decimal_bytes_per_sec} {wide_msg}")),
        }
    }

    /// Sets how many bytes have arrived.
    pub(super) fn position(&self, bytes: u64) {
        if !*self.counts.lock().unwrap_or_else(PoisonError::into_inner) {
            self.length(None);
        }
        self.bar.set_position(bytes);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(rest: &str) -> ProgressStyle {
    let clock = |state: &ProgressState, out: &mut dyn Write| {
        let _ = out.write_str(&clock(state.elapsed()));
    };
    // The templates are constants; were one ever broken, indicatif's own default is good enough.
    ProgressStyle::with_template(&format!("  {{spinner}} {{prefix}} {{clock:>5}}  {rest}"))
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .with_key("clock", clock)
}

/// A title in its column; one that would take most of the terminal is cut. On a narrow one the column takes no more than half.
pub(super) fn fit(component: &str, step: &str, width: usize) -> String {
    let column = TITLE.min(width / 2);
    let title = title(component, step, column.max((width / 2).saturating_sub(6)));
    let padding = column.saturating_sub(measure_text_width(&title));
    format!("{title}{:padding$}", "")
}

/// `3/12 steps   1:03   about 2 m 10 s left`.
fn total_line(course: &Course, now: Duration) -> String {
    let (done, all) = course.count();
    let mut text = format!("{done}/{all} steps   {}", clock(now));
    // What should have ended by now says nothing about when it will.
    if let Some(forecast) = course.forecast(now).filter(|forecast| forecast.left >= Duration::from_secs(1)) {
        let word = if forecast.at_least { "more than" } else { "about" };
        let _ = write!(text, "   {word} {} left", about(forecast.left));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Remembered;
    use crate::progress::{Ahead, Fate};
    use crate::resources::Resources;

    #[test]
    fn titles_fill_their_column_and_are_cut_before_they_fill_the_terminal() {
        assert_eq!(fit("thing", "compile", 80), format!("{:34}", "thing compile"));
        assert_eq!(measure_text_width(&fit("日本語", "compile", 80)), 34);
        let long = "a-component-with-a-long-name-that-goes-on-and-on";
        assert_eq!(fit(long, "compile", 80), "a-component-with-a-long-n… compile");
        assert_eq!(fit(long, "compile", 200), format!("{long} compile"));
        assert_eq!(fit("thing", "compile", 40), format!("{:20}", "thing compile"));
        assert_eq!(fit(long, "compile", 40), "a-component… compile");
    }

    #[test]
    fn the_total_says_how_long_only_when_that_is_remembered() {
        let step = |name: &str| Ahead {
            component: "x".to_owned(),
            step: name.to_owned(),
            after: Vec::new(),
            need: Resources { cores: 1, memory_mb: 1 },
            fate: Fate::Run(String::new()),
        };
        let limit = Resources { cores: 1, memory_mb: 1 };
        let new = |times: &Remembered| Course::new(vec![step("a"), step("b")], times, limit);
        let now = Duration::from_secs(63);
        assert_eq!(total_line(&new(&Remembered::default()), now), "0/2 steps   1:03");
        let known = Remembered::of([("x", "a", 100.0), ("x", "b", 29.0)]);
        assert_eq!(total_line(&new(&known), now), "0/2 steps   1:03   about 2 m 10 s left");
        let half = Remembered::of([("x", "b", 29.0)]);
        assert_eq!(total_line(&new(&half), now), "0/2 steps   1:03   more than 29 s left");
        let mut late = new(&Remembered::of([("x", "a", 100.0)]));
        late.begin("x", "a", Duration::ZERO);
        late.end("x", "b");
        assert_eq!(total_line(&late, Duration::from_secs(120)), "1/2 steps   2:00");
    }
}
