//! Writes a mirror: source archives and everything that dependency steps have gathered, with an index.
//!
//! A file gets its name when it is whole. The index is written first, marked as not complete, and last, when everything is on
//! disk: an export that was killed is known for what it is and gone on with. What is there already is hashed and kept, what is
//! damaged or missing is written again; nothing is removed, so that one folder can serve several stacks and versions.

use super::crates::{self, Crate, Fetched};
use super::index::{self, Exported, File, Index, part};
use super::place;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Held while an export is written, so that two runs cannot write one.
const LOCK: &str = ".lock";

/// Whether all files are brought to disk at once, before the index says that they are there. An export that ended before that
/// is not complete, and the next one looks into every file.
const SYNC_AT_END: bool = cfg!(target_os = "linux");

/// A mirror that is being written.
pub struct Export {
    folder: PathBuf,
    index: Index,
    /// What this run exports.
    wanted: BTreeSet<String>,
    added: u64,
    added_bytes: u64,
    _lock: fs::File,
}

/// What an export came to.
#[derive(Debug)]
pub struct Summary {
    /// All files of the mirror, without the index.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
    /// Those that were written now.
    pub added: u64,
    /// The size of these.
    pub added_bytes: u64,
    /// Files of earlier exports that are gone or of another size.
    pub lost: Vec<String>,
}

