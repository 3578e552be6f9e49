//! Mach-O files, as macOS loads them: what each program in one is for, what it needs, and whether its code signature is that of its
//! bytes.
//!
//! Promises: whatever bytes a file has, reading it ends in an answer or an error. A signature is checked as the kernel does before it
//! lets a page run: it covers all that lies before it, and every page has the hash that it says.
//!
//! Left to others: who has signed it (most are signed by a linker, as nobody: "ad hoc"), and whether all that is allowed ([`crate::gate`]).

use anyhow::{Context as _, anyhow, bail, ensure};
use object::endian::{BigEndian, Endianness};
use object::macho;
use object::read::macho::{FatArch, LoadCommandVariant, MachHeader, MachOFatFile};
use object::read::{ReadCache, ReadRef};
use sha2::{Digest, Sha256, Sha384};
use std::io::{BufReader, Read, Seek, SeekFrom};

/// No signature has more parts.
const MOST_PARTS: usize = 100;

/// So much of a file is read at a time, in bytes.
const BUFFER: usize = 128 * 1024;

/// One program or library. A file holds several of them where it is for several processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The processor, as `std::env::consts::ARCH` has it, or a number in the format's own words.
    pub arch: String,
    /// What it is.
    pub role: Role,
    /// The program that loads it.
    pub loader: Option<String>,
    /// The name that it gives itself as a library.
    pub name: Option<String>,
    /// The libraries that it needs, by the names that it has for them.
    pub needed: Vec<String>,
    /// Where `@rpath` leads to.
    pub rpaths: Vec<String>,
    /// What it is for.
    pub system: System,
    /// Its code signature.
    pub signature: Signature,
}

/// What an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It is started.
    Program,
    /// It is loaded into a program.
    Library,
    /// Nothing that a system runs: a compiler's output, debug information.
    #[default]
    Other,
}

/// The system that an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum System {
    /// It does not say, which means macOS.
    #[default]
    Unsaid,
    /// macOS, no older than this: 11.0 is `[11, 0]`.
    MacOs([u32; 2]),
    /// Another one of Apple's, in words.
    Other(String),
}

/// An image's code signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Signature {
    /// There is none.
    #[default]
    None,
    /// It is that of the image's bytes.
    Good,
    /// It is not, and why.
    Bad(String),
}

/// Whether a file that begins so, with these eight bytes, is one.
pub fn is_mach_o(head: &[u8]) -> bool {
    match head.first_chunk() {
        Some([0xcf | 0xce, 0xfa, 0xed, 0xfe] | [0xfe, 0xed, 0xfa, 0xcf | 0xce]) => true,
        // A Java class begins likewise. What follows is its version there and the number of images here.
        Some([0xca, 0xfe, 0xba, 0xbe | 0xbf]) => head.get(4..8).is_some_and(|count| count[..3] == [0, 0, 0] && count[3] < 20),
        _ => false,
    }
}

/// Reads a file: its images, of which there is at least one. Of what is signed a page is in memory at a time.
///
/// # Errors
/// Why it cannot be understood.
pub fn images(file: impl Read + Seek) -> anyhow::Result<Vec<Image>> {
    let cache = ReadCache::new(file);
    let parts = match cache.read_bytes_at(0, 4) {
        Ok([0xca, 0xfe, 0xba, 0xbe]) => fat::<macho::FatArch32>(&cache)?,
        Ok([0xca, 0xfe, 0xba, 0xbf]) => fat::<macho::FatArch64>(&cache)?,
        _ => vec![(0, length(&cache)?)],
    };
    let thin = |(from, size)| thin(from, cache.range(from, size));
    let found = parts.into_iter().map(thin).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!found.is_empty(), "it holds no program");
    let mut file = cache.into_inner();
    Ok(found.into_iter().map(|found| found.checked(&mut file)).collect())
}

fn length<S: Read + Seek>(cache: &ReadCache<S>) -> anyhow::Result<u64> {
    cache.len().map_err(|()| anyhow!("it cannot be read"))
}

/// Where its images lie, and how large they are.
fn fat<Fat: FatArch>(cache: &ReadCache<impl Read + Seek>) -> anyhow::Result<Vec<(u64, u64)>> {
    let end = length(cache)?;
    let parts: Vec<_> = MachOFatFile::<Fat>::parse(cache)?.arches().iter().map(Fat::file_range).collect();
    let is_in_it = |(from, size): &(u64, u64)| from.checked_add(*size).is_some_and(|to| to <= end);
    ensure!(parts.iter().all(is_in_it), "Invalid fat arch offset or size");
    Ok(parts)
}

fn thin<'d>(from: u64, data: impl ReadRef<'d>) -> anyhow::Result<Found> {
    let (image, signature) = match data.read_bytes_at(0, 4) {
        Ok([0xcf, ..] | [.., 0xcf]) => image::<macho::MachHeader64<Endianness>>(data)?,
        _ => image::<macho::MachHeader32<Endianness>>(data)?,
    };
    let size = data.len().map_err(|()| anyhow!("it cannot be read"))?;
    Ok(Found { image, from, size, signature })
}

