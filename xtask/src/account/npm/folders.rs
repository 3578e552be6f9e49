//! Packages that lie in `node_modules`, as npm and Yarn put them there.

use super::content::{self, Manifest, names};
use super::lock::{self, Lock, Pinned};
use super::{Found, MODULES, Place, changes, locator, maps};
use crate::account::texts::TextStore;
use crate::error::Kind;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// What is installed for production, and what source maps name; its texts are kept in `texts`.
///
/// # Errors
/// [`Kind::Stage`] when a package that the manifests name is not installed, or something cannot be read.
pub fn packages(place: &Place, lock: &Lock, texts: &TextStore) -> anyhow::Result<Vec<Found>> {
    let mapped = maps::named(place, |source, base| package_of(source, base, place))?;
    let mapped: BTreeSet<PathBuf> = mapped.into_iter().map(|folder| folder.canonicalize().unwrap_or(folder)).collect();
    let all: Vec<PathBuf> = production(place)?.union(&mapped).cloned().collect();
    let above = place.root.ancestors().take_while(|folder| folder.starts_with(&place.source));
    let states: Vec<_> = above.map(|folder| (folder, lock::installed(&folder.join(MODULES)))).collect();
    let found = crate::parallel::each_on(crate::parallel::cores(), &all, |folder| {
        let content = content::of_folder(folder)?;
        let (name, version) = (content.manifest.name.clone(), content.manifest.version.clone());
        if name.is_empty() || version.is_empty() {
            // A folder inside a package that only tells how its files are to be loaded.
            return Ok(None);
        }
        let mut found = Found::new(content, name, version, mapped.contains(folder), texts)?;
        let locator = states.iter().find_map(|(project, state)| Some((project, state.get(folder)?)));
        let pinned = locator.and_then(|(_, locator)| lock.located(locator));
        let pinned = pinned.or_else(|| lock.named(&found.name, &found.version)).cloned();
        Pinned { sum: found.sum, origin: found.origin, .. } = pinned.unwrap_or_default();
        if let Some((project, (_, reference))) =
            locator.and_then(|(project, locator)| Some((project, locator::split(locator)?)))
        {
            found.patches = changes(place, project, &locator::read(reference).patches)?;
        }
        Ok(Some(found))
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// The folders of all packages that are installed for production.
fn production(place: &Place) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut queue = vec![place.root.clone()];
    while let Some(folder) = queue.pop() {
        let is_linked = folder != place.root && !is_installed(&folder) && !folder.join(content::MANIFEST).is_file();
        if !seen.insert(folder.clone()) || is_linked {
            continue;
        }
        let manifest = Manifest::read(&folder)?;
        let optional: BTreeSet<String> = names(&manifest.optional).into_iter().chain(names(&manifest.peers)).collect();
        let needed = names(&manifest.dependencies);
        for name in needed.iter().chain(&optional) {
            match resolve(&folder, name, &place.source) {
                Some(next) => queue.push(next),
                None if optional.contains(name) => {}
                None => {
                    return Err(Kind::Stage.error(format!(
                        "{} needs the npm package {name}, which is not installed in {MODULES}; the bill of materials cannot do \
                         without it",
                        folder.display()
                    )));
                }
            }
        }
        // What lies in the source itself is the component, not one of its packages.
        if is_installed(&folder) {
            found.insert(folder);
        }
    }
    Ok(found)
}

fn is_installed(folder: &Path) -> bool {
    folder.components().any(|part| part == Component::Normal(MODULES.as_ref()))
}

/// Where node finds a package that code in `from` asks for.
fn resolve(from: &Path, name: &str, source: &Path) -> Option<PathBuf> {
    let above = from.ancestors().take_while(|folder| folder.starts_with(source));
    // Packages of a workspace are links to where they lie in the source; a folder of the source can be linked without being one.
    let is_one = |folder: &PathBuf| folder.join(content::MANIFEST).is_file() || folder.is_symlink() && folder.is_dir();
    let found = above.map(|folder| folder.join(MODULES).join(name)).find(is_one)?;
    found.canonicalize().ok()
}

/// The folder of the package that a map's source belongs to, if it belongs to one that is installed.
fn package_of(source: &str, base: &Path, place: &Place) -> Option<PathBuf> {
    let (at, _) = source.match_indices("node_modules/").last()?;
    let rest = &source[at + MODULES.len() + 1..];
    let words = if rest.starts_with('@') { 2 } else { 1 };
    let name: Vec<&str> = rest.split('/').take(words).collect();
    let package = format!("{}{MODULES}/{}", &source[..at], name.join("/"));
    let (package, is_url) = maps::path_of(&package);
    let relative = package.trim_start_matches('/');
    let inner = relative.find(&format!("{MODULES}/")).map_or(relative, |at| &relative[at..]);
    let candidates = [
        (!is_url).then(|| base.join(package)),
        Some(place.root.join(relative)),
        Some(place.root.join(inner)),
        Some(place.source.join(inner)),
    ];
    candidates
        .into_iter()
        .flatten()
        .find(|folder| folder.join(content::MANIFEST).is_file() && folder.starts_with(&place.source))
}
