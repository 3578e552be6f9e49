//! Records: what is known of a result, as it is written down.

use super::ObjectRef;
use crate::fingerprint::{self, Entry, EntryKind};
use crate::key::Chain;
use crate::resources::Cost;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

/// Raised when a record of the old form cannot be used any more.
const FORMAT: u32 = 1;

/// A record begins so; its own hash and the record itself follow.
const HEAD: &str = "{\"sha256\":\"";
const MIDDLE: &str = "\",\"record\":";
const TAIL: &str = "}\n";

/// What is known of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The form of the record.
    pub format: u32,
    /// The component.
    pub component: String,
    /// Which of its results: [`super::FINAL`], or that of a step.
    pub slot: String,
    /// All that it depends on, node by node.
    pub chain: Chain,
    /// The compilers that it was made by, for the bundle's manifest.
    pub toolchain: BTreeMap<String, String>,
    /// Of a final result: the oldest glibc that it runs with, if it needs any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glibc: Option<String>,
    /// What the nodes cost when they ran: of a step its own, of a final result those of all.
    pub costs: Vec<StepCost>,
    /// The commands that it was made by, for its provenance; none in records of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Ran>,
    /// Which objects it is.
    pub content: Content,
}

/// Which objects a result is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Content {
    /// A tree that is laid over the bundle: an object for each file, and one that lists them.
    Tree {
        /// The list of files and links.
        list: ObjectRef,
        /// How many files.
        files: u64,
        /// Bytes in them.
        bytes: u64,
    },
    /// What a step changed in its component's work folder, packed as one object.
    Delta {
        /// A tar, see [`super::delta`].
        pack: ObjectRef,
        /// Files, links and folders in it.
        entries: u64,
    },
}

/// A command that has run, in words that hold nothing of the machine that it ran on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// Its step.
    pub step: String,
    /// The program and its arguments; `{build}` and the like stand for folders.
    pub words: Vec<String>,
    /// The folder that it ran in.
    pub dir: String,
    /// What the step has added to the fixed environment.
    pub env: BTreeMap<String, String>,
}

/// What a node cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepCost {
    /// The node's name in its component, such as `compile` or `compile needs`.
    pub name: String,
    /// Seconds on the clock.
    pub wall_s: f64,
    /// Seconds of processor time.
    pub cpu_s: f64,
    /// Memory of the largest process, in bytes.
    pub peak: u64,
}

impl StepCost {
    /// A node's name with its cost.
    pub fn new(name: &str, cost: Cost) -> Self {
        Self { name: name.to_owned(), wall_s: cost.wall.as_secs_f64(), cpu_s: cost.cpu.as_secs_f64(), peak: cost.peak }
    }

    /// The cost without the name.
    pub fn cost(&self) -> Cost {
        let cpu = Duration::try_from_secs_f64(self.cpu_s).unwrap_or_default();
        Cost { wall: self.wall(), cpu, peak: self.peak }
    }

    /// The time on the clock.
    pub fn wall(&self) -> Duration {
        Duration::try_from_secs_f64(self.wall_s).unwrap_or_default()
    }
}

impl Record {
    /// A record whose content is still to come.
    pub fn new(component: &str, slot: impl Into<String>, chain: Chain) -> Self {
        let content = Content::Delta { pack: ObjectRef { sha256: String::new(), size: 0 }, entries: 0 };
        let (toolchain, costs, commands) = (BTreeMap::new(), Vec::new(), Vec::new());
        let component = component.to_owned();
        Self { format: FORMAT, component, slot: slot.into(), chain, toolchain, glibc: None, costs, commands, content }
    }

