//! Times for people. What the supervisor decides by is the monotonic clock; these are only shown and stored.

use std::time::Duration;

pub use dkumonitor_interface::clock::{now_unix, utc};

/// The processor time that this process has used so far, in milliseconds; that of its children not included.
#[must_use]
pub fn own_cpu_ms() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID);
    time.ok().and_then(|time| u64::try_from(time.tv_sec() * 1_000 + time.tv_nsec() / 1_000_000).ok()).unwrap_or(0)
}

/// A length of time in at most two units: `3 d 4 h`, `5 min 2 s`, `0.4 s`.
#[must_use]
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", length.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!(span(Duration::from_millis(420)), "0.4 s");
        assert_eq!(span(Duration::from_secs(302)), "5 min 2 s");
        assert_eq!(span(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
