//! Puts the components' results together to a bundle's tree, with its manifest, and knows whether tree and archive still
//! stand.
//!
//! The tree is made beside its place and renamed, so `dist/<bundle>/` is always whole. A tree that is there already, was
//! made from the same results and has not been touched is left as it is: seen by the stamps of its files, and where those
//! differ by hashing them. The same holds for the archive made from it.

mod manifest;
mod papers;
mod state;

pub use state::{Archived, State, forget_stamps};

use crate::account;
use crate::archive::Format;
use crate::dirs::{Dirs, remove_all};
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{self, Entry, EntryKind};
use crate::packing;
use crate::parallel;
use crate::plan::{Component, Todo};
use crate::progress::{self, Ui};
use crate::report::{self, Papers, policy::Policy};
use crate::resources::give_memory_back;
use crate::sign::Signer;
use crate::stack::{Material, Stack};
use crate::store::{Content, Record, Store};
use crate::target::Target;
use anyhow::Context as _;
use dkumonitor_interface::manifest::{FILE_NAME, SIGNATURE_NAME};
use dkumonitor_interface::service::InstallType;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// How much of a stack a bundle has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What a type of installation needs.
    Type(InstallType),
    /// Some components that were named.
    Partial,
}

impl Extent {
    /// Of a bundle of so many components of a stack that was not asked for by a type of installation.
    pub fn of(components: usize, stack: &Stack) -> Self {
        if components < stack.recipes.len() { Self::Partial } else { Self::Whole }
    }
}

/// The name of a bundle's folder and archive: the product, the stack unless it is the root's, how much of it there is unless
/// it is all, the version.
pub fn bundle_name(stack: &Stack, extent: Extent) -> String {
    let extent = match extent {
        Extent::Whole => None,
        Extent::Type(kind) => Some(kind.to_string()),
        Extent::Partial => Some("partial".to_owned()),
    };
    let mut name = "dkumonitor".to_owned();
    for part in stack.name.as_deref().into_iter().chain(extent.as_deref()) {
        name.push('-');
        name.push_str(part);
    }
    format!("{name}-{}", env!("CARGO_PKG_VERSION"))
}

/// A component to be staged.
pub struct Piece<'a> {
    /// Its plan.
    pub component: &'a Component<'a>,
    /// What was made of it.
    pub record: Record,
}

/// What a bundle is made with.
pub struct Bundle<'a> {
    /// The stack.
    pub stack: &'a Stack,
    /// Its name, see [`bundle_name`].
    pub name: String,
    /// The platform that it is for.
    pub target: Target,
    /// The time that its files carry, in seconds since 1970.
    pub epoch: u64,
    /// The forms of its archives.
    pub formats: &'a [Format],
    /// What lies below it in an image.
    pub base: Option<packing::Base>,
    /// Who signs its manifest and archives.
    pub signer: Option<&'a Signer>,
    /// Under which licences parts of it may be shipped.
    pub policy: Policy,
    /// The folders.
    pub dirs: &'a Dirs,
    /// Where the results are.
    pub store: &'a Store,
}

/// Whether something that was made still stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is as it was made, and what would be made now is the same.
    Same,
    /// It was touched since; only its content can tell.
    Unsure,
    /// It has to be made, for this reason.
    Changed(String),
}

