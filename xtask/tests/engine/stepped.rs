//! The stack that these tests build, and how it is damaged.

use crate::common::{self, Outcome, Place};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Makes `out/three` of `out/two` of `out/one`, each by a step of its own; every rule that runs is counted. A folder that
/// stays empty, a link, a file that goes away: all that a step can do to its folder.
const MAKEFILE: &str = "
out/one: one.in
	@echo one >> 'COUNTER'
	mkdir -p out empty/inner
	cp one.in $@
	ln -s one out/link
out/two: out/one
	@echo two >> 'COUNTER'
	test -d empty/inner && test \"$$(readlink out/link)\" = one
	rm -r passing
	{ cat out/one; echo $(WORD); } > $@
out/three: out/two
	@echo three >> 'COUNTER'
	test ! -e passing
	{ cat out/two; echo three; } > $@
install:
	mkdir -p \"$(DESTDIR)/opt\"
	install -m 755 out/three \"$(DESTDIR)/opt/three\"
";

const STEPS: &str = "
[[step]]
name = \"one\"
[step.autotools]
targets = [\"out/one\"]
install = false
[[step]]
name = \"two\"
[step.env]
WORD = \"a word\"
[step.autotools]
targets = [\"out/two\"]
install = false
[[step]]
name = \"three\"
[step.autotools]
targets = [\"out/three\"]
[[install]]
from = \"dest/opt/three\"
to = \"bin/three\"
";

/// A stack whose component `thing` has three steps, and a neighbour without any.
pub struct Stepped {
    pub place: Place,
}

impl Stepped {
    pub fn new() -> Self {
        let place = Place::new();
        let lock = ["thing", "other"]
            .map(|name| format!("[[source]]\nname = \"{name}\"\nversion = \"1\"\npath = \"{name}\"\nlicense = \"MIT\"\n"));
        place.write("stack/vendor.lock", lock.concat());
        let counter = place.path("counter");
        place.write("stack/thing/Makefile", MAKEFILE.replace("COUNTER", counter.to_str().unwrap()));
        place.write("stack/thing/one.in", "the source\n");
        place.write("stack/thing/passing/file", "soon gone\n");
        let configure = place.write("stack/thing/configure", "#!/bin/sh\nexit 0\n");
        fs::set_permissions(configure, fs::Permissions::from_mode(0o755)).unwrap();
        place.write("stack/other/file", "a neighbour\n");
        place.write("stack/recipes/other.toml", "summary = \"x\"\n[[install]]\nfrom = \"src/file\"\nto = \"share/other\"\n");
        let stepped = Self { place };
        stepped.recipe(|text| text);
        stepped
    }

    /// Writes the recipe, changed.
    pub fn recipe(&self, change: impl FnOnce(String) -> String) {
        self.place.write("stack/recipes/thing.toml", change(format!("summary = \"x\"\n{STEPS}")));
    }

    pub fn package(&self, args: &[&str]) -> Outcome {
        let mut command = self.place.command(&[&["package"], args].concat());
        Outcome::of(&command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap())
    }

    /// The rules that have run since this was asked last.
    pub fn counted(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.path("counter")).unwrap_or_default();
        let _ = fs::remove_file(self.place.path("counter"));
        text.lines().map(str::to_owned).collect()
    }

    /// Packages, and says which rules have run.
    #[track_caller]
    pub fn runs(&self) -> Vec<String> {
        self.package(&[]).good();
        self.counted()
    }

    pub fn archive(&self) -> Vec<u8> {
        fs::read(self.place.archive()).unwrap()
    }

    pub fn store(&self, inner: &str) -> PathBuf {
        self.place.path("build/store").join(inner)
    }

    /// The files below a folder whose name ends so.
    pub fn files(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let found = walkdir::WalkDir::new(self.place.path(folder)).sort_by_file_name().into_iter().flatten();
        let files = found.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
        files.filter(|path| path.to_str().unwrap().ends_with(ending)).collect()
    }

    /// The object that holds this.
    pub fn object(&self, content: &str) -> PathBuf {
        let hash = common::sha256(content.as_bytes());
        self.store("objects").join(&hash[..2]).join(hash)
    }
}

/// Flips one bit in the middle of a file and gives it its old time back, as a broken disk would.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let meta = fs::metadata(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
    fs::File::open(path).unwrap().set_modified(meta.modified().unwrap()).unwrap();
}

impl Outcome {
    /// Fails the test unless the run was good and said this.
    #[track_caller]
    pub fn good_and_said(self, part: &str) {
        let text = self.good();
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
}

/// What the third step makes.
pub const THREE: &str = "the source\na word\nthree\n";
