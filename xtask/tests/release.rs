//! `release`: what it refuses, and what it makes; on a stack in a git repository of its own.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Outcome, Place, new_key, sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A stack that needs neither network nor compiler, committed, with a changelog; and a key.
struct Releasing {
    place: Place,
}

impl Releasing {
    fn new() -> Self {
        let place = Place::new();
        place
            .write("stack/vendor.lock", "[[source]]\nname = \"thing\"\nversion = \"1\"\npath = \"thing\"\nlicense = \"MIT\"\n");
        let install = "[[install]]\nfrom = \"src/hello.txt\"\nto = \"share/hello.txt\"\n";
        place.write("stack/recipes/thing.toml", format!("summary = \"x\"\n{install}"));
        place.write("stack/thing/hello.txt", "hello\n");
        place.write(
            "stack/CHANGELOG.md",
            format!("# Changelog\n\n## [{VERSION}] - 2026-01-01\n\n- It greets.\n\n## [0.0.1]\n\n- Old.\n"),
        );
        new_key(&place.path("key"), None);
        let releasing = Self { place };
        releasing.git(&["init", "--quiet", "--initial-branch=main"]);
        releasing.commit();
        releasing
    }

    fn git(&self, words: &[&str]) {
        self.git_at("2026-01-01T00:00:00Z", words);
    }

    fn git_at(&self, time: &str, words: &[&str]) {
        let mut command = Command::new("git");
        command.env("GIT_COMMITTER_DATE", time).env("GIT_AUTHOR_DATE", time);
        command.arg("-C").arg(self.place.path("stack")).args(["-c", "user.name=x", "-c", "user.email=x@x"]).args(words);
        Outcome::of(&command.output().unwrap()).good();
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "x"]);
    }

    fn release(&self, words: &[&str]) -> Outcome {
        let dist = self.path("dist");
        self.place.xtask(&[["release", "--offline", "--dist-dir", &dist].as_slice(), words].concat())
    }

    fn signed(&self, words: &[&str]) -> Outcome {
        self.release(&[["--sign", &self.path("key")].as_slice(), words].concat())
    }

    fn path(&self, inner: &str) -> String {
        self.place.path(inner).to_str().unwrap().to_owned()
    }

    /// The folder of the release.
    fn folder(&self) -> PathBuf {
        self.place.path("dist").join(format!("release-{VERSION}"))
    }

    fn tag(&self) -> String {
        format!("v{VERSION}")
    }
}

/// All files of a folder with their content.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn what_speaks_against_a_release_is_told_before_anything_is_made() {
    let releasing = Releasing::new();
    releasing.release(&[]).bad(2, &["no key to sign it with"]);
    releasing.place.write("stack/thing/hello.txt", "jello\n");
    releasing.place.write("stack/CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n\n- It greets.\n");
    releasing.git(&["tag", &releasing.tag()]);
    let entry = format!("has no entry \"## [{VERSION}]");
    releasing.release(&["--dry-run"]).bad(2, &["not as committed", "and 1 more", "is there already", &entry]);
    releasing.commit();
    releasing.signed(&["--tag", &releasing.tag()]).bad(2, &["check the tag out", &entry]);
    releasing.signed(&["--tag", "v9"]).bad(2, &["--tag is v9"]);
    releasing.place.write("stack/new file", "");
    releasing.release(&["--dry-run"]).bad(2, &["new file"]);
    assert!(!releasing.place.path("dist").exists() && !releasing.place.path("build").exists(), "something was made");
    let lonely = Place::new();
    lonely.locked(&["https://127.0.0.1/x".to_owned()], &sha256(b""), 0);
    lonely.write("stack/recipes/thing.toml", "summary = \"x\"\n[[install]]\nfrom = \"src/x\"\nto = \"x\"\n");
    lonely.xtask(&["release", "--dry-run"]).bad(2, &["no git repository"]);
    let without_git = lonely.command(&["release", "--dry-run"]).env("PATH", lonely.path("nowhere")).output().unwrap();
    let text = Outcome::of(&without_git).bad(2, &["cannot release", "git cannot be run"]);
    assert!(!text.contains("no git repository"), "{text}");
}

