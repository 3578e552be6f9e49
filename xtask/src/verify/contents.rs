//! An archive read through: every file in it against the manifest in it, and that against its signature.

use super::judge;
use crate::archive::Format;
use crate::fingerprint::hex;
use crate::unpack;
use anyhow::Context as _;
use dkumonitor_interface::integrity::{self, PublicKey};
use dkumonitor_interface::manifest::{FILE_NAME, FileKind, Manifest, SIGNATURE_NAME};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::path::{Component, Path};

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
    /// What has no business in an archive, in words.
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
    let mut archive = tar::Archive::new(plain(path, format)?);
    let mut contents = Contents::default();
    for entry in archive.entries().context("it is no tar")? {
        add(&mut contents, entry.context("it is damaged")?)?;
    }
    // The sums of the last blocks are behind the end mark, and nothing else may be.
    let mut tail = Tail(false);
    io::copy(&mut archive.into_inner(), &mut tail).context("it is damaged")?;
    if tail.0 {
        contents.strange.push("there is something behind its end".to_owned());
    }
    Ok(contents)
}

/// The tar in an archive.
fn plain(path: &Path, format: Format) -> anyhow::Result<Box<dyn Read + Send>> {
    match format {
        Format::Gz | Format::Xz => unpack::stream(path),
        #[cfg(feature = "zstd")]
        Format::Zst => Ok(Box::new(zstd::stream::read::Decoder::new(std::fs::File::open(path)?)?)),
        Format::Deb | Format::Rpm | Format::Oci => anyhow::bail!("what a {format} holds is not read here"),
        #[cfg(not(feature = "zstd"))]
        Format::Zst => {
            anyhow::bail!(
                "this program was compiled without zstd; `cargo run --package xtask --features zstd -- verify` reads it"
            )
        }
    }
}

/// Whether anything but zeros was written to it.
struct Tail(bool);

impl io::Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 |= bytes.iter().any(|byte| *byte != 0);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn add<R: Read>(contents: &mut Contents, mut entry: tar::Entry<'_, R>) -> anyhow::Result<()> {
    let path = entry.path().context("it has a name that cannot be read")?.into_owned();
    let Some((top, name)) = split(&path) else {
        contents.strange.push(format!("{}: not a name inside the bundle's folder", path.display()));
        return Ok(());
    };
    if contents.top.is_empty() {
        contents.top.clone_from(&top);
    } else if contents.top != top {
        contents.strange.push(format!("{}: beside the bundle's folder", path.display()));
    }
    let kind = entry.header().entry_type();
    let found = if kind.is_dir() {
        return Ok(());
    } else if kind.is_file() {
        let mode = format!("{:04o}", entry.header().mode().context("it has a broken header")? & 0o7777);
        let size = entry.size();
        FileKind::File { size, mode, sha256: take(contents, &name, &mut entry)? }
    } else if let (true, Some(target)) = (kind.is_symlink(), entry.link_name()?) {
        FileKind::Link { target: target.to_string_lossy().into_owned() }
    } else {
        contents.strange.push(format!("{name}: neither a file nor a folder nor a link"));
        return Ok(());
    };
    if contents.files.insert(name.clone(), found).is_some() {
        // Of two, tar keeps the one and somebody else may keep the other.
        contents.strange.push(format!("{name}: there twice"));
    }
    Ok(())
}

/// The top folder and the rest of a name; none where it leads out.
fn split(path: &Path) -> Option<(String, String)> {
    let mut parts = path.components().map(|part| match part {
        Component::Normal(part) => part.to_str().map(str::to_owned),
        _ => None,
    });
    let top = parts.next()??;
    Some((top, parts.collect::<Option<Vec<_>>>()?.join("/")))
}

/// Hashes a file's content, and keeps that of the manifest and its signature.
fn take<R: Read>(contents: &mut Contents, name: &str, entry: &mut tar::Entry<'_, R>) -> anyhow::Result<String> {
    let mut hash = Hash(Sha256::new());
    if [FILE_NAME, SIGNATURE_NAME].contains(&name) {
        anyhow::ensure!(entry.size() <= LONGEST_MANIFEST, "its {name} is of absurd size");
        let mut text = String::new();
        entry.read_to_string(&mut text).with_context(|| format!("cannot read the {name} in it"))?;
        hash.write_all(text.as_bytes())?;
        if name == FILE_NAME {
            contents.epoch = entry.header().mtime()?;
            contents.manifest = text;
        } else {
            contents.signature = Some(text);
        }
    } else {
        io::copy(entry, &mut hash).context("it is damaged")?;
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
