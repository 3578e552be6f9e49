//! `lock bump`: pins another version of a source.
//!
//! The whole new entry is known, shown and read back before `vendor.lock` is replaced by one rename; whatever fails
//! before leaves it as it was. Whether the recipe's patches fit the new version is left to `package`.

use super::{download, edit, licences, version};
use crate::cli;
use crate::commands::Workshop;
use crate::error::Kind;
use crate::fetch::{self, Mirror};
use crate::progress::{Ui, Verbosity, bytes};
use crate::report::policy;
use crate::stack::lock::{Lock, Origin, Source, tree_hash};
use crate::{fingerprint, unpack};
use anyhow::Context as _;
use download::Archive;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Fetches the version, shows what changes, and writes it down.
///
/// # Errors
/// [`Kind::Usage`] when the entry or the version cannot be used, [`Kind::Fetch`] when no address has the archive,
/// [`Kind::Integrity`] when what came cannot be pinned.
pub fn run(args: &cli::LockBump) -> anyhow::Result<()> {
    if !args.common.only.is_empty() {
        return Err(Kind::Usage.error("lock bump takes the one source that is named; leave out --only"));
    }
    let workshop = Workshop::open(&args.common, None)?;
    let path = workshop.stack.root.join("vendor.lock");
    let text = Lock::read_text(&path)?;
    let old = archive_source(&workshop.stack.lock, &args.name)?;
    let mut new = renumbered(old, &args.version)?;
    let _lock = workshop.lock(!args.wait.no_wait)?;
    let scratch = tempfile::Builder::new().prefix("bump-").tempdir_in(workshop.dirs.tmp())?;
    let (archive, failed) = download::get(&new, &args.network, scratch.path(), &workshop.ui)?;
    against_the_old(old, &new, &archive)?;
    let before = old_tree(&workshop, old, &new, &archive, args, scratch.path());
    let texts = licence_texts(&mut new, &archive, before.as_deref())?;
    new.sha256 = Some(archive.sha256.clone());
    new.size = Some(archive.size);
    new.tree_sha256 = Some(archive.tree_sha256.clone());
    let new_text = edit::rewritten(&text, &new)?;
    let report = report(old, &new, &archive, &failed, before.as_deref().ok()) + &texts + &to_do(&workshop, old, &new, &text);
    if args.common.talk.verbosity() != Verbosity::Quiet {
        print!("{report}");
    }
    if args.dry_run {
        workshop.ui.line(&format!("--dry-run: {} is as it was", path.display()));
        return Ok(());
    }
    if new_text == text {
        workshop.ui.line(&format!("{} says so already", path.display()));
    } else {
        edit::write(&path, &text, &new_text)?;
        workshop.ui.line(&format!("wrote {}", path.display()));
    }
    keep(&workshop, &new, &archive, scratch.path());
    Ok(())
}

/// The entry of this name, if it is one that has versions.
fn archive_source<'a>(lock: &'a Lock, name: &str) -> anyhow::Result<&'a Source> {
    let Some(source) = lock.get(name) else {
        let known: Vec<_> = lock.sources.iter().map(|source| source.name.as_str()).collect();
        return Err(
            Kind::Usage.error(format!("cannot bump {name}: vendor.lock has no such source; there are {}", known.join(", ")))
        );
    };
    match source.origin() {
        Origin::Archive { .. } => Ok(source),
        Origin::Folder(path) => Err(Kind::Usage.error(format!(
            "cannot bump {name}: it is the folder {} of the stack, not an archive; change its version by hand",
            path.display()
        ))),
    }
}

