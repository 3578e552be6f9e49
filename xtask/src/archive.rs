//! Writes the staged tree as a `.tar.gz`.
//!
//! Promises: the same tree gives the same bytes, on any machine and with any number of cores: entries sorted by the
//! bytes of their names, owners 0 and nameless, one time for all, modes 0755 or 0644. Any tar reads it. The archive
//! appears whole or not at all, and its `.sha256` (for `sha256sum -c`) beside it. A file that changes while it is read is
//! an error. Memory is bounded, whatever the tree's size.
//!
//! How: the tar stream is cut into blocks, each compressed by libdeflate into a gzip member of its own; members one after
//! the other are a valid gzip file (RFC 1952, 2.2). Where to cut is decided from names and sizes alone, never by what
//! came long before: before every large file and behind it, else where a name's hash says so. So a change somewhere
//! leaves the blocks elsewhere as they were, and their compressed form is taken from the cache of the last run.

use crate::error::{Kind, WithKind as _};
use crate::fingerprint::hex;
use anyhow::Context as _;
use libdeflater::{CompressionLvl, Compressor, Crc};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};

mod cache;
#[cfg(test)]
mod tests;

use cache::Cache;

/// The compression level for [`Options::level`]: libdeflate's 6 is smaller than gzip's 6 in a fraction of its time.
pub const LEVEL: i32 = 6;

/// No block is longer, in bytes. Blocks start without the 32 KiB that deflate may look back on, so they should be
/// many times that; and each core holds one.
const LARGEST: u64 = 2 * 1024 * 1024;

/// A block is not ended by a name before it is so long, in bytes.
const SMALLEST: u64 = 256 * 1024;

/// The mean distance of names that may end a block, in bytes. Well above [`SMALLEST`], so that two runs that cut
/// differently because of a change soon meet at the same name again.
const TARGET: u64 = 1024 * 1024;

/// A file of this size or more has blocks of its own.
const LARGE_FILE: u64 = LARGEST / 2;

/// Tar's unit.
const RECORD: usize = 512;

/// How many finished blocks per core may wait for a slow one before them.
const AHEAD: usize = 4;

/// How to write.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The time of every entry, in seconds since 1970.
    pub mtime: u64,
    /// Cores to use. Changes nothing in the archive.
    pub jobs: usize,
    /// libdeflate's level, 1 to 12, see [`LEVEL`].
    pub level: i32,
    /// A folder where compressed blocks are kept for the next run. Made when missing, and never larger than about
    /// twice the archive.
    pub cache: Option<&'a Path>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Size of the archive in bytes.
    pub bytes: u64,
    /// Size of all regular files in bytes.
    pub content: u64,
    /// Regular files.
    pub files: u64,
    /// Blocks that the archive has.
    pub blocks: usize,
    /// Blocks that were taken from the cache.
    pub reused: usize,
    /// SHA-256 of the archive, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// Writes what is in `tree` as `target`, every name below `prefix/`, and `target` with `.sha256` added beside it.
///
/// # Errors
/// [`Kind::Archive`] when the tree cannot be read, changes meanwhile or holds what an archive cannot (a socket), or
/// when the archive cannot be written; an older `target` is then untouched, and nothing else is left.
pub fn write(tree: &Path, prefix: &str, target: &Path, options: &Options<'_>) -> anyhow::Result<Summary> {
    write_all(tree, prefix, target, options).kind(Kind::Archive, || format!("cannot write the archive {}", target.display()))
}

fn write_all(tree: &Path, prefix: &str, target: &Path, options: &Options<'_>) -> anyhow::Result<Summary> {
    let entries = list(tree, prefix)?;
    let blocks = plan(&entries);
    let cache = options.cache.map(|folder| Cache::open(folder, options.level)).transpose()?;
    let level =
        CompressionLvl::new(options.level).map_err(|_| anyhow::anyhow!("there is no compression level {}", options.level))?;
    let mut output = Output::new(target)?;
    let work = Work { entries: &entries, blocks: &blocks, cache: cache.as_ref(), level, mtime: options.mtime };
    let reused = work.run(options.jobs.max(1), &mut output)?;
    let (bytes, sha256) = output.finish(target)?;
    if let Some(cache) = cache {
        cache.prune(bytes);
    }
    let sizes = entries.iter().filter_map(Entry::size);
    Ok(Summary { bytes, content: sizes.clone().sum(), files: sizes.count() as u64, blocks: blocks.len(), reused, sha256 })
}

/// What tells that a file is still the one that was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(data: &std::fs::Metadata) -> Self {
        Self { inode: data.ino(), size: data.len(), modified: (data.mtime(), data.mtime_nsec()) }
    }
}

