//! Puts what mirror folders hold into the tools' own caches.
//!
//! Only what is not in a cache yet is copied, and only if it is what the mirror's index says. A file that is missing or
//! damaged in the mirror is told and passed over: whether it is wanted shows when a tool asks for it.

use super::crates::Crate;
use super::index::{self, File, Index, part};
use super::place;
use crate::dirs::Dirs;
use crate::fetch::Mirror;
use crate::progress::{Ui, bytes};
use crate::stack::Stack;
use crate::stack::recipe::{Action, Recipe};
use crate::{fingerprint, unpack};
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The cache that stands for an offline mirror of Yarn 1.
pub const YARN_CLASSIC: &str = "yarn-mirror";

/// The cache of crates that came from a mirror.
const CRATES: &str = "crates";

/// What mirrors hold beyond what was put into the caches.
#[derive(Debug, Default)]
pub struct Stock {
    /// Crates.
    pub crates: Option<Crates>,
    /// By component: from which registries npm took the packages that are in the mirror.
    pub registries: BTreeMap<String, BTreeMap<String, String>>,
    /// What is wrong with the mirrors, for people.
    pub faults: Vec<String>,
}

/// Crates to be used in place of crates.io.
#[derive(Debug)]
pub struct Crates {
    /// Holds `name-version.crate` for each, and a folder `name-version` for each that was unpacked.
    pub folder: PathBuf,
    /// The name that cargo has for the registry that they were taken from.
    pub registry: String,
}

/// What became of a mirror's file.
enum Fate {
    Known,
    Taken(u64),
    Fault(String),
}

/// Fills the caches from all mirrors that are folders with an index, as far as the recipes want them, and with the parts that
/// something else wants.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for an index that cannot be used; else when a cache cannot be written.
pub fn take(
    mirrors: &[Mirror],
    stack: &Stack,
    recipes: &[&Recipe],
    also: &[&'static str],
    dirs: &Dirs,
    ui: &Ui,
) -> anyhow::Result<Stock> {
    let mut stock = Stock::default();
    let mut parts = wanted_parts(recipes);
    parts.extend(also);
    for folder in mirrors.iter().filter_map(|mirror| match mirror {
        Mirror::Folder(folder) => Some(folder),
        Mirror::Url(_) => None,
    }) {
        let Some(index) = Index::read(folder)? else { continue };
        let before = stock.faults.len();
        if !index.complete {
            stock.faults.push(format!("{} is not complete: its export did not come to its end", folder.display()));
        }
        stock.take_files(folder, &index, &parts, dirs, ui)?;
        for recipe in recipes {
            let exported = index.components.get(&index::component(stack, &recipe.name));
            let registries = exported.map(|exported| exported.npm_registries.clone()).unwrap_or_default();
            if !registries.is_empty() {
                stock.registries.entry(recipe.name.clone()).or_insert(registries);
            }
        }
        for fault in &stock.faults[before..] {
            ui.line(&format!("  ! {fault}; run vendor-export on it again, or copy it anew"));
        }
    }
    Ok(stock)
}

/// The parts of a mirror that the steps of recipes take from.
fn wanted_parts(recipes: &[&Recipe]) -> BTreeSet<&'static str> {
    let parts = |action: Action<'_>| -> &'static [&'static str] {
        match action {
            Action::Go(_) => &[part::GO],
            Action::Node(_) => &[part::NPM, part::YARN, part::YARN_CLASSIC, part::PACKAGES],
            Action::Cargo(_) => &[part::CARGO],
            // A compiler, if the recipe pins one.
            Action::Autotools(_) => &[part::PACKAGES],
            Action::Manual => &[],
        }
    };
    recipes.iter().flat_map(|recipe| &recipe.steps).flat_map(|step| parts(step.action())).copied().collect()
}

