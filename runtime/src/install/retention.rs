//! How long points are kept: whisper's "STEP:LENGTH,…", checked as whisper would.

use anyhow::{Context, Result, bail};

/// Bytes of one point in a whisper file.
const POINT: u64 = 12;

/// A schema for senders with this interval, in seconds.
///
/// Fine enough at the front that a new user sees something within a minute, and small: 10 s gives 780 kB a series.
#[must_use]
pub fn default_for(interval: u32) -> String {
    let minute = interval * 60_u32.div_ceil(interval);
    if interval < 60 {
        return format!("{interval}s:6h,{minute}s:7d,{}s:1y", minute * 10);
    }
    let coarse = interval * 3_600_u32.div_ceil(interval).max(2);
    format!("{interval}s:30d,{coarse}s:1y")
}

/// What a schema comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The bytes that a series takes by it.
    pub bytes: u64,
    /// Its finest step, in seconds.
    pub finest: u64,
}

/// Checks a schema.
///
/// # Errors
/// When whisper would not take it.
pub fn check(schema: &str) -> Result<Schema> {
    let mut archives: Vec<(u64, u64)> = Vec::new();
    for part in schema.split(',') {
        let part = part.trim();
        let (step, length) = part.split_once(':').with_context(|| format!("\"{part}\" is not STEP:LENGTH"))?;
        let step = seconds(step)?;
        // A length without a unit is a number of points.
        let length = if length.bytes().all(|byte| byte.is_ascii_digit()) {
            length.parse::<u64>().ok().and_then(|points| points.checked_mul(step))
        } else {
            Some(seconds(length)?)
        };
        let length =
            length.filter(|&length| length >= step).with_context(|| format!("\"{part}\" keeps less than one point"))?;
        if let Some(&(finer, shorter)) = archives.last() {
            if step <= finer || step % finer != 0 {
                bail!("the step of \"{part}\" is not a multiple of the one before it, {finer} s");
            }
            if length <= shorter {
                bail!("\"{part}\" does not reach further back than the one before it");
            }
            if shorter / finer < step / finer {
                bail!("the archive before \"{part}\" has too few points for one of its steps");
            }
        }
        archives.push((step, length));
    }
    let finest = archives.first().map_or(0, |(step, _)| *step);
    Ok(Schema { bytes: archives.iter().map(|(step, length)| length / step * POINT).sum(), finest })
}

fn seconds(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        "y" | "year" | "years" => 31_536_000,
        other => bail!("\"{other}\" is no unit of time: s, m, h, d, w or y"),
    };
    let number: u64 = digits.parse().with_context(|| format!("\"{text}\" is not a length of time"))?;
    number.checked_mul(unit).filter(|&seconds| seconds > 0).with_context(|| format!("\"{text}\" is not a length of time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interval_has_a_valid_default() {
        for interval in 1..=3_600 {
            let schema = default_for(interval);
            check(&schema).unwrap_or_else(|error| panic!("{interval}: {schema}: {error}"));
        }
        assert_eq!(default_for(10), "10s:6h,60s:7d,600s:1y");
        assert_eq!(default_for(300), "300s:30d,3600s:1y");
    }

    #[test]
    fn what_whisper_would_refuse_is_refused() {
        for bad in ["", "10s", "10s:1h,15s:1d", "10s:1d,60s:1h", "0:1d", "10s:1x", "60s:1h,10s:1d", "10s:5s", "10s:60s,1d:1y"] {
            assert!(check(bad).is_err(), "{bad} was accepted");
        }
        assert_eq!(check("5m:30d,1h:1y").unwrap(), Schema { bytes: (8_640 + 8_760) * 12, finest: 300 });
    }
}
