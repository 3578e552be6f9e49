//! `licenses/`: an index for people and one for programs, and every licence and notice text once.
//!
//! The texts of the components' own sources lie beside them in `licenses/<component>/`, as staging puts them there.

use super::papers::{Papers, Sequence};
use super::policy::Policy;
use super::{Facts, Item, Items};
use crate::account::kept::{self, Hash};
use crate::account::texts;
use crate::fingerprint::hex;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
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

/// What a text is known by. Standard ones stand behind the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// What a package brings, by its hash.
    Own(Hash),
    /// SPDX's own text of a licence, for packages that bring none.
    Standard(&'static str),
}

/// A distinct text.
#[derive(Default)]
struct Shared {
    /// Whose it is: places among the packages.
    of: Vec<usize>,
    /// A file of its own, where it is no plain text.
    file: Option<PathBuf>,
    /// Its number among those that have no file.
    number: Option<usize>,
    /// Of what was written, which is not what a package brings where that is no UTF-8.
    sha256: Hash,
}

/// The texts of all packages, without their contents.
#[derive(Default)]
struct Texts {
    all: BTreeMap<Key, Shared>,
    /// Those of each package, in the packages' order.
    of: Vec<Box<[Key]>>,
    /// What the packages are called.
    names: Vec<String>,
}

/// Writes the files.
///
/// # Errors
/// When a text cannot be read, or a file not be written.
pub(super) fn write(facts: &Facts<'_>, items: &Items<'_>, papers: &mut Papers) -> anyhow::Result<()> {
    let mut texts = Texts::default();
    for item in items.iter() {
        texts.note(&item?)?;
    }
    let plain = texts.all.values_mut().filter(|text| text.file.is_none());
    plain.enumerate().for_each(|(at, text)| text.number = Some(at + 1));
    for (key, text) in &mut texts.all {
        if let Some(file) = &text.file {
            let content = content(facts, key)?;
            text.sha256 = Sha256::digest(&*content).into();
            papers.write(file, |out| Ok(out.write_all(content.as_bytes())?))?;
        }
    }
    papers.write(TEXTS, |out| third_party(facts, &mut texts, out))?;
    papers.write(INDEX, |out| index(facts, items, &texts, out))?;
    papers.json(INDEX_JSON, &index_json(facts, items, &texts))
}

