//! The Go modules in a built program, with the licence texts that count for the folders whose code is in it.

use super::{Ecosystem, Evidence, Package, Taking, program};
use crate::error::{Kind, WithKind as _};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where Go modules lie.
pub struct Place {
    /// The folder `vendor` of a source that brings its modules along.
    pub vendor: Option<PathBuf>,
    /// GOMODCACHE.
    pub cache: PathBuf,
    /// The folder that a replacement's relative path counts from.
    pub source: PathBuf,
    /// Where Go's own licence may lie.
    pub roots: Vec<PathBuf>,
}

/// Notes what is in the program at `path`, which the component has as `within`. Gives the modules whose folders are not
/// there; if there are any, nothing was noted that would have to be taken back.
///
/// # Errors
/// [`Kind::Stage`] when the program cannot be read, or is none of Go's.
pub fn take(taking: &mut Taking, path: &Path, within: &str, place: &Place) -> anyhow::Result<Vec<String>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = std::fs::File::open(path).kind(Kind::Stage, cannot)?;
    let program = program::read(&mut file).kind(Kind::Stage, cannot)?.ok_or_else(|| {
        Kind::Stage.error(format!("{} does not say which Go modules are in it; was it linked by another tool?", path.display()))
    })?;
    let compiled = program::folders(&mut file, &program).kind(Kind::Stage, cannot)?;
    let within = BTreeSet::from([within.to_owned()]);
    let mut lacking = Vec::new();
    for module in &program.modules {
        let actual = module.actual();
        let root = folder(module, place);
        if !root.is_dir() {
            lacking.push(format!("{}@{}", actual.path, actual.version));
            continue;
        }
        let folders = compiled.get(&module.path).cloned().unwrap_or_default();
        let folders: BTreeSet<&Path> = folders.iter().flat_map(|folder| folder.ancestors()).chain([Path::new("")]).collect();
        let texts = taking.texts_in(&root, folders.into_iter())?;
        let is_local = actual.version.is_empty();
        taking.package(Package {
            ecosystem: Ecosystem::Golang,
            name: if is_local { module.path.clone() } else { actual.path.clone() },
            version: if is_local { module.version.clone() } else { actual.version.clone() },
            sum: actual.sum.clone(),
            declared: None,
            texts,
            evidence: Evidence::BuildInformation,
            within: within.clone(),
            replaces: module.replacement.is_some().then(|| format!("{}@{}", module.path, module.version)),
            origin: None,
            patches: BTreeSet::new(),
        });
    }
    let root = place.roots.iter().find(|root| root.join("LICENSE").is_file());
    let texts = match root {
        Some(root) => taking.texts_in(root, [Path::new("")].into_iter())?,
        None => Vec::new(),
    };
    taking.package(Package {
        ecosystem: Ecosystem::Golang,
        name: "stdlib".to_owned(),
        version: program.go,
        sum: None,
        declared: Some("BSD-3-Clause".to_owned()),
        texts,
        evidence: Evidence::Compiler,
        within,
        replaces: None,
        origin: None,
        patches: BTreeSet::new(),
    });
    Ok(lacking)
}

/// Where a module lies.
fn folder(module: &program::Module, place: &Place) -> PathBuf {
    let actual = module.actual();
    match &place.vendor {
        // Vendored modules lie under the path by which code imports them.
        Some(vendor) => vendor.join(&module.path),
        None if actual.version.is_empty() => place.source.join(&actual.path),
        None => place.cache.join(format!("{}@{}", escape(&actual.path), escape(&actual.version))),
    }
}

/// A path as the module cache spells it, which has to do on file systems that do not tell `A` from `a`.
fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Account, FOLDER};
    use std::fs;

    #[test]
    fn modules_are_looked_up_where_they_lie_and_only_licences_that_count_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let file = |path: &str, content: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), content).unwrap();
        };
        file("mod/github.com/!burnt/toml@v1.0.0/LICENSE", "root");
        file("mod/github.com/!burnt/toml@v1.0.0/used/LICENSE.txt", "used");
        file("mod/github.com/!burnt/toml@v1.0.0/unused/COPYING", "unused");
        file("go/LICENSE", "go's own");
        let list = "path\tmain\ndep\tgithub.com/Burnt/toml\tv1.0.0\th1:x=\ndep\texample.org/gone\tv2.0.0\n";
        file("program", "");
        fs::write(
            root.join("program"),
            program::tests::binary("go1.26.8", list, &["github.com/Burnt/toml@v1.0.0/used/deeper/x.go"]),
        )
        .unwrap();
        let place = Place { vendor: None, cache: root.join("mod"), source: root.to_owned(), roots: vec![root.join("go")] };
        let mut taking = Taking::below(&root.join("tree")).unwrap();
        let lacking = take(&mut taking, &root.join("program"), "bin/program", &place).unwrap();
        assert_eq!(lacking, ["example.org/gone@v2.0.0"]);
        taking.write().unwrap();
        let text = fs::read(root.join("tree").join(FOLDER).join("account.json")).unwrap();
        let account: Account = serde_json::from_slice(&text).unwrap();
        let names: Vec<_> = account.packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["github.com/Burnt/toml", "stdlib"]);
        let texts: Vec<_> = account.packages[0].texts.iter().map(|text| text.name.as_str()).collect();
        assert_eq!(texts, ["LICENSE", "used/LICENSE.txt"]);
        assert_eq!(account.packages[1].texts.len(), 1);
    }
}
