//! The kind `manual`: this program writes what follows from the definitions of the launcher's flags, see [`crate::manual`].

use super::Build;
use crate::shell::Command;
use crate::stack::recipe::Step;
use anyhow::Context as _;
use std::path::Path;

pub(super) fn commands(build: &Build<'_>, step: &Step, dir: &Path) -> anyhow::Result<Vec<Command>> {
    let this = std::env::current_exe().context("cannot find this program")?;
    Ok(vec![Command::new(this, dir, &build.env(step, &[])).arg("manual").arg(build.dest().join("share"))])
}
