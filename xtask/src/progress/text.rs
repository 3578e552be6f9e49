//! Times, sizes and foreign lines as people read them.

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_controls_are_taken_out_of_a_tools_line() {
        assert_eq!(printable("\u{1b}[31mred\u{1b}[0m\tand\u{7} \u{1b}[2Kplain\r"), "red and plain");
        assert_eq!(printable("cut \u{1b}["), "cut ");
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(6_665_589), "6.7 MB");
        assert_eq!(bytes(999_990_000), "1.0 GB");
        assert_eq!(seconds(Duration::from_millis(350)), "0.35 s");
        assert_eq!(seconds(Duration::from_secs(317)), "5 m 17 s");
    }
}
