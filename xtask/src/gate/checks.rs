//! What can be seen of an archive, a package or an image without running anything of it: one pass over its members, then questions to what was seen.
//!
//! Each question is a function of what was seen, and answers with [`Finding`]s: a person is told all of them at once.

use super::packed::{self, Form, Wrapping};
use super::policy::Policy;
use super::traces::{self, Mark, Trace};
use crate::archive::content::Content;
use crate::archive::read::{Member, MemberKind};
use crate::elf::{self, Binary};
use crate::error::Kind;
use dkumonitor_interface::manifest::{self, FileKind, Manifest};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Something that must not be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, by its path in the bundle; empty where it is about the bundle itself.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

impl Finding {
    /// Of a file, or of the bundle itself.
    pub fn new(path: &str, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), what: what.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.path, self.what) }
    }
}

/// What was seen of a member.
#[derive(Debug)]
pub struct Seen {
    /// Its path in the bundle, without slashes at its ends.
    pub path: String,
    /// What the archive says of it.
    pub member: Member,
    /// Of a file: the hash of its content.
    pub sha256: String,
    /// Of a program or library: what it wants, or why it cannot be understood.
    pub binary: Option<Result<Binary, String>>,
    pub(super) traces: Vec<Trace>,
}

/// A file that was read, of whatever form.
#[derive(Debug)]
pub struct Bundle {
    /// The name of the bundle; of an archive that of the one folder that everything lies in.
    pub name: String,
    /// That folder, or where the bundle is installed, without a slash at its beginning.
    pub root: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// All members below that folder.
    pub seen: Vec<Seen>,
    /// In what it was packed.
    pub form: Form,
    /// What that has beside it.
    pub wrapping: Wrapping,
    /// The members of a package or an image that are not the bundle's, by their paths below `/`.
    pub around: Vec<Seen>,
}

impl Bundle {
    /// Reads an archive, a package or an image whole.
    ///
    /// # Errors
    /// [`Kind::Integrity`] when it is damaged, or no bundle at all.
    pub fn read(file: &Path, marks: &[Mark]) -> anyhow::Result<Self> {
        let form = Form::of(file)?;
        let look = |member: &Member, content: &Content| {
            let binary = match content.in_memory() {
                Some(bytes) => elf::parse(bytes),
                None => elf::parse_from(content.reader()),
            };
            let binary = binary.map_err(|error| format!("{error:#}")).transpose();
            let is_manifest = root_of(&member.name, form).is_some();
            let text =
                is_manifest.then(|| content.whole()).transpose()?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let sha256 = if matches!(member.kind, MemberKind::File(_)) { content.sha256()? } else { String::new() };
            Ok((sha256, binary, traces::find_in(content, marks)?, text))
        };
        let (members, wrapping) = packed::each(file, form, look)?;
        let no_bundle = |why: &str| Kind::Integrity.error(format!("{} is no bundle: {why}", file.display()));
        let mut roots =
            members.iter().filter_map(|(member, (.., text))| Some((root_of(&member.name, form)?, text.as_deref()?)));
        let place = if form == Form::Archive { "its one folder" } else { "a folder /opt/PRODUCT/VERSION" };
        let (root, text) = roots.next().ok_or_else(|| no_bundle(&format!("it has no manifest.json in {place}")))?;
        if let Some((other, _)) = roots.next().filter(|_| form != Form::Archive) {
            return Err(no_bundle(&format!("it has two, {root} and {other}")));
        }
        let manifest = Manifest::parse(text).map_err(|error| no_bundle(&format!("its manifest.json: {error:#}")))?;
        // The folder of an archive is that of its first member: another one is a finding.
        let first = members.first().map(|(member, _)| member.name.split('/').next().unwrap_or_default());
        let root = if form == Form::Archive { first.unwrap_or_default() } else { root }.to_owned();
        let name = if form == Form::Archive { root.clone() } else { root.split('/').skip(1).collect::<Vec<_>>().join("-") };
        let (mut seen, mut around) = (Vec::new(), Vec::new());
        for (member, (sha256, binary, traces, _)) in members {
            let inner = member.name.strip_prefix(&root).filter(|rest| rest.is_empty() || rest.starts_with('/'));
            let is_own = form == Form::Archive || inner.is_some();
            let path = member.name.strip_prefix(&root).filter(|_| is_own).unwrap_or(&member.name).trim_matches('/').to_owned();
            if !(path.is_empty() && member.kind == MemberKind::Folder) {
                let list = if is_own { &mut seen } else { &mut around };
                list.push(Seen { path, member, sha256, binary, traces });
            }
        }
        Ok(Self { name, root, manifest, seen, form, wrapping, around })
    }

