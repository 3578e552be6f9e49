//! Compressed blocks of the last archives, by the hash of what they hold; a folder for each form.
//!
//! Nothing depends on it: a block that is missing, damaged or cannot be written is compressed again. An entry is the
//! SHA-256 of the compressed block, then the block; the key covers the plain block and how it was compressed.

use super::Format;
use crate::fingerprint::hex;
use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// However small the archive is, so much may be kept, in bytes.
const KEEP_AT_LEAST: u64 = 64 * 1024 * 1024;

/// How the name of an entry ends that is not whole yet.
const UNFINISHED: &str = ".part";

/// The cache's folder, and what this run took from it or put there.
pub(super) struct Cache {
    folder: PathBuf,
    making: String,
    used: Mutex<BTreeSet<String>>,
    damaged: Mutex<Vec<PathBuf>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    pub(super) fn open(folder: &Path, format: Format) -> anyhow::Result<Self> {
        let folder = folder.join(format.to_string());
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, making: format.making(), used: Mutex::default(), damaged: Mutex::default() })
    }

    /// The name of a plain block.
    pub(super) fn key(&self, plain: &[u8]) -> String {
        let mut hasher = Sha256::new();
        hasher.update(format!("dkumonitor archive block, {}\n", self.making));
        hasher.update(plain);
        hex(&hasher.finalize())
    }

    /// Puts the compressed block into `packed`, if it is there and whole. A damaged one is noted and removed.
    pub(super) fn get(&self, key: &str, packed: &mut Vec<u8>) -> bool {
        let path = self.folder.join(key);
        packed.clear();
        let Ok(mut file) = File::open(&path) else { return false };
        let mut sum = [0; 32];
        let whole = file.read_exact(&mut sum).and_then(|()| file.read_to_end(packed)).is_ok()
            && Sha256::digest(packed.as_slice()).as_slice() == sum;
        if whole {
            locked(&self.used).insert(key.to_owned());
        } else {
            // What cannot be removed is overwritten, or named again by the next run.
            let _ = std::fs::remove_file(&path);
            locked(&self.damaged).push(path);
        }
        whole
    }

    /// Keeps a compressed block. Failing, on a full disk say, costs only time in the next run.
    pub(super) fn put(&self, key: &str, packed: &[u8]) {
        let beside = self.folder.join(format!("{key}{UNFINISHED}"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&beside)?;
            file.write_all(&Sha256::digest(packed))?;
            file.write_all(packed)?;
            std::fs::rename(&beside, self.folder.join(key))
        };
        match write() {
            Ok(()) => drop(locked(&self.used).insert(key.to_owned())),
            // Half a file must not stay on a full disk.
            Err(_) => drop(std::fs::remove_file(&beside)),
        }
    }

    /// Throws away what killed runs left, then the oldest blocks that this run did not use, until all are no more than
    /// twice the archive's bytes. Gives the entries that were found damaged.
    pub(super) fn tidy(self, archive: u64) -> Vec<PathBuf> {
        let damaged = self.damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        let used = self.used.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Ok(entries) = self.folder.read_dir() else { return damaged };
        let mut total = 0;
        let mut unused: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let Ok(data) = entry.metadata() else { continue };
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(UNFINISHED) && std::fs::remove_file(entry.path()).is_ok() {
                continue;
            }
            total += data.len();
            if !used.contains(name.as_ref()) {
                unused.push((data.modified().unwrap_or(SystemTime::UNIX_EPOCH), data.len(), entry.path()));
            }
        }
        unused.sort();
        for (_, length, path) in unused {
            if total <= archive.saturating_mul(2).max(KEEP_AT_LEAST) {
                break;
            }
            if std::fs::remove_file(path).is_ok() {
                total = total.saturating_sub(length);
            }
        }
        damaged
    }
}
