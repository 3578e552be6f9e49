//! What a component is made of besides its own source: Go modules, npm packages, crates, and the shared libraries that it
//! expects of the machine; with the texts of their licences.
//!
//! An account is taken when a component is collected ([`crate::build`]), while its work folder, module cache and
//! `node_modules` are at hand, and is kept in the store as a part of its result, below [`FOLDER`]. The bundle's bill of
//! materials, notices and provenance ([`crate::report`]) are made from accounts and the lock alone, whether what they tell of was built
//! now or long ago.
//!
//! Promises: what is listed was seen where it counts. Go modules are read from the built programs, down to the folders
//! whose code is in them; npm packages from the built pages' source maps, and where there are none from what the lock file has
//! installed for production; crates from what cargo resolves for the program. An account of the same inputs has the same bytes.
//!
//! Left to others: whether a licence may be shipped ([`crate::report::policy`]).

pub mod crates;
pub mod go;
pub mod kept;
pub mod npm;
pub mod program;
pub mod texts;

use crate::error::{Kind, WithKind as _};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use texts::TextStore;

/// The folder of a component's result that holds its account and no part of the bundle.
pub const FOLDER: &str = ".account";

/// The account itself, below [`FOLDER`].
const FILE: &str = "account.json";

/// The texts, below [`FOLDER`], each by its hash.
const TEXTS: &str = "texts";

/// Part of what a component's final result depends on: raised whenever accounts are taken in another way.
pub const VERSION: &str = "3";

/// The account of one component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What went into it, sorted.
    pub packages: Vec<Package>,
    /// The shared libraries that its files name and that are not its own, each with the files that need it.
    pub libraries: BTreeMap<String, BTreeSet<String>>,
    /// The oldest glibc that has all that its programs and libraries use; none where they use none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glibc: Option<String>,
    /// The licence files of its own source that `vendor.lock` names.
    pub own: Vec<Text>,
    /// What was seen in the texts, by their hash: SPDX identifiers.
    pub seen: BTreeMap<String, BTreeSet<String>>,
}

/// Where a package comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ecosystem {
    /// Go modules, and Go's own library.
    Golang,
    /// npm packages.
    Npm,
    /// Crates.
    Cargo,
    /// What no registry has: Rust's own library.
    Generic,
}

impl Ecosystem {
    /// The type in a package URL.
    pub fn purl_type(self) -> &'static str {
        match self {
            Self::Golang => "golang",
            Self::Npm => "npm",
            Self::Cargo => "cargo",
            Self::Generic => "generic",
        }
    }
}

/// How it is known that a package is part of the component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// The built program says so.
    BuildInformation,
    /// A source map of the built pages names its files.
    SourceMap,
    /// The lock file has it installed for production; whether its code is in the pages is not known.
    LockFile,
    /// cargo resolves it for the program.
    CargoTree,
    /// The compiler puts it into every program.
    Compiler,
}

impl Evidence {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::BuildInformation => "read from the program",
            Self::SourceMap => "named by the pages' source maps",
            Self::LockFile => "installed for production by the lock file",
            Self::CargoTree => "resolved by cargo",
            Self::Compiler => "part of every program of the compiler",
        }
    }
}

/// A package that went into a component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Where it comes from.
    pub ecosystem: Ecosystem,
    /// Its name there.
    pub name: String,
    /// Its version, as its ecosystem writes it.
    pub version: String,
    /// The hash that the lock file pins, in the ecosystem's own form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<String>,
    /// The licence that its own manifest declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<String>,
    /// Its licence and notice files.
    pub texts: Vec<Text>,
    /// How it is known to be there.
    pub evidence: Evidence,
    /// The files or folders of the component that hold it.
    pub within: BTreeSet<String>,
    /// The module that was meant, where another one stands in for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Where it was taken from, if not from its ecosystem's registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// How it was changed when it was installed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub patches: BTreeSet<Patch>,
}