/// What an entry of the tree is.
#[derive(Debug)]
enum What {
    Folder,
    Link(Vec<u8>),
    File { stamp: Stamp, executable: bool },
}

/// One entry of the tree.
#[derive(Debug)]
struct Entry {
    /// Its name in the archive; that of a folder ends in a slash.
    name: Vec<u8>,
    path: PathBuf,
    what: What,
}

impl Entry {
    /// The size of a regular file.
    fn size(&self) -> Option<u64> {
        match &self.what {
            What::File { stamp, .. } => Some(stamp.size),
            _ => None,
        }
    }

    /// The header records: one, and two more for each name that is too long for it (GNU's form, which every tar knows).
    fn header(&self, mtime: u64) -> Vec<u8> {
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
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(RECORD), 0);
}

/// Lists the tree, the top folder included, sorted by the bytes of the names.
fn list(tree: &Path, prefix: &str) -> anyhow::Result<Vec<Entry>> {
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
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// A part of an entry: its header if it begins at 0, so many bytes of its content, and the padding if it ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    entry: usize,
    from: u64,
    length: u64,
}

/// Cuts the tar stream into blocks.
fn plan(entries: &[Entry]) -> Vec<Vec<Piece>> {
    let mut blocks = Vec::new();
    let mut block: Vec<Piece> = Vec::new();
    let mut length = 0;
    for (index, entry) in entries.iter().enumerate() {
        let size = entry.size().unwrap_or(0);
        let whole = size + 2 * RECORD as u64;
        let ends = length >= SMALLEST && may_end_before(&entry.name, whole);
        if !block.is_empty() && (size >= LARGE_FILE || length + whole > LARGEST || ends) {
            blocks.push(std::mem::take(&mut block));
            length = 0;
        }
        if size < LARGE_FILE {
            block.push(Piece { entry: index, from: 0, length: size });
            length += whole;
            continue;
        }
        let starts = (0..size).step_by(LARGEST as usize);
        blocks.extend(starts.map(|from| vec![Piece { entry: index, from, length: LARGEST.min(size - from) }]));
    }
    // The last one takes the end mark, and may be empty but for that.
    blocks.push(block);
    blocks
}

/// Whether a block may end before this entry of `whole` bytes: its name's hash (FNV-1a) decides, and the larger the entry,
/// the likelier, so that the distance does not depend on how large the files are.
fn may_end_before(name: &[u8], whole: u64) -> bool {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    // The hash's last bytes mix poorly into its upper bits; one more turn mends that.
    let mixed = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    u64::from(mixed ^ (mixed >> 13)) * TARGET < whole << 32
}

/// All that the threads share.
struct Work<'a> {
    entries: &'a [Entry],
    blocks: &'a [Vec<Piece>],
    cache: Option<&'a Cache>,
    level: CompressionLvl,
    mtime: u64,
}

/// How far the writing thread has come, for those that run ahead.
#[derive(Default)]
struct Pace {
    /// Blocks written; or more than there are, when no more are wanted.
    written: Mutex<usize>,
    moved: Condvar,
}

impl Pace {
    fn set(&self, written: usize) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = written;
        self.moved.notify_all();
    }

    /// Waits until block `index` may be worked on; says whether it is wanted at all.
    fn wait(&self, index: usize, ahead: usize) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        while index >= written.saturating_add(ahead) {
            written = self.moved.wait(written).unwrap_or_else(PoisonError::into_inner);
        }
        *written != usize::MAX
    }
}

/// A compressed block, and whether the cache had it.
type Member = anyhow::Result<(Vec<u8>, bool)>;

