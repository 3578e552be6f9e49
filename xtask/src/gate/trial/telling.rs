//! What the second process tells the first one, and how it waits.

use super::{Fault, Line};
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(50);

pub type Outcome<T> = Result<T, Fault>;

pub fn tell(line: &Line) {
    // Were nobody listening any more, nobody would want to know.
    let _ = serde_json::to_string(line).map(|text| writeln!(std::io::stdout().lock(), "{text}"));
}

pub fn doing(what: &str) {
    tell(&Line::Doing(what.to_owned()));
}

pub fn did(what: impl Into<String>) {
    tell(&Line::Did(what.into()));
}

pub fn fault(what: impl Into<String>) -> Fault {
    Fault { what: what.into(), ..Fault::default() }
}

/// A failure of our own, not of the bundle's.
pub fn cannot<T>(result: std::io::Result<T>, what: &str) -> Outcome<T> {
    result.map_err(|error| fault(format!("cannot {what}: {error}")))
}

/// What `look` finds before the time is over.
pub fn wait<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}
