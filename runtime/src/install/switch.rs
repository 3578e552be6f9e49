//! From one version to another: decided as a whole, then carried out, whatever dies in between.
//!
//! A [`Switch`] says for every file of the data folder that changes what it was and what it will be. It is prepared in
//! `update.draft/`, with both contents. Renaming that to `update/` is the decision; before it nothing has happened, after it the
//! switch is carried out to its end, by this process or by whoever comes next ([`complete`]). Each of its parts can be repeated.
//! Done, it becomes `previous/`, from which [`Switch::back`] makes the way back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::build::{BUNDLE, make_folder, write};
use crate::home;
use crate::integrity::hex;

/// Where a switch is prepared; what is left of a killed one has no meaning but its list of services.
pub const DRAFT: &str = "update.draft";
/// A switch that is decided.
pub const DECIDED: &str = "update";
/// The last one, done.
pub const PREVIOUS: &str = "previous";
/// The description in each of them.
const FILE: &str = "switch.json";
/// Contents before.
const OLD: &str = "old";
/// Contents after.
const NEW: &str = "new";
/// Grafana's database as it was before, among what a switch keeps.
pub const DATABASE_BEFORE: &str = "grafana.db";
/// Grafana's database as it will be.
const DATABASE_AFTER: &str = "grafana.db.restored";
/// What a copy of a database may have beside it, by the endings of their names.
const COMPANIONS: [&str; 2] = ["-wal", "-journal"];
/// Grafana's database.
pub const DATABASE: &str = "storage/grafana/grafana.db";

/// One end of a switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Side {
    /// The bundle's version.
    pub version: String,
    /// Its folder, free of links.
    pub bundle: PathBuf,
}

/// What a file is at one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Content {
    /// Of its bytes.
    pub sha256: String,
    /// Its permission bits.
    pub mode: u32,
}

/// A file that changes; at an end where it has no content it does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Relative to the data folder.
    pub path: String,
    /// What it was.
    pub old: Option<Content>,
    /// What it will be.
    pub new: Option<Content>,
}

/// Everything that changes from one version to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Switch {
    /// Before.
    pub from: Side,
    /// After.
    pub to: Side,
    /// The files.
    pub changes: Vec<Change>,
    /// Files of the user's that stay as they are although the versions differ in them.
    pub kept: Vec<String>,
    /// Whether Grafana's database is put back to what the switch holds.
    pub restores_database: bool,
    /// The services that ran.
    pub running: Vec<String>,
    /// The services that are not the same at both ends; none when nobody has looked, and all may be.
    #[serde(default)]
    pub concerned: Option<Vec<String>>,
}

/// A file's bytes and mode; none when there is no such file.
///
/// # Errors
/// When it is there and cannot be read.
pub fn look(path: &Path) -> Result<Option<(Vec<u8>, Content)>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mode = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.permissions().mode() & 0o7777;
    let content = Content { sha256: hex(&Sha256::digest(&bytes)), mode };
    Ok(Some((bytes, content)))
}

impl Switch {
    /// The services that run and are not the same at both ends.
    #[must_use]
    pub fn restarted(&self) -> Vec<String> {
        let concerned = |name: &&String| self.concerned.as_ref().is_none_or(|concerned| concerned.contains(name));
        self.running.iter().filter(concerned).cloned().collect()
    }

