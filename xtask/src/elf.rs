//! What a program or shared library wants of the machine that it runs on: read from ELF files, and by [`macho`] from those of macOS.
//!
//! Promises: whatever bytes a file has, reading it ends in an answer or an error. A file that is neither ELF nor Mach-O is
//! [`None`]. Nothing is run, and no library is looked for: what is found is what the file itself names.
//!
//! Left to others: whether that is allowed ([`crate::gate`]), what it is called in a bill of materials.

use crate::macho::{self, Image, System};
use anyhow::Context as _;
use object::elf;
use object::endian::Endianness;
use object::read::elf::{FileHeader, ProgramHeader as _};
use object::read::{ReadCache, ReadRef};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a program or library wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binary {
    /// What the file is for: `x86_64`, `aarch64`, as `std::env::consts::ARCH` has it, or a number in the format's own words. Several are
    /// parted by `+`.
    pub arch: String,
    /// In which format.
    pub format: Format,
    /// The program that loads it, such as `/lib64/ld-linux-x86-64.so.2`. Libraries and static programs have none.
    pub interpreter: Option<String>,
    /// The name that it gives itself as a library.
    pub soname: Option<String>,
    /// The libraries that it needs, in its own order and by the names that it has for them. Those that a program loads by itself
    /// while it runs (`dlopen`) are not among them.
    pub needed: Vec<String>,
    /// Where they are looked for before the system's own folders (RPATH, RUNPATH, LC_RPATH), folder by folder.
    pub rpaths: Vec<String>,
    /// The versions of symbols that it needs, by library.
    pub versions: BTreeMap<String, BTreeSet<String>>,
}

/// The format of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// That of Linux.
    #[default]
    Elf,
    /// That of macOS: a program for each processor. What they need is what each of them needs.
    MachO(Vec<Image>),
}

impl Binary {
    /// The oldest glibc that has all versions of symbols that it needs; none where it needs no glibc.
    pub fn glibc(&self) -> Option<Version> {
        let named = self.versions.values().flatten().filter_map(|name| name.strip_prefix("GLIBC_"));
        named.filter_map(|version| version.parse().ok()).max()
    }

    /// The oldest macOS that it is for; none where it is not for macOS, or does not say.
    pub fn macos(&self) -> Option<Version> {
        let version = |image: &Image| match image.system {
            System::MacOs(version) => Some(Version(version.to_vec())),
            _ => None,
        };
        self.images().iter().filter_map(version).max()
    }

    /// The programs of a Mach-O file.
    pub fn images(&self) -> &[Image] {
        match &self.format {
            Format::Elf => &[],
            Format::MachO(images) => images,
        }
    }
}

/// A version of a system or its library: `2.17`. Versions are in order; 11 is 11.0.
#[derive(Clone, Debug)]
pub struct Version(Vec<u32>);

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let part = |version: &Self, at: usize| version.0.get(at).copied().unwrap_or(0);
        let orders = (0..self.0.len().max(other.0.len())).map(|at| part(self, at).cmp(&part(other, at)));
        orders.fold(Ordering::Equal, Ordering::then)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        parts.map(Self).with_context(|| format!("\"{text}\" is no version such as 2.17"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&elf::ELFMAG)
}

/// Looks at the whole content of a file; none where it is no program or library.
///
/// # Errors
/// Why a file that looks like one cannot be understood.
pub fn parse(data: &[u8]) -> anyhow::Result<Option<Binary>> {
    if macho::is_mach_o(data) {
        return mach_o(Cursor::new(data)).map(Some).context("it looks like a Mach-O file, but it cannot be understood");
    }
    if !is_elf(data) {
        return Ok(None);
    }
    any_elf(data, data.get(4)).map(Some)
}

fn any_elf<'d, R: ReadRef<'d>>(data: R, class: Option<&u8>) -> anyhow::Result<Binary> {
    let read = match class {
        Some(&class) if class == elf::ELFCLASS64.0 => elf_of::<elf::FileHeader64<Endianness>, R>(data),
        Some(&class) if class == elf::ELFCLASS32.0 => elf_of::<elf::FileHeader32<Endianness>, R>(data),
        _ => Err(anyhow::anyhow!("its class is neither 32 nor 64 bits")),
    };
    read.context("it looks like an ELF file, but it cannot be understood")
}

/// Reads the file at a path as [`parse_from`] does; none where it is no program or library.
///
/// # Errors
/// When it cannot be read or understood.
pub fn read(path: &Path) -> anyhow::Result<Option<Binary>> {
    let cannot = || format!("cannot read {}", path.display());
    parse_from(std::fs::File::open(path).with_context(cannot)?).with_context(cannot)
}

/// As [`parse`], without all of it in memory: of files that are neither only the first bytes are read, of programs what tells of them, and all pages
/// that are signed, one after the other.
///
/// # Errors
/// As [`parse`]; also when it cannot be read.
pub fn parse_from(mut file: impl Read + Seek) -> anyhow::Result<Option<Binary>> {
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head)?;
    if is_elf(&head) {
        return any_elf(&ReadCache::new(file), head.get(4)).map(Some);
    }
    if !macho::is_mach_o(&head) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0))?;
    mach_o(file).map(Some).context("it looks like a Mach-O file, but it cannot be understood")
}

