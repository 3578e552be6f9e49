//! Reads an archive as this program writes them, and tells whatever in it is otherwise: what [`crate::verify`] looks at.
//!
//! Promises: every byte of the tar is held against the one form in which [`super::write`] would have written it: owner, names,
//! permissions, padding, order, end; only the time is free, and is one for all. So nothing can hide where nobody looks, and no entry can
//! mean one thing here and another to the program that unpacks it (attributes in pax form, say, which rename). What cannot be read on
//! is an error. Memory does not grow with the archive.
//!
//! Not told: how the blocks were compressed. The same content can be packed in more than one way.

use super::Format;
use super::tree::{Entry, RECORD, Stamp, What};
use crate::unpack;
use anyhow::Context as _;
use dkumonitor_interface::text::harmless_line;
use flate2::bufread::DeflateDecoder;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// No name is longer, in bytes.
const LONGEST_NAME: u64 = 4096;

/// How each block of a `.tar.gz` begins: deflate, no flags, no time, no special level, no system.
const GZIP_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// The bit of that head's fourth byte for which there is no reason; each of the others brings a field along.
const GZIP_FLAGS: usize = 3;

/// How an xz ends.
const XZ_END: &[u8] = b"YZ";

/// What an entry is, and how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name below the top folder; empty for that folder itself.
    pub name: String,
    /// The top folder.
    pub top: String,
    /// What it is.
    pub kind: FoundKind,
    /// Seconds since 1970.
    pub mtime: u64,
}

/// What an entry of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A folder.
    Folder,
    /// A link, and where to.
    Link(String),
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// All of its permission bits.
        mode: u32,
    },
}

/// Reads an archive through; `take` is given each entry with its content, which it may leave unread. Gives, in words, all that is not
/// as this program writes it.
///
/// # Errors
/// When it cannot be read to its end, or `take` fails.
pub fn read(
    path: &Path,
    format: Format,
    mut take: impl FnMut(&Found, &mut dyn Read) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<String>> {
    let foreign = Rc::new(Cell::new(false));
    let mut tar = Tar { input: plain(path, format, &foreign)?, top: None, mtime: None, last: None, strange: Vec::new() };
    while let Some(found) = tar.next()? {
        let FoundKind::File { size, .. } = found.kind else {
            take(&found, &mut io::empty())?;
            continue;
        };
        let mut content = (&mut tar.input).take(size);
        take(&found, &mut content)?;
        io::copy(&mut content, &mut io::sink()).map_err(|error| damaged(&error))?;
        anyhow::ensure!(content.limit() == 0, "it is cut short, in {}", found.name);
        tar.padding(size, &found.name)?;
    }
    if io::copy(&mut tar.input, &mut io::sink()).map_err(|error| damaged(&error))? > 0 {
        tar.strange.push("there is something behind its end".to_owned());
    }
    if foreign.get() {
        tar.strange.push(format!("it was not packed as this program packs a {}", format.ending()));
    }
    Ok(tar.strange)
}

fn damaged(error: &io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return anyhow::anyhow!("it is cut short");
    }
    anyhow::anyhow!("it is damaged: {error}")
}

/// The tar in an archive; `foreign` is set where the packing shows that another program made it.
fn plain(path: &Path, format: Format, foreign: &Rc<Cell<bool>>) -> anyhow::Result<Box<dyn Read>> {
    match format {
        Format::Gz => {
            let mut file = BufReader::with_capacity(256 * 1024, File::open(path)?);
            let head = file.fill_buf()?;
            anyhow::ensure!(!head.is_empty(), "it is empty");
            if !head.starts_with(&GZIP_HEAD[..2]) {
                let begins = String::from_utf8_lossy(&head[..head.len().min(24)]).into_owned();
                anyhow::bail!("it is no gzip at all; it begins with {begins:?}");
            }
            Ok(Box::new(Gzip::new(file, foreign.clone()).map_err(|error| damaged(&error))?))
        }
        Format::Xz => {
            let mut file = File::open(path)?;
            let mut end = [0; XZ_END.len()];
            let short = file.seek(SeekFrom::End(-(XZ_END.len() as i64))).is_err() || file.read_exact(&mut end).is_err();
            // Zeros may stand behind it.
            foreign.set(short || end != XZ_END);
            Ok(unpack::stream(path)?)
        }
        #[cfg(feature = "zstd")]
        Format::Zst => Ok(Box::new(zstd::stream::read::Decoder::new(File::open(path)?)?)),
        Format::Deb | Format::Rpm | Format::Oci => anyhow::bail!("what a {format} holds is not read here"),
        #[cfg(not(feature = "zstd"))]
        Format::Zst => {
            anyhow::bail!(
                "this program was compiled without zstd; `cargo run --package xtask --features zstd -- verify` reads it"
            )
        }
    }
}

