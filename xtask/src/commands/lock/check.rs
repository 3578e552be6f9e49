//! `lock check`: what in `vendor.lock` can hardly be meant, told all at once.
//!
//! Beside what reading the lock refuses anyway, it finds versions that the addresses or the purl do not name, missing
//! licence files, one archive pinned twice; and by comparison with the lock of the last commit, pins of which only a half
//! was changed: the address but not the hash, or the hash but nothing that explains it. No network is used, so whether a
//! hash is right is left to `fetch`.

use super::version;
use crate::cli;
use crate::commands::workspace;
use crate::error::Kind;
use crate::stack::lock::{Lock, Origin, Source};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Checks the lock and prints what it was compared with.
///
/// # Errors
/// [`Kind::Usage`] with everything that was found, or when the lock cannot be read.
pub fn run(args: &cli::LockCheck) -> anyhow::Result<()> {
    let root = args.stack.clone().unwrap_or_else(workspace);
    let root = root
        .canonicalize()
        .map_err(|error| Kind::Usage.error(format!("cannot use the stack {}: {error} (--stack DIR)", root.display())))?;
    let path = root.join("vendor.lock");
    let lock = Lock::parse_unchecked(&Lock::read_text(&path)?)
        .map_err(|error| Kind::Usage.error(format!("cannot use {}: {error}", path.display())))?;
    let mut findings = lock.problems();
    findings.extend(lock.sources.iter().flat_map(|source| doubts(source, &root)));
    findings.extend(shared(&lock));
    let compared = match committed(&root, args.against.as_deref()) {
        Ok(earlier) => {
            findings.extend(lock.sources.iter().flat_map(|source| half_changed(source, &earlier)));
            format!("compared with that of {}", args.against.as_deref().unwrap_or("HEAD"))
        }
        Err(why) if args.against.is_some() => {
            return Err(Kind::Usage.error(format!("cannot compare {} by --against: {why}", path.display())));
        }
        Err(why) => format!("comparison with the last commit passed over: {why}"),
    };
    if findings.is_empty() {
        println!("{}: {} sources, nothing found; {compared}", path.display(), lock.sources.len());
        return Ok(());
    }
    let count = if findings.len() == 1 { "one finding".to_owned() } else { format!("{} findings", findings.len()) };
    let list: String = findings.iter().map(|finding| format!("\n  {finding}")).collect();
    Err(Kind::Usage.error(format!("cannot trust {}, {count} ({compared}):{list}", path.display())))
}

/// What is doubtful about one source by itself.
fn doubts(source: &Source, root: &Path) -> Vec<String> {
    let mut doubts = Vec::new();
    if source.license_files.is_empty() {
        doubts.push(
            "license-files is missing: name the licence texts in its tree, they have to travel with the bundle".to_owned(),
        );
    }
    match source.origin() {
        Origin::Folder(path) => {
            let missing = source.license_files.iter().filter(|file| !root.join(path).join(file).is_file());
            doubts.extend(missing.map(|file| format!("license-files: {} is not in {}", file.display(), path.display())));
        }
        Origin::Archive { .. } => {
            let named = source.urls.iter().any(|url| version::is_in(url, &source.version));
            if !named && !source.urls.is_empty() {
                doubts.push(format!(
                    "no address names version {}: {}; use `lock bump`, which changes both",
                    source.version,
                    source.urls.join(", ")
                ));
            }
            let distinct: BTreeSet<_> = source.urls.iter().collect();
            if distinct.len() < source.urls.len() {
                doubts.push("an address stands there twice; remove one".to_owned());
            }
            doubts.extend(purl_doubt(source));
        }
    }
    doubts.into_iter().map(|doubt| format!("source \"{}\": {doubt}", source.name)).collect()
}

/// What is wrong with the package URL of an archive.
fn purl_doubt(source: &Source) -> Option<String> {
    let Some(purl) = &source.purl else {
        return Some("purl is missing: inventories know the source by it (pkg:github/OWNER/NAME@TAG)".to_owned());
    };
    // Qualifiers and subpath come behind the version.
    let plain = purl.split(['?', '#']).next().unwrap_or(purl);
    let version = plain.strip_prefix("pkg:").and_then(|rest| rest.rsplit_once('@'));
    match version {
        Some((package, tag)) if package.contains('/') && !tag.contains('/') => (!version::is_in(tag, &source.version))
            .then(|| format!("purl {purl} names {tag}, but the version is {}", source.version)),
        _ => Some(format!("purl {purl} is not of the form pkg:TYPE/NAME@VERSION")),
    }
}

