//! Unpacks source archives: tar, plain or packed by gzip, bzip2 or xz.
//!
//! Promises: how an archive is packed is seen from its first bytes, not from its name. Nothing is ever written outside
//! the target, whatever the archive says: folders are opened one by one relative to each other and no link is followed
//! on the way, so even names that this module's checks misjudge (a file system without case, say) cannot lead out. What
//! a source archive has no business to hold (absolute names, `..`, links that lead out, devices, a name twice) is refused
//! by name. The target appears by one rename when everything is there, so a kill leaves no half tree behind. Modes and
//! times are kept, because make decides by times what to rebuild; owners are not, nor setuid, setgid, sticky and
//! write permission for everyone. Folders stay usable by their owner. Memory grows with the number of folders and links
//! alone, and no archive may unpack to far more than sources do ([`Limits`]).
//!
//! Left to others: whether the archive is the pinned one ([`crate::fetch`]).

use crate::error::Kind;
use anyhow::Context as _;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

mod stream;
#[cfg(test)]
mod tests;

pub use stream::stream;

use stream::{Allowance, PIECE, Pieces, decompress};

/// Deepest nesting of folders. Real sources stay below 30; the limit bounds open descriptors.
const MAX_DEPTH: usize = 128;

/// Longest name, `PATH_MAX` of Linux.
const MAX_NAME: usize = 4096;

/// What may follow the end-of-archive mark as padding. GNU tar's largest sensible blocking factor is far below.
const MAX_PADDING: u64 = 64 * 1024 * 1024;

/// However small an archive is, it may unpack to so much, in bytes.
const ALWAYS_BYTES: u64 = 1024 * 1024 * 1024;

/// How many times an archive's own size it may unpack to. Sources stay below 20; a bomb of gzip reaches 1,000.
const GROWTH: u64 = 100;

/// However large an archive is, it unpacks to no more, in bytes.
const NEVER_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// No archive has more entries. The largest source trees known have half a million files.
const MAX_ENTRIES: u64 = 1_000_000;

/// No entry is described (its header, long names, attributes, padding) by more bytes.
const MAX_DESCRIPTION: u64 = 1024 * 1024;

/// How much an archive may unpack to: a bomb must not fill the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all files together.
    pub bytes: u64,
    /// Entries of any kind.
    pub entries: u64,
}

impl Limits {
    /// For an archive of this size in bytes.
    pub fn of_archive(size: u64) -> Self {
        let bytes = size.saturating_mul(GROWTH).clamp(ALWAYS_BYTES, NEVER_BYTES);
        Self { bytes, entries: MAX_ENTRIES }
    }

    /// Counts one more entry of so many bytes, or says why that is too much.
    fn take(&mut self, bytes: u64) -> Result<(), Refused> {
        let too =
            |what: String| Refused::Harm(format!("is one too many: the archive unpacks to more than {what}, like a bomb"));
        self.entries = self.entries.checked_sub(1).ok_or_else(|| too("a million entries".to_owned()))?;
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| too(format!("{GROWTH} times its own size")))?;
        Ok(())
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Regular files, hard links included.
    pub files: u64,
    /// Bytes in regular files.
    pub bytes: u64,
}

/// Unpacks `archive` into the folder `into`, which must not exist or be empty. Where everything stands in one top-level
/// folder, as in every source release, that folder becomes `into`; else `into` holds what the archive holds.
///
/// # Errors
/// [`Kind::Integrity`] when the archive is of no known kind, is cut short or damaged, or holds what would do harm; the
/// entry is named; also when it unpacks to far more than sources do. [`Kind::Preflight`] when the disk is full. Any other
/// error is the disk's. In every case `into` is left as it was.
pub fn unpack(archive: &Path, into: &Path) -> anyhow::Result<Unpacked> {
    let size = archive.metadata().with_context(|| format!("cannot read {}", archive.display()))?.len();
    unpack_within(archive, into, Limits::of_archive(size))
}