/// The entry with another version in its addresses and its purl, and yet without a hash.
fn renumbered(old: &Source, to: &str) -> anyhow::Result<Source> {
    let cannot = |why: String| Kind::Usage.error(format!("cannot bump {} to \"{to}\": {why}", old.name));
    if to.is_empty()
        || to.starts_with('.')
        || to.contains(|c: char| c.is_control() || c.is_whitespace() || "/\\\"'%".contains(c))
    {
        return Err(cannot("that is no version".to_owned()));
    }
    let bare = to.strip_prefix('v').filter(|bare| bare.starts_with(|c: char| c.is_ascii_digit()));
    if let Some(bare) = bare.filter(|_| !old.version.starts_with('v')) {
        return Err(cannot(format!("vendor.lock writes this source's versions without v; give {bare}")));
    }
    let mut new = Source { version: to.to_owned(), sha256: None, size: None, tree_sha256: None, ..old.clone() };
    let mut nameless = Vec::new();
    for url in &mut new.urls {
        match version::replaced(url, &old.version, to) {
            Some(replaced) => *url = replaced,
            None => nameless.push(url.clone()),
        }
    }
    if !nameless.is_empty() {
        return Err(cannot(format!(
            "{} does not name version {}, so there is nothing to replace; change that address by hand first",
            nameless.join(", "),
            old.version
        )));
    }
    if let Some(purl) = &mut new.purl {
        *purl = version::replaced(purl, &old.version, to)
            .ok_or_else(|| cannot(format!("purl {purl} does not name version {}; mend it first", old.version)))?;
    }
    Ok(new)
}

/// Refuses an archive that cannot be what was asked for.
fn against_the_old(old: &Source, new: &Source, archive: &Archive) -> anyhow::Result<()> {
    let pinned = old.sha256.as_deref().unwrap_or_default();
    let same_hash = pinned == archive.sha256;
    if old.version == new.version && !same_hash {
        let repacked = if old.tree_sha256.as_ref() == Some(&archive.tree_sha256) {
            "; it unpacks to the pinned tree, so it was only packed anew"
        } else {
            ""
        };
        return Err(Kind::Integrity.error(format!(
            "cannot confirm {} {}: pinned is sha256 {pinned}, but {} gave {}{repacked}; compare both before you trust one",
            old.name,
            old.version,
            archive.from.join(", "),
            archive.sha256
        )));
    }
    if old.version != new.version && same_hash {
        return Err(Kind::Integrity.error(format!(
            "cannot bump {} to {}: {} gave the archive of {} once more, byte for byte",
            old.name,
            new.version,
            archive.from.join(", "),
            old.version
        )));
    }
    Ok(())
}

/// What the archive pinned so far unpacks to, or why that is not known.
fn old_tree(
    workshop: &Workshop,
    old: &Source,
    new: &Source,
    archive: &Archive,
    args: &cli::LockBump,
    scratch: &Path,
) -> Result<PathBuf, String> {
    if old.version == new.version {
        return Ok(archive.tree.clone());
    }
    let options = options(workshop, args.network.mirrors.clone(), args.network.offline);
    let have = match fetch::stored(old, &options.store) {
        Some(path) => path,
        None => fetch::fetch_all(&[old], &options, &workshop.ui)
            .map_err(|error| format!("{error:#}"))?
            .remove(&old.name)
            .ok_or("it cannot be had")?,
    };
    let tree = scratch.join("tree-before");
    unpack::unpack(&have, &tree).map_err(|error| format!("{error:#}"))?;
    Ok(tree)
}

fn options(workshop: &Workshop, mirrors: Vec<Mirror>, offline: bool) -> fetch::Options {
    fetch::Options {
        store: workshop.dirs.sources(),
        rejected: workshop.dirs.rejected(),
        mirrors,
        offline,
        jobs: 1,
        retry: fetch::Retry::default(),
    }
}

/// What is to be said of the licence texts; those that are new are added to the entry where it is known that they are.
fn licence_texts(new: &mut Source, archive: &Archive, before: Result<&Path, &String>) -> anyhow::Result<String> {
    let top = licences::in_top(&archive.tree)?;
    let missing: Vec<_> = new.license_files.iter().filter(|file| !archive.tree.join(file).is_file()).collect();
    if !missing.is_empty() {
        return Err(Kind::Integrity.error(format!(
            "cannot pin {} {}: its license-files {} are not in the archive, whose top folder has {}; change license-files in \
             vendor.lock, then run this again",
            new.name,
            new.version,
            listed(missing),
            if top.is_empty() { "no licence text".to_owned() } else { listed(&top) }
        )));
    }
    let mut text = String::new();
    if let Err(why) = before {
        // The first lines say what and why, those behind them what to do about it; here nothing has to be done.
        let why = why.lines().take(3).map(str::trim).collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "  licence  texts cannot be compared, the archive pinned so far is not at hand: {why}");
    }
    if let Ok(before) = before {
        for file in &new.license_files {
            let (line, difference) = licences::change(file, before, &archive.tree);
            let _ = write!(text, "  licence  {line}\n{difference}");
        }
    }
    for file in top {
        if new.license_files.contains(&file) {
            continue;
        }
        let shown = file.display();
        match before {
            Ok(before) if !before.join(&file).exists() => {
                let _ = writeln!(text, "  licence  {shown} is new, and added to license-files; see what it says");
                new.license_files.push(file);
            }
            _ => {
                let _ = writeln!(
                    text,
                    "  licence  {shown} is there, but not in license-files; add it if it holds for what is shipped"
                );
            }
        }
    }
    if !new.license_files.is_empty() {
        // What was shown above is what somebody has read now.
        new.license_sha256 = Some(policy::hash_of_files(&archive.tree, &new.license_files)?);
    }
    Ok(text)
}

