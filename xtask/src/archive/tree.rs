//! What goes into an archive: the entries of a tree in their order, and their tar headers.

use anyhow::Context as _;
use dkumonitor_interface::manifest::SIGNATURE_NAME;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Tar's unit.
pub(super) const RECORD: usize = 512;

/// What tells that a file is still the one that was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
}

impl Stamp {
    fn of(data: &std::fs::Metadata) -> Self {
        Self { inode: data.ino(), size: data.len(), modified: (data.mtime(), data.mtime_nsec()) }
    }
}

/// What an entry of the tree is.
#[derive(Debug)]
pub(super) enum What {
    Folder,
    Link(Vec<u8>),
    File { stamp: Stamp, executable: bool },
}

/// One entry of the tree.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name in the archive; that of a folder ends in a slash.
    pub(super) name: Vec<u8>,
    pub(super) path: PathBuf,
    pub(super) what: What,
}

impl Entry {
    /// The size of a regular file.
    pub(super) fn size(&self) -> Option<u64> {
        match &self.what {
            What::File { stamp, .. } => Some(stamp.size),
            _ => None,
        }
    }

    /// Whether it is the signature of a bundle's manifest. It comes last and in a block of its own, so that it can be added to a
    /// whole archive without touching what is there.
    pub(super) fn is_signature(&self) -> bool {
        let inside = self.name.iter().position(|byte| *byte == b'/').map(|at| &self.name[at + 1..]);
        inside == Some(SIGNATURE_NAME.as_bytes())
    }

    /// The header records: one, and two more for each name that is too long for it (GNU's form, which every tar knows).
    pub(super) fn header(&self, mtime: u64) -> Vec<u8> {
        let (kind, mode, target): (_, _, &[u8]) = match &self.what {
            What::Folder => (tar::EntryType::Directory, 0o755, b""),
            What::Link(target) => (tar::EntryType::Symlink, 0o777, target),
            What::File { executable: true, .. } => (tar::EntryType::Regular, 0o755, b""),
            What::File { .. } => (tar::EntryType::Regular, 0o644, b""),
        };
        let mut header = plain_header(kind, mode, self.size().unwrap_or(0), mtime);
        let mut bytes = Vec::with_capacity(RECORD);
        let old = header.as_old_mut();
        // A field that is filled to the last byte has no end mark, which some tars do not like.
        for (long, field, text) in [(b'K', &mut old.linkname, target), (b'L', &mut old.name, self.name.as_slice())] {
            let fits = text.len() < field.len();
            if !fits {
                long_name(&mut bytes, long, text, mtime);
            }
            let count = text.len().min(field.len() - 1);
            field[..count].copy_from_slice(&text[..count]);
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes
    }
}

fn plain_header(kind: tar::EntryType, mode: u32, size: u64, mtime: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(mtime);
    header
}

/// Adds the records that give the next entry a long name (`L`) or link target (`K`).
fn long_name(bytes: &mut Vec<u8>, kind: u8, text: &[u8], mtime: u64) {
    let mut header = plain_header(tar::EntryType::new(kind), 0o644, text.len() as u64 + 1, mtime);
    let name = b"././@LongLink";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(text);
    bytes.push(0);
    pad(bytes);
}

/// Fills up the last record.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(RECORD), 0);
}

/// Lists the tree, the top folder included, sorted by the bytes of the names but for a signature, which is last.
pub(super) fn list(tree: &Path, prefix: &str) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in walkdir::WalkDir::new(tree).follow_links(false) {
        let entry = entry.with_context(|| format!("cannot read {}", tree.display()))?;
        let inside = entry.path().strip_prefix(tree).unwrap_or(Path::new(""));
        let mut name = prefix.as_bytes().to_vec();
        if !inside.as_os_str().is_empty() {
            name.push(b'/');
            name.extend_from_slice(inside.as_os_str().as_bytes());
        }
        let data = entry.path().symlink_metadata().with_context(|| format!("cannot read {}", entry.path().display()))?;
        let what = if data.is_dir() {
            name.push(b'/');
            What::Folder
        } else if data.is_symlink() {
            let target = entry.path().read_link().with_context(|| format!("cannot read {}", entry.path().display()))?;
            What::Link(target.as_os_str().as_bytes().to_vec())
        } else if data.is_file() {
            What::File { stamp: Stamp::of(&data), executable: data.mode() & 0o111 != 0 }
        } else {
            anyhow::bail!("{} is neither a file nor a folder nor a link", entry.path().display());
        };
        entries.push(Entry { name, path: entry.into_path(), what });
    }
    entries.sort_by(|a, b| (a.is_signature(), &a.name).cmp(&(b.is_signature(), &b.name)));
    Ok(entries)
}

/// Reads so many bytes of a file from `from` on; it must still be as it was when it was listed.
pub(super) fn read_part(path: &Path, stamp: &Stamp, from: u64, length: u64, plain: &mut Vec<u8>) -> io::Result<()> {
    let changed = || io::Error::other("it changed while the archive was written; is something still writing into the tree?");
    let mut file = File::open(path)?;
    if from > 0 {
        file.seek(SeekFrom::Start(from))?;
    }
    plain.reserve(usize::try_from(length).map_err(io::Error::other)?);
    if (&mut file).take(length).read_to_end(plain)? as u64 != length {
        return Err(changed());
    }
    if Stamp::of(&file.metadata()?) == *stamp { Ok(()) } else { Err(changed()) }
}
