//! The table at the end of a run: a line for each step, and one for all.

use super::{Run, Span, seconds};
use crate::events::StepResult;
use crate::text;
use console::measure_text_width;
use std::fmt::Write as _;

/// Columns of a row that are no title and no result: blanks and three figures.
const FIGURES: usize = 35;

/// The same on a terminal that has no room for more than the time on the clock and one word of the result.
const FEWER_FIGURES: usize = 21;

/// Titles are not cut to less than that.
const TITLE: usize = 20;

/// Nor to less than that where there are fewer figures.
const SHORT_TITLE: usize = 10;

/// A row: title, time on the clock, processor time, memory, and how it ended.
type Row = ((String, String), [String; 4]);

/// Step, time on the clock, processor time, peak memory, and how it ended. Of a step that did not have to run the figures
/// are left out, but for the time that this saved. On a terminal of `columns` nothing is wider than it, if that can be: long
/// titles are cut, and on a narrow one there are fewer columns.
pub fn table(run: &Run, columns: Option<usize>) -> String {
    let mut rows: Vec<Row> = vec![((String::new(), "step".to_owned()), ["wall", "cpu", "peak", ""].map(str::to_owned))];
    rows.extend(run.steps.iter().map(row));
    rows.push(total(run));
    let results = rows[1..rows.len() - 1].iter().map(|(_, [.., result])| measure_text_width(result)).max().unwrap_or(0);
    let narrow = columns.is_some_and(|columns| columns < FIGURES + results + TITLE);
    let room = columns.map_or(usize::MAX, |columns| match narrow {
        true => columns.saturating_sub(FEWER_FIGURES).max(SHORT_TITLE),
        false => columns - FIGURES - results,
    });
    let titles: Vec<_> = rows.iter().map(|((component, step), _)| text::title(component, step, room)).collect();
    let width = titles.iter().map(|title| measure_text_width(title)).max().unwrap_or(0);
    let mut text = String::new();
    for (title, (_, [wall, cpu, peak, result])) in titles.iter().zip(&rows) {
        let padding = width.saturating_sub(measure_text_width(title));
        let line = match narrow {
            true => format!("  {title}{:padding$} {wall:>10}  {}", "", result.split(' ').next().unwrap_or_default()),
            false => format!("  {title}{:padding$} {wall:>10} {cpu:>10} {peak:>8}  {result}", ""),
        };
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = write!(text, "  {}", run.counts());
    text
}

fn row(span: &Span) -> Row {
    let title = (span.component.clone(), span.step.clone());
    let unknown = || "–".to_owned();
    if span.result == StepResult::Cached {
        let saved = if span.wall_s > 0.0 { format!("cached (took {})", seconds(span.wall_s)) } else { "cached".to_owned() };
        return (title, [unknown(), unknown(), unknown(), saved]);
    }
    let cpu = span.cpu_s.map_or_else(unknown, seconds);
    let peak = span.peak.map_or_else(unknown, text::bytes);
    (title, [seconds(span.wall_s), cpu, peak, span.result.word().to_owned()])
}

/// The run's own time, all processor time, and the memory of the largest step.
fn total(run: &Run) -> Row {
    let cpu: f64 = run.ran().filter_map(|span| span.cpu_s).sum();
    let peak = run.ran().filter_map(|span| span.peak).max().unwrap_or(0);
    let figures = [seconds(run.wall_s), seconds(cpu), text::bytes(peak), String::new()];
    ((String::new(), "total".to_owned()), figures)
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
        assert_eq!(table(&run(), None) + "\n", include_str!("table.txt"));
    }

    #[test]
    fn a_narrow_terminal_cuts_titles_and_no_figures() {
        let table = table(&run(), Some(80));
        assert!(table.lines().all(|line| measure_text_width(line) <= 80), "{table}");
        assert!(table.contains("  grafana a step with a <n…     0.35 s     0.20 s   9.0 MB  built"), "{table}");
        let table = super::table(&run(), Some(40));
        assert!(table.lines().all(|line| measure_text_width(line) <= 40), "{table}");
        assert!(table.contains("  go-carbon compile            –  cached\n"), "{table}");
    }
}
