//! The machine: whether the bundle runs on it, who installs, and its name in metrics.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::Problems;
use crate::cli::Installer;
use crate::commands::root;
use crate::manifest::{Manifest, Platform};
use crate::os;

/// Notes what is wrong with the machine, or with who it is that installs.
pub fn look(arguments: &Installer, manifest: &Manifest, problems: &mut Problems) {
    let (wanted, here) = (&manifest.platform, Platform::current());
    if (&wanted.os, &wanted.arch) != (&here.os, &here.arch) {
        problems
            .0
            .push(format!("the bundle is for {} on {}, and this is {} on {}", wanted.os, wanted.arch, here.os, here.arch));
    } else if let Some(floor) = &wanted.glibc {
        let users = manifest.components.iter().filter(|one| one.glibc.as_ref() == Some(floor)).map(|one| one.name.as_str());
        problems.0.extend(glibc(floor, &users.collect::<Vec<_>>().join(", "), os::glibc_version().as_deref()));
    }
    if nix::unistd::geteuid().is_root() && cfg!(target_os = "linux") && !arguments.allow_root && !root::is_allowed() {
        problems.0.push(format!(
            "this is root, which would own the monitor and run its services. Install as the user that shall own it, for example by \
             `runuser -u USER -- installer …`; or, if root is meant, with --allow-root or {}=1",
            root::VARIABLE
        ));
    }
}

/// What is wrong with the C library that the system has, given the oldest one that the bundle's programs can do with, and whose
/// programs those are.
fn glibc(floor: &str, users: &str, here: Option<&str>) -> Option<String> {
    let numbers = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    let has = match here {
        Some(here) if numbers(here) >= numbers(floor) => return None,
        Some(here) => format!("has {here}"),
        None => "seems to have none (a musl system, such as Alpine?)".to_owned(),
    };
    let users = if users.is_empty() { String::new() } else { format!(" (for {users})") };
    Some(format!("the bundle needs glibc {floor} or newer{users}, and this system {has}"))
}

/// The name given, or the machine's own, reversed: `host.domain.example` is `example.domain.host`.
///
/// # Errors
/// When it cannot be a name in metrics.
pub fn hostname(given: Option<&str>) -> Result<String> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => {
            let own = nix::unistd::gethostname().context("cannot tell this machine's name; give one by --hostname")?;
            let own = own.to_string_lossy().into_owned();
            let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
            reversed(&full_name(&own, &hosts))
        }
    };
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if name.len() > 200 || !name.split('.').all(plain) {
        bail!("--hostname {}: parts of A-Z a-z 0-9 - _, with dots between them, and at most 200 in all", name.escape_debug());
    }
    Ok(name)
}

/// The full name of a machine whose own name has no dot, as far as /etc/hosts knows it. Name servers are not asked: an installation
/// should not hang on one.
fn full_name(own: &str, hosts: &str) -> String {
    if own.contains('.') {
        return own.trim_end_matches('.').to_owned();
    }
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or(""));
    let names = lines.map(|line| line.split_ascii_whitespace().skip(1).collect::<Vec<_>>());
    let full = names.filter(|names| names.contains(&own)).find_map(|names| {
        names.into_iter().find(|name| name.strip_prefix(own).is_some_and(|rest| rest.starts_with('.'))).map(str::to_owned)
    });
    full.unwrap_or_else(|| own.to_owned())
}

fn reversed(name: &str) -> String {
    name.split('.').rev().collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_reversed() {
        assert_eq!(reversed(&full_name("host.example.domain", "")), "domain.example.host");
        assert_eq!(full_name("web", "127.0.0.1 localhost\n10.0.0.7 web.example.org web # x\n"), "web.example.org");
        assert_eq!(full_name("web", "10.0.0.7 website.example.org web\n"), "web");
        assert_eq!(hostname(Some("local.test")).unwrap(), "local.test");
        for bad in ["", ".a", "a..b", "a b", "a;b", "ä"] {
            assert!(hostname(Some(bad)).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_older_c_library_is_refused() {
        assert_eq!(glibc("2.28", "x", Some("2.28")), None);
        assert_eq!(glibc("2.9", "x", Some("2.36")), None);
        let why = glibc("2.34", "collectd", Some("2.9")).unwrap();
        assert!(why.ends_with("needs glibc 2.34 or newer (for collectd), and this system has 2.9"), "{why}");
        assert!(glibc("2.34", "collectd", None).unwrap().contains("musl"));
    }
}
