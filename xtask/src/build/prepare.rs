//! Puts a component's patched source into its work folder.

use super::Session;
use crate::error::{Kind, WithKind as _};
use crate::plan::Component;
use crate::stack::Material;
use crate::stack::lock::Origin;
use crate::{patch, progress, unpack};
use anyhow::Context as _;
use std::fs;
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
        (Origin::Folder(path), _) => copy_tree(&session.stack.root.join(path), &src).map(|files| format!("{files} files")),
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
