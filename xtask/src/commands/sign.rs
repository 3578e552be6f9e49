//! `sign`: signatures for what was made without a key.
//!
//! An archive gets the signature of its manifest as its last entry and a signature beside it; the result is, byte for byte,
//! what `package --sign` would have made. So the machine that compiles never has to see the key.

use crate::archive::{self, Format};
use crate::cli;
use crate::error::{Kind, WithKind as _};
use crate::sign::Signer;
use crate::stage;
use crate::verify::contents::{self, Contents};
use dkumonitor_interface::integrity::{self, Standing};
use dkumonitor_interface::manifest::{FILE_NAME, SIGNATURE_NAME};
use std::path::Path;

/// Signs files.
///
/// # Errors
/// When the key cannot be used, or a file not be signed.
pub fn run(args: &cli::Sign) -> anyhow::Result<()> {
    let signer = Signer::open(&args.key, &super::workspace())?;
    for file in &args.files {
        sign(file, &signer, args.epoch)?;
        println!("{} is signed by the key {}", file.display(), signer.id());
    }
    Ok(())
}

/// Signs one file, and what is in it where it is an archive. `epoch` is the time for files that carry none themselves.
///
/// # Errors
/// [`Kind::Integrity`] when an archive is damaged, or signed by another key.
pub fn sign(file: &Path, signer: &Signer, epoch: Option<u64>) -> anyhow::Result<()> {
    let fail = || format!("cannot sign {}", file.display());
    let contents = Format::of(file).map(|format| anyhow::Ok((format, contents::read(file, format)?))).transpose();
    let epoch = match contents.kind(Kind::Integrity, fail)? {
        Some((format, contents)) if !contents.manifest.is_empty() => {
            let (top, mtime) = (contents.top.clone(), contents.epoch);
            if let Some(signature) = missing_signature(contents, signer).kind(Kind::Integrity, fail)? {
                archive::add_signature(file, file, format, (&top, mtime), signature.as_bytes())?;
            }
            mtime
        }
        // An archive of something else, such as sources.
        _ => epoch.unwrap_or(0),
    };
    signer.sign_file(file, epoch, None).map(drop).kind(Kind::Integrity, fail)
}

/// The signature that a bundle's manifest lacks; none where it has this key's. Damage is not signed.
fn missing_signature(contents: Contents, signer: &Signer) -> anyhow::Result<Option<String>> {
    let key = signer.public_key()?;
    let manifest = contents.manifest.as_bytes();
    let signature = match integrity::signature(
        FILE_NAME,
        manifest,
        contents.signature.as_deref(),
        contents.signature.as_ref().map(|_| &key),
    ) {
        Standing::Good(_) => None,
        Standing::Unsigned => Some(stage::sign_manifest(signer, &contents.top, manifest)),
        _ => anyhow::bail!("there is a {SIGNATURE_NAME} in it that is not by the key {}", signer.id()),
    };
    contents.check(None)?;
    Ok(signature)
}
