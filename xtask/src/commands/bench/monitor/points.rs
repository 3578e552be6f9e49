//! Points that are sent at a rate, and counted where they should be.
//!
//! Every series has a point for each second of an hour that lies in the past, so that none takes another's place: `rate` points a
//! second over `series` series are `rate / series` points of each, whose times go on by as many seconds. Each value tells which series
//! and which second it is of, so that a value in the wrong place is seen.

use super::{processor, wait_for_port};
use anyhow::Context as _;
use serde::Deserialize;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Series below one name; a query asks for so many.
const FOLDER: u32 = 100;

/// So many connections send, as many machines would.
const CONNECTIONS: u32 = 4;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub series: u32,
    /// Points a second; 0 for no limit.
    pub rate: u32,
    pub seconds: u32,
}

impl Load {
    /// How often each series gets a point.
    fn rounds(self) -> u32 {
        let rate = if self.rate == 0 { 100_000 } else { self.rate };
        (u64::from(rate) * u64::from(self.seconds) / u64::from(self.series)).max(1) as u32
    }

    /// How long after the one before a round begins.
    fn pause(self) -> Duration {
        if self.rate == 0 { Duration::ZERO } else { Duration::from_secs_f64(f64::from(self.series) / f64::from(self.rate)) }
    }

    /// A schema in which every point has a place of its own until it was counted.
    pub fn schema(&self) -> String {
        format!("1s:{}s", self.rounds() + self.seconds + 1_800)
    }

    fn name(series: u32) -> String {
        format!("bench.{}.{}", series / FOLDER, series % FOLDER)
    }

    /// The value of a series in a round.
    fn value(self, series: u32, round: u32) -> f64 {
        f64::from(series) * f64::from(self.rounds()) + f64::from(round)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = if self.rate == 0 { "as fast as they are taken".to_owned() } else { format!("at {} a second", self.rate) };
        write!(f, "{} series, {} points of each, {rate}, by TCP, over {CONNECTIONS} connections", self.series, self.rounds())
    }
}

/// What is there of what was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    pub right: u64,
    pub wrong: u64,
}

/// How it went.
#[derive(Debug)]
pub(super) struct Account {
    pub sent: u64,
    pub took: Duration,
    pub kept: Kept,
    pub kept_after_restart: Option<Kept>,
    /// go-carbon's seconds of processor time until all was there.
    pub processor: f64,
    /// The most memory that it held.
    pub memory: u64,
}

impl Account {
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64()
    }

    pub fn verdict(&self, when: &str, kept: &Kept) -> String {
        let lost = self.sent - kept.right.min(self.sent);
        let share = lost as f64 / self.sent as f64 * 100.0;
        format!("kept {} {when}, lost {lost} ({share:.3} %), wrong {}; goal: none lost", kept.right, kept.wrong)
    }
}

/// Sends, waits until no more arrives, counts; restarts and counts again, if `restart` does anything.
pub(super) fn run(
    load: &Load,
    carbon: u16,
    server: u16,
    pid: impl Fn() -> anyhow::Result<i32>,
    restart: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Account> {
    wait_for_port(carbon)?;
    wait_for_port(server)?;
    let process = pid()?;
    let before = processor(process);
    // All times lie in the past, and none is old enough to be forgotten before it was counted.
    let base = now() - u64::from(load.rounds()) - 60;
    let begin = Instant::now();
    send(*load, carbon, base)?;
    let took = begin.elapsed();
    let sent = u64::from(load.series) * u64::from(load.rounds());
    let kept = settle(*load, server, base, sent)?;
    let processor = processor(process) - before;
    let memory = super::field(process, "status", "VmHWM:").unwrap_or(0) * 1024;
    restart()?;
    let kept_after_restart = (pid()? != process).then(|| count(*load, server, base)).transpose()?;
    Ok(Account { sent, took, kept, kept_after_restart, processor, memory })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Sends everything, over several connections side by side.
fn send(load: Load, carbon: u16, base: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let senders: Vec<_> =
            (0..CONNECTIONS).map(|part| scope.spawn(move || send_part(load, part, carbon, base, begin))).collect();
        senders.into_iter().try_for_each(|sender| sender.join().map_err(|_| anyhow::anyhow!("a sender has failed"))?)
    })
}