impl Export {
    /// Opens a folder to be written to: a new or empty one, or one that an export was written to before.
    ///
    /// # Errors
    /// [`Kind::Usage`] for any other folder; [`Kind::Other`] when another run writes it; [`Kind::Stage`] for the disk's.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write to {}", folder.display());
        let known = Index::read(folder)?;
        if known.is_none() {
            let foreign = |entries: fs::ReadDir| entries.flatten().find(|entry| !is_own(&entry.file_name().to_string_lossy()));
            if let Some(entry) = folder.read_dir().ok().and_then(foreign) {
                return Err(Kind::Usage.error(format!(
                    "{} holds {} and is no mirror that vendor-export has written; give a new or an empty folder",
                    folder.display(),
                    entry.file_name().display()
                )));
            }
        }
        fs::create_dir_all(folder).kind(Kind::Stage, cannot)?;
        let lock = fs::File::create(folder.join(LOCK)).kind(Kind::Stage, cannot)?;
        if lock.try_lock().is_err() {
            return Err(Kind::Other.error(format!("another run writes to {}; wait for its end", folder.display())));
        }
        let mut index = known.unwrap_or_default();
        index.complete = false;
        index.write(folder)?;
        let export = Self { folder: folder.to_owned(), index, wanted: BTreeSet::new(), added: 0, added_bytes: 0, _lock: lock };
        export.remove_drafts();
        Ok(export)
    }

    /// What a run that was killed has left half written.
    fn remove_drafts(&self) {
        for entry in WalkDir::new(&self.folder).into_iter().flatten() {
            if entry.file_type().is_file() && entry.file_name().to_string_lossy().starts_with(place::DRAFT) {
                // What stays harms nobody: it is in no index.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Takes files by the paths that they have in the mirror; what is there already and right is left alone.
    ///
    /// # Errors
    /// [`Kind::Stage`] when a file cannot be read or written.
    pub fn add(&mut self, files: &[(String, PathBuf)]) -> anyhow::Result<()> {
        let folder = &self.folder;
        let results = place::each(files, |(path, from)| {
            let to = folder.join(path);
            let cannot = || format!("cannot copy {} to {}", from.display(), to.display());
            if let Some(file) = same_file(from, &to) {
                return Ok((file, false));
            }
            place::copy(from, &to, None, !SYNC_AT_END).kind(Kind::Stage, cannot).map(|file| (file, true))
        })?;
        for ((path, _), (file, new)) in files.iter().zip(results) {
            self.note(path, file, new);
        }
        Ok(())
    }

    /// Writes a file of the mirror, unless it is so already.
    ///
    /// # Errors
    /// [`Kind::Stage`] when it cannot be written.
    pub fn write(&mut self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        let to = self.folder.join(path);
        let new = !fs::read(&to).is_ok_and(|old| old == content);
        let file = if new {
            place::write(&to, content).kind(Kind::Stage, || format!("cannot write {}", to.display()))?
        } else {
            File { size: content.len() as u64, sha256: fingerprint::hash_file(&to)? }
        };
        self.note(path, file, new);
        Ok(())
    }

    fn note(&mut self, path: &str, file: File, new: bool) {
        if new {
            self.added += 1;
            self.added_bytes += file.size;
        }
        self.wanted.insert(path.to_owned());
        self.index.files.insert(path.to_owned(), file);
    }

    /// Takes crates from cargo's own folder, as a registry that cargo itself can read.
    ///
    /// # Errors
    /// [`Kind::Fetch`] when cargo lacks one; [`Kind::Stage`] when one cannot be written.
    pub fn add_crates(&mut self, pinned: &BTreeSet<Crate>, cargo_home: &Path) -> anyhow::Result<()> {
        if pinned.is_empty() {
            return Ok(());
        }
        let fetched: Vec<Fetched> = pinned.iter().map(|krate| crates::find(krate, cargo_home)).collect::<Result<_, _>>()?;
        let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut files = Vec::new();
        for (krate, fetched) in pinned.iter().zip(&fetched) {
            lines.entry(&fetched.index_path).or_default().push(fetched.index_line.clone());
            files.push((format!("{}/{}.crate", part::CARGO, krate.folder_name()), fetched.archive.clone()));
        }
        self.add(&files)?;
        for (path, new) in lines {
            let path = format!("{}/index/{path}", part::CARGO);
            // What another stack has put there stays.
            let old = fs::read_to_string(self.folder.join(&path)).unwrap_or_default();
            self.write(&path, crates::merge_lines(&old, &new).as_bytes())?;
        }
        self.index.cargo_registry = fetched.first().map(|fetched| fetched.registry.clone());
        self.write(&format!("{}/config.toml", part::CARGO), crates::CONFIG.as_bytes())
    }

    /// Notes that a component was exported whole.
    pub fn note_component(&mut self, name: String, exported: Exported) {
        self.index.components.insert(name, exported);
    }

    /// Ends the export: the index now says that it is complete.
    ///
    /// # Errors
    /// [`Kind::Stage`] when the index cannot be written.
    pub fn finish(mut self, platform: String) -> anyhow::Result<Summary> {
        let Self { folder, index, wanted, .. } = &mut self;
        let lost: Vec<String> = index
            .files
            .iter()
            .filter(|(path, file)| {
                !wanted.contains(*path) && !folder.join(path).metadata().is_ok_and(|found| found.len() == file.size)
            })
            .map(|(path, _)| path.clone())
            .collect();
        lost.iter().for_each(|path| drop(index.files.remove(path)));
        index.platforms.insert(platform);
        sync(folder).kind(Kind::Stage, || format!("cannot write {} to disk", folder.display()))?;
        index.complete = true;
        index.write(folder)?;
        Ok(Summary {
            files: self.index.files.len(),
            bytes: self.index.files.values().map(|file| file.size).sum(),
            added: self.added,
            added_bytes: self.added_bytes,
            lost,
        })
    }
}

#[cfg(target_os = "linux")]
fn sync(folder: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(folder)?)?)
}

/// Here each file was brought to disk when it was written.
#[cfg(not(target_os = "linux"))]
fn sync(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}

/// Whether a name is one that an export gives at its beginning: a run that was killed there may go on.
fn is_own(name: &str) -> bool {
    name == LOCK || name == index::NAME || name.starts_with(place::DRAFT)
}

/// Size and hash, if both files have the same content.
fn same_file(one: &Path, other: &Path) -> Option<File> {
    let size = one.metadata().ok()?.len();
    if other.metadata().ok().filter(fs::Metadata::is_file)?.len() != size {
        return None;
    }
    let sha256 = fingerprint::hash_file(other).ok()?;
    (fingerprint::hash_file(one).ok()? == sha256).then_some(File { size, sha256 })
}

