//! Takes from a compiled component what goes into the bundle.

use super::{Build, account};
use crate::elf;
use crate::error::{Kind, WithKind as _};
use crate::stack::Material;
use crate::stack::recipe::Install;
use crate::store::{self, Ran, Record, StepCost};
use anyhow::Context as _;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

pub(super) fn collect(build: &Build<'_>, costs: Vec<StepCost>, commands: Vec<Ran>) -> anyhow::Result<Record> {
    let (recipe, store) = (build.planned.recipe, build.session.store);
    let draft = tempfile::tempdir_in(store.drafts()?)?;
    let tree = draft.path();
    for install in &recipe.installs {
        take(build, install, tree).map_err(|error| {
            let what =
                install.from.as_ref().or(install.link.as_ref()).map(|path| path.display().to_string()).unwrap_or_default();
            error.context(format!("cannot take {what} of {} to {}", recipe.name, install.to))
        })?;
    }
    take_licenses(build, tree)?;
    account::take(build, tree)?;
    let mut record = Record::new(&recipe.name, store::FINAL, build.planned.chain.clone());
    record.toolchain = build.planned.toolchain.clone();
    record.glibc = elf::scan(tree)?.iter().filter_map(|(_, binary)| binary.glibc()).max().map(|floor| floor.to_string());
    record.costs = costs;
    record.commands = commands;
    store.put_tree(tree, record)
}

fn take(build: &Build<'_>, install: &Install, tree: &Path) -> anyhow::Result<()> {
    if let Some(link) = &install.link {
        return make_link(link, &install.to, tree);
    }
    let from = install.from.as_deref().unwrap_or(Path::new(""));
    let found = find(&resolve(build, from))?;
    if found.is_empty() && !install.optional {
        return Err(Kind::Stage.error("the build did not make it; mend the recipe's [[install]]"));
    }
    if found.len() > 1 && !install.to.ends_with('/') {
        return Err(Kind::Stage.error("the pattern fits several files, so `to` must be a folder: end it with '/'"));
    }
    let exclude = globs(&install.exclude)?;
    for path in found {
        let name = path.file_name().unwrap_or_default();
        let to = if install.to.ends_with('/') { tree.join(&install.to).join(name) } else { tree.join(&install.to) };
        copy(&path, &to, &exclude, install.mode.as_deref())?;
    }
    Ok(())
}

/// Where a file that was built ends up in the bundle, if it does.
pub(super) fn installed_as(build: &Build<'_>, path: &Path) -> Option<String> {
    let place = |install: &Install| {
        let from = resolve(build, install.from.as_deref()?);
        if let Ok(inner) = path.strip_prefix(&from) {
            let to = Path::new(&install.to);
            let to = if install.to.ends_with('/') { to.join(from.file_name()?) } else { to.to_owned() };
            // Joining an empty path would leave a slash behind.
            return Some(if inner.as_os_str().is_empty() { to } else { to.join(inner) });
        }
        let fits = from.parent() == path.parent()
            && globs(&[from.file_name()?.to_str()?.to_owned()]).ok()?.is_match(path.file_name()?);
        fits.then(|| Path::new(&install.to).join(path.file_name().unwrap_or_default()))
    };
    build.planned.recipe.installs.iter().find_map(place).map(|path| path.to_string_lossy().into_owned())
}

/// The place that `src/…`, `dest/…` or `recipe/…` means.
pub(super) fn resolve(build: &Build<'_>, from: &Path) -> PathBuf {
    let mut parts = from.components();
    let root = parts.next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
    let base = match root.as_str() {
        "src" => build.src.clone(),
        "recipe" => build.session.stack.root.join("recipes").join(&build.planned.recipe.name),
        _ => build.work.join(root),
    };
    base.join(parts.as_path())
}

