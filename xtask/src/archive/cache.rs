//! Compressed blocks of the last archives, by the hash of what they hold.
//!
//! Nothing depends on it: a block that is missing, damaged or cannot be written is compressed again. An entry is the
//! CRC-32 of the gzip member, then the member; the key covers the plain block and the level.

use super::crc32;
use crate::fingerprint::hex;
use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// To be changed whenever the same plain block would give other bytes, as by another version of libdeflate.
const FORMAT: &str = "dkumonitor archive block, libdeflate 1.26, level ";

/// However small the archive is, so much may be kept, in bytes.
const KEEP_AT_LEAST: u64 = 64 * 1024 * 1024;

/// The cache's folder, and what this run took from it or put there.
pub(super) struct Cache {
    folder: PathBuf,
    level: i32,
    used: Mutex<BTreeSet<String>>,
}

impl Cache {
    pub(super) fn open(folder: &Path, level: i32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), level, used: Mutex::new(BTreeSet::new()) })
    }

    /// The name of a plain block.
    pub(super) fn key(&self, plain: &[u8]) -> String {
        let mut hasher = Sha256::new();
        hasher.update(format!("{FORMAT}{}\n", self.level));
        hasher.update(plain);
        hex(&hasher.finalize())
    }

    fn note(&self, key: &str) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
    }

    /// The compressed block, if it is there and whole.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.folder.join(key)).ok()?;
        let sum = u32::from_le_bytes(*bytes.first_chunk()?);
        if crc32(&bytes[4..]) != sum {
            return None;
        }
        bytes.drain(..4);
        self.note(key);
        Some(bytes)
    }

    /// Keeps a compressed block. Failing, on a full disk say, costs only time in the next run.
    pub(super) fn put(&self, key: &str, member: &[u8]) {
        let beside = self.folder.join(format!("{key}.part"));
        let bytes = [&crc32(member).to_le_bytes(), member].concat();
        let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, self.folder.join(key)));
        match written {
            Ok(()) => self.note(key),
            // Half a file must not stay on a full disk.
            Err(_) => drop(std::fs::remove_file(&beside)),
        }
    }

    /// Throws away the oldest blocks that this run did not use, until all are no more than twice the archive's bytes.
    pub(super) fn prune(self, archive: u64) {
        let Ok(entries) = self.folder.read_dir() else { return };
        let used = self.used.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut unused: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let Ok(data) = entry.metadata() else { continue };
            total += data.len();
            if !used.contains(entry.file_name().to_string_lossy().as_ref()) {
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
    }
}
