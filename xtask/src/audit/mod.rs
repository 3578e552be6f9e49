//! Known vulnerabilities of what a bundle holds: its bill of materials against a database in the form of OSV, offline.
//!
//! `bill` reads what there is, `database` the advisories that could concern it, `osv` decides whether one does, `exceptions` which
//! of them somebody has looked at. Several databases tell of the same vulnerability under several names; they are told as
//! one, with the worst severity that any of them gives.
//!
//! Left to others: where the database comes from. It is a file, a folder or a zip as OSV publishes them for each ecosystem.

pub mod bill;
pub mod database;
pub mod exceptions;
pub mod osv;
pub mod severity;

use bill::Subject;
use osv::Advisory;
use severity::Severity;
use std::collections::{BTreeMap, BTreeSet};

/// A vulnerability that something in the bundle has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// All names of the advisories that tell of it, the one to call it by first.
    pub names: Vec<String>,
    /// The package URL.
    pub purl: String,
    /// The components that have it.
    pub parts: BTreeSet<String>,
    /// The worst that any advisory says.
    pub severity: Severity,
    /// One line.
    pub summary: String,
    /// Versions without it, as far as advisories name them.
    pub fixed: BTreeSet<String>,
}

/// What of all this is the matter with the subjects, the worst first.
pub fn findings(subjects: &[Subject], advisories: &[Advisory]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for subject in subjects {
        let mut found: Vec<(BTreeSet<String>, Finding)> = Vec::new();
        for advisory in advisories {
            let Some(fixed) = osv::affects(advisory, subject) else { continue };
            let mut names = advisory.names();
            let mut finding = Finding {
                names: Vec::new(),
                purl: subject.purl.clone(),
                parts: subject.parts.clone(),
                severity: advisory.severity(subject),
                summary: advisory.summary(),
                fixed,
            };
            // Whatever shares a name with it is the same vulnerability.
            let (same, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(known, _)| !known.is_disjoint(&names));
            found = others;
            for (known, other) in same {
                names.extend(known);
                finding.severity = finding.severity.max_known(other.severity);
                finding.fixed.extend(other.fixed);
                if finding.summary.is_empty() {
                    finding.summary = other.summary;
                }
            }
            found.push((names, finding));
        }
        findings.extend(found.into_iter().map(|(names, finding)| Finding { names: sorted(&names), ..finding }));
    }
    findings.sort_by(|a, b| {
        b.severity.weight().cmp(&a.severity.weight()).then_with(|| (&a.names, &a.purl).cmp(&(&b.names, &b.purl)))
    });
    findings
}

/// CVE numbers first, since everybody knows these, then the rest by name.
fn sorted(names: &BTreeSet<String>) -> Vec<String> {
    let mut names: Vec<String> = names.iter().cloned().collect();
    names.sort_by_key(|name| !name.starts_with("CVE-"));
    names
}

/// The names by which advisories could call what the bill holds: who else need not be read.
pub fn wanted(subjects: &[Subject]) -> BTreeMap<String, BTreeSet<String>> {
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in subjects.iter().flat_map(|subject| &subject.names) {
        wanted.entry(name.ecosystem.clone()).or_default().insert(name.name.clone());
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_vulnerability_under_several_names_is_told_once_and_the_worst_comes_first() {
        let subject = Subject::of_purl("pkg:golang/example.org/x@v1.2.0", &["thing"]).unwrap();
        let advisory = |id: &str, aliases: &[&str], severity: &str| -> Advisory {
            let text = serde_json::json!({
                "id": id, "aliases": aliases, "summary": "", "database_specific": { "severity": severity },
                "affected": [{ "package": { "ecosystem": "Go", "name": "example.org/x" },
                    "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "fixed": format!("1.{}.0", id.len()) }] }] }],
            });
            serde_json::from_value(text).unwrap()
        };
        let all =
            [advisory("GO-1", &["CVE-1"], ""), advisory("GHSA-9", &["CVE-9"], "LOW"), advisory("GHSA-1", &["CVE-1"], "HIGH")];
        let found = findings(&[subject], &all);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].names, ["CVE-1", "GHSA-1", "GO-1"]);
        assert_eq!((found[0].severity, found[1].severity), (Severity::High, Severity::Low));
        assert_eq!(found[0].fixed, BTreeSet::from(["1.4.0".to_owned(), "1.6.0".to_owned()]));
    }
}