impl Package {
    /// Its package URL.
    pub fn purl(&self) -> String {
        let qualifier = self.origin.as_ref().and_then(Origin::qualifier).map(|text| format!("?{text}")).unwrap_or_default();
        purl(self.ecosystem.purl_type(), &self.name, &self.version) + &qualifier
    }
}

/// Where a package was taken from that no registry gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A commit of a repository.
    Git {
        /// The repository's address, without secrets.
        url: String,
        /// The commit.
        commit: String,
    },
    /// An archive at an address, without secrets.
    Download(String),
    /// The component's own source, in the package manager's words.
    Source(String),
}

impl Origin {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Git { url, commit } => format!("commit {commit} of {url}"),
            Self::Download(url) => url.clone(),
            Self::Source(what) => format!("{what} in the component's own source"),
        }
    }

    /// What tells it from the package of the same name in the registry, in a package URL.
    fn qualifier(&self) -> Option<String> {
        match self {
            Self::Git { url, commit } => {
                let git = if url.starts_with("git") { "" } else { "git+" };
                Some(format!("vcs_url={}", escape(&format!("{git}{url}@{commit}"), b"-._~:/")))
            }
            Self::Download(url) => Some(format!("download_url={}", escape(url, b"-._~:/"))),
            Self::Source(_) => None,
        }
    }
}

/// A change to a package that its registry does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Patch {
    /// Its path in the component's source, or what the package manager calls it.
    pub name: String,
    /// Its text; none where the package manager brings it along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A licence or notice file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Text {
    /// Its path in the package.
    pub name: String,
    /// Of its content.
    pub sha256: String,
}

/// A package URL. A name's slashes divide namespace and name; everything that the form wants escaped is.
pub fn purl(kind: &str, name: &str, version: &str) -> String {
    let escape = |part| escape(part, b"-._~:");
    let name: Vec<String> = name.split('/').map(escape).collect();
    let version = if version.is_empty() { String::new() } else { format!("@{}", escape(version)) };
    format!("pkg:{kind}/{}{version}", name.join("/"))
}

/// What people may call a package by its URL: the whole, that without where it was taken from, and that without its version.
pub fn names_of(purl: &str) -> [&str; 3] {
    let plain = purl.split('?').next().unwrap_or(purl);
    [purl, plain, plain.rsplit_once('@').map_or(plain, |(bare, _)| bare)]
}

/// Everything escaped but letters, digits and what is `plain` besides.
fn escape(text: &str, plain: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || plain.contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What was escaped in a package URL, or in one of the names that Yarn puts into others.
pub fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        let hex = (byte == b'%').then(|| more.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &more[2..];
            }
            None => {
                bytes.push(byte);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An account while it is taken. Texts are written as they are noted: those of thousands of packages are many megabytes.
pub struct Taking {
    folder: PathBuf,
    account: Account,
    packages: BTreeMap<(Ecosystem, String, String, Option<Origin>), Package>,
    texts: TextStore,
}

impl Taking {
    /// Begins an account below a tree that has none, see [`FOLDER`].
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn below(tree: &Path) -> anyhow::Result<Self> {
        let folder = tree.join(FOLDER);
        let texts = TextStore::below(folder.join(TEXTS))?;
        Ok(Self { folder, account: Account::default(), packages: BTreeMap::new(), texts })
    }

    /// Where the account's texts are kept.
    pub fn texts(&self) -> &TextStore {
        &self.texts
    }

    /// Notes a package; one that is known already is only added to.
    pub fn package(&mut self, package: Package) {
        let key = (package.ecosystem, package.name.clone(), package.version.clone(), package.origin.clone());
        let known = self.packages.entry(key).or_insert_with(|| package.clone());
        known.evidence = known.evidence.min(package.evidence);
        known.within.extend(package.within);
        known.patches.extend(package.patches);
        known.texts.extend(package.texts);
        known.texts.sort();
        known.texts.dedup();
    }

    /// Notes the licence and notice files in these folders of a package, by their paths relative to `root`.
    ///
    /// # Errors
    /// When one that is there cannot be read.
    pub fn texts_in<'a>(&self, root: &Path, folders: impl Iterator<Item = &'a Path>) -> anyhow::Result<Vec<Text>> {
        let mut found = Vec::new();
        for folder in folders {
            for file in texts::in_top(&root.join(folder)).unwrap_or_default() {
                let inner = folder.join(file);
                let content = texts::read(&root.join(&inner))?;
                found.push(self.texts.keep(inner.to_string_lossy().into_owned(), &content)?);
            }
        }
        Ok(found)
    }

    /// Notes a licence file of the component's own source.
    pub fn own(&mut self, text: Text) {
        self.account.own.push(text);
    }

    /// Notes that a file of the component needs a shared library.
    pub fn library(&mut self, name: &str, needed_by: &Path) {
        let files = self.account.libraries.entry(name.to_owned()).or_default();
        files.insert(needed_by.to_string_lossy().into_owned());
    }

    /// Notes the oldest glibc that will do.
    pub fn glibc(&mut self, version: String) {
        self.account.glibc = Some(version);
    }

    /// Ends the account: sees what licences the texts hold, and writes all the rest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(mut self) -> anyhow::Result<()> {
        self.account.seen = self.texts.licences()?;
        self.account.packages = self.packages.into_values().collect();
        let write = || -> anyhow::Result<()> {
            let mut file = BufWriter::new(File::create(self.folder.join(FILE))?);
            serde_json::to_writer_pretty(&mut file, &self.account)?;
            file.write_all(b"\n")?;
            Ok(file.flush()?)
        };
        write().kind(Kind::Stage, || format!("cannot write below {}", self.folder.display()))
    }
}

