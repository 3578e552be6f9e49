//! Whether the last run came to an orderly end.
//!
//! While a run works there is a file `working`; an orderly end, be it good or bad, removes it. Found at the start of a run it
//! means that the one before was killed. It holds the number of the machine's boot: another number now means that the
//! machine was started anew since something was written, perhaps because its power failed, and that content may be missing
//! from files whose names and sizes are there. Either way no fingerprint is believed any more, so that everything is
//! hashed before it is used again. That is why nothing here has to wait for the disk (`fsync`) for every one of
//! thousands of files.

use super::Store;
use crate::dirs;
use crate::error::{Kind, WithKind as _};
use std::fs;
use std::path::PathBuf;

/// A run that works; to be told when it ends in an orderly way.
#[derive(Debug)]
pub struct Working {
    path: PathBuf,
}

impl Store {
    /// What is known of the last run that makes fingerprints worthless, in words; they are then forgotten, and `forget` is
    /// called to forget those that others keep.
    ///
    /// # Errors
    /// When drafts of a killed run cannot be removed.
    pub fn look_back(&self, forget: impl FnOnce()) -> anyhow::Result<Option<&'static str>> {
        let found = match (fs::read_to_string(self.marker()), fs::read_to_string(self.boot_file())) {
            (Ok(_), _) => Some("the last run was killed"),
            (Err(_), Ok(boot)) if boot != boot_id() => Some("the machine was started anew since the last run"),
            _ => None,
        };
        if found.is_some() {
            let drafts = self.root().join("drafts");
            dirs::remove_all(&drafts).kind(Kind::Stage, || format!("cannot remove {}", drafts.display()))?;
            self.forget_stamps();
            forget();
            // Only now: were this run killed in between, the next one would do it again.
            let _ = fs::remove_file(self.marker());
            let _ = fs::write(self.boot_file(), boot_id());
        }
        Ok(found)
    }

    /// Says that a run works from now on.
    ///
    /// # Errors
    /// [`Kind::Stage`] when that cannot be written down.
    pub fn begin(&self) -> anyhow::Result<Working> {
        let path = self.marker();
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(self.root())?;
            fs::write(self.boot_file(), boot_id())?;
            fs::write(&path, std::process::id().to_string())
        };
        write().kind(Kind::Stage, || format!("cannot write {}", path.display()))?;
        Ok(Working { path })
    }

    fn marker(&self) -> PathBuf {
        self.root().join("working")
    }

    fn boot_file(&self) -> PathBuf {
        self.root().join("boot")
    }
}

impl Working {
    /// The run has come to an orderly end.
    pub fn end(self) {
        if boot_id().is_empty() {
            // Nothing here will tell that the power failed: what was written has to be on the disk now.
            rustix::fs::sync();
        }
        // One that stays only costs hashes.
        let _ = fs::remove_file(&self.path);
    }
}

/// A word that is another one after each start of the machine; empty where none can be had.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}
