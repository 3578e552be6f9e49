//! `dkmadmin backup` and `restore`: a data folder as one file, made while its services run.
//!
//! The file is a compressed tar that any tar reads:
//!
//! ```text
//! dkumonitor-backup/backup.json   what it is of ([`About`])
//! dkumonitor-backup/data/…        the data folder without run/, previous/ and unfinished updates
//! dkumonitor-backup/SHA256SUMS    the hash of each file, as sha256sum(1) has it; that it is there tells that the backup is whole
//! ```
//!
//! One file, because it is there or not, can be sent away while it is made, and keeps secrets as private as their folder. Whisper files all
//! change every few seconds and consist of zeros mostly: what a copy of changed files alone would save is nothing, what compression saves
//! is most of it.
//!
//! **Consistent** is, for a file of go-carbon's, that no update of it is half in the copy: it is read under the lock (flock) that go-carbon
//! takes for each update. A SQLite database is copied under SQLite's own locks, whole ([`install::database`](crate::install::database)).
//! The files are read one after the other, each as it is at that moment; points that go-carbon has not written yet are not in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};

use crate::cli::admin;
use crate::clock::{now_unix, span, utc};
use crate::home::Home;
use crate::install::{switch, update};

mod archive;
pub mod restore;
mod unpack;

use archive::Archive;

/// The folder in the archive.
const TOP: &str = "dkumonitor-backup";
/// What it is of, in the archive.
const ABOUT: &str = "backup.json";
/// The hashes, in the archive.
const SUMS: &str = "SHA256SUMS";
/// The number of the format.
const SCHEMA: u32 = 1;

/// What a backup is of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct About {
    schema: u32,
    /// The bundle's version.
    version: String,
    #[serde(default)]
    stack: Option<String>,
    /// When it was begun.
    made: String,
    /// Where the data folder was.
    data: PathBuf,
    /// The machine's name in metrics.
    hostname: String,
    /// Whose it was.
    uid: u32,
    gid: u32,
    /// What the files took on the disk.
    bytes: u64,
    files: u64,
}

/// Makes a backup.
///
/// # Errors
/// Whatever cannot be read or written; there is no backup then.
pub fn run(options: &admin::Backup, home: &Home) -> Result<ExitCode> {
    if home.root().join(switch::DECIDED).exists() {
        bail!("cannot back up {}: an update is not finished; any start of its services finishes it", home.root().display());
    }
    let began = Instant::now();
    // Nobody changes its version meanwhile. Somebody else, who is root, does not leave his files there.
    let _lock = update::refuse_others(home.root()).ok().map(|()| update::lock(home.root())).transpose()?;
    let about = archive::about(home)?;
    if options.to == Path::new("-") {
        let scratch = Scratch::make(&std::env::temp_dir())?;
        let done = write(home, &about, io::stdout().lock(), &scratch.0)?;
        eprintln!("{done}, in {}", span(began.elapsed()));
        return Ok(ExitCode::SUCCESS);
    }
    let stem = format!("dkumonitor-{}-", about.hostname);
    let is_folder = options.to.is_dir();
    if options.keep.is_some() && !is_folder {
        bail!("--keep is for a folder, and {} is none", options.to.display());
    }
    let path = if is_folder {
        options.to.join(format!("{stem}{}.tar.gz", about.made.replace(['-', ':'], "")))
    } else {
        options.to.clone()
    };
    let folder = std::path::absolute(&path).ok().and_then(|path| path.parent()?.canonicalize().ok());
    let folder = folder.with_context(|| format!("cannot write {}: there is no such folder", path.display()))?;
    if folder.starts_with(home.root()) {
        bail!("cannot write {}: it lies in the data folder, and would be lost with it", path.display());
    }
    if path.exists() {
        bail!("cannot write {}: it is there already", path.display());
    }
    let scratch = Scratch::make(&folder)?;
    let beside = scratch.0.join("backup");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    let file = file.with_context(|| format!("cannot write in {}", folder.display()))?;
    let done = write(home, &about, &file, &scratch.0)?;
    file.sync_all().and_then(|()| fs::rename(&beside, &path)).with_context(|| format!("cannot write {}", path.display()))?;
    let _ = File::open(&folder).and_then(|folder| folder.sync_all());
    let size = file.metadata().map_or(0, |meta| meta.len());
    println!("{done} → {} kB in {}, in {}", size.div_ceil(1000), path.display(), span(began.elapsed()));
    if let Some(keep) = options.keep {
        thin_out(&folder, &stem, keep.max(1))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the whole archive; what it holds, in words.
fn write(home: &Home, about: &About, to: impl Write, scratch: &Path) -> Result<String> {
    // The fastest levels are good enough for what is zeros mostly.
    let to: Box<dyn Write + '_> = Box::new(to);
    let mut archive = Archive::begin(GzEncoder::new(to, Compression::new(3)), about)?;
    archive.folder(home, scratch)?;
    archive.end()
}

/// Removes older backups of the same machine.
fn thin_out(folder: &Path, stem: &str, keep: usize) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot look into {}", folder.display()))?;
    let is_one = |name: &String| {
        let time = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".tar.gz"));
        time.is_some_and(|time| crate::service::matches(b"????????T??????Z", time.as_bytes()))
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(is_one).collect();
    names.sort();
    for name in names.iter().rev().skip(keep) {
        let path = folder.join(name);
        fs::remove_file(&path).with_context(|| format!("cannot remove the older {}", path.display()))?;
        println!("removed the older {}", path.display());
    }
    Ok(())
}

/// A folder for what is not finished; it goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn make(beside: &Path) -> Result<Self> {
        let path = beside.join(format!(".{TOP}.{}~", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        crate::install::build::make_folder(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Now, as backups have it.
fn now() -> String {
    utc(now_unix())
}
