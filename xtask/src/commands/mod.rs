//! The commands, one file each, and what they share: a stack that is open for work.

pub mod bench;
pub mod ci;
pub mod clean;
pub mod doctor;
pub mod explain;
pub mod fetch;
pub mod lock;
pub mod package;
pub mod plan;

use crate::cli::Common;
use crate::dirs::Dirs;
use crate::error::{Kind, WithKind as _};
use crate::host::Host;
use crate::preflight::{self, Finding};
use crate::progress::Ui;
use crate::stack::Stack;
use crate::stack::recipe::Recipe;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The repository's root: where this program was compiled.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
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
    /// What the person sees.
    pub ui: Ui,
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
        let build = common.build_dir.clone().unwrap_or(usual_build);
        let dist = dist_dir.map_or_else(|| workspace.join("dist"), Path::to_owned);
        let dirs = Dirs::new(std::path::absolute(build)?, std::path::absolute(dist)?);
        Ok(Self { workspace, stack, dirs, host: Host::default(), ui: Ui::new(common.talk.verbosity()) })
    }

    /// Makes the build folder this run's own until the lock is dropped; waits for another run on it, if it may.
    ///
    /// # Errors
    /// When the folder cannot be made or locked, or another run has it and there is to be no waiting.
    pub fn lock(&self, wait: bool) -> anyhow::Result<File> {
        self.dirs.make()?;
        let path = self.dirs.build.join("lock");
        let open = || File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let mut file = open().kind(Kind::Stage, || format!("cannot open {}", path.display()))?;
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
        // Build commands inherit the lock: were this run killed, the next one waits until nothing of it works in the folder.
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        Ok(file)
    }

    /// Checks that this machine can build the recipes; installs what is missing when told to.
    ///
    /// # Errors
    /// [`Kind::Preflight`] with everything that is missing.
    pub fn preflight(&self, recipes: &[&Recipe], bootstrap: &[&str], install_missing: bool) -> anyhow::Result<Vec<Finding>> {
        let findings = preflight::check(recipes, bootstrap, &self.host, &self.dirs);
        if !install_missing || findings.iter().all(|finding| finding.state.is_ok()) {
            return Ok(findings);
        }
        preflight::install(&findings)?;
        self.host.forget();
        Ok(preflight::check(recipes, bootstrap, &self.host, &self.dirs))
    }
}
