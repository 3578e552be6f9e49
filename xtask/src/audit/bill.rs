//! What a bill of materials holds, as far as advisories could concern it.

use crate::account::unescape;
use crate::error::{Kind, WithKind as _};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Something that advisories could concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its package URL.
    pub purl: String,
    /// How advisories may call it.
    pub names: Vec<Name>,
    /// Its version, without the `v` that tags and Go's versions begin with.
    pub version: String,
    /// The tag or version as it is written.
    pub tag: String,
    /// The components that have it.
    pub parts: BTreeSet<String>,
}

/// How advisories call a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `Go`, `npm`, `crates.io`, or `GIT` for a repository.
    pub ecosystem: String,
    /// The package, or a repository's address.
    pub name: String,
}

/// A name as it is compared. Modules of Go and repositories are written with and without capitals; what differs in that alone is nowhere
/// two things. Of npm's packages some old ones are.
pub fn folded(ecosystem: &str, name: &str) -> String {
    if matches!(ecosystem, "Go" | "GIT") { name.to_lowercase() } else { name.to_owned() }
}

/// A CycloneDX bill, as far as it matters.
#[derive(Deserialize)]
struct Bill {
    #[serde(rename = "bomFormat")]
    format: String,
    #[serde(default)]
    components: Vec<Component>,
    #[serde(default)]
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(rename = "bom-ref", default)]
    reference: String,
    #[serde(default)]
    purl: Option<String>,
}

#[derive(Deserialize)]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    #[serde(rename = "dependsOn", default)]
    on: Vec<String>,
}

/// Reads a bill; gives what advisories could concern, and how many entries there are in all.
///
/// # Errors
/// [`Kind::Usage`] when it cannot be read or is none.
pub fn read(path: &Path) -> anyhow::Result<(Vec<Subject>, usize)> {
    let text = std::fs::read(path).kind(Kind::Usage, || {
        format!("cannot read {} (make it by `cargo xtask package`, or give another by --sbom FILE)", path.display())
    })?;
    let bill: Bill =
        serde_json::from_slice(&text).kind(Kind::Usage, || format!("{} is no CycloneDX in JSON", path.display()))?;
    if bill.format != "CycloneDX" {
        return Err(Kind::Usage.error(format!("{} is {}, not CycloneDX", path.display(), bill.format)));
    }
    let mut owners: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for dependency in &bill.dependencies {
        if let Some(part) = dependency.reference.strip_prefix("component:") {
            for on in &dependency.on {
                owners.entry(on).or_default().insert(part);
            }
        }
    }
    let subject = |component: &Component| {
        let own = component.reference.strip_prefix("component:");
        let owners = owners.get(component.reference.as_str()).into_iter().flatten().copied().chain(own);
        Subject::of_purl(component.purl.as_deref()?, &owners.collect::<Vec<_>>())
    };
    Ok((bill.components.iter().filter_map(subject).collect(), bill.components.len()))
}

impl Subject {
    /// What a package URL stands for; none for one that no advisories are known for.
    pub fn of_purl(purl: &str, parts: &[&str]) -> Option<Self> {
        let rest = purl.strip_prefix("pkg:")?.split(['?', '#']).next()?;
        let (kind, rest) = rest.split_once('/')?;
        let (path, version) = rest.rsplit_once('@')?;
        let (path, tag) = (unescape(path), unescape(version));
        let name = |ecosystem: &str, name: String| Name { ecosystem: ecosystem.to_owned(), name: folded(ecosystem, &name) };
        let names = match kind {
            "golang" => vec![name("Go", path)],
            "npm" => vec![name("npm", path)],
            "cargo" => vec![name("crates.io", path)],
            // Most of what is in Go at GitHub is a module of that name; who has advisories on it knows it by that.
            "github" => vec![name("GIT", format!("https://github.com/{path}")), name("Go", format!("github.com/{path}"))],
            _ => return None,
        };
        let numbered = tag.strip_prefix('v').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        // `collectd-5.12.0`: the name before the number.
        let numbered = numbered.or_else(|| tag.rsplit_once('-').map(|(_, rest)| rest).filter(|_| kind == "github"));
        let version = numbered.unwrap_or(&tag).trim_end_matches("+incompatible").to_owned();
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        Some(Self { purl: purl.to_owned(), names, version, tag, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_are_what_advisories_call_them() {
        let of = |purl: &str| {
            Subject::of_purl(purl, &[]).map(|one| {
                let names: Vec<_> = one.names.iter().map(|name| format!("{} {}", name.ecosystem, name.name)).collect();
                format!("{} {}", names.join(", "), one.version)
            })
        };
        assert_eq!(of("pkg:npm/%40grafana/ui@9.3.2").unwrap(), "npm @grafana/ui 9.3.2");
        assert_eq!(of("pkg:golang/x.org/y@v2.0.0%2Bincompatible").unwrap(), "Go x.org/y 2.0.0");
        assert_eq!(of("pkg:golang/stdlib@1.26.8").unwrap(), "Go stdlib 1.26.8");
        let github = "GIT https://github.com/collectd/collectd, Go github.com/collectd/collectd 5.12.0";
        assert_eq!(of("pkg:github/collectd/collectd@collectd-5.12.0").unwrap(), github);
        assert_eq!(of("pkg:generic/musl"), None);
    }
}
