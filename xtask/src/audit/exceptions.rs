//! `audit.toml`: vulnerabilities that somebody has looked at and that may be shipped for the time being, each with a reason and
//! the day on which it has to be looked at again.

use super::Finding;
use crate::error::{Kind, WithKind as _};
use jiff::civil::Date;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file's name in a stack; a stack without it has no exceptions but those of the repository.
pub const FILE: &str = "audit.toml";

/// All exceptions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    /// Where they were read from.
    #[serde(skip)]
    pub path: PathBuf,
    #[serde(default, rename = "exception")]
    all: Vec<Exception>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Any name of the vulnerability.
    pub id: String,
    /// The package that it is for, by its URL with or without version; for all that have it where this is missing.
    purl: Option<String>,
    /// Why it may be shipped.
    reason: String,
    /// The last day on which it may: `2027-03-31`, as a text or as TOML's own date.
    until: toml::Value,
    #[serde(skip)]
    day: Date,
}

/// What an exception means for a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excused {
    /// Nobody has looked at it.
    Not,
    /// It may be shipped, for this reason and until then.
    Until(String, Date),
    /// It might have been shipped until then.
    Expired(String, Date),
}

impl Exceptions {
    /// Reads those of the stack in `root`, or of the repository; there may be none.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a file that cannot be used.
    pub fn read(root: &Path, workspace: &Path) -> anyhow::Result<Self> {
        let Some(path) = [root, workspace].map(|folder| folder.join(FILE)).into_iter().find(|path| path.is_file()) else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(&path).kind(Kind::Usage, || format!("cannot read {}", path.display()))?;
        let fail = |why: String| Kind::Usage.error(format!("cannot use {}: {why}", path.display()));
        Self::parse(&text).map(|all| Self { path: path.clone(), ..all }).map_err(fail)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut read: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for one in &mut read.all {
            if one.reason.trim().is_empty() {
                return Err(format!("the exception for {} needs a reason", one.id));
            }
            let until = one.until.as_str().map_or_else(|| one.until.to_string(), str::to_owned);
            one.day =
                until.parse().map_err(|_| format!("the exception for {}: \"{until}\" is no day such as 2027-03-31", one.id))?;
        }
        Ok(read)
    }

    /// What they mean for a finding on this day.
    pub fn of(&self, finding: &Finding, today: Date) -> Excused {
        let mut fitting: Vec<&Exception> = self.all.iter().filter(|one| one.fits(finding)).collect();
        fitting.sort_by_key(|one| one.day);
        match fitting.last() {
            None => Excused::Not,
            Some(one) if one.day < today => Excused::Expired(one.reason.clone(), one.day),
            Some(one) => Excused::Until(one.reason.clone(), one.day),
        }
    }

    /// Those that fit nothing of what was found.
    pub fn unused<'a>(&'a self, findings: &'a [Finding]) -> impl Iterator<Item = &'a Exception> {
        self.all.iter().filter(|one| !findings.iter().any(|finding| one.fits(finding)))
    }
}

impl Exception {
    fn fits(&self, finding: &Finding) -> bool {
        let names = crate::account::names_of(&finding.purl);
        let right = self.purl.as_ref().is_none_or(|purl| names.contains(&purl.as_str()));
        right && finding.names.contains(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::severity::Severity;
    use std::collections::BTreeSet;

    #[test]
    fn an_exception_counts_until_its_day_for_what_it_names() {
        let text = |until: &str| {
            format!("[[exception]]\nid = \"GHSA-1\"\npurl = \"pkg:npm/x\"\nreason = \"not reachable\"\nuntil = \"{until}\"\n")
        };
        let exceptions = Exceptions::parse(&text("2027-03-31")).unwrap();
        let finding = |name: &str, purl: &str| Finding {
            names: vec!["CVE-1".to_owned(), name.to_owned()],
            purl: purl.to_owned(),
            parts: BTreeSet::new(),
            severity: Severity::High,
            summary: String::new(),
            fixed: BTreeSet::new(),
        };
        let on = |day: &str, name: &str, purl: &str| exceptions.of(&finding(name, purl), day.parse().unwrap());
        assert!(matches!(on("2027-03-31", "GHSA-1", "pkg:npm/x@1.0.0"), Excused::Until(..)));
        assert!(matches!(on("2027-04-01", "GHSA-1", "pkg:npm/x@1.0.0"), Excused::Expired(..)));
        assert_eq!(on("2027-01-01", "GHSA-2", "pkg:npm/x@1.0.0"), Excused::Not);
        assert_eq!(on("2027-01-01", "GHSA-1", "pkg:npm/y@1.0.0"), Excused::Not);
        assert_eq!(exceptions.unused(&[finding("GHSA-2", "pkg:npm/x@1.0.0")]).count(), 1);
        assert_eq!(exceptions.unused(&[finding("GHSA-1", "pkg:npm/x@1.0.0")]).count(), 0);
        let as_date = Exceptions::parse(&text("2027-03-31").replace("\"2027-03-31\"", "2027-03-31")).unwrap();
        assert_eq!(as_date.all[0].day, exceptions.all[0].day);
        assert!(Exceptions::parse(&text("2027-03-31").replace("\"2027-03-31\"", "7")).unwrap_err().contains("\"7\" is no day"));
        assert!(Exceptions::parse(&text("soon")).unwrap_err().contains("soon"));
        assert!(Exceptions::parse(&text("2027-03-31").replace("not reachable", " ")).unwrap_err().contains("reason"));
    }
}