impl Stock {
    fn take_files(
        &mut self,
        folder: &Path,
        index: &Index,
        parts: &BTreeSet<&'static str>,
        dirs: &Dirs,
        ui: &Ui,
    ) -> anyhow::Result<()> {
        let split = |path: &'_ str| path.split_once('/').map(|(part, inner)| (part.to_owned(), inner.to_owned()));
        let wanted: Vec<_> = index
            .files
            .iter()
            .filter_map(|(path, file)| Some((path, file, split(path)?)))
            .filter(|(_, _, (part, _))| parts.contains(part.as_str()))
            // The registry's index is for who has nothing but cargo.
            .filter(|(_, _, (part, inner))| part != part::CARGO || inner.ends_with(".crate"))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let step = ui.step("mirror", "stock");
        step.message(&folder.display().to_string());
        let fates = place::each(&wanted, |(path, file, (part, inner))| take_file(&folder.join(path), part, inner, file, dirs))?;
        let (mut count, mut size) = (0, 0);
        for fate in fates {
            match fate {
                Fate::Known => {}
                Fate::Taken(more) => {
                    count += 1;
                    size += more;
                }
                Fate::Fault(fault) => self.faults.push(fault),
            }
        }
        if let Some(registry) = index.cargo_registry.clone().filter(|_| parts.contains(part::CARGO)) {
            self.crates.get_or_insert(Crates { folder: dirs.cache(CRATES), registry });
        }
        step.done(&format!("{count} of {} files new, {}, from {}", wanted.len(), bytes(size), folder.display()));
        Ok(())
    }
}

/// Where the tools look for a file of the mirror.
fn target(part: &str, inner: &str, dirs: &Dirs) -> PathBuf {
    let cache = match part {
        part::GO => dirs.cache("go").join("pkg/mod/cache/download"),
        part::NPM => dirs.cache("npm").join("_cacache"),
        part::YARN => dirs.cache("yarn").join("cache"),
        part::YARN_CLASSIC => dirs.cache(YARN_CLASSIC),
        part::CARGO => dirs.cache(CRATES),
        _ => dirs.packages(),
    };
    cache.join(inner)
}

fn take_file(from: &Path, part: &str, inner: &str, file: &File, dirs: &Dirs) -> anyhow::Result<Fate> {
    let to = target(part, inner, dirs);
    // What names a version or a hash has no other content; npm's index has names of addresses, whose content may change.
    let is_named_by_content = !(part == part::NPM && inner.starts_with("index"));
    if to.metadata().is_ok_and(|found| found.len() == file.size)
        && (is_named_by_content || fingerprint::hash_file(&to).is_ok_and(|found| found == file.sha256))
    {
        return Ok(Fate::Known);
    }
    taken(from, &to, file)
}

/// Copies a file of the mirror that is as its index says.
fn taken(from: &Path, to: &Path, file: &File) -> anyhow::Result<Fate> {
    if let Err(error) = std::fs::File::open(from) {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let why = if missing { "is missing".to_owned() } else { format!("cannot be read ({error})") };
        return Ok(Fate::Fault(format!("{} {why}", from.display())));
    }
    let found = place::copy(from, to, Some(file), false)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(if found == *file {
        Fate::Taken(file.size)
    } else {
        let sizes =
            if found.size == file.size { String::new() } else { format!(", {} bytes instead of {}", found.size, file.size) };
        Fate::Fault(format!("{} is damaged (sha256 {}{sizes})", from.display(), found.sha256))
    })
}

impl Crates {
    /// Unpacks crates that are there as archives only; gives the names of those that are not there at all.
    ///
    /// # Errors
    /// When one cannot be unpacked.
    pub fn unpack(&self, pinned: &[Crate]) -> anyhow::Result<Vec<String>> {
        let lacking = place::each(pinned, |krate| {
            let name = krate.folder_name();
            let target = self.folder.join(&name);
            let archive = self.folder.join(format!("{name}.crate"));
            if target.is_dir() {
                return Ok(None);
            }
            if !archive.is_file() {
                return Ok(Some(name));
            }
            let draft = tempfile::Builder::new().prefix(place::DRAFT).tempdir_in(&self.folder)?;
            let tree = draft.path().join("tree");
            unpack::unpack(&archive, &tree)?;
            // cargo compares this hash with the lock file's. That the files are still as they were is not looked at again.
            let checksum = serde_json::json!({ "files": {}, "package": fingerprint::hash_file(&archive)? });
            std::fs::write(tree.join(".cargo-checksum.json"), checksum.to_string())?;
            match std::fs::rename(&tree, &target) {
                // Another component wanted it too, and was faster.
                Err(_) if target.is_dir() => Ok(None),
                other => other.map(|()| None).with_context(|| format!("cannot make {}", target.display())),
            }
        })?;
        Ok(lacking.into_iter().flatten().collect())
    }
}
