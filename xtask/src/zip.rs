//! Members of zip archives, read one by one and checked by the sums that the archive has of them.
//!
//! Promises: nothing is written anywhere, and no member is read beyond the bound that the caller gives. Of an archive in a file
//! no more than its list is in memory. A name twice, a name that leads out and a member that is not as the archive says are
//! errors.

use anyhow::Context as _;
use rawzip::time::ZipDateTimeKind;
use rawzip::{
    CompressionMethod, FileReader, MAX_CENTRAL_DIRECTORY_RECORD_SIZE, ReaderAt, ZipArchive, ZipArchiveEntryWayfinder,
    ZipLocator,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _};

/// How much of a member is read at once.
const PIECE: usize = 64 * 1024;

/// Where an archive's bytes are.
enum Bytes<'a> {
    Memory(&'a [u8]),
    File(FileReader),
}

impl ReaderAt for Bytes<'_> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => <[u8] as ReaderAt>::read_at(bytes, into, offset),
            Self::File(file) => file.read_at(into, offset),
        }
    }
}

/// An archive, and where its members are.
pub struct Zip<'a> {
    archive: ZipArchive<Bytes<'a>>,
    members: BTreeMap<String, Member>,
    order: Vec<String>,
}

/// A member that is no folder.
#[derive(Clone)]
pub struct Member {
    at: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
    is_link: bool,
    time: ZipDateTimeKind,
}

impl Member {
    /// Whether it is a symbolic link, whose content is its target.
    pub fn is_link(&self) -> bool {
        self.is_link
    }

    /// The time that it carries, in words.
    pub fn time(&self) -> String {
        self.time.to_string()
    }
}

impl Zip<'static> {
    /// Reads the list of members of an archive in a file, which must stay as it is.
    ///
    /// # Errors
    /// When it cannot be read, is no zip, or its list is none that an honest program writes.
    pub fn of_file(file: File) -> anyhow::Result<Self> {
        let length = file.metadata()?.len();
        Self::of(Bytes::File(file.into()), length)
    }
}

impl<'a> Zip<'a> {
    /// Reads the list of members of an archive in memory.
    ///
    /// # Errors
    /// When it is no zip, or its list is none that an honest program writes.
    pub fn new(bytes: &'a [u8]) -> anyhow::Result<Self> {
        Self::of(Bytes::Memory(bytes), bytes.len() as u64)
    }

    fn of(bytes: Bytes<'a>, length: u64) -> anyhow::Result<Self> {
        let mut buffer = vec![0; MAX_CENTRAL_DIRECTORY_RECORD_SIZE];
        let archive = ZipLocator::new().locate_in_reader(bytes, &mut buffer, length).map_err(|(_, error)| error)?;
        let (mut members, mut order) = (BTreeMap::new(), Vec::new());
        let mut entries = archive.entries(&mut buffer);
        while let Some(entry) = entries.next_entry()? {
            let name = String::from_utf8_lossy(entry.file_path().as_ref()).into_owned();
            anyhow::ensure!(!leads_out(&name), "its member \"{}\" leads out of it", name.escape_debug());
            if entry.is_dir() {
                continue;
            }
            let (at, method, time) = (entry.wayfinder(), entry.compression_method(), entry.last_modified());
            let member = Member { at, method, is_link: entry.mode().is_symlink(), time };
            order.push(name.clone());
            anyhow::ensure!(members.insert(name.clone(), member).is_none(), "it holds \"{}\" twice", name.escape_debug());
        }
        Ok(Self { archive, members, order })
    }

    /// The members, by name.
    pub fn members(&self) -> &BTreeMap<String, Member> {
        &self.members
    }

    /// Their names, as they stand in its list.
    pub fn order(&self) -> &[String] {
        &self.order
    }

    /// The content of a member, at most so many bytes of it. The sum is that of the whole, so it is checked where the whole is read.
    ///
    /// # Errors
    /// When it is damaged, or packed in a way that is not known.
    pub fn read(&self, name: &str, most: u64) -> anyhow::Result<Vec<u8>> {
        let member = self.members.get(name).with_context(|| format!("it holds no {name}"))?;
        let mut content = Vec::new();
        let cannot = || format!("cannot unpack its member {name}");
        let entry = self.archive.get_entry(member.at).with_context(cannot)?;
        match member.method {
            CompressionMethod::STORE => entry.verifying_reader(entry.reader()).take(most).read_to_end(&mut content),
            CompressionMethod::DEFLATE => {
                let size = usize::try_from(member.at.compressed_size_hint()).map_or(PIECE, |size| size.clamp(1, PIECE));
                let packed = BufReader::with_capacity(size, entry.reader());
                let inflate = flate2::bufread::DeflateDecoder::new(packed);
                entry.verifying_reader(inflate).take(most).read_to_end(&mut content)
            }
            _ => anyhow::bail!("its member {name} is packed in a way that is not known"),
        }
        .with_context(cannot)?;
        Ok(content)
    }
}

fn leads_out(name: &str) -> bool {
    name.starts_with('/') || name.contains(['\0', '\\']) || name.split('/').any(|part| part == "..")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write as _;

    /// A zip of these.
    pub(crate) fn zip(members: &[(&str, &str)]) -> Vec<u8> {
        let mut zip = Vec::new();
        let mut archive = rawzip::ZipArchiveWriter::new(&mut zip);
        for (name, content) in members {
            let path = rawzip::path::EntryPath::verbatim(name.as_bytes().to_vec());
            let (mut entry, config) = archive.new_file(path).compression_method(CompressionMethod::DEFLATE).start().unwrap();
            let mut writer = config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default()));
            writer.write_all(content.as_bytes()).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            entry.finish(descriptor).unwrap();
        }
        archive.finish().unwrap();
        zip
    }

    #[test]
    fn members_are_what_was_packed_and_hostile_lists_are_refused() {
        let bytes = zip(&[("a/b.txt", "one"), ("c.txt", "two and three")]);
        let good = Zip::new(&bytes).unwrap();
        assert_eq!(good.members().keys().collect::<Vec<_>>(), ["a/b.txt", "c.txt"]);
        assert_eq!(good.read("a/b.txt", 100).unwrap(), b"one");
        assert_eq!(good.read("c.txt", 3).unwrap(), b"two");
        assert!(good.read("d.txt", 3).unwrap_err().to_string().contains("holds no d.txt"));
        // And of a file alike.
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let same = Zip::of_file(file).unwrap();
        assert_eq!(same.order(), good.order());
        assert_eq!((same.read("a/b.txt", 100).unwrap(), same.read("c.txt", 3).unwrap()), (b"one".to_vec(), b"two".to_vec()));
        let refused = |members: &[(&str, &str)]| Zip::new(&zip(members)).map(|_| ()).unwrap_err().to_string();
        assert!(refused(&[("a", "x"), ("a", "y")]).contains("\"a\" twice"));
        for name in ["../x", "/x", "a/../../x", "a\\x"] {
            assert!(refused(&[(name, "x")]).contains("leads out"), "{name}");
        }
        assert!(Zip::new(b"no zip at all").is_err());
        let mut damaged = bytes.clone();
        let at = damaged.windows(3).position(|part| part == b"a/b").unwrap() + "a/b.txt".len() + 1;
        damaged[at] ^= 0xff;
        let error = format!("{:#}", Zip::new(&damaged).unwrap().read("a/b.txt", 100).unwrap_err());
        assert!(error.contains("a/b.txt"), "{error}");
    }
}
