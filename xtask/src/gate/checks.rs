//! What can be seen of an archive without running anything of it: one pass over its members, then questions to what was seen.
//!
//! Each question is a function of what was seen, and answers with [`Finding`]s: a person is told all of them at once.

use super::policy::{Platform, Policy};
use super::traces::{self, Mark, Trace};
use crate::archive::read::{self, Member, MemberKind};
use crate::elf::{self, Binary, Version};
use crate::error::Kind;
use crate::fingerprint;
use dkumonitor_interface::manifest::{self, FileKind, Manifest};
use sha2::{Digest as _, Sha256};
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
    fn new(path: &str, what: impl Into<String>) -> Self {
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
    traces: Vec<Trace>,
}

/// An archive that was read.
#[derive(Debug)]
pub struct Bundle {
    /// The one folder that everything lies in.
    pub name: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// All members but that folder.
    pub seen: Vec<Seen>,
}

impl Bundle {
    /// Reads an archive whole.
    ///
    /// # Errors
    /// [`Kind::Integrity`] when it is damaged, or no bundle at all.
    pub fn read(archive: &Path, marks: &[Mark]) -> anyhow::Result<Self> {
        let manifest_ends = format!("/{}", manifest::FILE_NAME);
        let look = |member: &Member, content: &[u8]| {
            let binary = elf::parse(content).map_err(|error| format!("{error:#}")).transpose();
            let is_manifest = member.name.ends_with(&manifest_ends) && member.name.matches('/').count() == 1;
            let text = is_manifest.then(|| String::from_utf8_lossy(content).into_owned());
            let is_file = matches!(member.kind, MemberKind::File(_));
            let sha256 = if is_file { fingerprint::hex(&Sha256::digest(content)) } else { String::new() };
            (sha256, binary, traces::find(content, marks), text)
        };
        let members = read::each(archive, look)?;
        let first = members.first().map(|(member, _)| member.name.as_str()).unwrap_or_default();
        let name = first.split('/').next().unwrap_or_default().to_owned();
        let text = members.iter().find_map(|(_, (.., text))| text.as_deref());
        let no_bundle = |why: &str| Kind::Integrity.error(format!("{} is no bundle: {why}", archive.display()));
        let text = text.ok_or_else(|| no_bundle("it has no manifest.json in its one folder"))?;
        let manifest = Manifest::parse(text).map_err(|error| no_bundle(&format!("its manifest.json: {error:#}")))?;
        let seen = members.into_iter().map(|(member, (sha256, binary, traces, _))| {
            let path = member.name.strip_prefix(&name).unwrap_or(&member.name).trim_matches('/').to_owned();
            Seen { path, member, sha256, binary, traces }
        });
        let seen = seen.filter(|seen| !(seen.path.is_empty() && seen.member.kind == MemberKind::Folder)).collect();
        Ok(Self { name, manifest, seen })
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
            Some(platform) => findings.extend(self.needs(platform)),
            None => {
                findings.push(Finding::new("", format!("it is for {}, of which nothing is known", self.manifest.platform.os)));
            }
        }
        findings.extend(self.glibc_floor(policy));
        findings.extend(self.found_traces(policy));
        findings.sort_by(|a, b| a.path.cmp(&b.path));
        findings
    }

    fn names(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut known = BTreeSet::new();
        for Seen { path, member, .. } in &self.seen {
            let name = member.name.as_str();
            let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            let below = Path::new(name).starts_with(&self.name);
            if !plain || !below {
                findings.push(Finding::new(name, format!("lies outside of {}", self.name)));
            }
            if name.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
                findings.push(Finding::new(name, "its name has control characters, or is not UTF-8"));
            }
            if !known.insert(path) {
                findings.push(Finding::new(path, "is in the archive twice"));
            }
            if let MemberKind::Other(what) = &member.kind {
                findings.push(Finding::new(path, format!("is {what}; a bundle has files, folders and symbolic links")));
            }
        }
        findings
    }

    fn permissions(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for Seen { path, member, .. } in &self.seen {
            let mode = member.mode;
            let mut find = |what: String| findings.push(Finding::new(path, what));
            for (bit, what) in [(0o4000, "set-uid"), (0o2000, "set-gid"), (0o1000, "sticky")] {
                if mode & bit != 0 {
                    find(format!("is {what} ({mode:04o})"));
                }
            }
            let is_link = matches!(member.kind, MemberKind::Link(_));
            if !is_link && mode & 0o022 != 0 {
                find(format!("can be written to by others than its owner ({mode:04o})"));
            }
            if member.owner != (0, 0) {
                find(format!(
                    "belongs to user {} and group {}; in an archive everything is 0's",
                    member.owner.0, member.owner.1
                ));
            }
            let (user, group) = (member.owner_names.0.as_str(), member.owner_names.1.as_str());
            if ![user, group].iter().all(|name| ["", "root"].contains(name)) {
                find(format!("carries the names of its owner: {user}, {group}"));
            }
        }
        findings
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
                findings.push(Finding::new(&file.path, "is in the manifest and not in the archive"));
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
        findings.extend(seen.keys().map(|path| Finding::new(path, "is in the archive and not in the manifest")));
        findings
    }

    /// What programs and libraries want of the machine.
    fn needs(&self, platform: &Platform) -> Vec<Finding> {
        let mut findings = Vec::new();
        for seen in &self.seen {
            if let Some(Err(why)) = &seen.binary {
                findings.push(Finding::new(&seen.path, why.clone()));
            }
        }
        let own: BTreeSet<&str> = self.seen.iter().map(|seen| seen.path.as_str()).collect();
        for (path, binary) in self.binaries() {
            let mut find = |what: String| findings.push(Finding::new(path, what));
            let wanted = &self.manifest.platform.arch;
            if !binary.arch.split('+').any(|arch| arch == wanted) {
                find(format!("is for {}, and the bundle for {wanted}", binary.arch));
            }
            if binary.is_elf != (self.manifest.platform.os == "linux") {
                find(format!("is a program for another system than {}", self.manifest.platform.os));
                continue;
            }
            if let Some(interpreter) = binary.interpreter.as_ref().filter(|one| !platform.interpreters.contains(one)) {
                find(format!("is loaded by {interpreter}, which other machines do not have there"));
            }
            let mut folders = Vec::new();
            for rpath in &binary.rpaths {
                match own_folder(path, rpath) {
                    Ok(folder) => folders.push(folder),
                    Err(why) => find(format!("looks for libraries in \"{rpath}\", {why}")),
                }
            }
            for library in &binary.needed {
                find_library(library, path, platform, &folders, &own).into_iter().for_each(&mut find);
            }
        }
        findings
    }

    /// The newest glibc that is wanted, by component, from the programs themselves.
    pub fn glibc(&self) -> Option<Version> {
        self.binaries().filter_map(|(_, binary)| binary.glibc()).max()
    }

    fn glibc_floor(&self, policy: &Policy) -> Vec<Finding> {
        let mut findings = Vec::new();
        let of_components = self.manifest.components.iter().filter_map(|one| one.glibc.as_ref()?.parse::<Version>().ok()).max();
        let said = self.manifest.platform.glibc.as_ref().and_then(|floor| floor.parse::<Version>().ok());
        if said != self.glibc() || of_components != said {
            let words = |version: Option<Version>| version.map_or_else(|| "none".to_owned(), |version| version.to_string());
            let what = format!("the manifest says that glibc {} is needed, and it is {}", words(said), words(self.glibc()));
            findings.push(Finding::new("", what));
        }
        let Some(ceiling) = &policy.glibc else { return findings };
        for (path, binary) in self.binaries() {
            if let Some(floor) = binary.glibc().filter(|floor| floor > ceiling) {
                findings.push(Finding::new(path, format!("needs glibc {floor}; gate.toml allows no newer one than {ceiling}")));
            }
        }
        findings
    }

    fn found_traces(&self, policy: &Policy) -> Vec<Finding> {
        let mut findings = Vec::new();
        for seen in &self.seen {
            for trace in seen.traces.iter().filter(|trace| !policy.allows(&seen.path, &trace.text)) {
                let packed = if trace.packed { " (in its packed content)" } else { "" };
                findings.push(Finding::new(&seen.path, format!("names {}{packed}: \"{}\"", trace.what, trace.text)));
            }
        }
        findings
    }
}

