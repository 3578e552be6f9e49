//! `clean`: removes what earlier runs have made.

use super::Workshop;
use crate::cli;
use crate::dirs::remove_all;
use crate::error::{Kind, WithKind as _};
use crate::store::Store;
use std::path::{Path, PathBuf};

/// Removes work folders and outputs; with `--all` everything.
///
/// # Errors
/// When something cannot be removed.
pub fn run(args: &cli::Clean) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, args.dist_dir.as_deref())?;
    let dirs = &workshop.dirs;
    let lock = workshop.lock(true)?;
    let mut targets = Vec::new();
    if args.common.only.is_empty() {
        targets.extend(["wip", "gathered", "store", "state", "logs", "shell", "tmp", "home"].map(|name| dirs.build.join(name)));
    } else {
        let chosen = workshop.stack.select(&args.common.only)?;
        // The launcher is always among what is chosen to be built; to be removed it has to be named.
        let named = chosen.iter().filter(|recipe| args.common.only.contains(&recipe.name));
        let store = Store::at(dirs.store());
        targets.extend(named.flat_map(|recipe| [dirs.work(&recipe.name), store.folder_of(&recipe.name)]));
    }
    if args.all {
        targets.extend(
            ["sources", "rejected", "toolchains", "cache", "history", "timings.html", "build.log", "build.log.1"]
                .map(|name| dirs.build.join(name)),
        );
        targets.extend(bundles(&dirs.dist));
    }
    for target in &targets {
        if target.symlink_metadata().is_ok() {
            remove_all(target).kind(Kind::Other, || format!("cannot remove {}", target.display()))?;
            workshop.ui.line(&format!("  removed {}", target.display()));
        }
    }
    dirs.remove_stand_in();
    drop(lock);
    Ok(())
}

/// What `package` has left in the dist folder. Anything else there is somebody's own.
fn bundles(dist: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dist) else { return Vec::new() };
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("dkumonitor-") || name.starts_with(".draft-")
    });
    found.sort();
    found
}
