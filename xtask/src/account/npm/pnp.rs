//! Packages that lie in the zips of Yarn's cache, or unplugged beside it: found by the table that Yarn writes for Plug'n'Play.
//!
//! The table has each package with where it lies and what it finds under which name, overrides, extensions, patches and
//! instances for peers all worked in. What is for production alone it does not have: that is in the manifests of the project's own
//! workspaces, whose `devDependencies` are left out. Peers are brought along by whoever uses a package, so they are followed
//! from there.
//!
//! Nothing of a zip is taken that is not what `yarn.lock` pins, and nothing that lies elsewhere than in the source or in
//! Yarn's own folders.

use super::content::{self, MANIFEST, Manifest, names};
use super::locator::{self, Reference};
use super::lock::{Lock, Pinned};
use super::{Found, MODULES, Place, changes, maps};
use crate::account::texts::TextStore;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{digest_of, hex};
use crate::zip::Zip;
use serde::Deserialize;
use sha2::Sha512;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The table in a script, as Yarn writes it unless it is told otherwise.
const SCRIPTS: [&str; 2] = [".pnp.cjs", ".pnp.js"];

/// The table in a file of its own (`pnpEnableInlining: false`).
const DATA: &str = ".pnp.data.json";

/// What Yarn lets a package find that has scripts to compile something, whether or not it asks for that.
const COMPILES: &str = "node-gyp";

/// No package is larger, in bytes.
const LARGEST: u64 = 1024 * 1024 * 1024;

/// The table as it is written down, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    package_registry_data: Vec<(Option<String>, References)>,
}

/// What there is of a name.
type References = Vec<(Option<String>, Information)>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Information {
    package_location: String,
    #[serde(default)]
    package_dependencies: Vec<(String, Option<Target>)>,
    #[serde(default)]
    package_peers: Vec<String>,
}

/// What a name stands for: a reference of that name, or another name with its reference.
#[derive(Deserialize)]
#[serde(untagged)]
enum Target {
    Same(String),
    Other(String, String),
}

/// Where a package lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Location {
    Folder(PathBuf),
    /// A zip, and the package's folder in it.
    Zip(PathBuf, String),
}

impl Location {
    fn of(path: &Path) -> Self {
        let text = path.to_string_lossy();
        // A folder may have such a name too.
        let inside = text.match_indices(".zip/").find(|(at, _)| !Path::new(&text[..at + 4]).is_dir());
        match inside {
            Some((at, _)) => Self::Zip(text[..at + 4].into(), text[at + 5..].trim_end_matches('/').to_owned()),
            None => Self::Folder(path.to_owned()),
        }
    }

    /// The zip, or the folder.
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Zip(path, _) => path,
        }
    }

    /// Another package's folder in the folder of this one.
    fn inner(&self, inner: &str) -> Self {
        match self {
            Self::Folder(path) => Self::Folder(path.join(inner)),
            Self::Zip(path, root) => Self::Zip(path.clone(), format!("{root}/{inner}")),
        }
    }

    fn is_there(&self) -> bool {
        match self {
            Self::Folder(path) => path.join(MANIFEST).is_file(),
            Self::Zip(path, _) => path.is_file(),
        }
    }
}

struct Entry {
    name: String,
    /// What the table says behind the name.
    reference: String,
    location: Location,
    /// By the name that it asks for: name and reference of what it gets.
    needs: Vec<(String, (String, String))>,
    peers: BTreeSet<String>,
}

impl Entry {
    fn locator(&self) -> String {
        format!("{}@{}", self.name, locator::plain(&self.reference))
    }
}

/// The table.
pub struct Table {
    /// The project's root, where the table lies.
    project: PathBuf,
    entries: Vec<Entry>,
    by_name: HashMap<(String, String), usize>,
}

/// What is wanted of a table.
#[derive(Default)]
pub struct Wanted {
    /// Each place with the entry that it belongs to, and whether source maps name it.
    packages: BTreeMap<Location, (usize, bool)>,
    /// The names of packages that should lie there and do not.
    pub lacking: Vec<String>,
}

