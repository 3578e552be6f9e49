//! Programs for macOS, made on the spot and signed as linkers do; each byte of them counts.

use super::*;

/// A page of a signature's, in bytes.
const PAGE: usize = 4096;

/// A program to be: by default a good one for Apple's processors.
#[derive(Clone, Copy)]
pub struct Made<'a> {
    pub is_arm: bool,
    pub role: Role,
    pub needed: &'a [&'a str],
    pub rpaths: &'a [&'a str],
    /// The system in its own numbers, and its version.
    pub platform: u32,
    pub minos: [u32; 2],
    pub signed: bool,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Self {
            is_arm: true,
            role: Role::Program,
            needed: &["/usr/lib/libSystem.B.dylib"],
            rpaths: &[],
            platform: 1,
            minos: [11, 0],
            signed: true,
        }
    }
}

fn le(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn be(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

impl Made<'_> {
    /// Its file: commands, two and a half pages that stand for code, the signature.
    pub fn file(&self) -> Vec<u8> {
        let command = |kind: u32, numbers: &[u32], text: &str| {
            let mut body = [le(numbers), text.as_bytes().to_vec()].concat();
            body.resize(body.len().next_multiple_of(8) + if text.is_empty() { 0 } else { 8 }, 0);
            [le(&[kind, body.len() as u32 + 8]), body].concat()
        };
        let mut commands: Vec<Vec<u8>> = self.needed.iter().map(|name| command(0xc, &[24, 0, 0, 0], name)).collect();
        commands.extend(self.rpaths.iter().map(|path| command(0x8000_001c, &[12], path)));
        let version = self.minos[0] << 16 | self.minos[1] << 8;
        commands.push(command(0x32, &[self.platform, version, version, 0], ""));
        if self.role == Role::Program {
            commands.push(command(0xe, &[12], "/usr/lib/dyld"));
        }
        let end = 2 * PAGE + PAGE / 2;
        if self.signed {
            commands.push(command(0x1d, &[end as u32, signature(&vec![0; end]).len() as u32], ""));
        }
        let (count, commands) = (commands.len() as u32, commands.concat());
        let processor = if self.is_arm { 0x0100_000c } else { 0x0100_0007 };
        let role = match self.role {
            Role::Program => 2,
            Role::Library => 6,
            Role::Other => 1,
        };
        let head = le(&[0xfeed_facf, processor, 0, role, count, commands.len() as u32, 0, 0]);
        let mut file = [head, commands].concat();
        assert!(file.len() < end);
        file.resize(end, 0x1f);
        if self.signed {
            let signature = signature(&file);
            file.extend(signature);
        }
        file
    }
}

/// The signature of this code, as of nobody: a list of hashes, and no demands.
fn signature(code: &[u8]) -> Vec<u8> {
    let demands = be(&[macho::CSMAGIC_REQUIREMENTS, 12, 0]);
    let name = b"thing\0";
    let hashes: Vec<u8> = code.chunks(PAGE).flat_map(|page| Sha256::digest(page).to_vec()).collect();
    // Before those of the pages the hash of the demands, and behind that, of what is not there, none.
    let special = [Sha256::digest(&demands).to_vec(), vec![0; 32]].concat();
    let (begin, pages) = (44 + name.len(), code.len().div_ceil(PAGE));
    let length = begin + special.len() + hashes.len();
    let head = be(&[
        macho::CSMAGIC_CODEDIRECTORY,
        length as u32,
        0x20001,
        2,
        (begin + special.len()) as u32,
        44,
        2,
        pages as u32,
        code.len() as u32,
        u32::from_be_bytes([32, 2, 0, 12]),
        0,
    ]);
    let directory = [head, name.to_vec(), special, hashes].concat();
    assert_eq!(directory.len(), length);
    let (first, second) = (28, 28 + directory.len());
    let all = second + demands.len();
    let head = be(&[macho::CSMAGIC_EMBEDDED_SIGNATURE, all as u32, 2, 0, first, 2, second as u32]);
    [head, directory, demands].concat()
}

/// One file of several.
pub fn fat(files: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = be(&[0xcafe_babe, files.len() as u32]);
    for (at, file) in files.iter().enumerate() {
        let processor = u32::from_le_bytes(*file[4..].first_chunk().unwrap());
        let from = (1 + files[..at].iter().map(|file| file.len().div_ceil(PAGE)).sum::<usize>()) * PAGE;
        whole.extend(be(&[processor, 0, from as u32, file.len() as u32, 12]));
    }
    for file in files {
        whole.resize(whole.len().next_multiple_of(PAGE), 0);
        whole.extend(file);
    }
    whole
}

fn images(file: &[u8]) -> anyhow::Result<Vec<Image>> {
    super::images(std::io::Cursor::new(file))
}

/// The one image of a file.
fn only(file: &[u8]) -> Image {
    let images = images(file).unwrap();
    assert_eq!(images.len(), 1);
    images.into_iter().next().unwrap()
}

#[test]
fn what_an_image_is_and_wants_is_read() {
    let image = only(&Made { rpaths: &["@loader_path/../lib"], ..Made::default() }.file());
    let wanted = Image {
        arch: "aarch64".into(),
        role: Role::Program,
        loader: Some("/usr/lib/dyld".into()),
        name: None,
        needed: vec!["/usr/lib/libSystem.B.dylib".into()],
        rpaths: vec!["@loader_path/../lib".into()],
        system: System::MacOs([11, 0]),
        signature: Signature::Good,
    };
    assert_eq!(image, wanted);
    let phone = only(&Made { platform: 2, signed: false, role: Role::Library, ..Made::default() }.file());
    assert_eq!((phone.system, phone.signature, phone.role), (System::Other("iOS".into()), Signature::None, Role::Library));
}

#[test]
fn a_file_for_several_processors_has_an_image_of_each() {
    let (arm, intel) = (Made::default().file(), Made { is_arm: false, ..Made::default() }.file());
    let both = images(&fat(&[arm, intel])).unwrap();
    let said: Vec<_> = both.iter().map(|image| (image.arch.as_str(), image.signature.clone())).collect();
    assert_eq!(said, [("aarch64", Signature::Good), ("x86_64", Signature::Good)]);
    // One that holds itself, and one that holds nothing.
    let mut own = fat(&[Made::default().file()]);
    own[16..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0x20, 0]);
    assert!(images(&own).is_err());
    assert!(images(&[0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0]).is_err());
    // Java's classes have a version where the number of images is.
    assert!(!is_mach_o(&[0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 52]) && is_mach_o(&own));
}

