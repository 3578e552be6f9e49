//! Whether what was released is what was released: signatures, checksums, and the files in an archive.
//!
//! Promises: nothing is needed but the file and the public key, nothing is written, and nothing is believed that the key has
//! not signed once a key is given. A whole archive is vouched for by the signature beside it, which takes one pass over its
//! bytes; where that is missing, or on demand, the archive is read through, and the manifest's signature inside it vouches for
//! the manifest, and the manifest for every file; all else in the tar has only one form ([`crate::archive::strict`]). What nothing
//! vouches for is said. Where nothing could be checked at all, that is an error.
//!
//! A key that comes along with the file proves nothing; where it comes from is left to the caller.

use crate::archive::{Format, SIGNATURE};
use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use crate::report::{SBOM, provenance};
use anyhow::Context as _;
use dkumonitor_interface::integrity::{self, PublicKey, Standing};
use dkumonitor_interface::text::harmless_line;
use minisign_verify::Signature;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

pub mod contents;
mod sums;
#[cfg(test)]
mod tests;

pub use sums::SUMS;

/// What stands beside a file is no longer than this, in bytes.
const LONGEST_BESIDE: u64 = 4 * 1024 * 1024;

/// What a manifest does not vouch for.
const UNVOUCHED: &str = "not checked, since only its .minisig (or a .sha256) covers it: its time, and in which of several ways the same \
                         content was compressed";

/// What there is to verify with, and how thoroughly.
#[derive(Clone, Copy, Default)]
pub struct With<'a> {
    /// The key that everything has to be signed with.
    pub key: Option<&'a PublicKey>,
    /// Read archives through, even where the signature beside them vouches for all.
    pub contents: bool,
}

/// Verifies a file, an unpacked bundle, or a folder's `SHA256SUMS` with all that it names; gives what was found, in words.
///
/// # Errors
/// [`Kind::Integrity`] when it is not what was released, is not signed by the given key, or there is nothing to verify it with.
pub fn verify(path: &Path, with: With<'_>) -> anyhow::Result<Vec<String>> {
    let kind = path.metadata().kind(Kind::Usage, || format!("cannot verify {}", path.display()))?.file_type();
    if !kind.is_dir() && !kind.is_file() {
        return Err(Kind::Usage.error(format!("cannot verify {}: it is neither a file nor a folder", path.display())));
    }
    let fail = || format!("cannot vouch for {}", path.display());
    if path.is_dir() {
        tree(path, with.key).kind(Kind::Integrity, fail)
    } else if path.file_name().is_some_and(|name| name == SUMS) {
        sums::verify(path, with).kind(Kind::Integrity, fail)
    } else {
        file(path, with).kind(Kind::Integrity, fail)
    }
}

/// A bundle that was unpacked, or was never packed.
fn tree(path: &Path, key: Option<&PublicKey>) -> anyhow::Result<Vec<String>> {
    let report = integrity::check(path, key)?;
    judge(&report.signature, report.differences)?;
    let files = report.manifest.files.len();
    Ok(vec![
        format!("all {files} files of {} are as the manifest says", path.display()),
        format!("the manifest is {}", report.signature.text()),
    ])
}

/// Fails unless all is well, naming all that is not.
fn judge(signature: &Standing, differences: Vec<String>) -> anyhow::Result<()> {
    let why = match signature {
        Standing::Bad(why) => Some(why.clone()),
        _ => None,
    };
    // A name of several lines would pass itself off as what is said about it.
    let all: Vec<_> = why.into_iter().chain(differences).map(|line| harmless_line(line.as_bytes())).collect();
    if all.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(all.join("\n  "))) }
}

