//! What is in a work folder, written down so that it can be compared later without keeping it in memory: a folder of
//! `node_modules` has hundreds of thousands of files.
//!
//! Entries come in the order of a walk that sorts each folder by name. Compared by [`order`], so two scans can be merged
//! as they are read.

use anyhow::Context as _;
use std::cmp::Ordering;
use std::fs::{self, File, FileType};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fingerprint::Stamp;

/// What was changed so short a time before a scan could be changed again without its times telling.
const TICK: Duration = Duration::from_millis(20);

/// What is at a path. Sockets and pipes that a step leaves behind are nothing that a result could hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Link,
}

impl Kind {
    fn of(kind: FileType) -> Option<Self> {
        match kind {
            kind if kind.is_dir() => Some(Self::Folder),
            kind if kind.is_file() => Some(Self::File),
            kind if kind.is_symlink() => Some(Self::Link),
            _ => None,
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Relative to the folder that was scanned.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) stamp: Stamp,
}

impl Seen {
    /// Whether the same thing is there, untouched.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self.kind, other.kind) {
            // What else a folder's stamp holds says nothing that its entries do not say.
            (Kind::Folder, Kind::Folder) => (self.stamp.mode, self.stamp.mtime_ns) == (other.stamp.mode, other.stamp.mtime_ns),
            (one, two) => one == two && self.stamp == other.stamp,
        }
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let length = u32::try_from(self.path.len()).unwrap_or(u32::MAX);
        let kind = match self.kind {
            Kind::Folder => 0,
            Kind::File => 1,
            Kind::Link => 2,
        };
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&self.path)?;
        out.write_all(&[kind])?;
        out.write_all(&self.stamp.bytes())
    }

    /// The next entry of a scan; none at its end.
    fn read(from: &mut impl Read) -> std::io::Result<Option<Self>> {
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let mut path = vec![0; u32::from_le_bytes(length) as usize];
        from.read_exact(&mut path)?;
        let (mut kind, mut stamp) = ([0], [0; Stamp::BYTES]);
        from.read_exact(&mut kind)?;
        from.read_exact(&mut stamp)?;
        let kind = match kind[0] {
            0 => Kind::Folder,
            1 => Kind::File,
            _ => Kind::Link,
        };
        Ok(Some(Self { path, kind, stamp: Stamp::from_bytes(&stamp) }))
    }
}

/// The order of two paths in a scan: a folder comes before what is in it, and that before the folder's next neighbour.
pub(super) fn order(a: &[u8], b: &[u8]) -> Ordering {
    let plain = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(plain).cmp(b.iter().map(plain))
}

/// Writes down what is in `root`, as the file `into`.
///
/// # Errors
/// When something cannot be looked at, or the file not be written.
pub fn scan(root: &Path, into: &Path) -> anyhow::Result<()> {
    write(root, into, |_| Ok(()))
}

/// As [`scan`], and shows every entry as it is found.
pub(super) fn write(root: &Path, into: &Path, mut show: impl FnMut(&Seen) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let file = File::create(into).with_context(|| format!("cannot make {}", into.display()))?;
    let mut out = BufWriter::with_capacity(128 * 1024, file);
    let since = SystemTime::now().checked_sub(TICK).unwrap_or(UNIX_EPOCH);
    let since = since.duration_since(UNIX_EPOCH).map_or(0, |age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
    let mut enter = |seen: &mut Seen| -> anyhow::Result<()> {
        show(seen)?;
        if seen.stamp.ctime_ns >= since {
            seen.stamp.ctime_ns = 0;
        }
        seen.write(&mut out).with_context(|| format!("cannot write {}", into.display()))
    };
    walk(root, &mut Vec::new(), &mut enter)?;
    out.flush().with_context(|| format!("cannot write {}", into.display()))
}

/// Shows everything in the folder `root/inner`, sorted.
fn walk(root: &Path, inner: &mut Vec<u8>, show: &mut impl FnMut(&mut Seen) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let folder = root.join(std::ffi::OsStr::from_bytes(inner));
    let failed = || format!("cannot look into {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(failed)? {
        names.push(entry.with_context(failed)?.file_name().into_vec());
    }
    names.sort_unstable();
    let length = inner.len();
    for name in names {
        if length > 0 {
            inner.push(b'/');
        }
        inner.extend_from_slice(&name);
        let meta = root.join(std::ffi::OsStr::from_bytes(inner)).symlink_metadata().with_context(failed)?;
        if let Some(kind) = Kind::of(meta.file_type()) {
            show(&mut Seen { path: inner.clone(), kind, stamp: Stamp::of(&meta) })?;
            if kind == Kind::Folder {
                walk(root, inner, show)?;
            }
        }
        inner.truncate(length);
    }
    Ok(())
}

/// A scan that is read again, entry by entry.
pub(super) struct Reader {
    file: BufReader<File>,
    next: Option<Seen>,
}

impl Reader {
    /// # Errors
    /// When there is no such scan.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut file = BufReader::with_capacity(128 * 1024, file);
        let next = Seen::read(&mut file)?;
        Ok(Self { file, next })
    }

    /// The next entry, without taking it.
    pub(super) fn peek(&self) -> Option<&Seen> {
        self.next.as_ref()
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// When the scan cannot be read on.
    pub(super) fn take(&mut self) -> anyhow::Result<Option<Seen>> {
        let following = Seen::read(&mut self.file)?;
        Ok(std::mem::replace(&mut self.next, following))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_in_the_order_that_it_is_compared_by() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("the root");
        for name in ["a", "a-b", "a/b", "a/b-c", "a.b", "b"] {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join("file"), name).unwrap();
        }
        std::os::unix::fs::symlink("b", root.join("link")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
        let path = folder.path().join("scan");
        scan(&root, &path).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        let mut paths = Vec::new();
        while let Some(seen) = reader.take().unwrap() {
            paths.push(seen.path);
        }
        assert_eq!(paths.len(), 13);
        assert!(paths.is_sorted_by(|a, b| order(a, b) == Ordering::Less), "{paths:?}");
    }
}
