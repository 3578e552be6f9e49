//! A consistent copy of a SQLite database that somebody may be using.
//!
//! SQLite coordinates by locks on byte ranges of its files, and keeps to them whoever holds them. So a copy needs no SQLite:
//!
//! - with a write-ahead log, the locks of the writer and of the checkpoint are taken (bytes 120 and 121 of `-shm`); then neither the
//!   database nor the log changes, and both are copied;
//! - without one, a shared lock on the database (from byte 2^30 + 2 on, 510 bytes) keeps writers from touching it, and a hot
//!   journal, which a writer that died has left, is copied with it.
//!
//! Sources of the numbers: "WAL-Index File Format", 2.3, and `os.h` (`PENDING_BYTE`, `SHARED_FIRST`, `SHARED_SIZE`) of SQLite. The locks belong
//! to this process and end with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::home::beside;

/// How long somebody else's transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(1);

/// Bytes 120 and 121 of `-shm`: one writer, one checkpoint.
const WAL_LOCKS: (i64, i64) = (120, 2);
/// Where readers hold their locks in a database without a write-ahead log.
const SHARED: (i64, i64) = ((1 << 30) + 2, 510);

/// Copies the database `from` to the new file `to`, with `-wal` or `-journal` beside it where it has one. False: there is no database.
///
/// # Errors
/// When it cannot be read or written, or somebody writes to it without end.
pub fn copy(from: &Path, to: &Path) -> Result<bool> {
    if !from.is_file() {
        return Ok(false);
    }
    let shm = beside(from, "-shm");
    // Opened and kept until the end: closing any descriptor of a file drops all of a process's locks on it.
    let (locked, alone, range) = if shm.is_file() { (&shm, true, WAL_LOCKS) } else { (&from.to_owned(), false, SHARED) };
    let file =
        OpenOptions::new().read(true).write(true).open(locked).with_context(|| format!("cannot open {}", locked.display()))?;
    lock(&file, alone, range).with_context(|| format!("cannot lock {}", locked.display()))?;
    let opened = if alone { Some(open(from)?) } else { None };
    copy_one(opened.as_ref().unwrap_or(&file), to)?;
    for ending in ["-wal", "-journal"] {
        let path = beside(from, ending);
        if path.is_file() {
            copy_one(&open(&path)?, &beside(to, ending))?;
        }
    }
    drop(file);
    Ok(true)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Copies what is open already: to open the locked file once more and close it again would drop the lock.
fn copy_one(mut from: &File, to: &Path) -> Result<()> {
    let mut copy = || -> io::Result<()> {
        let mut made = File::create(to)?;
        made.set_permissions(from.metadata()?.permissions())?;
        io::copy(&mut from, &mut made)?;
        made.sync_all()
    };
    copy().with_context(|| format!("cannot copy to {}", to.display()))
}

fn lock(file: &File, alone: bool, (start, length): (i64, i64)) -> Result<()> {
    // The systems do not agree on the type of these.
    let kind = if alone { libc::F_WRLCK as libc::c_short } else { libc::F_RDLCK as libc::c_short };
    let wanted =
        libc::flock { l_type: kind, l_whence: i16::try_from(libc::SEEK_SET)?, l_start: start, l_len: length, l_pid: 0 };
    let end = Instant::now() + PATIENCE;
    loop {
        match fcntl(file, FcntlArg::F_SETLK(&wanted)) {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN | Errno::EACCES | Errno::EINTR) if Instant::now() < end => std::thread::sleep(LOOK),
            Err(Errno::EAGAIN | Errno::EACCES) => {
                bail!("somebody has been writing to it for {} s; stop the service first", PATIENCE.as_secs())
            }
            Err(error) => return Err(error.into()),
        }
    }
}
