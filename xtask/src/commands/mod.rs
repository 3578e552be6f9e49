//! The commands, one file each, and what they share: a stack that is open for work.

mod ahead;
pub mod audit;
pub mod bench;
mod bring;
pub mod ci;
pub mod clean;
pub mod doctor;
pub mod explain;
pub mod fetch;
pub mod gate;
pub mod lock;
pub mod manual;
pub mod package;
pub mod plan;
pub mod release;
pub mod repro;
pub mod shell;
pub mod sign;
mod sources;
pub mod vendor_export;
pub mod verify;

use crate::build::Session;
use crate::cli::Common;
use crate::dirs::{Dirs, StandIn};
use crate::error::{Kind, WithKind as _};
use crate::host::Host;
use crate::plan::Planner;
use crate::preflight::{self, Finding};
use crate::progress::Ui;
use crate::shell::quote;
use crate::stack::Stack;
use crate::stack::recipe::Recipe;
use crate::store::Store;
use crate::supply::Supply;
use crate::target::Target;
use anyhow::Context as _;
use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// Names another checkout than the one that this program was compiled in: a copy of it that is built elsewhere.
pub const CHECKOUT: &str = "DKUMONITOR_CHECKOUT";

/// The repository's root: where this program was compiled, or another one that it was told.
pub fn workspace() -> PathBuf {
    let compiled_in = || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned();
    let root = std::env::var_os(CHECKOUT).map_or_else(compiled_in, PathBuf::from);
    // Stacks are told from the root's by their paths, so that there must be no other path to it. One that is not there is told
    // by whoever reads it.
    root.canonicalize().unwrap_or(root)
}

/// A stack that is open for work.
pub struct Workshop {
    /// The repository's root.
    pub workspace: PathBuf,
    /// The stack.
    pub stack: Stack,
    /// The folders to write to.
    pub dirs: Dirs,
    /// The machine.
    pub host: Host,
    /// The platform that is built for.
    pub target: Target,
    /// What the person sees.
    pub ui: Ui,
    /// The flags that choose this stack and build folder, as one would type them behind a command; empty for the usual ones.
    pub flags: String,
}

impl Workshop {
    /// Opens the stack that the flags choose.
    ///
    /// # Errors
    /// Those of [`Stack::read`].
    pub fn open(common: &Common, dist_dir: Option<&Path>) -> anyhow::Result<Self> {
        let workspace = workspace();
        let stack = Stack::read(common.stack.as_deref().unwrap_or(&workspace), &workspace)?;
        let usual_build = match &stack.name {
            None => workspace.join("build"),
            Some(name) => workspace.join("build").join(format!("stack-{name}")),
        };
        let mut flags = String::new();
        let chosen = [
            ("--stack", stack.name.as_ref().map(|_| stack.root.clone())),
            ("--build-dir", common.build_dir.as_ref().map(std::path::absolute).transpose()?),
            ("--target", common.target.map(|target| PathBuf::from(target.to_string()))),
        ];
        for (flag, path) in chosen.into_iter().filter_map(|(flag, path)| Some((flag, path?))) {
            // Writing to a string cannot fail.
            let _ = write!(flags, " {flag} {}", quote(path.as_os_str()));
        }
        let build = common.build_dir.clone().unwrap_or(usual_build);
        let dist = dist_dir.map_or_else(|| workspace.join("dist"), Path::to_owned);
        let dirs = Dirs::new(std::path::absolute(build)?, std::path::absolute(dist)?);
        let host = Host::remembering(dirs.versions());
        let target = common.target.unwrap_or_else(Target::of_this_machine);
        Ok(Self { workspace, stack, dirs, host, target, ui: Ui::new(common.talk.verbosity()), flags })
    }

