//! The data folder itself, made beside its place and renamed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::plan::Plan;
use super::record::Record;
use super::render::{Rendered, SECRETS, secrets};
use super::switch::{sync, sync_all};
use super::tidy::{self, Tidier};
use crate::home::RECORD;

/// Folders that every data folder has.
pub const FOLDERS: [&str; 7] = ["bin", "conf", "conf/services.d", SECRETS, "storage", "run", "run/log"];

/// The link to the bundle in use. Everything in a data folder leads through it, so that an update is one rename.
pub const BUNDLE: &str = "bundle";

/// What leads through it: where to, and from where.
pub const LINKS: [(&str, &str); 3] =
    [("../bundle/bin/dkm", "bin/dkm"), ("../bundle/bin/dkmadmin", "bin/dkmadmin"), ("bundle/static", "static")];

/// Makes the folder. When anything fails, or we are killed, what was made is removed again.
///
/// # Errors
/// What could not be made, with its path.
pub fn folder(plan: &Plan, files: &BTreeMap<String, Rendered>) -> Result<()> {
    let parent = plan.data.parent().with_context(|| format!("cannot make {}", plan.data.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    tidy::remove_left(&plan.data);
    let beside = tidy::beside(&plan.data);
    let tidier = Tidier::begin(&beside);
    let made = fill(plan, files, &beside).and_then(|()| {
        sync_all(&beside)?;
        // An empty folder that is there already is replaced.
        fs::rename(&beside, &plan.data)
            .with_context(|| format!("cannot put the new folder into its place {}", plan.data.display()))?;
        sync(parent)
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&beside);
    }
    tidier.end();
    made
}

fn fill(plan: &Plan, files: &BTreeMap<String, Rendered>, root: &Path) -> Result<()> {
    make_folder(root)?;
    let wanted = plan.services.iter().flat_map(|service| &service.folders).map(String::as_str);
    for folder in FOLDERS.into_iter().chain(wanted) {
        make_folder(&root.join(folder))?;
    }
    for (path, file) in files {
        write(&root.join(path), &file.content, file.mode)?;
    }
    for (path, secret) in secrets(plan) {
        write(&root.join(path), secret.as_bytes(), 0o600)?;
    }
    write(&root.join(RECORD), &Record::of(plan, files).text()?, 0o600)?;
    link(&plan.bundle, &root.join(BUNDLE))?;
    links(root)
}

/// The links through which people and programs go into the bundle in use; those that are there stay.
///
/// # Errors
/// When one cannot be made.
pub fn links(root: &Path) -> Result<()> {
    for (target, path) in LINKS {
        if !root.join(path).is_symlink() {
            link(Path::new(target), &root.join(path))?;
        }
    }
    Ok(())
}

/// Makes a folder that only its owner can enter, with its parents.
///
/// # Errors
/// When it cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Writes a new file with its folders.
///
/// # Errors
/// When it is there already, or cannot be written.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let folder: PathBuf = path.parent().map(Path::to_owned).unwrap_or_default();
    make_folder(&folder)?;
    let open = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = open.and_then(|mut file| {
        file.write_all(content)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn link(target: &Path, path: &Path) -> Result<()> {
    symlink(target, path).with_context(|| format!("cannot make the link {}", path.display()))
}
