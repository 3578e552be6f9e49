//! The table at the end of a run: a line for each step, and one for all.

use super::{Run, Span, seconds};
use crate::events::StepResult;
use crate::progress;
use std::fmt::Write as _;

/// No column of titles is wider; a longer title pushes its figures aside.
const TITLE: usize = 44;

/// Step, time on the clock, processor time, peak memory, and how it ended. Of a step that did not have to run the figures
/// are left out, but for the time that this saved.
pub fn table(run: &Run) -> String {
    let title = |span: &Span| format!("{} {}", span.component, span.step);
    let width = run.steps.iter().map(|span| title(span).chars().count()).max().unwrap_or(0).clamp(5, TITLE);
    let mut text = String::new();
    let mut row = |title: &str, wall: &str, cpu: &str, peak: &str, result: &str| {
        let line = format!("  {title:<width$} {wall:>11} {cpu:>11} {peak:>9}  {result}");
        let _ = writeln!(text, "{}", line.trim_end());
    };
    row("step", "wall", "cpu", "peak", "");
    for span in &run.steps {
        if span.result == StepResult::Cached {
            let saved = if span.wall_s > 0.0 { format!("cached (took {})", seconds(span.wall_s)) } else { "cached".to_owned() };
            row(&title(span), "–", "–", "–", &saved);
        } else {
            let (cpu, peak) = (span.cpu_s.map(seconds), span.peak.map(progress::bytes));
            let known = |figure: Option<String>| figure.unwrap_or_else(|| "–".to_owned());
            row(&title(span), &seconds(span.wall_s), &known(cpu), &known(peak), span.result.word());
        }
    }
    let cpu: f64 = run.ran().filter_map(|span| span.cpu_s).sum();
    let peak = run.ran().filter_map(|span| span.peak).max().unwrap_or(0);
    row("total", &seconds(run.wall_s), &seconds(cpu), &progress::bytes(peak), &run.counts());
    text.pop();
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run with a step of every kind.
    pub(crate) fn run() -> Run {
        let span = |component: &str, step: &str, begin_s, wall_s, cpu_s, peak, result| Span {
            component: component.to_owned(),
            step: step.to_owned(),
            begin_s,
            wall_s,
            cpu_s,
            peak,
            result,
        };
        use StepResult::{Built, Cached, Failed};
        let load = |at_s: u32| crate::meter::Load { at_s: at_s.into(), cpu: f64::from(at_s % 10) / 10.0, memory: 1 << 30 };
        Run {
            format: super::super::FORMAT,
            bundle: "dkumonitor-0.1.0".to_owned(),
            at: "2026-01-02T03:04:05Z".to_owned(),
            wall_s: 371.4,
            good: false,
            steps: vec![
                span("grafana", "fetch", 0.01, 12.3, None, None, Built),
                span("grafana", "unpack", 12.4, 3.2, None, None, Built),
                span("grafana", "frontend", 15.7, 312.0, Some(901.5), Some(5_912_000_000), Built),
                span(
                    "grafana",
                    "a step with a <name> much longer than anybody needs",
                    327.8,
                    0.35,
                    Some(0.2),
                    Some(9_000_000),
                    Built,
                ),
                span("collectd", "compile", 16.0, 22.1, Some(39.6), Some(98_700_000), Failed),
                span("go-carbon", "compile", 0.0, 41.0, Some(70.0), Some(400_000_000), Cached),
                span("carbonapi", "überprüfen", 0.0, 0.0, None, None, Cached),
            ],
            load: (0..371).map(load).collect(),
        }
    }

    #[test]
    fn the_table_keeps_its_columns() {
        assert_eq!(table(&run()) + "\n", include_str!("table.txt"));
    }
}
