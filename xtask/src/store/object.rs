//! Objects: content that nothing but its hash names.

use super::Store;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{self, Entry, EntryKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// An object as a record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Of its content, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl ObjectRef {
    /// The object of a file; none of a link.
    pub fn of(entry: &Entry) -> Option<Self> {
        match &entry.kind {
            EntryKind::File { size, sha256, .. } => Some(Self { sha256: sha256.clone(), size: *size }),
            EntryKind::Link { .. } => None,
        }
    }

    /// Whether this can be an object's name: what a record from elsewhere says becomes a path.
    pub fn is_sound(&self) -> bool {
        self.sha256.len() == 64 && self.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl Store {
    /// The folder of all objects.
    pub(super) fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Where an object is, or would be.
    pub fn object(&self, sha256: &str) -> PathBuf {
        self.objects().join(sha256.get(..2).unwrap_or_default()).join(sha256)
    }

    /// What is wrong with an object, in words; it is hashed.
    pub(super) fn damage(&self, object: &ObjectRef) -> Option<String> {
        let path = self.object(&object.sha256);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(format!("is gone ({})", path.display())),
            Ok(meta) if meta.is_file() && meta.len() == object.size => {}
            _ => return Some(format!("has another size ({})", path.display())),
        }
        match fingerprint::hash_file(&path) {
            Ok(found) if found == object.sha256 => None,
            Ok(_) => Some(format!("has other content ({})", path.display())),
            Err(error) => Some(format!("cannot be read ({}: {error})", path.display())),
        }
    }

    /// Makes a finished file an object; it is moved. An object that is there is replaced: it is the same, or it was damaged.
    ///
    /// # Errors
    /// [`Kind::Stage`] when the disk does not play along.
    pub(super) fn take_in(&self, file: &Path, sha256: &str) -> anyhow::Result<()> {
        let target = self.object(sha256);
        let folder = target.parent().unwrap_or(&self.root);
        let take = || -> io::Result<()> {
            // Nobody writes to an object by accident.
            fs::set_permissions(file, fs::Permissions::from_mode(0o444))?;
            match fs::rename(file, &target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(folder)?;
                    fs::rename(file, &target)
                }
                other => other,
            }
        };
        take().kind(Kind::Stage, || format!("cannot make {}", target.display()))
    }

    /// Keeps some bytes as an object.
    ///
    /// # Errors
    /// [`Kind::Stage`] when the disk does not play along.
    pub(super) fn put_bytes(&self, bytes: &[u8]) -> anyhow::Result<ObjectRef> {
        let mut draft = self.draft()?;
        draft.write_all(bytes).kind(Kind::Stage, || format!("cannot write in {}", self.root.display()))?;
        draft.finish()
    }

    /// A new object that grows; nothing is left of it unless it is finished.
    ///
    /// # Errors
    /// When it cannot be begun.
    pub(super) fn draft(&self) -> anyhow::Result<Draft<'_>> {
        let folder = self.drafts()?;
        let file =
            tempfile::NamedTempFile::new_in(&folder).kind(Kind::Stage, || format!("cannot write in {}", folder.display()))?;
        Ok(Draft { store: self, file, hash: Sha256::new(), size: 0 })
    }
}

/// An object while it grows.
pub(super) struct Draft<'a> {
    store: &'a Store,
    file: tempfile::NamedTempFile,
    hash: Sha256,
    size: u64,
}

impl Write for Draft<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Draft<'_> {
    /// Gives it its name.
    ///
    /// # Errors
    /// [`Kind::Stage`] when the disk does not play along.
    pub(super) fn finish(self) -> anyhow::Result<ObjectRef> {
        let sha256 = fingerprint::hex(&self.hash.finalize());
        let path = self.file.into_temp_path();
        self.store.take_in(&path, &sha256)?;
        // It has another name now; nothing is left under the old one for the guard to remove.
        let _ = path.keep();
        Ok(ObjectRef { sha256, size: self.size })
    }
}
