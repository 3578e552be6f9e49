//! The archive's file: grows beside its place, and is put there with its checksum when it is whole.

use crate::fingerprint::hex;
use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What is added to a file's name to name its signature.
pub const SIGNATURE: &str = "minisig";

/// The archive while it grows, beside its target; removed when dropped before it is whole.
pub(super) struct Output {
    path: PathBuf,
    sums_path: PathBuf,
    pub(super) file: File,
    hasher: Sha256,
    length: u64,
}

impl Output {
    pub(super) fn new(target: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        // One name for all runs: what a killed one left is overwritten by the next.
        let path = target.with_added_extension("part");
        let sums_path = sums(target).with_added_extension("part");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, sums_path, file, hasher: Sha256::new(), length: 0 })
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| full(&self.path, &error))
    }

    /// Puts the archive and its checksum in place; gives size and checksum.
    pub(super) fn finish(mut self, target: &Path) -> anyhow::Result<(u64, String)> {
        self.file.sync_all().map_err(|error| full(&self.path, &error))?;
        let sha256 = hex(&std::mem::take(&mut self.hasher).finalize());
        let write = || -> io::Result<()> {
            let mut file = File::create(&self.sums_path)?;
            file.write_all(sums_text(target, &sha256).as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| full(&self.sums_path, &error))?;
        // An old checksum or signature must not stand beside a new archive, not even for an instant.
        let sums = sums(target);
        for old in [&sums, &target.with_added_extension(SIGNATURE)] {
            match std::fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", old.display()));
                }
                _ => {}
            }
        }
        for (from, to) in [(&self.path, target), (&self.sums_path, sums.as_path())] {
            std::fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
        }
        // The renames are on disk only then; where a folder cannot be synced, nothing more can be done.
        let _ = target.parent().map(|folder| File::open(folder).and_then(|folder| folder.sync_all()));
        Ok((self.length, sha256))
    }
}

/// Puts what another program has made in place as `target`, with its checksum, as [`super::write`] does; gives both.
///
/// # Errors
/// When it cannot be read, or `target` not be written.
pub fn adopt(made: &Path, target: &Path) -> anyhow::Result<(u64, String)> {
    let mut output = Output::new(target)?;
    let mut file = File::open(made).with_context(|| format!("cannot read {}", made.display()))?;
    let mut piece = vec![0; 1024 * 1024];
    loop {
        match io::Read::read(&mut file, &mut piece)? {
            0 => return output.finish(target),
            count => output.add(&piece[..count])?,
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Gone when the archive is in place.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.sums_path);
    }
}

/// Names the file that could not be written, and the way out where the disk is full.
fn full(path: &Path, error: &io::Error) -> anyhow::Error {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let way_out = if full { "; make room there or choose another --dist-dir" } else { "" };
    anyhow::anyhow!("cannot write {}: {error}{way_out}", path.display())
}

/// Where an archive's checksum stands.
fn sums(target: &Path) -> PathBuf {
    target.with_added_extension("sha256")
}

/// The checksum as `sha256sum -c` reads it.
fn sums_text(target: &Path, sha256: &str) -> String {
    format!("{sha256}  {}\n", target.file_name().unwrap_or_default().to_string_lossy())
}
