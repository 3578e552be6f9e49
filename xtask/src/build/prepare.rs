//! Puts a component's patched source into its work folder.

use super::{Session, autotools};
use crate::error::{Kind, WithKind as _};
use crate::plan::Planned;
use crate::stack::Material;
use crate::stack::lock::Origin;
use crate::stack::recipe::Action;
use crate::{dirs, patch, progress, unpack};
use anyhow::Context as _;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;
use walkdir::WalkDir;

/// The time that sources from folders count as made at (1980-01-01, the oldest that zip can hold): the folder's own times
/// are those of the checkout.
pub const FOLDER_EPOCH: u64 = 315_532_800;

/// Unpacks or copies the source of a component and applies its patches. `archive` is the fetched file of a locked archive.
///
/// # Errors
/// [`Kind::Integrity`] for a harmful or broken archive, [`Kind::Patch`] for a patch that does not apply, both named.
pub fn prepare(session: &Session<'_>, planned: &Planned<'_>, archive: Option<&Path>) -> anyhow::Result<()> {
    let name = &planned.recipe.name;
    let Material::Locked(source) = planned.material else { return Ok(()) };
    let work = session.dirs.work(name);
    dirs::remove_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let src = work.join("src");
    let step = session.ui.step(name, "unpack");
    let unpacked = match (source.origin(), archive) {
        (Origin::Folder(path), _) => copy_tree(&session.stack.root.join(path), &src).map(|files| format!("{files} files")),
        (Origin::Archive { .. }, Some(archive)) => unpack::unpack(archive, &src)
            .map(|unpacked| format!("{} files, {}", unpacked.files, progress::bytes(unpacked.bytes)))
            .with_context(|| format!("cannot unpack {} {} from {}", source.name, source.version, archive.display())),
        (Origin::Archive { .. }, None) => Err(Kind::Fetch.error(format!("the archive of {name} was not fetched"))),
    };
    step.close(unpacked, String::clone)?;
    if planned.recipe.patches.is_empty() {
        return Ok(());
    }
    let step = session.ui.step(name, "patch");
    let patched = planned.recipe.patches.iter().try_for_each(|file| {
        let applied = patch::apply(&session.stack.patch_path(planned.recipe, file), &src);
        applied.map(drop).with_context(|| format!("cannot patch {name} with {file}"))
    });
    step.close(patched, |()| planned.recipe.patches.join(", "))
}

/// Whether a prepared source of kind autotools comes without `configure`.
pub fn needs_bootstrap(session: &Session<'_>, planned: &Planned<'_>) -> bool {
    let src = session.dirs.work(&planned.recipe.name).join("src");
    planned
        .recipe
        .steps
        .iter()
        .any(|step| matches!(step.action(), Action::Autotools(_)) && autotools::lacks_configure(&src.join(&step.dir)))
}

/// Copies a folder of the stack, with modes, without what building by hand may have left in it.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<usize> {
    let mut files = 0;
    for entry in source_files(from) {
        let entry = entry.kind(Kind::Stage, || format!("cannot read {}", from.display()))?;
        let target = to.join(entry.path().strip_prefix(from)?);
        let kind = entry.path().symlink_metadata()?.file_type();
        let made = if kind.is_dir() {
            fs::create_dir_all(&target)
        } else if kind.is_symlink() {
            fs::read_link(entry.path()).and_then(|link| std::os::unix::fs::symlink(link, &target))
        } else {
            files += 1;
            fs::copy(entry.path(), &target).and_then(|_| set_mtime(&target, FOLDER_EPOCH))
        };
        made.with_context(|| format!("cannot copy {} to {}", entry.path().display(), target.display()))?;
    }
    Ok(files)
}

/// The entries of a source folder, in a fixed order, folders included, without what its `.gitignore` files name: building
/// by hand leaves such things behind.
pub fn source_files(root: &Path) -> impl Iterator<Item = Result<ignore::DirEntry, ignore::Error>> {
    ignore::WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        // The sources are the same whether or not they lie in a repository, and whatever lies above them.
        .require_git(false)
        .parents(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .build()
}

fn set_mtime(path: &Path, epoch: u64) -> std::io::Result<()> {
    let time = UNIX_EPOCH + std::time::Duration::from_secs(epoch);
    // A file without write permission cannot be opened for writing; reading is enough to set its times.
    fs::File::open(path)?.set_modified(time)
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