    /// The programs and libraries that could be understood.
    pub fn binaries(&self) -> impl Iterator<Item = (&str, &Binary)> {
        self.seen.iter().filter_map(|seen| Some((seen.path.as_str(), seen.binary.as_ref()?.as_ref().ok()?)))
    }

    /// Everything that is wrong with it, by its own files.
    pub fn check(&self, policy: &Policy) -> Vec<Finding> {
        let mut findings = self.names();
        findings.extend(self.permissions());
        findings.extend(self.links());
        findings.extend(self.against_manifest());
        match policy.platform(&self.manifest.platform.os) {
            Some(platform) => findings.extend(self.needs(&self.has(platform))),
            None => {
                findings.push(Finding::new("", format!("it is for {}, of which nothing is known", self.manifest.platform.os)));
            }
        }
        findings.extend(self.floors(policy));
        findings.extend(found_traces(self.seen.iter(), policy));
        findings.extend(self.wrapped(policy));
        findings.sort_by(|a, b| a.path.cmp(&b.path));
        findings
    }

    fn names(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut known = BTreeSet::new();
        for Seen { path, member, .. } in &self.seen {
            let name = member.name.as_str();
            let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            let below = Path::new(name).starts_with(&self.root);
            if !plain || !below {
                findings.push(Finding::new(name, format!("lies outside of {}", self.root)));
            }
            findings.extend(unprintable(name));
            if !known.insert(path) {
                findings.push(Finding::new(path, format!("is in the {} twice", self.form.words())));
            }
            if let Some(what) = odd_kind(&member.kind) {
                findings.push(Finding::new(path, format!("is {what}; a bundle has files, folders and symbolic links")));
            }
        }
        findings
    }

    fn permissions(&self) -> Vec<Finding> {
        self.seen.iter().flat_map(|seen| seen.permissions(&seen.path, (0, 0), 0)).collect()
    }

    fn links(&self) -> Vec<Finding> {
        let paths: BTreeSet<&str> = self.seen.iter().map(|seen| seen.path.as_str()).collect();
        let is_there = |path: &str| {
            path.is_empty() || paths.contains(path) || {
                // Folders need no members of their own.
                let below = format!("{path}/");
                paths.range(below.as_str()..).next().is_some_and(|next| next.starts_with(&below))
            }
        };
        let mut findings = Vec::new();
        for Seen { path, member, .. } in &self.seen {
            let MemberKind::Link(target) = &member.kind else { continue };
            if target.starts_with('/') {
                findings.push(Finding::new(path, format!("is a link to the absolute path {target}")));
                continue;
            }
            let folder = Path::new(path).parent().unwrap_or(Path::new(""));
            match inside(&folder.join(target)) {
                None => findings.push(Finding::new(path, format!("is a link that leads out of the bundle, to {target}"))),
                Some(found) if !is_there(&found) => {
                    findings.push(Finding::new(path, format!("is a link to {target}, which is not in the bundle")));
                }
                Some(_) => {}
            }
        }
        findings
    }

