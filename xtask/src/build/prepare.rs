//! Puts a component's patched source into its work folder.

use super::Session;
use crate::error::Kind;
use crate::plan::Component;
use crate::source::{self, set_mtime};
use crate::stack::Material;
use crate::stack::lock::Origin;
use crate::{patch, progress, unpack};
use anyhow::Context as _;
use std::path::Path;
use std::time::UNIX_EPOCH;
use walkdir::WalkDir;

/// The time that sources from folders count as made at (1980-01-01, the oldest that zip can hold): the folder's own times
/// are those of the checkout.
pub const FOLDER_EPOCH: u64 = 315_532_800;

/// Unpacks or copies the source of a component. `archive` is the fetched file of a locked archive.
///
/// # Errors
/// [`Kind::Integrity`] for a harmful or broken archive.
pub(super) fn unpack(session: &Session<'_>, component: &Component<'_>, archive: Option<&Path>) -> anyhow::Result<()> {
    let name = &component.recipe.name;
    let Material::Locked(source) = component.material else { return Ok(()) };
    let src = session.dirs.work(name).join("src");
    let step = session.ui.step(name, "unpack");
    let unpacked = match (source.origin(), archive) {
        (Origin::Folder(path), _) => {
            source::copy(&session.stack.root.join(path), &src, Some(FOLDER_EPOCH)).map(|files| format!("{files} files"))
        }
        (Origin::Archive { .. }, Some(archive)) => unpack::unpack(archive, &src)
            .map(|unpacked| format!("{} files, {}", unpacked.files, progress::bytes(unpacked.bytes)))
            .with_context(|| format!("cannot unpack {} {} from {}", source.name, source.version, archive.display())),
        (Origin::Archive { .. }, None) => Err(Kind::Fetch.error(format!("the archive of {name} was not fetched"))),
    };
    step.close(unpacked, String::clone).map(drop)
}

/// Applies the patches of a component. What they touch is a second newer than `epoch`, the newest time in the source: make
/// has to see that it changed, and a source that is patched again has to be the same down to the times.
///
/// # Errors
/// [`Kind::Patch`] for a patch that does not apply, by name.
pub(super) fn patch(session: &Session<'_>, component: &Component<'_>, epoch: u64) -> anyhow::Result<()> {
    let (name, patches) = (&component.recipe.name, &component.recipe.patches);
    let src = session.dirs.work(name).join("src");
    let step = session.ui.step(name, "patch");
    let patched = patches.iter().try_for_each(|file| {
        let patch = session.stack.patch_path(component.recipe, file);
        let applied = patch::apply(&patch, &src).with_context(|| format!("cannot patch {name} with {file}"))?;
        let mut there = applied.files.iter().map(|file| src.join(file)).filter(|path| path.is_file());
        there.try_for_each(|path| {
            set_mtime(&path, epoch + 1).with_context(|| format!("cannot set the time of {}", path.display()))
        })
    });
    step.close(patched, |()| patches.join(", "))
}

/// The newest time stamp of the files in a tree, in seconds since 1970: for a release, the time it was made.
///
/// # Errors
/// When the tree cannot be read.
pub fn newest_mtime(root: &Path) -> anyhow::Result<u64> {
    let mut newest = 0;
    for entry in WalkDir::new(root) {
        let entry = entry.with_context(|| format!("cannot read {}", root.display()))?;
        if entry.file_type().is_file() {
            let modified = entry.metadata()?.modified()?;
            newest = newest.max(modified.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()));
        }
    }
    Ok(newest)
}
