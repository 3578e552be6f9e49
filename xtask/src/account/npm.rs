//! The npm packages of a component's pages.
//!
//! Two things are known after a build: what the lock file has installed for production (found as node finds it, from
//! folder to folder), and which files the bundler has put into the pages (named by their source maps, where it writes
//! such). Packages that the maps name are certainly there, whatever their manifests call them; for the rest of production it
//! is not known: code that was shaken out, styles, fonts and copied files are in no map. Both are listed, each with its
//! evidence.

use super::{Ecosystem, Evidence, Package, Taking};
use crate::error::{Kind, WithKind as _};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use walkdir::WalkDir;

const MODULES: &str = "node_modules";

/// Where the pages are made.
pub struct Place {
    /// The folder with the `package.json` that the step works on.
    pub root: PathBuf,
    /// The component's source: nothing above it is looked at.
    pub source: PathBuf,
    /// What is built: folders whose source maps count.
    pub built: Vec<PathBuf>,
}

/// A package's manifest, as far as it matters.
#[derive(Debug, Default, Deserialize)]
struct Manifest {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    license: Value,
    #[serde(default)]
    licenses: Value,
    // Manifests in registries are of every shape; what is no list of names is none.
    #[serde(default)]
    dependencies: Value,
    #[serde(default, rename = "optionalDependencies")]
    optional: Value,
    #[serde(default, rename = "peerDependencies")]
    peers: Value,
}

impl Manifest {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("package.json");
        let text = std::fs::read(&path).kind(Kind::Stage, || format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).kind(Kind::Stage, || format!("cannot understand {}", path.display()))
    }

    /// The licence as it is declared: an expression, one in an object, or a list of them to choose from.
    fn declared(&self) -> Option<String> {
        let word = |value: &Value| value.as_str().or_else(|| value["type"].as_str()).map(|word| word.trim().to_owned());
        let several = |value: &Value| {
            let words: Vec<String> = value.as_array()?.iter().filter_map(word).collect();
            (!words.is_empty()).then(|| words.join(" OR "))
        };
        let found = word(&self.license).or_else(|| several(&self.license)).or_else(|| several(&self.licenses));
        found.or_else(|| word(&self.licenses)).filter(|word| !word.is_empty())
    }
}

/// The names in a manifest's table.
fn names(value: &Value) -> Vec<String> {
    value.as_object().map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

/// Notes the packages of the pages that the component has as `within`.
///
/// # Errors
/// [`Kind::Stage`] when a package that the manifests name is not installed, or something cannot be read.
pub fn take(taking: &mut Taking, within: &str, place: &Place) -> anyhow::Result<()> {
    let pinned = sums(&place.root);
    let production = production(place)?;
    let mapped = mapped(place)?;
    let all: BTreeSet<&PathBuf> = production.iter().chain(&mapped).collect();
    for folder in all {
        let manifest = Manifest::read(folder)?;
        if manifest.name.is_empty() || manifest.version.is_empty() {
            // A folder inside a package that only tells how its files are to be loaded.
            continue;
        }
        let evidence = if mapped.contains(folder) { Evidence::SourceMap } else { Evidence::LockFile };
        let texts = taking.texts_in(folder, [Path::new("")].into_iter())?;
        taking.package(Package {
            ecosystem: Ecosystem::Npm,
            sum: pinned.get(&(manifest.name.clone(), manifest.version.clone())).cloned(),
            declared: manifest.declared(),
            name: manifest.name,
            version: manifest.version,
            texts,
            evidence,
            within: BTreeSet::from([within.to_owned()]),
            replaces: None,
        });
    }
    Ok(())
}

/// The folders of all packages that are installed for production.
fn production(place: &Place) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut queue = vec![place.root.clone()];
    while let Some(folder) = queue.pop() {
        if !seen.insert(folder.clone()) {
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
                         without it (Yarn's Plug'n'Play is not known here: set nodeLinker to node-modules)",
                        folder.display()
                    )));
                }
            }
        }
        // What lies in the source itself is the component, not one of its packages.
        if folder.components().any(|part| part == Component::Normal(MODULES.as_ref())) {
            found.insert(folder);
        }
    }
    Ok(found)
}

/// Where node finds a package that code in `from` asks for.
fn resolve(from: &Path, name: &str, source: &Path) -> Option<PathBuf> {
    let above = from.ancestors().take_while(|folder| folder.starts_with(source));
    let found = above.map(|folder| folder.join(MODULES).join(name)).find(|folder| folder.join("package.json").is_file())?;
    // Packages of a workspace are links to where they lie in the source.
    found.canonicalize().ok()
}

/// A source map, as far as it matters.
#[derive(Deserialize)]
struct Map {
    #[serde(default)]
    sources: Vec<Option<String>>,
}

