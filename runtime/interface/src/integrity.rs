//! Whether a bundle is what was released: its files against its manifest, and the manifest against a signature.
//!
//! One signature vouches for everything: it covers `manifest.json`, which has the hash of every other file. It is in minisign's
//! format, so that the tool of that name can check it too.
//!
//! Promises: the manifest is read once, so that what is compared is what was verified. Nothing is written.
//!
//! Where the public key comes from is left to the caller. One that lies in the bundle would vouch for nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use minisign_verify::Signature;
use sha2::{Digest, Sha256};

pub use minisign_verify::PublicKey;

use crate::manifest::{FILE_NAME, FileKind, Manifest, SIGNATURE_NAME};
use crate::text::harmless_line;

/// How it stands with a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none, and none was asked for.
    Unsigned,
    /// There is one, but no key to check it with.
    Unchecked,
    /// It is right. Its trusted comment says what was signed.
    Good(String),
    /// It is wrong, or missing where a key was given; in words.
    Bad(String),
}

impl Standing {
    /// In words, for a person.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Unsigned => "not signed".to_owned(),
            Self::Unchecked => "signed, by whom was not checked: give the public key with --key".to_owned(),
            Self::Good(_) => "signed by the given key".to_owned(),
            Self::Bad(why) => why.clone(),
        }
    }
}

/// What was found out about a bundle.
#[derive(Debug)]
pub struct Report {
    /// Its manifest.
    pub manifest: Manifest,
    /// How it stands with the manifest's signature.
    pub signature: Standing,
    /// Everything that is not as the manifest says, in words.
    pub differences: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.differences.is_empty() && !matches!(self.signature, Standing::Bad(_))
    }
}

/// A public key: a file as `minisign -G` writes it, or the line of 56 characters in it.
///
/// # Errors
/// When it is neither.
pub fn public_key(word: &str) -> Result<PublicKey> {
    if let Ok(key) = PublicKey::from_base64(word) {
        return Ok(key);
    }
    let text = fs::read_to_string(word)
        .with_context(|| format!("cannot read the public key {word} (--key takes a file, or the key itself: RW…)"))?;
    let key = PublicKey::decode(&text).or_else(|error| PublicKey::from_base64(text.trim()).map_err(|_| error));
    key.ok().with_context(|| format!("{word} is not a public key of minisign: two lines, the second one beginning with RW"))
}

/// How it stands with the signature of `content`, which is called `name`.
#[must_use]
pub fn signature(name: &str, content: &[u8], signature: Option<&str>, key: Option<&PublicKey>) -> Standing {
    let (text, key) = match (signature, key) {
        (None, None) => return Standing::Unsigned,
        (Some(_), None) => return Standing::Unchecked,
        (None, Some(_)) => return Standing::Bad(format!("{name} is not signed: {name}.minisig is missing")),
        (Some(text), Some(key)) => (text, key),
    };
    let bad = |error| Standing::Bad(format!("{name}.minisig is wrong: {}", why(&error)));
    match Signature::decode(text) {
        Ok(signature) => match key.verify(content, &signature, false) {
            Ok(()) => Standing::Good(signature.trusted_comment().to_owned()),
            Err(error) => bad(error),
        },
        Err(error) => bad(error),
    }
}

/// What is wrong with a signature, in words.
#[must_use]
pub fn why(error: &minisign_verify::Error) -> &'static str {
    use minisign_verify::Error;
    match error {
        Error::InvalidSignature => "what it signs, or the signature itself, was changed",
        Error::UnexpectedKeyId => "it was made with another key than the given one",
        Error::UnsupportedLegacyMode | Error::UnexpectedAlgorithm => "it is of minisign's old kind, without a hash",
        _ => "it is not a signature of minisign",
    }
}

/// Compares a bundle with its manifest, and the manifest with its signature.
///
/// # Errors
/// When the bundle cannot be read, or its manifest cannot be used.
pub fn check(root: &Path, key: Option<&PublicKey>) -> Result<Report> {
    for name in [FILE_NAME, SIGNATURE_NAME] {
        // A pipe would keep us waiting, and what a link leads to may be another thing the next time.
        let path = root.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            bail!("cannot use {}: it is not a regular file", path.display());
        }
    }
    let text = Manifest::text(root)?;
    let path = root.join(SIGNATURE_NAME);
    let beside = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let signature = signature(FILE_NAME, text.as_bytes(), beside.as_deref(), key);
    let manifest = Manifest::parse(&text).with_context(|| format!("cannot use {}", root.join(FILE_NAME).display()))?;
    let (found, open) = scan(root)?;
    let mut differences = manifest.differences(found);
    differences.extend(open);
    Ok(Report { manifest, signature, differences })
}

/// Everything in a folder but folders, by path; and in words, the folders that others may write to.
fn scan(root: &Path) -> Result<(BTreeMap<String, FileKind>, Vec<String>)> {
    let (mut out, mut open) = (BTreeMap::new(), Vec::new());
    walk(root, &mut |path, meta| {
        let mode = meta.permissions().mode() & 0o7777;
        if !meta.is_dir() {
            let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
            out.insert(name, look(path, meta)?);
        } else if mode & 0o022 != 0 {
            let path = harmless_line(path.as_os_str().as_bytes());
            open.push(format!("{path}: mode {mode:04o} lets others change what is in it"));
        }
        Ok(())
    })?;
    Ok((out, open))
}

/// Looks at a folder and everything in it, each folder before what it holds; links in it are not followed.
///
/// # Errors
/// When something cannot be looked at, and whatever `look` says.
pub fn walk(root: &Path, look: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>) -> Result<()> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let cannot = || format!("cannot look into {}", folder.display());
        look(&folder, &fs::metadata(&folder).with_context(cannot)?)?;
        for entry in fs::read_dir(&folder).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            let meta = fs::symlink_metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
            if meta.is_dir() {
                folders.push(path);
            } else {
                look(&path, &meta)?;
            }
        }
    }
    Ok(())
}

fn look(path: &Path, meta: &fs::Metadata) -> Result<FileKind> {
    if meta.is_file() {
        let mode = format!("{:04o}", meta.permissions().mode() & 0o7777);
        return Ok(FileKind::File { size: meta.len(), mode, sha256: hash(path)? });
    }
    // A device or a socket has no target, which no link of a bundle lacks.
    let target = fs::read_link(path).unwrap_or_default();
    Ok(FileKind::Link { target: target.to_string_lossy().into_owned() })
}

fn hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