    /// Reads the switch in one of the three folders; none when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be understood.
    pub fn read(root: &Path, folder: &str) -> Result<Option<Self>> {
        let path = root.join(folder).join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).with_context(|| format!("cannot understand {}", path.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Prepares the switch with the contents that files will have. Nothing in use changes by that.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn prepare(&self, root: &Path, contents: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        let draft = root.join(DRAFT);
        remove(&draft)?;
        make_folder(&draft)?;
        for change in &self.changes {
            if let (Some(old), Some((bytes, _))) = (&change.old, look(&root.join(&change.path))?) {
                write(&draft.join(OLD).join(&change.path), &bytes, old.mode)?;
            }
            if let (Some(new), Some(bytes)) = (&change.new, contents.get(&change.path)) {
                write(&draft.join(NEW).join(&change.path), bytes, new.mode)?;
            }
        }
        let text = serde_json::to_vec_pretty(self).context("cannot write the update down")?;
        write(&draft.join(FILE), &text, 0o600)
    }

    /// Decides for the prepared switch: from here on it is carried out.
    ///
    /// # Errors
    /// When the disk does not play along; then nothing has happened.
    pub fn decide(root: &Path) -> Result<()> {
        sync_all(&root.join(DRAFT))?;
        fs::rename(root.join(DRAFT), root.join(DECIDED))
            .with_context(|| format!("cannot begin the update in {}", root.display()))?;
        sync(root)
    }

    /// Carries the decided switch out.
    ///
    /// # Errors
    /// When something cannot be written; it can be repeated.
    fn carry_out(&self, root: &Path) -> Result<()> {
        let folder = root.join(DECIDED);
        for change in &self.changes {
            let path = root.join(&change.path);
            match &change.new {
                None => remove(&path)?,
                Some(new) => {
                    let source = folder.join(NEW).join(&change.path);
                    let bytes = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
                    make_folder(path.parent().unwrap_or(root))?;
                    home::write_renamed_alone(&path, &bytes, new.mode)?;
                }
            }
        }
        if self.restores_database {
            restore_database(root, &folder)?;
        }
        relink(root, &self.to.bundle)?;
        let done = root.join(PREVIOUS);
        remove(&done)?;
        fs::rename(&folder, &done).with_context(|| format!("cannot end the update in {}", root.display()))?;
        for ending in COMPANIONS.into_iter().chain([""]) {
            // It is in its place, and may be large.
            remove(&home::beside(&done.join(DATABASE_AFTER), ending))?;
        }
        sync(root)
    }

    /// The way back: what the last switch changed, and the user has not changed since.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn back(&self, root: &Path) -> Result<(Self, BTreeMap<String, Vec<u8>>)> {
        let mut contents = BTreeMap::new();
        let (mut changes, mut kept) = (Vec::new(), Vec::new());
        for change in &self.changes {
            let found = look(&root.join(&change.path))?.map(|(_, content)| content);
            if found.as_ref().map(|content| &content.sha256) != change.new.as_ref().map(|content| &content.sha256) {
                kept.push(change.path.clone());
                continue;
            }
            if change.old.is_some() {
                let path = root.join(PREVIOUS).join(OLD).join(&change.path);
                let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                contents.insert(change.path.clone(), bytes);
            }
            changes.push(Change { path: change.path.clone(), old: found, new: change.old.clone() });
        }
        let restores_database = root.join(PREVIOUS).join(DATABASE_BEFORE).is_file();
        let (from, to) = (self.to.clone(), self.from.clone());
        let (running, concerned) = (Vec::new(), self.concerned.clone());
        Ok((Self { from, to, changes, kept, restores_database, running, concerned }, contents))
    }

    /// Puts the database that the last switch has kept among what this one will carry out.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn take_database_back(&self, root: &Path) -> Result<()> {
        if !self.restores_database {
            return Ok(());
        }
        let (from, to) = (root.join(PREVIOUS).join(DATABASE_BEFORE), root.join(DRAFT).join(DATABASE_AFTER));
        for ending in COMPANIONS.into_iter().chain([""]) {
            let (from, to) = (home::beside(&from, ending), home::beside(&to, ending));
            if ending.is_empty() || from.is_file() {
                fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        Ok(())
    }
}

/// Ends a switch that was decided and not finished. Gives what it was.
///
/// # Errors
/// When it cannot be finished.
pub fn complete(root: &Path) -> Result<Option<Switch>> {
    let Some(switch) = Switch::read(root, DECIDED)? else { return Ok(None) };
    switch.carry_out(root).with_context(|| {
        format!("cannot finish the change of {} from {} to {}", root.display(), switch.from.version, switch.to.version)
    })?;
    Ok(Some(switch))
}

/// Puts the kept database in its place, with what it has beside it: a log of changes that are not in it yet. What SQLite has beside the
/// present one belongs to that and goes with it.
fn restore_database(root: &Path, folder: &Path) -> Result<()> {
    let (from, to) = (folder.join(DATABASE_AFTER), root.join(DATABASE));
    // Copied and not moved, and the database itself last: an attempt that is cut short can be repeated.
    for ending in ["-shm"].into_iter().chain(COMPANIONS).chain([""]) {
        let (from, to) = (home::beside(&from, ending), home::beside(&to, ending));
        remove(&to)?;
        if from.is_file() {
            let made = home::beside(&to, ".restored~");
            let put = fs::copy(&from, &made).and_then(|_| fs::rename(&made, &to));
            put.with_context(|| format!("cannot put {} back", to.display()))?;
            sync(&to)?;
        }
    }
    Ok(())
}

/// Lets the data folder lead to another bundle.
///
/// # Errors
/// When the link cannot be made.
pub fn relink(root: &Path, bundle: &Path) -> Result<()> {
    let beside = root.join(format!(".{BUNDLE}~"));
    remove(&beside)?;
    symlink(bundle, &beside)
        .and_then(|()| fs::rename(&beside, root.join(BUNDLE)))
        .with_context(|| format!("cannot link {} to {}", root.join(BUNDLE).display(), bundle.display()))
}

/// Removes a file or folder; that it is not there is fine.
///
/// # Errors
/// When it stays.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Brings a folder and all in it to the disk.
///
/// # Errors
/// When the disk does not play along.
pub fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot look into {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot look into {}", folder.display()))?.path();
        match (path.is_symlink(), path.is_dir()) {
            // It is a part of its folder.
            (true, _) => {}
            (false, true) => sync_all(&path)?,
            (false, false) => sync(&path)?,
        }
    }
    sync(folder)
}

/// Brings a file, or a folder's list of names, to the disk.
///
/// # Errors
/// When the disk does not play along.
pub fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).with_context(|| format!("cannot write {} to the disk", path.display()))
}
