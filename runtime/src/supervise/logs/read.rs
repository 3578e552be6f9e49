//! Reading logs back: the last lines, and all lines from a time on with their times, through rotated and compressed files.
//!
//! Reading needs no supervisor and takes no lock. A rotation or a compression under the reader's eyes neither hides a line nor shows
//! one twice, since the files that were found are opened before anything is read of them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::index::Times;
use super::{names, stamp};

/// A line longer than this is given in parts.
const LONGEST: u64 = 1 << 20;

/// How much of a file's end is read at once.
const BLOCK: usize = 16 * 1024;

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it came, in milliseconds since 1970: its stamp, else what the index says (in steps of 10 ms); none when neither tells.
    pub time: Option<u64>,
    /// What the service wrote, without a stamp of ours and without the line's end.
    pub text: Vec<u8>,
    /// Whether it has its end: the last one may be in the middle of being written.
    pub whole: bool,
}

/// The lines of a log, oldest first.
#[derive(Debug)]
pub struct History {
    /// The files that are still to be read, the next one last.
    parts: Vec<Part>,
    since: u64,
    /// Whether a line of the time asked for was found: what comes after it is of that time, or the clock was set back.
    found: bool,
    /// The newest file, and where what was read of it ends.
    end: Option<(File, u64)>,
}

#[derive(Debug)]
struct Part {
    file: Source,
    offset: u64,
    times: Option<Times>,
    current: bool,
}

enum Source {
    Plain(BufReader<File>),
    Packed(Box<BufReader<MultiGzDecoder<File>>>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Packed(_) => "Packed",
        })
    }
}

impl Source {
    fn reader(&mut self) -> &mut dyn BufRead {
        match self {
            Self::Plain(reader) => reader,
            Self::Packed(reader) => reader,
        }
    }
}

impl Part {
    fn open(path: &Path, packed: bool, current: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let times = Times::read(path, current.then_some(inode));
        let file = if packed {
            Source::Packed(Box::new(BufReader::new(MultiGzDecoder::new(file))))
        } else {
            Source::Plain(BufReader::new(file))
        };
        Ok(Self { file, offset: 0, times, current })
    }

    /// Passes over what is older than `since`, as far as the index tells.
    fn skip_to(&mut self, since: u64) -> io::Result<()> {
        let offset = self.times.as_ref().map_or(0, |times| times.offset_of(since));
        match &mut self.file {
            _ if offset == 0 => {}
            Source::Plain(reader) => {
                reader.seek(SeekFrom::Start(offset))?;
            }
            Source::Packed(reader) => {
                io::copy(&mut reader.by_ref().take(offset), &mut io::sink())?;
            }
        }
        self.offset = offset;
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<Line>> {
        let mut text = Vec::new();
        let count = self.file.reader().take(LONGEST).read_until(b'\n', &mut text)?;
        if count == 0 {
            return Ok(None);
        }
        let start = self.offset;
        self.offset += count as u64;
        let whole = text.last() == Some(&b'\n');
        if whole {
            text.pop();
        }
        let own = stamp::parse(&text);
        let stamped = self.times.as_ref().is_some_and(|times| times.stamped);
        if stamped && own.is_some() {
            text.drain(..text.len().min(stamp::LENGTH + 1));
        }
        let indexed = self.times.as_ref().and_then(|times| times.at(start));
        let time = if stamped { own.or(indexed) } else { indexed.or(own) };
        Ok(Some(Line { time, text, whole }))
    }
}

impl History {
    /// The lines of a log that came at `since` (milliseconds since 1970; 0: all) or later. A log that is not there has none.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn open(log: &Path, since: u64) -> io::Result<Self> {
        // A rotation meanwhile would move the newest lines to a file that was not in the list: then it is made again.
        loop {
            let old = names::old(log);
            let mut parts = Vec::new();
            let mut push = |path: &Path, packed, current| match Part::open(path, packed, current) {
                Ok(part) => {
                    parts.push(part);
                    Ok(())
                }
                // Compressed or expired meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            for file in old.iter().filter(|file| file.ended >= since) {
                push(&file.path, file.compressed, false)?;
            }
            push(log, false, true)?;
            if names::old(log) == old {
                if let Some(first) = parts.first_mut() {
                    first.skip_to(since)?;
                }
                parts.reverse();
                return Ok(Self { parts, since, found: since == 0, end: None });
            }
        }
    }
}

impl History {
    /// Once all lines are read: the newest file, and up to where it was read. Whoever goes on from there misses nothing.
    #[must_use]
    pub fn end(self) -> Option<(File, u64)> {
        self.end
    }
}

