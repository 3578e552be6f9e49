//! Puts files where they belong: written beside, hashed on the way, renamed.

use super::index::File;
use crate::fingerprint::hex;
use crate::parallel;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tempfile::NamedTempFile;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// What files are called while they are written; a run that was killed may leave some.
pub const DRAFT: &str = ".draft-";

/// Copies `from` to `to`, if its content is the `expected` one; gives size and hash of what was read either way.
///
/// # Errors
/// When something cannot be read or written. `to` is then as it was.
pub fn copy(from: &Path, to: &Path, expected: Option<&File>, sync: bool) -> io::Result<File> {
    let mut source = fs::File::open(from)?;
    let mut draft = draft_for(to)?;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = source.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        hash.update(&chunk[..count]);
        draft.write_all(&chunk[..count])?;
        size += count as u64;
    }
    let found = File { size, sha256: hex(&hash.finalize()) };
    if expected.is_none_or(|expected| *expected == found) {
        finish(draft, to, sync)?;
    }
    Ok(found)
}

/// Writes a file, to disk before it gets its name.
///
/// # Errors
/// When it cannot be written. What was there before is then still there.
pub fn write(to: &Path, content: &[u8]) -> io::Result<File> {
    let mut draft = draft_for(to)?;
    draft.write_all(content)?;
    finish(draft, to, true)?;
    Ok(File { size: content.len() as u64, sha256: hex(&Sha256::digest(content)) })
}

fn draft_for(to: &Path) -> io::Result<NamedTempFile> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    tempfile::Builder::new().prefix(DRAFT).permissions(fs::Permissions::from_mode(0o644)).tempfile_in(folder)
}

fn finish(draft: NamedTempFile, to: &Path, sync: bool) -> io::Result<()> {
    if sync {
        draft.as_file().sync_all()?;
    }
    draft.persist(to).map_err(|error| error.error)?;
    if sync {
        // The rename itself is on disk only then; where a folder cannot be synced, nothing more can be done.
        let _ = to.parent().map(|folder| fs::File::open(folder).and_then(|folder| folder.sync_all()));
    }
    Ok(())
}

/// Does something for each item, on all cores.
///
/// # Errors
/// The first of them, by the items' order; interrupts are heeded between two items.
pub fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> anyhow::Result<R> + Sync) -> anyhow::Result<Vec<R>> {
    parallel::each_on(parallel::cores(), items, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_not_what_was_expected_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("deep/to"));
        fs::write(&from, "new").unwrap();
        let right = copy(&from, &to, None, true).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        fs::write(&from, "bad").unwrap();
        assert_ne!(copy(&from, &to, Some(&right), false).unwrap(), right);
        assert_eq!(fs::read(&to).unwrap(), b"new");
        assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1, "a draft was left");
    }
}
