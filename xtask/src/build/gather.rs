//! Fetches what a component's steps need, and nothing else: for a later build, or for a mirror.

use super::{Build, cargo};
use crate::environment;
use crate::stack::recipe::Action;
use crate::supply::crates::{self, Crate};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What a component's steps take from elsewhere than the caches that the session's supply has filled.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Crates.
    pub crates: BTreeSet<Crate>,
    /// cargo's own folder, where they are.
    pub cargo_home: PathBuf,
}

/// Fetches the dependencies of all steps.
pub(super) fn gather(build: &Build<'_>) -> anyhow::Result<Gathered> {
    let env = environment::base(build.session.dirs, build.epoch);
    let mut gathered = Gathered { cargo_home: cargo::cargo_home(&env), ..Gathered::default() };
    for step in &build.planned.recipe.steps {
        build.fetch_dependencies(step)?;
        if let Action::Cargo(_) = step.action() {
            gathered.crates.extend(crates::pinned(&cargo::lock_file(build, &build.dir(step)?))?);
        }
    }
    Ok(gathered)
}
