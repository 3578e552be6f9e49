//! The machine that builds: which tools it has and of which version, how much memory and disk.

mod versions;

use crate::error::Kind;
use crate::fingerprint;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A tool that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its path.
    pub path: PathBuf,
    /// The first dotted number that it prints about itself; empty where it prints none.
    pub version: String,
}

/// What is known of this machine; each tool is asked once.
#[derive(Default)]
pub struct Host {
    tools: Mutex<BTreeMap<String, Option<Tool>>>,
    versions: Mutex<versions::Versions>,
}

impl Host {
    /// A machine whose tools' versions are remembered in this file.
    pub fn remembering(file: PathBuf) -> Self {
        Self { tools: Mutex::default(), versions: Mutex::new(versions::Versions::read(file)) }
    }

    /// The tool of this name on PATH.
    pub fn tool(&self, name: &str) -> Option<Tool> {
        if let Some(known) = self.known().get(name) {
            return known.clone();
        }
        let found = programs(name).iter().find_map(|program| {
            let path = find(program)?;
            let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(version) = versions.get(name, &path) {
                return Some(Tool { path, version });
            }
            let tool = Tool { version: ask_version(&path, name), path };
            versions.put(name, &tool);
            Some(tool)
        });
        self.known().insert(name.to_owned(), found.clone());
        found
    }

    /// What tells this machine's tool of a name from another: the hash of a script, the version of a program. Scripts are
    /// not asked, since most are slow to answer.
    pub fn identity(&self, name: &str) -> Option<String> {
        let path = programs(name).into_iter().find_map(find)?;
        let begins = |start: &[u8]| std::fs::read(&path).is_ok_and(|content| content.starts_with(start));
        if begins(b"#!") {
            return fingerprint::hash_file(&path).ok().map(|hash| hash[..16].to_owned());
        }
        self.tool(name).map(|tool| tool.version)
    }

    /// The version of npm, by the package.json that lies beside it: npm itself would be slow to answer.
    pub fn npm_version(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Package {
            name: String,
            version: String,
        }
        let script = find("npm")?.canonicalize().ok()?;
        let package = script.ancestors().skip(1).take(3).find_map(|folder| {
            let text = std::fs::read(folder.join("package.json")).ok()?;
            serde_json::from_slice::<Package>(&text).ok().filter(|package| package.name == "npm")
        });
        package.map(|package| package.version).or_else(|| self.tool("npm").map(|tool| tool.version))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Option<Tool>>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything, after something was installed.
    pub fn forget(&self) {
        self.known().clear();
    }
}

/// A program on PATH, or where daemons are kept, which is not on everybody's PATH.
fn find(program: &str) -> Option<PathBuf> {
    let daemons = || which::which_in(program, Some("/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"), "/").ok();
    which::which(program).ok().or_else(daemons)
}

/// Under which names a tool may stand on PATH.
fn programs(name: &str) -> Vec<&str> {
    match name {
        // Debian's package "libtool" has no program of that name, and Homebrew puts a g in front.
        "libtool" => vec!["libtoolize", "glibtoolize"],
        "pkg-config" => vec!["pkg-config", "pkgconf"],
        other => vec![other],
    }
}

fn ask_version(path: &Path, name: &str) -> String {
    let word = match name {
        "go" => "version",
        // It knows no --version, and would start.
        "collectd" => "-h",
        _ => "--version",
    };
    let output = xshell::Shell::new().and_then(|shell| {
        // A go that is asked inside a module must not go and get another go to answer.
        let _local = shell.push_env("GOTOOLCHAIN", "local");
        xshell::cmd!(shell, "{path} {word}").quiet().ignore_status().ignore_stderr().read()
    });
    output.ok().and_then(|text| first_number(&text)).unwrap_or_default()
}

/// The first dotted number of a text, such as `1.26.8` in `go version go1.26.8 linux/amd64`.
pub fn first_number(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.bytes().any(|byte| byte.is_ascii_digit()))?;
    line.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .map(|part| part.trim_matches('.'))
        .find(|part| part.contains('.') || (part.len() < 4 && !part.is_empty()))
        .map(str::to_owned)
}

/// Whether a dotted version is at least another; missing parts count as 0.
pub fn at_least(version: &str, minimum: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> { text.split('.').map(|part| part.parse().unwrap_or(0)).collect() };
    let (mut have, mut want) = (numbers(version), numbers(minimum));
    let length = have.len().max(want.len());
    have.resize(length, 0);
    want.resize(length, 0);
    have >= want
}

/// Memory of the machine and swap in bytes, or the control group's limit where that is lower; none where it cannot be told.
pub fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok();
    let field = |name: &str| -> Option<u64> {
        let line = text.as_deref()?.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let physical = match field("MemTotal:") {
        Some(total) => total + field("SwapTotal:").unwrap_or(0),
        None => sysctl_memory()?,
    };
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(physical, |limit: u64| limit.min(physical)))
}

fn sysctl_memory() -> Option<u64> {
    let shell = xshell::Shell::new().ok()?;
    xshell::cmd!(shell, "sysctl -n hw.memsize").quiet().ignore_stderr().read().ok()?.trim().parse().ok()
}

/// Free bytes for this user where `path` is or will be.
pub fn free_disk(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

/// Node's and npm's word for this platform, such as `linux-x64`.
///
/// # Errors
/// [`Kind::Preflight`] on a platform for which no such packages exist.
pub fn node_platform() -> anyhow::Result<String> {
    let os = match std::env::consts::OS {
        "linux" => "linux",
        "macos" => "darwin",
        other => return Err(Kind::Preflight.error(format!("no node package is known for {other}; install node by hand"))),
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => return Err(Kind::Preflight.error(format!("no node package is known for {other}; install node by hand"))),
    };
    Ok(format!("{os}-{arch}"))
}

/// The npm package that holds node for a platform. Those for macOS have another name since Apple's own processors.
pub fn node_package(platform: &str) -> String {
    if platform.starts_with("darwin-arm") { format!("node-bin-{platform}") } else { format!("node-{platform}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_tools_print() {
        for (text, version) in [
            ("go version go1.26.8 linux/amd64", "1.26.8"),
            ("v20.20.2", "20.20.2"),
            ("cc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022", "12.2.0"),
            ("GNU Make 4.3\nBuilt for x86_64-pc-linux-gnu", "4.3"),
            ("autoconf (GNU Autoconf) 2.71", "2.71"),
            ("1.8.1", "1.8.1"),
        ] {
            assert_eq!(first_number(text).as_deref(), Some(version), "{text}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("1.26.8", "1.21") && at_least("20.20.2", "20.9") && at_least("1.21", "1.21.0"));
        assert!(!at_least("1.9", "1.21") && !at_least("16.20.2", "18"));
    }
}
