//! What went wrong, by kind: the kind decides the exit status.
//!
//! Everything that fails travels as an [`anyhow::Error`]; where the kind matters to the caller of the program, a
//! [`Failure`] stands somewhere in its chain. The outermost one decides. Nothing else in the program branches on errors.

use crate::failed::CommandFailed;
use std::fmt;
use std::io;

/// The kinds of failure, each with the exit status that the README documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Anything that has no kind of its own.
    Other = 1,
    /// Flags, `vendor.lock` or a recipe are wrong. Clap leaves with the same status.
    Usage = 2,
    /// The machine lacks a tool, memory or disk.
    Preflight = 3,
    /// A source could not be had from any address, or a dependency not from its registry.
    Fetch = 4,
    /// Something was had, but is not what was pinned or signed, or would do harm when unpacked.
    Integrity = 5,
    /// A patch does not apply exactly.
    Patch = 6,
    /// A build command failed.
    Compile = 7,
    /// The bundle's tree could not be put together.
    Stage = 8,
    /// The archive could not be written.
    Archive = 9,
    /// The archive would not run elsewhere.
    Gate = 10,
    /// What the bundle holds must not be shipped: a licence is not known or not allowed, or a vulnerability is too severe.
    Accounts = 11,
    /// Two builds of the same are not the same.
    Repro = 12,
    /// Ctrl-C or SIGTERM; 130 is what shells report for SIGINT.
    Interrupted = 130,
}

impl Kind {
    /// The kind that a run of this program has ended with, by its exit status.
    pub fn of_status(status: i32) -> Self {
        let all = [
            Self::Usage,
            Self::Preflight,
            Self::Fetch,
            Self::Integrity,
            Self::Patch,
            Self::Compile,
            Self::Stage,
            Self::Archive,
            Self::Gate,
            Self::Accounts,
            Self::Repro,
            Self::Interrupted,
        ];
        all.into_iter().find(|kind| *kind as i32 == status).unwrap_or(Self::Other)
    }

    /// The kind for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Usage => "usage",
            Self::Preflight => "preflight",
            Self::Fetch => "fetch",
            Self::Integrity => "integrity",
            Self::Patch => "patch",
            Self::Compile => "compile",
            Self::Stage => "stage",
            Self::Archive => "archive",
            Self::Gate => "gate",
            Self::Accounts => "accounts",
            Self::Repro => "repro",
            Self::Interrupted => "interrupted",
        }
    }

    /// An error of this kind with a text of its own.
    pub fn error(self, text: impl Into<String>) -> anyhow::Error {
        Failure { kind: self, text: text.into(), hopeless: false }.into()
    }

    /// An error of this kind after which nothing else of the run is worth beginning.
    pub fn hopeless(self, text: impl Into<String>) -> anyhow::Error {
        Failure { kind: self, text: text.into(), hopeless: true }.into()
    }
}

/// Whether after this error nothing else of the run is worth beginning.
pub fn is_hopeless(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.hopeless)
}

/// A text with its [`Kind`]; found by downcasting along an error's chain.
#[derive(Debug)]
pub struct Failure {
    /// What kind of failure this is.
    pub kind: Kind,
    text: String,
    hopeless: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// Adds a [`Kind`] and a text to a result, as anyhow's `Context` adds a text.
pub trait WithKind<T> {
    /// Wraps the error with `text` and marks it as a failure of `kind`.
    ///
    /// # Errors
    /// Exactly where `self` is one.
    fn kind(self, kind: Kind, text: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithKind<T> for Result<T, E> {
    fn kind(self, kind: Kind, text: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(Failure { kind, text: text(), hopeless: false }))
    }
}

/// The kind of an error: that of the outermost [`Failure`] in its chain, [`Kind::Compile`] where a command failed, else
/// [`Kind::Other`]; a full disk that nobody gave a kind is what the machine lacks.
pub fn kind_of(error: &anyhow::Error) -> Kind {
    let command = error.chain().any(<dyn std::error::Error>::is::<CommandFailed>);
    // A `Failure` added by `context` is reachable only by `downcast_ref` on the error itself, one that came as the
    // source also by its chain.
    error
        .downcast_ref::<Failure>()
        .or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Failure>()))
        .map(|failure| failure.kind)
        .or(command.then_some(Kind::Compile))
        .or(is_full_disk(error).then_some(Kind::Preflight))
        .unwrap_or(Kind::Other)
}

/// Whether a disk without room is at the bottom of it.
pub fn is_full_disk(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// One failure is returned as it is; of several all are shown, with what so many of them have done, and the first gives the kind.
///
/// # Errors
/// Where there is a failure.
pub fn conclude(mut failures: Vec<anyhow::Error>, what: &str) -> anyhow::Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        count => {
            let kind = kind_of(&failures[0]);
            let texts: Vec<_> = failures.iter().map(|error| format!("{error:#}")).collect();
            Err(kind.error(format!("{count} {what}:\n{}", texts.join("\n"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_outermost_kind_wins_and_contexts_do_not_hide_it() {
        let inner: Result<(), _> = Err(Kind::Integrity.error("bits are wrong"));
        let outer = inner.kind(Kind::Fetch, || "cannot fetch x".into()).context("while trying").unwrap_err();
        assert_eq!(kind_of(&outer), Kind::Fetch);
        assert_eq!(format!("{outer:#}"), "while trying: cannot fetch x: bits are wrong");
        assert_eq!(kind_of(&anyhow::anyhow!("plain")), Kind::Other);
    }
}