/// As [`unpack`], with limits of the caller's.
///
/// # Errors
/// Those of [`unpack`].
pub fn unpack_within(archive: &Path, into: &Path, limits: Limits) -> anyhow::Result<Unpacked> {
    let shown = archive.display();
    if into.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || into.is_file() {
        anyhow::bail!("cannot unpack {shown}: {} is there already and not empty; remove it", into.display());
    }
    let staging = Staging::new(into)?;
    let source = stream(archive)?;
    let (unpacked, top) = std::thread::scope(|scope| {
        let allowance = Allowance::default();
        let (pieces, emptied, reader) = Pieces::new(allowance.clone());
        scope.spawn(move || decompress(source, &pieces, &emptied));
        let mut tree = Tree::new(&staging.path, limits, allowance)?;
        let unpacked = tree.fill(reader).with_context(|| format!("cannot unpack {shown} into {}", into.display()))?;
        anyhow::Ok((unpacked, tree.single_top()))
    })?;
    staging.become_target(top.as_deref(), into)?;
    Ok(unpacked)
}

/// The folder beside the target where the tree grows; removed when dropped.
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn new(into: &Path) -> anyhow::Result<Self> {
        let mut name = into.file_name().with_context(|| format!("cannot unpack into {}", into.display()))?.to_owned();
        name.push(".unpacking");
        let path = into.with_file_name(name);
        // Left by a run that was killed.
        if path.symlink_metadata().is_ok() {
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    fn become_target(self, top: Option<&[u8]>, into: &Path) -> anyhow::Result<()> {
        let from = top.map_or_else(|| self.path.clone(), |top| self.path.join(OsStr::from_bytes(top)));
        // On unix a folder may replace an empty one.
        std::fs::rename(&from, into).with_context(|| format!("cannot rename {} to {}", from.display(), into.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone when it became the target; and when it cannot be removed, the next run tries again and says so.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// What an entry is to become.
enum What {
    Folder,
    File,
    Link(Vec<u8>),
    HardLink(Vec<u8>),
}

/// The tree that grows, and all that must be remembered about it.
struct Tree {
    root: OwnedFd,
    /// The folders from the root to the one worked in, each open: neighbours in an archive share their folder.
    open: Vec<(Vec<u8>, OwnedFd)>,
    /// Modes and times of folders; set at the end, for filling a folder changes them.
    folders: BTreeMap<Vec<u8>, (u32, Timespec)>,
    /// Symbolic links and where they point; checked at the end, when all are known.
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first part of the first name, and whether all names share it and it is a folder.
    top: Option<(Vec<u8>, bool)>,
    /// A buffer for file content.
    buffer: Vec<u8>,
    /// What may still come.
    limits: Limits,
    allowance: Allowance,
}

impl Tree {
    fn new(path: &Path, limits: Limits, allowance: Allowance) -> anyhow::Result<Self> {
        let root = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self {
            root,
            open: Vec::new(),
            folders: BTreeMap::new(),
            links: BTreeMap::new(),
            top: None,
            buffer: vec![0; PIECE],
            limits,
            allowance,
        })
    }

    /// The one top-level folder, if everything stands in one.
    fn single_top(&self) -> Option<Vec<u8>> {
        self.top.as_ref().filter(|(_, single)| *single).map(|(name, _)| name.clone())
    }

    fn fill(&mut self, reader: Pieces) -> anyhow::Result<Unpacked> {
        let mut unpacked = Unpacked::default();
        let mut archive = tar::Archive::new(reader);
        let allowance = self.allowance.clone();
        allowance.set(MAX_DESCRIPTION);
        for entry in archive.entries().map_err(|error| damaged(&error))? {
            let mut entry = entry.map_err(|error| damaged(&error))?;
            let name = entry.path_bytes().into_owned();
            let (files, bytes) = self.entry(&name, &mut entry).map_err(|refused| refused.about(&name))?;
            unpacked.files += files;
            unpacked.bytes += bytes;
            allowance.set(MAX_DESCRIPTION);
        }
        allowance.set(u64::MAX);
        let mut rest = archive.into_inner();
        if rest.ended {
            return Err(Kind::Integrity.error("the archive is cut short: its end mark is missing"));
        }
        // What follows is padding; reading it lets the decompressor compare its checksum.
        if io::copy(&mut (&mut rest).take(MAX_PADDING), &mut io::sink()).map_err(|error| damaged(&error))? == MAX_PADDING {
            return Err(Kind::Integrity.error("the archive goes on after its end mark"));
        }
        if self.top.is_none() {
            return Err(Kind::Integrity.error("the archive is empty"));
        }
        self.check_links()?;
        self.finish_folders()?;
        Ok(unpacked)
    }

    /// Makes one entry; gives how many files and bytes it was.
    fn entry(&mut self, name: &[u8], entry: &mut tar::Entry<'_, Pieces>) -> Result<(u64, u64), Refused> {
        let Some(what) = what(name, entry)? else { return Ok((0, 0)) };
        let parts = plain_parts(name)?;
        let mode = entry.header().mode().map_err(|_| Refused::Harm("has no readable mode".into()))? & 0o775;
        let time = mtime(entry)?;
        let Some((last, folders)) = parts.split_last() else {
            // The archive's own root, `./`.
            return if matches!(what, What::Folder) { Ok((0, 0)) } else { Err(Refused::Harm("has no name".into())) };
        };
        self.limits.take(if matches!(what, What::File) { entry.size() } else { 0 })?;
        self.note_top(parts[0], parts.len() > 1 || matches!(what, What::Folder));
        match what {
            What::Folder => {
                self.folder(&parts)?;
                self.folders.insert(parts.join(&b'/'), (mode | 0o700, time));
                Ok((0, 0))
            }
            What::File => {
                let size = entry.size();
                self.allowance.set(size.saturating_add(MAX_DESCRIPTION));
                self.file(folders, last, entry, size, mode | 0o400, time)?;
                Ok((1, size))
            }
            What::Link(target) => {
                let at = self.folder(folders)?;
                rustix::fs::symlinkat(target.as_slice(), at, *last).map_err(Refused::made)?;
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(at, *last, &times, AtFlags::SYMLINK_NOFOLLOW)?;
                self.links.insert(parts.join(&b'/'), target);
                Ok((0, 0))
            }
            What::HardLink(target) => {
                self.hard_link(&target, folders, last)?;
                Ok((1, 0))
            }
        }
    }

    fn note_top(&mut self, first: &[u8], folder: bool) {
        match &mut self.top {
            None => self.top = Some((first.to_vec(), folder)),
            Some((known, single)) => *single &= known == first && folder,
        }
    }

    /// Opens a folder, making what is missing, without following any link.
    fn folder(&mut self, parts: &[&[u8]]) -> Result<BorrowedFd<'_>, Refused> {
        let shared = self.open.iter().zip(parts).take_while(|((name, _), part)| name == *part).count();
        self.open.truncate(shared);
        for part in &parts[shared..] {
            let at = self.open.last().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd());
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = match rustix::fs::openat(at, *part, flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(at, *part, Mode::from_raw_mode(0o755))?;
                    rustix::fs::openat(at, *part, flags, Mode::empty())?
                }
                Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {
                    let part = String::from_utf8_lossy(part).into_owned();
                    return Err(Refused::Harm(format!("goes through {part:?}, which is a link or a file")));
                }
                other => other?,
            };
            self.open.push((part.to_vec(), folder));
        }
        Ok(self.open.last().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd()))
    }

    fn file(
        &mut self,
        folders: &[&[u8]],
        name: &[u8],
        content: &mut impl Read,
        size: u64,
        mode: u32,
        time: Timespec,
    ) -> Result<(), Refused> {
        let at = self.folder(folders)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o600)).map_err(Refused::made)?;
        let mut file = File::from(file);
        let mut left = size;
        while left > 0 {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => return Err(Refused::Damaged(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) => return Err(Refused::Damaged(error)),
            };
            file.write_all(&self.buffer[..count]).map_err(Refused::Disk)?;
            left = left.saturating_sub(count as u64);
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(raw(mode)))?;
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
        Ok(())
    }

    /// Gives an entry that is already there a second name.
    fn hard_link(&mut self, target: &[u8], folders: &[&[u8]], name: &[u8]) -> Result<(), Refused> {
        let to =
            plain_parts(target).map_err(|_| Refused::Harm(format!("is a hard link that leads out, to {}", lossy(target))))?;
        let Some((old, old_folders)) = to.split_last() else { return Err(Refused::Harm("is a hard link to nothing".into())) };
        let old_at = self.folder(old_folders)?.try_clone_to_owned().map_err(Refused::Disk)?;
        let at = self.folder(folders)?;
        match rustix::fs::linkat(old_at, *old, at, name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Err(Refused::Harm(format!("is a hard link to {}, which is not there", lossy(target)))),
            Err(Errno::PERM) => return Err(Refused::Harm(format!("is a hard link to {}, which is a folder", lossy(target)))),
            other => other.map_err(Refused::made)?,
        }
        if let Some(target) = self.links.get(&to.join(&b'/')).cloned() {
            let parts: Vec<&[u8]> = folders.iter().copied().chain([name]).collect();
            self.links.insert(parts.join(&b'/'), target);
        }
        Ok(())
    }

    /// Refuses links that lead out of the tree, by their words and through one another. Nothing was written through any
    /// of them, so it is early enough to look when all of them are known.
    fn check_links(&self) -> anyhow::Result<()> {
        let root = self.single_top();
        for (link, target) in &self.links {
            let name = match &root {
                Some(top) => link.get(top.len() + 1..).unwrap_or_default(),
                None => link,
            };
            if leads_out(name, target, |path| {
                let full = root.as_ref().map_or_else(|| path.to_vec(), |top| [top, path].join(&b'/'));
                self.links.get(&full).map(Vec::as_slice)
            }) {
                return Err(Refused::Harm(format!("is a link that leads out, to {}", lossy(target))).about(link));
            }
        }
        Ok(())
    }

    fn finish_folders(&mut self) -> anyhow::Result<()> {
        for (path, (mode, time)) in std::mem::take(&mut self.folders) {
            let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            let set = |folder: BorrowedFd<'_>| -> Result<(), Refused> {
                rustix::fs::fchmod(folder, Mode::from_raw_mode(raw(mode)))?;
                rustix::fs::futimens(folder, &Timestamps { last_access: time, last_modification: time })?;
                Ok(())
            };
            self.folder(&parts).and_then(set).map_err(|refused| refused.about(&path))?;
        }
        Ok(())
    }
}