    /// What all components share that are worked on, with results from `store`, dependencies from `supply`, and as many `jobs` a tool.
    pub fn session<'a>(&'a self, store: &'a Store, supply: &'a Supply, jobs: usize) -> Session<'a> {
        let Self { workspace, stack, dirs, host, target, ui, flags } = self;
        Session { stack, workspace, dirs, ui, host, target: *target, store, jobs, flags, supply }
    }

    /// The recipe of this name.
    ///
    /// # Errors
    /// [`Kind::Usage`] when there is none, with the names that there are.
    pub fn recipe(&self, name: &str) -> anyhow::Result<&Recipe> {
        self.stack.recipes.iter().find(|recipe| recipe.name == name).ok_or_else(|| {
            let known: Vec<_> = self.stack.recipes.iter().map(|recipe| recipe.name.as_str()).collect();
            Kind::Usage.error(format!("no recipe is named \"{name}\"; there are {}", known.join(", ")))
        })
    }

    /// What plans are made with.
    pub fn planner<'a>(&'a self, store: &'a Store) -> Planner<'a> {
        let target = self.target;
        Planner { stack: &self.stack, workspace: &self.workspace, host: &self.host, target, dirs: &self.dirs, store }
    }

    /// Makes the build folder this run's own until the lock is dropped; waits for another run on it, if it may.
    ///
    /// # Errors
    /// When the folder cannot be made or locked, or another run has it and there is to be no waiting.
    pub fn lock(&self, wait: bool) -> anyhow::Result<BuildLock> {
        let path = self.dirs.build.join("lock");
        let made = std::fs::create_dir_all(&self.dirs.build);
        made.kind(Kind::Stage, || format!("cannot make {} (choose another with --build-dir)", self.dirs.build.display()))?;
        let open = || File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let cannot = || format!("cannot write to {} (choose another build folder with --build-dir)", path.display());
        let mut file = open().kind(Kind::Stage, cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Who holds it is only a help for the person who waits.
                let _ = file.read_to_string(&mut owner);
                let owner = owner.trim();
                if !wait {
                    return Err(
                        Kind::Other.error(format!("process {owner} works in {} (--no-wait)", self.dirs.build.display()))
                    );
                }
                self.ui.line(&format!(
                    "  waiting for process {owner}, or what it left running, to end its work in {}",
                    self.dirs.build.display()
                ));
                file.lock().kind(Kind::Stage, || format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(Kind::Stage.error(format!("cannot lock {}: {error}", path.display())));
            }
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        // Only now: the run before may have removed its stand-in at its end.
        Ok(BuildLock { file, _stand_in: self.dirs.make()? })
    }

    /// Checks that this machine can build the recipes; installs what is missing when told to.
    ///
    /// # Errors
    /// [`Kind::Preflight`] with everything that is missing.
    pub fn preflight(&self, recipes: &[&Recipe], bootstrap: &[&str], install_missing: bool) -> anyhow::Result<Vec<Finding>> {
        let findings = preflight::check(recipes, bootstrap, &self.host, &self.dirs, self.target);
        if !install_missing || findings.iter().all(|finding| finding.state.is_ok()) {
            return Ok(findings);
        }
        preflight::install(&findings)?;
        self.host.forget();
        Ok(preflight::check(recipes, bootstrap, &self.host, &self.dirs, self.target))
    }
}

/// The build folder is this run's own for as long as this lives.
#[derive(Debug)]
pub struct BuildLock {
    file: File,
    _stand_in: StandIn,
}

impl BuildLock {
    /// Lets commands that are started from now on inherit the lock, as build commands do: were this run killed, the next one
    /// waits until nothing of it works in the folder any more.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn share(&self) -> anyhow::Result<()> {
        rustix::io::fcntl_setfd(&self.file, rustix::io::FdFlags::empty()).context("cannot share the lock")
    }

    /// Does something whose commands do not inherit the lock: a daemon that a package brings and starts would hold it for as
    /// long as it runs.
    ///
    /// # Errors
    /// When the system refuses, and those of `work`.
    pub fn privately<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        rustix::io::fcntl_setfd(&self.file, rustix::io::FdFlags::CLOEXEC).context("cannot keep the lock")?;
        let outcome = work();
        self.share()?;
        outcome
    }
}
