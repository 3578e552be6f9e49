//! The second build's surroundings: folders of its own, filled with sources alone, and a process that is somebody else somewhere
//! else.

use crate::dirs::{Dirs, is_bearable, plain_temporary, remove_all};
use crate::error::{Kind, WithKind as _};
use crate::gate::Machine;
use crate::source;
use anyhow::Context as _;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use walkdir::WalkDir;

/// The hidden command that [`enter`] is.
pub const COMMAND: &str = "somebody-else";

/// The number of who that is.
pub const USER: u32 = 64_124;
/// And where.
const HOST: &str = "another-machine";

/// The part of the folder's name that tools have to bear.
const PREFIX: &str = "dkumonitor built again é ";

/// And of the one that they do not have to bear anything of.
const PLAIN_PREFIX: &str = "dkumonitor-built-again-";

/// Below the build folder: what was fetched and is the same wherever it lies. What tools only read is linked, what they write to is
/// copied.
const FETCHED: [(&str, Way); 6] = [
    ("sources", Way::Link),
    ("toolchains", Way::Link),
    ("cache/packages", Way::Link),
    ("cache/go/pkg/mod", Way::Link),
    ("cache/npm", Way::Copy),
    ("cache/yarn", Way::Copy),
];

/// Below cargo's own folder, likewise. The crates are unpacked anew.
const FETCHED_CRATES: [(&str, Way); 3] =
    [("registry/cache", Way::Link), ("registry/index", Way::Copy), ("config.toml", Way::Copy)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Link,
    Copy,
}

/// The folders of the second build.
pub struct Second {
    folder: tempfile::TempDir,
    /// Where compilers work, whose path has to be plain; apart from that of everybody's temporary files, which the first build may have.
    temporary: tempfile::TempDir,
    /// The checkout.
    pub workspace: PathBuf,
    /// The stack.
    pub stack: PathBuf,
}

impl Second {
    /// Makes them below `place`, with the sources of the checkout, of the stack, and of what was fetched for the first build.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn make(place: &Path, workspace: &Path, stack: &Path, first: &Dirs) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place);
        let folder = folder.kind(Kind::Stage, || format!("cannot make a folder in {}", place.display()))?;
        let near = if is_bearable(place) { place.to_owned() } else { plain_temporary() };
        let temporary = tempfile::Builder::new().prefix(PLAIN_PREFIX).tempdir_in(&near);
        let temporary = temporary.kind(Kind::Stage, || format!("cannot make a folder in {}", near.display()))?;
        let copy = folder.path().join("the checkout");
        source::copy(workspace, &copy, None)?;
        let stack = match stack.strip_prefix(workspace) {
            Ok(inner) => copy.join(inner),
            Err(_) => {
                let other = folder.path().join(stack.file_name().unwrap_or_default());
                source::copy(stack, &other, None)?;
                other
            }
        };
        let second = Self { folder, temporary, workspace: copy, stack };
        for (name, way) in FETCHED {
            bring(&first.build.join(name), &second.build().join(name), way)?;
        }
        if let Some(cargo) = tool_folder("CARGO_HOME", ".cargo") {
            for (name, way) in FETCHED_CRATES {
                bring(&cargo.join(name), &second.cargo().join(name), way)?;
            }
        }
        fs::create_dir_all(second.programs())?;
        fs::create_dir_all(second.home())?;
        fs::create_dir_all(second.cargo())?;
        Ok(second)
    }

    /// The build folder.
    pub fn build(&self) -> PathBuf {
        self.folder.path().join("a build")
    }

    /// The folder of archives.
    pub fn dist(&self) -> PathBuf {
        self.folder.path().join("a dist")
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("a home")
    }

    fn cargo(&self) -> PathBuf {
        self.folder.path().join("a cargo")
    }

    /// A folder without programs, to be first on the PATH.
    fn programs(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// Whether compilers work on the same file system as in the first build: there names are read from folders in the same order.
    pub fn shares_disk_with(&self, first: &Dirs) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        // (The work folder itself is gone when all is made.)
        let disk = |path: &Path| path.ancestors().find_map(|path| path.metadata().ok()).map(|meta| meta.dev());
        disk(self.temporary.path()) == disk(&first.work(""))
    }

    /// Everything that must not be found in what was made.
    pub fn places(&self) -> Vec<PathBuf> {
        let dirs = Dirs::new(self.build(), self.dist());
        // The stand-in carries the number of the user that the build is run by.
        let temporary = plain_temporary();
        let named = |folder: &Path, user: u32| format!("{}/dkumonitor-{user}-", folder.display());
        let own = named(&temporary, rustix::process::geteuid().as_raw());
        let other = named(self.temporary.path(), USER);
        let plain = dirs.places().into_iter().flat_map(|place| [place.replacen(&own, &other, 1), place]).map(PathBuf::from);
        let own = [self.folder.path(), self.temporary.path()].map(Path::to_owned);
        own.into_iter().chain([self.home(), self.cargo()]).chain(plain).collect()
    }

    /// This program with these words, ready to run there; the second is whether it will be somebody else.
    ///
    /// # Errors
    /// When this program cannot be found.
    pub fn command(&self, words: &[OsString], epoch: u64) -> anyhow::Result<(Command, bool)> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let apart = can_be_somebody_else(&program);
        let mut command = Command::new(&program);
        if apart {
            command.args([COMMAND, "--"]).arg(&program);
        }
        command.args(words).current_dir(&self.workspace);
        let user = user_name();
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Ok(path) = std::env::join_paths([self.programs()].into_iter().chain(std::env::split_paths(&path))) {
            command.env("PATH", path);
        }
        command.env("TMPDIR", self.temporary.path());
        command.env("HOME", self.home()).env("USER", &user).env("LOGNAME", &user).env("CARGO_HOME", self.cargo());
        command.env("LANG", "de_DE.UTF-8").env("LC_ALL", "POSIX").env("TZ", "Pacific/Kiritimati");
        command.env("SOURCE_DATE_EPOCH", epoch.to_string());
        if let Some(rustup) = tool_folder("RUSTUP_HOME", ".rustup") {
            command.env("RUSTUP_HOME", rustup);
        }
        Ok((command, apart))
    }

    /// Removes the folders. (Go keeps its modules' read-only, so that dropping them would leave some.)
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn remove(self) -> anyhow::Result<()> {
        for path in [self.folder.keep(), self.temporary.keep()] {
            remove_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Leaves the folders where they are; where that is.
    pub fn keep(self) -> PathBuf {
        // What a step has left that failed.
        let _ = self.temporary.keep();
        self.folder.keep()
    }
}

fn user_name() -> String {
    format!("user{USER}")
}

/// Who builds the second time, and the machine that it is on then.
pub fn somebody_else() -> Machine {
    Machine { user: Some(user_name()), host: Some(HOST.to_owned()), ..Machine::default() }
}

/// A tool's own folder: as the environment says, or in the home.
fn tool_folder(variable: &str, name: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(name)))
}

