//! `manifest.json`: what a bundle is made of.
//!
//! The builder writes it, the installer and `dkmadmin verify` read it. [`Manifest`] is the definition for both sides. Keys that a
//! reader does not know are ignored, so that an older launcher can read a newer bundle as long as [`SCHEMA`] is the same; the
//! services alone refuse unknown keys, because to ignore one would start something differently from what was meant.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::service::Service;
use crate::text::harmless_line;

/// The number of this format; raised when an older reader would misunderstand a newer file.
pub const SCHEMA: u32 = 1;

/// The manifest's name in the bundle's root.
pub const FILE_NAME: &str = "manifest.json";

/// The name of the manifest's signature, beside it.
pub const SIGNATURE_NAME: &str = "manifest.json.minisig";

/// The whole of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// The format's number: [`SCHEMA`].
    pub schema: u32,
    /// The product: `dkumonitor`.
    pub name: String,
    /// The stack the bundle was built from; none for the real one.
    #[serde(default)]
    pub stack: Option<String>,
    /// The bundle's version.
    pub version: String,
    /// What it runs on.
    pub platform: Platform,
    /// Every component, in the order of the build.
    #[serde(default)]
    pub components: Vec<Component>,
    /// How the components are run, strings being templates.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Every file and link of the bundle except the manifest itself and its signature, sorted by path.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

/// An operating system and a processor architecture, in the words of `std::env::consts` (`linux`, `macos`; `x86_64`, `aarch64`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Platform {
    /// `std::env::consts::OS`.
    pub os: String,
    /// `std::env::consts::ARCH`.
    pub arch: String,
    /// The oldest glibc that the bundle's programs can do with, as `2.28`; none where none of them needs it, or nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glibc: Option<String>,
}

impl Platform {
    /// The platform this program was compiled for.
    #[must_use]
    pub fn current() -> Self {
        Self { os: std::env::consts::OS.to_owned(), arch: std::env::consts::ARCH.to_owned(), glibc: None }
    }
}

/// One component of the bundle and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Component {
    /// The recipe's name.
    pub name: String,
    /// The source's version.
    pub version: String,
    /// SPDX expression.
    #[serde(default)]
    pub license: String,
    /// Package URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purl: Option<String>,
    /// The source's identity.
    pub source: SourceId,
    /// The patches applied to it, in order.
    #[serde(default)]
    pub patches: Vec<Patch>,
    /// The tools that compiled it, by name: their versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub toolchain: BTreeMap<String, String>,
    /// The oldest glibc that its programs and libraries run with, as `2.17`: the newest version of a symbol that any of them
    /// wants. None where none of them is linked against glibc, and in bundles of builders that did not look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glibc: Option<String>,
}

/// What identifies a component's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, rename_all_fields = "kebab-case")]
pub enum SourceId {
    /// An archive that was fetched.
    Archive {
        /// Hash of the archive, lower-case hex.
        sha256: String,
        /// Its size in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// The address it is known by (the first of the lock entry).
        url: String,
    },
    /// A folder of the stack or of the workspace.
    Tree {
        /// Its path, relative to the stack.
        path: String,
        /// Hash over its files, as the builder computes it.
        tree_sha256: String,
    },
}

/// One patch of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Patch {
    /// File name.
    pub name: String,
    /// Hash of the patch file, lower-case hex.
    pub sha256: String,
}

/// One file or link of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileEntry {
    /// Path relative to the bundle, with slashes.
    pub path: String,
    /// What is there.
    #[serde(flatten)]
    pub kind: FileKind,
}

impl FileKind {
    /// In words, what is wrong with what was found where this should be; none if nothing is.
    #[must_use]
    pub fn difference(&self, found: &Self) -> Option<String> {
        let (Self::File { size, mode, sha256 }, Self::File { size: found_size, mode: found_mode, sha256: found_sha256 }) =
            (self, found)
        else {
            return (self != found).then(|| match self {
                Self::File { .. } => "not a file".to_owned(),
                Self::Link { target } => format!("not a link to {target}"),
            });
        };
        if found_size != size {
            return Some(format!("{found_size} bytes instead of {size}"));
        }
        if found_sha256 != sha256 {
            return Some("changed".to_owned());
        }
        mode_difference(found_mode, mode)
    }
}

/// In words, where permissions differ so that it matters. An archive unpacked under another umask is the same bundle; one that lets
/// others do more is not, nor one of which a program cannot be run.
fn mode_difference(found: &str, wanted: &str) -> Option<String> {
    let bits = |text: &str| u32::from_str_radix(text, 8).unwrap_or(u32::MAX);
    let (found_bits, bits) = (bits(found), bits(wanted));
    let is_same = found_bits & !bits == 0 && found_bits & 0o100 == bits & 0o100;
    (!is_same).then(|| format!("mode {found} instead of {wanted}"))
}

/// What a path of the bundle holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FileKind {
    /// A regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// Permission bits, octal: `0755`.
        mode: String,
        /// Hash of the content, lower-case hex.
        sha256: String,
    },
    /// A symbolic link.
    Link {
        /// What it points at, as written in the link.
        target: String,
    },
}

impl Manifest {
    /// Reads the manifest of the bundle in `root`.
    ///
    /// # Errors
    /// When the file is missing, is not JSON of this shape, or has another [`SCHEMA`].
    pub fn read(root: &Path) -> Result<Self> {
        Self::parse(&Self::text(root)?).with_context(|| format!("cannot use {}", root.join(FILE_NAME).display()))
    }