impl Texts {
    /// Notes a package's texts, or the standard ones of its licences where it brings none.
    fn note(&mut self, item: &Item<'_>) -> anyhow::Result<()> {
        let package = &item.package;
        let mut keys = Vec::new();
        for text in &package.texts {
            let key = Key::Own(kept::hash(&text.sha256)?);
            self.all.entry(key).or_insert_with(|| {
                let name = package.name.rsplit('/').next().unwrap_or(&package.name);
                let file = || format!("licenses/{name}-{}", text.name.replace('/', "-")).into();
                Shared { file: text.name.ends_with(".html").then(file), ..Shared::default() }
            });
            keys.push(key);
        }
        if keys.is_empty() {
            let standard = identifiers(&item.licence.expression).into_iter().filter(|name| texts::standard(name).is_some());
            keys.extend(standard.map(Key::Standard));
        }
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            self.all.entry(*key).or_default().of.push(self.names.len());
        }
        self.of.push(keys.into());
        self.names.push(format!("{} {}", package.name, package.version).trim_end().to_owned());
        Ok(())
    }

    /// The names of those whose text it is, sorted, each once.
    fn owners(&self, text: &Shared) -> Vec<&str> {
        let mut names: Vec<&str> = text.of.iter().map(|at| self.names[*at].as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// What a text says.
fn content(facts: &Facts<'_>, key: &Key) -> anyhow::Result<Cow<'static, str>> {
    match key {
        Key::Standard(name) => Ok(texts::standard(name).unwrap_or_default().into()),
        Key::Own(hash) => {
            for part in &facts.parts {
                if let Some(text) = part.kept.text(hash)? {
                    return Ok(text.into());
                }
            }
            Ok("".into())
        }
    }
}

/// The licences that an expression names.
fn identifiers(expression: &str) -> Vec<&'static str> {
    let Ok(parsed) = spdx::Expression::parse(expression) else { return Vec::new() };
    parsed.requirements().filter_map(|one| one.req.license.id().map(|id| id.name)).collect()
}

fn third_party(facts: &Facts<'_>, texts: &mut Texts, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "The licences and notices of what this bundle holds besides its components' own code; index.txt tells which of them is \
         whose."
    )?;
    let mut hashes: Vec<Hash> = Vec::new();
    for (key, text) in &texts.all {
        let Some(number) = text.number else { continue };
        let content = content(facts, key)?;
        let of = texts.owners(text).join(", ");
        let head = match key {
            Key::Standard(name) => format!("the text of {name} as SPDX has it, for packages that bring none:"),
            Key::Own(_) => "of".to_owned(),
        };
        writeln!(out, "\n{RULER}\n[{number}] {head} {of}\n{RULER}\n\n{}", content.trim_end())?;
        hashes.push(Sha256::digest(&*content).into());
    }
    let plain = texts.all.values_mut().filter(|text| text.number.is_some());
    plain.zip(hashes).for_each(|(text, sha256)| text.sha256 = sha256);
    Ok(())
}

fn index(facts: &Facts<'_>, items: &Items<'_>, texts: &Texts, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "What this bundle holds, and under which licences. Numbers in brackets are those of texts in THIRD-PARTY.txt; the texts \
         of the components themselves are in folders of their names. What is marked (*) wants its source to go along: that is \
         in the archive of sources that belongs to this bundle."
    )?;
    for (at, component) in facts.manifest.components.iter().enumerate().take(facts.parts.len()) {
        let star = mark(facts.policy, &component.license);
        writeln!(out, "\n{} {} — {}{star}", component.name, component.version, component.license)?;
        for (place, item) in items.of_part(at) {
            let Item { package, licence, .. } = item?;
            let star = mark(facts.policy, &licence.expression);
            let named = texts.of[place].iter().map(|key| match &texts.all[key] {
                Shared { file: Some(file), .. } => file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                Shared { number, .. } => format!("[{}]", number.unwrap_or_default()),
            });
            let named = named.collect::<Vec<_>>().join(" ");
            let kind = package.ecosystem.purl_type();
            writeln!(out, "  {kind} {} {} — {}{star} {named}", package.name, package.version, licence.expression)?;
        }
    }
    Ok(())
}

fn mark(policy: &Policy, expression: &str) -> &'static str {
    if policy.is_copyleft(expression) { " (*)" } else { "" }
}

/// The index for programs, its keys in the order of the alphabet.
#[derive(Serialize)]
struct Index<P> {
    components: Vec<Value>,
    packages: P,
    schema: u32,
}

fn index_json(facts: &Facts<'_>, items: &Items<'_>, texts: &Texts) -> impl Serialize {
    let components = facts.manifest.components.iter().zip(&facts.parts).map(|(component, part)| {
        let own = part.kept.own().iter();
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
    let packages =
        Sequence(move || items.iter().zip(&texts.of).map(|(item, keys)| Ok(of_package(facts.policy, &item?, keys, texts))));
    Index { components: components.collect(), packages, schema: SCHEMA }
}

fn of_package(policy: &Policy, item: &Item<'_>, keys: &[Key], texts: &Texts) -> Value {
    let told = keys.iter().map(|key| {
        let text = &texts.all[key];
        let sha256 = hex(&text.sha256);
        match (&text.file, text.number) {
            (Some(file), _) => json!({ "file": file, "sha256": sha256 }),
            (None, number) => {
                let is_standard = matches!(key, Key::Standard(_));
                json!({ "file": TEXTS, "number": number, "sha256": sha256, "standard": is_standard })
            }
        }
    });
    json!({
        "purl": item.package.purl(),
        "components": item.parts,
        "license": item.licence.expression,
        "known-by": item.licence.how.word(),
        "source-goes-along": policy.is_copyleft(&item.licence.expression),
        "texts": told.collect::<Vec<_>>(),
    })
}
