//! What was compiled: for each component, the part of the bundle that it is, and by which inputs it was made.
//!
//! `build/outputs/<component>/<key>/` holds `tree/` and `output.json`. A folder of that name is always whole: it is made
//! under another name and renamed. Before an output is used its files are compared with the record by size, time and
//! mode, which sees any accident short of malice; a damaged output is thrown away and made again.

use crate::dirs;
use crate::error::Kind;
use crate::fingerprint::{self, Entry};
use crate::key::Key;
use crate::shell::Cost;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder of an output that is laid over the bundle.
pub const TREE: &str = "tree";

/// The record's name.
const RECORD: &str = "output.json";

/// How many outputs of one component are kept, so that going back to an earlier state costs no compiling.
const KEPT: usize = 3;

/// A component's output that is whole.
#[derive(Clone, Debug)]
pub struct Output {
    /// `build/outputs/<component>/<key>`.
    pub folder: PathBuf,
    /// What is known of it.
    pub record: Record,
}

/// The content of `output.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The recipe's name.
    pub component: String,
    /// Everything that the output depends on, by name.
    pub key: Key,
    /// The compilers it was made by, for the bundle's manifest.
    pub toolchain: BTreeMap<String, String>,
    /// Its files and links, sorted.
    pub entries: Vec<Entry>,
    /// What its steps cost when they ran.
    pub steps: Vec<StepCost>,
}

/// What a step cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepCost {
    /// The step's name.
    pub name: String,
    /// Seconds on the clock.
    pub wall_s: f64,
    /// Seconds of processor time.
    pub cpu_s: f64,
    /// Memory of the largest process, in bytes.
    pub peak: u64,
}

impl StepCost {
    /// A step's name with its cost.
    pub fn new(name: &str, cost: Cost) -> Self {
        Self { name: name.to_owned(), wall_s: cost.wall.as_secs_f64(), cpu_s: cost.cpu.as_secs_f64(), peak: cost.peak }
    }

    /// The cost without the name.
    pub fn cost(&self) -> Cost {
        let cpu = Duration::try_from_secs_f64(self.cpu_s).unwrap_or_default();
        Cost { wall: self.wall(), cpu, peak: self.peak }
    }

    /// The time on the clock.
    pub fn wall(&self) -> Duration {
        Duration::try_from_secs_f64(self.wall_s).unwrap_or_default()
    }
}

impl Output {
    /// The folder that is laid over the bundle.
    pub fn tree(&self) -> PathBuf {
        self.folder.join(TREE)
    }
}

/// Seals a finished draft: writes its record, and renames it to its key.
///
/// # Errors
/// When the disk does not play along.
pub fn seal(draft: tempfile::TempDir, folder: &Path, record: Record) -> anyhow::Result<Output> {
    let path = draft.path().join(RECORD);
    let text = serde_json::to_vec_pretty(&record)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let target = folder.join(record.key.short());
    dirs::remove_all(&target).with_context(|| format!("cannot remove {}", target.display()))?;
    fs::rename(draft.path(), &target).with_context(|| format!("cannot make {}", target.display()))?;
    // The draft has another name now; nothing is left under the old one for the guard to remove.
    let _ = draft.keep();
    Ok(Output { folder: target, record })
}

/// The output of this key, if there is one and it is as it was made.
///
/// # Errors
/// The reason why an output that is there cannot be used; it has been removed.
pub fn find(folder: &Path, key: &Key) -> Result<Option<Output>, String> {
    let target = folder.join(key.short());
    let Some(output) = read(&target) else { return Ok(None) };
    if output.record.key != *key {
        return Ok(None);
    }
    match fingerprint::difference(&output.tree(), &output.record.entries) {
        None => Ok(Some(output)),
        Some(why) => {
            let _ = dirs::remove_all(&target);
            Err(format!("what was compiled is damaged ({why})"))
        }
    }
}

/// The output that was made or used last, whatever its key.
pub fn latest(folder: &Path) -> Option<Output> {
    by_age(folder).into_iter().find_map(|path| read(&path))
}

/// Marks an output as used now.
pub fn touch(output: &Output) {
    // Only the order of removal depends on it.
    if let Ok(file) = fs::File::open(output.folder.join(RECORD)) {
        let _ = file.set_modified(std::time::SystemTime::now());
    }
}

/// Removes all but the newest outputs, and drafts that a killed run has left.
///
/// # Errors
/// When something cannot be removed.
pub fn keep_newest(folder: &Path) -> anyhow::Result<()> {
    let mut kept = 0;
    for path in by_age(folder) {
        if read(&path).is_some() && kept < KEPT {
            kept += 1;
        } else {
            dirs::remove_all(&path).map_err(|error| Kind::Stage.error(format!("cannot remove {}: {error}", path.display())))?;
        }
    }
    Ok(())
}

fn read(folder: &Path) -> Option<Output> {
    let text = fs::read(folder.join(RECORD)).ok()?;
    let record = serde_json::from_slice(&text).ok()?;
    Some(Output { folder: folder.to_owned(), record })
}

/// All entries of an output folder, those used last first.
fn by_age(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let used = |path: &Path| fs::metadata(path.join(RECORD)).and_then(|meta| meta.modified()).ok();
    let mut paths: Vec<_> = entries.flatten().map(|entry| (used(&entry.path()), entry.path())).collect();
    paths.sort();
    paths.into_iter().rev().map(|(_, path)| path).collect()
}
