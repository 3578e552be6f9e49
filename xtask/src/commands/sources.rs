//! `package --sources`: the archive of all sources that belong to a bundle, from which it can be built without internet.
//!
//! It holds the repository as it was built from (what git tracks or has not been told to ignore), the stack where that lies elsewhere,
//! and in `mirror/` everything that a build fetches. That is the corresponding source that the copyleft licences
//! want to go along, and more: compilers and all other modules, packages and crates too.

use super::{BuildLock, Workshop, vendor_export};
use crate::archive::{self, Format};
use crate::error::{Kind, WithKind as _};
use crate::progress;
use crate::source::source_files;
use crate::stack::recipe::Recipe;
use crate::stage::Bundle;
use crate::{cli, dirs};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder in the archive that is a mirror.
const MIRROR: &str = "mirror";

/// The folder in the archive that holds a stack from outside the repository.
const STACK: &str = "stack";

/// Told in the archive's root.
const README: &str = "SOURCES.md";

/// Writes the archive; gives where it is, its hash and its size.
///
/// # Errors
/// Those of `vendor-export`, [`Kind::Stage`] when the sources cannot be put together, [`Kind::Archive`] when they cannot be packed.
pub(super) fn write(
    workshop: &Workshop,
    lock: &BuildLock,
    recipes: &[&Recipe],
    network: &cli::Network,
    bundle: &Bundle<'_>,
    jobs: usize,
) -> anyhow::Result<(PathBuf, String, u64)> {
    let name = format!("{}-sources", bundle.name);
    let dist = &workshop.dirs.dist;
    let cannot = || format!("cannot put the sources together in {}", dist.display());
    let draft = tempfile::Builder::new().prefix(".draft-sources-").tempdir_in(dist).kind(Kind::Stage, cannot)?;
    let root = draft.path().join(&name);
    let step = workshop.ui.step("sources", "gather");
    let gathered = gather(workshop, &root);
    let stack = step.close(gathered, |(files, _)| format!("{files} files of the repository"))?.1;
    vendor_export::export(workshop, lock, recipes, network, bundle.formats, &root.join(MIRROR))?;
    fs::write(root.join(README), readme(bundle, stack.as_deref())).kind(Kind::Stage, cannot)?;
    let target = dist.join(format!("{name}.{}", Format::Gz.ending()));
    let step = workshop.ui.step("sources", "archive");
    let options = archive::Options { format: Format::Gz, mtime: bundle.epoch, jobs, cache: None };
    let written = archive::write(&root, &name, &target, &options);
    let summary = step.close(written, |summary| format!("{} of {} files", progress::bytes(summary.bytes), summary.files))?;
    dirs::remove_all(draft.path()).kind(Kind::Stage, cannot)?;
    Ok((target, summary.sha256, summary.bytes))
}

/// Copies the repository, and the stack where it lies elsewhere. Gives how many files, and what `--stack` has to name.
fn gather(workshop: &Workshop, root: &Path) -> anyhow::Result<(usize, Option<String>)> {
    let workspace = &workshop.workspace;
    let mut count = copy(workspace, &belonging(workspace)?, root)?;
    let stack = &workshop.stack.root;
    if workshop.stack.name.is_none() {
        return Ok((count, None));
    }
    // One that git does not track, or not yet, has not come with the rest.
    if let Ok(inner) = stack.strip_prefix(workspace)
        && root.join(inner).join("vendor.lock").is_file()
    {
        return Ok((count, Some(inner.to_string_lossy().into_owned())));
    }
    // Its name is its folder's.
    let name = stack.file_name().unwrap_or(STACK.as_ref()).to_string_lossy().into_owned();
    let inner = format!("{STACK}/{name}");
    count += copy(stack, &belonging(stack)?, &root.join(&inner))?;
    Ok((count, Some(inner)))
}

/// The files that belong to a folder, relative to it.
fn belonging(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let shell = xshell::Shell::new()?;
    // A file that nobody has committed yet was compiled as well.
    let asked =
        xshell::cmd!(shell, "git -C {folder} ls-files -z --cached --others --exclude-standard").quiet().ignore_stderr().read();
    let listed: Vec<PathBuf> =
        asked.unwrap_or_default().split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    if !listed.is_empty() {
        return Ok(listed);
    }
    // Unpacked from such an archive, say: its mirror is a mirror and no source.
    let mut files = Vec::new();
    for entry in source_files(folder) {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let inner = entry.path().strip_prefix(folder)?.to_owned();
        if !entry.path().is_dir() && !inner.starts_with(MIRROR) && inner != Path::new(README) {
            files.push(inner);
        }
    }
    Ok(files)
}

/// Copies files with their modes and times, links as links. What was removed and is still tracked is passed over.
fn copy(from: &Path, files: &[PathBuf], to: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for file in files {
        let (source, target) = (from.join(file), to.join(file));
        let Ok(meta) = source.symlink_metadata() else { continue };
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(target.parent().unwrap_or(to))?;
            if meta.is_symlink() {
                return std::os::unix::fs::symlink(fs::read_link(&source)?, &target);
            }
            fs::copy(&source, &target).map(drop)
        };
        make().kind(Kind::Stage, || format!("cannot copy {} to {}", source.display(), target.display()))?;
        count += 1;
    }
    Ok(count)
}

fn readme(bundle: &Bundle<'_>, stack: Option<&str>) -> String {
    let stack = stack.map(|stack| format!(" --stack {stack}")).unwrap_or_default();
    format!(
        "# The sources of {}\n\nEverything that this bundle was built from, compilers included. Without internet, with Rust (see \
         `rust-toolchain.toml`), a C compiler and a Go that can obtain others from `{MIRROR}/`:\n\n```\n\
         export SOURCE_DATE_EPOCH={}\n\
         cargo --config {MIRROR}/cargo/config.toml xtask package{stack} --mirror {MIRROR} --offline\n```\n\n\
         The licences of all parts are in the bundle's `licenses/`.\n",
        bundle.name, bundle.epoch
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_committed_yet_belongs_to_a_repository_and_what_is_ignored_does_not() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("old", ""), ("new", ""), ("ignored", ""), (".gitignore", "ignored\n"), ("gone", "")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let git = |words: &[&str]| {
            let done = std::process::Command::new("git").arg("-C").arg(folder.path()).args(words).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        git(&["init", "--quiet"]);
        git(&["add", "old", "gone"]);
        fs::remove_file(folder.path().join("gone")).unwrap();
        let mut found = belonging(folder.path()).unwrap();
        found.sort();
        assert_eq!(found, [".gitignore", "gone", "new", "old"].map(PathBuf::from));
        let target = folder.path().join("ignored");
        fs::remove_file(&target).unwrap();
        assert_eq!(copy(folder.path(), &found, &target).unwrap(), 3, "what is gone is passed over");
        assert!(target.join("new").is_file());
    }
}
