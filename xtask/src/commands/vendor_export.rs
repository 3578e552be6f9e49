//! `vendor-export`: everything that a build fetches, into a folder that is a mirror.

use super::{BuildLock, Workshop, bring};
use crate::archive::Format;
use crate::error::{Kind, WithKind as _};
use crate::packing::nfpm;
use crate::progress::{bytes, seconds};
use crate::stack::Material;
use crate::stack::recipe::Recipe;
use crate::supply::export::{self, Export, Summary};
use crate::supply::index::{self, Exported, part};
use crate::supply::{Supply, stock};
use crate::{cli, dirs, preflight};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Writes the mirror.
///
/// # Errors
/// Those of fetching, of preparing sources, and of writing.
pub fn run(args: &cli::VendorExport) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipes = workshop.stack.select(&args.common.only)?;
    preflight::require(&preflight::check_fetching(&recipes, &workshop.host, workshop.target))?;
    let folder = std::path::absolute(&args.folder)?;
    // Refused before anything is done.
    drop(Export::open(&folder)?);
    let lock = workshop.lock(!args.wait.no_wait)?;
    let network = cli::Network { mirrors: args.mirrors.clone(), offline: false };
    let summary = export(&workshop, &lock, &recipes, &network, &args.formats, &folder)?;
    workshop.dirs.remove_stand_in();
    report(&workshop, &folder, &summary);
    Ok(())
}

/// Writes the mirror into a folder, the build folder being this run's own.
///
/// # Errors
/// As [`run`].
pub(super) fn export(
    workshop: &Workshop,
    lock: &BuildLock,
    recipes: &[&Recipe],
    network: &cli::Network,
    formats: &[Format],
    folder: &Path,
) -> anyhow::Result<Summary> {
    let mut export = Export::open(folder)?;
    let packs = nfpm::is_wanted(formats);
    let also: &[_] = if packs { &[part::GO] } else { &[] };
    let stock = stock::take(&network.mirrors, &workshop.stack, recipes, also, &workshop.dirs, &workshop.ui)?;
    let gathered = workshop.dirs.gathered();
    let clear = || dirs::remove_all(&gathered).kind(Kind::Stage, || format!("cannot remove {}", gathered.display()));
    // An export that was killed has left it.
    clear()?;
    seed(folder, &gathered)?;
    let supply = Supply::gathering(gathered.clone(), stock);
    let brought = bring::dependencies(workshop, lock, recipes, network, &supply)?;
    if packs {
        let step = workshop.ui.step("mirror", "nfpm");
        step.close(nfpm::fetch(&workshop.dirs, &supply), |()| "what makes .deb and .rpm".to_owned())?;
    }
    let step = workshop.ui.step("mirror", "write");
    export.add(&source_files(workshop, recipes, &brought.archives))?;
    export.add_crates(&brought.crates, &brought.cargo_home)?;
    export.add(&dependency_files(workshop, &supply, &gathered)?)?;
    let registries = supply.noted_registries();
    for (name, version) in brought.versions {
        let npm_registries = registries.get(&name).cloned().unwrap_or_default();
        export.note_component(index::component(&workshop.stack, &name), Exported { version, npm_registries });
    }
    let summary = export.finish(format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH))?;
    step.done(&format!("{} new files, {}", summary.added, bytes(summary.added_bytes)));
    clear()?;
    Ok(summary)
}

/// What npm had fetched for an earlier export need not be fetched again. (Go and Yarn take what they have from their usual
/// caches.)
fn seed(folder: &Path, gathered: &Path) -> anyhow::Result<()> {
    let cache = gathered.join("npm/_cacache");
    for (path, from) in export::files_below(&folder.join(part::NPM), part::NPM, |_| true)? {
        let to = cache.join(path.trim_start_matches("npm/"));
        std::fs::create_dir_all(to.parent().unwrap_or(&cache))?;
        std::fs::copy(&from, &to).kind(Kind::Stage, || format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// The source archives, under names by which any mirror may have them.
fn source_files(workshop: &Workshop, recipes: &[&Recipe], archives: &BTreeMap<String, PathBuf>) -> Vec<(String, PathBuf)> {
    let mut files = BTreeMap::new();
    for recipe in recipes {
        if let Material::Locked(source) = workshop.stack.material(recipe)
            && let (Some(name), Some(path)) = (source.file_names().into_iter().next(), archives.get(&source.name))
        {
            files.insert(name, path.clone());
        }
    }
    files.into_iter().collect()
}

/// What the tools have put into the caches that were empty before.
fn dependency_files(workshop: &Workshop, supply: &Supply, gathered: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let modules = supply.go(&workshop.dirs).join("cache/download");
    let mut files = export::files_below(&modules, part::GO, |inner| inner.extension().is_none_or(|ending| ending != "lock"))?;
    let npm = supply.npm(&workshop.dirs).join("_cacache");
    files.extend(export::files_below(&npm, part::NPM, |inner| !inner.starts_with("tmp"))?);
    files.extend(export::yarn_packages(&gathered.join("yarn"), &workshop.dirs.cache("yarn").join("cache"))?);
    files.extend(export::files_below(&gathered.join("yarn-classic"), part::YARN_CLASSIC, |_| true)?);
    for archive in supply.noted_packages() {
        let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((format!("{}/{name}", part::PACKAGES), archive));
    }
    Ok(files)
}

fn report(workshop: &Workshop, folder: &Path, summary: &Summary) {
    let ui = &workshop.ui;
    for path in &summary.lost {
        ui.line(&format!("  ! {path} of an earlier export is gone; run vendor-export without --only to have it again"));
    }
    ui.line(&format!(
        "{} files, {} in {} ({})\nwithout internet: cargo --config DIR/{}/config.toml xtask package --mirror DIR --offline",
        summary.files,
        bytes(summary.bytes),
        folder.display(),
        seconds(ui.elapsed()),
        part::CARGO
    ));
}