impl Table {
    /// Reads the table of the project that the place belongs to; none where there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn near(place: &Place) -> anyhow::Result<Option<Self>> {
        let above = place.root.ancestors().take_while(|folder| folder.starts_with(&place.source));
        let scripts = above.flat_map(|folder| SCRIPTS.map(|name| folder.join(name)));
        let Some(script) = scripts.into_iter().find(|script| script.is_file()) else { return Ok(None) };
        let project = script.parent().unwrap_or(&place.source).to_owned();
        let text = std::fs::read_to_string(&script).kind(Kind::Stage, || format!("cannot read {}", script.display()))?;
        let (file, text) = match inline(&text) {
            Some(json) => (script, json),
            None => {
                let file = project.join(DATA);
                let text = std::fs::read_to_string(&file);
                (
                    file.clone(),
                    text.kind(Kind::Stage, || {
                        format!("{} holds no table of packages, and {} cannot be read", script.display(), file.display())
                    })?,
                )
            }
        };
        // What stands behind the table in a script of Yarn 2 is none of it.
        let written = serde_json::Deserializer::from_str(&text).into_iter::<Written>().next();
        let written = written
            .transpose()
            .kind(Kind::Stage, || format!("cannot understand the table of packages in {}", file.display()))?;
        Ok(written.map(|written| Self::of(project, written)))
    }

    fn of(project: PathBuf, written: Written) -> Self {
        let mut table = Self { project, entries: Vec::new(), by_name: HashMap::new() };
        for (name, references) in written.package_registry_data {
            // What has no name is the root once more.
            let Some(name) = name else { continue };
            for (reference, information) in references.into_iter().filter_map(|(reference, found)| Some((reference?, found))) {
                let needs = information.package_dependencies.into_iter().filter_map(|(asked, target)| {
                    let target = match target? {
                        Target::Same(reference) => (asked.clone(), reference),
                        Target::Other(name, reference) => (name, reference),
                    };
                    Some((asked, target))
                });
                let location = Location::of(&real(&table.project, &information.package_location));
                table.by_name.insert((name.clone(), reference.clone()), table.entries.len());
                table.entries.push(Entry {
                    name: name.clone(),
                    reference,
                    location,
                    needs: needs.collect(),
                    peers: information.package_peers.into_iter().collect(),
                });
            }
        }
        table
    }

    /// What is installed for production for the workspace that the place is about, and what source maps name.
    ///
    /// # Errors
    /// [`Kind::Stage`] when the table lacks something, or leads to places where no packages belong.
    pub fn production(&self, place: &Place, lock: &Lock) -> anyhow::Result<Wanted> {
        let mut wanted = Wanted::default();
        let mut seen = BTreeSet::new();
        let mut queue = vec![self.workspace(&place.root)?];
        while let Some(at) = queue.pop() {
            if !seen.insert(at) {
                continue;
            }
            let entry = &self.entries[at];
            let is_own = locator::read(&entry.reference).is_own;
            if !is_own && !self.is_at_hand(entry, place, lock, &mut wanted)? {
                continue;
            }
            for (asked, target) in self.needed(entry, is_own)? {
                let next = self.by_name.get(target).ok_or_else(|| {
                    let (name, reference) = target;
                    Kind::Stage.error(format!(
                        "{} needs {asked} ({name}@{reference}), which the table of packages lacks",
                        entry.locator()
                    ))
                })?;
                queue.push(*next);
            }
            if !is_own {
                wanted.packages.insert(entry.location.clone(), (at, false));
            }
        }
        self.add_mapped(place, lock, &mut wanted)?;
        Ok(wanted)
    }

    fn workspace(&self, root: &Path) -> anyhow::Result<usize> {
        let is_it = |entry: &Entry| entry.reference.starts_with("workspace:") && entry.location.path() == root;
        self.entries.iter().position(is_it).ok_or_else(|| {
            let project = self.project.display();
            Kind::Stage.error(format!(
                "{} is no workspace of the project in {project}, whose packages Yarn has installed",
                root.display()
            ))
        })
    }

    /// What of what an entry finds belongs to production.
    fn needed<'a>(&self, entry: &'a Entry, is_own: bool) -> anyhow::Result<Vec<&'a (String, (String, String))>> {
        let is_compiled = entry.needs.iter().any(|(asked, _)| asked == COMPILES);
        // A `link:` leads to a folder without a manifest.
        let has_one = !is_own || entry.location.is_there();
        let manifest = if (is_own || is_compiled) && has_one { self.manifest(entry)? } else { Manifest::default() };
        let for_production: BTreeSet<String> =
            [&manifest.dependencies, &manifest.optional].into_iter().flat_map(names).collect();
        let for_work: BTreeSet<String> = names(&manifest.development).into_iter().collect();
        let belongs = |asked: &String| {
            asked != &entry.name
                && !entry.peers.contains(asked)
                && (for_production.contains(asked) || !(for_work.contains(asked) || asked == COMPILES))
        };
        Ok(entry.needs.iter().filter(|(asked, _)| belongs(asked)).collect())
    }

    fn manifest(&self, entry: &Entry) -> anyhow::Result<Manifest> {
        match &entry.location {
            Location::Folder(folder) => Manifest::read(folder),
            Location::Zip(path, root) => read_zip(path, None, |zip| Ok(content::of_zip(zip, root)?.manifest)),
        }
    }

    /// Whether a package lies where it should; notes it where it does not, unless it is one for another platform.
    fn is_at_hand(&self, entry: &Entry, place: &Place, lock: &Lock, wanted: &mut Wanted) -> anyhow::Result<bool> {
        if entry.location.is_there() {
            let path = entry.location.path();
            let real = path.canonicalize().kind(Kind::Stage, || format!("cannot look at {}", path.display()))?;
            let allowed = std::iter::once(&place.source).chain(&place.caches);
            let is_inside =
                allowed.into_iter().any(|folder| folder.canonicalize().is_ok_and(|folder| real.starts_with(folder)));
            anyhow::ensure!(
                is_inside,
                Kind::Stage.error(format!(
                    "the table of packages in {} leads to {}, which is neither in the source nor in Yarn's cache",
                    self.project.display(),
                    path.display()
                ))
            );
            return Ok(true);
        }
        let locator = entry.locator();
        if !lock.located(&locator).is_some_and(|pinned| pinned.is_conditional) {
            wanted.lacking.push(locator);
        }
        Ok(false)
    }

    /// Adds what source maps name, packages in the folders of others included.
    fn add_mapped(&self, place: &Place, lock: &Lock, wanted: &mut Wanted) -> anyhow::Result<()> {
        let mut by_place: HashMap<String, usize> = HashMap::new();
        for (at, entry) in self.entries.iter().enumerate().filter(|(_, entry)| !locator::read(&entry.reference).is_own) {
            let text = match &entry.location {
                Location::Folder(folder) => folder.to_string_lossy().into_owned(),
                Location::Zip(path, root) => format!("{}/{root}", path.display()),
            };
            by_place.insert(last(&text), at);
        }
        for (at, inner) in maps::named(place, |source, _| package_of(source, &by_place))? {
            let entry = &self.entries[at];
            if !self.is_at_hand(entry, place, lock, wanted)? {
                continue;
            }
            let location = if inner.is_empty() { entry.location.clone() } else { entry.location.inner(&inner) };
            wanted.packages.insert(location, (at, true));
        }
        Ok(())
    }

    /// Reads what is wanted, and keeps its texts in `texts`.
    ///
    /// # Errors
    /// [`Kind::Stage`] when something is damaged, or not what the lock pins.
    pub fn packages(&self, place: &Place, lock: &Lock, wanted: &Wanted, texts: &TextStore) -> anyhow::Result<Vec<Found>> {
        let all: Vec<_> = wanted.packages.iter().collect();
        let found = crate::parallel::each_on(crate::parallel::cores(), &all, |(location, (at, is_mapped))| {
            let entry = &self.entries[*at];
            let pinned = lock.located(&entry.locator());
            let content = match location {
                Location::Folder(folder) => content::of_folder(folder)?,
                Location::Zip(path, root) => read_zip(path, pinned, |zip| content::of_zip(zip, root))?,
            };
            if **location != entry.location {
                // One that another brings along in its own archive: nothing else tells of it.
                let (name, version) = (content.manifest.name.clone(), content.manifest.version.clone());
                let is_one = !name.is_empty() && !version.is_empty();
                return is_one.then(|| Found::new(content, name, version, *is_mapped, texts)).transpose();
            }
            let Reference { origin, version, patches, .. } = locator::read(&entry.reference);
            let version = version.or_else(|| pinned.map(|pinned| pinned.version.clone())).filter(|version| !version.is_empty());
            let version = version.unwrap_or_else(|| content.manifest.version.clone());
            let mut found = Found::new(content, entry.name.clone(), version, *is_mapped, texts)?;
            found.sum = pinned.and_then(|pinned| pinned.sum.clone());
            found.origin = origin;
            found.patches = changes(place, &self.project, &patches)?;
            Ok(Some(found))
        })?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// Does something with a zip of Yarn's cache that is the one that the lock pins.
fn read_zip<T>(path: &Path, pinned: Option<&Pinned>, work: impl FnOnce(&Zip<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let read = || -> anyhow::Result<T> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        anyhow::ensure!(size <= LARGEST, "it has {size} bytes");
        // `10c0/<hash>`: before the hash stands how the cache is packed.
        let sum = pinned.and_then(|pinned| pinned.sum.as_deref()).map(|sum| sum.rsplit('/').next().unwrap_or(sum));
        if let Some(sum) = sum.filter(|sum| sum.len() == 128) {
            let found = hex(&digest_of::<Sha512>(&file)?);
            anyhow::ensure!(found == sum, "it is not the one that yarn.lock pins (checksum {sum}), but has {found}");
        }
        work(&Zip::of_file(file)?)
    };
    read().kind(Kind::Stage, || format!("cannot use {} of Yarn's cache", path.display()))
}

/// The table in a script: a literal of Yarn's, the text of one, or one to be parsed.
fn inline(script: &str) -> Option<String> {
    if let Some((_, rest)) = script.split_once("hydrateRuntimeState({") {
        return Some(format!("{{{rest}"));
    }
    let quoted = script.split_once("hydrateRuntimeState(JSON.parse('").or_else(|| {
        let (_, rest) = script.split_once("RAW_RUNTIME_STATE =")?;
        Some(("", rest.trim_start().strip_prefix('\'')?))
    });
    let mut json = String::new();
    let mut characters = quoted?.1.chars();
    loop {
        match characters.next()? {
            '\'' => return Some(json),
            '\\' => match characters.next()? {
                '\n' => {}
                other => json.push(other),
            },
            other => json.push(other),
        }
    }
}

/// Where a path of the table leads, by its words alone. An instance of a package for other peers has a path of its own, which
/// leads to where the package really is: `.yarn/__virtual__/<instance>/1/x` to `x` above `.yarn`.
fn real(project: &Path, path: &str) -> PathBuf {
    let mut parts: Vec<&str> = Vec::new();
    let joined = project.join(path);
    let text = joined.to_string_lossy();
    let mut words = text.split('/').filter(|word| !word.is_empty() && *word != ".");
    while let Some(word) = words.next() {
        match word {
            ".." => drop(parts.pop()),
            "__virtual__" | "$$virtual" => {
                let up = words.nth(1).and_then(|depth| depth.parse().ok()).unwrap_or(0);
                parts.truncate(parts.len().saturating_sub(up));
            }
            word => parts.push(word),
        }
    }
    Path::new("/").join(parts.join("/"))
}

/// The part of a package's place that no other has: `<zip or unplugged folder>/node_modules/<name>`.
fn last(place: &str) -> String {
    let at = place.rfind(&format!("/{MODULES}/")).unwrap_or_default();
    let before = place[..at].rfind('/').map_or(0, |slash| slash + 1);
    place[before..].trim_end_matches('/').to_owned()
}

/// The package that a map's source belongs to, and the folder in it of another that it brings along.
fn package_of(source: &str, by_place: &HashMap<String, usize>) -> Option<(usize, String)> {
    let (path, _) = maps::path_of(source);
    let parts: Vec<&str> = path.split('/').collect();
    let words = |at: usize| if parts.get(at + 1).is_some_and(|name| name.starts_with('@')) { 2 } else { 1 };
    for at in (1..parts.len()).filter(|at| parts[*at] == MODULES) {
        let end = (at + 1 + words(at)).min(parts.len());
        let Some(found) = by_place.get(&parts[at - 1..end].join("/")) else { continue };
        let nested = (end..parts.len()).rev().find(|at| parts[*at] == MODULES);
        let inner = nested.map(|at| parts[end..(at + 1 + words(at)).min(parts.len())].join("/"));
        return Some((*found, inner.unwrap_or_default()));
    }
    None
}

#[cfg(test)]
mod tests;