/// Brings a file or folder that was fetched; that there is none is fine.
fn bring(from: &Path, to: &Path, way: Way) -> anyhow::Result<()> {
    if from.symlink_metadata().is_err() {
        return Ok(());
    }
    let cannot = || format!("cannot bring {} to {}", from.display(), to.display());
    let mut folders = Vec::new();
    for entry in WalkDir::new(from) {
        let entry = entry.kind(Kind::Stage, cannot)?;
        let target = to.join(entry.path().strip_prefix(from)?);
        // Joining nothing to a file's path would make a folder of it.
        let target = if entry.depth() == 0 { to.to_owned() } else { target };
        let made = if entry.file_type().is_dir() {
            folders.push((target.clone(), entry.metadata()?.permissions().mode()));
            fs::create_dir_all(&target)
        } else if entry.file_type().is_symlink() {
            fs::read_link(entry.path()).and_then(|link| std::os::unix::fs::symlink(link, &target))
        } else {
            target.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| copy_or_link(entry.path(), &target, way))
        };
        made.kind(Kind::Stage, cannot)?;
    }
    // Go keeps its modules' folders read-only.
    for (folder, mode) in folders.into_iter().rev() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).kind(Kind::Stage, cannot)?;
    }
    Ok(())
}

fn copy_or_link(from: &Path, to: &Path, way: Way) -> std::io::Result<()> {
    // On another disk there are no links.
    if way == Way::Link && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop)
}

/// Whether a command can be run as somebody else on a machine of another name.
fn can_be_somebody_else(program: &Path) -> bool {
    let mut probe = Command::new(program);
    probe.args([COMMAND, "--", "true"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Becomes `words[0]` with the arguments that follow, as somebody else. Returns only on failure.
///
/// # Errors
/// When that is not to be had here, or the command cannot be started.
pub fn enter(words: &[OsString]) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let (program, args) = words.split_first().ok_or_else(|| Kind::Usage.error(format!("{COMMAND} needs a command")))?;
    os::become_somebody_else().kind(Kind::Other, || "cannot become somebody else".to_owned())?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o007));
    let error = Command::new(program).args(args).exec();
    Err(Kind::Other.error(format!("cannot start {}: {error}", program.display())))
}

#[cfg(target_os = "linux")]
mod os {
    use super::{HOST, USER};
    use rustix::thread::UnshareFlags;

    /// To everything that asks, this user has another number, and the machine another name; files are still his own.
    pub fn become_somebody_else() -> anyhow::Result<()> {
        crate::sandbox::enter_namespaces(UnshareFlags::NEWUSER | UnshareFlags::NEWUTS, (USER, USER))?;
        rustix::system::sethostname(HOST.as_bytes())?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    /// There is nothing of the kind here.
    pub fn become_somebody_else() -> anyhow::Result<()> {
        anyhow::bail!("this system has no namespaces")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_fetched_is_brought_and_what_was_made_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |inner: &str| folder.path().join(inner);
        let write = |inner: &str, text: &str| {
            fs::create_dir_all(at(inner).parent().unwrap()).unwrap();
            fs::write(at(inner), text).unwrap();
        };
        write("work/Cargo.toml", "x");
        write("work/.gitignore", "target\n");
        write("work/target/debug/x", "made");
        write("work/stacks/one/vendor.lock", "y");
        write("build/sources/aa", "source");
        write("build/cache/go/pkg/mod/m/x.go", "module");
        write("build/cache/go-build/00/x", "made");
        write("build/store/objects/00", "made");
        fs::set_permissions(at("build/cache/go/pkg/mod/m"), fs::Permissions::from_mode(0o555)).unwrap();
        let first = Dirs::new(at("build"), at("dist"));
        let second = Second::make(folder.path(), &at("work"), &at("work/stacks/one"), &first).unwrap();
        assert!(second.workspace.join("Cargo.toml").is_file() && !second.workspace.join("target").exists());
        assert!(second.stack.join("vendor.lock").is_file() && second.stack.starts_with(&second.workspace));
        for (inner, there) in
            [("sources/aa", true), ("cache/go/pkg/mod/m/x.go", true), ("cache/go-build", false), ("store", false)]
        {
            assert_eq!(second.build().join(inner).exists(), there, "{inner}");
        }
        let module = second.build().join("cache/go/pkg/mod/m");
        assert_eq!(module.metadata().unwrap().permissions().mode() & 0o777, 0o555);
        second.remove().unwrap();
        assert!(!module.exists());
    }
}
