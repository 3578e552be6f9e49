//! A package of Red Hat's kind (the rpm file format, version 4): a lead, two headers of tagged values, a compressed cpio.
//!
//! rpm installs files with the modes, owners and links that the header says, so those count, and not the cpio's.

use super::{Package, Script, plain};
use crate::archive::content::Content;
use crate::archive::read::{Member, MemberKind, Take};
use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// What every rpm begins with; nothing in it counts any more.
const LEAD: u64 = 96;

/// No header has more values, or more bytes in them.
const LARGEST: u32 = 256 * 1024 * 1024;

/// No name is longer.
const LONGEST_NAME: usize = 4096;

const S_IFMT: u32 = 0o170_000;

/// Tags of the header that are read here.
mod tag {
    pub const NAME: u32 = 1000;
    pub const VERSION: u32 = 1001;
    pub const ARCH: u32 = 1022;
    pub const PRE_IN: u32 = 1023;
    pub const POST_IN: u32 = 1024;
    pub const PRE_UN: u32 = 1025;
    pub const POST_UN: u32 = 1026;
    pub const FILE_MODES: u32 = 1030;
    pub const FILE_LINKS: u32 = 1036;
    pub const FILE_USERS: u32 = 1039;
    pub const FILE_GROUPS: u32 = 1040;
    pub const REQUIRE_FLAGS: u32 = 1048;
    pub const REQUIRES: u32 = 1049;
    pub const REQUIRE_VERSIONS: u32 = 1050;
    pub const PRE_IN_PROGRAM: u32 = 1085;
    pub const POST_IN_PROGRAM: u32 = 1086;
    pub const PRE_UN_PROGRAM: u32 = 1087;
    pub const POST_UN_PROGRAM: u32 = 1088;
    pub const DIR_INDEXES: u32 = 1116;
    pub const BASE_NAMES: u32 = 1117;
    pub const DIR_NAMES: u32 = 1118;
}

/// Gives all that it would install, and what it says of itself.
pub fn read(path: &Path, take: &mut Take<'_>) -> anyhow::Result<Package> {
    let mut file = BufReader::with_capacity(256 * 1024, File::open(path)?);
    io::copy(&mut file.by_ref().take(LEAD), &mut io::sink())?;
    let signature = Header::read(&mut file).context("its signature is damaged")?;
    // It ends at a multiple of eight bytes.
    io::copy(&mut file.by_ref().take((8 - signature.size % 8) % 8), &mut io::sink())?;
    let header = Header::read(&mut file).context("its header is damaged")?;
    let files = header.files()?;
    payload(plain(file)?, files, take).context("what it holds is damaged")?;
    Ok(header.package())
}

/// A header: for each tag a type, where its value begins, how many there are; and all values.
struct Header {
    index: BTreeMap<u32, (u32, usize, usize)>,
    values: Vec<u8>,
    /// All of it, in bytes.
    size: u64,
}

impl Header {
    fn read(file: &mut impl Read) -> anyhow::Result<Self> {
        let mut start = [0; 16];
        file.read_exact(&mut start)?;
        ensure!(start.starts_with(&[0x8e, 0xad, 0xe8, 1]), "it does not begin as one");
        let (count, bytes) = (number(&start, 8), number(&start, 12));
        ensure!(count <= LARGEST / 16 && bytes <= LARGEST, "it is larger than any");
        let mut entries = vec![0; count as usize * 16];
        file.read_exact(&mut entries)?;
        let mut values = vec![0; bytes as usize];
        file.read_exact(&mut values)?;
        let entry =
            |entry: &[u8]| (number(entry, 0), (number(entry, 4), number(entry, 8) as usize, number(entry, 12) as usize));
        let index = entries.chunks_exact(16).map(entry).collect();
        Ok(Self { index, values, size: 16 + u64::from(count) * 16 + u64::from(bytes) })
    }

    /// The texts of a tag; none where it is not there or no text.
    fn texts(&self, tag: u32) -> Vec<String> {
        // A text, several texts, a text in several languages.
        let Some((6 | 8 | 9, from, count)) = self.index.get(&tag).copied() else { return Vec::new() };
        let rest = self.values.get(from..).unwrap_or_default();
        rest.split(|byte| *byte == 0).take(count).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }

    fn text(&self, tag: u32) -> String {
        self.texts(tag).into_iter().next().unwrap_or_default()
    }