fn listed<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> String {
    files.into_iter().map(|file| file.as_ref().display().to_string()).collect::<Vec<_>>().join(", ")
}

/// What changes, and on whose word.
fn report(old: &Source, new: &Source, archive: &Archive, failed: &[(String, String)], before: Option<&Path>) -> String {
    let mut text = format!("{} {} → {}\n", old.name, old.version, new.version);
    let unknown = || "unknown".to_owned();
    let change = |old: Option<String>, new: String| match old {
        Some(old) if old == new => format!("{new}, as before"),
        old => format!("{} → {new}", old.unwrap_or_else(unknown)),
    };
    for url in &new.urls {
        let _ = writeln!(text, "  address  {url}");
    }
    let _ = writeln!(text, "  sha256   {}", change(old.sha256.clone(), archive.sha256.clone()));
    let size = |size: u64| format!("{size} ({})", bytes(size));
    let _ = writeln!(text, "  size     {}", change(old.size.map(size), size(archive.size)));
    // What an entry without a tree hash pins is unpacked anyway, for its licence texts.
    let unpacked = || Some(tree_hash(&fingerprint::scan(before.filter(|_| old.version != new.version)?).ok()?));
    let old_tree = old.tree_sha256.clone().or_else(unpacked);
    let _ = writeln!(text, "  tree     {}", change(old_tree, archive.tree_sha256.clone()));
    if let Some(purl) = &new.purl {
        let _ = writeln!(text, "  purl     {purl}");
    }
    for (address, why) in failed {
        let _ = writeln!(text, "  not had  {address}: {why}");
    }
    let from = archive.from.join(", ");
    let _ = match (old.version == new.version, archive.from.len()) {
        (true, _) => writeln!(text, "  trust    {from} gave what is pinned"),
        (false, 1) => writeln!(
            text,
            "  trust    on first use: the hash stands on the word of {from} alone; compare it with what upstream publishes"
        ),
        (false, count) => writeln!(text, "  trust    on first use: the hash stands on the word of {count} addresses: {from}"),
    };
    text
}

/// What a person should look at before this is committed.
fn to_do(workshop: &Workshop, old: &Source, new: &Source, text: &str) -> String {
    let mut out = String::new();
    if old.version == new.version {
        return out;
    }
    for recipe in workshop.stack.recipes.iter().filter(|recipe| recipe.source == new.name) {
        let patches = match recipe.patches.len() {
            0 => String::new(),
            1 => ", its patch included".to_owned(),
            count => format!(", its {count} patches included"),
        };
        let _ = writeln!(out, "  to do    see whether recipes/{}.toml fits{patches}: package --only {0}", recipe.name);
    }
    if edit::has_comments(text, &new.name) {
        let _ = writeln!(out, "  to do    the entry's comments stay as they are; see whether they still hold");
    }
    out
}

/// Puts the archive into the store, so that the next build need not fetch it again.
fn keep(workshop: &Workshop, new: &Source, archive: &Archive, scratch: &Path) {
    let folder = scratch.join("mirror");
    let kept = (|| {
        let file = new.file_names().into_iter().next().context("it has no name")?;
        std::fs::create_dir(&folder)?;
        std::fs::rename(&archive.path, folder.join(file))?;
        fetch::fetch_all(&[new], &options(workshop, vec![Mirror::Folder(folder.clone())], true), &Ui::new(Verbosity::Quiet))
    })();
    if let Err(error) = kept {
        // The pin is right all the same; `fetch` will bring the archive.
        workshop.ui.line(&format!("  ! the archive is not in the store: {error:#}"));
    }
}
