//! What the supervisor tells carbon of its services and of itself, as `conf/supervisor.toml` says:
//!
//! ```toml
//! [metrics]
//! carbon = "127.0.0.1:27601"                          # HOST:PORT, plain text over TCP
//! prefix = "dkumonitor.domain.example.host.supervisor"
//! interval-s = 10
//! ```
//!
//! Without that table nothing is sent, and nothing wakes the supervisor up for it; with it there is one wake-up each interval. Names and
//! values are in docs/dashboards.md. A carbon that is away or slow holds nobody up ([`sender`]).
//!
//! **Times** are whole multiples of the interval, so that each point has a place of its own in a whisper file of that step however
//! late the round is. The rounds of several supervisors are spread over the interval.

use std::fmt::Write as _;
use std::os::fd::RawFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::poll::PollFlags;
use serde::Deserialize;

use super::state::State;
use super::unit::Unit;
use super::{Supervisor, usage};
use crate::clock::own_cpu_ms;
use crate::control::Usage;
use crate::home::{Home, SUPERVISOR};
use crate::os;

mod sender;

use sender::Sender;

/// What the file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    metrics: Option<Settings>,
}

/// Where to, by which names and how often.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    carbon: String,
    prefix: String,
    interval_s: u16,
}

impl Settings {
    /// Reads the file of a data folder. None: nothing is to be sent.
    ///
    /// # Errors
    /// What is wrong with it, with the file's name.
    pub fn read(home: &Home) -> Result<Option<Self>> {
        let path = home.root().join(SUPERVISOR);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        parse(&text).with_context(|| format!("cannot use {}", path.display()))
    }

    fn check(&self) -> Result<()> {
        let host =
            self.carbon.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|n| n > 0));
        if host.is_none() {
            bail!("metrics.carbon \"{}\" is not HOST:PORT", self.carbon.escape_debug());
        }
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if self.prefix.len() > 300 || !self.prefix.split('.').all(plain) {
            bail!("metrics.prefix \"{}\" is not parts of A-Z a-z 0-9 - _ with dots between them", self.prefix.escape_debug());
        }
        if !(1..=3_600).contains(&self.interval_s) {
            bail!("metrics.interval-s {} is not from 1 to 3600", self.interval_s);
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Option<Settings>> {
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow::anyhow!("line {line}: {}", error.message())
    })?;
    file.metrics.as_ref().map_or(Ok(()), Settings::check)?;
    Ok(file.metrics)
}

/// Sends rounds of metrics, if that is wanted.
#[derive(Debug, Default)]
pub struct Metrics(Option<Rounds>);

#[derive(Debug)]
struct Rounds {
    settings: Settings,
    sender: Sender,
    next: Instant,
    /// How long after a multiple of the interval a round is.
    offset_ms: u64,
}

impl Metrics {
    /// Goes on by these settings. `seed` spreads the rounds of several supervisors.
    fn set(&mut self, settings: Option<Settings>, seed: u64, now: Instant) {
        if self.0.as_ref().map(|rounds| &rounds.settings) != settings.as_ref() {
            self.0 = settings.map(|settings| {
                let interval_ms = u64::from(settings.interval_s) * 1_000;
                // What is left at both ends is for clocks that do not run alike, and for rounds that come late.
                let offset_ms = interval_ms / 10 + seed % (interval_ms * 7 / 10);
                let next = now + pause(unix_ms(), interval_ms, offset_ms);
                Rounds { sender: Sender::new(&settings.carbon), settings, next, offset_ms }
            });
        }
    }

