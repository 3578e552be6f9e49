//! The shared cache: what one machine has compiled, others need not compile again. See docs/cache.md.
//!
//! It is off unless somebody names a place for it, and it is never needed: whatever goes wrong with it costs a warning
//! and a bounded time, never the build. That is why looking, getting and putting do not fail here; they say what went
//! wrong and find nothing, or keep nothing.
//!
//! ```text
//! <place>/v1/results/<component>/<slot>/<key>    a record: which blocks a result is
//! <place>/v1/blocks/<aa>/<sha256>                a piece of it, compressed; nothing but its hash names it
//! ```
//!
//! Promises: what is handed out has the hashes that its record names, and the record the one that it begins with; no more
//! is read, unpacked or kept in memory than the bounds in [`record`] allow, whatever a record or a server claims. A record
//! is written when all of its blocks are there, so that whoever finds it finds the whole result. What is wrong is named and
//! ignored, and replaced by the next upload. Nothing is written in mode [`Mode::ReadOnly`].
//!
//! Left to others: what a result is, and which may be shared (`build` and `store`); whether the place can be trusted. Its
//! hashes tell accidents from what was put there, not friends from foes.
//!
//! All of it is compiled with the cargo feature `shared-cache` only, as it is heavy; without it [`Share`] cannot exist.

#[cfg(not(feature = "shared-cache"))]
mod absent;
#[cfg(feature = "shared-cache")]
mod address;
#[cfg(feature = "shared-cache")]
mod block;
#[cfg(feature = "shared-cache")]
mod client;
#[cfg(feature = "shared-cache")]
mod download;
#[cfg(feature = "shared-cache")]
mod http;
#[cfg(feature = "shared-cache")]
mod place;
#[cfg(feature = "shared-cache")]
mod record;
#[cfg(feature = "shared-cache")]
mod remote;
#[cfg(feature = "shared-cache")]
mod upload;

#[cfg(all(test, feature = "shared-cache"))]
mod tests;

#[cfg(not(feature = "shared-cache"))]
pub use absent::{Found, Place, Share};
#[cfg(feature = "shared-cache")]
pub use address::Place;
#[cfg(feature = "shared-cache")]
pub use client::{Found, Share};

use crate::error::Kind;
use std::ffi::OsString;
use std::fmt;

/// Names the place where `--cache` does not.
pub const PLACE_VARIABLE: &str = "DKUMONITOR_CACHE";

/// Gives the mode where `--cache-mode` does not.
pub const MODE_VARIABLE: &str = "DKUMONITOR_CACHE_MODE";

/// Instead of a place: no shared cache, even where the variable names one.
const OFF: &str = "off";

/// What may be done with the shared cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Take results from it, and put there what it lacks
    #[default]
    ReadWrite,
    /// Take results from it, write nothing
    ReadOnly,
}

/// What a result is called in the shared cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The component.
    pub component: String,
    /// Which of its results.
    pub slot: String,
    /// A hash over everything that the result depends on, in hexadecimal digits.
    pub key: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.component)
    }
}

/// How far the uploads are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploads {
    /// Results that still have to be put there.
    pub waiting: usize,
    /// Results that were put there.
    pub done: usize,
    /// Bytes that went over the line for them.
    pub bytes: u64,
}

/// Whether there is to be a shared cache.
#[derive(Debug)]
pub enum Choice {
    /// No.
    Off,
    /// The environment asks for one, but this program cannot; the warning says what to do.
    Ignored(String),
    /// This one.
    On(Place, Mode),
}

impl Choice {
    /// What the flags and the environment ask for; flags come first. `variable` reads the environment.
    ///
    /// # Errors
    /// [`Kind::Usage`] when the place or the mode cannot be understood, or the flag asks for what this program was compiled
    /// without.
    pub fn make(flag: Option<&str>, mode: Option<Mode>, variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Self> {
        Self::make_as(cfg!(feature = "shared-cache"), flag, mode, variable)
    }

    fn make_as(
        capable: bool,
        flag: Option<&str>,
        mode: Option<Mode>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Self> {
        let variable = |name: &str| -> anyhow::Result<Option<String>> {
            let Some(value) = variable(name).filter(|value| !value.is_empty()) else { return Ok(None) };
            let text = value.into_string().map_err(|_| Kind::Usage.error(format!("{name} is no text")))?;
            Ok(Some(text))
        };
        let (text, from) = match flag {
            Some(text) => (text.to_owned(), "--cache"),
            None => match variable(PLACE_VARIABLE)? {
                Some(text) => (text, PLACE_VARIABLE),
                None => return Ok(Self::Off),
            },
        };
        if text == OFF {
            return Ok(Self::Off);
        }
        if !capable {
            let why = format!(
                "{from} asks for a shared cache, which this program was compiled without; say `cargo xtask-shared` instead of \
                 `cargo xtask`"
            );
            // A variable is often set for everybody; that is no reason why `cargo xtask` should cease to work.
            return if flag.is_some() { Err(Kind::Usage.error(why)) } else { Ok(Self::Ignored(why)) };
        }
        let mode = match (mode, variable(MODE_VARIABLE)?) {
            (Some(mode), _) => mode,
            (None, None) => Mode::default(),
            (None, Some(text)) => <Mode as clap::ValueEnum>::from_str(&text, false)
                .map_err(|_| Kind::Usage.error(format!("{MODE_VARIABLE} is \"{text}\", not read-write or read-only")))?,
        };
        Ok(Self::On(Place::parse(&text, from)?, mode))
    }
}
