//! Accounts as the store has them, read a package at a time: there may be any number of those, and of their texts.
//!
//! An account is JSON as [`serde_json::to_vec_pretty`] writes it, its packages first, so that each of these is some lines that begin and
//! end by a brace four blanks in: no string of JSON has the end of a line in it. What stands behind the packages is read as one.

use super::{FILE, FOLDER, Package, Text};
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{Entry, EntryKind, from_hex};
use crate::store::Store;
use anyhow::Context as _;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A SHA-256 as bytes, for where there are many.
pub type Hash = [u8; 32];

/// What was seen in texts, by their hash: SPDX identifiers.
pub type Seen = BTreeMap<String, BTreeSet<String>>;

/// The account of a result.
pub struct Kept<'a> {
    store: &'a Store,
    /// Of a result that has one.
    file: Option<(PathBuf, File)>,
    /// The hashes of its texts, sorted.
    texts: Vec<Hash>,
    rest: Rest,
}

/// What stands behind the packages of an account and is always wanted.
#[derive(Default, Deserialize)]
struct Rest {
    libraries: BTreeMap<String, BTreeSet<String>>,
    #[serde(default)]
    glibc: Option<String>,
    own: Vec<Text>,
}

/// What was seen in the texts, which is wanted for a while.
#[derive(Deserialize)]
struct SeenOnly {
    seen: Seen,
}

/// Where in an account a package stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    offset: u64,
    length: usize,
}

impl<'a> Kept<'a> {
    /// The account that these entries of a final result are; an empty one where there are none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(store: &'a Store, entries: &[Entry]) -> anyhow::Result<Self> {
        let mut kept = Self { store, file: None, texts: Vec::new(), rest: Rest::default() };
        for entry in entries {
            let EntryKind::File { sha256, .. } = &entry.kind else { continue };
            if entry.path == Path::new(FOLDER).join(FILE) {
                let path = store.object(sha256);
                let file = File::open(&path).kind(Kind::Stage, || format!("cannot read {}", path.display()))?;
                kept.file = Some((path, file));
            } else {
                kept.texts.push(hash(sha256)?);
            }
        }
        kept.texts.sort_unstable();
        kept.rest = kept.behind_packages()?.unwrap_or_default();
        Ok(kept)
    }

    /// The shared libraries that the component's files name and that are not its own, each with the files that need it.
    pub fn libraries(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.rest.libraries
    }

    /// The oldest glibc that has all that its programs and libraries use.
    pub fn glibc(&self) -> Option<&str> {
        self.rest.glibc.as_deref()
    }

    /// The licence files of its own source that `vendor.lock` names.
    pub fn own(&self) -> &[Text] {
        &self.rest.own
    }

    /// What was seen in its texts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn seen(&self) -> anyhow::Result<Seen> {
        Ok(self.behind_packages::<SeenOnly>()?.map(|only| only.seen).unwrap_or_default())
    }

    /// Goes through its packages, in their order, each with where it stands.
    ///
    /// # Errors
    /// When it cannot be read, or what `each` fails with.
    pub fn packages(&self, mut each: impl FnMut(Span, Package) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Some((path, file)) = &self.file else { return Ok(()) };
        let mut lines = Lines::new(path, file);
        while let Some((span, text)) = lines.package().kind(Kind::Stage, || not_understood(path))? {
            each(span, serde_json::from_slice(text).kind(Kind::Stage, || not_understood(path))?)?;
        }
        Ok(())
    }

    /// The package that stands there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn package(&self, span: Span) -> anyhow::Result<Package> {
        let (path, file) =
            self.file.as_ref().ok_or_else(|| Kind::Stage.error("a result without an account has no packages"))?;
        let mut text = vec![0; span.length];
        file.read_exact_at(&mut text, span.offset).kind(Kind::Stage, || format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).kind(Kind::Stage, || not_understood(path))
    }

    /// A text; none where the account has none of this hash.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self, hash: &Hash) -> anyhow::Result<Option<String>> {
        if self.texts.binary_search(hash).is_err() {
            return Ok(None);
        }
        let path = self.store.object(&crate::fingerprint::hex(hash));
        let text = std::fs::read(&path).kind(Kind::Stage, || format!("cannot read {}", path.display()))?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    fn behind_packages<T: for<'de> Deserialize<'de>>(&self) -> anyhow::Result<Option<T>> {
        let Some((path, file)) = &self.file else { return Ok(None) };
        let read = || -> anyhow::Result<T> {
            let mut lines = Lines::new(path, file);
            while lines.package()?.is_some() {}
            Ok(serde_json::from_slice(&lines.rest()?)?)
        };
        read().map(Some).kind(Kind::Stage, || not_understood(path))
    }
}

fn not_understood(path: &Path) -> String {
    format!("cannot understand the account {}", path.display())
}

/// The bytes of a hash.
///
/// # Errors
/// When it is none.
pub fn hash(sha256: &str) -> anyhow::Result<Hash> {
    let bytes = from_hex(sha256).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Kind::Stage.error(format!("\"{sha256}\" is no SHA-256")))
}

/// An account, line by line.
struct Lines<'a> {
    path: &'a Path,
    input: BufReader<At<'a>>,
    /// How far it was read.
    offset: u64,
    line: Vec<u8>,
    package: Vec<u8>,
    is_in_packages: bool,
}

