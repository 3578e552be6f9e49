//! Where things lie below the build and the dist folder. No other module spells these names.

use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use sha2::{Digest as _, Sha256};
use std::ffi::OsString;
use std::fs::{DirBuilder, File, create_dir_all};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// The file in a stand-in that holds the path of the build folder it stands in for.
const STANDS_FOR: &str = "stands-for";

/// The folders that a run writes to.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// `--build-dir`, absolute.
    pub build: PathBuf,
    /// `--dist-dir`, absolute.
    pub dist: PathBuf,
    /// Where compilers work: the build folder, or a stand-in for one whose path holds what make and configure cannot
    /// bear, such as a blank.
    plain: PathBuf,
}

impl Dirs {
    /// The folders of a run; nothing is made yet.
    pub fn new(build: PathBuf, dist: PathBuf) -> Self {
        let plain = if is_bearable(&build) {
            build.clone()
        } else {
            let hash = fingerprint::hex(&Sha256::digest(build.as_os_str().as_bytes()));
            plain_temporary().join(format!("{}{}", stand_in_prefix(), &hash[..12]))
        };
        Self { build, dist, plain }
    }

    /// The folders below which everything of a build lies, as text, the longer one first.
    pub fn places(&self) -> Vec<String> {
        let mut places: Vec<_> = [&self.build, &self.plain].iter().map(|path| path.to_string_lossy().into_owned()).collect();
        places.sort_by_key(|place| std::cmp::Reverse(place.len()));
        places
    }

    /// Makes the folders that every run needs. While what it gives lives, nobody takes the stand-in for abandoned.
    ///
    /// # Errors
    /// [`Kind::Stage`] when one cannot be made, or the stand-in belongs to somebody else.
    pub fn make(&self) -> anyhow::Result<StandIn> {
        let fail = |folder: &Path| format!("cannot make {} (choose another with --build-dir)", folder.display());
        create_dir_all(&self.build).kind(Kind::Stage, || fail(&self.build))?;
        let held = if self.plain == self.build { None } else { Some(self.make_stand_in()?) };
        for folder in [self.home(), self.tmp()] {
            create_dir_all(&folder).kind(Kind::Stage, || fail(&folder))?;
        }
        Ok(StandIn(held))
    }

    /// Makes the dist folder and sees whether something can be written there: better before hours of compiling than after.
    ///
    /// # Errors
    /// [`Kind::Stage`] when it cannot.
    pub fn make_dist(&self) -> anyhow::Result<()> {
        create_dir_all(&self.dist)
            .and_then(|()| tempfile::tempfile_in(&self.dist).map(drop))
            .kind(Kind::Stage, || format!("cannot write in {} (choose another with --dist-dir)", self.dist.display()))
    }

