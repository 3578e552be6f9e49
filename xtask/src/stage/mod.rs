//! Puts the components' results together to a bundle's tree, with its manifest, and knows whether tree and archive still
//! stand.
//!
//! The tree is made beside its place and renamed, so `dist/<bundle>/` is always whole. A tree that is there already, was
//! made from the same results and has not been touched is left as it is: seen by the stamps of its files, and where those
//! differ by hashing them. The same holds for the archive made from it.

mod manifest;
mod papers;
mod state;
mod tree;

pub use state::{Archived, State, forget_stamps};

use crate::archive::Format;
use crate::dirs::Dirs;
use crate::fingerprint;
use crate::packing;
use crate::plan::{Component, Todo};
use crate::report::papers::Papers;
use crate::report::{self, policy::Policy};
use crate::sign::Signer;
use crate::stack::{Material, Stack};
use crate::store::{Content, Record, Store};
use crate::target::Target;
use dkumonitor_interface::manifest::FILE_NAME;
use dkumonitor_interface::service::InstallType;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::PathBuf;

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
        if let Some(why) = fingerprint::difference(&self.expected(pieces, Papers::nowhere())?.entries, &found) {
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
}

/// The signature of the manifest of a bundle of this name: the same wherever and whenever it is made.
pub fn sign_manifest(signer: &Signer, bundle: &str, manifest: &[u8]) -> String {
    signer.sign(manifest, &format!("bundle:{bundle}\tfile:{FILE_NAME}\thashed"))
}
