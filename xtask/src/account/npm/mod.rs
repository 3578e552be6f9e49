//! The npm packages of a component's pages.
//!
//! Two things are known after a build: what the lock file has installed for production, and which files the bundler has put
//! into the pages (named by their source maps, where it writes such). Packages that the maps name are certainly there, whatever their
//! manifests call them; for the rest of production it is not known: code that was shaken out, styles, fonts and copied files are in no
//! map. Both are listed, each with its evidence.
//!
//! Where packages lie is seen from what is there: in `node_modules`, found as node finds them from folder to folder, or in the
//! zips of Yarn's cache, found by the table of Plug'n'Play.

mod content;
mod folders;
mod locator;
mod lock;
mod maps;
mod pnp;

use super::texts::{self, TextStore};
use super::{Ecosystem, Evidence, Origin, Package, Patch, Taking, Text};
use crate::error::Kind;
use content::Content;
use locator::Change;
use lock::Lock;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Part of what a component's final result depends on: raised whenever packages are looked for in another way.
pub const VERSION: &str = "2";

const MODULES: &str = "node_modules";

/// Where the pages are made.
pub struct Place {
    /// The folder with the `package.json` that the step works on.
    pub root: PathBuf,
    /// The component's source: nothing above it is looked at.
    pub source: PathBuf,
    /// What is built: folders whose source maps count.
    pub built: Vec<PathBuf>,
    /// Where Yarn may have packages besides the source.
    pub caches: Vec<PathBuf>,
}

/// A package that was found.
struct Found {
    name: String,
    version: String,
    sum: Option<String>,
    origin: Option<Origin>,
    patches: BTreeSet<Patch>,
    declared: Option<String>,
    texts: Vec<Text>,
    is_mapped: bool,
}

impl Found {
    /// Keeps of a content what an account has of it: its texts in `texts`, and of its manifest only the licence.
    fn new(content: Content, name: String, version: String, is_mapped: bool, texts: &TextStore) -> anyhow::Result<Self> {
        let declared = content.manifest.declared();
        let texts = content.texts.into_iter().map(|(name, text)| texts.keep(name, &text)).collect::<anyhow::Result<_>>()?;
        Ok(Self { name, version, sum: None, origin: None, patches: BTreeSet::new(), declared, texts, is_mapped })
    }
}

/// Notes the packages of the pages that the component has as `within`; gives the names of those that are not at hand.
///
/// # Errors
/// [`Kind::Stage`] when a package that the manifests name is not installed, or something cannot be read or is damaged.
pub fn take(taking: &mut Taking, within: &str, place: &Place) -> anyhow::Result<Vec<String>> {
    let lock = Lock::near(&place.root, &place.source);
    let found = match pnp::Table::near(place)? {
        Some(table) => {
            let production = table.production(place, &lock)?;
            if !production.lacking.is_empty() {
                return Ok(production.lacking);
            }
            table.packages(place, &lock, &production, taking.texts())?
        }
        None => folders::packages(place, &lock, taking.texts())?,
    };
    for one in found {
        taking.package(Package {
            ecosystem: Ecosystem::Npm,
            sum: one.sum,
            declared: one.declared,
            name: one.name,
            version: one.version,
            texts: one.texts,
            evidence: if one.is_mapped { Evidence::SourceMap } else { Evidence::LockFile },
            within: BTreeSet::from([within.to_owned()]),
            replaces: None,
            origin: one.origin,
            patches: one.patches,
        });
    }
    Ok(Vec::new())
}

/// The texts of patches, of which those in the source are below `project`.
fn changes(place: &Place, project: &Path, changes: &[Change]) -> anyhow::Result<BTreeSet<Patch>> {
    let read = |change: &Change| -> anyhow::Result<Patch> {
        let path = match change {
            Change::Builtin(name) => return Ok(Patch { name: format!("Yarn's own {name}"), text: None }),
            Change::Elsewhere(name) => return Ok(Patch { name: name.clone(), text: None }),
            Change::Project(path) => project.join(path),
            Change::Workspace { workspace, path } => project.join(workspace).join(path),
        };
        let real = path.canonicalize().ok().filter(|real| real.starts_with(&place.source) && real.is_file());
        let real = real
            .ok_or_else(|| Kind::Stage.error(format!("the patch {} of an npm package is not in the source", path.display())))?;
        let text = String::from_utf8_lossy(&texts::read(&real)?).into_owned();
        let name = real.strip_prefix(&place.source).unwrap_or(&real).to_string_lossy().into_owned();
        Ok(Patch { name, text: Some(text) })
    };
    changes.iter().map(read).collect()
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
        let place =
            Place { root: root.join("web"), source: root.clone(), built: vec![root.join("public")], caches: Vec::new() };
        let tree = tempfile::tempdir().unwrap();
        let mut taking = Taking::below(tree.path()).unwrap();
        assert!(take(&mut taking, "static", &place)?.is_empty());
        taking.write().unwrap();
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
}