impl Iterator for History {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.parts.last_mut()?.next() {
                Ok(None) => {
                    if let Some(Part { current: true, file: Source::Plain(reader), offset, .. }) = self.parts.pop() {
                        self.end = Some((reader.into_inner(), offset));
                    }
                }
                Ok(Some(line)) => {
                    self.found |= line.time.is_some_and(|time| time >= self.since);
                    if self.found {
                        return Some(Ok(line));
                    }
                }
                Err(error) => {
                    self.parts.pop();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The last `count` lines of a log as they are in its files, rotated ones included when the newest has too few. Empty when there is
/// no file.
#[must_use]
pub fn last_lines(log: &Path, count: usize) -> Vec<u8> {
    last_lines_and_end(log, count).0
}

/// The same, and the newest file with the place up to where it was read.
#[must_use]
pub fn last_lines_and_end(log: &Path, count: usize) -> (Vec<u8>, Option<(File, u64)>) {
    let newest = File::open(log).and_then(|file| Ok((file.metadata()?.len(), file))).ok().map(|(end, file)| (file, end));
    let mut bytes = newest.as_ref().map_or_else(Vec::new, |(file, end)| end_of(file, *end, count));
    for old in names::old(log).iter().rev() {
        if bytes.iter().filter(|&&byte| byte == b'\n').count() >= count || bytes.len() as u64 >= LONGEST * 4 {
            break;
        }
        let mut older = if old.compressed {
            let mut unpacked = Vec::new();
            // What was read before an error is the best there is.
            let _ = File::open(&old.path).and_then(|file| MultiGzDecoder::new(file).read_to_end(&mut unpacked));
            unpacked
        } else {
            let file = File::open(&old.path).and_then(|file| Ok((file.metadata()?.len(), file)));
            file.map_or_else(|_| Vec::new(), |(end, file)| end_of(&file, end, count))
        };
        older.append(&mut bytes);
        bytes = older;
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let start = if count == 0 {
        bytes.len()
    } else {
        body.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n').nth(count - 1).map_or(0, |(at, _)| at + 1)
    };
    (bytes.split_off(start), newest)
}

/// The end of a file that is `start` long, from some way before its last `count` lines on; no more than 4 MiB.
fn end_of(file: &File, mut start: u64, count: usize) -> Vec<u8> {
    const LIMIT: usize = 4 << 20;
    let mut out = Vec::new();
    let mut lines = 0;
    while start > 0 && lines <= count && out.len() < LIMIT {
        let part = usize::try_from(start).unwrap_or(BLOCK).min(BLOCK);
        start -= part as u64;
        let mut block = vec![0; part];
        if file.read_exact_at(&mut block, start).is_err() {
            break;
        }
        lines += block.iter().filter(|&&byte| byte == b'\n').count();
        block.append(&mut out);
        out = block;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::LogPolicy;
    use crate::supervise::logs::file::Log;

    #[test]
    fn the_last_lines_reach_into_rotated_and_compressed_files() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.log");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut packed, b"a\nb\n").unwrap();
        std::fs::write(names::added(&names::rotated(&path, 1), ".gz"), packed.finish().unwrap()).unwrap();
        std::fs::write(names::rotated(&path, 2), "c\n").unwrap();
        std::fs::write(&path, "d\ne\n").unwrap();
        assert_eq!(last_lines(&path, 1), b"e\n");
        assert_eq!(last_lines(&path, 3), b"c\nd\ne\n");
        assert_eq!(last_lines(&path, 99), b"a\nb\nc\nd\ne\n");
        assert_eq!(last_lines(&path, 0), b"");
        assert_eq!(last_lines(&temp.path().join("none"), 5), b"");
        let long = "x".repeat(BLOCK + 10) + "\n";
        std::fs::write(&path, long.repeat(3)).unwrap();
        assert_eq!(last_lines(&path, 2), long.repeat(2).as_bytes());
    }

    fn times(path: &Path, since: u64) -> Vec<(Option<u64>, String)> {
        let lines = History::open(path, since).unwrap().map(Result::unwrap);
        lines.map(|line| (line.time, String::from_utf8(line.text).unwrap())).collect()
    }

    #[test]
    fn lines_have_times_with_and_without_stamps_over_rotations() {
        for timestamps in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("x.log");
            let policy = LogPolicy { max_bytes: 60, keep: 9, timestamps, ..LogPolicy::default() };
            let mut log = Log::closed(&path, policy);
            let mut scratch = Vec::with_capacity(1_000);
            for number in 0..20_u64 {
                let (line, now) = (format!("line {number}\n"), 10_000 + number * 100);
                if timestamps {
                    let mut went = log.write_stamped(line.as_bytes(), &mut scratch, now).unwrap();
                    if went == (0, true) {
                        log.rotate(now);
                        went = log.write_stamped(line.as_bytes(), &mut scratch, now).unwrap();
                    }
                    assert_eq!(went, (line.len(), false));
                } else {
                    assert_eq!(log.write_raw(line.as_bytes(), now), line.len());
                }
            }
            let wanted = |from: u64| (from..20).map(|number| (Some(10_000 + number * 100), format!("line {number}")));
            let all = times(&path, 0);
            let kept = 20 - all.len() as u64;
            assert_eq!(all, wanted(kept).collect::<Vec<_>>());
            assert!(names::old(&path).len() > 1);
            assert_eq!(times(&path, 11_500), wanted(15).collect::<Vec<_>>());
            assert_eq!(times(&path, 11_899), wanted(19).collect::<Vec<_>>());
            assert_eq!(times(&path, 99_999), []);
        }
    }
}