/// The folders of the packages that source maps name.
fn mapped(place: &Place) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut maps = BTreeSet::new();
    for entry in place.built.iter().flat_map(WalkDir::new).flatten() {
        let inside = entry.path().components().any(|part| part == Component::Normal(MODULES.as_ref()));
        if entry.file_type().is_file() && entry.path().extension().is_some_and(|ending| ending == "map") && !inside {
            maps.insert(entry.into_path());
        }
    }
    let maps: Vec<PathBuf> = maps.into_iter().collect();
    let named = crate::parallel::each_on(crate::parallel::cores(), &maps, |path| {
        let text = std::fs::read(path).kind(Kind::Stage, || format!("cannot read {}", path.display()))?;
        // Not everything that is called so is a source map.
        let Ok(map) = serde_json::from_slice::<Map>(&text) else { return Ok(BTreeSet::new()) };
        let base = path.parent().unwrap_or(&place.root);
        Ok(map.sources.iter().flatten().filter_map(|source| package_of(source, base, place)).collect::<BTreeSet<_>>())
    })?;
    named.into_iter().flatten().map(|folder| Ok(folder.canonicalize().unwrap_or(folder))).collect()
}

/// The folder of the package that a map's source belongs to, if it belongs to one that is installed.
fn package_of(source: &str, base: &Path, place: &Place) -> Option<PathBuf> {
    let source = source.split(['?', '|']).next().unwrap_or(source);
    let (at, _) = source.match_indices("node_modules/").last()?;
    let rest = &source[at + MODULES.len() + 1..];
    let words = if rest.starts_with('@') { 2 } else { 1 };
    let name: Vec<&str> = rest.split('/').take(words).collect();
    let package = format!("{}{MODULES}/{}", &source[..at], name.join("/"));
    // `webpack://name/./node_modules/x`: paths count from the folder that the bundler works in, others from the map itself.
    let (package, is_url) = match package.split_once("://") {
        Some((_, rest)) => (rest.split_once('/').map_or(rest, |(_, path)| path).to_owned(), true),
        None => (package, false),
    };
    let relative = package.trim_start_matches('/');
    let inner = relative.find(&format!("{MODULES}/")).map_or(relative, |at| &relative[at..]);
    let candidates = [
        (!is_url).then(|| base.join(&package)),
        Some(place.root.join(relative)),
        Some(place.root.join(inner)),
        Some(place.source.join(inner)),
    ];
    candidates.into_iter().flatten().find(|folder| folder.join("package.json").is_file() && folder.starts_with(&place.source))
}

/// The hashes that lock files pin, by name and version.
fn sums(root: &Path) -> BTreeMap<(String, String), String> {
    let mut sums = BTreeMap::new();
    let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
    for text in ["npm-shrinkwrap.json", "package-lock.json"].into_iter().filter_map(read) {
        npm_sums(&text, &mut sums);
    }
    if let Some(text) = read("yarn.lock") {
        yarn_sums(&text, &mut sums);
    }
    sums
}

fn npm_sums(text: &str, sums: &mut BTreeMap<(String, String), String>) {
    let lock: Value = serde_json::from_str(text).unwrap_or_default();
    for (path, package) in lock["packages"].as_object().into_iter().flatten() {
        let name = package["name"].as_str().or_else(|| path.rsplit_once("node_modules/").map(|(_, name)| name));
        if let (Some(name), Some(version), Some(sum)) = (name, package["version"].as_str(), package["integrity"].as_str()) {
            sums.insert((name.to_owned(), version.to_owned()), sum.to_owned());
        }
    }
}

