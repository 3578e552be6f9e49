//! A folder as the source of a component: which of its files count, and copies of them.

use crate::error::{Kind, WithKind as _};
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

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

/// Copies the source that a folder is, with modes; `mtime` (seconds since 1970) is then the time of all its files, without one they
/// are from now. Says how many files there are.
///
/// # Errors
/// [`Kind::Stage`] when something cannot be read or written, or is neither file nor folder nor link.
pub fn copy(from: &Path, to: &Path, mtime: Option<u64>) -> anyhow::Result<usize> {
    let cannot = || format!("cannot copy {} to {}", from.display(), to.display());
    let mut files = 0;
    for entry in source_files(from) {
        let entry = entry.kind(Kind::Stage, cannot)?;
        let target = to.join(entry.path().strip_prefix(from)?);
        let kind = entry.path().symlink_metadata()?.file_type();
        let made = if kind.is_dir() {
            fs::create_dir_all(&target)
        } else if kind.is_symlink() {
            fs::read_link(entry.path()).and_then(|link| std::os::unix::fs::symlink(link, &target))
        } else if kind.is_file() {
            files += 1;
            fs::copy(entry.path(), &target).and_then(|_| mtime.map_or(Ok(()), |time| set_mtime(&target, time)))
        } else {
            Err(std::io::Error::other("it is neither a file nor a folder nor a link"))
        };
        made.kind(Kind::Stage, || format!("cannot copy {} to {}", entry.path().display(), target.display()))?;
    }
    Ok(files)
}

/// Sets when a file was last written, in seconds since 1970.
///
/// # Errors
/// When the file cannot be opened, or belongs to somebody else.
pub fn set_mtime(path: &Path, epoch: u64) -> std::io::Result<()> {
    let time = UNIX_EPOCH + Duration::from_secs(epoch);
    // A file without write permission cannot be opened for writing; reading is enough to set its times.
    fs::File::open(path)?.set_modified(time)
}

/// Whether a source still needs what makes its `configure`, as one from a repository does.
pub fn lacks_configure(dir: &Path) -> bool {
    !dir.join("configure").is_file()
}