    /// The numbers of a tag, of 16 or 32 bits.
    fn numbers(&self, tag: u32) -> Vec<u32> {
        let Some((kind, from, count)) = self.index.get(&tag).copied() else { return Vec::new() };
        let size = if kind == 3 { 2 } else { 4 };
        let bytes = self.values.get(from..from.saturating_add(count.saturating_mul(size))).unwrap_or_default();
        bytes.chunks_exact(size).map(|one| one.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))).collect()
    }

    /// All files by name, as they will be installed.
    fn files(&self) -> anyhow::Result<BTreeMap<String, Member>> {
        let (names, folders) = (self.texts(tag::BASE_NAMES), self.texts(tag::DIR_NAMES));
        let (indexes, modes) = (self.numbers(tag::DIR_INDEXES), self.numbers(tag::FILE_MODES));
        let (links, users) = (self.texts(tag::FILE_LINKS), self.texts(tag::FILE_USERS));
        let groups = self.texts(tag::FILE_GROUPS);
        let mut files = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            let file = || {
                let folder = folders.get(*indexes.get(at)? as usize)?;
                let mode = *modes.get(at)?;
                let kind = match mode & S_IFMT {
                    0o040_000 => MemberKind::Folder,
                    0o120_000 => MemberKind::Link(links.get(at)?.clone()),
                    0o100_000 => MemberKind::File(0),
                    _ => MemberKind::Other("a device or pipe".to_owned()),
                };
                let name = super::from_root(&format!("{folder}{name}"));
                // Numbers are those that these names have where it is installed; root is 0 everywhere.
                let owner_names = (users.get(at)?.clone(), groups.get(at)?.clone());
                Some((name.clone(), Member { name, kind, mode: mode & 0o7777, owner: (0, 0), owner_names, mtime: 0 }))
            };
            let (name, member) = file().with_context(|| format!("its header does not say what {name} is"))?;
            files.insert(name, member);
        }
        Ok(files)
    }

    fn package(&self) -> Package {
        let script = |(when, tag, program): (&str, u32, u32)| {
            let (text, interpreter) = (self.text(tag), self.text(program));
            let is_there = self.index.contains_key(&tag) || self.index.contains_key(&program);
            is_there.then(|| Script { when: when.to_owned(), interpreter, text })
        };
        let scripts = [
            ("%pre", tag::PRE_IN, tag::PRE_IN_PROGRAM),
            ("%post", tag::POST_IN, tag::POST_IN_PROGRAM),
            ("%preun", tag::PRE_UN, tag::PRE_UN_PROGRAM),
            ("%postun", tag::POST_UN, tag::POST_UN_PROGRAM),
        ];
        let (flags, versions) = (self.numbers(tag::REQUIRE_FLAGS), self.texts(tag::REQUIRE_VERSIONS));
        let require = |(at, name): (usize, String)| {
            let flags = flags.get(at).copied().unwrap_or_default();
            let sign: String =
                [(2, '<'), (4, '>'), (8, '=')].iter().filter(|(bit, _)| flags & bit != 0).map(|(_, c)| *c).collect();
            match versions.get(at).filter(|version| !version.is_empty()) {
                Some(version) => format!("{name} {sign} {version}"),
                None => name,
            }
        };
        Package {
            name: self.text(tag::NAME),
            version: self.text(tag::VERSION),
            arch: self.text(tag::ARCH),
            requires: self.texts(tag::REQUIRES).into_iter().enumerate().map(require).collect(),
            scripts: scripts.into_iter().filter_map(script).collect(),
        }
    }
}

/// Gives the members of a cpio ("newc"), as the header has them.
fn payload(cpio: impl Read, mut files: BTreeMap<String, Member>, take: &mut Take<'_>) -> anyhow::Result<()> {
    let mut cpio = BufReader::with_capacity(256 * 1024, cpio);
    let mut at = 0;
    while let Some((name, mode, content)) = entry(&mut cpio)? {
        let Some(mut member) = files.remove(&super::from_root(&name)) else {
            bail!("{name} is in it and not in the header, or twice")
        };
        let same = match &member.kind {
            MemberKind::Folder => mode & S_IFMT == 0o040_000,
            MemberKind::Link(target) => mode & S_IFMT == 0o120_000 && content.in_memory() == Some(target.as_bytes()),
            _ => true,
        };
        ensure!(same, "{name} is something else in it than in the header");
        let is_file = matches!(member.kind, MemberKind::File(_));
        if is_file {
            member.kind = MemberKind::File(content.size());
        }
        if !take(at, member, if is_file { content } else { Content::none() }) {
            return Ok(());
        }
        at += 1;
    }
    io::copy(&mut cpio, &mut io::sink())?;
    match files.keys().next() {
        Some(name) => bail!("{name} is in the header and not in it"),
        None => Ok(()),
    }
}

/// The next entry: its name, its mode with its type, what it holds; none at the end.
fn entry(cpio: &mut impl BufRead) -> anyhow::Result<Option<(String, u32, Content)>> {
    let mut header = [0; 110];
    cpio.read_exact(&mut header).context("it is cut short")?;
    ensure!(header.starts_with(b"070701") || header.starts_with(b"070702"), "it is no cpio that is known here");
    let field = |at: usize| -> anyhow::Result<usize> {
        let text = std::str::from_utf8(&header[6 + at * 8..14 + at * 8])?;
        usize::from_str_radix(text, 16).with_context(|| format!("\"{text}\" is no number"))
    };
    let (mode, size, name_size) = (field(1)?, field(6)?, field(11)?);
    ensure!((1..=LONGEST_NAME).contains(&name_size), "a name in it is longer than any");
    let name = padded(cpio, name_size, 110 + name_size)?;
    let name = String::from_utf8_lossy(&name.whole()?[..name_size - 1]).into_owned();
    if name == "TRAILER!!!" {
        return Ok(None);
    }
    Ok(Some((name, u32::try_from(mode)?, padded(cpio, size, size)?)))
}

/// So many bytes, and what fills `length` up to a multiple of four behind them.
fn padded(cpio: &mut impl BufRead, size: usize, length: usize) -> anyhow::Result<Content> {
    let bytes = Content::read(cpio, size as u64)?;
    ensure!(bytes.size() == size as u64, "it is cut short");
    let mut rest = [0; 3];
    cpio.read_exact(&mut rest[..(4 - length % 4) % 4])?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}
