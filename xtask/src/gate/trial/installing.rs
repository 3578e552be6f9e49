//! A package, installed as its system would: by dpkg or rpm, as root, with its scripts, below `/opt` as on anybody's machine. Removed the
//! same way when it has been used.
//!
//! `/opt` is empty and of this trial alone; where else the package puts files, they lie over what is there and are gone with the
//! trial. What is installed is kept in books of the trial's own, into which only the C library is carried over.

use super::{LAID_OUT, Package, os};
use anyhow::{Context as _, ensure};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::umask;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What lies over folders of the system that the package puts files into.
const OVER: &str = "over";

/// Where its tool keeps its books, below the trial's folder.
const BOOKS: &str = "books";

/// What dpkg knows of: a system that was put together without it has none.
const DPKG_BOOKS: &str = "var/lib/dpkg/status";

/// The search path of who installs.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A package of Debian's that every system has, as far as dpkg has to know it.
const BASE: &str = "Package: base-files\nStatus: install ok installed\nMaintainer: nobody\nArchitecture: all\nVersion: 1\nDescription: base\n\n";

/// The folders that are that package's.
const BASE_FOLDERS: &str =
    "/.\n/opt\n/usr\n/usr/lib\n/usr/share\n/usr/share/doc\n/usr/share/lintian\n/usr/share/lintian/overrides\n";

/// How it comes to be where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Installed by its tool.
    Tool,
    /// Laid out by this program.
    Laid,
}

impl Package {
    /// The folder of the product: `opt/PRODUCT`.
    fn product(&self) -> &str {
        self.root.rsplit_once('/').map_or(&self.root, |(product, _)| product)
    }

    /// Makes room for it in a system, by mounts; the trial's folder is seen at `place`. Gives the way, and why not the better one.
    pub fn make_room(&self, system: &Path, place: &Path, as_root: bool) -> anyhow::Result<(Way, Option<String>)> {
        let opt = system.join("opt");
        ensure!(opt.is_dir(), "there is no /opt here to install to");
        os::empty(&opt, "mode=0755")?;
        let tool = self.tool();
        let is_there = PATH.split(':').any(|folder| system.join(folder.trim_start_matches('/')).join(tool).exists());
        let why = match (as_root, is_there) {
            (false, _) => "only root can".to_owned(),
            (_, false) => format!("there is no {tool} here"),
            _ if self.deb && !system.join(DPKG_BOOKS).is_file() => format!("its dpkg knows of no package (/{DPKG_BOOKS})"),
            _ => match self.overlay(system, place) {
                Ok(()) => return Ok((Way::Tool, None)),
                Err(error) => format!("{error:#}"),
            },
        };
        let product = system.join(self.product());
        fs::create_dir(&product)?;
        mount_bind(place.join(LAID_OUT).join(self.product()), &product).context("cannot bring what was laid out")?;
        Ok((Way::Laid, Some(format!("it was not installed by {tool} ({why}), but laid out in /opt; its scripts were not run"))))
    }

    /// Lets files be put beside those of the system that are outside of `/opt`.
    fn overlay(&self, system: &Path, place: &Path) -> anyhow::Result<()> {
        let over = place.join(OVER);
        fs::create_dir(&over)?;
        os::empty(&over, "mode=0700")?;
        for entry in place.join(LAID_OUT).read_dir()? {
            let name = entry?.file_name();
            if name == "opt" {
                continue;
            }
            let (lower, upper, work) = (system.join(&name), over.join(&name), over.join("work").join(&name));
            fs::create_dir_all(&work)?;
            fs::create_dir(&upper)?;
            fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            let bytes = |path: &Path| path.as_os_str().as_bytes().iter().flat_map(|byte| escaped(*byte)).collect::<Vec<_>>();
            let options = [b"lowerdir=".as_slice(), &bytes(&lower), b",upperdir=", &bytes(&upper), b",workdir=", &bytes(&work)];
            let options = CString::new(options.concat())?;
            mount("overlay", &lower, "overlay", MountFlags::NODEV, options.as_c_str())
                .with_context(|| format!("nothing can be laid over {}", lower.display()))?;
        }
        Ok(())
    }

    /// Installs it; where its bundle is then.
    pub fn install(&self, place: &Path) -> anyhow::Result<PathBuf> {
        let books = place.join(BOOKS);
        fs::create_dir(&books)?;
        if self.deb {
            for folder in ["updates", "info", "triggers"] {
                fs::create_dir(books.join(folder))?;
            }
            // What it requires has to be known to be there, and whose the folders are that everybody has.
            let known = self.command("dpkg-query").args(["--status", "libc6"]).output().map(|output| output.stdout);
            fs::write(books.join("status"), [BASE.as_bytes(), &known.unwrap_or_default()].concat())?;
            fs::write(books.join("info/base-files.list"), BASE_FOLDERS)?;
        }
        let mut command = self.with_books(place);
        match self.deb {
            true => command.arg("--install"),
            false => command.args(["--install", "--nodeps"]),
        };
        run(command.arg(place.join(&self.file)), "install")?;
        let current = Path::new("/").join(self.product()).join("current");
        let target =
            fs::read_link(&current).with_context(|| format!("after its installation there is no {}", current.display()))?;
        ensure!(
            current.with_file_name("x").with_file_name(&target) == Path::new("/").join(&self.root),
            "after its installation {} leads to {}",
            current.display(),
            target.display()
        );
        Ok(current)
    }

    /// Removes it; whatever is left of it is an error.
    pub fn remove(&self, place: &Path) -> anyhow::Result<()> {
        let mut command = self.with_books(place);
        match self.deb {
            true => command.arg("--purge"),
            false => command.args(["--erase", "--nodeps"]),
        };
        run(command.arg(&self.name), "remove")?;
        let product = Path::new("/").join(self.product());
        let mut left: Vec<PathBuf> = product.symlink_metadata().is_ok().then_some(product).into_iter().collect();
        let over = place.join(OVER);
        for entry in walkdir::WalkDir::new(&over).into_iter().filter_entry(|entry| entry.path() != over.join("work")).flatten()
        {
            if entry.file_type().is_file() || entry.file_type().is_symlink() {
                left.push(Path::new("/").join(entry.path().strip_prefix(&over).unwrap_or(entry.path())));
            }
        }
        let left: Vec<String> = left.iter().map(|path| path.display().to_string()).collect();
        ensure!(left.is_empty(), "after its removal there still is {}", left.join(", "));
        Ok(())
    }

    fn with_books(&self, place: &Path) -> Command {
        let mut command = self.command(self.tool());
        let books = place.join(BOOKS);
        match self.deb {
            true => command.arg("--admindir").arg(books).args(["--log=/dev/null", "--force-unsafe-io"]),
            false => command.arg("--dbpath").arg(books),
        };
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).current_dir("/");
        command
    }
}

/// A byte of a path as the options of overlays have it: they part paths and each other by some.
fn escaped(byte: u8) -> impl Iterator<Item = u8> {
    let backslash = matches!(byte, b'\\' | b':' | b',').then_some(b'\\');
    backslash.into_iter().chain([byte])
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    // As a system's own tools are called, whatever holds for this process.
    let before = umask(Mode::from_raw_mode(0o022));
    let output = command.output();
    umask(before);
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = output.with_context(|| format!("{tool} cannot be started"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "{tool} cannot {what} it: {}", said.trim());
    Ok(())
}
