//! `dkmadmin verify`, which is also `installer --verify`.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::Verify;
use crate::install::bundle_root;
use crate::integrity::{self, Standing};

/// Compares a bundle with its manifest, and the manifest with its signature.
///
/// # Errors
/// When the bundle or the key cannot be read at all.
pub fn run(arguments: &Verify) -> Result<ExitCode> {
    let root = match &arguments.bundle {
        Some(root) => root.clone(),
        None => bundle_root()?,
    };
    let key = arguments.key.as_deref().map(integrity::public_key).transpose()?;
    let report = integrity::check(&root, key.as_ref())?;
    if let Standing::Bad(why) = &report.signature {
        println!("{why}");
    }
    report.differences.iter().for_each(|difference| println!("{difference}"));
    if !report.is_good() {
        return Ok(ExitCode::FAILURE);
    }
    println!("all {} files of {} are as the manifest says", report.manifest.files.len(), root.display());
    println!("the manifest is {}", report.signature.text());
    Ok(ExitCode::SUCCESS)
}
