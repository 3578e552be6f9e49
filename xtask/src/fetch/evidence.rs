//! What a wrong download really is, and keeping it for a look.

use super::account::Failure;
use super::store::{CHUNK, Part};
use super::{Pin, shown};
use crate::fingerprint::{self, hex};
use crate::progress::{bytes, printable};
use crate::stack::lock::tree_hash;
use crate::unpack;
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How much of a file is read to guess what it is.
const HEAD: u64 = 16 * 1024;

/// How many wrong downloads are kept, newest first.
const KEEP: usize = 10;

/// How much of one wrong download is kept, in bytes: enough for any archive worth a comparison.
const KEEP_BYTES: u64 = 256 * 1024 * 1024;

/// How the folder begins in which an archive is unpacked for a look. A killed run leaves one behind.
const UNPACKED: &str = ".unpacked-";

/// How much of two archives is unpacked to compare them, in bytes. No source comes near it; a bomb does.
const COMPARE_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Says what the file at `path`, of `size` bytes, seems to be, given that it is not what was pinned. Reads on after the
/// address. `scratch` is a folder for what has to be unpacked to find that out.
pub(super) fn diagnose(path: &Path, size: u64, pin: &Pin<'_>, scratch: &Path) -> String {
    let mut head = Vec::new();
    // Unreadable is as good as empty here: the failure itself is reported anyway.
    let _ = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    let what = describe(&head, path, &pin.source.version);
    let length = match pin.source.size {
        Some(pinned) if size < pinned && !is_text(&head) => format!("cut short: {size} of {pinned} bytes"),
        Some(pinned) if size != pinned => format!("{size} bytes instead of {pinned}"),
        _ => bytes(size),
    };
    let pinned = format!("not the pinned sha256 {}…", &pin.sha256[..12.min(pin.sha256.len())]);
    if has_pinned_tree(path, size, pin, scratch) {
        return format!("has the same tree, but packs it differently (tree-sha256 fits): {what}, {}, {pinned}", bytes(size));
    }
    format!("is {what}, {length}, {pinned}")
}

/// Whether an archive unpacks to the tree that the lock pins.
fn has_pinned_tree(path: &Path, size: u64, pin: &Pin<'_>, scratch: &Path) -> bool {
    let Some(pinned) = &pin.source.tree_sha256 else { return false };
    let tree = || -> anyhow::Result<String> {
        std::fs::create_dir_all(scratch)?;
        let folder = tempfile::Builder::new().prefix(UNPACKED).tempdir_in(scratch)?;
        let tree = folder.path().join("tree");
        let limits = unpack::Limits::of_archive(size);
        unpack::unpack_within(path, &tree, unpack::Limits { bytes: limits.bytes.min(COMPARE_BYTES), ..limits })?;
        Ok(tree_hash(&fingerprint::scan(&tree)?))
    };
    // What cannot be unpacked, for whatever reason, is not known to be the same.
    tree().is_ok_and(|hash| hash == *pinned)
}

/// What these first bytes belong to.
fn describe(head: &[u8], path: &Path, version: &str) -> String {
    if head.is_empty() {
        return "empty".to_owned();
    }
    if is_text(head) {
        let text = String::from_utf8_lossy(head);
        let lower = text.to_ascii_lowercase();
        if lower.trim_start().starts_with("<!doctype html") || lower.contains("<html") || lower.contains("<title") {
            return match title(&text, &lower) {
                Some(title) => format!("an HTML page titled \"{title}\""),
                None => "an HTML page".to_owned(),
            };
        }
        if text.starts_with("version https://git-lfs") {
            return "a Git LFS pointer instead of the file".to_owned();
        }
        let line: String = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().chars().take(80).collect();
        return format!("text that begins \"{}\"", printable(&line));
    }
    let packing = match head {
        [0x1f, 0x8b, ..] => "a gzip file",
        [b'B', b'Z', b'h', ..] => "a bzip2 file",
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "an xz file",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "a zstd file",
        [b'P', b'K', 3, 4, ..] => "a zip file",
        _ if head.get(257..262) == Some(b"ustar") => "a plain tar",
        _ => return "other content".to_owned(),
    };
    match first_name(path) {
        Some(name) if names_other_version(&name, version) => format!("{packing} of another version, it holds \"{name}\""),
        Some(name) => format!("{packing} that holds \"{name}\""),
        None => packing.to_owned(),
    }
}

/// Whether an archive's first name begins as `name-1.2.3/` does, with another version than the pinned one.
fn names_other_version(name: &str, version: &str) -> bool {
    let top = name.split('/').next().unwrap_or_default();
    let numbered =
        top.split(['-', '_']).skip(1).any(|part| part.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()));
    numbered && !top.contains(version.trim_start_matches('v'))
}

