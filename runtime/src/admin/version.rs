//! `dkmadmin version`.

use std::process::ExitCode;

use anyhow::Result;

use crate::install::bundle_root;
use crate::manifest::Manifest;

/// Shows what the bundle is made of.
///
/// # Errors
/// When there is no manifest that can be read.
pub fn run() -> Result<ExitCode> {
    let manifest = Manifest::read(&bundle_root()?)?;
    let stack = manifest.stack.map_or_else(String::new, |stack| format!(" ({stack})"));
    println!("{}{stack} {} for {} on {}", manifest.name, manifest.version, manifest.platform.os, manifest.platform.arch);
    for component in manifest.components {
        println!("  {} {}  {}", component.name, component.version, component.license);
    }
    Ok(ExitCode::SUCCESS)
}
