//! An archive read through: every file in it against the manifest in it, and that against its signature.

use super::judge;
use crate::archive::Format;
use crate::archive::strict::{self, Found, FoundKind};
use crate::fingerprint::hex;
use anyhow::Context as _;
use dkumonitor_interface::integrity::{self, PublicKey, Standing};
use dkumonitor_interface::manifest::{FILE_NAME, FileKind, Manifest, SIGNATURE_NAME};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
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
    /// All folders; the top one is empty.
    folders: BTreeSet<String>,
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
    /// The SHA-256 of a file, as it was found.
    pub fn sha256(&self, path: &str) -> Option<String> {
        match self.files.get(path) {
            Some(FileKind::File { sha256, .. }) => Some(sha256.clone()),
            _ => None,
        }
    }

    /// Checks all that was found against the manifest, and that against its signature; gives what was found, in words.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn check(self, key: Option<&PublicKey>) -> anyhow::Result<Vec<String>> {
        anyhow::ensure!(
            !self.manifest.is_empty(),
            "there is no {FILE_NAME} in it; it is no bundle, and of anything else only what lies beside it can tell (.minisig, .sha256)"
        );
        let standing = integrity::signature(FILE_NAME, self.manifest.as_bytes(), self.signature.as_deref(), key);
        let manifest = Manifest::parse(&self.manifest).with_context(|| format!("cannot use the {FILE_NAME} in it"))?;
        let mut wrong = misplaced(&self.folders, &manifest);
        if let Standing::Good(comment) = &standing
            && let Some(bundle) = comment.split('\t').find_map(|part| part.strip_prefix("bundle:"))
            && bundle != self.top
        {
            // It is the name of a folder, and what unpacks it would write there.
            wrong.push(format!("all of it lies in {}, and was signed as {bundle}", self.top));
        }
        wrong.extend(manifest.differences(self.files));
        wrong.extend(self.strange);
        judge(&standing, wrong)?;
        let count = manifest.files.len();
        Ok(vec![format!("all {count} files in it are as its manifest says"), format!("its manifest is {}", standing.text())])
    }
}

/// Folders that are not those in which the manifest's files lie; the manifest itself has none.
fn misplaced(found: &BTreeSet<String>, manifest: &Manifest) -> Vec<String> {
    let above = |path: &str| path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect::<Vec<_>>();
    let mut wanted: BTreeSet<String> = manifest.files.iter().flat_map(|file| above(&file.path)).collect();
    wanted.insert(String::new());
    let more = found.difference(&wanted).map(|path| format!("{path}/: a folder in which no file of the manifest lies"));
    more.chain(wanted.difference(found).map(|path| format!("{path}/: the folder is missing"))).collect()
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
        FoundKind::Folder => {
            contents.folders.insert(found.name.clone());
            return Ok(());
        }
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
