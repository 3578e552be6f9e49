//! `vendor.lock`: every pin of a stack — version, addresses, hash, size, licence — and nothing else.
//!
//! Reading refuses what cannot be right (an unknown key, a hash of the wrong length, an address without https, a name
//! twice), and says all of it at once. Nothing here touches the network.

use crate::error::Kind;
use crate::fingerprint::{self, Entry, EntryKind};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// One pinned source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Source {
    /// The name that recipes refer to.
    pub name: String,
    /// Upstream's version, free of form: Grafana's security releases carry a `+`.
    pub version: String,
    /// Addresses of the archive, upstream first, then its mirrors. Empty for a `path` source.
    #[serde(default)]
    pub urls: Vec<String>,
    /// A folder inside the stack instead of an archive. Its content is hashed when it is read.
    pub path: Option<PathBuf>,
    /// SHA-256 of the archive, 64 lower-case hexadecimal digits.
    pub sha256: Option<String>,
    /// Size of the archive in bytes, where known. Enforced while downloading.
    pub size: Option<u64>,
    /// [`tree_hash`] of what the archive unpacks to, where known: tells the same content in another packing from other content.
    pub tree_sha256: Option<String>,
    /// SPDX licence expression of what is shipped from this source.
    pub license: String,
    /// Licence and notice files, relative to the unpacked tree; they travel into the bundle.
    #[serde(default)]
    pub license_files: Vec<PathBuf>,
    /// A hash over these files ([`crate::report::policy::hash_of`]), where somebody has read them: other ones stop the build.
    pub license_sha256: Option<String>,
    /// Package URL, for inventories.
    pub purl: Option<String>,
}

/// Where a source's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// An archive known by its hash.
    Archive {
        /// SHA-256, 64 lower-case hexadecimal digits.
        sha256: &'a str,
    },
    /// A folder inside the stack.
    Folder(&'a Path),
}

impl Source {
    /// The archive's hash or the folder; a lock that was read has exactly one of them.
    pub fn origin(&self) -> Origin<'_> {
        match (&self.path, &self.sha256) {
            (Some(path), _) => Origin::Folder(path),
            (None, sha256) => Origin::Archive { sha256: sha256.as_deref().unwrap_or_default() },
        }
    }

    /// The names under which a mirror may hold the archive: `name-version.ending`, and the last part of each address.
    /// (GitHub's tag archives are all called `v1.2.3.tar.gz`, so the first is the one to use in a folder.)
    pub fn file_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for url in &self.urls {
            let last = url.rsplit('/').next().unwrap_or(url);
            let long = format!("{}-{}{}", self.name, self.version, archive_ending(last));
            for name in [long, last.to_owned()] {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }
}

/// The ending that says how an archive is packed, dot included; empty where the name has none that is known.
pub fn archive_ending(file_name: &str) -> &'static str {
    const ENDINGS: [&str; 7] = [".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar"];
    ENDINGS.into_iter().find(|ending| file_name.ends_with(ending)).unwrap_or("")
}

/// All sources of a stack.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// In the file's order.
    #[serde(default, rename = "source")]
    pub sources: Vec<Source>,
}

impl Lock {
    /// Reads and checks `vendor.lock`.
    ///
    /// # Errors
    /// [`Kind::Usage`] when the file is missing, is not TOML, has an unknown key, or an entry is wrong; every wrong
    /// entry is named in one error.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Self::parse(&Self::read_text(path)?)
            .map_err(|error| Kind::Usage.error(format!("cannot use {}: {error}", path.display())))
    }

    /// The text of `vendor.lock`.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it cannot be read.
    pub fn read_text(path: &Path) -> anyhow::Result<String> {
        std::fs::read_to_string(path).map_err(|error| {
            Kind::Usage.error(format!(
                "cannot read {}: {error}; a stack is a folder with vendor.lock and recipes/ (choose one with --stack DIR)",
                path.display()
            ))
        })
    }

    /// Parses and checks the text of a lock.
    ///
    /// # Errors
    /// A text for people: the parser's, or one line for each wrong entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lock = Self::parse_unchecked(text)?;
        let problems = lock.problems();
        if problems.is_empty() { Ok(lock) } else { Err(problems.join("; ")) }
    }

    /// Parses the text of a lock whose entries may be wrong; see [`Self::problems`].
    ///
    /// # Errors
    /// The parser's text.
    pub fn parse_unchecked(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// What is wrong in the entries, each in words of its own that name the entry.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for source in &self.sources {
            if !seen.insert(source.name.as_str()) {
                problems.push(format!("source \"{}\" stands there twice; remove one", source.name));
            }
            problems
                .extend(source_problems(source).into_iter().map(|problem| format!("source \"{}\": {problem}", source.name)));
        }
        problems
    }

    /// The source of this name.
    pub fn get(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == name)
    }
}

