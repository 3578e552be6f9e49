//! The bundle accounted for: its bill of materials, the licences and notices of all that is in it, and how it came about.
//!
//! All of it is made from the lock, the recipes and the components' accounts ([`crate::account`]) by pure functions, so that
//! the same inputs give the same bytes, and so that nothing has to be looked up when it is made. What goes into the bundle
//! ([`Papers`]) is part of what staging expects; the provenance names the archives' hashes and is written when these are there.
//!
//! Stacks may have any number of packages: accounts are read, and papers written, a package at a time.

pub mod items;
pub mod notices;
pub mod papers;
pub mod policy;
pub mod provenance;
pub mod sbom;

use crate::account::kept::Kept;
use crate::stack::lock::Source;
use dkumonitor_interface::manifest::Manifest;
use items::{Item, Items};
use papers::Papers;
use policy::Policy;

/// The bill of materials in the bundle's root.
pub const SBOM: &str = "sbom.cdx.json";

/// Part of what a tree is made from: raised whenever the same accounts give other papers.
pub const VERSION: &str = "2";

/// Who supplies bundles and answers for what is said of them.
pub const PROJECT: &str = "The dkumonitor project";

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
    pub kept: Kept<'a>,
}

/// Makes the papers that go into the bundle.
///
/// # Errors
/// [`Kind::Accounts`](crate::error::Kind::Accounts) with every licence that is not known, may not be shipped or has changed.
pub fn write(facts: &Facts<'_>, papers: &mut Papers) -> anyhow::Result<()> {
    let items = Items::of(facts)?;
    notices::write(facts, &items, papers)?;
    sbom::write(facts, &items, papers)
}
