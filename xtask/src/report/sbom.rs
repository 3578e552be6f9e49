//! The bill of materials, in CycloneDX 1.6.
//!
//! Identifiers are package URLs where there are such. The serial number is made from the content and the time is the
//! bundle's, so that the same bundle has the same bill. What has no place in CycloneDX's own words stands in properties that begin
//! with `dkumonitor:` (docs/accounts.md).

use super::papers::{Hashing, Papers, Sequence};
use super::{Facts, Item, Items, PROJECT, Part, SBOM};
use crate::account::{Ecosystem, Evidence, Patch, purl};
use crate::elf::Version;
use base64::Engine as _;
use dkumonitor_interface::manifest::{Component, SourceId};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::Digest as _;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Writes the bill.
///
/// # Errors
/// When an account cannot be read any more, or the bill not be written.
pub(super) fn write(facts: &Facts<'_>, items: &Items<'_>, papers: &mut Papers) -> anyhow::Result<()> {
    // Twice: its number follows from all the rest, and the rest is not kept.
    let mut hash = Hashing::default();
    serde_json::to_writer(&mut hash, &bill(facts, items, None))?;
    let serial_number = format!("urn:uuid:{}", uuid(&hash.0.finalize()));
    papers.json(SBOM, &bill(facts, items, Some(serial_number)))
}

/// A bill, its keys in the order of the alphabet, as those of all JSON that is made here.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bill<C, D> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    components: C,
    dependencies: D,
    metadata: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    spec_version: &'static str,
    version: u32,
}