#[test]
fn a_tag_that_was_published_is_known_without_being_here() {
    let releasing = Releasing::new();
    let remote = releasing.path("the remote.git");
    releasing.git(&["init", "--quiet", "--bare", &remote]);
    releasing.git(&["remote", "add", "origin", &remote]);
    let dist = releasing.path("dist");
    let online = |words: &[&str]| releasing.place.xtask(&[["release", "--dist-dir", &dist].as_slice(), words].concat());
    online(&["--dry-run"]).good();
    releasing.git(&["tag", "--annotate", "--message", "x", &releasing.tag()]);
    releasing.git(&["push", "--quiet", "origin", &releasing.tag()]);
    online(&["--dry-run", "--tag", &releasing.tag()]).good();
    releasing.git(&["tag", "--delete", &releasing.tag()]);
    online(&["--dry-run"]).bad(2, &["is there already at origin, and not here"]);
    releasing.place.write("stack/thing/hello.txt", "jello\n");
    releasing.commit();
    releasing.git(&["tag", &releasing.tag()]);
    online(&["--dry-run", "--tag", &releasing.tag()]).bad(2, &["was it moved?"]);
    // Who cannot ask says so, and goes on.
    fs::remove_dir_all(&remote).unwrap();
    let text = online(&["--dry-run", "--tag", &releasing.tag()]).good();
    assert!(text.contains("was not to be learnt"), "{text}");
    let text = releasing.release(&["--dry-run", "--tag", &releasing.tag()]).good();
    assert!(!text.contains("learnt"), "--offline asks nobody: {text}");
    releasing.signed(&["--dry-run"]).bad(2, &["--dry-run", "--sign"]);
}

/// CI has one commit and no branch; what it makes has to be what everybody else makes of that commit.
#[test]
fn a_clone_of_one_commit_makes_the_same_release_as_the_whole_history() {
    let whole = Releasing::new();
    whole.git(&["checkout", "--quiet", "-b", "more"]);
    whole.place.write("stack/thing/hello.txt", "jello\n");
    whole.git(&["add", "--all"]);
    whole.git_at("2026-01-02T00:00:00Z", &["commit", "--quiet", "--message", "x"]);
    whole.git(&["checkout", "--quiet", "main"]);
    whole.git_at("2026-01-03T00:00:00Z", &["merge", "--quiet", "--no-ff", "--message", "x", "more"]);
    whole.git(&["tag", &whole.tag()]);
    let shallow = Releasing { place: Place::new() };
    fs::remove_dir_all(shallow.place.path("stack")).unwrap();
    let from = format!("file://{}", whole.path("stack").replace(' ', "%20"));
    let words = ["clone", "--quiet", "--depth", "1", "--branch", &whole.tag(), &from, &shallow.path("stack")];
    whole.git(&[["-c", "advice.detachedHead=false"].as_slice(), &words].concat());
    let release = |one: &Releasing| {
        one.release(&["--dry-run", "--tag", &one.tag()]).good();
        fs::read_to_string(one.place.path("dist").join(format!("release-{VERSION}-dry-run/SHA256SUMS"))).unwrap()
    };
    let (one, other) = (release(&whole), release(&shallow));
    let archives = |sums: &str| sums.lines().filter(|line| line.ends_with(".tar.gz")).map(str::to_owned).collect::<Vec<_>>();
    assert!(!archives(&one).is_empty());
    assert_eq!(archives(&one), archives(&other));
}

#[test]
fn a_release_is_whole_signed_and_the_same_again() {
    let releasing = Releasing::new();
    let text = releasing.signed(&["--format", "gz,xz"]).good();
    assert!(text.contains("nothing was published"), "{text}");
    let name = |ending: &str| format!("dkumonitor-stack-{VERSION}.{ending}");
    let files = content(&releasing.folder());
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    for ending in ["tar.gz", "tar.gz.minisig", "tar.gz.sha256", "tar.xz", "tar.xz.minisig", "tar.xz.sha256"] {
        assert!(names.contains(&name(ending).as_str()), "{ending} is missing in {names:?}");
    }
    let notes = fs::read_to_string(releasing.folder().join("RELEASE_NOTES.md")).unwrap();
    assert!(notes.contains("- It greets.") && !notes.contains("Old"), "{notes}");
    // sha256sum and minisign themselves agree.
    let said = Command::new("sha256sum").args(["-c", "SHA256SUMS"]).current_dir(releasing.folder()).output().unwrap();
    let said = Outcome::of(&said).good();
    assert!(said.contains(&format!("{}: OK", name("tar.xz"))), "{said}");
    let sums = releasing.folder().join("SHA256SUMS");
    let verify = |file: &Path| {
        let words = [file.to_str().unwrap(), "--key", &releasing.path("key.pub")];
        Outcome::of(&Command::new(env!("CARGO_BIN_EXE_xtask")).arg("verify").args(words).output().unwrap())
    };
    verify(&sums).good();
    verify(&releasing.folder().join(name("tar.gz"))).good();
    // Again, and from nothing: the same files.
    releasing.signed(&["--format", "gz,xz"]).good();
    assert!(content(&releasing.folder()) == files, "the second run made something else");
    fs::remove_dir_all(releasing.place.path("dist")).unwrap();
    fs::remove_dir_all(releasing.place.path("build")).unwrap();
    releasing.signed(&["--format", "gz,xz"]).good();
    assert!(content(&releasing.folder()) == files, "made from nothing it is something else");
    // For the tag that it got.
    releasing.git(&["tag", &releasing.tag()]);
    releasing.signed(&["--format", "gz,xz", "--tag", &releasing.tag()]).good();
    // Whoever changes one of the files is seen.
    fs::write(releasing.folder().join("RELEASE_NOTES.md"), "nothing changed").unwrap();
    verify(&sums).bad(5, &["RELEASE_NOTES.md: its SHA-256 is"]);
    let text = fs::read_to_string(&sums).unwrap();
    let wrong = text.lines().find(|line| line.ends_with("RELEASE_NOTES.md")).unwrap().split(' ').next().unwrap();
    fs::write(&sums, text.replace(wrong, &sha256(b"nothing changed"))).unwrap();
    verify(&sums).bad(5, &["SHA256SUMS.minisig is wrong"]);
}

