//! Points in time as logs have them: milliseconds since 1970, written `2026-11-24T02:10:00.123Z` before a line and
//! `20261124T021000.123Z` in the name of a file. Both forms sort as the times do.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock::utc;

/// How many bytes a stamp before a line has, the blank after it not counted.
pub const LENGTH: usize = 24;

/// How many bytes a stamp in a file's name has.
const NAME_LENGTH: usize = 20;

/// Where the long form has a character that is not a digit.
const SIGNS: [(usize, u8); 7] = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')];

/// Milliseconds since 1970, by the clock on the wall.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `2026-11-24T02:10:00.123Z`: RFC 3339, UTC, milliseconds.
#[must_use]
pub fn format(ms: u64) -> String {
    let mut out = utc(ms / 1_000);
    out.truncate(LENGTH - 5);
    out + &format!(".{:03}Z", ms % 1_000)
}

/// `20261124T021000.123Z`, for names of files.
#[must_use]
pub fn format_name(ms: u64) -> String {
    format(ms).replace(['-', ':'], "")
}

/// The time that a line begins with; none when it begins with anything else.
#[must_use]
pub fn parse(line: &[u8]) -> Option<u64> {
    let text = line.get(..LENGTH)?;
    if SIGNS.iter().any(|&(at, sign)| text[at] != sign) {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to].iter().try_fold(0_u64, |sum, &digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second, ms) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years that begin in March, as in `clock::utc`.
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let year = if month > 2 { year } else { year - 1 };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * shifted + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + ms)
}

/// The time in a file's name.
#[must_use]
pub fn parse_name(text: &str) -> Option<u64> {
    if text.len() != NAME_LENGTH || !text.is_ascii() {
        return None;
    }
    let (date, time) = text.split_once('T')?;
    let long = [date.get(..4)?, date.get(4..6)?, date.get(6..)?].join("-")
        + "T"
        + &[time.get(..2)?, time.get(2..4)?, time.get(4..)?].join(":");
    parse(long.as_bytes()).filter(|_| long.len() == LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_as_they_are_written() {
        for ms in [0, 1, 951_782_400_123, 1_767_225_599_999, 1_795_486_200_000, 4_102_444_800_000] {
            assert_eq!(parse(format(ms).as_bytes()), Some(ms), "{}", format(ms));
            assert_eq!(parse_name(&format_name(ms)), Some(ms), "{}", format_name(ms));
        }
        assert_eq!(format(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(format_name(951_782_400_123), "20000229T000000.123Z");
    }

    #[test]
    fn nothing_else_is_taken_for_a_time() {
        for bad in ["", "hello", "2000-02-29T00:00:00Z and more text", "2000-13-29T00:00:00.123Z", "2000-02-29 00:00:00.123Z"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        for bad in ["1", "20000229T000000.123", "20000229T000000x123Z", "2000022éT00000.123Z", "20000229T000000.123Zx"] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }
}