impl Work<'_> {
    /// Makes all blocks with `jobs` threads and writes them in order; gives how many the cache had.
    fn run(&self, jobs: usize, output: &mut Output) -> anyhow::Result<usize> {
        let (next, pace) = (AtomicUsize::new(0), Pace::default());
        std::thread::scope(|scope| {
            let (send, members) = channel();
            for _ in 0..jobs.min(self.blocks.len()) {
                let (send, next, pace) = (send.clone(), &next, &pace);
                scope.spawn(move || self.make_blocks(next, pace, jobs * AHEAD, &send));
            }
            drop(send);
            let mut waiting: BTreeMap<usize, Member> = BTreeMap::new();
            let (mut written, mut reused) = (0, 0);
            let result = members.into_iter().try_for_each(|(index, member)| {
                waiting.insert(index, member);
                while let Some(member) = waiting.remove(&written) {
                    let (bytes, cached) = member?;
                    output.add(&bytes)?;
                    reused += usize::from(cached);
                    written += 1;
                    pace.set(written);
                }
                Ok(())
            });
            // Wakes and ends those that still wait.
            pace.set(usize::MAX);
            result.map(|()| reused)
        })
    }

    /// One thread's work: whatever block is next, until there is none.
    fn make_blocks(&self, next: &AtomicUsize, pace: &Pace, ahead: usize, send: &Sender<(usize, Member)>) {
        let mut compressor = Compressor::new(self.level);
        let mut plain = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.blocks.len() || !pace.wait(index, ahead) {
                return;
            }
            let member = self.member(index, &mut plain, &mut compressor);
            if send.send((index, member)).is_err() {
                return;
            }
        }
    }

    fn member(&self, index: usize, plain: &mut Vec<u8>, compressor: &mut Compressor) -> Member {
        plain.clear();
        for piece in &self.blocks[index] {
            self.add_piece(piece, plain)?;
        }
        if index + 1 == self.blocks.len() {
            // Two empty records end a tar.
            plain.resize(plain.len() + 2 * RECORD, 0);
        }
        let key = self.cache.map(|cache| cache.key(plain));
        if let (Some(cache), Some(key)) = (self.cache, &key)
            && let Some(bytes) = cache.get(key)
        {
            return Ok((bytes, true));
        }
        let mut bytes = vec![0; compressor.gzip_compress_bound(plain.len())];
        let count =
            compressor.gzip_compress(plain, &mut bytes).map_err(|error| anyhow::anyhow!("cannot compress: {error:?}"))?;
        bytes.truncate(count);
        if let (Some(cache), Some(key)) = (self.cache, &key) {
            cache.put(key, &bytes);
        }
        Ok((bytes, false))
    }

    /// Adds a piece of an entry to the plain block.
    fn add_piece(&self, piece: &Piece, plain: &mut Vec<u8>) -> anyhow::Result<()> {
        let entry = &self.entries[piece.entry];
        if piece.from == 0 {
            plain.extend(entry.header(self.mtime));
        }
        let What::File { stamp, .. } = &entry.what else { return Ok(()) };
        let start = plain.len();
        read_piece(&entry.path, stamp, piece, plain).with_context(|| format!("cannot read {}", entry.path.display()))?;
        if piece.from + piece.length == stamp.size {
            let content = plain.len() - start;
            plain.resize(start + content.next_multiple_of(RECORD), 0);
        }
        Ok(())
    }
}

/// Reads a piece of a file, which must still be as it was when it was listed.
fn read_piece(path: &Path, stamp: &Stamp, piece: &Piece, plain: &mut Vec<u8>) -> io::Result<()> {
    let changed = || io::Error::other("it changed while the archive was written; is something still writing into the tree?");
    let mut file = File::open(path)?;
    if piece.from > 0 {
        file.seek(SeekFrom::Start(piece.from))?;
    }
    plain.reserve(usize::try_from(piece.length).map_err(io::Error::other)?);
    if (&mut file).take(piece.length).read_to_end(plain)? as u64 != piece.length {
        return Err(changed());
    }
    if Stamp::of(&file.metadata()?) == *stamp { Ok(()) } else { Err(changed()) }
}

/// The archive while it grows, beside its target; removed when dropped before it is whole.
struct Output {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
}

impl Output {
    fn new(target: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        // One name for all runs: what a killed one left is overwritten by the next.
        let path = target.with_added_extension("part");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, file, hasher: Sha256::new(), length: 0 })
    }

    fn add(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| self.full(&error))
    }

    fn full(&self, error: &io::Error) -> anyhow::Error {
        let way_out =
            if error.kind() == io::ErrorKind::StorageFull { "; make room there or choose another --dist-dir" } else { "" };
        anyhow::anyhow!("cannot write {}: {error}{way_out}", self.path.display())
    }

    /// Puts the archive and its checksum in place; gives size and checksum.
    fn finish(mut self, target: &Path) -> anyhow::Result<(u64, String)> {
        self.file.sync_all().map_err(|error| self.full(&error))?;
        let sha256 = hex(&std::mem::take(&mut self.hasher).finalize());
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let sums = target.with_added_extension("sha256");
        let sums_part = sums.with_added_extension("part");
        std::fs::write(&sums_part, format!("{sha256}  {name}\n")).map_err(|error| self.full(&error))?;
        // An old checksum must not stand beside a new archive, not even for an instant.
        match std::fs::remove_file(&sums) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", sums.display()));
            }
            _ => {}
        }
        for (from, to) in [(&self.path, target), (&sums_part, sums.as_path())] {
            std::fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
        }
        Ok((self.length, sha256))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Gone when the archive is in place.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// CRC-32 of some bytes.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