/// Mode bits in the width that the platform wants (16 bits on macOS, 32 on Linux).
fn raw(mode: u32) -> rustix::fs::RawMode {
    mode as rustix::fs::RawMode
}

/// Why an entry was not unpacked.
enum Refused {
    /// It has no business in a source archive; the text goes on after the entry's name.
    Harm(String),
    /// The archive could not be read on.
    Damaged(io::Error),
    /// The disk did not take it.
    Disk(io::Error),
}

impl Refused {
    /// Sorts the ways in which making something fails: a name that is taken is the archive's fault.
    fn made(error: Errno) -> Self {
        match error {
            Errno::EXIST => Self::Harm("stands there twice, or differs from another name only in case".into()),
            other => Self::Disk(other.into()),
        }
    }

    /// The error about the entry of this name.
    fn about(self, name: &[u8]) -> anyhow::Error {
        match self {
            Self::Harm(why) => Kind::Integrity.error(format!("the archive's entry {} {why}", lossy(name))),
            Self::Damaged(error) => damaged(&error).context(format!("in entry {}", lossy(name))),
            Self::Disk(error) => {
                let text = format!("cannot write {}: {error}", lossy(name));
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                    Kind::Preflight.error(text + "; make room or choose another --build-dir")
                } else {
                    anyhow::anyhow!(text)
                }
            }
        }
    }
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self::Disk(error.into())
    }
}

fn damaged(error: &io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Kind::Integrity.error("the archive is cut short");
    }
    Kind::Integrity.error(format!("the archive is damaged or cut short: {error}"))
}

/// A name from an archive for people, quoted.
fn lossy(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(name))
}

/// What an entry is; nothing for what only describes the archive (git's commit note).
fn what(name: &[u8], entry: &mut tar::Entry<'_, Pieces>) -> Result<Option<What>, Refused> {
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
fn mtime(entry: &mut tar::Entry<'_, Pieces>) -> Result<Timespec, Refused> {
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
fn plain_parts(name: &[u8]) -> Result<Vec<&[u8]>, Refused> {
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
fn leads_out<'a>(link: &[u8], target: &'a [u8], link_at: impl Fn(&[u8]) -> Option<&'a [u8]>) -> bool {
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
