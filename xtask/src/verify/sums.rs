//! Lists of checksums: that of a whole release, and the one beside a file.
//!
//! Promises: a list is read as sha256sum reads it (either case of digits, `*` for binary, the BSD's form, any end of line), and a line
//! that is none is an error, as is a checksum that is of another file than the one at hand.

use super::{With, check_signature, judge, name_of, other_name, read_beside};
use crate::archive::SIGNATURE;
use crate::fingerprint;
use crate::parallel;
use anyhow::Context as _;
use dkumonitor_interface::integrity::{self, PublicKey, Standing};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The checksums of a whole release.
pub const SUMS: &str = "SHA256SUMS";

/// A checksum, and the name of its file; empty where it stands by itself.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    sum: String,
    name: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (sum, name) = match line.strip_prefix("SHA256 (").and_then(|rest| rest.rsplit_once(") = ")) {
            Some((name, sum)) => (sum, name),
            None => match line.split_once(' ') {
                Some((sum, rest)) => (sum, rest.strip_prefix([' ', '*'])?),
                None => (line, ""),
            },
        };
        let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_sum.then(|| Self { sum: sum.to_ascii_lowercase(), name })
    }
}

/// Checks a file against the text of its `.sha256`.
///
/// # Errors
/// When it has another content, or the text is about another file.
pub fn check_beside(path: &Path, text: &str) -> anyhow::Result<()> {
    check(path, &sum_beside(path, text)?, "its .sha256")
}

/// The one checksum that the text of a `.sha256` has for its file.
fn sum_beside(path: &Path, text: &str) -> anyhow::Result<String> {
    let (mut sums, mut others) = (BTreeSet::new(), Vec::new());
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        let Line { sum, name } =
            Line::parse(line).with_context(|| format!("its .sha256 has a line that is none of sha256sum: \"{line}\""))?;
        // Whoever made it may have called the file by a path of theirs.
        let own = name.rsplit('/').next().unwrap_or(name);
        if own.is_empty() || own == name_of(path) {
            sums.insert(sum);
        } else {
            others.push(own);
        }
    }
    match (sums.len(), others.first()) {
        (1, _) => Ok(sums.pop_first().unwrap_or_default()),
        (0, None) => anyhow::bail!("its .sha256 is empty"),
        (0, Some(other)) => anyhow::bail!("its .sha256 is about {other}, and not about it"),
        _ => anyhow::bail!("its .sha256 says two things of it"),
    }
}

fn check(path: &Path, wanted: &str, who: &str) -> anyhow::Result<()> {
    // Of a pipe there is no end.
    anyhow::ensure!(path.metadata()?.is_file(), "it is not a regular file");
    let found = fingerprint::hash_file(path)?;
    anyhow::ensure!(found == wanted, "its SHA-256 is {found}, and {who} says {wanted}");
    Ok(())
}

/// Verifies a `SHA256SUMS`, and every file that it names.
///
/// # Errors
/// With everything that is wrong.
pub fn verify(path: &Path, with: With<'_>) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let standing = match integrity::signature(SUMS, text.as_bytes(), read_beside(path, SIGNATURE)?.as_deref(), with.key) {
        Standing::Good(comment) => match other_name(path, &comment) {
            Some(named) => Standing::Bad(format!("{SUMS} was signed as {named}")),
            None => Standing::Good(comment),
        },
        other => other,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut named = Vec::new();
    for line in text.lines() {
        let parsed = Line::parse(line).filter(|line| !matches!(line.name, "" | "." | "..") && !line.name.contains('/'));
        named.push(parsed.with_context(|| format!("\"{line}\" is not a line of sha256sum about a file beside it"))?);
    }
    anyhow::ensure!(!named.is_empty(), "it names no file");
    let wrong = Mutex::new(Vec::new());
    parallel::first_on_all_cores(&named, |Line { sum, name }| {
        if let Err(error) = check_named(&folder.join(name), sum, with.key) {
            wrong.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {error:#}"));
        }
        None::<()>
    });
    let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    wrong.sort();
    judge(&standing, wrong)?;
    let mut lines = vec![
        format!("all {} files that {} names are whole", named.len(), path.display()),
        format!("{SUMS} is {}", standing.text()),
    ];
    let named: Vec<_> = named.iter().map(|line| line.name).chain([SUMS]).collect();
    lines.extend(
        strangers(folder, &named)?.into_iter().map(|name| format!("! {name} lies there too, and {SUMS} does not name it")),
    );
    Ok(lines)
}

/// A file against its line, and what stands beside it: that too has to be of this file.
fn check_named(path: &Path, sum: &str, key: Option<&PublicKey>) -> anyhow::Result<()> {
    check(path, sum, SUMS)?;
    if let Some(beside) = read_beside(path, "sha256")? {
        let said = sum_beside(path, &beside)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c";

    #[test]
    fn a_checksum_counts_for_the_file_that_it_names_alone() {
        let of = |text: &str| sum_beside(Path::new("/some/where/x.tar.gz"), text).map_err(|error| error.to_string());
        let upper = SUM.to_uppercase();
        for text in [
            format!("{SUM}  x.tar.gz\n"),
            format!("{SUM} *x.tar.gz\r\n"),
            format!("{upper}  dist/x.tar.gz"),
            format!("SHA256 (x.tar.gz) = {SUM}\n"),
            format!("{SUM}\n"),
            format!("{}  y.tar.gz\n{SUM}  x.tar.gz\n\n", "0".repeat(64)),
            format!("{SUM}  x.tar.gz\n{SUM}  x.tar.gz\n"),
        ] {
            assert_eq!(of(&text).as_deref(), Ok(SUM), "{text:?}");
        }
        for (text, why) in [
            (String::new(), "is empty"),
            (format!("{SUM}  y.tar.gz\n"), "is about y.tar.gz"),
            (format!("{SUM}  x.tar.gz\n{}  x.tar.gz\n", "0".repeat(64)), "says two things"),
            (format!("{SUM}\n{}\n", "0".repeat(64)), "says two things"),
            (format!("{SUM} x.tar.gz\n"), "a line that is none"),
            (SUM[1..].to_owned(), "a line that is none"),
            ("<html>not found</html>".to_owned(), "a line that is none"),
        ] {
            assert!(of(&text).unwrap_err().contains(why), "{text:?}");
        }
    }
}
