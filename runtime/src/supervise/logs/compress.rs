//! Compression of rotated files, by a process of its own that is nice to everybody else.
//!
//! The supervisor has one thread and no time for that: it starts its own program as `dkm @compress DATA`, which compresses
//! everything that is due and ends. A compressed file is written beside, brought to the disk, and renamed; only then the plain one
//! goes. Wherever it is killed, one whole copy is there: what was written by half has a name that counts for nothing ([`names`]).

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{names, stamp};
use crate::home::Home;
use crate::os;
use crate::supervise::child;

/// What the program is told to be a compressor by. No verb begins like this.
pub const WORD: &str = "@compress";

/// The name of the file in `DATA/run` that the one compressor holds a lock on.
const LOCK: &str = "compress.lock";

/// Whether any file in the folder of the logs waits to be compressed, as far as names tell.
#[must_use]
pub fn is_due(folder: &Path) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let time = name.to_str().and_then(|name| Some(name.rsplit_once(".log.")?.1)).map(|end| end.trim_end_matches("~"));
        time.is_some_and(|time| stamp::parse_name(time).is_some())
    })
}

/// Starts the compressor of a data folder; its PID.
///
/// # Errors
/// When no process can be made.
pub fn start(home: &Home) -> Result<i32> {
    super::helper(WORD, home, Stdio::null()).context("cannot start the compression of logs")
}

/// Compresses what is due in the data folder `root`.
///
/// # Errors
/// The first file that could not be compressed; the others are.
pub fn run(root: &OsStr) -> Result<()> {
    os::be_nice();
    let home = Home::open(Path::new(root))?;
    let Some(_lock) = child::lock(&home.run().join(LOCK))? else { return Ok(()) };
    let mut problem = Ok(());
    for service in home.services()?.into_iter().filter(|service| service.log.compress) {
        let log = home.log(&service.name);
        for old in names::old(&log) {
            let plain = if old.compressed { names::plain(&old.path) } else { old.path };
            let done = if old.compressed { remove_if_there(&plain) } else { compress(&plain) };
            let done = done.with_context(|| format!("cannot compress {}", plain.display()));
            problem = problem.and(done);
        }
    }
    problem
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Compresses one file and removes the plain one.
fn compress(plain: &Path) -> io::Result<()> {
    let half = names::added(plain, ".gz~");
    let whole = names::added(plain, names::COMPRESSED);
    let write = || -> io::Result<()> {
        let mut from = File::open(plain)?;
        let to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        let mut encoder = GzEncoder::new(to, Compression::new(6));
        io::copy(&mut from, &mut encoder)?;
        let mut to = encoder.finish()?;
        to.flush()?;
        to.set_modified(from.metadata()?.modified()?)?;
        to.sync_all()?;
        fs::rename(&half, &whole)
    };
    match write() {
        Ok(()) => {}
        // Rotated away while we looked: there is nothing to do any more.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !plain.exists() => return remove_if_there(&half),
        Err(error) => {
            let _ = fs::remove_file(&half);
            return Err(error);
        }
    }
    if plain.exists() {
        return remove_if_there(plain);
    }
    // Its time was over while it was compressed.
    remove_if_there(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_compressed_file_takes_the_place_of_the_plain_one() {
        let temp = tempfile::tempdir().unwrap();
        let plain = names::rotated(&temp.path().join("x.log"), 1_000);
        let text = "some line of a log\n".repeat(10_000);
        fs::write(&plain, &text).unwrap();
        // As an earlier one has left it that was killed.
        fs::write(names::added(&plain, ".gz~"), "half").unwrap();
        assert!(is_due(temp.path()));
        compress(&plain).unwrap();
        assert!(!is_due(temp.path()));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        let packed = File::open(names::added(&plain, ".gz")).unwrap();
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, text);
    }
}
