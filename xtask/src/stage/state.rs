//! What is remembered of a bundle's tree and of its archives, to know whether they still stand.

use crate::archive::Format;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What is remembered of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// A hash over everything that the tree was made from.
    pub inputs: String,
    /// A hash over the stamps of the tree's files, as they were when last hashed; none when they have to be hashed again.
    pub tree: Option<String>,
    /// How many files and links the tree has.
    pub entries: u64,
    /// The archives that were made from it.
    #[serde(default)]
    pub archives: BTreeMap<Format, Archived>,
    /// A hash over the stamps of what lies beside the archives and tells of them; none when it has to be written anew.
    #[serde(default)]
    pub papers: Option<String>,
}

/// What is remembered of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// Of the whole file.
    pub sha256: String,
    /// The time stamp that its members carry.
    pub epoch: u64,
    /// Of a package or an image: in which way it was packed ([`crate::packing::VERSION`]).
    #[serde(default)]
    pub packed: String,
    /// A hash over the stamps of the archive and the checksum beside it, as they were when last hashed.
    pub stamp: Option<String>,
    /// The seal of the gate that it has passed ([`crate::gate::Gate::seal`]); none where it has passed none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<String>,
}

impl State {
    /// Reads what is remembered; nothing where there is nothing that can be understood.
    pub fn read(path: &Path) -> Self {
        fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Remembers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        serde_json::to_writer(&mut file, self)?;
        file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }
}

/// Forgets all stamps of all bundles in the folder `states`: trees and archives are hashed before they are believed again.
pub fn forget_stamps(states: &Path) {
    for path in fs::read_dir(states).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let mut state = State::read(&path);
        state.tree = None;
        state.papers = None;
        state.archives.values_mut().for_each(|archive| archive.stamp = None);
        // Were it not written, it would at worst be believed as before.
        let _ = state.write(&path);
    }
}