    fn against_manifest(&self) -> Vec<Finding> {
        // The manifest cannot tell of itself, nor of what signs it.
        let apart = [manifest::FILE_NAME, manifest::SIGNATURE_NAME];
        let seen =
            self.seen.iter().filter(|seen| seen.member.kind != MemberKind::Folder && !apart.contains(&seen.path.as_str()));
        let mut seen: BTreeMap<&str, &Seen> = seen.map(|seen| (seen.path.as_str(), seen)).collect();
        let mut findings = Vec::new();
        for file in &self.manifest.files {
            let Some(found) = seen.remove(file.path.as_str()) else {
                let what = format!("is in the manifest and not in the {}", self.form.words());
                findings.push(Finding::new(&file.path, what));
                continue;
            };
            let differs = match (&file.kind, &found.member.kind) {
                (FileKind::Link { target }, MemberKind::Link(found)) => (target != found).then(|| format!("points at {found}")),
                (FileKind::File { sha256, .. }, MemberKind::File(_)) if *sha256 != found.sha256 => {
                    Some("has another content".to_owned())
                }
                (FileKind::File { mode, .. }, MemberKind::File(_)) => {
                    let mode = u32::from_str_radix(mode, 8).unwrap_or(u32::MAX);
                    (mode != found.member.mode).then(|| format!("has the mode {:04o}", found.member.mode))
                }
                _ => Some("is of another kind".to_owned()),
            };
            findings.extend(differs.map(|what| Finding::new(&file.path, format!("{what}, unlike the manifest says"))));
        }
        let more = format!("is in the {} and not in the manifest", self.form.words());
        findings.extend(seen.keys().map(|path| Finding::new(path, more.as_str())));
        findings
    }
}

impl Seen {
    /// What is wrong with its mode and its owner, who has to be this one. Some bits may be set.
    pub fn permissions(&self, path: &str, owner: (u64, u64), allowed: u32) -> Vec<Finding> {
        let (member, mut findings) = (&self.member, Vec::new());
        let (mode, mut find) = (member.mode & !allowed, |what: String| findings.push(Finding::new(path, what)));
        for (bit, what) in [(0o4000, "set-uid"), (0o2000, "set-gid"), (0o1000, "sticky")] {
            if mode & bit != 0 {
                find(format!("is {what} ({mode:04o})"));
            }
        }
        if !matches!(member.kind, MemberKind::Link(_)) && mode & 0o022 != 0 {
            find(format!("can be written to by others than its owner ({mode:04o})"));
        }
        if member.owner != owner {
            let ((user, group), (right, right_group)) = (member.owner, owner);
            let right = if owner == (0, 0) {
                "in an archive everything is 0's".to_owned()
            } else {
                format!("and should to {right} and {right_group}")
            };
            find(format!("belongs to user {user} and group {group}; {right}"));
        }
        let (user, group) = (member.owner_names.0.as_str(), member.owner_names.1.as_str());
        if ![user, group].iter().all(|name| ["", "root"].contains(name)) {
            find(format!("carries the names of its owner: {user}, {group}"));
        }
        findings
    }
}

/// What is wrong with a name.
pub fn unprintable(name: &str) -> Option<Finding> {
    let odd = name.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER);
    odd.then(|| Finding::new(name, "its name has control characters, or is not UTF-8"))
}

/// What a member is, where that is none of a bundle's kinds.
pub fn odd_kind(kind: &MemberKind) -> Option<&str> {
    match kind {
        MemberKind::Other(what) => Some(what),
        MemberKind::Hard(_) => Some("a hard link"),
        _ => None,
    }
}

/// Traces of the machine that built it that a policy does not allow.
pub fn found_traces<'a>(seen: impl Iterator<Item = &'a Seen>, policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    for seen in seen {
        for trace in seen.traces.iter().filter(|trace| !policy.allows(&seen.path, &trace.text)) {
            findings.push(Finding::new(&seen.path, said(trace)));
        }
    }
    findings
}

/// A trace in words.
pub fn said(trace: &Trace) -> String {
    let packed = if trace.packed { " (in its packed content)" } else { "" };
    format!("names {}{packed}: \"{}\"", trace.what, trace.text)
}

/// The folder of the bundle whose manifest has this name in a file of this form.
fn root_of(name: &str, form: Form) -> Option<&str> {
    let root = name.strip_suffix(manifest::FILE_NAME)?.strip_suffix('/')?;
    let is_root = match form {
        Form::Archive => !root.contains('/'),
        _ => root.starts_with("opt/") && root.matches('/').count() == 2,
    };
    is_root.then_some(root)
}

/// A path inside the bundle without `.` and `..`; none where it leads out.
pub fn inside(path: &Path) -> Option<String> {
    let mut parts: PathBuf = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::CurDir => {}
            Component::ParentDir if parts.pop() => {}
            _ => return None,
        }
    }
    parts.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
