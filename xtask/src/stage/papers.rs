//! What accounts for a bundle: in its tree, and beside its archives.

use super::{Bundle, Piece, Standing};
use crate::account::kept::Kept;
use crate::archive::SIGNATURE;
use crate::build::Session;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{self, Entry};
use crate::report::provenance::{self, Making, Output};
use crate::report::{self, Part};
use crate::stack::Material;
use dkumonitor_interface::manifest::FILE_NAME;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

impl Bundle<'_> {
    /// The bill of materials beside the archives: the one that is in the tree.
    pub fn sbom(&self) -> PathBuf {
        self.dirs.dist.join(format!("{}.{}", self.name, report::SBOM))
    }

    /// The provenance of the archives.
    pub fn provenance(&self) -> PathBuf {
        self.dirs.dist.join(format!("{}{}", self.name, provenance::ENDING))
    }

    /// A component as papers tell of it; `account` has the entries of its result that are no part of the bundle.
    pub(super) fn part<'p>(&'p self, piece: &'p Piece<'_>, account: &[Entry]) -> anyhow::Result<Part<'p>> {
        let recipe = piece.component.recipe;
        let cannot = || format!("cannot use the account of {}", recipe.name);
        let kept = Kept::of(self.store, account).kind(Kind::Stage, cannot)?;
        let read = |name: &String| -> anyhow::Result<(String, String)> {
            let path = self.stack.patch_path(recipe, name);
            let text = fs::read(&path).kind(Kind::Stage, || format!("cannot read {}", path.display()))?;
            Ok((name.clone(), String::from_utf8_lossy(&text).into_owned()))
        };
        let patches = recipe.patches.iter().map(read).collect::<anyhow::Result<_>>()?;
        let source = match piece.component.material {
            Material::Locked(source) => Some(source),
            Material::Workspace => None,
        };
        Ok(Part { name: &recipe.name, source, patches, kept })
    }

    /// Whether what lies beside the archives is what was written for them.
    pub(super) fn look_at_papers(&self) -> Standing {
        match (self.state().papers, self.papers_stamp()) {
            (Some(known), Ok(found)) if known == found => Standing::Same,
            _ => Standing::Changed(format!("{} has to be written", self.provenance().display())),
        }
    }

    fn papers_stamp(&self) -> io::Result<String> {
        fingerprint::stamps([self.sbom().as_path(), self.provenance().as_path()].into_iter())
    }

    /// Writes what lies beside the archives, unless it stands.
    ///
    /// # Errors
    /// [`Kind::Archive`] when it cannot be written.
    pub fn write_papers(&self, session: &Session<'_>, pieces: &[Piece<'_>]) -> anyhow::Result<()> {
        if self.look_at_papers() == Standing::Same {
            return Ok(());
        }
        let (sbom, tree) = (self.sbom(), self.tree());
        let bill = tree.join(report::SBOM);
        let mut content = fs::File::open(&bill).kind(Kind::Archive, || format!("cannot read {}", bill.display()))?;
        write_beside(&sbom, |out| io::copy(&mut content, out).map(drop))?;
        let output = |path: &Path, name: &str| -> anyhow::Result<Output> {
            let sha256 = fingerprint::hash_file(path).kind(Kind::Archive, || format!("cannot read {}", path.display()))?;
            Ok(Output { name: name.to_owned(), sha256 })
        };
        let mut state = self.state();
        let archives = self.formats.iter().filter_map(|format| {
            let name = self.archive(*format).file_name()?.to_string_lossy().into_owned();
            Some(Output { name, sha256: state.archives.get(format)?.sha256.clone() })
        });
        let sbom_name = sbom.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let making = Making {
            session,
            manifest: &super::manifest::head(self, pieces),
            pieces,
            epoch: self.epoch,
            policy: &self.policy.path,
            archives: archives.collect(),
            byproducts: vec![output(&sbom, &sbom_name)?, output(&tree.join(FILE_NAME), FILE_NAME)?],
        };
        let statement = provenance::write(&making)?;
        write_beside(&self.provenance(), |out| out.write_all(&statement))?;
        state.papers = self.papers_stamp().ok();
        self.remember(&state)
    }
}

/// Writes a file whole or not at all; a signature of what was there before goes first.
fn write_beside(path: &Path, content: impl FnOnce(&mut fs::File) -> io::Result<()>) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o644)).tempfile_in(folder)?;
        content(file.as_file_mut())?;
        match fs::remove_file(path.with_added_extension(SIGNATURE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
        file.persist(path)?;
        Ok(())
    };
    write().kind(Kind::Archive, || format!("cannot write {}", path.display()))
}
