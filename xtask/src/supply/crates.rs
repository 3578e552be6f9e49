//! Crates as cargo keeps them: what a `Cargo.lock` pins, where cargo has put the archives, and a registry in a folder.
//!
//! cargo takes such a folder (`<name>-<version>.crate` beside `index/`) in place of crates.io, so that it serves even to
//! compile this very program on a machine without internet.

use crate::error::{Kind, WithKind as _};
use anyhow::Context as _;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How lock files call crates.io.
const CRATES_IO: [&str; 2] = ["registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/"];

/// What tells cargo to take crates from the mirror: a file of the mirror to be given as `cargo --config FILE`, in which
/// paths count from the folder above it.
pub const CONFIG: &str = "\
# `cargo --config DIR/cargo/config.toml xtask …` compiles the builder itself without internet.
[source.crates-io]
replace-with = \"dkumonitor-mirror\"

[source.dkumonitor-mirror]
local-registry = \"cargo\"
";

/// A pinned crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its archive.
    pub checksum: String,
}

impl Crate {
    /// `name-version`, as cargo names the folder that it unpacks to.
    pub fn folder_name(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Where an index keeps its lines on the crate.
    fn index_path(&self) -> String {
        let name = self.name.to_lowercase();
        match name.len() {
            1 => format!("1/{name}"),
            2 => format!("2/{name}"),
            3 => format!("3/{}/{name}", &name[..1]),
            _ => format!("{}/{}/{name}", &name[..2], &name[2..4]),
        }
    }
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
}

/// The crates of a `Cargo.lock` that come from crates.io.
///
/// # Errors
/// [`Kind::Compile`] when it cannot be read; [`Kind::Usage`] naming a crate that comes from elsewhere.
pub fn pinned(lock: &Path) -> anyhow::Result<Vec<Crate>> {
    let text = std::fs::read_to_string(lock).kind(Kind::Compile, || format!("cannot read {}", lock.display()))?;
    let parsed: Lock = toml::from_str(&text).kind(Kind::Compile, || format!("cannot use {}", lock.display()))?;
    let mut crates = Vec::new();
    for Package { name, version, source, checksum } in parsed.package {
        let Some(source) = source else { continue };
        match checksum.filter(|_| CRATES_IO.contains(&source.as_str())) {
            Some(checksum) => crates.push(Crate { name, version, checksum }),
            None => {
                return Err(Kind::Usage.error(format!(
                    "{} takes {name} {version} from {source}, but a mirror can hold crates of crates.io only; put that \
                     crate into the source itself (cargo vendor)",
                    lock.display()
                )));
            }
        }
    }
    crates.sort();
    Ok(crates)
}

/// The `Cargo.lock` that counts in `dir`: the nearest one, up to the source's root.
pub fn lock_file(dir: &Path, root: &Path) -> PathBuf {
    let above = dir.ancestors().take_while(|folder| folder.starts_with(root));
    above.map(|folder| folder.join("Cargo.lock")).find(|path| path.is_file()).unwrap_or_else(|| root.join("Cargo.lock"))
}

/// A pinned crate as cargo has it after a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// Its archive.
    pub archive: PathBuf,
    /// The name that cargo has for the registry it came from.
    pub registry: String,
    /// Where an index keeps its lines on the crate.
    pub index_path: String,
    /// The index's line on this version.
    pub index_line: String,
}

/// Finds a crate in cargo's own folder.
///
/// # Errors
/// [`Kind::Fetch`] when cargo has not got it.
pub fn find(krate: &Crate, cargo_home: &Path) -> anyhow::Result<Fetched> {
    let registries = || -> anyhow::Result<Vec<PathBuf>> {
        let folder = cargo_home.join("registry/cache");
        let mut all = Vec::new();
        for entry in folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))? {
            all.push(entry?.path());
        }
        all.sort();
        Ok(all)
    };
    let file = format!("{}.crate", krate.folder_name());
    let registries = registries().kind(Kind::Fetch, || "cannot find what cargo has fetched".to_owned())?;
    for cache in registries {
        let archive = cache.join(&file);
        let Some(registry) = cache.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let index_path = krate.index_path();
        let lines = cargo_home.join("registry/index").join(&registry).join(".cache").join(&index_path);
        if let (true, Some(index_line)) = (archive.is_file(), index_line(krate, &lines)) {
            return Ok(Fetched { archive, registry, index_path, index_line });
        }
    }
    let text = format!("cargo has fetched {file}, but it is not below {}/registry", cargo_home.display());
    Err(Kind::Fetch.error(text))
}

/// A line of an index, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    vers: String,
    cksum: String,
}

/// What cargo keeps of an index is the index's own lines, one for each version, with zero bytes between.
fn index_line(krate: &Crate, cached: &Path) -> Option<String> {
    let bytes = std::fs::read(cached).ok()?;
    let fits = |text: &&str| {
        let line = serde_json::from_str::<Line>(text);
        line.is_ok_and(|line| line.vers == krate.version && line.cksum == krate.checksum)
    };
    bytes.split(|byte| *byte == 0).filter_map(|part| std::str::from_utf8(part).ok()).find(fits).map(str::to_owned)
}

/// The text of an index file with these lines in it: those of other versions that were there stay.
pub fn merge_lines(old: &str, new: &[String]) -> String {
    let version = |line: &str| serde_json::from_str::<Line>(line).map(|line| line.vers).unwrap_or_default();
    let mut all: BTreeMap<String, &str> =
        old.lines().filter(|line| !line.is_empty()).map(|line| (version(line), line)).collect();
    all.extend(new.iter().map(|line| (version(line), line.as_str())));
    all.into_values().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn krate(name: &str) -> Crate {
        Crate { name: name.to_owned(), version: "1.0.0".to_owned(), checksum: "ab".to_owned() }
    }

    #[test]
    fn an_index_is_laid_out_as_cargo_expects_it() {
        for (name, path) in [("a", "1/a"), ("cc", "2/cc"), ("syn", "3/s/syn"), ("Serde", "se/rd/serde")] {
            assert_eq!(krate(name).index_path(), path);
        }
    }

    #[test]
    fn a_version_is_found_among_what_cargo_keeps_only_if_the_hash_is_the_pinned_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cached");
        let line = |vers: &str, cksum: &str| format!(r#"{{"name":"x","vers":"{vers}","cksum":"{cksum}"}}"#);
        std::fs::write(&path, format!("\u{3}\0etag\0{}\0{}\0", line("0.9.0", "ab"), line("1.0.0", "ab"))).unwrap();
        assert_eq!(index_line(&krate("x"), &path), Some(line("1.0.0", "ab")));
        assert_eq!(index_line(&Crate { checksum: "cd".to_owned(), ..krate("x") }, &path), None);
        let merged = merge_lines(&format!("{}\n", line("0.9.0", "ab")), &[line("1.0.0", "ab")]);
        assert_eq!(merged, format!("{}\n{}\n", line("0.9.0", "ab"), line("1.0.0", "ab")));
        assert_eq!(merge_lines(&merged, &[line("1.0.0", "ab")]), merged);
    }

    #[test]
    fn a_crate_from_elsewhere_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("Cargo.lock");
        std::fs::write(&lock, "[[package]]\nname = \"own\"\nversion = \"1.0.0\"\n[[package]]\nname = \"odd\"\nversion = \"2.0.0\"\nsource = \"git+https://x/y#z\"\n").unwrap();
        let error = pinned(&lock).unwrap_err().to_string();
        assert!(error.contains("odd 2.0.0") && error.contains("cargo vendor"), "{error}");
    }
}
