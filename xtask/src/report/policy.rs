//! Under which licences parts of a bundle may be shipped: `licences.toml`, and what follows from it for a package.
//!
//! A package's licence is what `licences.toml` says of it, if it says something; else what its manifest declares; else what
//! its texts are seen to hold. Whatever is declared, a text that is seen to be under a licence that may not be shipped is a problem,
//! and so is one that nobody knows. An entry of `licences.toml` is for the texts that somebody has read: where these change, it
//! counts no more.

use crate::account::{Package, Text};
use crate::error::{Kind, WithKind as _};
use crate::stack::lock::{Origin, Source};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The file's name in a stack; a stack without it takes that of the repository.
pub const FILE: &str = "licences.toml";

/// What may be shipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// Where it was read from.
    #[serde(skip)]
    pub path: PathBuf,
    /// Licences under which anything may be shipped: SPDX identifiers, with exceptions as `A WITH B`.
    allow: BTreeSet<String>,
    /// Licences that may be shipped too, and that want the source to go along with it (`package --sources`).
    #[serde(default)]
    copyleft: BTreeSet<String>,
    /// What is known of single packages.
    #[serde(default, rename = "package")]
    clarified: Vec<Clarified>,
}

/// What somebody has found out about a package.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Clarified {
    /// Its package URL, with or without the version.
    purl: String,
    /// Its licence, an SPDX expression.
    license: String,
    /// The texts that this was concluded from: SHA-256 of each, sorted. None for a package that brings no text.
    #[serde(default)]
    texts: BTreeSet<String>,
    /// Why.
    reason: String,
}

/// What several licences are called: which of them is meant is seen in the texts, if there are any.
const VAGUE: [&str; 2] = ["BSD", "BSD License"];

/// How a licence was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `licences.toml` says so.
    Clarified,
    /// The package declares it.
    Declared,
    /// Its texts are that.
    Seen,
}

impl How {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clarified => "clarified",
            Self::Declared => "declared",
            Self::Seen => "seen",
        }
    }
}

/// A licence that may be shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concluded {
    /// SPDX expression.
    pub expression: String,
    /// How it is known.
    pub how: How,
}

