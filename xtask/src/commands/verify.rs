//! `verify`: whether an archive, an unpacked bundle or a release is what was released.

use crate::cli;
use crate::error::{Kind, WithKind as _};
use crate::verify::{self, With};
use dkumonitor_interface::integrity;

/// Verifies, and prints what was found.
///
/// # Errors
/// [`Kind::Usage`] when the key cannot be read; else those of [`verify::verify`].
pub fn run(args: &cli::Verify) -> anyhow::Result<()> {
    let key = args.key.as_deref().map(integrity::public_key).transpose();
    let key = key.kind(Kind::Usage, || "cannot verify anything with this --key".to_owned())?;
    let with = With { key: key.as_ref(), contents: args.contents };
    for file in &args.files {
        for line in verify::verify(file, with)? {
            println!("{line}");
        }
    }
    Ok(())
}
