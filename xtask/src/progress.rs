//! What a person sees while work goes on: one line for each step, with its time.
//!
//! On a terminal a running step is a spinner with its last line of output, and a finished one a line that stays. Where
//! standard error is no terminal, plain lines are printed as steps end (and as long ones begin). Full output is never
//! here: it is in the logs ([`crate::logs`]).

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Room for a step's title, so that times stand in one column; longer titles push theirs aside.
const TITLE: usize = 34;

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

/// The person's view of a run. Cheap to clone; every clone shows the same run.
#[derive(Clone)]
pub struct Ui {
    bars: Option<MultiProgress>,
    verbosity: Verbosity,
    started: Arc<Instant>,
}

impl Ui {
    /// A view on standard error; spinners only where that is a terminal.
    pub fn new(verbosity: Verbosity) -> Self {
        let bars = (std::io::stderr().is_terminal() && verbosity != Verbosity::Quiet).then(MultiProgress::new);
        Self { bars, verbosity, started: Arc::new(Instant::now()) }
    }

    /// The time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints a line that stays, unless the run is quiet.
    pub fn line(&self, text: &str) {
        if self.verbosity != Verbosity::Quiet {
            self.force_line(text);
        }
    }

    fn force_line(&self, text: &str) {
        match &self.bars {
            // Printing fails only when standard error is gone; then nobody is left to be told.
            Some(bars) => drop(bars.println(text)),
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }

    /// Begins a step, titled `component what`.
    pub fn step(&self, component: &str, what: &str) -> Step {
        let title = format!("{component} {what}");
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(spinner_style());
            bar.set_prefix(format!("{title:<TITLE$}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Step { ui: self.clone(), title, bar, started: Instant::now(), closed: false }
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

/// One running step. Dropped without being closed, it counts as given up and leaves no line.
pub struct Step {
    ui: Ui,
    title: String,
    bar: Option<ProgressBar>,
    started: Instant,
    closed: bool,
}

impl Step {
    /// Says that a long step begins, where no spinner can show it.
    pub fn announce(&self) {
        if self.bar.is_none() {
            self.ui.line(&format!("  … {}", self.title));
        }
    }

    /// Shows the step's latest line of output.
    pub fn message(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(text));
        }
    }

    /// Prints a line of a tool's output when the run is verbose.
    pub fn output(&self, line: &str) {
        if self.ui.verbosity == Verbosity::Verbose {
            self.ui.line(&format!("    {} | {}", self.title, printable(line)));
        }
        self.message(line);
    }

    /// Turns the step's line into a counter of `total` bytes; unknown totals are left out.
    pub fn length(&self, total: Option<u64>) {
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
    }

    /// The time since the step began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends the step well; `note` stands behind its time.
    pub fn done(mut self, note: &str) {
        self.close("✓", note);
    }

    /// Ends the step badly; `note` stands behind its time. Shown even when the run is quiet.
    pub fn fail(mut self, note: &str) {
        self.close("✗", note);
    }

    fn close(&mut self, mark: &str, note: &str) {
        self.closed = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let line = format!("  {mark} {:<width$} {:>8}  {note}", self.title, seconds(self.elapsed()), width = TITLE);
        let line = line.trim_end();
        if mark == "✗" { self.ui.force_line(line) } else { self.ui.line(line) }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let (false, Some(bar)) = (self.closed, self.bar.take()) {
            bar.finish_and_clear();
        }
    }
}

/// A duration for people: `0.35 s`, `39.1 s`, `5 m 17 s`.
pub fn seconds(time: Duration) -> String {
    let secs = time.as_secs_f64();
    if secs < 10.0 {
        format!("{secs:.2} s")
    } else if secs < 120.0 {
        format!("{secs:.1} s")
    } else {
        format!("{} m {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// A size for people, in powers of 1000 as disks and networks count: `6.7 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A tool's line without what would move a terminal's cursor or change its colours.
pub fn printable(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // CSI sequences end with a letter or '~'; the rest of the escapes are one character long.
            '\u{1b}' => {
                if chars.next_if_eq(&'[').is_some() {
                    while chars.next().is_some_and(|c| !(c.is_ascii_alphabetic() || c == '~')) {}
                } else {
                    chars.next();
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_controls_are_taken_out_of_a_tools_line() {
        assert_eq!(printable("\u{1b}[31mred\u{1b}[0m\tand\u{7} \u{1b}[2Kplain\r"), "red and plain");
        assert_eq!(printable("cut \u{1b}["), "cut ");
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(6_665_589), "6.7 MB");
        assert_eq!(bytes(999_990_000), "1.0 GB");
        assert_eq!(seconds(Duration::from_millis(350)), "0.35 s");
        assert_eq!(seconds(Duration::from_secs(317)), "5 m 17 s");
    }
}