fn send_part(load: Load, part: u32, carbon: u16, base: u64, begin: Instant) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", carbon)).context("cannot connect to carbon")?;
    let mine: Vec<(u32, String)> =
        (part..load.series).step_by(CONNECTIONS as usize).map(|series| (series, Load::name(series))).collect();
    let mut lines = Vec::new();
    for round in 0..load.rounds() {
        lines.clear();
        for (series, name) in &mine {
            writeln!(lines, "{name} {} {}", load.value(*series, round), base + u64::from(round))?;
        }
        std::thread::sleep((load.pause() * round).saturating_sub(begin.elapsed()));
        stream.write_all(&lines).context("cannot send to carbon")?;
    }
    Ok(())
}

/// Counts until everything is there, or no more has come for a while.
fn settle(load: Load, server: u16, base: u64, sent: u64) -> anyhow::Result<Kept> {
    let mut last = Kept::default();
    for _ in 0..20 {
        let kept = count(load, server, base)?;
        if kept.right == sent || (kept.right == last.right && kept.right > 0) {
            return Ok(kept);
        }
        last = kept;
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(last)
}

/// carbonserver's answer.
#[derive(Deserialize)]
struct Answer {
    metrics: Vec<Metric>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    name: String,
    start_time: u64,
    step_time: u64,
    values: Vec<f64>,
    is_absent: Vec<bool>,
}

/// Compares every value with what was sent.
fn count(load: Load, server: u16, base: u64) -> anyhow::Result<Kept> {
    let mut kept = Kept::default();
    for folder in 0..load.series.div_ceil(FOLDER) {
        let until = base + u64::from(load.rounds());
        let path = format!("/render/?format=json&target=bench.{folder}.*&from={}&until={until}", base - 1);
        let body = get(server, &path)?;
        if body.is_empty() {
            continue;
        }
        let answer: Answer = serde_json::from_slice(&body).with_context(|| {
            format!("cannot read what carbonserver says: {}", String::from_utf8_lossy(&body[..body.len().min(200)]))
        })?;
        for metric in &answer.metrics {
            look(load, metric, base, &mut kept)?;
        }
    }
    Ok(kept)
}

fn look(load: Load, metric: &Metric, base: u64, kept: &mut Kept) -> anyhow::Result<()> {
    let mut parts = metric.name.rsplit('.').map(|part| part.parse::<u32>().ok());
    let (Some(Some(last)), Some(Some(folder))) = (parts.next(), parts.next()) else {
        anyhow::bail!("an unknown series: {}", metric.name)
    };
    let series = folder * FOLDER + last;
    for (at, (value, absent)) in metric.values.iter().zip(&metric.is_absent).enumerate() {
        let time = metric.start_time + at as u64 * metric.step_time;
        if *absent || time < base {
            continue;
        }
        let wanted =
            u32::try_from(time - base).ok().filter(|round| *round < load.rounds()).map(|round| load.value(series, round));
        if wanted == Some(*value) { kept.right += 1 } else { kept.wrong += 1 }
    }
    Ok(())
}

/// The body of an answer; empty where nothing was found.
fn get(port: u16, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("cannot connect to carbonserver")?;
    // By this version the answer ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("cannot read from carbonserver")?;
    let at = answer.windows(4).position(|part| part == b"\r\n\r\n").context("carbonserver's answer is not HTTP")?;
    let status = String::from_utf8_lossy(&answer[..at]).lines().next().unwrap_or_default().to_owned();
    match status.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(answer.split_off(at + 4)),
        Some("404") => Ok(Vec::new()),
        _ => anyhow::bail!("carbonserver answers {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_and_a_wrong_point_are_seen() {
        let load = Load { series: 200, rate: 100, seconds: 6 };
        assert_eq!((load.rounds(), Load::name(105)), (3, "bench.1.5".to_owned()));
        let base = 1_000;
        let good = |values: Vec<f64>, is_absent: Vec<bool>| Metric {
            name: "bench.1.5".to_owned(),
            start_time: base,
            step_time: 1,
            values,
            is_absent,
        };
        let all = [load.value(105, 0), load.value(105, 1), load.value(105, 2)];
        for (metric, right, wrong) in [
            (good(all.to_vec(), vec![false; 3]), 3, 0),
            (good(all.to_vec(), vec![false, true, false]), 2, 0),
            (good(vec![all[0], all[2], all[2]], vec![false; 3]), 2, 1),
        ] {
            let mut kept = Kept::default();
            look(load, &metric, base, &mut kept).unwrap();
            assert_eq!((kept.right, kept.wrong), (right, wrong));
        }
    }

    #[test]
    fn a_schema_holds_all_points() {
        assert_eq!(Load { series: 10_000, rate: 100_000, seconds: 60 }.schema(), "1s:2460s");
    }
}