impl Policy {
    /// Reads the policy of the stack in `root`, or the one of the repository.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it cannot be read, or holds what is no licence.
    pub fn read(root: &Path, workspace: &Path) -> anyhow::Result<Self> {
        let own = root.join(FILE);
        let path = if own.is_file() { own } else { workspace.join(FILE) };
        let text = std::fs::read_to_string(&path).kind(Kind::Usage, || format!("cannot read {}", path.display()))?;
        Self::parse(path.clone(), &text).map_err(|why| Kind::Usage.error(format!("cannot use {}: {why}", path.display())))
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, String> {
        let mut policy: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        policy.path = path;
        let words = policy.allow.iter().chain(&policy.copyleft).map(String::as_str);
        let expressions = policy.clarified.iter().map(|one| one.license.as_str());
        for word in words.chain(expressions) {
            spdx::Expression::parse(word).map_err(|error| format!("\"{word}\" is no SPDX licence: {}", error.reason))?;
        }
        match policy.clarified.iter().find(|one| !one.purl.starts_with("pkg:") || one.reason.trim().is_empty()) {
            Some(one) => Err(format!("the package \"{}\" needs a purl (pkg:…) and a reason", one.purl)),
            None => Ok(policy),
        }
    }

    /// A hash over all that it says.
    pub fn hash(&self) -> String {
        crate::fingerprint::hex(&Sha256::digest(format!("{:?}{:?}{:?}", self.allow, self.copyleft, self.clarified)))
    }

    fn allows(&self, requirement: &spdx::LicenseReq) -> bool {
        let word = requirement.to_string();
        self.allow.contains(&word) || self.copyleft.contains(&word)
    }

    /// Whether an expression wants the source to go along.
    pub fn is_copyleft(&self, expression: &str) -> bool {
        let Ok(parsed) = spdx::Expression::parse(expression) else { return false };
        // Where one may choose, one that wants nothing is chosen.
        !parsed.evaluate(|requirement| self.allow.contains(&requirement.to_string()))
    }

    /// What is wrong with the licence of a source, whose texts these are.
    pub fn problems_of_source(&self, source: &Source, own: &[Text]) -> Vec<String> {
        let mut problems = Vec::new();
        let allowed = spdx::Expression::parse(&source.license).is_ok_and(|parsed| parsed.evaluate(|one| self.allows(one)));
        if !allowed {
            problems.push(format!("{} is under {}, which may not be shipped", source.name, source.license));
        }
        let found = hash_of(own);
        match &source.license_sha256 {
            Some(pinned) if *pinned != found => {
                // For a source in a folder nobody but the person who changed it knows better.
                let way_out = match source.origin() {
                    Origin::Archive { .. } => format!("`cargo xtask lock bump {} {}` shows it", source.name, source.version),
                    Origin::Folder(path) => format!("look at {}", path.display()),
                };
                problems.push(format!(
                    "{}: its licence files ({}) are not those that vendor.lock knows; {way_out}; if `license` still holds, \
                     set license-sha256 = \"{found}\"",
                    source.name,
                    own.iter().map(|text| text.name.as_str()).collect::<Vec<_>>().join(", ")
                ));
            }
            _ => {}
        }
        problems
    }

    /// The licence of a package; `seen` has what its texts hold.
    ///
    /// # Errors
    /// In words, why it may not be shipped, or why that is not known.
    pub fn conclude(&self, package: &Package, seen: &BTreeMap<String, BTreeSet<String>>) -> Result<Concluded, String> {
        let licences: Vec<&Text> = package.texts.iter().filter(|text| holds_a_licence(&text.name)).collect();
        if let Some(known) = self.clarified_for(package) {
            let texts: BTreeSet<String> = licences.iter().map(|text| text.sha256.clone()).collect();
            if texts != known.texts {
                return Err(format!(
                    "its licence texts changed since somebody looked at them: texts = {texts:?}, and {} has {:?}",
                    FILE, known.texts
                ));
            }
            return self.checked(&known.license, How::Clarified);
        }
        let nothing = BTreeSet::new();
        let seen_in = |text: &Text| seen.get(&text.sha256).unwrap_or(&nothing);
        let in_texts: BTreeSet<&String> = licences.iter().flat_map(|text| seen_in(text)).collect();
        let is_told = |declared: &&str| !VAGUE.contains(declared) || in_texts.is_empty();
        if let Some(declared) = package.declared.as_deref().filter(is_told).and_then(expression) {
            let concluded = self.checked(&declared, How::Declared)?;
            // A choice that is not taken may have a text too.
            let stray = in_texts.iter().find(|one| self.checked(one, How::Seen).is_err() && !declared.contains(one.as_str()));
            return match stray {
                Some(stray) => Err(format!("it declares {declared}, but brings the text of {stray}")),
                None => Ok(concluded),
            };
        }
        let declared = package.declared.as_deref().map(|word| format!(" (it declares \"{word}\")")).unwrap_or_default();
        if licences.is_empty() {
            return Err(format!("no licence is known: it brings no text{declared}"));
        }
        if let Some(text) = licences.iter().find(|text| seen_in(text).is_empty()) {
            return Err(format!("no licence is known: {} is like none of them (texts: {}){declared}", text.name, text.sha256));
        }
        let words: Vec<&str> = in_texts.into_iter().map(String::as_str).collect();
        self.checked(&words.join(" AND "), How::Seen)
    }

    fn checked(&self, expression: &str, how: How) -> Result<Concluded, String> {
        let parsed = spdx::Expression::parse(expression).map_err(|error| format!("\"{expression}\": {}", error.reason))?;
        if parsed.evaluate(|requirement| self.allows(requirement)) {
            Ok(Concluded { expression: expression.to_owned(), how })
        } else {
            Err(format!("it is under {expression}, which may not be shipped"))
        }
    }

    fn clarified_for(&self, package: &Package) -> Option<&Clarified> {
        let purl = package.purl();
        let of = |wanted: &str| self.clarified.iter().find(|one| one.purl == wanted);
        crate::account::names_of(&purl).into_iter().find_map(of)
    }
}

/// Whether a text is a licence, and not one of the notices that go with one.
fn holds_a_licence(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_uppercase();
    !["NOTICE", "PATENTS", "COPYRIGHT"].iter().any(|word| name.starts_with(word))
}

/// A declared licence as an expression, if it can be understood: manifests of old packages are not particular.
fn expression(declared: &str) -> Option<String> {
    if spdx::Expression::parse(declared).is_ok() {
        return Some(declared.to_owned());
    }
    let loose = spdx::Expression::canonicalize(declared).ok().flatten();
    loose.filter(|text| spdx::Expression::parse(text).is_ok())
}

/// The hash over licence files that vendor.lock pins as `license-sha256`: over their names and content.
pub fn hash_of(texts: &[Text]) -> String {
    let mut sorted: Vec<&Text> = texts.iter().collect();
    sorted.sort();
    let lines: String = sorted.iter().map(|text| format!("{}  {}\n", text.sha256, text.name)).collect();
    crate::fingerprint::hex(&Sha256::digest(lines))
}

/// [`hash_of`] for files below `root`.
///
/// # Errors
/// When one cannot be read.
pub fn hash_of_files(root: &Path, files: &[PathBuf]) -> anyhow::Result<String> {
    let text = |file: &PathBuf| -> anyhow::Result<Text> {
        let content = crate::account::texts::read(&root.join(file))?;
        Ok(Text { name: file.to_string_lossy().into_owned(), sha256: crate::fingerprint::hex(&Sha256::digest(content)) })
    };
    Ok(hash_of(&files.iter().map(text).collect::<anyhow::Result<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Ecosystem, Evidence};

    fn policy(more: &str) -> Policy {
        let text = format!("allow = [\"MIT\", \"Apache-2.0\", \"ISC\"]\ncopyleft = [\"GPL-2.0-only\"]\n{more}");
        Policy::parse(PathBuf::from(FILE), &text).unwrap()
    }

    /// A package that declares this and brings one text, in which that is seen.
    fn conclude(policy: &Policy, declared: Option<&str>, seen: Option<&[&str]>) -> Result<String, String> {
        let text = Text { name: "LICENSE".to_owned(), sha256: "ab".to_owned() };
        let package = Package {
            ecosystem: Ecosystem::Npm,
            name: "left-pad".to_owned(),
            version: "1.0.0".to_owned(),
            sum: None,
            declared: declared.map(str::to_owned),
            texts: seen.is_some().then_some(text).into_iter().collect(),
            evidence: Evidence::LockFile,
            within: BTreeSet::new(),
            replaces: None,
            origin: None,
            patches: BTreeSet::new(),
        };
        let seen = seen.unwrap_or_default().iter().map(|word| (*word).to_owned()).collect();
        let concluded = policy.conclude(&package, &BTreeMap::from([("ab".to_owned(), seen)]))?;
        Ok(format!("{} {}", concluded.expression, concluded.how.word()))
    }

    #[test]
    fn a_licence_is_what_is_declared_or_seen_and_unknown_ones_are_problems() {
        let policy = policy("");
        let good = |declared, seen: Option<&[&str]>| conclude(&policy, declared, seen).unwrap();
        assert_eq!(good(Some("MIT"), None), "MIT declared");
        assert_eq!(good(Some("Apache 2.0"), Some(&["Apache-2.0"])), "Apache-2.0 declared");
        assert_eq!(good(Some("(MIT OR GPL-3.0-only)"), Some(&["GPL-3.0-only"])), "(MIT OR GPL-3.0-only) declared");
        assert_eq!(good(None, Some(&["MIT", "ISC"])), "ISC AND MIT seen");
        assert_eq!(good(Some("SEE LICENSE IN LICENSE"), Some(&["MIT"])), "MIT seen");
        assert_eq!(good(Some("GPL-2.0-only"), None), "GPL-2.0-only declared");
        assert_eq!(good(Some("BSD"), Some(&["ISC"])), "ISC seen");
        let bad = |declared, seen: Option<&[&str]>| conclude(&policy, declared, seen).unwrap_err();
        assert!(bad(None, None).contains("brings no text"));
        assert!(bad(None, Some(&[])).contains("like none of them"));
        assert!(bad(Some("UNLICENSED"), Some(&[])).contains("UNLICENSED"));
        assert!(bad(Some("BUSL-1.1"), None).contains("may not be shipped"));
        assert!(bad(Some("MIT AND SSPL-1.0"), None).contains("may not be shipped"));
        assert!(bad(Some("MIT"), Some(&["SSPL-1.0"])).contains("brings the text of SSPL-1.0"));
        assert!(policy.is_copyleft("GPL-2.0-only AND MIT") && !policy.is_copyleft("MIT OR GPL-2.0-only"));
    }

    #[test]
    fn what_somebody_found_out_counts_for_the_texts_that_were_read() {
        let entry = |texts: &str| {
            policy(&format!(
                "[[package]]\npurl = \"pkg:npm/left-pad\"\nlicense = \"MIT\"\ntexts = [{texts}]\nreason = \"its README says so\"\n"
            ))
        };
        assert_eq!(conclude(&entry("\"ab\""), None, Some(&[])).unwrap(), "MIT clarified");
        assert_eq!(conclude(&entry(""), Some("odd"), None).unwrap(), "MIT clarified");
        let changed = conclude(&entry("\"cd\""), Some("MIT"), Some(&["MIT"])).unwrap_err();
        assert!(changed.contains("changed") && changed.contains("\"ab\""), "{changed}");
        let wrong = |text: &str| Policy::parse(PathBuf::from(FILE), text).unwrap_err();
        assert!(wrong("allow = [\"Frobnicate\"]").contains("Frobnicate"));
        assert!(wrong("allow = []\nalow = []").contains("alow"));
        let silent = "allow = []\n[[package]]\npurl = \"pkg:npm/x\"\nlicense = \"MIT\"\nreason = \" \"\n";
        assert!(wrong(silent).contains("reason"));
    }
}