/// A UUID of version 8, which is for those that are made in a way of one's own.
fn uuid(hash: &[u8]) -> String {
    let mut bytes: Vec<u8> = hash.iter().take(16).copied().collect();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = crate::fingerprint::hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn bill(facts: &Facts<'_>, items: &Items<'_>, serial_number: Option<String>) -> impl Serialize {
    let manifest = facts.manifest;
    let name = manifest.stack.as_ref().map_or_else(|| manifest.name.clone(), |stack| format!("{}-{stack}", manifest.name));
    let own = format!("bundle:{name}@{}", manifest.version);
    let libraries = libraries(&facts.parts);
    let mut properties = vec![property("platform", &format!("{}-{}", manifest.platform.os, manifest.platform.arch))];
    let floors = facts.parts.iter().filter_map(|part| part.kept.glibc()?.parse::<Version>().ok());
    properties.extend(floors.max().map(|floor| property("glibc", &floor.to_string())));
    // Who supplies it and who says so: what is asked of every bill of materials (NTIA's minimum elements), beside names, versions and times.
    let project = json!({ "name": PROJECT });
    let metadata = json!({
        "timestamp": timestamp(facts.epoch),
        "lifecycles": [{ "phase": "build" }],
        "tools": { "components": [{
            "type": "application", "name": "dkumonitor xtask", "version": env!("CARGO_PKG_VERSION"),
        }] },
        "supplier": project,
        "manufacturer": project,
        "component": {
            "type": "application",
            "bom-ref": own,
            "supplier": project,
            "purl": purl("generic", &name, &manifest.version),
            "name": name,
            "version": manifest.version,
            "properties": properties,
        },
    });
    let components = Sequence(move || {
        let components =
            manifest.components.iter().zip(&facts.parts).map(|(component, part)| Ok(of_component(component, part)));
        let libraries = libraries.clone().into_iter().map(|(library, files)| Ok(of_library(&library, &files)));
        components.chain(items.iter().map(|item| Ok(of_item(&item?)))).chain(libraries)
    });
    let dependencies = Sequence(move || {
        let names = facts.parts.iter().map(|part| reference_of_component(part.name).into());
        let bundle = Dependency { on: names.collect(), of: own.clone() };
        let parts = facts.parts.iter().enumerate().map(|(at, part)| Ok(dependency(at, part, items)));
        std::iter::once(Ok(bundle)).chain(parts)
    });
    Bill {
        schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
        bom_format: "CycloneDX",
        components,
        dependencies,
        metadata,
        serial_number,
        spec_version: "1.6",
        version: 1,
    }
}

/// Seconds since 1970 as CycloneDX has times.
fn timestamp(epoch: u64) -> String {
    let second = i64::try_from(epoch).unwrap_or_default();
    jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

fn property(name: &str, value: &str) -> Value {
    json!({ "name": format!("dkumonitor:{name}"), "value": value })
}

fn reference_of_component(name: &str) -> String {
    format!("component:{name}")
}

fn reference_of_library(name: &str) -> String {
    format!("host:{name}")
}

fn licences(expression: &str, acknowledgement: &str) -> Value {
    json!([{ "expression": expression, "acknowledgement": acknowledgement }])
}

fn of_component(component: &Component, part: &Part<'_>) -> Value {
    let mut value = json!({
        "type": "application",
        "bom-ref": reference_of_component(&component.name),
        "name": component.name,
        "version": component.version,
        "licenses": licences(&component.license, "concluded"),
        "scope": "required",
    });
    if let Some(purl) = &component.purl {
        value["purl"] = json!(purl);
    }
    let mut properties = Vec::new();
    match &component.source {
        SourceId::Archive { sha256, url, .. } => {
            let hashes = json!([{ "alg": "SHA-256", "content": sha256 }]);
            value["externalReferences"] = json!([{ "type": "source-distribution", "url": url, "hashes": hashes }]);
            // The component is what was made of that archive: its hash is the archive's and stands with it alone.
        }
        SourceId::Tree { path, tree_sha256 } => {
            properties.push(property("source.path", path));
            properties.push(property("source.tree-sha256", tree_sha256));
        }
    }
    properties.extend(component.toolchain.iter().map(|(tool, version)| property(&format!("toolchain.{tool}"), version)));
    if !part.patches.is_empty() {
        let patch = |(name, text): &(String, String)| {
            json!({
                "type": "unofficial",
                "diff": { "text": { "contentType": "text/x-patch", "content": text }, "url": format!("patches/{}/{name}", part.name) },
            })
        };
        value["pedigree"] = json!({ "patches": part.patches.iter().map(patch).collect::<Vec<_>>() });
        let hashes = component.patches.iter().map(|patch| property(&format!("patch.{}", patch.name), &patch.sha256));
        properties.extend(hashes);
    }
    if !properties.is_empty() {
        value["properties"] = json!(properties);
    }
    value
}

fn of_item(item: &Item<'_>) -> Value {
    let package = &item.package;
    let purl = package.purl();
    let (group, name) = match (package.ecosystem, package.name.split_once('/')) {
        (Ecosystem::Npm, Some((scope, name))) => (Some(scope), name),
        _ => (None, package.name.as_str()),
    };
    // For certain there, or installed for what is there.
    let scope = if package.evidence == Evidence::LockFile { "optional" } else { "required" };
    let mut value = json!({
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "purl": purl,
        "licenses": licences(&item.licence.expression, if item.licence.how == super::policy::How::Declared { "declared" } else { "concluded" }),
        "scope": scope,
    });
    if !package.version.is_empty() {
        value["version"] = json!(package.version);
    }
    if let Some(group) = group {
        value["group"] = json!(group);
    }
    let mut properties = vec![property("evidence", package.evidence.words()), property("licence", item.licence.how.word())];
    properties.extend(package.within.iter().map(|within| property("within", within)));
    properties.extend(package.replaces.iter().map(|replaced| property("replaces", replaced)));
    properties.extend(package.origin.iter().map(|origin| property("origin", &origin.words())));
    if !package.patches.is_empty() {
        properties.extend(package.patches.iter().map(|patch| property("patch", &patch.name)));
        value["pedigree"] = json!({ "patches": package.patches.iter().map(of_patch).collect::<Vec<_>>() });
    }
    if let Some(sum) = &package.sum {
        match hash(package.ecosystem, sum) {
            Some(hash) => value["hashes"] = json!([hash]),
            None => properties.push(property("sum", sum)),
        }
    }
    value["properties"] = json!(properties);
    value
}

/// What a package manager has changed in a package.
fn of_patch(patch: &Patch) -> Value {
    match &patch.text {
        Some(text) => {
            json!({ "type": "unofficial", "diff": { "text": { "contentType": "text/x-patch", "content": text } } })
        }
        None => json!({ "type": "unofficial" }),
    }
}

/// A lock file's hash in CycloneDX's words, where it is one over the package's archive.
fn hash(ecosystem: Ecosystem, sum: &str) -> Option<Value> {
    match ecosystem {
        Ecosystem::Cargo => Some(json!({ "alg": "SHA-256", "content": sum })),
        Ecosystem::Npm => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(sum.strip_prefix("sha512-")?).ok()?;
            (bytes.len() == 64).then(|| json!({ "alg": "SHA-512", "content": crate::fingerprint::hex(&bytes) }))
        }
        Ecosystem::Golang | Ecosystem::Generic => None,
    }
}

/// The libraries that the bundle expects of the machine, with the files that need them.
fn libraries(parts: &[Part<'_>]) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (library, files) in parts.iter().flat_map(|part| part.kept.libraries()) {
        all.entry(library.clone()).or_default().extend(files.iter().cloned());
    }
    all
}

fn of_library(library: &str, files: &BTreeSet<String>) -> Value {
    let mut properties = vec![property("provided-by", "the machine that it runs on")];
    properties.extend(files.iter().map(|file| property("needed-by", file)));
    json!({
        "type": "library",
        "bom-ref": reference_of_library(library),
        "name": library,
        "scope": "required",
        "properties": properties,
    })
}

/// What depends on what. On what packages and libraries depend themselves is not known, so they do not stand here.
#[derive(Serialize)]
struct Dependency<'a> {
    #[serde(rename = "dependsOn")]
    on: Vec<Cow<'a, str>>,
    #[serde(rename = "ref")]
    of: String,
}

fn dependency<'a>(at: usize, part: &Part<'_>, items: &'a Items<'_>) -> Dependency<'a> {
    let packages = items.urls_of_part(at).map(Cow::from);
    let host = part.kept.libraries().keys().map(|library| reference_of_library(library).into());
    Dependency { on: packages.chain(host).collect(), of: reference_of_component(part.name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Sha256;

    #[test]
    fn a_serial_number_is_a_uuid_that_the_content_decides() {
        let one = uuid(&Sha256::digest("one"));
        assert_eq!(one, uuid(&Sha256::digest("one")));
        assert_ne!(one, uuid(&Sha256::digest("two")));
        assert_eq!((one.len(), &one[14..15]), (36, "8"));
        assert!("89ab".contains(&one[19..20]), "{one}");
        assert_eq!(timestamp(1_700_000_000), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn hashes_of_archives_are_hashes_and_others_are_not() {
        let sri = format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode([7; 64]));
        assert_eq!(hash(Ecosystem::Npm, &sri).unwrap()["content"], "07".repeat(64));
        assert_eq!(hash(Ecosystem::Npm, "8/abcdef"), None);
        assert_eq!(hash(Ecosystem::Golang, "h1:x="), None);
        assert_eq!(hash(Ecosystem::Cargo, "ab").unwrap()["alg"], "SHA-256");
    }
}
