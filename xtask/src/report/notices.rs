//! `licenses/`: an index for people and one for programs, and every licence and notice text once.
//!
//! The texts of the components' own sources lie beside them in `licenses/<component>/`, as staging puts them there.

use super::policy::Policy;
use super::{Facts, Item, Papers};
use crate::account::texts;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

/// All distinct texts.
const TEXTS: &str = "licenses/THIRD-PARTY.txt";

/// What is under which licence, for people.
const INDEX: &str = "licenses/index.txt";

/// The same for programs.
const INDEX_JSON: &str = "licenses/index.json";

/// The number of the format of [`INDEX_JSON`].
const SCHEMA: u32 = 1;

const RULER: &str = "================================================================================";

/// A distinct text.
#[derive(Default)]
struct Shared {
    /// Who has it.
    of: BTreeSet<String>,
    content: String,
    /// Whether it is SPDX's own, for packages that bring none.
    is_standard: bool,
    /// A file of its own, where it is no plain text.
    file: Option<PathBuf>,
}

/// What a text is known by: the name of a standard text, or a hash.
type Key = String;

/// The files.
///
/// # Errors
/// When a text cannot be read.
pub(super) fn files(facts: &Facts<'_>, items: &[Item]) -> anyhow::Result<Papers> {
    let mut all: BTreeMap<Key, Shared> = BTreeMap::new();
    let mut keys: Vec<Vec<Key>> = Vec::new();
    for item in items {
        keys.push(note(facts, item, &mut all)?);
    }
    let numbers: BTreeMap<&Key, usize> =
        all.iter().filter(|(_, text)| text.file.is_none()).enumerate().map(|(at, (key, _))| (key, at + 1)).collect();
    let mut papers = Papers::new();
    for text in all.values() {
        if let Some(file) = &text.file {
            papers.insert(file.clone(), text.content.clone().into_bytes());
        }
    }
    papers.insert(TEXTS.into(), third_party(&all, &numbers).into_bytes());
    papers.insert(INDEX.into(), index(facts, items, &keys, &all, &numbers).into_bytes());
    let mut json = serde_json::to_vec_pretty(&index_json(facts, items, &keys, &all, &numbers))?;
    json.push(b'\n');
    papers.insert(INDEX_JSON.into(), json);
    Ok(papers)
}

/// Notes a package's texts, or the standard ones of its licences where it brings none.
fn note(facts: &Facts<'_>, item: &Item, all: &mut BTreeMap<Key, Shared>) -> anyhow::Result<Vec<Key>> {
    let package = &item.package;
    let owner = format!("{} {}", package.name, package.version).trim_end().to_owned();
    let mut keys = Vec::new();
    for text in &package.texts {
        if !all.contains_key(&text.sha256) {
            let part = facts.parts.iter().find(|part| part.kept.texts.contains_key(&text.sha256));
            let content = part.map(|part| part.kept.text(&text.sha256)).transpose()?.unwrap_or_default();
            let name = package.name.rsplit('/').next().unwrap_or(&package.name);
            let file = text.name.ends_with(".html").then(|| format!("licenses/{name}-{}", text.name.replace('/', "-")).into());
            all.insert(text.sha256.clone(), Shared { content, file, ..Shared::default() });
        }
        keys.push(text.sha256.clone());
    }
    if keys.is_empty() {
        for licence in identifiers(&item.licence.expression) {
            let Some(content) = texts::standard(&licence) else { continue };
            let standard = || Shared { content: content.to_owned(), is_standard: true, ..Shared::default() };
            // Behind all hashes.
            let key = format!("standard {licence}");
            all.entry(key.clone()).or_insert_with(standard);
            keys.push(key);
        }
    }
    keys.sort();
    keys.dedup();
    for key in &keys {
        all.entry(key.clone()).or_default().of.insert(owner.clone());
    }
    Ok(keys)
}

/// The licences that an expression names.
fn identifiers(expression: &str) -> Vec<String> {
    let Ok(parsed) = spdx::Expression::parse(expression) else { return Vec::new() };
    parsed.requirements().filter_map(|one| one.req.license.id().map(|id| id.name.to_owned())).collect()
}

