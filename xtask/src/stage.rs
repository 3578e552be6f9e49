//! Puts the compiled components together to a bundle's tree, with its manifest.
//!
//! The tree is made beside its place and renamed, so `dist/<bundle>/` is always whole. A tree that is there already, was
//! made from the same outputs and has not been touched is left as it is.

use crate::dirs::{Dirs, remove_all};
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{self, Entry, EntryKind};
use crate::outputs::Output;
use crate::plan::Planned;
use crate::progress::{self, Ui};
use crate::stack::lock::Origin;
use crate::stack::{Material, Stack};
use anyhow::Context as _;
use dkumonitor_runtime::manifest::{self, Component, FileEntry, FileKind, Manifest, Platform, SourceId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The name of a bundle's folder and archive: the product, the stack unless it is the root's, `partial` where components
/// were left out, the version.
pub fn bundle_name(stack: &Stack, partial: bool) -> String {
    let mut name = "dkumonitor".to_owned();
    for part in stack.name.as_deref().into_iter().chain(partial.then_some("partial")) {
        name.push('-');
        name.push_str(part);
    }
    format!("{name}-{}", env!("CARGO_PKG_VERSION"))
}

/// A component to be staged.
pub struct Piece<'a> {
    /// Its plan.
    pub planned: &'a Planned<'a>,
    /// What was compiled.
    pub output: Output,
}

/// What is remembered of a stage and of the archive made from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageState {
    /// A hash over the manifest, and so over all files.
    pub manifest: String,
    /// The files of the tree.
    pub entries: Vec<Entry>,
    /// The archive that was made from it, if any: its time, and how it was made.
    pub archive: Option<ArchiveState>,
}

/// What is remembered of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveState {
    /// Size, hash and time of the file.
    pub file: EntryKind,
    /// The time stamp that its members carry.
    pub mtime: u64,
}

