//! The page of a run: a bar for each step, as long as it took and where it was in time, and the machine's load below.
//!
//! It needs nothing but itself: no script, no font, no address. It follows the browser's choice of light and dark.

use super::{Run, Span, seconds};
use crate::events::StepResult;
use crate::meter::Load;
use crate::text::bytes;
use std::fmt::Write as _;

/// How many marks the time axis has at most.
const MARKS: f64 = 10.0;

/// The page as HTML.
pub fn page(run: &Run) -> String {
    let total = run.ran().map(|span| span.begin_s + span.wall_s).fold(run.wall_s, f64::max).max(0.001);
    let mut rows = String::new();
    for span in &run.steps {
        row(&mut rows, span, total);
    }
    let tick = tick(total);
    let title = format!("{} on {}", escape(&run.bundle), escape(&run.at));
    let failed = if run.good { "" } else { " <b>(failed)</b>" };
    format!(
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title>\n<style>{STYLE}</style></head>\n<body><h1>{title}{failed}</h1>\n\
         <p>{} in all: {}. <span><i></i>ran</span> <span><i class=failed></i>failed</span></p>\n\
         <div class=scroll><table style=\"--tick:{:.4}%\">\n<thead><tr><th>step</th><td class=axis>{}</td><td>wall</td><td class=middle>cpu</td>\
         <td class=wide>cores</td><td>peak</td><td class=wide>result</td></tr></thead>\n<tbody>\n{rows}{}</tbody>\n\
         </table></div></body></html>\n",
        seconds(run.wall_s),
        run.counts(),
        100.0 * tick / total,
        axis(total, tick),
        graphs(&run.load, total),
    )
}

const STYLE: &str = include_str!("page.css");

/// One step.
fn row(rows: &mut String, span: &Span, total: f64) {
    let (component, step) = (escape(&span.component), escape(&span.step));
    let class = span.result.word();
    let _ = write!(rows, "<tr class={class}><th title=\"{component} {step}\">{component} <b>{step}</b></th>");
    if span.result == StepResult::Cached {
        let saved = if span.wall_s > 0.0 { format!("took {} when it ran", seconds(span.wall_s)) } else { String::new() };
        let _ = writeln!(
            rows,
            "<td class=bar>{saved}</td><td>–</td><td class=middle>–</td><td class=wide>–</td><td>–</td><td class=wide>cached</td></tr>"
        );
        return;
    }
    let known = |figure: Option<String>| figure.unwrap_or_else(|| "–".to_owned());
    let (cpu, peak) = (known(span.cpu_s.map(seconds)), known(span.peak.map(bytes)));
    let cores = known(span.cpu_s.filter(|_| span.wall_s > 0.0).map(|cpu| format!("{:.1}", cpu / span.wall_s)));
    let (begin, wall) = (seconds(span.begin_s), seconds(span.wall_s));
    let _ = writeln!(
        rows,
        "<td class=bar><i style=\"margin-left:{:.3}%;width:{:.3}%\" title=\"{component} {step}: begins at {begin}, takes {wall}, \
         cpu {cpu}, peak {peak}\"></i></td><td>{wall}</td><td class=middle>{cpu}</td><td class=wide>{cores}</td><td>{peak}</td>\
         <td class=wide>{class}</td></tr>",
        100.0 * span.begin_s / total,
        100.0 * span.wall_s / total,
    );
}

/// The time between two marks: round for people, and not too many of them.
fn tick(total: f64) -> f64 {
    const ROUND: [f64; 19] =
        [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
    ROUND.into_iter().find(|tick| total / tick <= MARKS).unwrap_or_else(|| (total / MARKS / 3600.0).ceil() * 3600.0)
}

fn axis(total: f64, tick: f64) -> String {
    let mut text = String::new();
    let mut at = 0.0;
    // The last mark's label would stand outside.
    while at < total * 0.95 {
        let label = match () {
            () if at == 0.0 => "0".to_owned(),
            () if tick >= 60.0 => format!("{:.0} m", at / 60.0),
            () if tick >= 1.0 => format!("{at:.0} s"),
            () => format!("{at:.2} s"),
        };
        let _ = write!(text, "<span style=\"left:{:.3}%\">{label}</span>", 100.0 * at / total);
        at += tick;
    }
    text
}

/// The machine's load over the same time as the bars.
fn graphs(load: &[Load], total: f64) -> String {
    let Some(most) = load.iter().map(|point| point.memory).max() else { return String::new() };
    let cores = load.iter().map(|point| point.cpu).fold(0.0, f64::max);
    let mean = load.iter().map(|point| point.cpu).sum::<f64>() / load.len() as f64;
    let cpu = path(load.iter().map(|point| (point.at_s, point.cpu)), total);
    let memory = path(load.iter().map(|point| (point.at_s, point.memory as f64 / most.max(1) as f64)), total);
    let graph = |class: &str, name: &str, path: &str, note: &str| {
        format!(
            "<tr class={class}><th>machine <b>{name}</b></th><td class=\"bar graph\"><svg viewBox=\"0 0 1000 100\" \
             preserveAspectRatio=none><path d=\"{path}\"/></svg></td><td colspan=5 class=note>{note}</td></tr>\n"
        )
    };
    graph("cpu", "cpu", &cpu, &format!("{:.0} % on average, {:.0} % at most", 100.0 * mean, 100.0 * cores))
        + &graph("memory", "memory", &memory, &format!("{} at most", bytes(most)))
}

/// An area over time, for heights of 0 to 1.
fn path(points: impl Iterator<Item = (f64, f64)>, total: f64) -> String {
    let mut text = "M0 100".to_owned();
    let mut last = 0.0;
    for (at, height) in points {
        last = (1000.0 * at / total).min(1000.0);
        let _ = write!(text, "L{last:.1} {:.1}", 100.0 - 100.0 * height);
    }
    let _ = write!(text, "L{last:.1} 100Z");
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::table::tests::run;

    #[test]
    fn every_step_has_its_row_and_no_name_becomes_markup() {
        let page = page(&run());
        for part in [
            "<tr class=built><th title=\"grafana fetch\">grafana <b>fetch</b></th>",
            "a step with a &lt;name&gt; much",
            "<tr class=failed>",
            "<tr class=cached>",
            "took 41.0 s when it ran",
            "(failed)",
            "4 built, 2 cached, 1 failed",
            "5.9 GB",
            "machine <b>memory</b>",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("<name>"));
        assert_eq!(page.matches("<tr class=").count(), 7 + 2);
        // Self-contained: nothing is loaded from anywhere.
        assert!(!["src=", "href=", "url(", "@import", "http:", "https:", "<script"].iter().any(|part| page.contains(part)));
    }

    #[test]
    fn bars_stand_where_their_steps_were() {
        let page = page(&Run { wall_s: 400.0, ..run() });
        assert!(page.contains("margin-left:3.925%;width:78.000%"), "{page}");
    }

    #[test]
    fn marks_are_round_and_few_whatever_the_time() {
        for total in [0.001, 0.4, 7.0, 59.0, 371.0, 4000.0, 100_000.0] {
            let tick = tick(total);
            let count = axis(total, tick).matches("<span").count();
            assert!((1..=11).contains(&count), "{total}: {count} marks of {tick}");
        }
        assert_eq!(tick(371.0), 60.0);
    }

    #[test]
    fn without_load_there_are_no_graphs() {
        assert!(!page(&Run { load: Vec::new(), ..run() }).contains("<svg"));
    }
}