    /// The record as it is written down: JSON that begins with a hash over the rest.
    ///
    /// # Errors
    /// None that can come about with these types.
    pub(super) fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        let text = serde_json::to_string(self)?;
        let sha256 = fingerprint::hex(&Sha256::digest(&text));
        Ok(format!("{HEAD}{sha256}{MIDDLE}{text}{TAIL}").into_bytes())
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Why these bytes are none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let cut = || "it is cut short or has another form".to_owned();
        let rest = bytes.strip_prefix(HEAD.as_bytes()).ok_or_else(cut)?;
        let (sha256, rest) = rest.split_at_checked(64).ok_or_else(cut)?;
        let text = rest.strip_prefix(MIDDLE.as_bytes()).and_then(|rest| rest.strip_suffix(TAIL.as_bytes())).ok_or_else(cut)?;
        if fingerprint::hex(&Sha256::digest(text)).as_bytes() != sha256 {
            return Err("its hash is another".to_owned());
        }
        let record: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let objects = match &record.content {
            Content::Tree { list, .. } => list,
            Content::Delta { pack, .. } => pack,
        };
        match (record.format, objects.is_sound()) {
            (FORMAT, true) => Ok(record),
            (FORMAT, false) => Err("it names no object".to_owned()),
            (other, _) => Err(format!("its form is {other}, not {FORMAT}")),
        }
    }
}

/// The list of a tree's files and links: no JSON, since it can be long and is read often.
pub(super) fn list(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        match &entry.kind {
            EntryKind::File { size, mode, sha256 } => {
                let mut head = String::new();
                // Writing to a string cannot fail.
                let _ = write!(head, "f {mode:o} {size} {sha256} ");
                bytes.extend_from_slice(head.as_bytes());
                bytes.extend_from_slice(entry.path.as_os_str().as_bytes());
            }
            EntryKind::Link { target } => {
                let path = entry.path.as_os_str().as_bytes();
                bytes.extend_from_slice(format!("l {} ", path.len()).as_bytes());
                bytes.extend_from_slice(path);
                bytes.extend_from_slice(target.as_os_str().as_bytes());
            }
        }
        bytes.push(0);
    }
    bytes
}

/// Reads what [`list`] has written.
///
/// # Errors
/// When it cannot be understood, or names what may not be in a tree.
pub(super) fn parse_list(mut bytes: &[u8]) -> anyhow::Result<Vec<Entry>> {
    let path = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).to_owned();
    let text = |bytes| std::str::from_utf8(bytes);
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == 0).context("it is cut short")?;
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        bytes = rest;
        let entry = if let Some(line) = line.strip_prefix(b"f ") {
            let mut words = line.splitn(4, |byte| *byte == b' ');
            let mut word = || words.next().context("a word is missing");
            let (mode, size, sha256) = (text(word()?)?, text(word()?)?, text(word()?)?);
            let kind = EntryKind::File { mode: u32::from_str_radix(mode, 8)?, size: size.parse()?, sha256: sha256.to_owned() };
            Entry { path: path(word()?), kind }
        } else {
            let line = line.strip_prefix(b"l ").context("an entry is of no known kind")?;
            let blank = line.iter().position(|byte| *byte == b' ').context("a length is missing")?;
            let length = text(&line[..blank])?.parse()?;
            let (name, target) = line[blank + 1..].split_at_checked(length).context("a name is cut short")?;
            Entry { path: path(name), kind: EntryKind::Link { target: path(target) } }
        };
        let sound = ObjectRef::of(&entry).is_none_or(|object| object.is_sound());
        anyhow::ensure!(sound && crate::stack::lock::stays_inside(&entry.path), "{} is wrong", entry.path.display());
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Parts;

    #[test]
    fn a_list_is_read_as_it_was_written_whatever_the_names() {
        let file =
            |path: &str| Entry { path: path.into(), kind: EntryKind::File { size: 7, mode: 0o755, sha256: "a".repeat(64) } };
        let link = Entry { path: "a link".into(), kind: EntryKind::Link { target: "to there\n".into() } };
        let entries = vec![file("a b/c\nd"), link, file("x ö")];
        assert_eq!(parse_list(&list(&entries)).unwrap(), entries);
        assert!(parse_list(&list(&[file("../x")])).is_err());
        let whole = list(&entries);
        assert!(parse_list(&whole[..whole.len() - 1]).is_err());
    }

    #[test]
    fn any_flipped_bit_of_a_record_is_seen() {
        let mut record = Record::new("thing", "collect", Chain::default().then("unpack", Parts::default()));
        record.content = Content::Delta { pack: ObjectRef { sha256: "b".repeat(64), size: 1 }, entries: 1 };
        let bytes = record.bytes().unwrap();
        assert_eq!(Record::parse(&bytes).unwrap(), record);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Record::parse(&damaged).is_err(), "byte {at}");
        }
    }
}
