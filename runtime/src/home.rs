//! The data folder: how it is found, and where everything in it lies.
//!
//! ```text
//! DATA/                     0700
//!   bundle                  link to the bundle in use: an update puts another one in its place
//!   bin/dkm                 link to bundle/bin/dkm: the one way in; bin/dkmadmin likewise
//!   static                  link to bundle/static
//!   conf/                   configuration of the services, made by the installer; what the user changes stays his
//!     installed.json        what was installed and how ([`Record`]); marks a folder as a data folder
//!     services.d/*.toml     one service each ([`Service`])
//!     supervisor.toml       what the supervisor itself does ([`supervise::metrics`](crate::supervise::metrics)); may be missing
//!     secrets/              0700; files 0600 that configuration refers to
//!   update/                 an update that was decided and is not finished yet
//!   previous/               what the last update replaced, for `installer --rollback`
//!   storage/                what the services keep
//!   run/                    0700; may be deleted while nothing runs
//!     dkm.sock              control socket, 0600 ([`control`](crate::control))
//!     supervisor.lock       locked by the one living supervisor, holds its PID
//!     supervisor.log        what the supervisor did
//!     shell.history         what was typed into `dkm` as a shell
//!     state.json            the last known state of every service ([`supervise::store`](crate::supervise::store))
//!     NAME.lock             locked by the service's processes themselves, holds the first one's PID
//!     keeper.lock           locked by the process that takes the logs over if the supervisor dies, holds its PID
//!     definitions.json      the definitions in force, for a supervisor that finds other files than the last one did
//!     NAME.notify           socket on which the service tells of itself ([`supervise::notify`](crate::supervise::notify))
//!     NAME.out              FIFO that carries the service's output ([`supervise::logs`](crate::supervise::logs))
//!     NAME.spool            output on its way to a log with time stamps ([`supervise::logs::spool`](crate::supervise::logs::spool))
//!     log/NAME.log          that output; NAME.log.TIME, compressed NAME.log.TIME.gz, is older, *.idx tells when which part came
//!                           ([`supervise::logs::names`](crate::supervise::logs::names))
//!     crash/NAME.TIME.txt   how it died, and its last lines ([`supervise::logs::crash`](crate::supervise::logs::crash))
//! ```
//!
//! `dkm` finds the folder by the name it was called by: the link `DATA/bin/dkm`, followed step by step, so that links to it work.
//! `--home` and `DKM_HOME` come first.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What tells that a folder is a data folder, relative to it: what was installed and how ([`Record`](crate::install::record::Record)).
pub const RECORD: &str = "conf/installed.json";

/// What the supervisor itself does, relative to the data folder ([`supervise::metrics`](crate::supervise::metrics)).
pub const SUPERVISOR: &str = "conf/supervisor.toml";

/// The environment variable that names the data folder.
pub const VARIABLE: &str = "DKM_HOME";

/// An installed data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The data folder in `root`.
    ///
    /// # Errors
    /// When it was not made by the installer.
    pub fn open(root: &Path) -> Result<Self> {
        let root = root.canonicalize().with_context(|| format!("cannot use the data folder {}", root.display()))?;
        if !is_home(&root) {
            bail!(
                "{} is not a data folder: it has no conf/installed.json. The bundle's `installer -d DIR -p PORT` makes one",
                root.display()
            );
        }
        Ok(Self { root })
    }

    /// Finds the data folder: `option` (`--home`), then the environment, then the name the program was called by.
    ///
    /// # Errors
    /// When none of them leads to a data folder; the message says what to do.
    pub fn find(option: Option<&Path>, called_as: &OsStr) -> Result<Self> {
        if let Some(root) = option {
            return Self::open(root);
        }
        if let Some(root) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            return Self::open(Path::new(&root)).with_context(|| format!("{VARIABLE} does not name a data folder"));
        }
        if let Some(root) = called_path(called_as).and_then(|path| home_of_link(&path)) {
            return Self::open(&root);
        }
        bail!(
            "cannot tell which data folder is meant, since this {} is not in one. Make a data folder with the bundle's \
             `installer -d DATA_DIR -p PORT` and call DATA_DIR/bin/dkm, or name one by --home (dkmadmin: -d) or {VARIABLE}",
            Path::new(called_as).file_name().unwrap_or(called_as).display()
        )
    }

    /// The folder itself, absolute and free of links.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `DATA/run`.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// In words, that the folder has been moved since we began to work in its `run`; none if it has not.
    #[must_use]
    pub fn moved(&self) -> Option<String> {
        let of = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        if of(&self.run()).is_some_and(|there| of(Path::new(".")) == Some(there)) {
            return None;
        }
        let now = std::env::current_dir().ok().and_then(|run| run.parent().map(Path::to_owned));
        let to = now.map_or_else(|| "removed".to_owned(), |path| format!("moved to {}", path.display()));
        Some(format!(
            "the data folder {} was {to} while its supervisor was at work: `dkm shutdown` ends it, and its services have their old \
             paths in their configuration",
            self.root.display()
        ))
    }

    /// `DATA/run/supervisor.lock`.
    #[must_use]
    pub fn supervisor_lock(&self) -> PathBuf {
        self.run().join("supervisor.lock")
    }

    /// `DATA/run/supervisor.log`.
    #[must_use]
    pub fn supervisor_log(&self) -> PathBuf {
        self.run().join("supervisor.log")
    }

    /// The lock that a service's own processes hold.
    #[must_use]
    pub fn service_lock(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.lock"))
    }

    /// The FIFO that carries a service's output.
    #[must_use]
    pub fn service_output(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.out"))
    }

    /// The socket on which a service tells of itself.
    #[must_use]
    pub fn service_notify(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.notify"))
    }

    /// A service's log.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.run().join("log").join(format!("{name}.log"))
    }

    /// The folder of what services said before they died.
    #[must_use]
    pub fn crashes(&self) -> PathBuf {
        self.run().join("crash")
    }
}

