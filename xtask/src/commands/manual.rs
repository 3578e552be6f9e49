//! `manual`: what is made from the definitions of commands and flags.

use crate::cli;
use crate::error::{Kind, WithKind as _};
use crate::manual;
use std::fs;
use std::path::Path;

/// Writes `docs/flags.md`, or pages and completions to a folder.
///
/// # Errors
/// When a file cannot be written.
pub fn run(args: &cli::Manual) -> anyhow::Result<()> {
    let Some(folder) = &args.folder else {
        return write(&super::workspace().join("docs/flags.md"), &manual::flags());
    };
    let files = if args.builder { manual::of_builder()? } else { manual::of_launcher()? };
    files.iter().try_for_each(|(path, text)| write(&folder.join(path), text))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let fail = || format!("cannot write {}", path.display());
    path.parent().map_or(Ok(()), fs::create_dir_all).kind(Kind::Other, fail)?;
    fs::write(path, text).kind(Kind::Other, fail)
}