    /// The stand-in lies where everybody may write: it has to be ours alone before anything is compiled in it.
    fn make_stand_in(&self) -> anyhow::Result<File> {
        let plain = &self.plain;
        let fail = || format!("cannot make {}", plain.display());
        remove_abandoned(plain.parent().unwrap_or(Path::new("/")));
        loop {
            match DirBuilder::new().mode(0o700).create(plain) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error).kind(Kind::Stage, fail),
                _ => {}
            }
            if !is_ours_alone(plain) {
                break;
            }
            let held = File::open(plain).kind(Kind::Stage, fail)?;
            held.lock_shared().kind(Kind::Stage, fail)?;
            // Removed meanwhile by a run that took it for abandoned.
            if !is_still(&held, plain) {
                continue;
            }
            let note = plain.join(STANDS_FOR);
            // Beside and renamed: whoever reads half of it takes the folder for one that stands for nothing.
            let write = || -> std::io::Result<()> {
                let mut draft = tempfile::NamedTempFile::new_in(plain)?;
                draft.write_all(self.build.as_os_str().as_bytes())?;
                draft.persist(&note)?;
                Ok(())
            };
            write().kind(Kind::Stage, || format!("cannot write {}", note.display()))?;
            return Ok(held);
        }
        Err(Kind::Stage.error(format!(
            "{} stands in for the build folder, whose path holds characters that make cannot bear, but it is not yours \
             alone; remove it, or choose a plain path with --build-dir",
            plain.display()
        )))
    }

    /// Removes the stand-in, if there is one, after a run that needs nothing of it any more.
    pub fn remove_stand_in(&self) {
        // Work folders are kept for whoever looks into a step that failed.
        let kept = std::fs::read_dir(self.plain.join("wip")).is_ok_and(|mut entries| entries.next().is_some());
        if self.plain != self.build && !kept {
            // What is left of it harms nobody; the next run uses it again.
            let _ = remove_all(&self.plain);
        }
    }

    /// Fetched archives, by hash.
    pub fn sources(&self) -> PathBuf {
        self.build.join("sources")
    }

    /// Downloads that were not what was pinned, for inspection.
    pub fn rejected(&self) -> PathBuf {
        self.build.join("rejected")
    }

    /// A component's work folder: `src/` and `dest/` are below it.
    pub fn work(&self, component: &str) -> PathBuf {
        self.plain.join("wip").join(component)
    }

    /// Which step of a component was begun in its work folder and has not ended.
    pub fn work_state(&self, component: &str) -> PathBuf {
        self.plain.join("wip").join(format!(".state-{component}"))
    }

    /// What was in a component's work folder before and after a step. (No component's name begins with a dot.)
    pub fn work_scans(&self, component: &str) -> (PathBuf, PathBuf) {
        let scan = |when| self.plain.join("wip").join(format!(".scan-{component}-{when}"));
        (scan("before"), scan("after"))
    }

    /// Removes a component's work folder and what is noted beside it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_work(&self, component: &str) -> anyhow::Result<()> {
        let (before, after) = self.work_scans(component);
        for path in [self.work_state(component), before, after, self.work(component)] {
            remove_all(&path).kind(Kind::Stage, || format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// What was made, see [`crate::store`].
    pub fn store(&self) -> PathBuf {
        self.build.join("store")
    }

    /// Versions of the tools of this machine, as they were when they were asked last.
    pub fn versions(&self) -> PathBuf {
        self.build.join("cache").join("versions.json")
    }

    /// Toolchains taken from registries.
    pub fn toolchains(&self) -> PathBuf {
        self.build.join("toolchains")
    }

    /// Archives of registry packages (node, npm, Yarn), by name and version.
    pub fn packages(&self) -> PathBuf {
        self.cache("packages")
    }

    /// Where a mirror's content is gathered before it is exported.
    pub fn gathered(&self) -> PathBuf {
        self.build.join("gathered")
    }

    /// A build tool's own cache (`go`, `npm`, `yarn`, `cargo` …).
    pub fn cache(&self, tool: &str) -> PathBuf {
        self.build.join("cache").join(tool)
    }

    /// HOME of all build commands.
    pub fn home(&self) -> PathBuf {
        self.plain.join("home")
    }

    /// TMPDIR of all build commands.
    pub fn tmp(&self) -> PathBuf {
        self.plain.join("tmp")
    }

    /// What is remembered of bundles, one file each.
    pub fn states(&self) -> PathBuf {
        self.build.join("state")
    }

    /// What is remembered of a bundle's tree and archive, to know whether they still stand.
    pub fn state(&self, bundle: &str) -> PathBuf {
        self.states().join(format!("{bundle}.json"))
    }

    /// Compressed pieces of earlier archives.
    pub fn archive_cache(&self) -> PathBuf {
        self.build.join("cache").join("archive")
    }

    /// The staged tree of a bundle.
    pub fn tree(&self, bundle: &str) -> PathBuf {
        self.dist.join(bundle)
    }
}

/// Whether make, configure and what they call can work at a path.
pub fn is_bearable(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@,".contains(byte))
}

/// The user's folder of temporary files, or the system's where make and configure could not work in the user's: where
/// stand-ins lie.
pub fn plain_temporary() -> PathBuf {
    let own = std::env::temp_dir();
    let fits = own.is_absolute() && own.is_dir() && is_bearable(&own);
    if fits { own } else { PathBuf::from("/tmp") }
}

/// A run's stand-in, if it has one: the folder, locked for as long as this lives.
#[derive(Debug)]
pub struct StandIn(#[allow(dead_code, reason = "held for its lock")] Option<File>);

/// Whether a folder that was opened is the one that stands there now.
fn is_still(held: &File, path: &Path) -> bool {
    let number = |meta: std::io::Result<std::fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
    number(held.metadata()) == number(path.symlink_metadata())
}

/// What the names of this user's stand-ins begin with.
fn stand_in_prefix() -> String {
    format!("dkumonitor-{}-", rustix::process::geteuid().as_raw())
}

/// Whether this is a folder that nobody else can enter.
fn is_ours_alone(folder: &Path) -> bool {
    folder
        .symlink_metadata()
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0)
}

/// Removes the stand-ins of build folders that are no more: a run that was killed has left them, and no other will use them again.
/// Those of folders that are there are theirs, with the work of a step that failed, perhaps.
fn remove_abandoned(temporary: &Path) {
    let prefix = stand_in_prefix();
    for entry in std::fs::read_dir(temporary).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().as_bytes().starts_with(prefix.as_bytes()) || !is_ours_alone(&path) {
            continue;
        }
        // One that is in use is locked. Locked by us it is taken by nobody until it is gone.
        let Ok(held) = File::open(&path) else { continue };
        if held.try_lock().is_err() || !is_still(&held, &path) {
            continue;
        }
        let Ok(build) = std::fs::read(path.join(STANDS_FOR)) else { continue };
        // That which says nothing is not known to be abandoned.
        if build.is_empty() {
            continue;
        }
        let gone = Path::new(&OsString::from_vec(build)).symlink_metadata();
        if gone.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            // What cannot be removed now is tried again by the next run.
            let _ = remove_all(&path);
        }
    }
}

