//! The installer: a data folder from a bundle.
//!
//! It works in three steps, and only the last one changes anything:
//!
//! 1. [`plan`] looks at the bundle, the machine and the arguments, and collects *everything* that is wrong;
//! 2. [`render`] makes every file's content in memory, so that a template's error is met before anything is made;
//! 3. [`build`] writes the folder beside its place and renames it: it is there whole or not at all.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::Installer;
use crate::manifest::Manifest;

pub mod build;
pub mod collectd;
pub mod context;
pub mod plan;
pub mod render;
pub mod retention;

/// Makes the data folder, and says what to do next.
///
/// # Errors
/// Everything that is wrong at once, or what could not be written.
pub fn run(arguments: &Installer) -> Result<ExitCode> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let bundle = bundle_root()?;
    let manifest = Manifest::read(&bundle)?;
    let plan = match plan::make(arguments, &bundle, &manifest) {
        Ok(plan) => plan,
        Err(problems) => {
            eprintln!("installer: cannot install into {}:", arguments.data.display());
            for problem in &problems.0 {
                eprintln!("  - {problem}");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let files = render::all(&plan)?;
    build::folder(&plan, &files)?;
    print!("{}", plan.farewell());
    Ok(ExitCode::SUCCESS)
}

/// The bundle this program lies in, as `bin/dkm`.
///
/// # Errors
/// When the program's own file cannot be found.
pub fn bundle_root() -> Result<std::path::PathBuf> {
    let program =
        std::env::current_exe().and_then(|path| path.canonicalize()).context("cannot find this program's own file")?;
    let root = program.parent().and_then(std::path::Path::parent);
    root.map(std::path::Path::to_owned).with_context(|| format!("{} does not lie in a bundle", program.display()))
}
