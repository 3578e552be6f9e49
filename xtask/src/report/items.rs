//! All packages of a bundle with their licences. Of each no more is kept than what it is called and where the accounts tell of it: the
//! rest is read when it is wanted.

use super::policy::Concluded;
use super::{Facts, MOST_TOLD, Part};
use crate::account::Package;
use crate::account::kept::{Seen, Span};
use crate::error::Kind;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// A package of the whole bundle.
#[derive(Debug)]
pub struct Item<'a> {
    /// What the accounts of all components that have it say together.
    pub package: Package,
    /// Its licence.
    pub licence: &'a Concluded,
    /// The components that have it.
    pub parts: BTreeSet<&'a str>,
}

/// The packages, sorted by their URLs.
pub struct Items<'a> {
    parts: &'a [Part<'a>],
    /// The licences that there are: few, whatever the number of packages.
    licences: Vec<Concluded>,
    known: BTreeMap<String, Known>,
}

/// What is kept of a package.
struct Known {
    /// Its licence's place among those that there are.
    licence: usize,
    /// Which components' accounts tell of it, and where.
    told: Vec<(usize, Span)>,
}

impl<'a> Items<'a> {
    /// Goes through all accounts.
    ///
    /// # Errors
    /// [`Kind::Accounts`] with every licence that is not known, may not be shipped or has changed.
    pub fn of(facts: &'a Facts<'_>) -> anyhow::Result<Self> {
        let mut items = Self { parts: &facts.parts, licences: Vec::new(), known: BTreeMap::new() };
        let mut problems: BTreeSet<String> = BTreeSet::new();
        for (at, part) in facts.parts.iter().enumerate() {
            if let Some(source) = part.source {
                problems.extend(facts.policy.problems_of_source(source, part.kept.own()));
            }
            let seen = part.kept.seen()?;
            part.kept.packages(|span, package| {
                if let Err(why) = items.add(facts, (at, span), &package, &seen) {
                    problems.insert(format!("{} ({}): {why}", package.purl(), part.name));
                }
                Ok(())
            })?;
        }
        if problems.is_empty() { Ok(items) } else { Err(refused(facts, &problems)) }
    }

    fn add(&mut self, facts: &Facts<'_>, told: (usize, Span), package: &Package, seen: &Seen) -> Result<(), String> {
        let licence = facts.policy.conclude(package, seen)?;
        match self.known.entry(package.purl()) {
            Entry::Occupied(mut known) => known.get_mut().told.push(told),
            Entry::Vacant(new) => {
                let at = self.licences.iter().position(|known| *known == licence).unwrap_or_else(|| {
                    self.licences.push(licence);
                    self.licences.len() - 1
                });
                new.insert(Known { licence: at, told: vec![told] });
            }
        }
        Ok(())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = anyhow::Result<Item<'_>>> {
        self.known.values().map(|known| self.read(known))
    }

    /// Those that a component has, each with its place among all.
    pub fn of_part(&self, part: usize) -> impl Iterator<Item = (usize, anyhow::Result<Item<'_>>)> {
        let all = self.known.values().enumerate().filter(move |(_, known)| known.is_in(part));
        all.map(|(at, known)| (at, self.read(known)))
    }

    /// The URLs of those that a component has.
    pub fn urls_of_part(&self, part: usize) -> impl Iterator<Item = &str> {
        self.known.iter().filter(move |(_, known)| known.is_in(part)).map(|(url, _)| url.as_str())
    }

    /// Reads what all accounts say of a package.
    fn read(&self, known: &Known) -> anyhow::Result<Item<'_>> {
        let mut parts = BTreeSet::new();
        let mut whole: Option<Package> = None;
        for (part, span) in &known.told {
            let part = &self.parts[*part];
            parts.insert(part.name);
            let package = part.kept.package(*span)?;
            match &mut whole {
                None => whole = Some(package),
                Some(whole) => {
                    whole.within.extend(package.within);
                    whole.evidence = whole.evidence.min(package.evidence);
                    whole.patches.extend(package.patches);
                    whole.texts.extend(package.texts);
                }
            }
        }
        let mut package = whole.ok_or_else(|| Kind::Stage.error("a package is in no account"))?;
        package.texts.sort();
        package.texts.dedup();
        Ok(Item { package, licence: &self.licences[known.licence], parts })
    }
}

impl Known {
    fn is_in(&self, part: usize) -> bool {
        self.told.iter().any(|(at, _)| *at == part)
    }
}

fn refused(facts: &Facts<'_>, problems: &BTreeSet<String>) -> anyhow::Error {
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
    Kind::Accounts.error(text)
}