/// Both forms of Yarn's lock: blocks of lines, of which the first names the package, and two others its version and hash.
fn yarn_sums(text: &str, sums: &mut BTreeMap<(String, String), String>) {
    let (mut name, mut version) = (None, None);
    for line in text.lines() {
        let value = |key: &str| {
            let rest = line.strip_prefix("  ")?.strip_prefix(key)?;
            rest.strip_prefix(": ").or_else(|| rest.strip_prefix(' ')).map(|value| value.trim().trim_matches('"').to_owned())
        };
        if !line.starts_with([' ', '#']) && line.ends_with(':') {
            let first = line.trim_end_matches(':').trim_matches('"').split(',').next().unwrap_or_default().trim_matches('"');
            // `@scope/name@range`: the first character may be an @ too.
            name = first.get(1..).and_then(|rest| rest.find('@')).map(|at| first[..=at].to_owned());
            version = None;
        } else if let Some(found) = value("version") {
            version = Some(found);
        } else if let Some(sum) = value("checksum").or_else(|| value("integrity"))
            && let (Some(name), Some(version)) = (&name, &version)
        {
            sums.insert((name.clone(), version.clone()), sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Account, FOLDER};
    use std::fs;

    fn package(root: &Path, path: &str, json: &str) {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::write(root.join(path).join("package.json"), json).unwrap();
        fs::write(root.join(path).join("LICENSE"), format!("the licence of {path}")).unwrap();
    }

    fn account(root: &Path) -> anyhow::Result<Vec<(String, Evidence, Option<String>)>> {
        let root = root.canonicalize().unwrap();
        let place = Place { root: root.join("web"), source: root.clone(), built: vec![root.join("public")] };
        let mut taking = Taking::default();
        take(&mut taking, "static", &place)?;
        let tree = tempfile::tempdir().unwrap();
        taking.write(tree.path()).unwrap();
        let text = fs::read(tree.path().join(FOLDER).join("account.json")).unwrap();
        let account: Account = serde_json::from_slice(&text).unwrap();
        let short = |p: Package| (format!("{}@{} {}", p.name, p.version, p.declared.unwrap_or_default()), p.evidence, p.sum);
        Ok(account.packages.into_iter().map(short).collect())
    }

    #[test]
    fn what_is_installed_for_production_or_named_by_maps_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        package(
            root,
            "web",
            r#"{"name":"web","version":"0","dependencies":{"a":"1","@own/ui":"workspace:*"},"devDependencies":{"dev":"1","tool":"1"}}"#,
        );
        package(root, "web/packages/ui", r#"{"name":"@own/ui","version":"0","dependencies":{"@s/b":"1"}}"#);
        package(
            root,
            "web/node_modules/a",
            r#"{"name":"a","version":"1.0.0","license":"MIT","dependencies":{"c":"2"},"optionalDependencies":{"never":"1"}}"#,
        );
        package(
            root,
            "web/node_modules/a/node_modules/c",
            r#"{"name":"c","version":"2.0.0","licenses":[{"type":"MIT"},{"type":"Apache-2.0"}]}"#,
        );
        package(root, "web/node_modules/c", r#"{"name":"c","version":"1.0.0","license":"ISC"}"#);
        package(root, "web/node_modules/@s/b", r#"{"name":"@s/b","version":"3.0.0","license":{"type":"BSD-3-Clause"}}"#);
        package(root, "web/node_modules/dev", r#"{"name":"dev","version":"1.0.0","license":"MIT"}"#);
        package(root, "web/node_modules/tool", r#"{"name":"tool","version":"1.0.0","license":"GPL-3.0-only"}"#);
        fs::create_dir_all(root.join("web/node_modules/@own")).unwrap();
        std::os::unix::fs::symlink("../../packages/ui", root.join("web/node_modules/@own/ui")).unwrap();
        let lock = r#"{"packages":{"node_modules/a":{"version":"1.0.0","integrity":"sha512-a"},"node_modules/a/node_modules/c":{"version":"2.0.0","integrity":"sha512-c2"}}}"#;
        fs::write(root.join("web/package-lock.json"), lock).unwrap();
        let lock = |name: &str, evidence, sum: Option<&str>| (name.to_owned(), evidence, sum.map(str::to_owned));
        use Evidence::{LockFile, SourceMap};
        let mut wanted = vec![
            lock("@s/b@3.0.0 BSD-3-Clause", LockFile, None),
            lock("a@1.0.0 MIT", LockFile, Some("sha512-a")),
            lock("c@2.0.0 MIT OR Apache-2.0", LockFile, Some("sha512-c2")),
        ];
        assert_eq!(account(root).unwrap(), wanted);
        // A bundler's map names one of these, and one that is a tool by its manifest but is in the pages all the same.
        fs::create_dir_all(root.join("public/build")).unwrap();
        let map = r#"{"sources":["webpack://web/./node_modules/a/x.js","../../web/node_modules/dev/y.js?z",null,"webpack://web/webpack/runtime"],"sourcesContent":["x"]}"#;
        fs::write(root.join("public/build/app.js.map"), map).unwrap();
        wanted[1].1 = SourceMap;
        wanted.push(lock("dev@1.0.0 MIT", SourceMap, None));
        assert_eq!(account(root).unwrap(), wanted);
        fs::remove_dir_all(root.join("web/node_modules/@s")).unwrap();
        let error = account(root).unwrap_err().to_string();
        assert!(error.contains("@s/b") && error.contains("packages/ui"), "{error}");
    }

    #[test]
    fn hashes_are_read_from_both_forms_of_yarns_lock() {
        let mut sums = BTreeMap::new();
        let berry = "# c\n__metadata:\n  version: 6\n\n\"@babel/core@npm:^7.0.0, @babel/core@npm:^7.1.0\":\n  version: 7.20.5\n  \
                     resolution: \"@babel/core@npm:7.20.5\"\n  dependencies:\n    version: 9\n  checksum: 8/abc\n  languageName: node\n";
        yarn_sums(berry, &mut sums);
        let classic = "left-pad@^1.0.0, left-pad@1:\n  version \"1.3.0\"\n  resolved \"x\"\n  integrity sha512-xyz==\n";
        yarn_sums(classic, &mut sums);
        let key = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        let wanted =
            [(key("@babel/core", "7.20.5"), "8/abc".to_owned()), (key("left-pad", "1.3.0"), "sha512-xyz==".to_owned())];
        assert_eq!(sums, BTreeMap::from(wanted));
    }
}
