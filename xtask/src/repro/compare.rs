//! Two archives, member by member.

use super::pieces::Part;
use super::{Sides, reason};
use crate::archive::content::Content;
use crate::archive::read::{self, Member, MemberKind};
use anyhow::Context as _;
use dkumonitor_interface::manifest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Of so many members it is told why they differ. (Of files that one fault is in, all but the first ones add nothing.)
const EXPLAINED: usize = 12;

/// How two archives compare.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Members that differ, with how, in the archives' order; the manifest last, since it tells of all others.
    pub different: Vec<(String, String)>,
    /// Why, line by line, of the first [`EXPLAINED`] of them.
    pub why: BTreeMap<String, Vec<String>>,
    /// Why the archives differ that have the same members.
    pub reasons: Vec<String>,
    /// How many members there are.
    pub members: usize,
}

impl Comparison {
    /// Whether they are the same, byte by byte.
    pub fn is_same(&self) -> bool {
        self.different.is_empty() && self.reasons.is_empty()
    }

    /// Whether this member differs, or anything below it.
    pub fn differs(&self, path: &str) -> bool {
        self.different
            .iter()
            .any(|(name, _)| name.split_once('/').is_some_and(|(_, inner)| inner.trim_end_matches('/') == path))
    }
}

/// Compares two archives.
///
/// # Errors
/// When one of them cannot be read.
pub fn compare(one: &Path, other: &Path, sides: &Sides) -> anyhow::Result<Comparison> {
    let look = |_: &Member, content: &Content| Ok(content.sha256()?);
    let (first, second) = (read::each(one, look)?, read::each(other, look)?);
    let mut comparison = Comparison { members: first.len(), ..Comparison::default() };
    let by_name = |members: &[(Member, String)]| -> BTreeMap<String, (Member, String)> {
        members.iter().map(|found| (found.0.name.clone(), found.clone())).collect()
    };
    let (here, there) = (by_name(&first), by_name(&second));
    let renamed = renamed(&here, &there);
    let paired: BTreeSet<&String> = renamed.values().copied().collect();
    let names: BTreeSet<&String> = here.keys().chain(there.keys()).filter(|name| !paired.contains(name)).collect();
    for name in names {
        let how = match renamed.get(name) {
            Some(other) => Some(format!("is {} in the second: it is named by its content", file_name(other))),
            None => difference(here.get(name), there.get(name)),
        };
        if let Some(how) = how {
            comparison.different.push((name.clone(), how));
        }
    }
    let is_manifest = |name: &str| name.split_once('/').is_some_and(|(_, inner)| inner == manifest::FILE_NAME);
    comparison.different.sort_by_key(|(name, _)| is_manifest(name));
    let is_file = |members: &BTreeMap<String, (Member, String)>, name: &String| {
        members.get(name).is_some_and(|(member, _)| matches!(member.kind, MemberKind::File(_)))
    };
    for (at, (name, _)) in comparison.different.iter().take(EXPLAINED).enumerate() {
        // Of the manifest, which has hashes of all others, only where there is none.
        let counterpart = renamed.get(name).copied().unwrap_or(name);
        if is_file(&here, name) && is_file(&there, counterpart) && (at == 0 || !is_manifest(name)) {
            let why = reason::of(&read::one(one, name)?, &read::one(other, counterpart)?, name, sides, at == 0)?;
            comparison.why.insert(name.clone(), why);
        }
    }
    if !comparison.different.is_empty() {
        return Ok(comparison);
    }
    if first.iter().map(|(member, _)| &member.name).ne(second.iter().map(|(member, _)| &member.name)) {
        comparison.reasons.push("the same members stand in another order".to_owned());
    } else {
        let bytes = |path: &Path| Content::open(path).with_context(|| format!("cannot read {}", path.display()));
        let (a, b) = (bytes(one)?, bytes(other)?);
        if !Part::all(&a).is(&Part::all(&b))? {
            comparison.reasons.push("all members are the same, and packed differently".to_owned());
            comparison.reasons.extend(reason::of_packing(&a, &b)?);
        }
    }
    Ok(comparison)
}

/// The files of the first that are in the second under another hash: `runtime.1acd018a.js`, as bundlers of pages name what they make.
/// Only where there is one of each, so that nothing is taken for what it is not.
fn renamed<'a>(
    here: &'a BTreeMap<String, (Member, String)>,
    there: &'a BTreeMap<String, (Member, String)>,
) -> BTreeMap<&'a String, &'a String> {
    let mut found: BTreeMap<String, (Vec<&'a String>, Vec<&'a String>)> = BTreeMap::new();
    for name in here.keys().filter(|name| !there.contains_key(*name)) {
        found.entry(without_hash(name)).or_default().0.push(name);
    }
    for name in there.keys().filter(|name| !here.contains_key(*name)) {
        found.entry(without_hash(name)).or_default().1.push(name);
    }
    let pairs = found.into_values().filter_map(|(ones, others)| match (&ones[..], &others[..]) {
        ([one], [other]) => Some((*one, *other)),
        _ => None,
    });
    pairs.collect()
}

