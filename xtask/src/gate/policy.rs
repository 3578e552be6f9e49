//! What passes the gate, as data: what the platforms have (`platform.toml`), and what a stack says of its own (`gate.toml`
//! beside its `vendor.lock`).

use crate::elf::Version;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use globset::{Glob, GlobMatcher};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Raised whenever the gate looks at more, so that what has passed an older one is looked at again.
const VERSION: &str = "3";

/// The name of a stack's own rules.
pub const FILE_NAME: &str = "gate.toml";

const PLATFORMS: &str = include_str!("platform.toml");

/// How much larger than the last release a bundle may be, in percent, where its stack says nothing.
const GROWTH: u32 = 10;

/// What a machine of one system has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// Its shared libraries: names on Linux; paths, or frameworks with a slash at the end, on macOS.
    pub libraries: Vec<String>,
    /// The programs that load programs.
    pub interpreters: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Platforms {
    linux: Platform,
    macos: Platform,
}

/// `gate.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Rules {
    glibc: Option<String>,
    macos: Option<String>,
    growth_percent: Option<u32>,
    #[serde(default)]
    largest_mb: BTreeMap<String, u64>,
    #[serde(default, rename = "library")]
    libraries: Vec<Library>,
    #[serde(default, rename = "trace")]
    traces: Vec<AllowedTrace>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Library {
    name: String,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowedTrace {
    files: String,
    text: String,
    why: String,
}

/// Everything that the gate goes by.
#[derive(Debug)]
pub struct Policy {
    platforms: Platforms,
    /// No component may want a newer glibc.
    pub glibc: Option<Version>,
    /// No program may want a newer macOS.
    pub macos: Option<Version>,
    /// How much larger than the last release a bundle may be, in percent.
    pub growth_percent: u32,
    /// How large the archive of a bundle may be, in bytes, by the bundle's name without its version.
    pub largest: BTreeMap<String, u64>,
    /// Texts that may stand in files though they look like paths of the machine that built them.
    traces: Vec<(GlobMatcher, String)>,
    seal: String,
}

impl Policy {
    /// The policy for the stack in `root`.
    ///
    /// # Errors
    /// [`Kind::Usage`] when its `gate.toml` or its sizes cannot be used.
    pub fn of(root: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| match std::fs::read_to_string(root.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            other => other.kind(Kind::Usage, || format!("cannot read {}", root.join(name).display())),
        };
        let (rules, sizes) = (read(FILE_NAME)?, read(super::sizes::FILE_NAME)?);
        Self::parse(&rules, &sizes).kind(Kind::Usage, || format!("cannot use {}", root.join(FILE_NAME).display()))
    }

    /// As [`Self::of`], from the texts of the stack's two files. The second one only counts for [`Self::seal`].
    fn parse(rules: &str, sizes: &str) -> anyhow::Result<Self> {
        let mut platforms: Platforms = toml::from_str(PLATFORMS)?;
        let own: Rules = toml::from_str(rules)?;
        let reasons = own.libraries.iter().map(|one| &one.why).chain(own.traces.iter().map(|one| &one.why));
        anyhow::ensure!(reasons.clone().all(|why| !why.trim().is_empty()), "each exception needs a `why`");
        for library in own.libraries {
            // On Linux they have names, on macOS paths.
            let platform = if library.name.starts_with('/') { &mut platforms.macos } else { &mut platforms.linux };
            platform.libraries.push(library.name);
        }
        let traces = own.traces.into_iter().map(|one| Ok((Glob::new(&one.files)?.compile_matcher(), one.text)));
        let seal = Sha256::new().chain_update(VERSION).chain_update(PLATFORMS).chain_update([0]).chain_update(rules);
        Ok(Self {
            platforms,
            glibc: own.glibc.map(|version| version.parse()).transpose()?,
            macos: own.macos.map(|version| version.parse()).transpose()?,
            growth_percent: own.growth_percent.unwrap_or(GROWTH),
            largest: own.largest_mb.into_iter().map(|(name, mb)| (name, mb.saturating_mul(1_000_000))).collect(),
            traces: traces.collect::<anyhow::Result<_>>()?,
            seal: fingerprint::hex(&seal.chain_update([0]).chain_update(sizes).finalize()),
        })
    }

    /// What a system has, by the manifest's word for it; nothing where it is not known here.
    pub fn platform(&self, os: &str) -> Option<&Platform> {
        match os {
            "linux" => Some(&self.platforms.linux),
            "macos" => Some(&self.platforms.macos),
            _ => None,
        }
    }

    /// Whether this text may stand in this file.
    pub fn allows(&self, path: &str, text: &str) -> bool {
        self.traces.iter().any(|(files, allowed)| files.is_match(path) && text.contains(allowed.as_str()))
    }

    /// A hash over all that the gate goes by: what has passed need not be looked at again as long as it is the same.
    pub fn seal(&self) -> &str {
        &self.seal
    }
}

#[cfg(test)]
impl Policy {
    /// That of a stack with these rules.
    pub fn for_tests(rules: &str) -> Self {
        Self::parse(rules, "").unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_adds_to_what_the_platform_has_and_says_why() {
        let policy = Policy::for_tests("[[library]]\nname = \"libz.so.1\"\nwhy = \"everybody has it\"\n");
        let linux = policy.platform("linux").unwrap();
        assert!(
            linux.libraries.iter().any(|name| name == "libz.so.1") && linux.libraries.iter().any(|name| name == "libc.so.6")
        );
        assert_ne!(policy.seal(), Policy::for_tests("").seal());
        let policy = Policy::for_tests("macos = \"12\"\n[[library]]\nname = \"/usr/lib/libodd.dylib\"\nwhy = \"x\"\n");
        assert!(policy.platform("macos").unwrap().libraries.iter().any(|name| name == "/usr/lib/libodd.dylib"));
        assert!(!policy.platform("linux").unwrap().libraries.iter().any(|name| name.contains("odd")));
        assert_eq!(policy.macos, "12.0".parse().ok());
        let error = Policy::parse("[[library]]\nname = \"libz.so.1\"\nwhy = \" \"\n", "").unwrap_err();
        assert!(error.to_string().contains("needs a `why`"), "{error}");
        assert!(Policy::parse("glib = \"2.17\"\n", "").unwrap_err().to_string().contains("glib"));
    }

    #[test]
    fn an_allowed_text_is_allowed_where_it_is_said_and_nowhere_else() {
        let policy = Policy::for_tests("[[trace]]\nfiles = \"static/**\"\ntext = \"/root/x\"\nwhy = \"an example\"\n");
        assert!(policy.allows("static/a/b.js", "/root/x/y"));
        assert!(!policy.allows("bin/a", "/root/x/y") && !policy.allows("static/a", "/root/y"));
    }
}
