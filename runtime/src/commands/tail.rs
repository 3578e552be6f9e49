//! `dkm tail`: from the log files, so that it works without a supervisor.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{harmless, resolve};
use crate::cli::Tail;
use crate::home::Home;
use crate::supervise::logs;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Shows the last lines, and goes on with `--follow`.
///
/// # Errors
/// When a name is unknown, or the output cannot be written.
pub fn run(home: &Home, options: &Tail) -> Result<ExitCode> {
    let (unknown, names) = resolve(home, &options.names.services)?;
    if !unknown.is_empty() {
        bail!("there is no service {}", unknown.join(", ").escape_debug());
    }
    let headers = names.len() > 1;
    let mut followed: Vec<Followed> = names.iter().map(|name| Followed::new(name, home.log(name))).collect();
    for log in &followed {
        if headers {
            println!("==> {} <==", log.name);
        }
        show(&logs::last_lines(&log.path, options.lines))?;
    }
    if !options.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let mut last = "";
        for log in &mut followed {
            let new = log.news();
            if !new.is_empty() {
                if headers && last != log.name {
                    println!("==> {} <==", log.name);
                    last = &log.name;
                }
                show(&new)?;
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// To a terminal harmless, to anything else as it is. A reader that went away is no error.
fn show(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = if out.is_terminal() { out.write_all(harmless(bytes).as_bytes()) } else { out.write_all(bytes) };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// A log that is read on as it grows, over its rotations.
struct Followed {
    name: String,
    path: PathBuf,
    file: Option<(File, u64)>,
}

impl Followed {
    fn new(name: &str, path: PathBuf) -> Self {
        let file = open(&path).and_then(|(mut file, inode)| {
            file.seek(SeekFrom::End(0)).ok()?;
            Some((file, inode))
        });
        Self { name: name.to_owned(), path, file }
    }

    fn news(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some((file, _)) = &mut self.file {
            let _ = file.read_to_end(&mut out);
        }
        let current = std::fs::metadata(&self.path).map(|meta| meta.ino()).ok();
        if current.is_some() && current != self.file.as_ref().map(|(_, inode)| *inode) {
            // What came between the reading above and the rotation is in the old file still.
            if let Some((file, _)) = &mut self.file {
                let _ = file.read_to_end(&mut out);
            }
            self.file = open(&self.path);
            if let Some((file, _)) = &mut self.file {
                let _ = file.read_to_end(&mut out);
            }
        }
        out
    }
}

fn open(path: &PathBuf) -> Option<(File, u64)> {
    let file = File::open(path).ok()?;
    let inode = file.metadata().ok()?.ino();
    Some((file, inode))
}