/// A file that is read from its beginning, whoever else reads it.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl std::io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, file: &'a File) -> Self {
        let input = BufReader::with_capacity(64 * 1024, At { file, offset: 0 });
        Self { path, input, offset: 0, line: Vec::new(), package: Vec::new(), is_in_packages: false }
    }

    /// Reads a line; gives where it begins.
    fn next(&mut self) -> anyhow::Result<u64> {
        self.line.clear();
        let begin = self.offset;
        self.offset += self.input.read_until(b'\n', &mut self.line)? as u64;
        anyhow::ensure!(self.offset > begin, "{} ends too early", self.path.display());
        Ok(begin)
    }

    /// The next package; none behind the last one.
    fn package(&mut self) -> anyhow::Result<Option<(Span, &[u8])>> {
        if !self.is_in_packages {
            self.next()?;
            self.next()?;
            match self.line.as_slice() {
                b"  \"packages\": [\n" => self.is_in_packages = true,
                b"  \"packages\": [],\n" => return Ok(None),
                _ => anyhow::bail!("it does not begin by packages"),
            }
        }
        let begin = self.next()?;
        if self.line == b"  ],\n" {
            return Ok(None);
        }
        anyhow::ensure!(self.line == b"    {\n", "a package does not begin where one should");
        self.package.clear();
        while !self.line.starts_with(b"    }") {
            self.package.extend_from_slice(&self.line);
            self.next()?;
        }
        self.package.extend_from_slice(b"    }");
        Ok(Some((Span { offset: begin, length: self.package.len() }, &self.package)))
    }

    /// What stands behind the packages, as an object of its own.
    fn rest(mut self) -> anyhow::Result<Vec<u8>> {
        let mut rest = b"{\n".to_vec();
        self.input.read_to_end(&mut rest).context("cannot read what stands behind its packages")?;
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Account, Ecosystem, Evidence, Taking};
    use super::*;
    use crate::fingerprint;

    /// A store with an account of so many packages, and the entries of the account in it.
    fn stored(folder: &Path, packages: usize) -> (Store, Vec<Entry>) {
        let tree = folder.join("tree");
        let mut taking = Taking::below(&tree).unwrap();
        for at in 0..packages {
            let text = taking.texts().keep("LICENSE".to_owned(), format!("terms {}", at % 2).as_bytes()).unwrap();
            taking.package(Package {
                ecosystem: Ecosystem::Npm,
                name: format!("p{at}"),
                version: "1.0.0".to_owned(),
                sum: None,
                declared: Some("one\n    }\n  ],\nline".to_owned()),
                texts: vec![text],
                evidence: Evidence::LockFile,
                within: BTreeSet::from(["static".to_owned()]),
                replaces: None,
                origin: None,
                patches: BTreeSet::new(),
            });
        }
        taking.library("libc.so.6", Path::new("bin/thing"));
        taking.write().unwrap();
        let store = Store::at(folder.join("store"));
        let entries = fingerprint::scan(&tree).unwrap();
        for entry in &entries {
            let EntryKind::File { sha256, .. } = &entry.kind else { continue };
            let object = store.object(sha256);
            std::fs::create_dir_all(object.parent().unwrap()).unwrap();
            std::fs::copy(tree.join(&entry.path), object).unwrap();
        }
        (store, entries)
    }

    #[test]
    fn an_account_is_read_by_pieces_as_it_was_written() {
        for count in [0, 1, 3] {
            let folder = tempfile::tempdir().unwrap();
            let (store, entries) = stored(folder.path(), count);
            let kept = Kept::of(&store, &entries).unwrap();
            let path = &kept.file.as_ref().unwrap().0;
            let whole: Account = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let mut read = Vec::new();
            kept.packages(|span, package| {
                assert_eq!(kept.package(span)?, package);
                read.push(package);
                Ok(())
            })
            .unwrap();
            assert_eq!((read.len(), read), (count, whole.packages));
            assert_eq!((kept.libraries(), kept.seen().unwrap()), (&whole.libraries, whole.seen));
            let texts: Vec<_> = kept.texts.iter().map(|hash| kept.text(hash).unwrap()).collect();
            assert_eq!(texts.len(), count.min(2));
            assert!(texts.iter().flatten().all(|text| text.starts_with("terms ")));
            assert_eq!(kept.text(&[0; 32]).unwrap(), None);
        }
    }

    #[test]
    fn what_is_no_account_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let (store, entries) = stored(folder.path(), 2);
        let account = entries.iter().find(|entry| entry.path.ends_with(FILE)).unwrap();
        let EntryKind::File { sha256, .. } = &account.kind else { panic!("{account:?}") };
        let whole = std::fs::read(store.object(sha256)).unwrap();
        for wrong in [&whole[..whole.len() / 2], b"{}", b"", b"{\n  \"libraries\": {}\n}\n"] {
            std::fs::write(store.object(sha256), wrong).unwrap();
            let error = Kept::of(&store, &entries).err().map(|error| format!("{error:#}")).unwrap();
            assert!(error.contains("cannot understand the account"), "{error}");
        }
    }
}