/// Removes a folder or file and everything in it; that it is not there is fine. Folders without write permission (Go's
/// module cache, some archives) are made writable first.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_all(path: &Path) -> std::io::Result<()> {
    let is_dir = match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) => meta.is_dir(),
    };
    if !is_dir {
        return std::fs::remove_file(path);
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            make_writable(path);
            std::fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn make_writable(root: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in walkdir::WalkDir::new(root).into_iter().flatten().filter(|entry| entry.file_type().is_dir()) {
        let _ = std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o700));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_make_cannot_bear_gets_a_stand_in_of_its_own_that_nobody_else_can_enter() {
        let plain = Dirs::new("/some/build".into(), "/some/dist".into());
        assert_eq!(plain.work("x"), Path::new("/some/build/wip/x"));
        let folder = tempfile::Builder::new().prefix("with a blank ").tempdir().unwrap();
        let dirs = Dirs::new(folder.path().join("build"), folder.path().join("dist"));
        let held = dirs.make().unwrap();
        let work = dirs.work("x");
        assert!(!work.to_str().unwrap().contains(' '), "{}", work.display());
        assert_ne!(work, Dirs::new(folder.path().join("other build"), folder.path().join("dist")).work("x"));
        let stand_in = work.ancestors().nth(2).unwrap();
        assert_eq!(stand_in.metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(dirs.make().unwrap_err().to_string().contains("not yours alone"));
        drop(held);
        dirs.remove_stand_in();
        assert!(!stand_in.exists());
    }

    #[test]
    fn the_stand_in_of_a_build_folder_that_is_no_more_goes_with_the_next_run() {
        let folder = tempfile::Builder::new().prefix("with a blank ").tempdir().unwrap();
        let stand_in = |name: &str| {
            let dirs = Dirs::new(folder.path().join(name), folder.path().join("dist"));
            let held = dirs.make().unwrap();
            let stand_in = dirs.work("x").ancestors().nth(2).unwrap().to_owned();
            create_dir_all(dirs.work("x")).unwrap();
            (dirs, stand_in, held)
        };
        let ((_, gone, _), (kept, there, _)) = (stand_in("one"), stand_in("two"));
        std::fs::remove_dir_all(folder.path().join("one")).unwrap();
        let (silent, unknown, _) = stand_in("silent");
        std::fs::write(unknown.join(STANDS_FOR), "").unwrap();
        // As where a run begins whose build folder was removed, at the moment when another one looks.
        let (begun, used, held) = stand_in("begun");
        std::fs::remove_dir_all(folder.path().join("begun")).unwrap();
        let (next, ..) = stand_in("three");
        assert!(!gone.exists(), "what a killed run has left stays");
        assert!(used.join("wip/x").exists(), "what is in use was removed");
        drop(held);
        assert!(unknown.exists(), "what says nothing of what it stands for was removed");
        assert!(there.join("wip/x").exists(), "what belongs to a folder that is there was removed");
        for dirs in [kept, silent, begun, next] {
            remove_all(&dirs.work("x")).unwrap();
            dirs.remove_stand_in();
        }
    }
}
