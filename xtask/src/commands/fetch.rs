//! `fetch`: all sources into the store, and what they depend on into the caches.

use super::{Workshop, bring};
use crate::supply::{Supply, stock};
use crate::{cli, preflight};

/// Fetches the sources of the chosen components, whether or not they have to be built; with `--dependencies` also what
/// their lock files pin.
///
/// # Errors
/// Those of [`crate::fetch::fetch_all`], and of the tools that fetch dependencies.
pub fn run(args: &cli::Fetch) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipes = workshop.stack.select(&args.common.only)?;
    if args.dependencies {
        preflight::require(&preflight::check_fetching(&recipes, &workshop.host, workshop.target))?;
    }
    let lock = workshop.lock(!args.wait.no_wait)?;
    let archives = if args.dependencies {
        let stock = stock::take(&args.network.mirrors, &workshop.stack, &recipes, &[], &workshop.dirs, &workshop.ui)?;
        let supply = Supply::usual(args.network.offline, stock);
        let brought = bring::dependencies(&workshop, &lock, &recipes, &args.network, &supply)?;
        workshop.dirs.remove_stand_in();
        brought.archives
    } else {
        bring::fetch_sources(&workshop, &recipes, &args.network)?
    };
    workshop.ui.line(&format!("{} archives in {}", archives.len(), workshop.dirs.sources().display()));
    Ok(())
}
