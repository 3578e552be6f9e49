//! Brings what the commands work on: sources into the store, and what their lock files pin into the tools' caches.

use super::{BuildLock, Workshop};
use crate::build::Work;
use crate::parallel::{self, each_on};
use crate::stack::Material;
use crate::stack::lock::Source;
use crate::stack::recipe::Recipe;
use crate::store::Store;
use crate::supply::Supply;
use crate::supply::crates::Crate;
use crate::{cli, error, fetch};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// How sources are fetched, as the flags say.
pub(super) fn fetch_options(workshop: &Workshop, network: &cli::Network) -> fetch::Options {
    fetch::Options {
        store: workshop.dirs.sources(),
        rejected: workshop.dirs.rejected(),
        mirrors: network.mirrors.clone(),
        offline: network.offline,
        jobs: parallel::cores().max(4),
        retry: fetch::Retry::default(),
    }
}

/// Brings the archives of the recipes into the store, whether or not they are needed.
pub(super) fn fetch_sources(
    workshop: &Workshop,
    recipes: &[&Recipe],
    network: &cli::Network,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    fetch::fetch_all(&sources(workshop, recipes), &fetch_options(workshop, network), &workshop.ui)
}

/// What recipes are made from, each source once.
pub(super) fn sources<'a>(workshop: &'a Workshop, recipes: &[&Recipe]) -> Vec<&'a Source> {
    let mut sources: Vec<&Source> = Vec::new();
    for recipe in recipes {
        if let Material::Locked(source) = workshop.stack.material(recipe)
            && !sources.iter().any(|known| known.name == source.name)
        {
            sources.push(source);
        }
    }
    sources
}

/// What was brought.
pub(super) struct Brought {
    /// The archives of sources, by name.
    pub archives: BTreeMap<String, PathBuf>,
    /// The components' versions, by name.
    pub versions: BTreeMap<String, String>,
    /// The crates that they take, and where cargo has them.
    pub crates: BTreeSet<Crate>,
    pub cargo_home: PathBuf,
}

/// Fetches sources, prepares them and fetches what their steps need.
///
/// # Errors
/// The first failure, or all of them in one; all components are tried.
pub(super) fn dependencies(
    workshop: &Workshop,
    lock: &BuildLock,
    recipes: &[&Recipe],
    network: &cli::Network,
    supply: &Supply,
) -> anyhow::Result<Brought> {
    workshop.ui.keep_logs(&workshop.dirs.build)?;
    let store = Store::at(workshop.dirs.store());
    let plan = workshop.planner(&store).plan(recipes)?;
    let archives = fetch_sources(workshop, recipes, network)?;
    let session = workshop.session(&store, supply, parallel::cores());
    lock.share()?;
    // They wait for the network more than for the machine, so all go at once; a failure is kept to see the others'.
    let outcomes = each_on(plan.components.len(), &plan.components, |component| {
        Ok(Work::new(&session, component).gather(archives.get(&component.recipe.source).map(PathBuf::as_path)))
    })?;
    let versions = plan.components.iter().map(|one| (one.recipe.name.clone(), one.version().to_owned())).collect();
    let mut brought = Brought { archives, versions, crates: BTreeSet::new(), cargo_home: PathBuf::new() };
    let mut failures = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(gathered) => {
                brought.crates.extend(gathered.crates);
                brought.cargo_home = gathered.cargo_home;
            }
            Err(error) => failures.push(error),
        }
    }
    error::conclude(failures, "components failed")?;
    Ok(brought)
}