/// Whether these bytes are for people. A character may be cut at the end.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    valid && !head.contains(&0)
}

/// The title of an HTML page, on one line.
fn title(text: &str, lower: &str) -> Option<String> {
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = start + lower[start..].find("</title")?;
    let words: Vec<&str> = text.get(start..end)?.split_whitespace().collect();
    let title: String = printable(&words.join(" ")).chars().take(120).collect();
    (!title.is_empty()).then_some(title)
}

/// The name of the first file or folder in an archive: usually `name-version/`, which tells another version.
fn first_name(path: &Path) -> Option<String> {
    let mut archive = tar::Archive::new(unpack::stream(path).ok()?);
    let named = |entry: tar::Entry<'_, Box<dyn Read + Send>>| {
        let comment = entry.header().entry_type() == tar::EntryType::XGlobalHeader;
        (!comment).then(|| printable(&String::from_utf8_lossy(&entry.path_bytes())))
    };
    archive.entries().ok()?.take(3).flatten().find_map(named)
}

/// Moves a wrong download into `rejected`, with a note beside it, and says what it seems to be. Old ones make room.
pub(super) fn keep(part: Part, url: &reqwest::Url, rejected: &Path, pin: &Pin<'_>) -> Failure {
    let what = diagnose(part.path(), part.length(), pin, rejected);
    let sha256 = part.sha256();
    let name = format!("{}-{}-{}", pin.source.name, pin.source.version, &sha256[..12]);
    let evidence = rejected.join(name);
    let note = format!(
        "source: {} {}\naddress: {}\nwhat came {what}\nbytes: {}\nsha256: {sha256}\npinned: {}\n",
        pin.source.name,
        pin.source.version,
        shown(url),
        part.length(),
        pin.sha256
    );
    let kept = std::fs::create_dir_all(rejected)
        .and_then(|()| File::options().write(true).open(part.path())?.set_len(part.length().min(KEEP_BYTES)))
        .and_then(|()| std::fs::rename(part.path(), &evidence))
        .and_then(|()| std::fs::write(evidence.with_added_extension("txt"), note));
    let kept_at = if kept.is_ok() { evidence } else { PathBuf::from("nowhere: cannot write to the rejected folder") };
    part.discard();
    make_room(rejected);
    Failure::Wrong { what, evidence: kept_at }
}

fn is_unpacked(name: &OsStr) -> bool {
    name.as_bytes().starts_with(UNPACKED.as_bytes())
}

/// Removes what killed runs have left unpacked. Not for while others fetch.
pub(super) fn tidy(rejected: &Path) {
    let Ok(entries) = rejected.read_dir() else { return };
    for entry in entries.flatten().filter(|entry| is_unpacked(&entry.file_name())) {
        // Only room is lost where it stays.
        let _ = crate::dirs::remove_all(&entry.path());
    }
}

/// Removes all but the newest wrong downloads and their notes.
fn make_room(rejected: &Path) {
    let Ok(entries) = rejected.read_dir() else { return };
    let age = |path: &Path| path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let paths = entries.flatten().filter(|entry| !is_unpacked(&entry.file_name())).map(|entry| entry.path());
    let paths = paths.filter(|path| path.extension().is_none_or(|ending| ending != "txt"));
    let mut files: Vec<(SystemTime, PathBuf)> = paths.map(|path| (age(&path), path)).collect();
    files.sort();
    let excess = files.len().saturating_sub(KEEP);
    for (_, path) in files.into_iter().take(excess) {
        // What cannot be removed is only untidy.
        let _ = std::fs::remove_file(path.with_added_extension("txt"));
        let _ = std::fs::remove_file(path);
    }
}

/// When the right archive came in the end: the addresses whose rejected one holds the same, only packed differently.
pub(super) fn repacked<'a>(tries: &'a [(String, Failure)], good: &Path) -> Vec<&'a str> {
    let mut inside_good = None;
    let wrong = tries.iter().filter_map(|(address, failure)| match failure {
        Failure::Wrong { evidence, .. } => Some((address.as_str(), evidence)),
        _ => None,
    });
    let same = wrong.filter(|(_, evidence)| {
        let good = inside_good.get_or_insert_with(|| inside(good));
        good.is_some() && *good == inside(evidence)
    });
    same.map(|(address, _)| address).collect()
}

/// The hash of the stream inside a packed archive; nothing where it cannot be unpacked.
fn inside(path: &Path) -> Option<String> {
    let mut stream = unpack::stream(path).ok()?.take(COMPARE_BYTES);
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk).ok()? {
            0 => return Some(hex(&hasher.finalize())),
            count => hasher.update(&chunk[..count]),
        }
    }
}