/// A path whose last part has `*` for every word of eight or more hexadecimal digits.
fn without_hash(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_hash = |word: &str| word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = name.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(|word| {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if is_hash(bare) { format!("*{}", &word[bare.len()..]) } else { word.to_owned() }
    });
    format!("{folder}/{}", words.collect::<String>())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// How a member differs from the one of the same name, without a look at its content.
fn difference(here: Option<&(Member, String)>, there: Option<&(Member, String)>) -> Option<String> {
    let ((one, one_hash), (other, other_hash)) = match (here, there) {
        (Some(here), Some(there)) => (here, there),
        (Some(_), None) => return Some("is in the first only".to_owned()),
        (None, Some(_)) => return Some("is in the second only".to_owned()),
        (None, None) => return None,
    };
    let mut how = Vec::new();
    match (&one.kind, &other.kind) {
        (MemberKind::File(_), MemberKind::File(_)) if one_hash == other_hash => {}
        (MemberKind::File(one), MemberKind::File(other)) if one == other => how.push("content".to_owned()),
        (MemberKind::File(one), MemberKind::File(other)) => how.push(format!("content, {one} and {other} bytes")),
        (one, other) if one == other => {}
        (MemberKind::Link(one), MemberKind::Link(other)) => how.push(format!("target, {one} and {other}")),
        _ => how.push("kind".to_owned()),
    }
    if one.mode != other.mode {
        how.push(format!("mode, {:04o} and {:04o}", one.mode, other.mode));
    }
    if one.mtime != other.mtime {
        how.push(format!("time, {} and {}", one.mtime, other.mtime));
    }
    if (one.owner, &one.owner_names) != (other.owner, &other.owner_names) {
        how.push("owner".to_owned());
    }
    (!how.is_empty()).then(|| how.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, GzBuilder};

    fn archive(path: &Path, members: &[(&str, &str, u32)], level: u32, gz_time: u32) {
        let packer = GzBuilder::new().mtime(gz_time).write(std::fs::File::create(path).unwrap(), Compression::new(level));
        let mut tar = tar::Builder::new(packer);
        for (name, content, mode) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header.set_cksum();
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
    }

    fn compared(one: &[(&str, &str, u32)], other: &[(&str, &str, u32)]) -> Comparison {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.tar.gz"), folder.path().join("b.tar.gz"));
        archive(&a, one, 6, 0);
        archive(&b, other, 6, 0);
        compare(&a, &b, &Sides::default()).unwrap()
    }

    #[test]
    fn the_first_member_that_differs_is_named_and_the_manifest_comes_last() {
        let same = [("x/a", "one", 0o644), ("x/manifest.json", "{}", 0o644)];
        assert!(compared(&same, &same).is_same());
        let other = [("x/a", "one", 0o644), ("x/manifest.json", "{1}", 0o644), ("x/z", "only here", 0o644)];
        let found = compared(&same, &other);
        assert_eq!(found.different[0], ("x/z".to_owned(), "is in the second only".to_owned()));
        assert!(found.different[1].0 == "x/manifest.json" && found.differs("z") && !found.differs("a"));
        let other = [("x/a", "two", 0o755), ("x/manifest.json", "{}", 0o644)];
        let found = compared(&same, &other);
        assert_eq!(found.different, [("x/a".to_owned(), "content; mode, 0644 and 0755".to_owned())]);
        assert_eq!(found.why["x/a"], ["line 1: \"one\" and \"two\""]);
    }

    #[test]
    fn a_file_that_is_named_by_its_content_is_compared_with_its_counterpart() {
        let one =
            [("x/app.0123456789abcdef.js", "id 1", 0o644), ("x/b.11111111.js", "1", 0o644), ("x/b.22222222.js", "2", 0o644)];
        let other =
            [("x/app.fedcba9876543210.js", "id 2", 0o644), ("x/b.33333333.js", "3", 0o644), ("x/b.2222.js", "2", 0o644)];
        let found = compared(&one, &other);
        assert_eq!(
            found.different[0],
            (one[0].0.to_owned(), "is app.fedcba9876543210.js in the second: it is named by its content".to_owned())
        );
        assert_eq!(found.why[one[0].0], ["line 1: \"id 1\" and \"id 2\""]);
        // Of two with one there is no telling which it was.
        let alone: Vec<_> = found.different[1..].iter().map(|(_, how)| how.as_str()).collect();
        assert_eq!(alone, ["is in the first only", "is in the second only", "is in the first only", "is in the second only"]);
    }

    /// Two archives of a program of 80 MiB, which are not the same in its last MiB; to be compared by a process of its own.
    #[cfg(target_os = "linux")]
    #[test]
    fn programs_larger_than_what_may_be_in_memory_are_compared_all_the_same() {
        const HERE: &str = "XTASK_TEST_COMPARES";
        if let Some(folder) = std::env::var_os(HERE) {
            let folder = Path::new(&folder);
            let found = compare(&folder.join("a.tar.gz"), &folder.join("b.tar.gz"), &Sides::default()).unwrap();
            assert_eq!(found.different, [("x/program".to_owned(), "content".to_owned())]);
            assert_eq!(found.why["x/program"][0], format!("from byte {} on (of 83886080 and 83886080)", 79 << 20));
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let peak: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
            assert!(peak < 64 * 1024, "{peak} kB");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut program = "something that a program holds\u{1}\n".repeat(1 << 15).repeat(80);
        program.truncate(80 << 20);
        archive(&folder.path().join("a.tar.gz"), &[("x/program", &program, 0o755)], 1, 0);
        program.replace_range(79 << 20..(79 << 20) + 1, "\u{2}");
        archive(&folder.path().join("b.tar.gz"), &[("x/program", &program, 0o755)], 1, 0);
        let own = "repro::compare::tests::programs_larger_than_what_may_be_in_memory_are_compared_all_the_same";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", own, "--nocapture"]).env(HERE, folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn archives_that_are_only_packed_differently_are_not_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.tar.gz"), folder.path().join("b.tar.gz"));
        archive(&a, &[("x/a", "one", 0o644)], 6, 0);
        archive(&b, &[("x/a", "one", 0o644)], 6, 1_700_000_000);
        let found = compare(&a, &b, &Sides::default()).unwrap();
        assert!(!found.is_same() && found.different.is_empty());
        assert!(found.reasons[1].contains("gzip") && found.reasons[1].contains("2023"), "{:?}", found.reasons);
    }
}
