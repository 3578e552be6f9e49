//! Lengths of time and points in time, as people write them.

use std::str::FromStr;
use std::time::Duration;

use crate::clock::utc;
use crate::stamp;

/// A length of time: `90`, `1.5s`, `500ms`, `5min`, `2h`, `3d`, `1h30m`. A number alone is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{}\" is not a length of time, such as 90, 500ms, 5min or 1h30m", text.escape_debug());
        let mut rest = text.trim();
        let mut total = 0.0;
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, more) = rest.split_at(end);
            let end = more.find(|c: char| c.is_ascii_digit()).unwrap_or(more.len());
            let (unit, more) = more.split_at(end);
            let number: f64 = number.parse().map_err(|_| bad())?;
            let seconds = match unit.trim() {
                "ms" => 0.001,
                "" | "s" | "sec" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return Err(bad()),
            };
            total += number * seconds;
            rest = more;
        }
        // A hundred years are enough for everybody, and safe to add to any clock.
        Duration::try_from_secs_f64(total).ok().filter(|span| span.as_secs() < 3_200_000_000).map(Self).ok_or_else(bad)
    }
}

/// A point in time, in milliseconds since 1970: a length of time means so long ago; else `14:30` (the last time it was that, UTC),
/// `2026-01-31`, or `2026-01-31T14:30:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub u64);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, crate::clock::now_unix() * 1_000)
    }
}

impl Since {
    fn read(text: &str, now: u64) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(Span(ago)) = text.parse() {
            return Ok(Self(now.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))));
        }
        let today = &utc(now / 1_000)[..10];
        let found = match text.split_once(['T', ' ']) {
            Some((date, time)) => moment(date, time),
            None if text.contains(':') => moment(today, text).map(|time| if time > now { time - 86_400_000 } else { time }),
            None => moment(text, "00:00"),
        };
        found.map(Self).ok_or_else(|| {
            format!(
                "\"{}\" is neither a time, such as 14:30 or 2026-01-31T14:30 (UTC), nor a length of time, such as 10min",
                text.escape_debug()
            )
        })
    }
}

/// Milliseconds since 1970 of a date and a time in UTC, written with or without leading zeros.
fn moment(date: &str, time: &str) -> Option<u64> {
    let numbers = |text: &str, by: char| text.split(by).map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let (time, fraction) = time.strip_suffix('Z').unwrap_or(time).split_once('.').unwrap_or((time.trim_end_matches('Z'), "0"));
    let (hour, minute, second) = match numbers(time, ':')?[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let millis: String = fraction.chars().chain("00".chars()).take(3).collect();
    let ms = stamp::parse(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis}Z").as_bytes())?;
    // The 30th of February is a day in March.
    utc(ms / 1_000).starts_with(&format!("{year:04}-{month:02}-{day:02}")).then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (text, millis) in [
            ("90", 90_000),
            ("1.5s", 1_500),
            ("500ms", 500),
            ("5min", 300_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("2 d", 172_800_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for bad in ["", "x", "5 parsecs", "-1", "1.2.3", "1e9d", "99999999d", "14:30"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn points() {
        let now = 1_795_486_200_000;
        assert_eq!(utc(now / 1_000), "2026-11-24T02:10:00Z");
        let at = |text: &str| Since::read(text, now).map(|since| utc(since.0 / 1_000));
        for (text, wanted) in [
            ("10min", "2026-11-24T02:00:00Z"),
            ("2:05", "2026-11-24T02:05:00Z"),
            ("14:30", "2026-11-23T14:30:00Z"),
            ("2026-02-28", "2026-02-28T00:00:00Z"),
            ("2024-02-29 23:59:58", "2024-02-29T23:59:58Z"),
            ("2026-01-31T14:30:00.5Z", "2026-01-31T14:30:00Z"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(wanted), "{text}");
        }
        for bad in ["2026-02-29", "25:00", "tomorrow", "2026-1", "2026-13-01", "12:60"] {
            assert!(at(bad).is_err(), "{bad}");
        }
        assert_eq!(Since::read("2026-01-31T14:30:00.123Z", now).unwrap().0 % 1_000, 123);
    }
}
