//! Values of definitions that TOML has no type for: lengths of time, permission masks, limits.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// A length of time, written in seconds, whole or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "Number")]
pub struct Seconds(pub Duration);

/// A number as people write it: without a fraction where there is none.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Number {
    Whole(u64),
    Part(f64),
}

impl TryFrom<f64> for Seconds {
    type Error = anyhow::Error;

    fn try_from(seconds: f64) -> Result<Self> {
        // A hundred years: no clock overflows by it.
        if !(0.0..=3.2e9).contains(&seconds) {
            bail!("{seconds} is no length of time in seconds");
        }
        Ok(Self(Duration::from_micros((seconds * 1e6).round() as u64)))
    }
}

impl From<Seconds> for Number {
    fn from(seconds: Seconds) -> Self {
        if seconds.0.subsec_nanos() == 0 { Self::Whole(seconds.0.as_secs()) } else { Self::Part(seconds.0.as_secs_f64()) }
    }
}

/// The permissions that new files do not get, written in octal as for `umask(1)`: `"027"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Umask(pub u32);

impl TryFrom<String> for Umask {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        match u32::from_str_radix(&text, 8) {
            Ok(mask) if mask <= 0o777 => Ok(Self(mask)),
            _ => bail!("\"{text}\" is no mask of permissions in octal, such as \"077\""),
        }
    }
}

impl From<Umask> for String {
    fn from(mask: Umask) -> Self {
        format!("{:03o}", mask.0)
    }
}

/// What a process may be limited in, by the names of `limits.conf(5)` (with `as` for the address space); see `setrlimit(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// Address space, in bytes.
    As,
    /// A core dump, in bytes.
    Core,
    /// Processor time, in seconds.
    Cpu,
    /// Data segment, in bytes.
    Data,
    /// A file that is written, in bytes.
    Fsize,
    /// Locked memory, in bytes.
    Memlock,
    /// Open files.
    Nofile,
    /// Processes of the user.
    Nproc,
    /// Resident memory, in bytes; most systems take no notice of it.
    Rss,
    /// Stack, in bytes.
    Stack,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::As => "as",
            Self::Core => "core",
            Self::Cpu => "cpu",
            Self::Data => "data",
            Self::Fsize => "fsize",
            Self::Memlock => "memlock",
            Self::Nofile => "nofile",
            Self::Nproc => "nproc",
            Self::Rss => "rss",
            Self::Stack => "stack",
        })
    }
}

/// A limit: `4096`, `"unlimited"`, `"SOFT:HARD"`, or `"SOFT:"` with the hard one left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "String")]
pub struct Limit {
    /// The one that counts; none: no limit.
    pub soft: Option<u64>,
    /// Up to where the process may raise the soft one itself. Outer none: left as it is; inner none: no limit.
    pub hard: Option<Option<u64>>,
}

impl TryFrom<NumberOrText> for Limit {
    type Error = anyhow::Error;

    fn try_from(text: NumberOrText) -> Result<Self> {
        let text = String::from(text);
        let one = |part: &str| match part.trim() {
            "unlimited" | "infinity" => Ok(None),
            number => number
                .parse()
                .map(Some)
                .with_context(|| format!("\"{text}\" is no limit: a number, \"unlimited\", or two of these as \"SOFT:HARD\"")),
        };
        let (soft, hard) = match text.split_once(':') {
            None => (one(&text)?, Some(one(&text)?)),
            Some((soft, hard)) if hard.trim().is_empty() => (one(soft)?, None),
            Some((soft, hard)) => (one(soft)?, Some(one(hard)?)),
        };
        if let Some(Some(hard)) = hard
            && soft.is_none_or(|soft| soft > hard)
        {
            bail!("the soft limit of \"{text}\" is above the hard one");
        }
        Ok(Self { soft, hard })
    }
}

impl From<Limit> for String {
    fn from(limit: Limit) -> Self {
        let one = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), |number| number.to_string());
        match limit.hard {
            None => format!("{}:", one(limit.soft)),
            Some(hard) if hard == limit.soft => one(hard),
            Some(hard) => format!("{}:{}", one(limit.soft), one(hard)),
        }
    }
}

/// A number that may also be written as a string, because a template may give it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "this has to be a number or a string")]
pub(super) enum NumberOrText {
    Number(u64),
    Text(String),
}

impl From<NumberOrText> for String {
    fn from(either: NumberOrText) -> Self {
        match either {
            NumberOrText::Number(number) => number.to_string(),
            NumberOrText::Text(text) => text,
        }
    }
}

/// One string or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "this has to be a string or a list of strings")]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl From<OneOrMore> for Vec<String> {
    fn from(either: OneOrMore) -> Self {
        match either {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(list) => list,
        }
    }
}

/// Whether a process that has ended by itself is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Always.
    #[default]
    Always,
    /// When it ended with another status than 0 or by a signal.
    OnFailure,
    /// Never.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_lengths_are_written_as_they_are_read() {
        for text in ["4096", "unlimited", "1024:4096", "1024:unlimited", "10:"] {
            assert_eq!(String::from(Limit::try_from(NumberOrText::Text(text.into())).unwrap()), text);
        }
        for bad in ["", "-1", "1:2:3", "many", "5:4", "unlimited:4"] {
            assert!(Limit::try_from(NumberOrText::Text(bad.into())).is_err(), "{bad} was accepted");
        }
        assert_eq!(serde_json::to_string(&Seconds::try_from(0.5).unwrap()).unwrap(), "0.5");
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Seconds>("7").unwrap()).unwrap(), "7");
        assert!(Seconds::try_from(-1.0).is_err() && Seconds::try_from(f64::NAN).is_err());
        assert!(Umask::try_from("0888".to_owned()).is_err());
        assert_eq!(String::from(Umask::try_from("0027".to_owned()).unwrap()), "027");
    }
}