#[test]
fn bundles_for_a_named_platform_have_its_name_and_what_cannot_be_crossed_is_refused() {
    let other = if cfg!(target_arch = "aarch64") { "x86_64" } else { "aarch64" };
    let target = format!("{other}-unknown-linux-musl");
    let releasing = Releasing::new();
    releasing.place.xtask(&["package", "--offline", "--target", &target]).good();
    let name = format!("dkumonitor-stack-{VERSION}-{target}");
    let manifest = fs::read_to_string(releasing.place.path("dist").join(&name).join("manifest.json")).unwrap();
    assert!(manifest.contains(&format!("\"arch\": \"{other}\"")), "{manifest}");
    // A release takes those of all platforms.
    releasing.place.xtask(&["package", "--offline"]).good();
    let from = releasing.place.path("carried");
    fs::rename(releasing.place.path("dist"), &from).unwrap();
    fs::write(from.join(format!("dkumonitor-stack-partial-{VERSION}.deb")), "a package").unwrap();
    fs::write(from.join("dkumonitor-stack-9.9.9.deb"), "another version").unwrap();
    releasing.signed(&["--from", from.to_str().unwrap()]).good();
    assert!(releasing.folder().join(format!("dkumonitor-stack-partial-{VERSION}.deb.minisig")).is_file());
    assert!(!releasing.folder().join("dkumonitor-stack-9.9.9.deb").exists());
    for archive in [format!("{name}.tar.gz.minisig"), format!("dkumonitor-stack-{VERSION}.tar.gz.minisig")] {
        assert!(releasing.folder().join(&archive).is_file(), "{archive} is missing");
    }
    releasing.place.xtask(&["package", "--target", "pdp11"]).bad(2, &["bundles are made for"]);
    let compiled = common::compiled(common::GOOD_MAKEFILE);
    let text = compiled.xtask(&["package", "--offline", "--target", &target]).bad(2, &["thing is compiled by configure"]);
    assert!(text.contains("--only") && !compiled.path("dist").exists(), "{text}");
}

#[test]
fn a_dry_run_cannot_be_taken_for_a_release() {
    let releasing = Releasing::new();
    releasing.release(&["--dry-run"]).good();
    assert!(!releasing.folder().exists());
    let files = content(&releasing.place.path("dist").join(format!("release-{VERSION}-dry-run")));
    assert!(files.iter().any(|(name, _)| name == "SHA256SUMS") && !files.iter().any(|(name, _)| name.ends_with("minisig")));
}

#[test]
fn what_was_made_elsewhere_is_signed_to_the_same_bytes_unless_it_was_damaged() {
    let releasing = Releasing::new();
    releasing.signed(&[]).good();
    let wanted = content(&releasing.folder());
    fs::remove_dir_all(releasing.place.path("dist")).unwrap();
    // Packaged without the key, carried to another machine, signed there.
    releasing.place.xtask(&["package", "--offline"]).good();
    let carried = releasing.place.path("carried");
    fs::rename(releasing.place.path("dist"), &carried).unwrap();
    let from = carried.to_str().unwrap();
    releasing.signed(&["--from", from]).good();
    assert!(content(&releasing.folder()) == wanted, "it is something else");
    // Damage on the way: the release that is there stays, and nothing else is left.
    let archive = carried.join(releasing.place.archive().file_name().unwrap());
    common::flip_checksum(&archive);
    releasing.signed(&["--from", from]).bad(5, &["its .sha256 says"]);
    fs::remove_file(archive.with_added_extension("sha256")).unwrap();
    releasing.signed(&["--from", from]).bad(5, &[]);
    assert!(content(&releasing.folder()) == wanted, "a fault has changed the release");
    assert_eq!(fs::read_dir(releasing.place.path("dist")).unwrap().count(), 1, "something was left");
    fs::remove_file(&archive).unwrap();
    releasing.signed(&["--from", from]).bad(2, &["cannot release without an archive"]);
}