#[test]
fn any_changed_byte_under_a_signature_is_seen_and_so_is_one_of_its_own() {
    let file = Made::default().file();
    let end = 2 * PAGE + PAGE / 2;
    let why = |at: usize| {
        let mut changed = file.clone();
        changed[at] ^= 1;
        match only(&changed).signature {
            Signature::Bad(why) => why,
            other => panic!("byte {at}: {other:?}"),
        }
    };
    assert_eq!(why(PAGE - 1), "the page at byte 0 is not what it was when it was signed");
    assert_eq!(why(PAGE), "the page at byte 4096 is not what it was when it was signed");
    assert_eq!(why(end - 1), "the page at byte 8192 is not what it was when it was signed");
    // The signature: its beginning, that of its list of hashes, where that ends, a hash, its demands.
    assert_eq!(why(end), "it does not begin as one");
    assert_eq!(why(end + 28), "its list of hashes does not begin as one");
    assert_eq!(why(end + 28 + 35), format!("it is for {} bytes, and {end} lie before it", end + 1));
    assert_eq!(why(end + 28 + 44 + 6 + 64), "the page at byte 0 is not what it was when it was signed");
    assert_eq!(why(file.len() - 1), "its own part 2 is not what it was when it was signed");
    // Of SHA-1 alone.
    let mut old = file.clone();
    old[end + 28 + 37] = 1;
    assert_eq!(only(&old).signature, Signature::Bad("it has no hashes of a kind that today's systems take".into()));
}

#[test]
fn whatever_bytes_there_are_reading_ends() {
    let file = Made { rpaths: &["@loader_path"], ..Made::default() }.file();
    let end = 2 * PAGE + PAGE / 2;
    for cut in (8..400).chain(end..file.len()) {
        let _ = images(&file[..cut]);
    }
    for at in (8..400).chain(end..file.len()) {
        for byte in [0, 0x7f, 0xff] {
            let mut broken = file.clone();
            broken[at] = byte;
            let _ = images(&broken);
        }
    }
    assert!(images(&file[..40]).is_err());
    assert!(matches!(only(&file[..file.len() - 1]).signature, Signature::Bad(why) if why == "it is cut short"));
}
