//! Unpacks source archives: tar, plain or packed by gzip, bzip2 or xz.
//!
//! Promises: how an archive is packed is seen from its first bytes, not from its name. Nothing is ever written outside
//! the target, whatever the archive says: folders are opened one by one relative to each other and no link is followed
//! on the way, so even names that this module's checks misjudge (a file system without case, say) cannot lead out. What
//! a source archive has no business to hold (absolute names, `..`, links that lead out, devices, a name twice) is refused
//! by name. The target appears by one rename when everything is there, so a kill leaves no half tree behind. Modes and
//! times are kept, because make decides by times what to rebuild; owners are not, nor setuid, setgid, sticky and
//! write permission for everyone. Folders stay usable by their owner. Memory grows with the number of folders and links
//! alone, and no archive may unpack to far more than sources do ([`Limits`]).
//!
//! Left to others: whether the archive is the pinned one ([`crate::fetch`]).

use anyhow::Context as _;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

mod entry;
mod refused;
mod stream;
#[cfg(test)]
mod tests;
mod tree;

pub use stream::stream;

use refused::Refused;
use stream::{Allowance, Pieces, decompress};
use tree::Tree;

/// However small an archive is, it may unpack to so much, in bytes.
const ALWAYS_BYTES: u64 = 1024 * 1024 * 1024;

/// How many times an archive's own size it may unpack to. Sources stay below 20; a bomb of gzip reaches 1,000.
const GROWTH: u64 = 100;

/// However large an archive is, it unpacks to no more, in bytes.
const NEVER_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// No archive has more entries. The largest source trees known have half a million files.
const MAX_ENTRIES: u64 = 1_000_000;

/// How much an archive may unpack to: a bomb must not fill the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all files together.
    pub bytes: u64,
    /// Entries of any kind.
    pub entries: u64,
}

impl Limits {
    /// For an archive of this size in bytes.
    pub fn of_archive(size: u64) -> Self {
        let bytes = size.saturating_mul(GROWTH).clamp(ALWAYS_BYTES, NEVER_BYTES);
        Self { bytes, entries: MAX_ENTRIES }
    }

    /// Counts one more entry of so many bytes, or says why that is too much.
    fn take(&mut self, bytes: u64) -> Result<(), Refused> {
        let too =
            |what: String| Refused::Harm(format!("is one too many: the archive unpacks to more than {what}, like a bomb"));
        self.entries = self.entries.checked_sub(1).ok_or_else(|| too("a million entries".to_owned()))?;
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| too(format!("{GROWTH} times its own size")))?;
        Ok(())
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Regular files, hard links included.
    pub files: u64,
    /// Bytes in regular files.
    pub bytes: u64,
}

/// Unpacks `archive` into the folder `into`, which must not exist or be empty. Where everything stands in one top-level
/// folder, as in every source release, that folder becomes `into`; else `into` holds what the archive holds.
///
/// # Errors
/// [`Kind::Integrity`](crate::error::Kind::Integrity) when the archive is of no known kind, is cut short or damaged, or holds what would do harm; the
/// entry is named; also when it unpacks to far more than sources do. [`Kind::Preflight`](crate::error::Kind::Preflight) when the disk is full. Any other
/// error is the disk's. In every case `into` is left as it was.
pub fn unpack(archive: &Path, into: &Path) -> anyhow::Result<Unpacked> {
    let size = archive.metadata().with_context(|| format!("cannot read {}", archive.display()))?.len();
    unpack_within(archive, into, Limits::of_archive(size))
}

/// As [`unpack`], with limits of the caller's.
///
/// # Errors
/// Those of [`unpack`].
pub fn unpack_within(archive: &Path, into: &Path, limits: Limits) -> anyhow::Result<Unpacked> {
    let shown = archive.display();
    if into.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || into.is_file() {
        anyhow::bail!("cannot unpack {shown}: {} is there already and not empty; remove it", into.display());
    }
    let staging = Staging::new(into)?;
    let source = stream(archive)?;
    let (unpacked, top) = std::thread::scope(|scope| {
        let allowance = Allowance::default();
        let (pieces, emptied, reader) = Pieces::new(allowance.clone());
        scope.spawn(move || decompress(source, &pieces, &emptied));
        let mut tree = Tree::new(&staging.path, limits, allowance)?;
        let unpacked = tree.fill(reader).with_context(|| format!("cannot unpack {shown} into {}", into.display()))?;
        anyhow::Ok((unpacked, tree.single_top()))
    })?;
    staging.become_target(top.as_deref(), into)?;
    Ok(unpacked)
}

/// The folder beside the target where the tree grows; removed when dropped.
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn new(into: &Path) -> anyhow::Result<Self> {
        let mut name = into.file_name().with_context(|| format!("cannot unpack into {}", into.display()))?.to_owned();
        name.push(".unpacking");
        let path = into.with_file_name(name);
        // Left by a run that was killed.
        if path.symlink_metadata().is_ok() {
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    fn become_target(self, top: Option<&[u8]>, into: &Path) -> anyhow::Result<()> {
        let from = top.map_or_else(|| self.path.clone(), |top| self.path.join(OsStr::from_bytes(top)));
        // On unix a folder may replace an empty one.
        std::fs::rename(&from, into).with_context(|| format!("cannot rename {} to {}", from.display(), into.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone when it became the target; and when it cannot be removed, the next run tries again and says so.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
