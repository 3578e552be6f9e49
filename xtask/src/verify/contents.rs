//! An archive read through: every file in it against the manifest in it, and that against its signature.

use super::judge;
use crate::archive::Format;
use crate::archive::strict::{self, Found, FoundKind};
use crate::fingerprint::hex;
use anyhow::Context as _;
use dkumonitor_interface::integrity::{self, PublicKey};
use dkumonitor_interface::manifest::{FILE_NAME, FileKind, Manifest, SIGNATURE_NAME};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::path::Path;

/// No manifest is longer, in bytes. That of the real stack has 3 MB.
const LONGEST_MANIFEST: u64 = 256 * 1024 * 1024;

/// What was found in an archive.
#[derive(Default)]
pub struct Contents {
    /// The folder that all is in.
    pub top: String,
    /// All files and links.
    pub files: BTreeMap<String, FileKind>,
    /// The manifest's text; empty where there is none.
    pub manifest: String,
    /// The text of its signature.
    pub signature: Option<String>,
    /// The time of the manifest, seconds since 1970.
    pub epoch: u64,
    /// What this program would not have written, in words.
    strange: Vec<String>,
}

impl Contents {
    /// Checks all that was found against the manifest, and that against its signature; gives what was found, in words.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn check(self, key: Option<&PublicKey>) -> anyhow::Result<Vec<String>> {
        anyhow::ensure!(!self.manifest.is_empty(), "there is no {FILE_NAME} in it; it is no bundle");
        let standing = integrity::signature(FILE_NAME, self.manifest.as_bytes(), self.signature.as_deref(), key);
        let manifest = Manifest::parse(&self.manifest).with_context(|| format!("cannot use the {FILE_NAME} in it"))?;
        let mut wrong = manifest.differences(self.files);
        wrong.extend(self.strange);
        judge(&standing, wrong)?;
        let count = manifest.files.len();
        Ok(vec![format!("all {count} files in it are as its manifest says"), format!("its manifest is {}", standing.text())])
    }
}

/// Reads an archive through.
///
/// # Errors
/// When it cannot be read to its end.
pub fn read(path: &Path, format: Format) -> anyhow::Result<Contents> {
    let mut contents = Contents::default();
    let strange = strict::read(path, format, |found, content| add(&mut contents, found, content))?;
    contents.strange = strange;
    Ok(contents)
}

fn add(contents: &mut Contents, found: &Found, content: &mut dyn Read) -> anyhow::Result<()> {
    contents.top.clone_from(&found.top);
    let kind = match &found.kind {
        FoundKind::Folder => return Ok(()),
        FoundKind::Link(target) => FileKind::Link { target: target.clone() },
        FoundKind::File { size, mode } => {
            FileKind::File { size: *size, mode: format!("{mode:04o}"), sha256: take(contents, found, *size, content)? }
        }
    };
    contents.files.insert(found.name.clone(), kind);
    Ok(())
}

/// Hashes a file's content, and keeps that of the manifest and its signature.
fn take(contents: &mut Contents, found: &Found, size: u64, content: &mut dyn Read) -> anyhow::Result<String> {
    let mut hash = Hash(Sha256::new());
    let name = found.name.as_str();
    if [FILE_NAME, SIGNATURE_NAME].contains(&name) {
        anyhow::ensure!(size <= LONGEST_MANIFEST, "its {name} is of absurd size");
        let mut text = String::new();
        content.read_to_string(&mut text).with_context(|| format!("cannot read the {name} in it"))?;
        hash.write_all(text.as_bytes())?;
        if name == FILE_NAME {
            contents.epoch = found.mtime;
            contents.manifest = text;
        } else {
            contents.signature = Some(text);
        }
    } else {
        io::copy(content, &mut hash).context("it is damaged")?;
    }
    Ok(hex(&hash.0.finalize()))
}

struct Hash(Sha256);

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