impl Bundle<'_> {
    /// Where the tree is.
    pub fn tree(&self) -> PathBuf {
        self.dirs.tree(&self.name)
    }

    /// Where the archive of this form is.
    pub fn archive(&self, format: Format) -> PathBuf {
        self.dirs.dist.join(format!("{}.{}", self.name, format.ending()))
    }

    /// What is remembered.
    pub fn state(&self) -> State {
        State::read(&self.dirs.state(&self.name))
    }

    fn remember(&self, state: &State) -> anyhow::Result<()> {
        state.write(&self.dirs.state(&self.name))
    }

    /// Whether the tree stands, as far as that can be told without reading its files.
    ///
    /// # Errors
    /// None that can come about with these types.
    pub fn look_at_tree(&self, pieces: &[Piece<'_>]) -> anyhow::Result<Standing> {
        let (state, tree) = (self.state(), self.tree());
        if !tree.is_dir() {
            return Ok(Standing::Changed(format!("{} is not there", tree.display())));
        }
        if state.inputs != self.inputs(pieces)? {
            return Ok(Standing::Changed("what it is made from changed".to_owned()));
        }
        let same = state.tree.is_some() && state.tree == fingerprint::tree_stamp(&tree).ok();
        Ok(if same { Standing::Same } else { Standing::Unsure })
    }

    /// Whether a tree that was touched still stands, by hashing its files.
    ///
    /// # Errors
    /// When it cannot be read, or the results that it was made from cannot.
    pub fn verify_tree(&self, pieces: &[Piece<'_>]) -> anyhow::Result<Standing> {
        let tree = self.tree();
        // Stamps are taken before the hashes: what is written in between is seen the next time.
        let stamp = fingerprint::tree_stamp(&tree)?;
        let found = fingerprint::scan(&tree)?;
        if let Some(why) = fingerprint::difference(&self.expected(pieces)?.entries, &found) {
            return Ok(Standing::Changed(format!("{why} in {}", tree.display())));
        }
        self.remember(&State { tree: Some(stamp), ..self.state() })?;
        Ok(Standing::Same)
    }

    /// Whether all archives stand, their tree doing so.
    pub fn look_at_archives(&self) -> Standing {
        let papers = std::iter::once_with(|| self.look_at_papers());
        let mut standings = self.formats.iter().map(|format| self.look_at_archive(*format)).chain(papers);
        standings.find(|standing| *standing != Standing::Same).unwrap_or(Standing::Same)
    }

    /// Archives in forms that nobody asked for and that are not, or not any more, of this tree.
    pub fn strays(&self) -> Vec<PathBuf> {
        let others = Format::ALL.into_iter().filter(|format| !self.formats.contains(format));
        let stray = others.filter(|format| self.archive(*format).exists() && self.look_at_archive(*format) != Standing::Same);
        stray.map(|format| self.archive(format)).collect()
    }

    /// Whether the archive of this form stands, its tree doing so. Its content is read where its stamp differs.
    pub fn look_at_archive(&self, format: Format) -> Standing {
        let (mut state, archive) = (self.state(), self.archive(format));
        let Some(archived) = state.archives.get_mut(&format) else {
            return Standing::Changed("was never made of this tree".to_owned());
        };
        if archived.packed != self.packed(format) {
            return Standing::Changed("is packed in another way now".to_owned());
        }
        if archived.epoch != self.epoch {
            return Standing::Changed("the time that its files carry changed".to_owned());
        }
        let Ok(stamp) = self.archive_stamp(format) else {
            return Standing::Changed(format!("{} is not whole", archive.display()));
        };
        if archived.stamp.as_ref() == Some(&stamp) {
            return Standing::Same;
        }
        let sum = fs::read_to_string(archive.with_added_extension("sha256")).unwrap_or_default();
        let is_right = fingerprint::hash_file(&archive).is_ok_and(|found| found == archived.sha256);
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        if !is_right || sum != format!("{}  {name}\n", archived.sha256) {
            return Standing::Changed(format!("{} was damaged", archive.display()));
        }
        archived.stamp = Some(stamp);
        // Failing costs only the hash the next time.
        let _ = self.remember(&state);
        Standing::Same
    }

    /// The way in which a form is packed; that of archives is in their bytes alone.
    fn packed(&self, format: Format) -> String {
        let base = self.base.as_ref().filter(|_| format == Format::Oci).map_or("", packing::Base::sha256);
        if format.is_archive() { String::new() } else { format!("{} {base}", packing::VERSION) }
    }

    fn archive_stamp(&self, format: Format) -> std::io::Result<String> {
        let archive = self.archive(format);
        fingerprint::stamps([archive.as_path(), &archive.with_added_extension("sha256")].into_iter())
    }

    /// Signs the archives and what lies beside them, as far as they are not.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn sign_archives(&self) -> anyhow::Result<()> {
        let Some(signer) = self.signer else { return Ok(()) };
        let state = self.state();
        for format in self.formats {
            let sha256 = state.archives.get(format).map(|archived| archived.sha256.as_str());
            signer.sign_file(&self.archive(*format), self.epoch, sha256)?;
        }
        for paper in [self.sbom(), self.provenance()] {
            signer.sign_file(&paper, self.epoch, None)?;
        }
        Ok(())
    }

    /// Remembers the archive that was just made.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn remember_archive(&self, format: Format, sha256: String) -> anyhow::Result<()> {
        let mut state = self.state();
        state.papers = None;
        let (stamp, packed) = (self.archive_stamp(format).ok(), self.packed(format));
        let archived = Archived { sha256, epoch: self.epoch, packed, stamp, passed: None };
        state.archives.insert(format, archived);
        self.remember(&state)
    }

    /// Whether the archive of this form, which stands, has passed the gate of this seal.
    pub fn has_passed(&self, format: Format, seal: &str) -> bool {
        self.state().archives.get(&format).is_some_and(|archived| archived.passed.as_deref() == Some(seal))
    }

    /// What is to be done at the gate of this seal, the archives standing so.
    pub fn gate_todo(&self, archive: &Todo, seal: &str) -> Todo {
        match archive {
            Todo::Nothing if self.formats.iter().all(|format| self.has_passed(*format, seal)) => Todo::Nothing,
            Todo::Nothing => Todo::Run("has not passed as it is now".to_owned()),
            _ => Todo::Run("comes after archive".to_owned()),
        }
    }

    /// Remembers that it has.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn remember_passed(&self, format: Format, seal: &str) -> anyhow::Result<()> {
        let mut state = self.state();
        if let Some(archived) = state.archives.get_mut(&format) {
            archived.passed = Some(seal.to_owned());
        }
        self.remember(&state)
    }

    /// A hash over everything that a tree is made from.
    fn inputs(&self, pieces: &[Piece<'_>]) -> anyhow::Result<String> {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(&manifest::head(self, pieces))?);
        hash.update(format!("{} {} {}", report::VERSION, self.policy.hash(), self.epoch));
        for piece in pieces {
            if let Content::Tree { list, .. } = &piece.record.content {
                hash.update(&list.sha256);
            }
            if let Material::Locked(source) = piece.component.material {
                hash.update(source.license_sha256.as_deref().unwrap_or_default());
            }
        }
        if let Some(signer) = self.signer {
            hash.update(signer.public_line());
        }
        Ok(fingerprint::hex(&hash.finalize()))
    }

    /// What the tree has to hold.
    fn expected(&self, pieces: &[Piece<'_>]) -> anyhow::Result<Expected> {
        let mut lists = pieces.iter().map(|piece| self.store.entries(&piece.record)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut manifest = manifest::head(self, pieces);
        let mut made = self.papers(&manifest, pieces, &lists)?;
        lists.iter_mut().for_each(|entries| entries.retain(|entry| !account::is_part(&entry.path)));
        let own: Vec<Entry> = made.iter().map(|(path, content)| entry_of(path, content)).collect();
        manifest.files = manifest::files(pieces, &lists, &own)?;
        let mut text = serde_json::to_vec_pretty(&manifest)?;
        text.push(b'\n');
        let signature = self.signer.map(|signer| sign_manifest(signer, &self.name, &text).into_bytes());
        let of_all = [(FILE_NAME, Some(text)), (SIGNATURE_NAME, signature)];
        let of_all: Papers = of_all.into_iter().filter_map(|(name, text)| Some((name.into(), text?))).collect();
        let of_all_entries = of_all.iter().map(|(path, content)| entry_of(path, content));
        let mut entries: Vec<Entry> = lists.into_iter().flatten().chain(own).chain(of_all_entries).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        made.extend(of_all);
        Ok(Expected { made, entries })
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
        let expected = self.expected(pieces)?;
        self.lay(&expected, &tree).kind(Kind::Stage, fail)?;
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

    /// Makes the tree beside its place and puts it there.
    fn lay(&self, expected: &Expected, tree: &Path) -> anyhow::Result<()> {
        let prefix = draft_prefix(tree);
        forget_drafts(&self.dirs.dist, &prefix)?;
        let draft = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.dirs.dist)?;
        let new = draft.path().join("new");
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
            fs::rename(tree, draft.path().join("old")).with_context(|| format!("cannot move {} away", tree.display()))?;
        }
        fs::rename(&new, tree).with_context(|| format!("cannot make {}", tree.display()))?;
        remove_all(draft.path())?;
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
        let copied = match expected.made.get(&entry.path) {
            Some(content) => fs::write(&to, content),
            None => fs::copy(self.store.object(sha256), &to).map(drop),
        };
        copied
            .and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(mode)))
            .and_then(|()| fs::File::open(&to)?.set_modified(time(self.epoch)))
            .with_context(|| format!("cannot write {}", to.display()))
    }
}

/// The signature of the manifest of a bundle of this name: the same wherever and whenever it is made.
pub fn sign_manifest(signer: &Signer, bundle: &str, manifest: &[u8]) -> String {
    signer.sign(manifest, &format!("bundle:{bundle}\tfile:{FILE_NAME}\thashed"))
}

fn time(epoch: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch)
}

/// A file that is made here, as a tree has it.
fn entry_of(path: &Path, content: &[u8]) -> Entry {
    let sha256 = fingerprint::hex(&Sha256::digest(content));
    Entry { path: path.to_owned(), kind: EntryKind::File { size: content.len() as u64, mode: 0o644, sha256 } }
}

/// What a tree has to hold.
struct Expected {
    /// What comes from no component: its manifest, that one's signature, and what accounts for all that is in it.
    made: Papers,
    /// All files and links, sorted by path.
    entries: Vec<Entry>,
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
