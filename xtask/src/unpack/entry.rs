//! What an entry of an archive is to become, and whether its names and links stay in the tree. Looks at what the archive says alone,
//! never at a disk.

use super::refused::Refused;
use super::stream::Pieces;
use rustix::fs::Timespec;
use std::collections::VecDeque;

/// Deepest nesting of folders. Real sources stay below 30; the limit bounds open descriptors.
const MAX_DEPTH: usize = 128;

/// Longest name, `PATH_MAX` of Linux.
const MAX_NAME: usize = 4096;

/// What an entry is to become.
pub(super) enum What {
    Folder,
    File,
    Link(Vec<u8>),
    HardLink(Vec<u8>),
}

/// What an entry is; nothing for what only describes the archive (git's commit note).
pub(super) fn what(name: &[u8], entry: &mut tar::Entry<'_, Pieces>) -> Result<Option<What>, Refused> {
    use tar::EntryType;
    let sparse = entry
        .pax_extensions()
        .map_err(Refused::Damaged)?
        .is_some_and(|extensions| extensions.flatten().any(|extension| extension.key_bytes().starts_with(b"GNU.sparse.")));
    if sparse {
        return Err(Refused::Harm("is a sparse file in pax form, which is not supported".into()));
    }
    let target = || entry.link_name_bytes().map(std::borrow::Cow::into_owned).filter(|target| !target.is_empty());
    let kind = entry.header().entry_type();
    Ok(Some(match kind {
        EntryType::XGlobalHeader => return Ok(None),
        EntryType::Directory => What::Folder,
        // Before ustar, folders were files whose name ends in a slash.
        EntryType::Regular if name.ends_with(b"/") && entry.header().as_ustar().is_none() => What::Folder,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => What::File,
        EntryType::Symlink => What::Link(target().ok_or_else(|| Refused::Harm("is a link to nothing".into()))?),
        EntryType::Link => What::HardLink(target().ok_or_else(|| Refused::Harm("is a hard link to nothing".into()))?),
        EntryType::Char | EntryType::Block => return Err(Refused::Harm("is a device node".into())),
        EntryType::Fifo => return Err(Refused::Harm("is a named pipe".into())),
        other => return Err(Refused::Harm(format!("is of unknown type {:?}", char::from(other.as_byte())))),
    }))
}

/// The modification time: to the nanosecond where a pax record says so.
pub(super) fn mtime(entry: &mut tar::Entry<'_, Pieces>) -> Result<Timespec, Refused> {
    let mut exact = None;
    if let Some(extensions) = entry.pax_extensions().map_err(Refused::Damaged)? {
        for extension in extensions.flatten().filter(|extension| extension.key_bytes() == b"mtime") {
            exact = extension.value().ok().and_then(pax_time);
        }
    }
    let plain =
        || Timespec { tv_sec: entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0), tv_nsec: 0 };
    Ok(exact.unwrap_or_else(plain))
}

/// Parses `seconds[.fraction]`; nothing for times before 1970, which no source has.
fn pax_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let tv_sec: i64 = seconds.parse().ok().filter(|seconds| *seconds >= 0)?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec, tv_nsec: digits.parse().ok()? })
}

/// The parts of a relative name without `.` and empty ones.
pub(super) fn plain_parts(name: &[u8]) -> Result<Vec<&[u8]>, Refused> {
    let refuse = |why: &str| Err(Refused::Harm(why.into()));
    if name.starts_with(b"/") {
        return refuse("has an absolute name");
    }
    if name.len() > MAX_NAME {
        return refuse("has a name longer than 4096 bytes");
    }
    if name.contains(&0) {
        return refuse("has a NUL in its name");
    }
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&b"..".as_slice()) {
        return refuse("climbs out with \"..\"");
    }
    if parts.len() > MAX_DEPTH {
        return refuse("is nested deeper than 128 folders");
    }
    Ok(parts)
}

/// Whether a link at `link` (relative to the tree) with this target leads out of the tree, resolving links met on the
/// way by `link_at`. Endless circles lead nowhere and are no harm.
pub(super) fn leads_out<'a>(link: &[u8], target: &'a [u8], link_at: impl Fn(&[u8]) -> Option<&'a [u8]>) -> bool {
    let mut at: Vec<&[u8]> = link.split(|byte| *byte == b'/').collect();
    at.pop();
    let mut todo: VecDeque<&[u8]> = VecDeque::new();
    let mut next = Some(target);
    // Linux gives up after 40 links, too.
    for _ in 0..40 {
        if let Some(target) = next.take() {
            if target.starts_with(b"/") {
                return true;
            }
            for part in target.split(|byte| *byte == b'/').rev() {
                todo.push_front(part);
            }
        }
        while let Some(part) = todo.pop_front() {
            match part {
                b"" | b"." => {}
                b".." => {
                    if at.pop().is_none() {
                        return true;
                    }
                }
                part => {
                    at.push(part);
                    next = link_at(&at.join(&b'/'));
                    if next.is_some() {
                        at.pop();
                        break;
                    }
                }
            }
        }
        if next.is_none() {
            return false;
        }
    }
    false
}
