//! `dkm logs`: what services printed, merged by time.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;

use super::follow::{Followed, LOOK};
use super::names::Known;
use super::{exit, interrupt};
use crate::cli::dkm::Logs;
use crate::home::Home;
use crate::supervise::logs::{History, Line, stamp};
use crate::text::{self, shown};

/// How far back is looked first, in milliseconds, when only the last lines are wanted: mostly that is enough, and the rest need not
/// be read.
const LOOKS_BACK: [u64; 2] = [10 * 60_000, 24 * 3_600_000];

/// After so many milliseconds a line is in its log, and in the log's index: the steps of that are 10 ms.
const SETTLED: u64 = 20;

/// A line on its way out.
#[derive(Debug)]
struct Entry {
    service: usize,
    time: Option<u64>,
    text: Vec<u8>,
}

/// Shows what was printed, and with `--follow` what is.
///
/// # Errors
/// When a name is unknown, a log cannot be read, or the output cannot be written.
pub fn run(home: &Home, options: &Logs) -> Result<ExitCode> {
    let names = Known::at_least(home).need(&options.names.services)?;
    let since = options.since.map_or(0, |since| since.0);
    let mut printer = Printer::new(&names, options);
    if options.follow {
        interrupt::prepare();
    }
    let merged = match options.lines {
        None => {
            let mut merged = Merged::open(home, &names, since, options.follow)?;
            while let Some(entry) = merged.next()? {
                printer.print(&entry)?;
            }
            merged
        }
        Some(count) => {
            let (last, merged) = last_of(home, &names, since, count, options.follow)?;
            last.iter().try_for_each(|entry| printer.print(entry))?;
            merged
        }
    };
    printer.out.flush()?;
    if !options.follow {
        return Ok(ExitCode::SUCCESS);
    }
    follow(home, &names, merged, &mut printer)
}

/// The last so many lines since then.
fn last_of(home: &Home, names: &[String], since: u64, count: usize, follow: bool) -> Result<(VecDeque<Entry>, Merged)> {
    let now = stamp::now();
    let mut starts = LOOKS_BACK.iter().map(|back| now.saturating_sub(*back)).filter(|start| *start > since);
    loop {
        let start = starts.next();
        let mut merged = Merged::open(home, names, start.unwrap_or(since), follow)?;
        let mut last = VecDeque::new();
        while let Some(entry) = merged.next()? {
            last.push_back(entry);
            if last.len() > count {
                last.pop_front();
            }
        }
        if last.len() == count || start.is_none() {
            return Ok((last, merged));
        }
    }
}

/// Goes on with what comes.
fn follow(home: &Home, names: &[String], merged: Merged, printer: &mut Printer) -> Result<ExitCode> {
    let stamped: Vec<bool> = {
        let services = home.services().unwrap_or_default();
        let stamps = |name: &String| services.iter().any(|service| service.name == *name && service.log.timestamps);
        names.iter().map(stamps).collect()
    };
    let goes_on = |(name, source): (&String, Source)| Followed::from(name, &home.log(name), source.lines.end(), source.begun);
    let mut logs: Vec<Followed> = names.iter().zip(merged.sources).map(goes_on).collect();
    let mut held: Vec<Entry> = Vec::new();
    loop {
        let begin = stamp::now();
        for (service, log) in logs.iter_mut().enumerate() {
            held.extend(log.lines().into_iter().map(|(came, mut text)| {
                let own = if stamped[service] { stamp::parse(&text) } else { None };
                if own.is_some() {
                    text.drain(..text.len().min(stamp::LENGTH + 1));
                }
                Entry { service, time: own.or(came).or(Some(begin)), text }
            }));
        }
        held.sort_by_key(|entry| entry.time);
        // What came while we were looking may be younger than what comes to a log that we looked at before.
        let settled = held.partition_point(|entry| entry.time < Some(begin.saturating_sub(SETTLED)));
        held.drain(..settled).try_for_each(|entry| printer.print(&entry))?;
        printer.out.flush()?;
        if interrupt::sleep(LOOK) {
            return Ok(ExitCode::from(exit::INTERRUPTED));
        }
    }
}

/// One log while it is merged with others.
struct Source {
    lines: History,
    /// The next line, and the time by which it is put among those of others.
    next: Option<(u64, Line)>,
    /// The time of the line before, for lines of which nothing is known.
    last: u64,
    /// A line that has no end yet, when it will be followed.
    begun: Vec<u8>,
}

/// All logs as one, in the order of time; lines of one log stay in theirs.
struct Merged {
    sources: Vec<Source>,
    follow: bool,
}

impl Merged {
    fn open(home: &Home, names: &[String], since: u64, follow: bool) -> Result<Self> {
        let open = |name: &String| {
            let path = home.log(name);
            let lines = History::open(&path, since).with_context(|| format!("cannot read the log {}", path.display()))?;
            Ok(Source { lines, next: None, last: 0, begun: Vec::new() })
        };
        let mut merged = Self { sources: names.iter().map(open).collect::<Result<_>>()?, follow };
        merged.sources.iter_mut().try_for_each(|source| source.read_on(follow))?;
        Ok(merged)
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        let times = self.sources.iter().enumerate().filter_map(|(at, source)| Some((source.next.as_ref()?.0, at)));
        let Some((_, service)) = times.min() else { return Ok(None) };
        let source = &mut self.sources[service];
        let next = source.next.take();
        source.read_on(self.follow)?;
        Ok(next.map(|(_, line)| Entry { service, time: line.time, text: line.text }))
    }
}

impl Source {
    fn read_on(&mut self, follow: bool) -> Result<()> {
        self.next = match self.lines.next().transpose().context("cannot read a log")? {
            Some(line) if follow && !line.whole => {
                self.begun = line.text;
                // So that the end is reached.
                return self.read_on(follow);
            }
            Some(line) => {
                self.last = self.last.max(line.time.unwrap_or(0));
                Some((self.last, line))
            }
            None => None,
        };
        Ok(())
    }
}

struct Printer<'a> {
    names: &'a [String],
    width: usize,
    json: bool,
    raw: bool,
    out: io::BufWriter<io::Stdout>,
}

impl<'a> Printer<'a> {
    fn new(names: &'a [String], options: &Logs) -> Self {
        let width = names.iter().map(String::len).max().unwrap_or(0);
        Self { names, width, json: options.json, raw: options.shown.raw, out: io::BufWriter::new(io::stdout()) }
    }

    fn print(&mut self, entry: &Entry) -> Result<()> {
        let name = &self.names[entry.service];
        let time = entry.time.map(stamp::format);
        if self.json {
            let line = json!({"time": time, "service": name, "line": String::from_utf8_lossy(&entry.text)});
            writeln!(self.out, "{}", text::json(&line, false)?)?;
            return Ok(());
        }
        // What came before logs had times has none.
        write!(self.out, "{:<24}  {name:<width$}  ", time.unwrap_or_default(), width = self.width)?;
        if self.raw {
            self.out.write_all(&entry.text)?;
        } else {
            self.out.write_all(shown(&entry.text).as_bytes())?;
        }
        Ok(self.out.write_all(b"\n")?)
    }
}
