//! `mirror.json`: what a folder that `vendor-export` wrote holds, with size and hash of every file.

use super::place;
use crate::error::{Kind, WithKind as _};
use crate::stack::Stack;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// The index's name. A folder without it is a plain mirror, of source archives alone.
pub const NAME: &str = "mirror.json";

/// What tells an index from other JSON.
const FORMAT: &str = "dkumonitor-mirror";

/// The version of the format that this program writes, and the only one it reads.
const VERSION: u32 = 1;

/// The parts of a mirror beyond source archives: the folders below it, each laid out as its tools want it.
pub mod part {
    /// A module proxy, as GOPROXY takes it: modules, toolchains, and the checksum database's words on them.
    pub const GO: &str = "go";
    /// The content of npm's `_cacache`.
    pub const NPM: &str = "npm";
    /// The packages of Yarn 2 and newer, as its own zip files.
    pub const YARN: &str = "yarn";
    /// An offline mirror of Yarn 1.
    pub const YARN_CLASSIC: &str = "yarn-classic";
    /// Archives of registry packages: node, npm, Yarn.
    pub const PACKAGES: &str = "packages";
    /// A local registry, as cargo takes it.
    pub const CARGO: &str = "cargo";
}

/// One file of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content, hexadecimal.
    pub sha256: String,
}

/// How an index calls a component.
pub fn component(stack: &Stack, name: &str) -> String {
    stack.name.as_ref().map_or_else(|| name.to_owned(), |stack| format!("{stack}/{name}"))
}

/// What was exported for one component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Its version.
    pub version: String,
    /// From which registries npm took its packages, in npm's own words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub npm_registries: BTreeMap<String, String>,
}

/// The content of `mirror.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    format: String,
    version: u32,
    /// Whether the last export came to its end.
    pub complete: bool,
    /// The platforms that it was written for, such as `linux-x86_64`.
    pub platforms: BTreeSet<String>,
    /// By component; those of another stack than the root's as `STACK/NAME`.
    pub components: BTreeMap<String, Exported>,
    /// The name that cargo has for the registry that the crates were taken from. Programs tell the paths of sources by it.
    pub cargo_registry: Option<String>,
    /// By path, relative to the folder.
    pub files: BTreeMap<String, File>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            complete: false,
            platforms: BTreeSet::new(),
            components: BTreeMap::new(),
            cargo_registry: None,
            files: BTreeMap::new(),
        }
    }
}

impl Index {
    /// Reads the index of a folder; none where the folder has none.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it is damaged, of another version, or names files outside the folder.
    pub fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(NAME);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.kind(Kind::Usage, || format!("cannot read {}", path.display()))?,
        };
        let fail = |why: String| {
            Kind::Usage.error(format!("cannot use {}: {why}; let vendor-export write another folder", path.display()))
        };
        // The version first: another one may have another shape.
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
        if value["format"] != FORMAT || value["version"] != VERSION {
            return Err(fail(format!(
                "it is {} of version {}, not {FORMAT} of version {VERSION}",
                value["format"], value["version"]
            )));
        }
        let index: Self = serde_json::from_value(value).map_err(|error| fail(error.to_string()))?;
        match index.files.keys().find(|path| !Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))) {
            Some(path) => Err(fail(format!("{path:?} leads out of the folder"))),
            None => Ok(Some(index)),
        }
    }

    /// Writes the index, whole or not at all.
    ///
    /// # Errors
    /// [`Kind::Stage`] when the disk will not have it.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(NAME);
        let text = serde_json::to_vec_pretty(self)?;
        place::write(&path, &text).map(drop).kind(Kind::Stage, || format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_was_written_and_a_wrong_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Index::read(folder.path()).unwrap(), None);
        let mut index = Index::default();
        index.files.insert("go/a/@v/v1.zip".to_owned(), File { size: 1, sha256: "00".to_owned() });
        index.write(folder.path()).unwrap();
        assert_eq!(Index::read(folder.path()).unwrap().as_ref(), Some(&index));
        for hostile in ["../x", "/x", "a/../../x"] {
            let mut index = index.clone();
            index.files.insert(hostile.to_owned(), File { size: 1, sha256: "00".to_owned() });
            index.write(folder.path()).unwrap();
            let error = Index::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("leads out"), "{error}");
        }
        let newer = Index { version: VERSION + 1, ..Index::default() };
        newer.write(folder.path()).unwrap();
        assert!(Index::read(folder.path()).unwrap_err().to_string().contains("version 2"));
    }
}