/// An image whose signature is to be checked yet.
struct Found {
    image: Image,
    /// Where it begins, and how large it is.
    from: u64,
    size: u64,
    /// Where its signature begins in it, and how large that is.
    signature: Option<(u64, u64)>,
}

impl Found {
    fn checked(mut self, file: &mut (impl Read + Seek)) -> Image {
        if let Some((at, size)) = self.signature {
            let mut bytes = Bytes { file, from: self.from, size: self.size };
            let checked = check(&mut bytes, at, size);
            self.image.signature = checked.map_or_else(|why| Signature::Bad(format!("{why:#}")), |()| Signature::Good);
        }
        self.image
    }
}

/// The bytes of an image.
struct Bytes<'f, S> {
    file: &'f mut S,
    from: u64,
    size: u64,
}

impl<S: Read + Seek> Bytes<'_, S> {
    /// Those from one place in it to another, to be read one after the other; none where it has no such places.
    fn between(&mut self, at: u64, to: u64) -> Option<impl Read> {
        (at <= to && to <= self.size).then_some(())?;
        self.file.seek(SeekFrom::Start(self.from + at)).ok()?;
        Some(BufReader::with_capacity(BUFFER, self.file.by_ref().take(to - at)))
    }

    fn get(&mut self, at: u64, size: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.between(at, at.checked_add(size)?)?.read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 == size).then_some(bytes)
    }
}

/// An image, and where its signature lies in it.
fn image<'d, Header: MachHeader<Endian = Endianness>>(data: impl ReadRef<'d>) -> anyhow::Result<(Image, Option<(u64, u64)>)> {
    let header = Header::parse(data, 0)?;
    let endian = header.endian()?;
    let arch = match header.cputype(endian) {
        macho::CPU_TYPE_X86_64 => "x86_64".to_owned(),
        macho::CPU_TYPE_ARM64 => "aarch64".to_owned(),
        other => format!("Mach-O processor {}", other.0),
    };
    let role = match header.filetype(endian) {
        macho::MH_EXECUTE => Role::Program,
        macho::MH_DYLIB | macho::MH_BUNDLE => Role::Library,
        _ => Role::Other,
    };
    let (mut image, mut signature) = (Image { arch, role, ..Image::default() }, None);
    let mut commands = header.load_commands(endian, data, 0)?;
    while let Some(command) = commands.next()? {
        let string = |text| command.string(endian, text).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        match command.variant()? {
            LoadCommandVariant::Dylib(library) => image.needed.push(string(library.dylib.name)?),
            LoadCommandVariant::IdDylib(library) => image.name = Some(string(library.dylib.name)?),
            LoadCommandVariant::LoadDylinker(loader) => image.loader = Some(string(loader.name)?),
            LoadCommandVariant::Rpath(rpath) => image.rpaths.push(string(rpath.path)?),
            LoadCommandVariant::BuildVersion(version, _) => {
                image.is_for(system(version.platform.get(endian), version.minos.get(endian).0));
            }
            LoadCommandVariant::VersionMin(version) => {
                let is_macos = command.cmd() == macho::LC_VERSION_MIN_MACOSX;
                let platform = if is_macos { macho::PLATFORM_MACOS } else { macho::PLATFORM_UNKNOWN };
                image.is_for(system(platform, version.version.get(endian).0));
            }
            LoadCommandVariant::LinkeditData(part) if command.cmd() == macho::LC_CODE_SIGNATURE => {
                signature = Some((part.dataoff.get(endian).into(), part.datasize.get(endian).into()));
            }
            _ => {}
        }
    }
    Ok((image, signature))
}

impl Image {
    /// Notes what it is for. A library may be for two systems: then macOS counts.
    fn is_for(&mut self, system: System) {
        if !matches!(self.system, System::MacOs(_)) {
            self.system = system;
        }
    }
}

/// A system, and its version as `xxxx.yy.zz`.
fn system(platform: macho::Platform, version: u32) -> System {
    match platform {
        macho::PLATFORM_MACOS => System::MacOs([version >> 16, (version >> 8) & 0xff]),
        macho::PLATFORM_IOS => System::Other("iOS".to_owned()),
        macho::PLATFORM_MACCATALYST => System::Other("Mac Catalyst".to_owned()),
        macho::PLATFORM_UNKNOWN => System::Other("another system of Apple's".to_owned()),
        other => System::Other(format!("Apple's platform {}", other.0)),
    }
}