/// Gzip's members one behind the other, each with a head of the one form.
struct Gzip {
    /// None once nothing more comes.
    member: Option<DeflateDecoder<BufReader<File>>>,
    sum: flate2::Crc,
    foreign: Rc<Cell<bool>>,
}

impl Gzip {
    fn new(file: BufReader<File>, foreign: Rc<Cell<bool>>) -> io::Result<Self> {
        let mut gzip = Self { member: None, sum: flate2::Crc::new(), foreign };
        gzip.begin(file)?;
        Ok(gzip)
    }

    fn begin(&mut self, mut file: BufReader<File>) -> io::Result<()> {
        let mut head = [0; GZIP_HEAD.len()];
        file.read_exact(&mut head)?;
        if head[..GZIP_FLAGS] != GZIP_HEAD[..GZIP_FLAGS] || head[GZIP_FLAGS] != 0 {
            return Err(io::Error::other("where a block should begin, there is something else"));
        }
        if head != GZIP_HEAD {
            self.foreign.set(true);
        }
        self.sum = flate2::Crc::new();
        self.member = Some(DeflateDecoder::new(file));
        Ok(())
    }

    /// Checks the sums behind a member, and goes on to the next.
    fn end(&mut self, mut file: BufReader<File>) -> io::Result<()> {
        let mut sums = [0; 8];
        file.read_exact(&mut sums)?;
        let wanted = [self.sum.sum().to_le_bytes(), self.sum.amount().to_le_bytes()].concat();
        if sums[..] != wanted[..] {
            return Err(io::Error::other("the checksum of a block does not fit"));
        }
        if file.fill_buf()?.is_empty() { Ok(()) } else { self.begin(file) }
    }
}

impl Read for Gzip {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(into)?;
            if count > 0 || into.is_empty() {
                self.sum.update(&into[..count]);
                return Ok(count);
            }
            if let Some(member) = self.member.take() {
                self.end(member.into_inner())?;
            }
        }
        Ok(0)
    }
}

/// The tar, entry by entry.
struct Tar {
    input: Box<dyn Read>,
    top: Option<String>,
    mtime: Option<u64>,
    /// The name before, for the order.
    last: Option<(bool, Vec<u8>)>,
    strange: Vec<String>,
}

impl Tar {
    fn record(&mut self) -> anyhow::Result<[u8; RECORD]> {
        let mut record = [0; RECORD];
        self.input.read_exact(&mut record).map_err(|error| damaged(&error))?;
        Ok(record)
    }

    /// The next entry; none at the end.
    fn next(&mut self) -> anyhow::Result<Option<Found>> {
        let mut bytes = Vec::new();
        let (mut name, mut target) = (None, None);
        loop {
            let record = self.record()?;
            if bytes.is_empty() && record == [0; RECORD] {
                anyhow::ensure!(self.record()? == [0; RECORD], "it is damaged: half an end mark");
                return Ok(None);
            }
            bytes.extend_from_slice(&record);
            let header = tar::Header::from_byte_slice(&record);
            check_sum(header)?;
            match header.entry_type() {
                tar::EntryType::GNULongName => name = Some(self.long(header.entry_size()?, &mut bytes)?),
                tar::EntryType::GNULongLink => target = Some(self.long(header.entry_size()?, &mut bytes)?),
                _ => {
                    let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
                    let target = target.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
                    return self.entry(header, name, target.unwrap_or_default(), &bytes).map(Some);
                }
            }
        }
    }

    /// A name that is too long for a header.
    fn long(&mut self, size: u64, bytes: &mut Vec<u8>) -> anyhow::Result<Vec<u8>> {
        anyhow::ensure!(size <= LONGEST_NAME, "it is damaged: a name of {size} bytes");
        let mut text = vec![0; usize::try_from(size)?.next_multiple_of(RECORD)];
        self.input.read_exact(&mut text).map_err(|error| damaged(&error))?;
        bytes.extend_from_slice(&text);
        text.truncate(usize::try_from(size)?);
        anyhow::ensure!(text.pop() == Some(0), "it is damaged: a name without an end");
        Ok(text)
    }

