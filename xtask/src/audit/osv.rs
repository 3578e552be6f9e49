//! Advisories in the form of OSV, and whether one concerns a package.
//!
//! The rules are those of OSV's own specification: a version is affected when it is listed, or when it lies in a range, which is
//! a list of events in order: introduced, fixed, last affected. Versions of Go modules, npm packages and crates are semantic ones.
//! Ranges of commits cannot be followed without the repository; of those the listed versions count, which are tags.

use super::bill::{Subject, folded};
use super::severity::Severity;
use semver::Version;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// An advisory, as far as it matters.
#[derive(Clone, Debug, Deserialize)]
pub struct Advisory {
    id: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    withdrawn: Option<String>,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    details: String,
    #[serde(default)]
    severity: Vec<Score>,
    #[serde(default)]
    affected: Vec<Affected>,
    #[serde(default)]
    database_specific: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct Score {
    #[serde(default)]
    score: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Affected {
    package: Option<Package>,
    #[serde(default)]
    ranges: Vec<Range>,
    #[serde(default)]
    versions: Vec<String>,
    #[serde(default)]
    severity: Vec<Score>,
    #[serde(default)]
    database_specific: Value,
    #[serde(default)]
    ecosystem_specific: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    ecosystem: String,
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Range {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    repo: Option<String>,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Clone, Debug, Deserialize)]
struct Event {
    introduced: Option<String>,
    fixed: Option<String>,
    last_affected: Option<String>,
}

impl Advisory {
    /// Its own name and those of others that tell of the same.
    pub fn names(&self) -> BTreeSet<String> {
        self.aliases.iter().chain([&self.id]).cloned().collect()
    }

    /// One line.
    pub fn summary(&self) -> String {
        let text = if self.summary.is_empty() { self.details.lines().next().unwrap_or_default() } else { &self.summary };
        text.trim().to_owned()
    }

    /// The worst that it says of a subject.
    pub fn severity(&self, subject: &Subject) -> Severity {
        let own = self.affected.iter().filter(|affected| affected.concerns(subject));
        let scores = own.clone().flat_map(|affected| &affected.severity).chain(&self.severity);
        let scores = scores.filter_map(|score| Severity::of_vector(&score.score).or_else(|| Severity::of_word(&score.score)));
        // A score is more exact than a word.
        let by_score = scores.reduce(Severity::max_known);
        let words = || {
            let values = own.flat_map(|affected| [&affected.database_specific, &affected.ecosystem_specific]);
            values.chain([&self.database_specific]).filter_map(Severity::of_database).reduce(Severity::max_known)
        };
        by_score.or_else(words).unwrap_or(Severity::Unknown)
    }

    /// Whether it tells of any of these, given by ecosystem and name.
    pub fn is_wanted(&self, wanted: &std::collections::BTreeMap<String, BTreeSet<String>>) -> bool {
        let names = |ecosystem: &str, name: &str| {
            let name = folded(ecosystem, name);
            wanted.get(ecosystem).is_some_and(|names| names.contains(&name))
        };
        let is_known = |affected: &Affected| {
            affected.package.as_ref().is_some_and(|package| names(package.ecosystem(), &package.name))
                || affected.ranges.iter().filter_map(Range::repository).any(|repo| names("GIT", &repo))
        };
        self.affected.iter().any(is_known)
    }
}

impl Package {
    /// The ecosystem without what may stand behind it.
    fn ecosystem(&self) -> &str {
        self.ecosystem.split(':').next().unwrap_or_default()
    }
}

impl Range {
    /// The repository that a range of commits is in, as a package URL would have it.
    fn repository(&self) -> Option<String> {
        let repo = self.repo.as_deref().filter(|_| self.kind == "GIT")?;
        Some(repo.trim_end_matches('/').trim_end_matches(".git").to_owned())
    }

    fn is_of_versions(&self) -> bool {
        self.kind == "SEMVER" || self.kind == "ECOSYSTEM"
    }

    /// Whether a version lies in it.
    fn holds(&self, version: &Version) -> bool {
        // The last event at or before the version decides. An event that ends counts before one that begins at the same version.
        let mut events: Vec<(Version, bool)> = Vec::new();
        // What begins at a version that cannot be compared, or nowhere, may have begun with the first.
        let begin = |text: &str| parse(text).or_else(|| parse("0"));
        if self.events.iter().all(|event| event.introduced.is_none()) && !self.events.is_empty() {
            events.extend(begin("0").map(|at| (at, true)));
        }
        for event in &self.events {
            events.extend(event.introduced.as_deref().and_then(begin).map(|at| (at, true)));
            events.extend(event.fixed.as_deref().and_then(parse).map(|at| (at, false)));
            // It ends just behind this one.
            let last = event.last_affected.as_deref().and_then(parse);
            events.extend(last.filter(|last| last < version).map(|at| (at, false)));
        }
        events.sort();
        events.iter().rfind(|(at, _)| at <= version).is_some_and(|(_, begins)| *begins)
    }

    fn fixed(&self) -> impl Iterator<Item = &String> {
        self.events.iter().filter(|_| self.is_of_versions()).filter_map(|event| event.fixed.as_ref())
    }
}

impl Affected {
    /// Whether it is about the package at all.
    fn concerns(&self, subject: &Subject) -> bool {
        let by_name = |ecosystem: &str, wanted: &str| {
            let wanted = folded(ecosystem, wanted);
            subject.names.iter().any(|name| name.ecosystem == ecosystem && name.name == wanted)
        };
        self.package.as_ref().is_some_and(|package| by_name(package.ecosystem(), &package.name))
            || self.ranges.iter().filter_map(Range::repository).any(|repo| by_name("GIT", &repo))
    }

    /// Whether it is about the package's version.
    fn affects(&self, subject: &Subject) -> bool {
        let is_it = |listed: &String| *listed == subject.tag || listed.strip_prefix('v').unwrap_or(listed) == subject.version;
        if self.versions.iter().any(is_it) {
            return true;
        }
        let Some(version) = parse(&subject.version) else {
            // What cannot be compared is not known to be well.
            return self.ranges.iter().any(Range::is_of_versions);
        };
        self.ranges.iter().any(|range| range.is_of_versions() && range.holds(&version))
    }
}

/// Whether an advisory is about this version of a package: if so, the versions that are without.
pub fn affects(advisory: &Advisory, subject: &Subject) -> Option<BTreeSet<String>> {
    if advisory.withdrawn.is_some() {
        return None;
    }
    let mut of = advisory.affected.iter().filter(|affected| affected.concerns(subject) && affected.affects(subject)).peekable();
    of.peek()?;
    Some(of.flat_map(|affected| &affected.ranges).flat_map(Range::fixed).cloned().collect())
}

/// A version, given leniently: `0` is before all versions, what lacks its last numbers has zeros there, and what was added about the
/// build (`+incompatible`) makes no difference.
fn parse(text: &str) -> Option<Version> {
    let text = text.trim().trim_start_matches('v').split('+').next().unwrap_or_default();
    if let Ok(version) = Version::parse(text) {
        return Some(version);
    }
    if text == "0" {
        return Version::parse("0.0.0-0").ok();
    }
    let end = text.find('-').unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let dots = numbers.matches('.').count();
    let padded = format!("{numbers}{}{rest}", ".0".repeat(2_usize.checked_sub(dots)?));
    Version::parse(&padded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn subject(purl: &str) -> Subject {
        Subject::of_purl(purl, &[]).unwrap()
    }

    /// Whether an advisory on the Go module `x.org/y` with this in `affected` concerns a version.
    fn is_hit(affected: Value, version: &str) -> bool {
        let mut affected = affected;
        affected["package"] = json!({ "ecosystem": "Go", "name": "x.org/y" });
        let advisory: Advisory = serde_json::from_value(json!({ "id": "A", "affected": [affected] })).unwrap();
        affects(&advisory, &subject(&format!("pkg:golang/x.org/y@v{version}"))).is_some()
    }

    #[test]
    fn ranges_are_followed_event_by_event() {
        let range = |events: Value| json!({ "ranges": [{ "type": "SEMVER", "events": events }] });
        let simple = range(json!([{ "introduced": "0" }, { "fixed": "1.2.3" }]));
        assert!(is_hit(simple.clone(), "0.0.0-20200101000000-abcdefabcdef") && is_hit(simple.clone(), "1.2.2"));
        assert!(is_hit(simple.clone(), "1.2.3-rc.1") && !is_hit(simple, "1.2.3"));
        let twice =
            range(json!([{ "introduced": "1.0.0" }, { "fixed": "1.1.0" }, { "introduced": "2.0.0" }, { "fixed": "2.1.0" }]));
        for (version, wanted) in
            [("0.9.0", false), ("1.0.0", true), ("1.1.0", false), ("1.9.9", false), ("2.0.5", true), ("2.1.0", false)]
        {
            assert_eq!(is_hit(twice.clone(), version), wanted, "{version}");
        }
        // In no order, as some databases have them.
        let mixed = range(json!([{ "fixed": "2.1.0" }, { "introduced": "2.0.0" }]));
        assert!(is_hit(mixed.clone(), "2.0.1") && !is_hit(mixed, "2.1.0"));
        let last = range(json!([{ "introduced": "0" }, { "last_affected": "1.5.0" }]));
        assert!(is_hit(last.clone(), "1.5.0") && !is_hit(last, "1.5.1"));
        let open = range(json!([{ "introduced": "1.0" }]));
        assert!(is_hit(open.clone(), "99.0.0") && !is_hit(open, "0.1.0"));
        assert!(!is_hit(range(json!([])), "1.0.0"));
    }

    #[test]
    fn versions_of_every_kind_are_compared_and_what_cannot_be_is_not_taken_for_well() {
        let range = |events: Value| json!({ "ranges": [{ "type": "ECOSYSTEM", "events": events }] });
        let fixed = |version: &str| range(json!([{ "introduced": "0" }, { "fixed": version }]));
        // A pseudo-version lies before the release that it leads to, and behind the one that it comes from.
        assert!(is_hit(fixed("1.2.4"), "1.2.4-0.20240101000000-abcdefabcdef"));
        assert!(!is_hit(fixed("1.2.3"), "1.2.4-0.20240101000000-abcdefabcdef"));
        assert!(is_hit(fixed("0.0.0-20240201000000-aaaaaaaaaaaa"), "0.0.0-20240101000000-ffffffffffff"));
        assert!(!is_hit(fixed("0.0.0-20240201000000-aaaaaaaaaaaa"), "0.0.0-20240301000000-000000000000"));
        for (at, version) in [("2.0.0+incompatible", "2.0.0"), ("2.0.0", "2.0.0%2Bincompatible"), ("2.0.0+a", "2.0.0%2Bb")] {
            assert!(!is_hit(fixed(at), version), "{version} is without what {at} has mended");
            assert!(is_hit(range(json!([{ "introduced": "0" }, { "last_affected": at }])), version), "{version}");
        }
        // Go's own library, as its database writes it.
        assert!(is_hit(range(json!([{ "introduced": "1.22.0-0" }, { "fixed": "1.22.3" }])), "1.22.0-rc.1"));
        // Prereleases as npm has them: 10 is more than 9, and a number is less than a word.
        assert!(is_hit(fixed("3.0.0-beta.10"), "3.0.0-beta.9") && !is_hit(fixed("3.0.0-beta.1"), "3.0.0-rc.0"));
        // What nobody can compare, and what begins nowhere.
        assert!(is_hit(range(json!([{ "introduced": "one" }, { "fixed": "2.0.0" }])), "1.0.0"));
        assert!(is_hit(fixed("the day after"), "99.0.0"));
        assert!(
            is_hit(range(json!([{ "fixed": "2.0.0" }])), "1.0.0") && !is_hit(range(json!([{ "fixed": "2.0.0" }])), "2.0.0")
        );
        assert!(is_hit(fixed("1.0.0"), "(devel)"));
        assert!(!is_hit(
            json!({ "ranges": [{ "type": "GIT", "repo": "https://x", "events": [{ "introduced": "0" }] }] }),
            "1.0.0"
        ));
        // Names of modules and repositories are written in capitals by some and not by others; those of npm's packages are others.
        let named = |ecosystem: &str, name: &str| -> Advisory {
            let affected = json!({ "package": { "ecosystem": ecosystem, "name": name }, "versions": ["1.0.0"] });
            serde_json::from_value(json!({ "id": "A", "affected": [affected] })).unwrap()
        };
        assert!(affects(&named("Go", "github.com/azure/x"), &subject("pkg:golang/github.com/Azure/x@v1.0.0")).is_some());
        assert!(affects(&named("npm", "jsonstream"), &subject("pkg:npm/JSONStream@1.0.0")).is_none());
        assert!(affects(&named("npm", "JSONStream"), &subject("pkg:npm/JSONStream@1.0.0")).is_some());
    }

    #[test]
    fn listed_versions_and_repositories_count_and_withdrawn_advisories_do_not() {
        assert!(is_hit(json!({ "versions": ["1.0.0", "1.0.1"] }), "1.0.1"));
        assert!(!is_hit(json!({ "versions": ["1.0.0"] }), "1.0.1"));
        let git = json!({ "id": "CVE-1", "affected": [{
            "ranges": [{ "type": "GIT", "repo": "https://github.com/grafana/grafana.git", "events": [{ "introduced": "0" }] }],
            "versions": ["v9.3.1", "v9.3.2"],
        }] });
        let advisory: Advisory = serde_json::from_value(git.clone()).unwrap();
        assert!(affects(&advisory, &subject("pkg:github/grafana/grafana@v9.3.2")).is_some());
        assert!(affects(&advisory, &subject("pkg:github/grafana/grafana@v9.3.3")).is_none());
        let mut withdrawn = git;
        withdrawn["withdrawn"] = json!("2024-01-01T00:00:00Z");
        let advisory: Advisory = serde_json::from_value(withdrawn).unwrap();
        assert!(affects(&advisory, &subject("pkg:github/grafana/grafana@v9.3.2")).is_none());
    }

    #[test]
    fn other_packages_of_the_same_advisory_do_not_count() {
        let advisory: Advisory = serde_json::from_value(json!({ "id": "A", "affected": [
            { "package": { "ecosystem": "npm", "name": "x.org/y" }, "versions": ["1.0.0"] },
            { "package": { "ecosystem": "Go", "name": "x.org/z" }, "versions": ["1.0.0"] },
        ] }))
        .unwrap();
        assert!(affects(&advisory, &subject("pkg:golang/x.org/y@v1.0.0")).is_none());
        assert!(affects(&advisory, &subject("pkg:golang/x.org/z@v1.0.0")).is_some());
    }
}
