//! Writes the staged tree as a compressed tar: `.tar.gz`, `.tar.xz` or `.tar.zst`.
//!
//! Promises: the same tree gives the same bytes, on any machine and with any number of cores: entries sorted by the
//! bytes of their names, owners 0 and nameless, one time for all, modes 0755 or 0644. Any tar reads it. The archive
//! appears whole or not at all, and its `.sha256` (for `sha256sum -c`) beside it. A file that changes while it is read is
//! an error. Memory is bounded, whatever the tree's size and however many cores there are: see [`work`].
//!
//! A signature of the bundle's manifest is the last entry. [`add_signature`] puts one into a whole archive: all else stays as it
//! is, byte for byte, and the result is what [`write`] would have made of the tree with its signature.
//!
//! How: the tar stream is cut into blocks ([`blocks`]), each compressed by itself ([`format`](mod@format)), on all cores ([`work`]). What
//! did not change since the last archive is taken from its cache ([`cache`]), where it is still whole.

use crate::error::{Kind, WithKind as _};
use std::path::{Path, PathBuf};

mod add;
mod blocks;
mod cache;
pub mod content;
mod format;
mod output;
pub mod read;
pub mod strict;
#[cfg(test)]
mod tests;
mod tree;
mod work;

pub use add::add_signature;
pub use format::Format;
pub use output::{SIGNATURE, adopt};

use cache::Cache;
use output::Output;
use tree::Entry;
use work::Work;

/// How to write.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The form of the archive.
    pub format: Format,
    /// The time of every entry, in seconds since 1970.
    pub mtime: u64,
    /// Cores to use. Changes nothing in the archive.
    pub jobs: usize,
    /// A folder where compressed blocks are kept for the next run. Made when missing, and never larger than about
    /// twice the archives.
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
    /// Entries of the cache that were damaged; they were thrown away and their blocks compressed again.
    pub damaged: Vec<PathBuf>,
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
    let entries = tree::list(tree, prefix)?;
    let blocks = blocks::plan(&entries);
    let cache = options.cache.map(|folder| Cache::open(folder, options.format)).transpose()?;
    let mut output = Output::new(target)?;
    let work = Work { entries: &entries, blocks: &blocks, cache: cache.as_ref(), format: options.format, mtime: options.mtime };
    let reused = work.run(options.jobs.max(1), &mut output)?;
    let (bytes, sha256) = output.finish(target)?;
    let damaged = cache.map(|cache| cache.tidy(bytes)).unwrap_or_default();
    let sizes = entries.iter().filter_map(Entry::size);
    let (content, files) = (sizes.clone().sum(), sizes.count() as u64);
    Ok(Summary { bytes, content, files, blocks: blocks.len(), reused, damaged, sha256 })
}
