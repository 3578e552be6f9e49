//! The bundle accounted for: its bill of materials, the licences and notices of all that is in it, and how it came about.
//!
//! All of it is made from the lock, the recipes and the components' accounts ([`crate::account`]) by pure functions, so that
//! the same inputs give the same bytes, and so that nothing has to be looked up when it is made. What goes into the bundle
//! ([`Papers`]) is part of what staging expects; the provenance names the archives' hashes and is written when these are there.

pub mod notices;
pub mod policy;
pub mod provenance;
pub mod sbom;

use crate::account::{Kept, Package};
use crate::error::Kind;
use crate::stack::lock::Source;
use dkumonitor_interface::manifest::Manifest;
use policy::{Concluded, Policy};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The bill of materials in the bundle's root.
pub const SBOM: &str = "sbom.cdx.json";

/// Part of what a tree is made from: raised whenever the same accounts give other papers.
pub const VERSION: &str = "1";

/// How many problems are told at once; each of them has to be looked at anyway.
const MOST_TOLD: usize = 60;

/// What papers are made from.
pub struct Facts<'a> {
    /// The bundle's manifest, files not needed.
    pub manifest: &'a Manifest,
    /// The time of the bundle, in seconds since 1970.
    pub epoch: u64,
    /// The components, in the manifest's order.
    pub parts: Vec<Part<'a>>,
    /// What may be shipped.
    pub policy: &'a Policy,
}

/// One component.
pub struct Part<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the lock has of it; none for what is made from the workspace.
    pub source: Option<&'a Source>,
    /// Its patches, each with its text.
    pub patches: Vec<(String, String)>,
    /// Its account.
    pub kept: Kept,
}

/// A package of the whole bundle.
#[derive(Debug)]
pub struct Item {
    /// What the accounts of all components that have it say together.
    pub package: Package,
    /// Its licence.
    pub licence: Concluded,
    /// The components that have it.
    pub parts: BTreeSet<String>,
}

/// The files that the papers add to the bundle, by path.
pub type Papers = BTreeMap<PathBuf, Vec<u8>>;

/// Makes the papers that go into the bundle.
///
/// # Errors
/// [`Kind::Accounts`] with every licence that is not known, may not be shipped or has changed.
pub fn papers(facts: &Facts<'_>) -> anyhow::Result<Papers> {
    let items = items(facts)?;
    let mut papers = notices::files(facts, &items)?;
    papers.insert(SBOM.into(), sbom::write(facts, &items)?);
    Ok(papers)
}

/// All packages of the bundle with their licences, sorted.
fn items(facts: &Facts<'_>) -> anyhow::Result<Vec<Item>> {
    let mut problems: BTreeSet<String> = BTreeSet::new();
    let mut items: BTreeMap<String, Item> = BTreeMap::new();
    for part in &facts.parts {
        if let Some(source) = part.source {
            problems.extend(facts.policy.problems_of_source(source, &part.kept.account.own));
        }
        for package in &part.kept.account.packages {
            let licence = match facts.policy.conclude(package, &part.kept.account.seen) {
                Ok(licence) => licence,
                Err(why) => {
                    problems.insert(format!("{} ({}): {why}", package.purl(), part.name));
                    continue;
                }
            };
            let item = items.entry(package.purl()).or_insert_with(|| Item {
                package: package.clone(),
                licence,
                parts: BTreeSet::new(),
            });
            item.parts.insert(part.name.to_owned());
            item.package.within.extend(package.within.iter().cloned());
            item.package.evidence = item.package.evidence.min(package.evidence);
            item.package.patches.extend(package.patches.iter().cloned());
            item.package.texts.extend(package.texts.iter().cloned());
            item.package.texts.sort();
            item.package.texts.dedup();
        }
    }
    if problems.is_empty() {
        return Ok(items.into_values().collect());
    }
    let more = problems.len().saturating_sub(MOST_TOLD);
    let what = if problems.len() == 1 { "a licence".to_owned() } else { format!("{} licences", problems.len()) };
    let mut text = format!("{what} cannot be accounted for:");
    for problem in problems.iter().take(MOST_TOLD) {
        text += &format!("\n  {problem}");
    }
    if more > 0 {
        text += &format!("\n  … and {more} more");
    }
    text +=
        &format!("\n  Look at the texts; what may be shipped is said in {} (docs/accounts.md)", facts.policy.path.display());
    Err(Kind::Accounts.error(text))
}
