//! Whether what was released is what was released: signatures, checksums, and the files in an archive.
//!
//! Promises: nothing is needed but the file and the public key, nothing is written, and nothing is believed that the key has
//! not signed once a key is given. A whole archive is vouched for by the signature beside it, which takes one pass over its
//! bytes; where that is missing, or on demand, the archive is read through, and the manifest's signature inside it vouches for
//! the manifest, and the manifest for every file.
//!
//! A key that comes along with the file proves nothing; where it comes from is left to the caller.

use crate::archive::{Format, SIGNATURE};
use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use crate::parallel;
use dkumonitor_interface::integrity::{self, PublicKey, Standing};
use minisign_verify::Signature;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

pub mod contents;

/// The checksums of a whole release.
pub const SUMS: &str = "SHA256SUMS";

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
    path.metadata().kind(Kind::Usage, || format!("cannot verify {}", path.display()))?;
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
    match sum {
        Ok(sum) => lines.extend(sum.map(|()| "its content is the one that its .sha256 names".to_owned())),
        Err(error) => wrong.push(format!("{error:#}")),
    }
    let signature = signature?;
    match &signature {
        Some(standing @ Standing::Good(comment)) => lines.push(format!("{}: {}", standing.text(), comment.replace('\t', ", "))),
        Some(standing) => lines.push(standing.text()),
        None => {}
    }
    judge(signature.as_ref().unwrap_or(&Standing::Unsigned), wrong)?;
    let format = Format::of(path);
    match format.filter(|_| with.contents || (beside.is_none() && (with.key.is_some() || lines.is_empty()))) {
        Some(format) => lines.extend(contents::read(path, format)?.check(with.key)?),
        None if beside.is_none() && with.key.is_some() => {
            anyhow::bail!("it is not signed: {} is missing", path.with_added_extension(SIGNATURE).display())
        }
        None if lines.is_empty() => anyhow::bail!("there is neither a .{SIGNATURE} nor a .sha256 beside it"),
        None => {}
    }
    note_other_name(path, beside.as_deref(), &mut lines);
    Ok(lines.into_iter().map(|line| format!("{}: {line}", path.display())).collect())
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
    let wanted = text.split_whitespace().next().unwrap_or_default();
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
    let check = |(sum, name): &(&str, &str)| match check_sum(&folder.join(name), sum) {
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
    Ok(vec![
        format!("all {} files that {} names are whole", named.len(), path.display()),
        format!("{SUMS} is {}", standing.text()),
    ])
}