/// Archives and addresses that belong to more than one source.
fn shared(lock: &Lock) -> Vec<String> {
    let mut by_hash: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut by_url: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in &lock.sources {
        if let Origin::Archive { sha256 } = source.origin()
            && !sha256.is_empty()
        {
            by_hash.entry(sha256).or_default().push(&source.name);
        }
        for url in source.urls.iter().collect::<BTreeSet<_>>() {
            by_url.entry(url).or_default().push(&source.name);
        }
    }
    let tell = |what: &str, of: BTreeMap<&str, Vec<&str>>, way_out: &str| {
        let shared = of.into_iter().filter(|(_, names)| names.len() > 1);
        shared
            .map(|(key, names)| format!("sources {} have the same {what} {key}; {way_out}", quoted(&names)))
            .collect::<Vec<_>>()
    };
    let mut found = tell("sha256", by_hash, "one was copied and not changed, or two recipes can share one source");
    found.extend(tell("address", by_url, "one of them cannot be right"));
    found
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" and ")
}

/// An entry of an earlier lock. Only what is compared: another version of this program may have written the rest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Earlier {
    name: String,
    version: String,
    #[serde(default)]
    urls: BTreeSet<String>,
    sha256: Option<String>,
    size: Option<u64>,
    tree_sha256: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct EarlierLock {
    #[serde(default, rename = "source")]
    sources: Vec<Earlier>,
}

/// The lock as a commit has it, or why it cannot be had.
fn committed(root: &Path, commit: Option<&str>) -> Result<EarlierLock, String> {
    let object = format!("{}:./vendor.lock", commit.unwrap_or("HEAD"));
    let shell = xshell::Shell::new().map_err(|error| error.to_string())?;
    let mut git = xshell::cmd!(shell, "git -C {root} cat-file blob --end-of-options {object}").env("LC_ALL", "C");
    // Set where a hook of git's runs this; they name another repository than the one that holds the stack, or the same.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        git = git.env_remove(name);
    }
    let output = git.quiet().ignore_status().output().map_err(|error| format!("git cannot be run ({error})"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git has no vendor.lock there ({})", said.lines().next().unwrap_or_default()));
    }
    toml::from_str(&String::from_utf8_lossy(&output.stdout))
        .map_err(|error| format!("the one there cannot be read ({})", error.message()))
}

/// What of a pin was changed without that which belongs to it.
fn half_changed(source: &Source, earlier: &EarlierLock) -> Vec<String> {
    let Some(old) = earlier.sources.iter().find(|old| old.name == source.name) else { return Vec::new() };
    let (Some(old_hash), Some(hash)) = (&old.sha256, &source.sha256) else { return Vec::new() };
    let urls: BTreeSet<_> = source.urls.iter().cloned().collect();
    // One more mirror, or one fewer, or another order, is no other archive.
    let new_urls: Vec<_> = urls.difference(&old.urls).map(String::as_str).collect();
    let moved = !new_urls.is_empty() && old.urls.difference(&urls).next().is_some();
    let renumbered = source.version != old.version;
    let mut found = Vec::new();
    if old_hash == hash {
        let changes = [
            renumbered.then(|| format!("version ({} → {})", old.version, source.version)),
            moved.then(|| format!("address ({})", new_urls.join(", "))),
            (source.size != old.size && source.size.is_some() && old.size.is_some()).then(|| "size".to_owned()),
            (source.tree_sha256 != old.tree_sha256 && source.tree_sha256.is_some() && old.tree_sha256.is_some())
                .then(|| "tree-sha256".to_owned()),
        ];
        let changes: Vec<_> = changes.into_iter().flatten().collect();
        if !changes.is_empty() {
            found.push(format!(
                "{} changed, sha256 did not: the pin is still that of {} {}; use `lock bump` for another version \
                 (where the same archive only moved, commit it after `fetch --build-dir` of an empty folder)",
                changes.join(" and "),
                old.name,
                old.version
            ));
        }
    } else if !renumbered && !moved {
        found.push(format!(
            "sha256 changed, but neither version nor address: either upstream has published something else as {} or \
             somebody wants it to be taken; compare both archives before you commit this",
            source.version
        ));
    }
    found.into_iter().map(|finding| format!("source \"{}\": {finding}", source.name)).collect()
}
