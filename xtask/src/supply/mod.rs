//! Where the dependencies of a run come from, and where the tools keep them.
//!
//! What lock files pin (Go modules, npm packages, crates) is fetched by the tools themselves, into caches below the build
//! folder, by commands that may use the network; nothing else may. A mirror that `vendor-export` has written fills the same
//! caches beforehand ([`stock`]), so that with `--offline` the same commands find all they want and have no network either:
//! what is built does not depend on the way that a dependency came. To write such a mirror the commands run with empty
//! caches beside the usual ones, so that what is in them afterwards is what they want and nothing else ([`export`]).
//!
//! Left to others: the commands themselves ([`crate::build`]), source archives ([`crate::fetch`]).

pub mod crates;
pub mod export;
pub mod index;
mod place;
pub mod stock;

use crate::dirs::Dirs;
use crate::error::{self, Kind, WithKind as _};
use crate::shell::Network;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use stock::Stock;

/// Where the dependencies of a run come from, and where the tools keep them.
pub struct Supply {
    /// Whether even what fetches has no network.
    pub offline: bool,
    /// What mirrors hold beyond what was put into the caches.
    stock: Stock,
    /// Where a mirror's content is gathered, if that is what the run is for.
    gathered: Option<PathBuf>,
    /// Archives of registry packages that the run has used.
    packages: Mutex<BTreeSet<PathBuf>>,
    /// By component: from which registries npm took packages.
    registries: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
}

impl Supply {
    /// For a build, or to fetch for one.
    pub fn usual(offline: bool, stock: Stock) -> Self {
        Self { offline, stock, gathered: None, packages: Mutex::default(), registries: Mutex::default() }
    }

    /// To find out all that a build would want. What the tools fetch ends up below `folder`.
    pub fn gathering(folder: PathBuf, stock: Stock) -> Self {
        Self { gathered: Some(folder), ..Self::usual(false, stock) }
    }

    /// What commands that fetch may do.
    pub fn network(&self) -> Network {
        if self.offline { Network::Offline } else { Network::Open }
    }

    /// The folder below which a mirror's content is gathered, if that is what the run is for.
    pub fn gathered(&self) -> Option<&Path> {
        self.gathered.as_deref()
    }

    /// GOMODCACHE.
    pub fn go(&self, dirs: &Dirs) -> PathBuf {
        self.gathered.as_ref().map_or_else(|| dirs.cache("go").join("pkg/mod"), |folder| folder.join("go"))
    }

    /// npm's cache.
    pub fn npm(&self, dirs: &Dirs) -> PathBuf {
        self.gathered.as_ref().map_or_else(|| dirs.cache("npm"), |folder| folder.join("npm"))
    }

    /// The cache that a Yarn fills beside its usual one, for a mirror: each component's own, since Yarn removes from it what
    /// a project does not use.
    pub fn yarn(&self, component: &str, step: &str) -> Option<PathBuf> {
        Some(self.gathered.as_ref()?.join("yarn").join(component).join(step))
    }

    /// The offline mirror of Yarn 1: to be filled, or where a mirror has filled it.
    pub fn yarn_classic(&self, dirs: &Dirs) -> Option<PathBuf> {
        match &self.gathered {
            Some(folder) => Some(folder.join("yarn-classic")),
            None => Some(dirs.cache(stock::YARN_CLASSIC)).filter(|folder| folder.is_dir()),
        }
    }

    /// The crates that a mirror holds, if it holds all that this lock file pins.
    ///
    /// # Errors
    /// [`Kind::Fetch`] naming the crates that are missing where they cannot be fetched either.
    pub fn crates(&self, lock: &Path) -> anyhow::Result<Option<&stock::Crates>> {
        let Some(stocked) = &self.stock.crates else { return Ok(None) };
        let missing = stocked.unpack(&crates::pinned(lock)?)?;
        if missing.is_empty() {
            return Ok(Some(stocked));
        }
        if !self.offline {
            return Ok(None);
        }
        let text = format!("the mirror lacks crates that {} pins: {}", lock.display(), missing.join(", "));
        Err(Kind::Fetch.error(text))
    }

    /// The registries that a mirror's npm packages were taken from, in npm's own words: their cache knows packages by address.
    pub fn npm_registries(&self, component: &str) -> Option<&BTreeMap<String, String>> {
        self.stock.registries.get(component).filter(|_| self.offline)
    }

    /// Notes from which registries npm takes a component's packages.
    pub fn note_registries(&self, component: &str, registries: BTreeMap<String, String>) {
        self.registries.lock().unwrap_or_else(PoisonError::into_inner).insert(component.to_owned(), registries);
    }

    /// What was noted of npm's registries, by component.
    pub fn noted_registries(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        self.registries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the run has used the archive of a registry package.
    pub fn note_package(&self, archive: &Path) {
        self.packages.lock().unwrap_or_else(PoisonError::into_inner).insert(archive.to_owned());
    }

    /// The archives of registry packages that the run has used.
    pub fn noted_packages(&self) -> BTreeSet<PathBuf> {
        self.packages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells what a failure to get dependencies means and what can be done about it.
    pub fn failed(&self, error: anyhow::Error, component: &str, step: &str) -> anyhow::Error {
        if error::kind_of(&error) == Kind::Interrupted {
            return error;
        }
        let mut text = format!("cannot get what {component}, step {step}, needs");
        if self.offline {
            text += &format!(" (--offline)\n  {}", self.way_out());
        }
        let kind = match error::kind_of(&error) {
            // A tool that fetches is a command like any other; here its failure means something else.
            Kind::Compile | Kind::Other => Kind::Fetch,
            kind => kind,
        };
        Err::<(), _>(error).kind(kind, || text).expect_err("it is one")
    }

    /// What to do when something is missing and must not be fetched.
    pub fn way_out(&self) -> String {
        let mut text = String::from(
            "It is neither in the build folder nor in a --mirror folder. Where there is internet, `cargo xtask vendor-export \
             DIR` writes a folder that has everything; give that one by --mirror DIR, or leave --offline out.",
        );
        for fault in &self.stock.faults {
            text += &format!("\n  ! {fault}");
        }
        text
    }
}
