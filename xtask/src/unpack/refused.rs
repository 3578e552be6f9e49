//! Why an archive or an entry of it is not unpacked, and the words for it.

use crate::error::Kind;
use rustix::io::Errno;
use std::io;

/// Why an entry was not unpacked.
pub(super) enum Refused {
    /// It has no business in a source archive; the text goes on after the entry's name.
    Harm(String),
    /// The archive could not be read on.
    Damaged(io::Error),
    /// The disk did not take it.
    Disk(io::Error),
}

impl Refused {
    /// Sorts the ways in which making something fails: a name that is taken is the archive's fault.
    pub(super) fn made(error: Errno) -> Self {
        match error {
            Errno::EXIST => Self::Harm("stands there twice, or differs from another name only in case".into()),
            other => Self::Disk(other.into()),
        }
    }

    /// The error about the entry of this name.
    pub(super) fn about(self, name: &[u8]) -> anyhow::Error {
        match self {
            Self::Harm(why) => Kind::Integrity.error(format!("the archive's entry {} {why}", lossy(name))),
            Self::Damaged(error) => damaged(&error).context(format!("in entry {}", lossy(name))),
            Self::Disk(error) => {
                let text = format!("cannot write {}: {error}", lossy(name));
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                    Kind::Preflight.error(text + "; make room or choose another --build-dir")
                } else {
                    anyhow::anyhow!(text)
                }
            }
        }
    }
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self::Disk(error.into())
    }
}

pub(super) fn damaged(error: &io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Kind::Integrity.error("the archive is cut short");
    }
    Kind::Integrity.error(format!("the archive is damaged or cut short: {error}"))
}

/// A name from an archive for people, quoted.
pub(super) fn lossy(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(name))
}