    /// When the next round is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().map(|rounds| rounds.next)
    }

    /// What to poll, and for what.
    #[must_use]
    pub fn interest(&self) -> Option<(RawFd, PollFlags)> {
        self.0.as_ref()?.sender.interest()
    }

    /// The connection is ready for more.
    pub fn go_on(&mut self) {
        self.0.iter_mut().for_each(|rounds| rounds.sender.go_on());
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// How long it is to the next round: so long after a multiple of the interval. One that is nearly there is the one that was just made
/// (the clocks of waiting and of the wall do not run quite alike).
fn pause(now_ms: u64, interval_ms: u64, offset_ms: u64) -> Duration {
    let since = (now_ms + interval_ms - offset_ms) % interval_ms;
    let left = interval_ms - since;
    Duration::from_millis(if left < interval_ms / 4 { left + interval_ms } else { left })
}

impl Supervisor {
    /// Takes up `conf/supervisor.toml`.
    ///
    /// # Errors
    /// What is wrong with it; what was in force stays.
    pub(super) fn configure(&mut self, now: Instant) -> Result<()> {
        let settings = Settings::read(&self.home)?;
        self.metrics.set(settings, self.seed, now);
        Ok(())
    }

    /// Sends a round, if it is time.
    pub(super) fn measure(&mut self, now: Instant) {
        let Some(rounds) = &mut self.metrics.0 else { return };
        if rounds.next <= now {
            let interval = u64::from(rounds.settings.interval_s);
            let now_ms = unix_ms();
            rounds.next = now + pause(now_ms, interval * 1_000, rounds.offset_ms);
            let time = now_ms / 1_000 / interval * interval;
            let mut lines = Lines { out: String::new(), prefix: rounds.settings.prefix.clone(), time };
            lines.put("metrics_dropped", rounds.sender.dropped());
            self.say_everything(&mut lines, now_ms / 1_000);
            if let Some(rounds) = &mut self.metrics.0 {
                rounds.sender.round(lines.out.as_bytes());
            }
        }
        if let Some(news) = self.metrics.0.as_mut().and_then(|rounds| rounds.sender.news()) {
            self.note(&news);
        }
    }

    fn say_everything(&self, lines: &mut Lines, now: u64) {
        let all = os::processes_in_use();
        let leaders: Vec<_> = self.units.iter().map(|unit| unit.state.process().map(|process| process.pid)).collect();
        lines.put("uptime", now.saturating_sub(self.me.since));
        let own = all.iter().find(|process| process.pid == self.me.pid).map_or(0, |process| process.rss);
        lines.put("memory", own);
        lines.put("cpu_ms", own_cpu_ms());
        let count = |of: &dyn Fn(&Unit) -> bool| self.units.iter().filter(|unit| of(unit)).count() as u64;
        lines.put("services.all", count(&|_| true));
        lines.put("services.running", count(&|unit| code(unit) == 3));
        lines.put("services.failing", count(&is_failing));
        for (unit, usage) in self.units.iter().zip(usage::sum(&all, &leaders)) {
            lines.put_service(unit, &usage, now);
        }
    }
}

/// A service's state as a number; docs/dashboards.md and the dashboard have the list.
fn code(unit: &Unit) -> u64 {
    match &unit.state {
        State::Stopped { .. } | State::Exited { .. } if unit.broken.is_some() => 7,
        State::Stopped { .. } => 0,
        State::Waiting => 1,
        State::Starting { .. } => 2,
        State::Running { .. } if unit.ill().is_some() => 8,
        State::Running { .. } => 3,
        State::Stopping { .. } => 4,
        State::BackingOff { .. } => 5,
        State::Exited { .. } => 6,
    }
}

/// Whether somebody should look at it.
fn is_failing(unit: &Unit) -> bool {
    let late = matches!(unit.state, State::Starting { late: true, .. });
    late || unit.ill().is_some() || unit.broken.is_some() || unit.state.trouble().is_some()
}

/// Lines of carbon's plaintext protocol.
struct Lines {
    out: String,
    prefix: String,
    time: u64,
}

impl Lines {
    fn put(&mut self, name: &str, value: u64) {
        // Writing into memory does not fail.
        let _ = writeln!(self.out, "{}.{name} {value} {}", self.prefix, self.time);
    }

    fn put_service(&mut self, unit: &Unit, usage: &Usage, now: u64) {
        let runs = unit.state.process().is_some();
        let values = [
            ("state", code(unit)),
            ("up", u64::from(code(unit) == 3)),
            ("uptime", if runs { now.saturating_sub(unit.since) } else { 0 }),
            ("restarts", u64::from(unit.restarts)),
            ("processes", usage.processes.into()),
            ("memory", usage.rss),
            ("cpu_ms", usage.cpu_ms),
            ("log_dropped", unit.output.dropped()),
        ];
        // A dot would be another level.
        let name = unit.service.name.replace('.', "_");
        for (what, value) in values {
            self.put(&format!("service.{name}.{what}"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_looked_at() {
        assert_eq!(parse("# nothing\n").unwrap(), None);
        let good = "[metrics]\ncarbon = \"a.example:1\"\nprefix = \"a.b-c\"\ninterval-s = 10\n";
        assert_eq!(parse(good).unwrap().unwrap().interval_s, 10);
        for (from, to, wanted) in [
            ("a.example:1", "a.example", "is not HOST:PORT"),
            ("a.example:1", "a.example:0", "is not HOST:PORT"),
            ("a.b-c", "a..b", "metrics.prefix"),
            ("a.b-c", "a b", "metrics.prefix"),
            ("10", "0", "is not from 1 to 3600"),
            ("10", "\\\"10\\\"", "line 4: "),
            ("carbon", "carbn", "line 2: unknown field"),
            ("metrics", "metric", "line 1: unknown field"),
        ] {
            let error = format!("{:#}", parse(&good.replace(from, to)).unwrap_err());
            assert!(error.contains(wanted), "{to}: {error}");
        }
    }

    #[test]
    fn rounds_have_a_place_of_their_own_however_the_clocks_run() {
        // 10 s, each round 4 s after a multiple; the pause is measured by a clock that is 1 in 1000 too fast or too slow.
        for skew in [999, 1_000, 1_001_u64] {
            let (mut now, mut last) = (1_000_000_123_u64, 0);
            for _ in 0..2_000 {
                let pause = u64::try_from(pause(now, 10_000, 4_000).as_millis()).unwrap();
                now += pause * skew / 1_000;
                let time = now / 10_000;
                assert!(last == 0 || time == last + 1, "after {last} came {time}");
                last = time;
            }
        }
    }
}
