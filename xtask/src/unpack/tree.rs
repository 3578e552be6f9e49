//! The tree that grows from an archive: folders opened one by one relative to each other, no link followed.

use super::entry::{What, leads_out, mtime, plain_parts, what};
use super::refused::{Refused, damaged, lossy};
use super::stream::{Allowance, PIECE, Pieces};
use super::{Limits, Unpacked};
use crate::error::Kind;
use anyhow::Context as _;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// What may follow the end-of-archive mark as padding. GNU tar's largest sensible blocking factor is far below.
const MAX_PADDING: u64 = 64 * 1024 * 1024;

/// No entry is described (its header, long names, attributes, padding) by more bytes.
const MAX_DESCRIPTION: u64 = 1024 * 1024;

/// The tree that grows, and all that must be remembered about it.
pub(super) struct Tree {
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
    pub(super) fn new(path: &Path, limits: Limits, allowance: Allowance) -> anyhow::Result<Self> {
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
    pub(super) fn single_top(&self) -> Option<Vec<u8>> {
        self.top.as_ref().filter(|(_, single)| *single).map(|(name, _)| name.clone())
    }

    pub(super) fn fill(&mut self, reader: Pieces) -> anyhow::Result<Unpacked> {
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