impl StageState {
    /// Reads what is remembered; nothing where there is none.
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

/// Stages the bundle; its state says what the tree holds.
///
/// # Errors
/// [`Kind::Stage`] when two components bring the same path, or the disk does not play along.
pub fn stage(
    stack: &Stack,
    pieces: &[Piece<'_>],
    bundle: &str,
    epoch: u64,
    dirs: &Dirs,
    ui: &Ui,
) -> anyhow::Result<StageState> {
    let step = ui.step("bundle", "stage");
    let manifest = manifest_of(stack, pieces)?;
    let text = serde_json::to_vec_pretty(&manifest).map(|mut text| {
        text.push(b'\n');
        text
    })?;
    let hash = fingerprint::hex(&<sha2::Sha256 as sha2::Digest>::digest(&text));
    let tree = dirs.tree(bundle);
    let before = StageState::read(&dirs.state(bundle));
    if before.manifest == hash && tree.is_dir() && fingerprint::difference(&tree, &before.entries).is_none() {
        step.done("unchanged");
        return Ok(before);
    }
    fs::create_dir_all(&dirs.dist).with_context(|| format!("cannot make {}", dirs.dist.display()))?;
    let entries = lay(pieces, &text, &tree, epoch, dirs).kind(Kind::Stage, || format!("cannot stage {}", tree.display()))?;
    let size: u64 = entries.iter().map(size_of).sum();
    let state = StageState { manifest: hash, entries, archive: None };
    state.write(&dirs.state(bundle))?;
    step.done(&format!("{} files, {}", state.entries.len(), progress::bytes(size)));
    Ok(state)
}

/// The bytes of a file; a link counts as none.
fn size_of(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::File { size, .. } => size,
        EntryKind::Link { .. } => 0,
    }
}

/// Makes the tree beside its place and puts it there.
fn lay(pieces: &[Piece<'_>], manifest: &[u8], tree: &Path, epoch: u64, dirs: &Dirs) -> anyhow::Result<Vec<Entry>> {
    let prefix = draft_prefix(tree);
    forget_drafts(&dirs.dist, &prefix)?;
    let draft = tempfile::Builder::new().prefix(&prefix).tempdir_in(&dirs.dist)?;
    let new = draft.path().join("new");
    fs::create_dir(&new)?;
    for piece in pieces {
        for entry in &piece.output.record.entries {
            copy_entry(&piece.output.tree().join(&entry.path), &new.join(&entry.path), entry, epoch)?;
        }
    }
    let path = new.join(manifest::FILE_NAME);
    fs::write(&path, manifest).with_context(|| format!("cannot write {}", path.display()))?;
    set_mtime(&path, epoch)?;
    // The folder itself was made readable by nobody else, as temporary folders are.
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let entries = recorded(pieces, &new)?;
    if tree.symlink_metadata().is_ok() {
        fs::rename(tree, draft.path().join("old")).with_context(|| format!("cannot move {} away", tree.display()))?;
    }
    fs::rename(&new, tree).with_context(|| format!("cannot make {}", tree.display()))?;
    remove_all(draft.path())?;
    Ok(entries)
}

/// How the drafts of a tree are named. Another bundle that is staged into the same folder has other ones.
fn draft_prefix(tree: &Path) -> String {
    format!(".draft-{}-", tree.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes the drafts that killed runs have left. Ours is the only run on this bundle: it holds the build folder's lock.
fn forget_drafts(dist: &Path, prefix: &str) -> anyhow::Result<()> {
    for entry in fs::read_dir(dist).with_context(|| format!("cannot read {}", dist.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            remove_all(&entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// The record of the new tree: hashes are known from the outputs, times are those of the copies.
fn recorded(pieces: &[Piece<'_>], root: &Path) -> anyhow::Result<Vec<Entry>> {
    let own = root.join(manifest::FILE_NAME);
    let own_kind = fingerprint::known(&own, fingerprint::hash_file(&own)?)?;
    let mut entries: Vec<Entry> = pieces.iter().flat_map(|piece| piece.output.record.entries.iter().cloned()).collect();
    for entry in &mut entries {
        if let EntryKind::File { sha256, .. } = &entry.kind {
            entry.kind = fingerprint::known(&root.join(&entry.path), sha256.clone())?;
        }
    }
    entries.push(Entry { path: PathBuf::from(manifest::FILE_NAME), kind: own_kind });
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn copy_entry(from: &Path, to: &Path, entry: &Entry, epoch: u64) -> anyhow::Result<()> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    match &entry.kind {
        EntryKind::Link { target } => symlink(target, to).with_context(|| format!("cannot make the link {}", to.display())),
        EntryKind::File { .. } => {
            fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
            set_mtime(to, epoch)
        }
    }
}

fn set_mtime(path: &Path, epoch: u64) -> anyhow::Result<()> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch);
    fs::File::open(path)
        .and_then(|file| file.set_modified(time))
        .with_context(|| format!("cannot set the time of {}", path.display()))
}

/// The manifest of a bundle.
fn manifest_of(stack: &Stack, pieces: &[Piece<'_>]) -> anyhow::Result<Manifest> {
    let mut owners: BTreeMap<&Path, &str> = BTreeMap::new();
    let mut files = Vec::new();
    for piece in pieces {
        let name = piece.planned.recipe.name.as_str();
        for entry in &piece.output.record.entries {
            if let Some(other) = owners.insert(&entry.path, name) {
                return Err(Kind::Stage.error(format!(
                    "{} comes from both {other} and {name}; mend [[install]] in one of their recipes",
                    entry.path.display()
                )));
            }
            files.push(file_entry(entry)?);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Manifest {
        schema: manifest::SCHEMA,
        name: "dkumonitor".to_owned(),
        stack: stack.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        platform: Platform::current(),
        components: pieces.iter().map(|piece| component(stack, piece)).collect::<anyhow::Result<_>>()?,
        services: pieces.iter().filter_map(|piece| piece.planned.recipe.service.clone()).collect(),
        files,
    })
}

fn file_entry(entry: &Entry) -> anyhow::Result<FileEntry> {
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Kind::Stage.error(format!("the name {} is not UTF-8 and cannot be in a bundle", path.display())))
    };
    let kind = match &entry.kind {
        EntryKind::File { size, mode, sha256, .. } => {
            FileKind::File { size: *size, mode: format!("{mode:04o}"), sha256: sha256.clone() }
        }
        EntryKind::Link { target } => FileKind::Link { target: text(target)? },
    };
    Ok(FileEntry { path: text(&entry.path)?, kind })
}

fn component(stack: &Stack, piece: &Piece<'_>) -> anyhow::Result<Component> {
    let planned = piece.planned;
    let recipe = planned.recipe;
    let key = &piece.output.record.key.0;
    let tree = |path: String| SourceId::Tree { path, tree_sha256: key.get("source").cloned().unwrap_or_default() };
    let (license, purl, source) = match planned.material {
        Material::Workspace => (env!("CARGO_PKG_LICENSE").to_owned(), None, tree(".".to_owned())),
        Material::Locked(source) => {
            let id = match source.origin() {
                Origin::Archive { sha256 } => SourceId::Archive {
                    sha256: sha256.to_owned(),
                    size: source.size,
                    url: source.urls.first().cloned().unwrap_or_default(),
                },
                Origin::Folder(path) => tree(path.display().to_string()),
            };
            (source.license.clone(), source.purl.clone(), id)
        }
    };
    let patch = |name: &String| -> anyhow::Result<manifest::Patch> {
        let sha256 = fingerprint::hash_file(&stack.patch_path(recipe, name))?;
        Ok(manifest::Patch { name: name.clone(), sha256 })
    };
    Ok(Component {
        name: recipe.name.clone(),
        version: planned.version().to_owned(),
        license,
        purl,
        source,
        patches: recipe.patches.iter().map(patch).collect::<anyhow::Result<_>>()?,
        toolchain: piece.output.record.toolchain.clone(),
    })
}