/// All programs and libraries in a tree, by their paths relative to it, sorted. Links are not followed.
///
/// # Errors
/// Those of [`read`].
pub fn scan(root: &Path) -> anyhow::Result<Vec<(PathBuf, Binary)>> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.with_context(|| format!("cannot read {}", root.display()))?;
        if entry.file_type().is_file()
            && let Some(binary) = read(entry.path())?
        {
            found.push((entry.path().strip_prefix(root)?.to_owned(), binary));
        }
    }
    Ok(found)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn elf_of<'d, Header: FileHeader<Endian = Endianness>, R: ReadRef<'d>>(data: R) -> anyhow::Result<Binary> {
    let header = Header::parse(data)?;
    let endian = header.endian()?;
    let arch = match header.e_machine(endian) {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_386 => "x86".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        other => format!("ELF machine {}", other.0),
    };
    let mut binary = Binary { arch, ..Binary::default() };
    let mut is_dynamic = false;
    for segment in header.program_headers(endian, data)? {
        is_dynamic |= segment.p_type(endian) == elf::PT_DYNAMIC;
        if let Some(path) = segment.interpreter(endian, data)? {
            binary.interpreter = Some(text(path));
        }
    }
    let sections = header.sections(endian, data)?;
    anyhow::ensure!(!is_dynamic || !sections.is_empty(), "it has no section headers, so what it needs is not to be seen");
    let table = sections.dynamic_table(endian, data)?;
    for entry in &table {
        match entry.tag {
            elf::DT_NEEDED => binary.needed.push(text(table.string(entry)?)),
            elf::DT_SONAME => binary.soname = Some(text(table.string(entry)?)),
            elf::DT_RPATH | elf::DT_RUNPATH => {
                binary.rpaths.extend(text(table.string(entry)?).split(':').map(str::to_owned));
            }
            _ => {}
        }
    }
    if let Some((mut needs, link)) = sections.gnu_verneed(endian, data)? {
        let strings = sections.strings(endian, data, link)?;
        while let Some((library, mut versions)) = needs.next()? {
            let of_library = binary.versions.entry(text(library.file(endian, strings)?)).or_default();
            while let Some(version) = versions.next()? {
                of_library.insert(text(version.name(endian, strings)?));
            }
        }
    }
    Ok(binary)
}

