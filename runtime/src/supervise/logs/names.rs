//! The files that belong to one log, by their names.
//!
//! ```text
//! NAME.log                            what is being written
//! NAME.log.idx                        when what of it came ([`index`](super::index))
//! NAME.log.20261124T021000.123Z       older: the name is the time at which it was rotated, and never changes
//! NAME.log.20261124T021000.123Z.idx   when what of that came, compressed or not
//! NAME.log.20261124T021000.123Z.gz    the same, compressed; if both are there, this one counts
//! NAME.log.20261124T021000.123Z.gz~   being compressed; counts for nothing
//! ```
//!
//! Names that do not change need no renumbering that could be interrupted, and a reader or a compressor can take its time.

use std::fs;
use std::path::{Path, PathBuf};

use super::stamp;

/// What the name of a compressed file ends in.
pub const COMPRESSED: &str = ".gz";

/// A rotated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Old {
    /// When it was rotated, in milliseconds since 1970: all of its lines are older.
    pub ended: u64,
    /// Its path, `.gz` included.
    pub path: PathBuf,
    /// Whether it is compressed.
    pub compressed: bool,
}

/// How many bytes the file takes that was rotated then, compressed or not, with its index.
#[must_use]
pub fn bytes(log: &Path, ended: u64) -> u64 {
    let plain = rotated(log, ended);
    let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    size(&plain) + size(&added(&plain, COMPRESSED)) + size(&index_of(&plain))
}

/// Removes the file that was rotated then, its index and whatever a compressor left of it.
pub fn remove(log: &Path, ended: u64) {
    let plain = rotated(log, ended);
    for path in [&plain, &added(&plain, COMPRESSED), &added(&plain, ".gz~"), &added(&plain, ".idx")] {
        let _ = fs::remove_file(path);
    }
}

pub use crate::home::beside as added;

/// The name that a file had before it was compressed.
pub(super) fn plain(path: &Path) -> PathBuf {
    path.to_str().and_then(|text| text.strip_suffix(COMPRESSED)).map_or_else(|| path.to_owned(), PathBuf::from)
}

/// The index of a log or of a rotated file.
#[must_use]
pub fn index_of(path: &Path) -> PathBuf {
    added(&plain(path), ".idx")
}

/// The name of a log that is rotated now.
#[must_use]
pub fn rotated(log: &Path, ms: u64) -> PathBuf {
    added(log, &format!(".{}", stamp::format_name(ms)))
}

/// The rotated files of a log, oldest first, each once.
///
/// A folder is read in pieces, and one that is compressed meanwhile may be in none of them: the new name comes after its piece was
/// read, and the old one is gone before its own is. It cannot happen to the same file a second time, so the folder is read twice.
#[must_use]
pub fn old(log: &Path) -> Vec<Old> {
    let mut out = Vec::new();
    for _ in 0..2 {
        collect_old(log, &mut out);
    }
    out.sort_by_key(|old| (old.ended, !old.compressed));
    out.dedup_by_key(|old| old.ended);
    out
}

fn collect_old(log: &Path, out: &mut Vec<Old>) {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(entry) = entry.file_name().into_string() else { continue };
        let Some(rest) = entry.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) else { continue };
        let (time, compressed) = rest.strip_suffix(COMPRESSED).map_or((rest, false), |time| (time, true));
        if let Some(ended) = stamp::parse_name(time) {
            out.push(Old { ended, path: folder.join(&entry), compressed });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_files_belong_to_a_log() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("a.log");
        let stamped = |ms| rotated(&log, ms).file_name().unwrap().to_str().unwrap().to_owned();
        let (first, second) = (stamped(1_000), stamped(2_000));
        let other = format!("b.log.{}", stamp::format_name(5));
        let names = [
            "a.log".to_owned(),
            "a.log.idx".to_owned(),
            "a.log.1".to_owned(),
            other,
            second.clone(),
            first.clone(),
            format!("{first}.gz"),
            format!("{first}.idx"),
            format!("{second}.gz~"),
            format!("{second}.log"),
        ];
        for name in &names {
            fs::write(temp.path().join(name), "x").unwrap();
        }
        let found = old(&log);
        let paths: Vec<_> = found.iter().map(|old| old.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(paths, [&format!("{first}.gz"), &second]);
        assert_eq!(bytes(&log, 1_000), 3, "plain, compressed, index");
        found.iter().for_each(|old| remove(&log, old.ended));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 5);
    }

    #[test]
    fn none_is_missed_while_they_are_compressed() {
        const COUNT: u64 = 3_000;
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("a.log");
        (0..COUNT).for_each(|at| fs::write(rotated(&log, at), "").unwrap());
        let compress = {
            let log = log.clone();
            move || {
                for at in 0..COUNT {
                    let plain = rotated(&log, at);
                    fs::write(added(&plain, ".gz~"), "").unwrap();
                    fs::rename(added(&plain, ".gz~"), added(&plain, COMPRESSED)).unwrap();
                    fs::remove_file(plain).unwrap();
                }
            }
        };
        let compressor = std::thread::spawn(compress);
        while !compressor.is_finished() {
            assert_eq!(old(&log).len() as u64, COUNT);
        }
        compressor.join().unwrap();
        assert!(old(&log).iter().all(|old| old.compressed));
    }
}
