//! Times, sizes, words and foreign lines as people read them, and the lines that people get.

use console::{measure_text_width, truncate_str};
use std::io::{self, Write as _};
use std::time::Duration;

/// A step's title in no more than `room` columns: of two names the component's is cut first, as it can be guessed.
pub fn title(component: &str, step: &str, room: usize) -> String {
    let whole = format!("{component} {step}");
    let whole = whole.trim_start();
    if measure_text_width(whole) <= room {
        return whole.to_owned();
    }
    let left = room.saturating_sub(measure_text_width(step) + 1);
    if left < room / 3 {
        return truncate_str(whole, room, "…").into_owned();
    }
    format!("{} {step}", truncate_str(component, left, "…"))
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

/// A time on the clock: `0:07`, `5:17`, `1:02:03`.
pub fn clock(time: Duration) -> String {
    let secs = time.as_secs();
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{secs:02}") } else { format!("{minutes}:{secs:02}") }
}

/// A time that nobody knows exactly: `29 s`, `2 m 10 s`, `14 m`.
pub fn about(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..60 => format!("{secs} s"),
        60..600 => {
            let secs = (secs + 5) / 10 * 10;
            format!("{} m {:02} s", secs / 60, secs % 60)
        }
        _ => format!("{} m", (secs + 30) / 60),
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

/// A word as a POSIX shell wants it.
pub fn quote(word: &std::ffi::OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Prints a line to standard error. That may be closed; then there is nobody to be told.
pub fn write_stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
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
    fn a_long_title_keeps_its_step_if_that_is_short() {
        assert_eq!(title("thing", "compile", 34), "thing compile");
        assert_eq!(title("", "total", 34), "total");
        assert_eq!(title("a-component-with-a-very-long-name", "compile", 20), "a-component… compile");
        assert_eq!(title("thing", "a step with a long name", 20), "thing a step with a…");
        assert_eq!(title("日本語日本語日本語", "compile", 20), "日本語日本… compile");
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(6_665_589), "6.7 MB");
        assert_eq!(bytes(999_990_000), "1.0 GB");
        assert_eq!(seconds(Duration::from_millis(350)), "0.35 s");
        assert_eq!(seconds(Duration::from_secs(317)), "5 m 17 s");
        assert_eq!([7, 317, 3723].map(|secs| clock(Duration::from_secs(secs))), ["0:07", "5:17", "1:02:03"]);
        assert_eq!([29, 135, 845].map(|secs| about(Duration::from_secs(secs))), ["29 s", "2 m 20 s", "14 m"]);
    }
}
