//! Versions of tools, remembered between runs: asking node takes longer than everything else that a run without changes
//! does.
//!
//! Only what cannot answer differently the next time is remembered: a real program (ELF or Mach-O), known by its resolved
//! path, inode, size and times. Never a script, which may look around and hand over to another program, and never a program
//! that stands in for several others and decides by the folder or the environment which (rustup, version managers,
//! compiler caches).

use super::Tool;
use crate::fingerprint::{self, Stamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a program was when it was asked, and what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    stamp: Stamp,
    version: String,
}

/// By resolved path.
type Answers = BTreeMap<PathBuf, Answer>;

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Versions {
    file: Option<PathBuf>,
    answers: Answers,
}

/// What the file holds: a damaged one would have everything compiled anew, or something not.
#[derive(Serialize, Deserialize)]
struct Kept {
    sha256: String,
    answers: Answers,
}

impl Kept {
    fn new(answers: &Answers) -> serde_json::Result<Self> {
        let sha256 = fingerprint::hex(&Sha256::digest(serde_json::to_vec(answers)?));
        Ok(Self { sha256, answers: answers.clone() })
    }
}

impl Versions {
    /// What the file holds; nothing where there is none, or it is damaged.
    pub(super) fn read(file: PathBuf) -> Self {
        let kept = fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
        let whole = kept.filter(|kept| Kept::new(&kept.answers).is_ok_and(|right| right.sha256 == kept.sha256));
        Self { file: Some(file), answers: whole.map(|kept| kept.answers).unwrap_or_default() }
    }

    /// The version of a program that was asked before and has not changed since.
    pub(super) fn get(&self, name: &str, path: &Path) -> Option<String> {
        let (program, stamp) = steady(name, path)?;
        self.answers.get(&program).filter(|answer| answer.stamp == stamp).map(|answer| answer.version.clone())
    }

    /// Remembers what a program said, if it can be relied on to say it again.
    pub(super) fn put(&mut self, name: &str, tool: &Tool) {
        let Some((program, stamp)) = steady(name, &tool.path) else { return };
        self.answers.insert(program, Answer { stamp, version: tool.version.clone() });
        // Failing costs only time in the next run.
        if let Some(file) = &self.file
            && let Some(folder) = file.parent()
            && let Ok(text) = Kept::new(&self.answers).and_then(|kept| serde_json::to_vec(&kept))
        {
            let draft = file.with_extension("draft");
            let write =
                || fs::create_dir_all(folder).and_then(|()| fs::write(&draft, text)).and_then(|()| fs::rename(&draft, file));
            let _ = write();
        }
    }
}

/// The program behind a path with its stamp, if it is one that always answers the same.
fn steady(name: &str, path: &Path) -> Option<(PathBuf, Stamp)> {
    let program = path.canonicalize().ok()?;
    let file_name = program.file_name()?.to_str()?;
    let own_names: &[&str] = match name {
        "cc" => &["gcc", "clang"],
        "pkg-config" => &["pkg-config", "pkgconf"],
        other => &[other],
    };
    let others = ["ccache", "distcc", "icecc", "shim", "rustup"];
    let is_own = own_names.iter().any(|own| file_name.contains(own)) && !others.iter().any(|other| file_name.contains(other));
    let in_shims = program.components().any(|part| part.as_os_str() == "shims");
    if !is_own || in_shims || !is_binary(&program) {
        return None;
    }
    let meta = program.metadata().ok()?;
    // rustup puts itself under its tools' names by hard links.
    let twin = program.with_file_name("rustup").metadata().ok();
    if twin.is_some_and(|twin| (twin.ino(), twin.dev()) == (meta.ino(), meta.dev()) || twin.len() == meta.len()) {
        return None;
    }
    Some((program, Stamp::of(&meta)))
}

/// Whether a file begins as ELF and Mach-O programs do.
fn is_binary(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && matches!(head, [0x7f, b'E', b'L', b'F'] | [0xcf, 0xfa, 0xed, 0xfe] | [0xca, 0xfe, 0xba, 0xbe])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_program_is_asked_again_when_it_changed_and_a_script_or_a_stand_in_always() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let program = |name: &str, content: &[u8]| {
            fs::write(path(name), content).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        program("node", b"\x7fELF one");
        program("make", b"#!/bin/sh\necho 4.3\n");
        program("rustup", b"\x7fELF rustup");
        fs::hard_link(path("rustup"), path("rustc")).unwrap();
        program("ccache", b"\x7fELF ccache");
        symlink("ccache", path("cc")).unwrap();
        let remember = |name: &str| {
            let mut versions = Versions::read(path("versions.json"));
            versions.put(name, &Tool { path: path(name), version: "1.2".to_owned() });
            Versions::read(path("versions.json")).get(name, &path(name))
        };
        assert_eq!(remember("node").as_deref(), Some("1.2"));
        for name in ["make", "rustc", "cc"] {
            assert_eq!(remember(name), None, "{name}");
        }
        let whole = fs::read(path("versions.json")).unwrap();
        for (at, bit) in (0..whole.len()).flat_map(|at| [(at, 0), (at, 1), (at, 4)]) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            fs::write(path("damaged.json"), damaged).unwrap();
            let version = Versions::read(path("damaged.json")).get("node", &path("node"));
            assert!(version.as_deref().is_none_or(|version| version == "1.2"), "bit {bit} of byte {at}: {version:?}");
        }
        // Of another size: the times of two writings may be the same.
        program("node", b"\x7fELF another");
        assert_eq!(Versions::read(path("versions.json")).get("node", &path("node")), None);
    }
}
