//! `verify`: whether an archive, an unpacked bundle or a release is what was released.

use crate::cli;
use crate::error::{Kind, WithKind as _, conclude};
use crate::verify::{self, With};
use dkumonitor_interface::integrity;
use dkumonitor_interface::text::harmless_line;

/// Verifies all of them, and prints what was found.
///
/// # Errors
/// [`Kind::Usage`] when the key cannot be read; else those of [`verify::verify`].
pub fn run(args: &cli::Verify) -> anyhow::Result<()> {
    let key = args.key.as_deref().map(integrity::public_key).transpose();
    let key = key.kind(Kind::Usage, || "cannot verify anything with this --key".to_owned())?;
    let with = With { key: key.as_ref(), contents: args.contents };
    let mut failures = Vec::new();
    for file in &args.files {
        match verify::verify(file, with) {
            // What signers and names say is in it.
            Ok(lines) => lines.iter().for_each(|line| println!("{}", harmless_line(line.as_bytes()))),
            Err(error) => failures.push(error),
        }
    }
    conclude(failures, "of them are not what was released")
}