/// Whether an entry of a result is part of its account, and not of the bundle.
pub fn is_part(path: &Path) -> bool {
    path.starts_with(FOLDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_are_escaped_as_their_form_wants_it() {
        for (kind, name, version, wanted) in [
            ("golang", "github.com/BurntSushi/toml", "v1.6.0", "pkg:golang/github.com/BurntSushi/toml@v1.6.0"),
            ("npm", "@grafana/ui", "9.3.2", "pkg:npm/%40grafana/ui@9.3.2"),
            ("golang", "x.org/y", "v2.0.0+incompatible", "pkg:golang/x.org/y@v2.0.0%2Bincompatible"),
            ("generic", "musl", "", "pkg:generic/musl"),
        ] {
            assert_eq!(purl(kind, name, version), wanted);
        }
        let git = "pkg:npm/x@1.0.0?vcs_url=git%2Bhttps://h/x.git%40ab";
        assert_eq!(names_of(git), [git, "pkg:npm/x@1.0.0", "pkg:npm/x"]);
    }

    #[test]
    fn an_account_has_the_same_bytes_in_whatever_order_it_was_taken() {
        let take = |order: [usize; 3]| {
            let folder = tempfile::tempdir().unwrap();
            let mut taking = Taking::below(folder.path()).unwrap();
            for at in order {
                let text = taking.texts().keep("LICENSE".to_owned(), format!("text {}", at % 2).as_bytes()).unwrap();
                taking.package(Package {
                    ecosystem: Ecosystem::Npm,
                    name: format!("p{}", at % 2),
                    version: "1.0.0".to_owned(),
                    sum: None,
                    declared: None,
                    texts: vec![text],
                    evidence: if at == 2 { Evidence::SourceMap } else { Evidence::LockFile },
                    within: BTreeSet::from([format!("f{at}")]),
                    replaces: None,
                    origin: None,
                    patches: BTreeSet::new(),
                });
            }
            taking.write().unwrap();
            std::fs::read_to_string(folder.path().join(FOLDER).join(FILE)).unwrap()
        };
        let one = take([0, 1, 2]);
        assert_eq!(one, take([2, 1, 0]));
        let account: Account = serde_json::from_str(&one).unwrap();
        assert_eq!(account.packages.len(), 2);
        assert_eq!(account.packages[0].evidence, Evidence::SourceMap);
        assert_eq!(account.packages[0].within, BTreeSet::from(["f0".to_owned(), "f2".to_owned()]));
    }
}