fn file(path: &Path, with: With<'_>) -> anyhow::Result<Vec<String>> {
    let beside = read_beside(path, SIGNATURE)?;
    let sum = read_beside(path, "sha256")?;
    let (signature, sum) = std::thread::scope(|scope| {
        // Each reads the file by itself: the second one finds it in memory.
        let sum = scope.spawn(|| sum.as_deref().map(|sum| sums::check_beside(path, sum)).transpose());
        let signature = check_signature(path, beside.as_deref(), with.key);
        (signature, sum.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let mut lines = Vec::new();
    let mut wrong = Vec::new();
    let has_sum = matches!(sum, Ok(Some(())));
    match sum {
        Ok(sum) => lines.extend(sum.map(|()| "its content is the one that its .sha256 names".to_owned())),
        Err(error) => wrong.push(format!("{error:#}")),
    }
    let signature = signature?;
    let is_signed = matches!(signature, Some(Standing::Good(_)));
    match &signature {
        Some(standing @ Standing::Good(comment)) => lines.push(format!("{}: {}", standing.text(), comment.replace('\t', ", "))),
        Some(standing) => lines.push(standing.text()),
        None => {}
    }
    let signature = signature.unwrap_or(Standing::Unsigned);
    judge(&signature, wrong)?;
    let (format, mut bill) = (Format::of(path), None);
    let vouched = is_signed || (with.key.is_none() && has_sum);
    match format.filter(|_| with.contents || !vouched) {
        Some(format) => {
            let contents = contents::read(path, format)?;
            if name_of(path).strip_suffix(format.ending()).and_then(|name| name.strip_suffix('.')) != Some(&contents.top) {
                lines.push(format!("! it holds {}, whatever it is called", contents.top));
            }
            bill = contents.sha256(SBOM);
            lines.extend(contents.check(with.key)?);
            if !vouched {
                lines.push(UNVOUCHED.to_owned());
            }
        }
        None if with.key.is_some() && !is_signed => {
            anyhow::bail!("it is not signed: {} is missing", path.with_added_extension(SIGNATURE).display())
        }
        None if !vouched && beside.is_some() => {
            anyhow::bail!("only its signature could vouch for it, and there is no key to check that with: give --key PUB")
        }
        None if !vouched => anyhow::bail!("there is neither a .{SIGNATURE} nor a .sha256 beside it"),
        None => {}
    }
    if format.is_some() {
        papers(path, with.key, bill.as_deref(), &mut lines)?;
    }
    Ok(lines.into_iter().map(|line| format!("{}: {line}", path.display())).collect())
}

/// What lies beside an archive and tells about it, against its signature or, of a bill of materials, against the one in the archive where
/// that was read; said where there is neither.
fn papers(path: &Path, key: Option<&PublicKey>, bill: Option<&str>, lines: &mut Vec<String>) -> anyhow::Result<()> {
    let name = name_of(path);
    let Some(ending) = Format::of(path).map(Format::ending) else { return Ok(()) };
    let stem = name.strip_suffix(ending).unwrap_or(&name).trim_end_matches('.');
    let mut wrong = Vec::new();
    for (ending, inside) in [(&*format!(".{SBOM}"), bill), (provenance::ENDING, None)] {
        let paper = path.with_file_name(format!("{stem}{ending}"));
        if !paper.is_file() {
            continue;
        }
        let shown = paper.display();
        match check_signature(&paper, read_beside(&paper, SIGNATURE)?.as_deref(), key)? {
            Some(Standing::Good(_)) => lines.push(format!("{shown} beside it is signed by the given key")),
            Some(Standing::Bad(why)) => wrong.push(why),
            _ => match inside.map(|inside| anyhow::Ok(fingerprint::hash_file(&paper)? == inside)).transpose()? {
                Some(true) => lines.push(format!("{shown} beside it is the one in it")),
                Some(false) => wrong.push(format!("{shown} beside it is another one than that in it")),
                None => lines.push(format!("! {shown} beside it was not checked, for want of a signature or a key")),
            },
        }
    }
    judge(&Standing::Unsigned, wrong)
}

/// The name that a file was signed under, where that is another one than it has now: an older version in a newer one's clothes, say.
fn other_name<'a>(path: &Path, comment: &'a str) -> Option<&'a str> {
    comment.split('\t').find_map(|part| part.strip_prefix("file:")).filter(|named| name_of(path) != **named)
}

/// A file's own name.
fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// What stands beside a file, if anything.
fn read_beside(path: &Path, ending: &str) -> anyhow::Result<Option<String>> {
    let beside = path.with_added_extension(ending);
    let cannot = || format!("cannot read {}", beside.display());
    match beside.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A pipe would keep us waiting, and a device never end.
        data => anyhow::ensure!(data.with_context(cannot)?.is_file(), "{}: it is not a regular file", cannot()),
    }
    let mut text = String::new();
    let read =
        File::open(&beside).and_then(|file| file.take(LONGEST_BESIDE + 1).read_to_string(&mut text)).with_context(cannot)?;
    anyhow::ensure!(read as u64 <= LONGEST_BESIDE, "{}: it is of absurd size", cannot());
    Ok(Some(text))
}

/// How it stands with the signature beside a file; none where there is neither a signature nor a key.
fn check_signature(path: &Path, text: Option<&str>, key: Option<&PublicKey>) -> anyhow::Result<Option<Standing>> {
    let (text, key) = match (text, key) {
        (None, _) => return Ok(None),
        (Some(_), None) => return Ok(Some(Standing::Unchecked)),
        (Some(text), Some(key)) => (text, key),
    };
    let name = path.with_added_extension(SIGNATURE);
    let bad = |error| Ok(Some(Standing::Bad(format!("{} is wrong: {}", name.display(), integrity::why(&error)))));
    let signature = match Signature::decode(text) {
        Ok(signature) => signature,
        Err(error) => return bad(error),
    };
    let mut verifier = match key.verify_stream(&signature) {
        Ok(verifier) => verifier,
        Err(error) => return bad(error),
    };
    let mut file = File::open(path)?;
    let mut piece = vec![0; 256 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => verifier.update(&piece[..count]),
        }
    }
    if let Err(error) = verifier.finalize() {
        return bad(error);
    }
    let comment = signature.trusted_comment();
    Ok(Some(match other_name(path, comment) {
        Some(named) => {
            Standing::Bad(format!("it was signed under the name {named}: give it that name, if that is what you want"))
        }
        None => Standing::Good(comment.to_owned()),
    }))
}