/// The files below `root`, by the paths that they get in the mirror's part, as far as `keep` wants them.
///
/// # Errors
/// [`Kind::Stage`] when the folder cannot be read. One that is not there holds nothing.
pub fn files_below(root: &Path, part: &str, keep: impl Fn(&Path) -> bool) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    if !root.exists() {
        return Ok(files);
    }
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry.kind(Kind::Stage, || format!("cannot read {}", root.display()))?;
        let inner = entry.path().strip_prefix(root)?;
        if entry.file_type().is_file() && keep(inner) {
            files.push((format!("{part}/{}", inner.to_string_lossy()), entry.path().to_owned()));
        }
    }
    Ok(files)
}

/// The packages in a Yarn's own cache, by the names that they have in the cache that all its projects share.
///
/// # Errors
/// [`Kind::Fetch`] when one is not in the shared cache.
pub fn yarn_packages(own: &Path, shared: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut packages = Vec::new();
    let names = |folder: &Path| -> Vec<String> {
        let entries = folder.read_dir().into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.ends_with(".zip")).collect()
    };
    let known = names(shared);
    for (_, path) in files_below(own, part::YARN, |inner| inner.extension().is_some_and(|ending| ending == "zip"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // `slug-hash-checksum.zip` here is `slug-hash-cachekey.zip` there; the hash is one of the package's name and version.
        let stem = name.rsplit_once('-').map_or("", |(stem, _)| stem);
        let same = |candidate: &&String| {
            candidate.rsplit_once('-').is_some_and(|(other, _)| other == stem)
                && same_file(&path, &shared.join(candidate)).is_some()
        };
        let found = known.iter().find(same).ok_or_else(|| {
            let text = format!(
                "Yarn has fetched {name}, but it is not in {}; does .yarnrc.yml turn enableMirror off?",
                shared.display()
            );
            Kind::Fetch.error(text)
        })?;
        packages.push((format!("{}/{found}", part::YARN), path));
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(folder: &Path, files: &[(&str, &Path)]) -> Summary {
        let mut export = Export::open(folder).unwrap();
        let files: Vec<_> = files.iter().map(|(path, from)| ((*path).to_owned(), from.to_path_buf())).collect();
        export.add(&files).unwrap();
        export.finish("x".to_owned()).unwrap()
    }

    #[test]
    fn a_second_export_adds_what_lacks_and_mends_what_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::write(&one, "one").unwrap();
        fs::write(&two, "two").unwrap();
        let mirror = folder.path().join("mirror");
        let first = summary(&mirror, &[("a", &one)]);
        assert_eq!((first.files, first.added, first.bytes), (1, 1, 3));
        let second = summary(&mirror, &[("a", &one), ("go/b", &two)]);
        assert_eq!((second.files, second.added, second.bytes), (2, 1, 6));
        assert_eq!(summary(&mirror, &[("a", &one), ("go/b", &two)]).added, 0);
        fs::write(mirror.join("a"), "bad").unwrap();
        fs::remove_file(mirror.join("go/b")).unwrap();
        let third = summary(&mirror, &[("a", &one)]);
        assert_eq!((third.added, third.lost), (1, vec!["go/b".to_owned()]));
        assert_eq!(fs::read(mirror.join("a")).unwrap(), b"one");
    }

    #[test]
    fn an_export_that_was_killed_is_gone_on_with_and_no_foreign_folder_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = folder.path().join("mirror");
        drop(Export::open(&mirror).unwrap());
        assert!(!Index::read(&mirror).unwrap().unwrap().complete);
        fs::write(mirror.join(".draft-xyz"), "half").unwrap();
        let export = Export::open(&mirror).unwrap();
        assert!(!mirror.join(".draft-xyz").exists());
        let busy = Export::open(&mirror).err().unwrap().to_string();
        assert!(busy.contains("another run"), "{busy}");
        drop(export);
        fs::write(folder.path().join("diary.txt"), "mine").unwrap();
        let error = Export::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("diary.txt") || error.contains("mirror"), "{error}");
        assert!(!folder.path().join(index::NAME).exists());
    }
}