    /// Makes the entry out of its header and names, and holds `bytes`, from which they come, against what would have been written.
    fn entry(&mut self, header: &tar::Header, name: Vec<u8>, target: Vec<u8>, bytes: &[u8]) -> anyhow::Result<Found> {
        let shown = harmless_line(&name);
        let kind = header.entry_type();
        if !matches!(kind, tar::EntryType::Directory | tar::EntryType::Symlink | tar::EntryType::Regular) {
            let letter = char::from(kind.as_byte());
            anyhow::bail!("{shown}: neither a file nor a folder nor a link, but of the type {letter:?}, which no bundle has");
        }
        let (mode, mtime) = (header.mode()? & 0o7777, header.mtime()?);
        let (kind, what) = match kind {
            tar::EntryType::Directory => (FoundKind::Folder, What::Folder),
            tar::EntryType::Symlink => {
                let text = String::from_utf8(target.clone()).with_context(|| format!("{shown}: a link to no text"))?;
                (FoundKind::Link(text), What::Link(target))
            }
            _ => {
                let size = header.entry_size()?;
                let stamp = Stamp { inode: 0, size, modified: (0, 0) };
                (FoundKind::File { size, mode }, What::File { stamp, executable: mode & 0o100 != 0 })
            }
        };
        let place = (name.ends_with(b"/") == (kind == FoundKind::Folder)).then(|| split(&name)).flatten();
        let Some((top, inside)) = place else { anyhow::bail!("{shown}: not a name inside the bundle's folder") };
        let mut strange = Vec::new();
        let entry = Entry { name, path: PathBuf::new(), what };
        if self.mtime.get_or_insert(mtime) != &mtime {
            strange.push("of another time than the ones before".to_owned());
        }
        if entry.header(mtime) != bytes {
            strange.push(unlike(header, mode));
        }
        if self.top.get_or_insert_with(|| top.clone()) != &top {
            strange.push("beside the bundle's folder".to_owned());
        }
        let order = (entry.is_signature(), entry.name);
        match self.last.as_ref().map(|last| last.cmp(&order)) {
            // Of two, tar keeps the one and somebody else may keep the other.
            Some(std::cmp::Ordering::Equal) => strange.push("there twice".to_owned()),
            Some(std::cmp::Ordering::Greater) => strange.push("not where it belongs by its name".to_owned()),
            _ => {}
        }
        self.last = Some(order);
        self.strange.extend(strange.into_iter().map(|why| format!("{shown}: {why}")));
        Ok(Found { name: inside, top, kind, mtime })
    }

    /// What fills up the last record of a file.
    fn padding(&mut self, size: u64, name: &str) -> anyhow::Result<()> {
        let length = size.next_multiple_of(RECORD as u64) - size;
        let mut rest = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut rest).map_err(|error| damaged(&error))?;
        anyhow::ensure!(rest.len() as u64 == length, "it is cut short, behind {name}");
        if rest.iter().any(|byte| *byte != 0) {
            self.strange.push(format!("{name}: something is hidden behind it"));
        }
        Ok(())
    }
}

/// A header's own checksum.
fn check_sum(header: &tar::Header) -> anyhow::Result<()> {
    let mut own = header.clone();
    own.set_cksum();
    let is_right = own.cksum().ok() == header.cksum().ok();
    anyhow::ensure!(is_right, "it is damaged: the checksum of an entry does not fit");
    Ok(())
}

/// In words, how a header is unlike the one that would have been written.
fn unlike(header: &tar::Header, mode: u32) -> String {
    let owner = (header.uid().ok(), header.gid().ok());
    if owner != (Some(0), Some(0)) {
        let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        return format!("it belongs to {}:{} instead of 0:0", number(owner.0), number(owner.1));
    }
    let usual: &[u32] = match header.entry_type() {
        tar::EntryType::Directory => &[0o755],
        tar::EntryType::Symlink => &[0o777],
        _ => &[0o644, 0o755],
    };
    if !usual.contains(&mode) {
        return format!("mode {mode:04o}");
    }
    "its header is not as this program writes it".to_owned()
}

/// The top folder and the rest of a name; none where it leads out, or is not written in the shortest way.
fn split(name: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(name).ok()?;
    let (top, rest) = text.split_once('/')?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let parts = std::iter::once(top).chain(rest.split('/').filter(|_| !rest.is_empty()));
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    parts.clone().all(is_plain).then(|| (top.to_owned(), rest.to_owned()))
}
