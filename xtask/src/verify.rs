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
use crate::parallel;
use crate::report::{SBOM, provenance};
use anyhow::Context as _;
use dkumonitor_interface::integrity::{self, PublicKey, Standing};
use minisign_verify::Signature;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

pub mod contents;
#[cfg(test)]
mod tests;

/// The checksums of a whole release.
pub const SUMS: &str = "SHA256SUMS";

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
        sums(path, with).kind(Kind::Integrity, fail)
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
    let all: Vec<_> = why.into_iter().chain(differences).collect();
    if all.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(all.join("\n  "))) }
}

fn file(path: &Path, with: With<'_>) -> anyhow::Result<Vec<String>> {
    let beside = read_beside(path, SIGNATURE)?;
    let sum = read_beside(path, "sha256")?;
    let (signature, sum) = std::thread::scope(|scope| {
        // Each reads the file by itself: the second one finds it in memory.
        let sum = scope.spawn(|| sum.as_deref().map(|sum| check_sum(path, sum)).transpose());
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
    let format = Format::of(path);
    if format.is_some() {
        papers(path, with.key, &mut lines, &mut wrong)?;
    }
    judge(signature.as_ref().unwrap_or(&Standing::Unsigned), wrong)?;
    let vouched = is_signed || (with.key.is_none() && has_sum);
    match format.filter(|_| with.contents || !vouched) {
        Some(format) => {
            lines.extend(contents::read(path, format)?.check(with.key)?);
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
    note_other_name(path, beside.as_deref(), &mut lines);
    Ok(lines.into_iter().map(|line| format!("{}: {line}", path.display())).collect())
}

/// What lies beside an archive and tells about it, against its signature; said where there is none.
fn papers(path: &Path, key: Option<&PublicKey>, lines: &mut Vec<String>, wrong: &mut Vec<String>) -> anyhow::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(ending) = Format::of(path).map(Format::ending) else { return Ok(()) };
    let stem = name.strip_suffix(ending).unwrap_or(&name).trim_end_matches('.');
    for ending in [&format!(".{SBOM}"), provenance::ENDING] {
        let paper = path.with_file_name(format!("{stem}{ending}"));
        if !paper.is_file() {
            continue;
        }
        match check_signature(&paper, read_beside(&paper, SIGNATURE)?.as_deref(), key)? {
            Some(Standing::Good(_)) => lines.push(format!("{} beside it is signed by the given key", paper.display())),
            Some(Standing::Bad(why)) => wrong.push(why),
            _ => lines.push(format!("! {} beside it was not checked, for want of a signature or a key", paper.display())),
        }
    }
    Ok(())
}

/// A file that was signed under another name may be an older version in a newer one's clothes.
fn note_other_name(path: &Path, signature: Option<&str>, lines: &mut Vec<String>) {
    let Some(Ok(signature)) = signature.map(Signature::decode) else { return };
    let named = signature.trusted_comment().split('\t').find_map(|part| part.strip_prefix("file:")).map(str::to_owned);
    if let Some(named) = named.filter(|named| path.file_name().is_some_and(|name| name.to_string_lossy() != **named)) {
        lines.push(format!("! it was signed under the name {named}"));
    }
}

/// What stands beside a file, if anything.
fn read_beside(path: &Path, ending: &str) -> anyhow::Result<Option<String>> {
    let beside = path.with_added_extension(ending);
    match fs::read_to_string(&beside) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(anyhow::anyhow!("cannot read {}: {error}", beside.display())),
    }
}

fn check_sum(path: &Path, text: &str) -> anyhow::Result<()> {
    let wanted = text.split_whitespace().next().context("its .sha256 is empty")?;
    let found = fingerprint::hash_file(path)?;
    anyhow::ensure!(found == wanted, "its SHA-256 is {found}, and its .sha256 says {wanted}");
    Ok(())
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
    match verifier.finalize() {
        Ok(()) => Ok(Some(Standing::Good(signature.trusted_comment().to_owned()))),
        Err(error) => bad(error),
    }
}

/// A `SHA256SUMS`, and every file that it names.
fn sums(path: &Path, with: With<'_>) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let standing = integrity::signature(SUMS, text.as_bytes(), read_beside(path, SIGNATURE)?.as_deref(), with.key);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut named = Vec::new();
    for line in text.lines() {
        let (sum, name) = line
            .split_once("  ")
            .filter(|(sum, name)| sum.len() == 64 && !name.contains('/'))
            .ok_or_else(|| anyhow::anyhow!("\"{line}\" is not a line of sha256sum about a file beside it"))?;
        named.push((sum, name));
    }
    anyhow::ensure!(!named.is_empty(), "it names no file");
    let check = |(sum, name): &(&str, &str)| match check_named(&folder.join(name), sum, with.key) {
        Ok(()) => None,
        Err(error) => Some(format!("{name}: {error:#}")),
    };
    let wrong = std::sync::Mutex::new(Vec::new());
    parallel::first_on_all_cores(&named, |one| {
        let why = check(one);
        wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(why);
        None::<()>
    });
    let mut wrong = wrong.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    wrong.sort();
    judge(&standing, wrong)?;
    let mut lines = vec![
        format!("all {} files that {} names are whole", named.len(), path.display()),
        format!("{SUMS} is {}", standing.text()),
    ];
    let named: Vec<_> = named.iter().map(|(_, name)| *name).chain([SUMS]).collect();
    lines.extend(
        strangers(folder, &named)?.into_iter().map(|name| format!("! {name} lies there too, and {SUMS} does not name it")),
    );
    Ok(lines)
}

/// A file against its line, and what stands beside it: that too has to be of this file.
fn check_named(path: &Path, sum: &str, key: Option<&PublicKey>) -> anyhow::Result<()> {
    check_sum(path, sum)?;
    if let Some(beside) = read_beside(path, "sha256")? {
        let said = beside.split_whitespace().next().unwrap_or_default();
        anyhow::ensure!(said == sum, "its .sha256 says {said}, and {SUMS} {sum}");
    }
    if key.is_some()
        && let Some(Standing::Bad(why)) = check_signature(path, read_beside(path, SIGNATURE)?.as_deref(), key)?
    {
        anyhow::bail!(why);
    }
    Ok(())
}

/// Files of a release's folder that its checksums do not name, and that stand beside none of those.
fn strangers(folder: &Path, named: &[&str]) -> anyhow::Result<Vec<String>> {
    // (The parent of a name alone is the empty path.)
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut strangers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let beside = [SIGNATURE, "sha256"].iter().find_map(|ending| name.strip_suffix(ending)?.strip_suffix('.'));
        if !named.contains(&beside.unwrap_or(&name)) {
            strangers.push(name);
        }
    }
    strangers.sort();
    Ok(strangers)
}
