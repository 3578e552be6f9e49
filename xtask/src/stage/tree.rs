//! Lays a bundle's tree: the results of its components over each other, with what accounts for all of it.
//!
//! The tree is made beside its place and renamed.

use super::{Bundle, Piece, State, manifest, sign_manifest};
use crate::account;
use crate::dirs::remove_all;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{self, Entry, EntryKind};
use crate::parallel;
use crate::progress::{self, Ui};
use crate::report::papers::Papers;
use crate::report::{self, Facts};
use crate::resources::give_memory_back;
use anyhow::Context as _;
use dkumonitor_interface::manifest::{FILE_NAME, SIGNATURE_NAME};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

impl Bundle<'_> {
    /// What the tree has to hold. What comes from no component is written to `papers`.
    pub(super) fn expected(&self, pieces: &[Piece<'_>], mut papers: Papers) -> anyhow::Result<Expected> {
        let mut entries = Vec::new();
        let mut parts = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            let all = self.store.entries(&piece.record)?;
            let (account, own): (Vec<_>, Vec<_>) = all.into_iter().partition(|entry| account::is_part(&entry.path));
            parts.push(self.part(piece, &account)?);
            entries.extend(own.into_iter().map(|entry| (entry, at + 1)));
        }
        let manifest = manifest::head(self, pieces);
        let facts = Facts { manifest: &manifest, epoch: self.epoch, parts, policy: &self.policy };
        report::write(&facts, &mut papers)?;
        drop(facts);
        entries.extend(papers.entries().map(|entry| (entry, 0)));
        let mut entries = manifest::check(pieces, entries)?;
        let manifest = manifest::whole(&manifest, &entries);
        papers.json(FILE_NAME, &manifest)?;
        if let Some(signer) = self.signer {
            let mut text = serde_json::to_vec_pretty(&manifest)?;
            text.push(b'\n');
            let signature = sign_manifest(signer, &self.name, &text);
            papers.write(SIGNATURE_NAME, |out| Ok(out.write_all(signature.as_bytes())?))?;
        }
        drop(manifest);
        let of_all =
            papers.entries().filter(|entry| [FILE_NAME, SIGNATURE_NAME].iter().any(|name| entry.path == Path::new(name)));
        entries.extend(of_all);
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Expected { papers, entries })
    }

    /// Stages the bundle.
    ///
    /// # Errors
    /// [`Kind::Stage`] when two components bring the same path, or the disk does not play along.
    pub fn stage(&self, pieces: &[Piece<'_>], ui: &Ui) -> anyhow::Result<()> {
        let step = ui.step("bundle", "stage");
        let made = self.make_tree(pieces);
        // Texts and lists of everything that is in the bundle were in memory for it; what comes next needs its own.
        give_memory_back();
        step.close(made, |(files, size)| format!("{files} files, {}", progress::bytes(*size))).map(drop)
    }

    /// Makes the tree; gives how many files it has, and their bytes.
    fn make_tree(&self, pieces: &[Piece<'_>]) -> anyhow::Result<(u64, u64)> {
        let tree = self.tree();
        let fail = || format!("cannot stage {}", tree.display());
        fs::create_dir_all(&self.dirs.dist).kind(Kind::Stage, || format!("cannot make {}", self.dirs.dist.display()))?;
        let prefix = draft_prefix(&tree);
        let draft = || -> anyhow::Result<tempfile::TempDir> {
            forget_drafts(&self.dirs.dist, &prefix)?;
            let draft = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.dirs.dist)?;
            fs::create_dir(draft.path().join(PAPERS))?;
            Ok(draft)
        };
        let draft = draft().kind(Kind::Stage, fail)?;
        let expected = self.expected(pieces, Papers::below(draft.path().join(PAPERS)))?;
        self.lay(&expected, draft.path(), &tree).kind(Kind::Stage, fail)?;
        let size: u64 = expected.entries.iter().filter_map(Entry::size).sum();
        let state = State {
            inputs: self.inputs(pieces)?,
            tree: Some(fingerprint::tree_stamp(&tree)?),
            entries: expected.entries.len() as u64,
            archives: BTreeMap::new(),
            papers: None,
        };
        self.remember(&state)?;
        Ok((state.entries, size))
    }

    /// Makes the tree in a draft beside its place and puts it there.
    fn lay(&self, expected: &Expected, draft: &Path, tree: &Path) -> anyhow::Result<()> {
        let new = draft.join("new");
        fs::create_dir(&new)?;
        for folder in expected.folders() {
            fs::create_dir_all(new.join(folder)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let failed = parallel::first_on_all_cores(&expected.entries, |entry| self.copy(entry, expected, &new).err());
        if let Some((_, error)) = failed {
            return Err(error);
        }
        // The folder itself was made readable by nobody else, as temporary folders are.
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        if tree.symlink_metadata().is_ok() {
            fs::rename(tree, draft.join("old")).with_context(|| format!("cannot move {} away", tree.display()))?;
        }
        fs::rename(&new, tree).with_context(|| format!("cannot make {}", tree.display()))?;
        remove_all(draft)?;
        Ok(())
    }

    fn copy(&self, entry: &Entry, expected: &Expected, root: &Path) -> anyhow::Result<()> {
        let to = root.join(&entry.path);
        let (mode, sha256) = match &entry.kind {
            EntryKind::Link { target } => {
                return symlink(target, &to).with_context(|| format!("cannot make the link {}", to.display()));
            }
            EntryKind::File { mode, sha256, .. } => (*mode, sha256),
        };
        let copied = match expected.papers.file(&entry.path) {
            Some(file) => fs::rename(file, &to),
            None => fs::copy(self.store.object(sha256), &to).map(drop),
        };
        copied
            .and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(mode)))
            .and_then(|()| fs::File::open(&to)?.set_modified(time(self.epoch)))
            .with_context(|| format!("cannot write {}", to.display()))
    }
}

fn time(epoch: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch)
}

/// Where papers lie in a draft until the tree is laid.
const PAPERS: &str = "papers";

/// What a tree has to hold.
pub(super) struct Expected {
    /// What comes from no component: its manifest, that one's signature, and what accounts for all that is in it.
    papers: Papers,
    /// All files and links, sorted by path.
    pub(super) entries: Vec<Entry>,
}

impl Expected {
    /// The folders that hold something.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        let mut last = None;
        self.entries.iter().filter_map(|entry| entry.path.parent()).filter(move |folder| last.replace(*folder) != Some(*folder))
    }
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