/// Checks the code signature that lies at these bytes.
fn check(bytes: &mut Bytes<'_, impl Read + Seek>, at: u64, size: u64) -> anyhow::Result<()> {
    let is_cut = || anyhow!("it is cut short");
    let signature = bytes.get(at, size).with_context(is_cut)?;
    let signature = signature.as_slice();
    let head = signature.read_at::<macho::CsSuperBlob>(0).map_err(|()| is_cut())?;
    ensure!(head.magic.get(BigEndian) == macho::CSMAGIC_EMBEDDED_SIGNATURE, "it does not begin as one");
    let count = head.count.get(BigEndian) as usize;
    ensure!(count <= MOST_PARTS, "it has {count} parts");
    let index = signature.read_slice_at::<macho::CsBlobIndex>(size_of::<macho::CsSuperBlob>() as u64, count);
    let mut blobs = Vec::new();
    for entry in index.map_err(|()| is_cut())? {
        let rest = signature.get(entry.offset.get(BigEndian) as usize..).with_context(is_cut)?;
        let length = rest.read_at::<macho::CsGenericBlob>(0).map_err(|()| is_cut())?.length.get(BigEndian) as usize;
        blobs.push((entry.slot.get(BigEndian), rest.get(..length).with_context(is_cut)?));
    }
    let is_directory = |slot: macho::CsSlot| slot == macho::CSSLOT_CODEDIRECTORY || slot.is_alternate_codedirectory();
    let mut checked = false;
    for (_, directory) in blobs.iter().filter(|(slot, _)| is_directory(*slot)) {
        checked |= check_directory(directory, bytes, at, &blobs)?;
    }
    ensure!(checked, "it has no hashes of a kind that today's systems take");
    Ok(())
}

/// Checks one list of hashes, of the code before the signature and of the signature's other parts; whether they are of a kind that is
/// known here.
fn check_directory(
    directory: &[u8],
    bytes: &mut Bytes<'_, impl Read + Seek>,
    end: u64,
    blobs: &[(macho::CsSlot, &[u8])],
) -> anyhow::Result<bool> {
    let is_cut = || anyhow!("its list of hashes is cut short");
    let head = directory.read_at::<macho::CsCodeDirectoryV0>(0).map_err(|()| is_cut())?;
    ensure!(head.magic.get(BigEndian) == macho::CSMAGIC_CODEDIRECTORY, "its list of hashes does not begin as one");
    let kind = head.hash_type;
    // Only very old systems look at these, which may stand beside others.
    if kind == macho::CS_HASHTYPE_SHA1 {
        return Ok(false);
    }
    let size = usize::from(head.hash_size);
    let (from, slots) = (head.hash_offset.get(BigEndian) as usize, head.n_code_slots.get(BigEndian) as usize);
    let told = |at: Option<usize>| at.and_then(|at| directory.get(at..)?.get(..size)).with_context(is_cut);
    let limit = limit(directory, head);
    ensure!(limit == end, "it is for {limit} bytes, and {end} lie before it");
    let page = match head.page_size {
        0 => end.max(1),
        bits @ 1..=30 => 1 << bits,
        bits => bail!("its pages are of 2^{bits} bytes"),
    };
    ensure!(end.div_ceil(page) == slots as u64, "it has {slots} hashes for {} pages", end.div_ceil(page));
    let mut code = bytes.between(0, end).with_context(is_cut)?;
    for number in 0..slots {
        let told = told(number.checked_mul(size).and_then(|at| at.checked_add(from)))?;
        let is_right = told == hash(kind, size, code.by_ref().take(page))?;
        ensure!(is_right, "the page at byte {} is not what it was when it was signed", number as u64 * page);
    }
    let specials = head.n_special_slots.get(BigEndian);
    for (slot, blob) in blobs.iter().filter(|(slot, _)| (1..=specials).contains(&slot.0)) {
        let at = (slot.0 as usize).checked_mul(size).and_then(|before| from.checked_sub(before));
        ensure!(told(at)? == hash(kind, size, *blob)?, "its own part {} is not what it was when it was signed", slot.0);
    }
    Ok(true)
}

/// Where the code ends that a list of hashes is of.
fn limit(directory: &[u8], head: &macho::CsCodeDirectoryV0) -> u64 {
    let before = size_of::<(macho::CsCodeDirectoryV0, macho::CsCodeDirectoryV1, macho::CsCodeDirectoryV2)>() as u64;
    let is_long = head.version.get(BigEndian).0 >= macho::CS_SUPPORTSCODELIMIT64.0;
    let long = directory.read_at::<macho::CsCodeDirectoryV3>(before).map(|part| part.code_limit64.get(BigEndian));
    match long {
        Ok(long) if is_long && long != 0 => long,
        _ => u64::from(head.code_limit.get(BigEndian)),
    }
}

fn hash(kind: macho::CsHashType, size: usize, bytes: impl Read) -> anyhow::Result<Vec<u8>> {
    let (mut hash, long) = match kind {
        macho::CS_HASHTYPE_SHA256 => (digest::<Sha256>(bytes)?, 32),
        macho::CS_HASHTYPE_SHA256_TRUNCATED => (digest::<Sha256>(bytes)?, 20),
        macho::CS_HASHTYPE_SHA384 => (digest::<Sha384>(bytes)?, 48),
        other => bail!("its hashes are of the unknown kind {}", other.0),
    };
    ensure!(size == long, "its hashes have {size} bytes, and should have {long}");
    hash.truncate(long);
    Ok(hash)
}

fn digest<D: Digest>(mut bytes: impl Read) -> anyhow::Result<Vec<u8>> {
    let (mut hash, mut buffer) = (D::new(), [0; 4096]);
    loop {
        match bytes.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            count => hash.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
pub mod tests;