fn source_problems(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    if !is_plain_name(&source.name) {
        problems.push("name may hold only a-z, 0-9, '-', '_' and '.'; it becomes a folder's name".to_owned());
    }
    if source.version.is_empty() || source.version.contains(['/', '\\', '\0']) || source.version.starts_with('.') {
        problems.push(format!("version \"{}\" cannot be part of a file's name", source.version));
    }
    match (&source.path, &source.sha256) {
        (Some(path), None) if source.urls.is_empty() && source.size.is_none() && source.tree_sha256.is_none() => {
            if !stays_inside(path) {
                problems.push(format!("path {} leads out of the stack", path.display()));
            }
        }
        (Some(_), _) => {
            problems
                .push("path goes without urls, sha256, size and tree-sha256: a folder is hashed when it is read".to_owned());
        }
        (None, None) => problems.push("needs either urls with sha256, or path".to_owned()),
        (None, Some(_)) if source.urls.is_empty() => problems.push("urls is empty".to_owned()),
        (None, Some(sha256)) => {
            let hashes = [("sha256", Some(sha256)), ("tree-sha256", source.tree_sha256.as_ref())];
            for (key, hash) in hashes.into_iter().filter_map(|(key, hash)| Some((key, hash?))) {
                if !is_sha256(hash) {
                    problems.push(format!("{key} must be 64 lower-case hexadecimal digits, has {}: {hash}", hash.len()));
                }
            }
        }
    }
    for url in &source.urls {
        if !(url.starts_with("https://") || url.starts_with("file:") || is_loopback_http(url)) {
            problems.push(format!("address {url} is not https"));
        }
    }
    if let Err(error) = spdx::Expression::parse(&source.license) {
        problems.push(format!("license \"{}\" is no SPDX expression: {}", source.license, error.reason));
    }
    if let Some(hash) = source.license_sha256.as_ref().filter(|hash| !is_sha256(hash)) {
        problems.push(format!("license-sha256 must be 64 lower-case hexadecimal digits: {hash}"));
    }
    for file in &source.license_files {
        if !stays_inside(file) {
            problems.push(format!("license-files: {} leads out of the source", file.display()));
        }
    }
    problems
}

fn is_sha256(hash: &str) -> bool {
    hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What `tree-sha256` stands for: a hash over the names of all files and links of an unpacked archive, the files' content
/// and whether they may be executed, and the links' targets. Independent of packing, of times, owners and other modes, of
/// the name of the top-level folder, and of empty folders. `entries` are as [`fingerprint::scan`] gives them, sorted.
pub fn tree_hash(entries: &[Entry]) -> String {
    let mut hash = Sha256::new();
    for entry in entries {
        hash.update(entry.path.as_os_str().as_bytes());
        // No name holds a zero byte, so that no two trees can be written down alike.
        match &entry.kind {
            EntryKind::File { mode, sha256, .. } => {
                hash.update(format!("\0{} {sha256}\0", if mode & 0o111 == 0 { 'f' } else { 'x' }));
            }
            EntryKind::Link { target } => {
                hash.update("\0l ");
                hash.update(target.as_os_str().as_bytes());
                hash.update("\0");
            }
        }
    }
    fingerprint::hex(&hash.finalize())
}

/// Plain http is let through to this very machine only: a local mirror or a test has nobody between.
fn is_loopback_http(url: &str) -> bool {
    ["http://127.0.0.1:", "http://[::1]:", "http://localhost:"].iter().any(|prefix| url.starts_with(prefix))
}

/// Whether a name can be a folder's name on every system without quoting.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether a relative path stays below the folder that it is taken from, by its words alone.
pub fn stays_inside(path: &Path) -> bool {
    !path.as_os_str().is_empty() && path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_tree_hash_tells_content_names_and_executables_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/b"), "one").unwrap();
        std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
        let hash = || tree_hash(&fingerprint::scan(root).unwrap());
        let mode = |mode| fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let first = hash();
        // Written down once: locks hold such hashes, so that what goes into them may never change.
        assert_eq!(first, "cc11f4c71881e58d70fca90275443964944aad7d4d4d369771d50bfa545c105f");
        mode(0o600);
        fs::create_dir(root.join("empty")).unwrap();
        fs::File::open(root.join("a/b")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(hash(), first);
        mode(0o755);
        assert_ne!(hash(), first, "may be executed");
        mode(0o644);
        fs::rename(root.join("a/b"), root.join("a/c")).unwrap();
        assert_ne!(hash(), first, "another name");
        fs::rename(root.join("a/c"), root.join("a/b")).unwrap();
        fs::write(root.join("a/b"), "two").unwrap();
        assert_ne!(hash(), first, "other content");
        fs::write(root.join("a/b"), "one").unwrap();
        assert_eq!(hash(), first);
        fs::remove_file(root.join("link")).unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        assert_ne!(hash(), first, "another target");
    }
}
