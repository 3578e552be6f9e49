//! What is kept of a service's output.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// What is kept of a service's output, and how; for ages and sizes 0 means without bound. `max-` is about the file that is being
/// written, `keep` about the rotated ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LogPolicy {
    /// A file that would grow beyond this many bytes is rotated.
    pub max_bytes: u64,
    /// A file whose first line is older than this many seconds is rotated when the next line comes.
    pub max_age_s: u64,
    /// How many rotated files are kept beside the current one.
    pub keep: u32,
    /// Rotated files are removed when they are older than this many seconds.
    pub keep_age_s: u64,
    /// The most bytes that all files of the log may have together; the oldest go first.
    pub keep_bytes: u64,
    /// Whether rotated files are compressed.
    pub compress: bool,
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// What happens to output when the disk is full.
    pub on_full: OnFull,
    /// How many last lines are kept with a crash; 0: no report is written.
    pub crash_lines: u32,
    /// How many reports of crashes are kept.
    pub crash_keep: u32,
}

/// What happens to a service's output when it cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// It is dropped and counted, and the service goes on.
    Drop,
    /// It waits in the FIFO, and when that is full the service waits too: nothing is lost.
    Block,
}

impl LogPolicy {
    /// 10 MB, five compressed old files: at most about 20 MB a service; the last 50 lines of the last 5 crashes.
    pub const DEFAULT: Self = Self {
        max_bytes: 10_000_000,
        max_age_s: 0,
        keep: 5,
        keep_age_s: 0,
        keep_bytes: 0,
        compress: true,
        timestamps: false,
        on_full: OnFull::Drop,
        crash_lines: 50,
        crash_keep: 5,
    };

    pub(super) fn is_default(&self) -> bool {
        *self == Self::DEFAULT
    }

    /// Checks what the type alone cannot say.
    ///
    /// # Errors
    /// The first thing found wrong, in words.
    pub fn validate(&self) -> Result<()> {
        let Self { max_bytes, keep_bytes, .. } = *self;
        if keep_bytes > 0 && (max_bytes == 0 || keep_bytes < max_bytes) {
            bail!("its log may have {keep_bytes} bytes in all (keep-bytes), and one file of it more (max-bytes {max_bytes})");
        }
        Ok(())
    }
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}