/// A path inside the bundle without `.` and `..`; none where it leads out.
fn inside(path: &Path) -> Option<String> {
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

/// The folder of the bundle that a program's RPATH means.
fn own_folder(program: &str, rpath: &str) -> Result<String, String> {
    if rpath.is_empty() {
        return Err("which is wherever it is started".to_owned());
    }
    let rest = ["$ORIGIN", "${ORIGIN}", "@loader_path", "@executable_path"].iter().find_map(|start| rpath.strip_prefix(start));
    let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return Err("not relative to where it lies itself ($ORIGIN)".to_owned());
    };
    let folder = Path::new(program).parent().unwrap_or(Path::new(""));
    inside(&folder.join(rest.trim_start_matches('/'))).ok_or_else(|| "which is outside of the bundle".to_owned())
}

/// What is wrong with a library that a program needs; nothing where it will be found.
fn find_library(library: &str, path: &str, platform: &Platform, folders: &[String], own: &BTreeSet<&str>) -> Option<String> {
    let allowed = |known: &String| known == library || (known.ends_with('/') && library.starts_with(known.as_str()));
    if platform.libraries.iter().any(allowed) {
        return None;
    }
    let joined = |folder: &str, name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    if let Some(name) = library.strip_prefix("@rpath/").or(Some(library).filter(|name| !name.contains('/'))) {
        if folders.iter().any(|folder| own.contains(joined(folder, name).as_str())) {
            return None;
        }
        let elsewhere = own.iter().find(|own| Path::new(own).file_name().is_some_and(|file| file == name));
        return Some(match elsewhere {
            Some(place) => format!("needs {name}, which is in the bundle as {place}, but not where it looks for it (RPATH)"),
            None => format!("needs {name}, which is neither in the bundle nor on every machine"),
        });
    }
    match own_folder(path, library) {
        Ok(place) if own.contains(place.as_str()) => None,
        _ => Some(format!("needs {library}, which is neither in the bundle nor on every machine")),
    }
}

#[cfg(test)]
mod tests;
