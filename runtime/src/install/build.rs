//! The data folder itself, made beside its place and renamed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::plan::Plan;
use super::render::{Rendered, SECRETS, secrets};
use crate::home::{RECORD, Record};

/// Folders that every data folder has.
const FOLDERS: [&str; 7] = ["bin", "conf", "conf/services.d", SECRETS, "storage", "run", "run/log"];

/// Makes the folder. When anything fails, what was made is removed again.
///
/// # Errors
/// What could not be made, with its path.
pub fn folder(plan: &Plan, files: &BTreeMap<String, Rendered>) -> Result<()> {
    let parent = plan.data.parent().with_context(|| format!("cannot make {}", plan.data.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let name = plan.data.file_name().unwrap_or_default().to_string_lossy();
    let beside = parent.join(format!(".{name}.new-{}", std::process::id()));
    let _ = fs::remove_dir_all(&beside);
    let made = fill(plan, files, &beside).and_then(|()| {
        // An empty folder that is there already is replaced.
        fs::rename(&beside, &plan.data)
            .with_context(|| format!("cannot put the new folder into its place {}", plan.data.display()))
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&beside);
    }
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
    let record = serde_json::to_vec_pretty(&record(plan, files)).context("cannot write the record")?;
    write(&root.join(RECORD), &record, 0o600)?;
    link(&plan.bundle.join("bin/dkm"), &root.join("bin/dkm"))?;
    link(&plan.bundle.join("static"), &root.join("static"))
}

fn record(plan: &Plan, files: &BTreeMap<String, Rendered>) -> Record {
    let context = &plan.context;
    Record {
        schema: 1,
        version: context.version.clone(),
        stack: plan.stack.clone(),
        bundle: plan.bundle.clone(),
        kind: plan.kind,
        hostname: context.hostname.clone(),
        interval: context.interval,
        retention: context.retention.clone(),
        ports: context.ports.iter().map(|(&name, &number)| (name.to_owned(), number)).collect(),
        system_collectd: plan.system_collectd,
        files: files.iter().map(|(path, file)| (path.clone(), hex(&Sha256::digest(&file.content)))).collect(),
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make_folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the folder {}", path.display()))
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
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
