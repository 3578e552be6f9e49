//! `doctor`: what this machine has and lacks.

use super::Workshop;
use crate::{cli, preflight};

/// Prints every finding to standard output, and fails where one is bad.
///
/// # Errors
/// [`crate::error::Kind::Preflight`] with what is missing and how to get it.
pub fn run(args: &cli::Doctor) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipes = workshop.stack.select(&args.common.only)?;
    // Whether a source brings its own `configure` shows only when it is unpacked: the doctor assumes the worst.
    let bootstrap: Vec<_> =
        recipes.iter().filter(|recipe| !recipe.needs.bootstrap_tools.is_empty()).map(|recipe| recipe.name.as_str()).collect();
    let findings = workshop.preflight(&recipes, &bootstrap, args.install_missing)?;
    for finding in &findings {
        match &finding.state {
            Ok(found) => println!("✓ {}: {found}", finding.what),
            Err(why) => println!("✗ {} {why}", finding.what),
        }
    }
    preflight::require(&findings)
}
