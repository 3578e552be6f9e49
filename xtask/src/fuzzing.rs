//! What must hold for any input whatever: each function takes arbitrary bytes and panics where something does not.
//!
//! `xtask/tests/fuzz.rs` runs them on inputs that it changes by itself, a bounded number of times; the targets in `fuzz/` are
//! for cargo-fuzz, which goes on for as long as one likes.

use crate::commands::lock::rewritten;
use crate::stack::lock::{Lock, Origin};
use crate::stack::recipe::Recipe;
use crate::unpack::Limits;
use crate::{fingerprint, patch, unpack};
use std::path::Path;

/// The text of a `vendor.lock`: reading ends in a lock or in words; a lock that is taken can be used, and rewriting an entry as
/// it is changes nothing.
pub fn lock(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let unchecked = Lock::parse_unchecked(text);
    let Ok(lock) = Lock::parse(text) else {
        // Whatever is not taken is refused for a reason.
        assert!(unchecked.map_or_else(|why| !why.is_empty(), |lock| !lock.problems().is_empty()), "refused without a reason");
        return;
    };
    for source in &lock.sources {
        assert_eq!(lock.get(&source.name), Some(source), "found by its name");
        if let Origin::Archive { sha256 } = source.origin() {
            assert_eq!(sha256.len(), 64);
        }
        for name in source.file_names() {
            assert!(!name.contains('/'), "{name} is no file's name");
        }
        if let Ok(same) = rewritten(text, source) {
            // Where lines end in two ways, they may end in one thereafter.
            assert_eq!(same.replace('\r', ""), text.replace('\r', ""), "nothing to change changed something");
        }
    }
}

/// The text of a recipe: reading ends in a recipe or in words, and a recipe that is taken leads nowhere outside.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Recipe::parse("thing", text) {
        Err(why) => assert!(!why.is_empty(), "refused without a reason"),
        Ok(recipe) => {
            recipe.memory_mb();
            for step in &recipe.steps {
                step.action();
            }
            for patch in &recipe.patches {
                assert!(!patch.contains('/'), "the patch {patch} leads out of its folder");
            }
        }
    }
}

/// An archive: unpacking writes nothing outside, leaves nothing where it fails, and keeps its limits.
pub fn unpack(data: &[u8]) {
    let place = Scratch::new();
    let archive = place.path("archive");
    place.write("archive", data);
    let limits = Limits { bytes: 1 << 20, entries: 1000 };
    match unpack::unpack_within(&archive, &place.path("tree"), limits) {
        Ok(unpacked) => {
            assert!(unpacked.bytes <= limits.bytes && unpacked.files <= limits.entries);
            place.holds(&["archive", "outside", "tree"]);
        }
        Err(error) => {
            assert!(!format!("{error:#}").is_empty());
            place.holds(&["archive", "outside"]);
        }
    }
}

/// A patch for a small tree: applied wholly or not at all, and never outside.
pub fn patch(data: &[u8]) {
    let place = Scratch::new();
    for (name, content) in [("tree/a.c", "one\ntwo\nthree\nfour\nfive\n"), ("tree/dir/b.txt", "b\n"), ("tree/empty", "")] {
        place.write(name, content.as_bytes());
    }
    place.write("patch", data);
    let tree = place.path("tree");
    let before = fingerprint::scan(&tree).ok();
    if patch::apply(&place.path("patch"), &tree).is_err() {
        assert_eq!(fingerprint::scan(&tree).ok(), before, "a patch that does not apply changed something");
    }
    place.holds(&["outside", "patch", "tree"]);
}

/// A folder with a file that nothing may touch.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let scratch = tempfile::tempdir().map(Self).unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        scratch.write("outside", b"untouched");
        scratch
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(Path::new("."));
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, content));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Nothing else is there, and the file beside is as it was.
    fn holds(&self, names: &[&str]) {
        let entries = self.0.path().read_dir().map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
        let mut found: Vec<String> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        found.sort();
        assert_eq!(found, names);
        assert!(std::fs::read(self.path("outside")).is_ok_and(|content| content == b"untouched"));
    }
}
