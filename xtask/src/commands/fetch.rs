//! `fetch`: all sources into the store.

use super::{Workshop, package};
use crate::cli;

/// Fetches the sources of the chosen components, whether or not they have to be built.
///
/// # Errors
/// Those of [`crate::fetch::fetch_all`].
pub fn run(args: &cli::Fetch) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipes = workshop.stack.select(&args.common.only)?;
    let _lock = workshop.lock(!args.wait.no_wait)?;
    let archives = package::fetch_sources(&workshop, &recipes, &args.network)?;
    workshop.ui.line(&format!("{} archives in {}", archives.len(), workshop.dirs.sources().display()));
    Ok(())
}
