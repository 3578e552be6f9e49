//! How large a bundle is, and how large the last release was.
//!
//! A stack keeps the sizes of its last release in a small file beside its `vendor.lock`, which `cargo xtask gate --record` writes.
//! A manifest of another bundle can stand for it.

use crate::error::{Kind, WithKind as _};
use crate::progress;
use dkumonitor_interface::manifest::{FileKind, Manifest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Where a stack keeps the sizes of its last release.
pub const FILE_NAME: &str = "sizes.json";

/// Sizes that differ by less are not worth a word, in bytes.
const SMALL: u64 = 64 * 1024;

/// The sizes of one bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// The bundle's version.
    pub version: String,
    /// Bytes of its archives, by ending (`tar.gz`).
    #[serde(default)]
    pub archives: BTreeMap<String, u64>,
    /// Bytes in files, by the first part of their paths.
    pub folders: BTreeMap<String, u64>,
}

/// Those of a stack's last releases, by the bundle's name without its version.
pub type Released = BTreeMap<String, Sizes>;

impl Sizes {
    /// Of a bundle.
    pub fn of(manifest: &Manifest) -> Self {
        let mut folders = BTreeMap::new();
        for file in &manifest.files {
            if let FileKind::File { size, .. } = file.kind {
                let top = file.path.split('/').next().unwrap_or_default();
                *folders.entry(top.to_owned()).or_default() += size;
            }
        }
        Self { version: manifest.version.clone(), archives: BTreeMap::new(), folders }
    }

    /// Bytes in all files.
    pub fn total(&self) -> u64 {
        self.folders.values().sum()
    }

    /// In words, what has grown by more than so many percent since `last`; nothing where nothing has.
    pub fn growth(&self, last: &Self, percent: u32) -> Vec<String> {
        let too_large = |new: u64, old: u64| new > old.saturating_add(old.saturating_mul(u64::from(percent)) / 100 + SMALL);
        let said = |what: &str, new: u64, old: u64| {
            format!(
                "{what} has {}, and had {} in {}: more than {percent} % more",
                progress::bytes(new),
                progress::bytes(old),
                last.version
            )
        };
        let mut grown = Vec::new();
        for (ending, new) in &self.archives {
            if let Some(old) = last.archives.get(ending).filter(|old| too_large(*new, **old)) {
                grown.push(said(&format!("the .{ending}"), *new, *old));
            }
        }
        if too_large(self.total(), last.total()) {
            let old_of = |name: &String| last.folders.get(name).copied().unwrap_or_default();
            let most = self.folders.iter().max_by_key(|(name, new)| new.saturating_sub(old_of(name)));
            let most = most.map_or_else(String::new, |(name, new)| {
                format!("; most of it in {name}: {} now, {} then", progress::bytes(*new), progress::bytes(old_of(name)))
            });
            grown.push(said("the unpacked bundle", self.total(), last.total()) + &most);
        }
        grown
    }
}

/// Those of the last releases of the stack in `root`.
///
/// # Errors
/// [`Kind::Usage`] when they cannot be understood.
pub fn read(root: &Path) -> anyhow::Result<Released> {
    let path = root.join(FILE_NAME);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Released::new()),
        other => other.kind(Kind::Usage, || format!("cannot read {}", path.display()))?,
    };
    serde_json::from_slice(&text).kind(Kind::Usage, || format!("cannot use {}", path.display()))
}

/// Notes the sizes of a bundle as those of the last release.
///
/// # Errors
/// [`Kind::Usage`] when what is noted already cannot be understood, [`Kind::Other`] when nothing can be written.
pub fn record(root: &Path, name: &str, sizes: &Sizes) -> anyhow::Result<()> {
    let path = root.join(FILE_NAME);
    let mut released = read(root)?;
    let mut sizes = sizes.clone();
    if let Some(same) = released.get(name).filter(|old| old.version == sizes.version) {
        // The archives of one release are noted one after the other.
        let others = same.archives.iter().map(|(ending, size)| (ending.clone(), *size));
        sizes.archives = others.chain(sizes.archives).collect();
    }
    released.insert(name.to_owned(), sizes);
    let mut draft = tempfile::NamedTempFile::new_in(root).kind(Kind::Other, || format!("cannot write {}", path.display()))?;
    serde_json::to_writer_pretty(&mut draft, &released)?;
    std::io::Write::write_all(&mut draft, b"\n")?;
    std::fs::set_permissions(draft.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    draft.persist(&path).kind(Kind::Other, || format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(version: &str, bin: u64, pages: u64) -> Sizes {
        let folders = BTreeMap::from([("bin".to_owned(), bin), ("static".to_owned(), pages)]);
        Sizes { version: version.to_owned(), archives: BTreeMap::from([("tar.gz".to_owned(), bin / 2)]), folders }
    }

    #[test]
    fn growth_is_told_by_archive_and_by_what_grew() {
        let last = sizes("1.0.0", 10_000_000, 30_000_000);
        assert_eq!(sizes("1.1.0", 10_500_000, 30_000_000).growth(&last, 10), Vec::<String>::new());
        let grown = sizes("1.1.0", 20_000_000, 30_100_000).growth(&last, 10);
        assert_eq!(grown.len(), 2, "{grown:?}");
        assert!(grown[0].starts_with("the .tar.gz has") && grown[1].contains("most of it in bin"), "{grown:?}");
        assert_eq!(sizes("1.1.0", 1_000, 1_000).growth(&last, 0), Vec::<String>::new());
    }

    #[test]
    fn what_is_recorded_is_read_again_and_the_archives_of_a_release_come_together() {
        let folder = tempfile::tempdir().unwrap();
        let first = sizes("1.0.0", 10, 20);
        record(folder.path(), "dkumonitor", &first).unwrap();
        let second = Sizes { archives: BTreeMap::from([("tar.xz".to_owned(), 3)]), ..first.clone() };
        record(folder.path(), "dkumonitor", &second).unwrap();
        record(folder.path(), "dkumonitor-agent", &sizes("1.0.0", 1, 1)).unwrap();
        let released = read(folder.path()).unwrap();
        assert_eq!((released.len(), released["dkumonitor"].archives.len()), (2, 2));
        std::fs::write(folder.path().join(FILE_NAME), "{").unwrap();
        assert!(format!("{:#}", read(folder.path()).unwrap_err()).contains("cannot use"));
    }
}
