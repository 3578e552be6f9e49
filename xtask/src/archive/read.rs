//! Reads an archive again, member by member, as whoever unpacks it would: what the gate and the comparison of two builds look at.
//!
//! Promises: members come in the archive's own order and as they stand there, modes and owners included; nothing is written
//! anywhere, but for what is too large for memory meanwhile ([`Content`]). What is looked at of each is done on several cores while the next ones
//! are read. A damaged archive is an error.

use super::content::Content;
use crate::error::{self, Kind, WithKind as _};
use crate::parallel;
use crate::unpack;
use anyhow::Context as _;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use tar::EntryType;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, as it stands in the archive; that of a folder may end in a slash.
    pub name: String,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// The numbers of user and group.
    pub owner: (u64, u64),
    /// The names of user and group, usually empty.
    pub owner_names: (String, String),
    /// Seconds since 1970.
    pub mtime: u64,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A folder.
    Folder,
    /// A regular file of so many bytes.
    File(u64),
    /// A symbolic link, and what it points at.
    Link(String),
    /// A hard link to another member.
    Hard(String),
    /// Anything else, in words.
    Other(String),
}

/// On no more cores members are looked at: each has one of them in memory, and what unpacks keeps no more busy.
const WORKERS: usize = 6;

/// No more members wait to be looked at.
const WAITING: usize = 2;

/// Who is given each member of a file with its number and its content, and says whether more are wanted.
pub type Take<'a> = dyn FnMut(usize, Member, Content) -> bool + 'a;

/// A member with its number, and what was made of its content.
pub type Looked<T> = (usize, Member, T);

/// Reads all members; `look` is given each with its content (empty for all but files), on any core and in any order.
///
/// # Errors
/// [`Kind::Integrity`] when it is no archive that can be read to its end; [`Kind::Preflight`] when there is no room for what is kept meanwhile.
pub fn each<T: Send>(
    archive: &Path,
    look: impl Fn(&Member, &Content) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<(Member, T)>> {
    let all = |take: &mut Take<'_>| members(archive, take);
    let (members, ()) = each_of(all, look).map_err(|error| cannot("read", archive, error))?;
    Ok(members.into_iter().map(|(_, member, seen)| (member, seen)).collect())
}

/// As [`each`], of whatever `source` reads: with their numbers, and with what `source` gives in the end.
///
/// # Errors
/// Those of `source`, and the first of `look`.
pub fn each_of<T: Send, S>(
    source: impl FnOnce(&mut Take<'_>) -> anyhow::Result<S>,
    look: impl Fn(&Member, &Content) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<(Vec<Looked<T>>, S)> {
    let workers = parallel::cores().clamp(1, WORKERS);
    let (sender, receiver) = sync_channel::<(usize, Member, Content)>(WAITING);
    let (receiver, done) = (Mutex::new(receiver), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((at, member, content)) = next else { return };
            let seen = look(&member, &content);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, member, seen));
        }
    };
    let read = std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
        // Dropped at the end, by which the workers know that nothing more comes.
        let sender = sender;
        source(&mut |at, member, content| sender.send((at, member, content)).is_ok())
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, ..)| *at);
    let done = done.into_iter().map(|(at, member, seen)| {
        let seen = seen.with_context(|| format!("cannot look at {}", member.name))?;
        Ok((at, member, seen))
    });
    Ok((done.collect::<anyhow::Result<_>>()?, read))
}

/// An error of a file that cannot be read (or so): it is damaged, unless it is the machine that lacks something.
pub fn cannot(what: &str, file: &Path, error: anyhow::Error) -> anyhow::Error {
    let text = || format!("cannot {what} {}", file.display());
    if error::kind_of(&error) == Kind::Preflight {
        return error.context(text());
    }
    Err::<(), _>(error).kind(Kind::Integrity, text).expect_err("it is one")
}

/// The content of the first file of this name.
///
/// # Errors
/// As [`each`]; also when there is none.
pub fn one(archive: &Path, name: &str) -> anyhow::Result<Content> {
    let mut found = None;
    let read = members(archive, &mut |_, member, content| {
        let is_it = member.name == name;
        if is_it {
            found = Some(content);
        }
        !is_it
    });
    read.map_err(|error| cannot("read", archive, error))?;
    found.ok_or_else(|| Kind::Integrity.error(format!("{} has no {name}", archive.display())))
}

/// Gives each member until nobody wants more.
fn members(archive: &Path, take: &mut Take<'_>) -> anyhow::Result<()> {
    tar_members(stream(archive)?, 0, take).map(drop)
}

/// Gives each member of a plain tar, numbered from `first`, until nobody wants more, and reads it to its end; the next number.
///
/// # Errors
/// When it is damaged.
pub fn tar_members(tar: impl Read, first: usize, take: &mut Take<'_>) -> anyhow::Result<usize> {
    let mut tar = tar::Archive::new(tar);
    let mut next = first;
    for entry in tar.entries()? {
        let mut entry = entry?;
        let header = entry.header();
        let kind = match header.entry_type() {
            EntryType::Directory => MemberKind::Folder,
            EntryType::Regular | EntryType::Continuous => MemberKind::File(entry.size()),
            EntryType::Symlink | EntryType::Link => {
                let target = String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
                if header.entry_type() == EntryType::Link { MemberKind::Hard(target) } else { MemberKind::Link(target) }
            }
            EntryType::Char | EntryType::Block => MemberKind::Other("a device".to_owned()),
            EntryType::Fifo => MemberKind::Other("a pipe".to_owned()),
            other => MemberKind::Other(format!("of the unknown type {:?}", char::from(other.as_byte()))),
        };
        let name = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let member = Member {
            mode: header.mode()?,
            owner: (header.uid()?, header.gid()?),
            owner_names: (name(header.username_bytes()), name(header.groupname_bytes())),
            mtime: header.mtime()?,
            name: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            kind,
        };
        let content = if let MemberKind::File(size) = member.kind {
            let cannot = || format!("cannot read {} in it", member.name);
            let content = Content::read(&mut entry, size).with_context(cannot)?;
            anyhow::ensure!(content.size() == size, "{}: it is cut short", cannot());
            content
        } else {
            Content::none()
        };
        if !take(next, member, content) {
            return Ok(next);
        }
        next += 1;
    }
    // The checksum of the last block stands behind the tar's own end.
    let mut rest = tar.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink())?;
    Ok(next)
}

/// The plain tar.
#[cfg(feature = "zstd")]
fn stream(archive: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if archive.extension().is_some_and(|ending| ending == "zst") {
        return Ok(Box::new(zstd::Decoder::new(std::fs::File::open(archive)?)?));
    }
    unpack::stream(archive)
}

/// The plain tar.
#[cfg(not(feature = "zstd"))]
fn stream(archive: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if archive.extension().is_some_and(|ending| ending == "zst") {
        anyhow::bail!("this program was compiled without zstd: `cargo run --package xtask --features zstd -- …`");
    }
    unpack::stream(archive)
}