/// What a path fits whose last part may be a pattern, sorted.
fn find(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let pattern = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !pattern.contains(['*', '?', '[', '{']) {
        return Ok(if path.symlink_metadata().is_ok() { vec![path.to_owned()] } else { Vec::new() });
    }
    let glob = globs(&[pattern.to_owned()])?;
    let Ok(entries) = fs::read_dir(path.parent().unwrap_or(path)) else { return Ok(Vec::new()) };
    let mut found: Vec<_> =
        entries.flatten().filter(|entry| glob.is_match(entry.file_name())).map(|entry| entry.path()).collect();
    found.sort();
    Ok(found)
}

fn globs(patterns: &[String]) -> anyhow::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.kind(Kind::Usage, || format!("\"{pattern}\" is no pattern"))?);
    }
    set.build().kind(Kind::Usage, || "these patterns cannot be used together".to_owned())
}

/// Copies a file, a link or a whole folder.
fn copy(from: &Path, to: &Path, exclude: &GlobSet, mode: Option<&str>) -> anyhow::Result<()> {
    for entry in WalkDir::new(from).sort_by_file_name() {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let inner = entry.path().strip_prefix(from)?;
        if exclude.is_match(inner) {
            continue;
        }
        let target = if inner.as_os_str().is_empty() { to.to_owned() } else { to.join(inner) };
        let kind = entry.file_type();
        // Folders come into being with what is in them, so excluded content leaves no empty ones behind.
        if kind.is_dir() {
            continue;
        }
        let parent = target.parent().unwrap_or(to);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        if target.symlink_metadata().is_ok() {
            return Err(Kind::Stage.error(format!("{} comes from two places of the recipe", target.display())));
        }
        if kind.is_symlink() { symlink(fs::read_link(entry.path())?, &target) } else { copy_file(entry.path(), &target, mode) }
            .with_context(|| format!("cannot copy {} to {}", entry.path().display(), target.display()))?;
    }
    Ok(())
}

/// Copies a file. The bundle knows two modes: what was executable may be run by all, everything may be read by all.
fn copy_file(from: &Path, to: &Path, mode: Option<&str>) -> std::io::Result<()> {
    fs::copy(from, to)?;
    let executable = from.metadata()?.permissions().mode() & 0o111 != 0;
    let usual = if executable { 0o755 } else { 0o644 };
    // A recipe that was read has no other than octal modes.
    let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(usual);
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

/// A link inside the bundle, relative, so that it holds wherever the bundle lies.
fn make_link(target: &Path, to: &str, tree: &Path) -> anyhow::Result<()> {
    let path = tree.join(to);
    let parent = path.parent().unwrap_or(tree);
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let up = Path::new(to).components().count().saturating_sub(1);
    // A link beside its target needs no way up; `bin/dkmadmin` → `dkm` reads better than `../bin/dkm`.
    let relative = match target.strip_prefix(Path::new(to).parent().unwrap_or(Path::new(""))) {
        Ok(beside) => beside.to_owned(),
        Err(_) => std::iter::repeat_n(Path::new(".."), up).collect::<PathBuf>().join(target),
    };
    symlink(&relative, &path).with_context(|| format!("cannot make the link {}", path.display()))
}

/// The licence files of a component's own source, relative to it.
pub(super) fn own_licenses(build: &Build<'_>) -> Vec<PathBuf> {
    match build.planned.material {
        Material::Locked(source) => source.license_files.clone(),
        Material::Workspace => vec![PathBuf::from("LICENSE")],
    }
}

/// The licence texts of a component go to `licenses/<component>/`, whatever else it ships.
fn take_licenses(build: &Build<'_>, tree: &Path) -> anyhow::Result<()> {
    let name = &build.planned.recipe.name;
    for file in own_licenses(build) {
        let from = build.src.join(&file);
        let to = tree.join("licenses").join(name).join(&file);
        if !from.is_file() {
            return Err(Kind::Stage.error(format!(
                "the licence file {} of {name} is not in its source; mend license-files in vendor.lock",
                file.display()
            )));
        }
        copy(&from, &to, &GlobSet::empty(), Some("644"))?;
    }
    Ok(())
}