fn is_home(root: &Path) -> bool {
    root.join(RECORD).is_file()
}

/// The path behind `argv[0]`: itself when it has a slash, else what PATH finds.
fn called_path(called_as: &OsStr) -> Option<PathBuf> {
    let name = Path::new(called_as);
    if name.components().count() > 1 {
        return Some(name.to_owned());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Follows the links from `path` on, and gives the first data folder whose `bin` one of them lies in.
fn home_of_link(path: &Path) -> Option<PathBuf> {
    let mut path = std::path::absolute(path).ok()?;
    for _ in 0..40 {
        let bin = path.parent()?.canonicalize().ok()?;
        if bin.file_name() == Some(OsStr::new("bin")) && bin.parent().is_some_and(is_home) {
            return bin.parent().map(Path::to_owned);
        }
        path = bin.join(fs::read_link(&path).ok()?);
    }
    None
}

/// Writes a file beside its place and renames it, so that a reader sees the old or the new one, whole.
///
/// # Errors
/// When it cannot be written, with its path.
pub fn write_renamed(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    write_by(path, &beside(path, &format!(".{}~", std::process::id())), bytes, mode)
}

/// The same for who holds the folder's lock: where a killed one has left a half of the file, the next one takes its place.
///
/// # Errors
/// When it cannot be written, with its path.
pub fn write_renamed_alone(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let half = beside(path, "~");
    // What a killed one left has that one's mode, which opening it again would keep.
    let _ = fs::remove_file(&half);
    write_by(path, &half, bytes, mode)
}

/// The path with an ending after its name.
#[must_use]
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn write_by(path: &Path, half: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(half)?;
        file.write_all(bytes)?;
        fs::rename(half, path)
    };
    write().with_context(|| {
        let _ = fs::remove_file(half);
        format!("cannot write {}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_is_found_through_links() {
        let temp = tempfile::tempdir().unwrap();
        let (bundle, data) = (temp.path().join("b x/bin"), temp.path().join("d x"));
        fs::create_dir_all(&bundle).unwrap();
        fs::create_dir_all(data.join("bin")).unwrap();
        fs::create_dir_all(data.join("conf")).unwrap();
        fs::write(data.join(RECORD), "{}").unwrap();
        fs::write(bundle.join("dkm"), "").unwrap();
        std::os::unix::fs::symlink(bundle.join("dkm"), data.join("bin/dkm")).unwrap();
        std::os::unix::fs::symlink(data.join("bin/dkm"), temp.path().join("short")).unwrap();
        let data = data.canonicalize().unwrap();
        assert_eq!(home_of_link(&data.join("bin/dkm")), Some(data.clone()));
        assert_eq!(home_of_link(&temp.path().join("short")), Some(data));
        assert_eq!(home_of_link(&bundle.join("dkm")), None);
    }

    #[test]
    fn what_is_written_has_its_own_mode_and_none_of_what_a_killed_one_left() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("installed.json");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let half = beside(&path, "~");
        fs::write(&half, "half of something that is longer").unwrap();
        fs::set_permissions(&half, fs::Permissions::from_mode(0o666)).unwrap();
        write_renamed_alone(&path, b"new", 0o600).unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"new"[..], 0o600));
        assert!(!half.exists());
        write_renamed(&path, b"newer", 0o640).unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"newer"[..], 0o640));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