    /// The text of the manifest of the bundle in `root`.
    ///
    /// # Errors
    /// When the file is missing.
    pub fn text(root: &Path) -> Result<String> {
        let path = root.join(FILE_NAME);
        std::fs::read_to_string(&path).with_context(|| {
            format!("cannot read {}: is this an unpacked bundle? Every bundle has that file in its root", path.display())
        })
    }

    /// Every difference between what this manifest says and what was found, in words, sorted.
    #[must_use]
    pub fn differences(&self, mut found: BTreeMap<String, FileKind>) -> Vec<String> {
        let mut out = Vec::new();
        for name in [FILE_NAME, SIGNATURE_NAME] {
            // These two it cannot name itself.
            let what = match found.remove(name) {
                Some(FileKind::File { mode, .. }) => mode_difference(&mode, "0644"),
                Some(FileKind::Link { .. }) => Some("not a file".to_owned()),
                None => None,
            };
            out.extend(what.map(|what| format!("{name}: {what}")));
        }
        for FileEntry { path, kind } in &self.files {
            let what = found.remove(path).map_or_else(|| Some("missing".to_owned()), |found| kind.difference(&found));
            out.extend(what.map(|what| format!("{path}: {what}")));
        }
        out.extend(found.into_keys().map(|path| format!("{path}: not in the manifest")));
        out.sort();
        // A name that is no text of one line would pass itself off as what is said about it.
        out.iter().map(|line| harmless_line(line.as_bytes())).collect()
    }

    /// Reads a manifest from its text.
    ///
    /// # Errors
    /// When it is not JSON of this shape, has another [`SCHEMA`], or holds a service that contradicts itself.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let head: Head = serde_json::from_str(text).context("it is not a manifest")?;
        if head.schema != SCHEMA {
            bail!(
                "its format is number {}, and this launcher knows number {SCHEMA}: use the launcher of that bundle",
                head.schema
            );
        }
        let manifest: Self = serde_json::from_str(text)?;
        for service in &manifest.services {
            service.validate()?;
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
        "schema": 1, "name": "dkumonitor", "stack": null, "version": "1.2.3",
        "platform": {"os": "linux", "arch": "x86_64"},
        "components": [
            {"name": "a", "version": "1", "license": "MIT", "source": {"sha256": "00", "size": 3, "url": "https://x/y"},
             "patches": [{"name": "01.patch", "sha256": "11"}], "toolchain": {"go": "1.24.1"}, "glibc": "2.17"},
            {"name": "b", "version": "2", "source": {"path": "sources/b", "tree-sha256": "22"}}
        ],
        "services": [{"name": "a", "command": ["{{ bundle }}/bin/a"]}],
        "files": [
            {"path": "bin/a", "type": "file", "size": 3, "mode": "0755", "sha256": "33"},
            {"path": "installer", "type": "link", "target": "bin/dkm"}
        ]
    }"#;

    #[test]
    fn reads_what_it_writes() {
        let manifest = Manifest::parse(TEXT).unwrap();
        assert!(matches!(&manifest.components[1].source, SourceId::Tree { tree_sha256, .. } if tree_sha256 == "22"));
        assert_eq!(manifest.components.iter().map(|one| one.glibc.as_deref()).collect::<Vec<_>>(), [Some("2.17"), None]);
        assert_eq!(manifest.files[1].kind, FileKind::Link { target: "bin/dkm".into() });
        assert_eq!(Manifest::parse(&serde_json::to_string(&manifest).unwrap()).unwrap(), manifest);
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let manifest = Manifest::parse(TEXT).unwrap();
        let right: BTreeMap<_, _> = manifest.files.iter().map(|file| (file.path.clone(), file.kind.clone())).collect();
        let with = |path: &str, kind: Option<FileKind>| {
            let mut found = right.clone();
            found.remove(path);
            found.extend(kind.map(|kind| (path.to_owned(), kind)));
            manifest.differences(found)
        };
        let file = |size, mode: &str, sha256: &str| Some(FileKind::File { size, mode: mode.into(), sha256: sha256.into() });
        let link = |target: &str| Some(FileKind::Link { target: target.into() });
        assert!(with("manifest.json.minisig", file(9, "0644", "44")).is_empty());
        assert_eq!(with("manifest.json", file(9, "0666", "44")), ["manifest.json: mode 0666 instead of 0644"]);
        assert_eq!(with("manifest.json.minisig", link("x")), ["manifest.json.minisig: not a file"]);
        assert!(with("bin/a", file(3, "0700", "33")).is_empty(), "another umask");
        assert_eq!(with("bin/a", None), ["bin/a: missing"]);
        assert_eq!(with("bin/a", file(4, "0755", "33")), ["bin/a: 4 bytes instead of 3"]);
        assert_eq!(with("bin/a", file(3, "0755", "34")), ["bin/a: changed"]);
        for mode in ["0644", "0655", "0775", "0757", "4755", "2755", "1755", "", "x"] {
            assert_eq!(with("bin/a", file(3, mode, "33")), [format!("bin/a: mode {mode} instead of 0755")]);
        }
        assert_eq!(with("bin/a", link("x")), ["bin/a: not a file"]);
        assert_eq!(with("installer", link("bin/evil")), ["installer: not a link to bin/dkm"]);
        assert_eq!(with("bin/b", file(1, "0644", "55")), ["bin/b: not in the manifest"]);
        assert_eq!(with("x\r\x1b[2K\nall is well", link("y")), ["x\\r\\x1b[2K\\nall is well: not in the manifest"]);
    }

    #[test]
    fn another_schema_is_refused_in_words() {
        let error = Manifest::parse(&TEXT.replacen('1', "2", 1)).unwrap_err();
        assert!(error.to_string().contains("format is number 2"), "{error}");
    }
}
