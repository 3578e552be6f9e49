//! What a service said before it died, kept beside the log: `run/crash/NAME.20261124T021000.123Z.txt`.
//!
//! The log itself rotates, and a service that dies again and again fills it. A report is written when a service's first process ends
//! without having been asked to: who, when, how, and the last lines. A bounded number of them is kept, the newest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{read, stamp};
use crate::home::write_renamed;
use crate::service::LogPolicy;

/// The most bytes of last lines that a report has.
const MAX_BYTES: usize = 64 * 1024;

/// What a report tells.
#[derive(Clone, Copy, Debug)]
pub struct Crash<'a> {
    /// The service's name.
    pub service: &'a str,
    /// Its first process, which has ended.
    pub pid: i32,
    /// How it ended, in words.
    pub how: &'a str,
}

/// Writes the report of a crash into the folder `reports`, which is made if need be, and removes the oldest that are too many; where
/// the report is, or none if the policy wants none.
///
/// # Errors
/// When it cannot be written.
pub fn report(reports: &Path, crash: Crash<'_>, log: &Path, policy: &LogPolicy, now: u64) -> Result<Option<PathBuf>> {
    if policy.crash_lines == 0 || policy.crash_keep == 0 {
        return Ok(None);
    }
    let mut last = read::last_lines(log, usize::try_from(policy.crash_lines).unwrap_or(usize::MAX));
    if last.len() > MAX_BYTES {
        last.drain(..last.len() - MAX_BYTES);
    }
    fs::create_dir_all(reports).with_context(|| format!("cannot make {}", reports.display()))?;
    let path = reports.join(format!("{}.{}.txt", crash.service, stamp::format_name(now)));
    let mut text = format!(
        "service: {}\nprocess: {}\ntime: {}\nend: {}\nlog: {}\n\n",
        crash.service,
        crash.pid,
        stamp::format(now),
        crash.how,
        log.display()
    )
    .into_bytes();
    text.append(&mut last);
    write_renamed(&path, &text, 0o600)?;
    let old = reports_of(reports, crash.service);
    let too_many = old.len().saturating_sub(usize::try_from(policy.crash_keep).unwrap_or(usize::MAX));
    for old in &old[..too_many] {
        let _ = fs::remove_file(old);
    }
    Ok(Some(path))
}

/// The reports of a service, oldest first.
#[must_use]
pub fn reports_of(reports: &Path, service: &str) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = fs::read_dir(reports)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let time = name.to_str().and_then(|name| name.strip_prefix(service)?.strip_prefix('.')?.strip_suffix(".txt"));
            time.is_some_and(|time| stamp::parse_name(time).is_some())
        })
        .map(|entry| entry.path())
        .collect();
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reports_are_kept_with_the_last_lines() {
        let temp = tempfile::tempdir().unwrap();
        let (log, reports) = (temp.path().join("x.log"), temp.path().join("crash"));
        fs::write(&log, "one\ntwo\nthree\n").unwrap();
        let policy = LogPolicy { crash_lines: 2, crash_keep: 3, ..LogPolicy::default() };
        for number in 0..5 {
            let crash = Crash { service: "x", pid: 7, how: "killed by SIGSEGV" };
            report(&reports, crash, &log, &policy, number * 1_000).unwrap().unwrap();
            report(&reports, Crash { service: "x.y", ..crash }, &log, &policy, number).unwrap();
        }
        let kept = reports_of(&reports, "x");
        assert_eq!(kept.len(), 3);
        let text = fs::read_to_string(&kept[2]).unwrap();
        assert!(text.contains("time: 1970-01-01T00:00:04.000Z\nend: killed by SIGSEGV\n"), "{text}");
        assert!(text.ends_with("\n\ntwo\nthree\n"), "{text}");
        assert_eq!(reports_of(&reports, "x.y").len(), 3);
    }
}
