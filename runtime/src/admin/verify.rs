//! `dkmadmin verify`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::install::{build::hex, bundle_root};
use crate::manifest::{FILE_NAME, FileKind, Manifest};

/// Compares the bundle with its manifest.
///
/// # Errors
/// When the bundle cannot be read at all.
pub fn run() -> Result<ExitCode> {
    let root = bundle_root()?;
    let manifest = Manifest::read(&root)?;
    let findings = compare(&root, &manifest)?;
    findings.iter().for_each(|finding| println!("{finding}"));
    if findings.is_empty() {
        println!("all {} files of {} are as the manifest says", manifest.files.len(), root.display());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// Every difference, in words.
fn compare(root: &Path, manifest: &Manifest) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut known: BTreeMap<&str, &FileKind> = manifest.files.iter().map(|file| (file.path.as_str(), &file.kind)).collect();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot look into {}", folder.display()))? {
            let path = entry.with_context(|| format!("cannot look into {}", folder.display()))?.path();
            let meta = fs::symlink_metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            match known.remove(name.as_str()) {
                Some(kind) => out.extend(differences(&path, &meta, kind)?.map(|what| format!("{name}: {what}"))),
                None if name == FILE_NAME => {}
                None => out.push(format!("{name}: not in the manifest")),
            }
        }
    }
    out.extend(known.into_keys().map(|name| format!("{name}: missing")));
    out.sort();
    Ok(out)
}

fn differences(path: &Path, meta: &fs::Metadata, kind: &FileKind) -> Result<Option<String>> {
    match kind {
        FileKind::Link { target } => {
            let same = fs::read_link(path).is_ok_and(|found| found == Path::new(target));
            Ok((!same).then(|| format!("not a link to {target}")))
        }
        FileKind::File { .. } if !meta.is_file() => Ok(Some("not a file".to_owned())),
        FileKind::File { size, .. } if meta.len() != *size => Ok(Some(format!("{} bytes instead of {size}", meta.len()))),
        FileKind::File { mode, sha256, .. } => {
            if hash(path)? != *sha256 {
                return Ok(Some("changed".to_owned()));
            }
            let found = format!("{:04o}", meta.permissions().mode() & 0o7777);
            // What matters is whether it can be run; an archive unpacked under another umask is the same bundle.
            let runs = |text: &str| u32::from_str_radix(text, 8).map(|mode| mode & 0o100);
            Ok((runs(&found) != runs(mode)).then(|| format!("mode {found} instead of {mode}")))
        }
    }
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