fn third_party(all: &BTreeMap<Key, Shared>, numbers: &BTreeMap<&Key, usize>) -> String {
    let mut out = String::from(
        "The licences and notices of what this bundle holds besides its components' own code; index.txt tells which of them is \
         whose.\n",
    );
    for (key, number) in numbers {
        let text = &all[*key];
        let head = if text.is_standard {
            format!("the text of {} as SPDX has it, for packages that bring none:", key.trim_start_matches("standard "))
        } else {
            "of".to_owned()
        };
        let of: Vec<&str> = text.of.iter().map(String::as_str).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "\n{RULER}\n[{number}] {head} {}\n{RULER}\n\n{}", of.join(", "), text.content.trim_end());
    }
    out
}

fn index(
    facts: &Facts<'_>,
    items: &[Item],
    keys: &[Vec<Key>],
    all: &BTreeMap<Key, Shared>,
    numbers: &BTreeMap<&Key, usize>,
) -> String {
    let mut out = String::from(
        "What this bundle holds, and under which licences. Numbers in brackets are those of texts in THIRD-PARTY.txt; the texts \
         of the components themselves are in folders of their names. What is marked (*) wants its source to go along: that is \
         in the archive of sources that belongs to this bundle.\n",
    );
    for (component, part) in facts.manifest.components.iter().zip(&facts.parts) {
        let star = mark(facts.policy, &component.license);
        let _ = writeln!(out, "\n{} {} — {}{star}", component.name, component.version, component.license);
        for (item, keys) in items.iter().zip(keys).filter(|(item, _)| item.parts.contains(part.name)) {
            let package = &item.package;
            let star = mark(facts.policy, &item.licence.expression);
            let texts: Vec<String> = keys
                .iter()
                .map(|key| match (&all[key].file, numbers.get(key)) {
                    (Some(file), _) => file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    (None, number) => format!("[{}]", number.copied().unwrap_or_default()),
                })
                .collect();
            let kind = package.ecosystem.purl_type();
            let _ = writeln!(
                out,
                "  {kind} {} {} — {}{star} {}",
                package.name,
                package.version,
                item.licence.expression,
                texts.join(" ")
            );
        }
    }
    out
}

fn mark(policy: &Policy, expression: &str) -> &'static str {
    if policy.is_copyleft(expression) { " (*)" } else { "" }
}

fn index_json(
    facts: &Facts<'_>,
    items: &[Item],
    keys: &[Vec<Key>],
    all: &BTreeMap<Key, Shared>,
    numbers: &BTreeMap<&Key, usize>,
) -> Value {
    let components = facts.manifest.components.iter().zip(&facts.parts).map(|(component, part)| {
        let own = part.kept.account.own.iter();
        let texts: Vec<Value> = own
            .map(|text| json!({ "file": format!("licenses/{}/{}", component.name, text.name), "sha256": text.sha256 }))
            .collect();
        json!({
            "name": component.name,
            "version": component.version,
            "license": component.license,
            "source-goes-along": facts.policy.is_copyleft(&component.license),
            "texts": texts,
        })
    });
    let packages = items.iter().zip(keys).map(|(item, keys)| {
        let texts: Vec<Value> = keys
            .iter()
            .map(|key| {
                let shared = &all[key];
                let hash = crate::fingerprint::hex(&<sha2::Sha256 as sha2::Digest>::digest(&shared.content));
                match (&shared.file, numbers.get(key)) {
                    (Some(file), _) => json!({ "file": file, "sha256": hash }),
                    (None, number) => {
                        json!({ "file": TEXTS, "number": number, "sha256": hash, "standard": shared.is_standard })
                    }
                }
            })
            .collect();
        json!({
            "purl": item.package.purl(),
            "components": item.parts,
            "license": item.licence.expression,
            "known-by": item.licence.how.word(),
            "source-goes-along": facts.policy.is_copyleft(&item.licence.expression),
            "texts": texts,
        })
    });
    json!({
        "schema": SCHEMA,
        "components": components.collect::<Vec<_>>(),
        "packages": packages.collect::<Vec<_>>(),
    })
}