fn mach_o(file: impl Read + Seek) -> anyhow::Result<Binary> {
    let images = macho::images(file)?;
    let mut binary = Binary::default();
    let arches: Vec<&str> = images.iter().map(|image| image.arch.as_str()).collect();
    binary.arch = arches.join("+");
    // Programs for several processors in one file want the same things; where they do not, all of it counts.
    let add = |all: &mut Vec<String>, more: &[String]| {
        for one in more {
            if !all.contains(one) {
                all.push(one.clone());
            }
        }
    };
    for image in &images {
        add(&mut binary.needed, &image.needed);
        add(&mut binary.rpaths, &image.rpaths);
        binary.interpreter = binary.interpreter.or_else(|| image.loader.clone());
        binary.soname = binary.soname.or_else(|| image.name.clone());
    }
    binary.format = Format::MachO(images);
    Ok(binary)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::macho::tests::{Made, fat};

    fn le(value: u64, bytes: usize) -> Vec<u8> {
        value.to_le_bytes()[..bytes].to_vec()
    }

    /// A shared library for x86-64 that needs these libraries, looks for them there and needs these versions of libc.so.6:
    /// nothing more than what is read here, and no code.
    pub fn library(needed: &[&str], rpath: Option<&str>, versions: &[&str]) -> Vec<u8> {
        let mut strings = vec![0_u8];
        let mut string = |text: &str| {
            let at = strings.len() as u64;
            strings.extend(text.as_bytes());
            strings.push(0);
            at
        };
        let mut dynamic: Vec<(u64, u64)> = needed.iter().map(|name| (1, string(name))).collect();
        dynamic.extend(rpath.map(|path| (29, string(path))));
        dynamic.push((0, 0));
        let libc = string("libc.so.6");
        let names: Vec<u64> = versions.iter().map(|name| string(name)).collect();
        let dynamic: Vec<u8> = dynamic.into_iter().flat_map(|(tag, value)| [le(tag, 8), le(value, 8)].concat()).collect();
        let mut needs = Vec::new();
        if !names.is_empty() {
            needs.extend([le(1, 2), le(names.len() as u64, 2), le(libc, 4), le(16, 4), le(0, 4)].concat());
            for (at, name) in names.iter().enumerate() {
                let next = if at + 1 < names.len() { 16 } else { 0 };
                needs.extend([le(0, 4), le(0, 2), le(at as u64 + 2, 2), le(*name, 4), le(next, 4)].concat());
            }
        }
        // Header, one program header, then the sections' content, then the section headers.
        let (at_strings, at_dynamic) = (120, 120 + strings.len() as u64);
        let at_needs = at_dynamic + dynamic.len() as u64;
        let headers = at_needs + needs.len() as u64;
        let section = |kind: u64, offset: u64, size: u64, link: u64, info: u64, entry: u64| {
            let head = [le(0, 4), le(kind, 4), le(0, 8), le(0, 8), le(offset, 8), le(size, 8)].concat();
            [head, le(link, 4), le(info, 4), le(1, 8), le(entry, 8)].concat()
        };
        let ident = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut file = ident.to_vec();
        file.extend([le(3, 2), le(62, 2), le(1, 4), le(0, 8), le(64, 8), le(headers, 8)].concat());
        file.extend([le(0, 4), le(64, 2), le(56, 2), le(1, 2), le(64, 2), le(4, 2), le(1, 2)].concat());
        file.extend([le(2, 4), le(4, 4), le(at_dynamic, 8), le(0, 8), le(0, 8)].concat());
        file.extend([le(dynamic.len() as u64, 8), le(dynamic.len() as u64, 8), le(8, 8)].concat());
        assert_eq!(file.len(), 120);
        file.extend([&*strings, &*dynamic, &*needs].concat());
        file.extend(section(0, 0, 0, 0, 0, 0));
        file.extend(section(3, at_strings, strings.len() as u64, 0, 0, 0));
        file.extend(section(6, at_dynamic, dynamic.len() as u64, 1, 0, 16));
        file.extend(section(0x6fff_fffe, at_needs, needs.len() as u64, 1, u64::from(!names.is_empty()), 0));
        file
    }

    #[test]
    fn what_a_library_needs_is_read() {
        let file = library(&["libc.so.6", "libfoo.so.1"], Some("/opt/x/lib:$ORIGIN/../lib"), &["GLIBC_2.2.5", "GLIBC_2.17"]);
        let binary = parse(&file).unwrap().unwrap();
        assert_eq!(binary.needed, ["libc.so.6", "libfoo.so.1"]);
        assert_eq!(binary.rpaths, ["/opt/x/lib", "$ORIGIN/../lib"]);
        assert_eq!((binary.arch.as_str(), binary.interpreter.as_ref()), ("x86_64", None));
        assert_eq!(binary.glibc().unwrap().to_string(), "2.17");
        assert_eq!(parse(&library(&[], None, &[])).unwrap().unwrap().glibc(), None);
        assert_eq!(parse(b"#!/bin/sh\n").unwrap(), None);
    }

    #[test]
    fn versions_are_numbers_and_what_is_private_is_no_floor() {
        let binary = parse(&library(&[], None, &["GLIBC_2.9", "GLIBC_2.10", "GLIBC_PRIVATE", "GCC_3.0"])).unwrap().unwrap();
        assert_eq!(binary.glibc(), Some("2.10".parse().unwrap()));
        assert!("2.x".parse::<Version>().is_err());
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("11") == version("11.0") && version("11.0.1") > version("11") && version("10.15") < version("11"));
    }

    #[test]
    fn this_program_needs_what_its_system_says() {
        let path = std::env::current_exe().unwrap();
        let own = read(&path).unwrap().unwrap();
        assert_eq!(Some(&own), parse(&std::fs::read(path).unwrap()).unwrap().as_ref());
        assert_eq!(own.arch, std::env::consts::ARCH);
        let library = if cfg!(target_os = "macos") { "libSystem" } else { "libc.so.6" };
        assert!(own.needed.iter().any(|name| name.contains(library)), "{own:?}");
        assert_eq!(own.glibc().is_some(), own.format == Format::Elf);
    }

    #[test]
    fn a_mach_o_file_says_the_same_things() {
        let file = Made { needed: &["/usr/lib/libSystem.B.dylib"], rpaths: &["/opt/lib"], ..Made::default() }.file();
        let binary = parse(&file).unwrap().unwrap();
        assert_eq!(
            (binary.needed.as_slice(), binary.rpaths.as_slice()),
            (&["/usr/lib/libSystem.B.dylib".into()][..], &["/opt/lib".into()][..])
        );
        assert_eq!((binary.arch.as_str(), binary.macos(), binary.glibc()), ("aarch64", Some("11".parse().unwrap()), None));
        let both =
            fat(&[file, Made { is_arm: false, minos: [12, 3], needed: &["/usr/lib/libz.1.dylib"], ..Made::default() }.file()]);
        let binary = parse(&both).unwrap().unwrap();
        assert_eq!(
            (binary.arch.as_str(), binary.needed.len(), binary.macos().unwrap().to_string()),
            ("aarch64+x86_64", 2, "12.3".into())
        );
    }

    #[test]
    fn damaged_files_are_errors_and_nothing_worse() {
        let file = library(&["libc.so.6"], Some("$ORIGIN"), &["GLIBC_2.17"]);
        for cut in 8..file.len() {
            let _ = parse(&file[..cut]);
        }
        for at in 16..file.len() {
            let mut broken = file.clone();
            broken[at] = 0xff;
            let _ = parse(&broken);
        }
        assert!(parse(&file[..100]).is_err());
    }
}
