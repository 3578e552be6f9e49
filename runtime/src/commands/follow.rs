//! A log that is read on as it grows, over its rotations and emptyings.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::supervise::logs::index::Times;
use crate::text::{LONGEST_LINE, shown};

/// How often a followed log is looked at.
pub const LOOK: Duration = Duration::from_millis(100);

/// How much of one log is taken at once, so that a flood does not keep the others waiting, nor fills the memory.
const ROUND: u64 = 256 * 1024;

/// How many entries of a log's index are looked at for what came just now: at least half a minute's.
const RECENT: u64 = 4096;

/// One log.
#[derive(Debug)]
pub struct Followed {
    /// The service's name.
    pub name: String,
    path: PathBuf,
    file: Option<File>,
    /// What of a line is there already.
    begun: Vec<u8>,
}

impl Followed {
    /// From where the log ends now.
    #[must_use]
    pub fn from_end(name: &str, path: &Path) -> Self {
        let file = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file)).ok();
        Self { name: name.to_owned(), path: path.to_owned(), file, begun: Vec::new() }
    }

    /// From some place in a file on, `begun` being what of a line was before it; without a file from the start of the log.
    #[must_use]
    pub fn from(name: &str, path: &Path, place: Option<(File, u64)>, begun: Vec<u8>) -> Self {
        let file = place.and_then(|(mut file, offset)| file.seek(SeekFrom::Start(offset)).map(|_| file).ok());
        Self { name: name.to_owned(), path: path.to_owned(), file, begun }
    }

    /// What has come since the last look, up to a bounded amount; whether there may be more. What comes of one call comes from one
    /// file.
    pub fn news(&mut self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        if let Some(file) = &mut self.file {
            // Emptied: what comes now begins at the start.
            let size = file.metadata().map_or(0, |meta| meta.len());
            if file.stream_position().is_ok_and(|at| at > size) {
                let _ = file.rewind();
            }
            let _ = file.take(ROUND).read_to_end(out);
            if (out.len() - before) as u64 == ROUND {
                return true;
            }
        }
        // A rotation: the old file is read to its end before the new one is begun with. (Nothing is written to it any more once
        // the new one is there.)
        let inode = |meta: io::Result<std::fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        let current = inode(std::fs::metadata(&self.path));
        if current.is_none() || current == self.file.as_ref().and_then(|file| inode(file.metadata())) {
            return false;
        }
        if let Some(file) = &mut self.file {
            let _ = file.take(ROUND).read_to_end(out);
            if (out.len() - before) as u64 >= ROUND {
                return true;
            }
        }
        self.file = File::open(&self.path).ok();
        self.file.is_some()
    }

    /// The whole lines that have come since the last look, without their ends, and when they came as far as the log's index tells, in
    /// milliseconds since 1970. A line that is too long for a terminal is given as soon as that is known, and the rest of it apart.
    pub fn lines(&mut self) -> Vec<(Option<u64>, Vec<u8>)> {
        let mut lines = Vec::new();
        let mut size = 0;
        loop {
            let inode = self.file.as_ref().and_then(|file| file.metadata().ok()).map(|meta| meta.ino());
            let mut bytes = std::mem::take(&mut self.begun);
            let mut offset =
                self.file.as_mut().and_then(|file| file.stream_position().ok()).unwrap_or(0).saturating_sub(bytes.len() as u64);
            let known = bytes.len();
            let more = self.news(&mut bytes);
            size += bytes.len() - known;
            let times = if bytes.len() > known {
                inode.and_then(|inode| Times::read_last(&self.path, Some(inode), RECENT))
            } else {
                None
            };
            let mut parts = bytes.split(|&byte| byte == b'\n').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() && part.len() <= 4 * LONGEST_LINE {
                    self.begun = part.to_vec();
                } else {
                    lines.push((times.as_ref().and_then(|times| times.at(offset)), part.to_vec()));
                }
                offset += part.len() as u64 + 1;
            }
            if !more || size as u64 > ROUND {
                return lines;
            }
        }
    }
}

/// Prints bytes of a log, `raw` or harmless.
///
/// # Errors
/// When they cannot be written.
pub fn print(bytes: &[u8], raw: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if raw {
        out.write_all(bytes)?;
    } else {
        let whole = bytes.strip_suffix(b"\n");
        for (at, line) in whole.unwrap_or(bytes).split(|&byte| byte == b'\n').enumerate() {
            if at > 0 {
                out.write_all(b"\n")?;
            }
            out.write_all(shown(line).as_bytes())?;
        }
        if whole.is_some() {
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn all(log: &mut Followed) -> String {
        let mut out = Vec::new();
        while log.news(&mut out) {}
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_is_lost_or_shown_twice_over_rotation_and_emptying() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        fs::write(&path, "old\n").unwrap();
        let mut log = Followed::from_end("x", &path);
        let append = |path: &Path, text: &str| {
            fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        assert_eq!(all(&mut log), "");
        append(&path, "a\n");
        assert_eq!(all(&mut log), "a\n");
        append(&path, "b\n");
        fs::rename(&path, temp.path().join("x.log.1")).unwrap();
        append(&temp.path().join("x.log.1"), "c\n");
        fs::write(&path, "d\n").unwrap();
        assert_eq!(all(&mut log), "b\nc\nd\n");
        fs::write(&path, "").unwrap();
        assert_eq!(all(&mut log), "");
        append(&path, "e");
        assert_eq!(log.lines(), []);
        append(&path, "f\ng\n");
        assert_eq!(log.lines(), [(None, b"ef".to_vec()), (None, b"g".to_vec())]);
        // A log that is not there yet is shown from its start.
        let later = temp.path().join("later.log");
        let mut log = Followed::from_end("later", &later);
        assert_eq!(all(&mut log), "");
        fs::write(&later, "first\n").unwrap();
        assert_eq!(all(&mut log), "first\n");
    }
}
