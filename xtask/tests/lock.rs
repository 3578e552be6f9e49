//! `lock check` and `lock bump`, on stacks and git repositories made on the spot.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Outcome, Place, closed_port, serve, sha256, tar_gz};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A sane lock of one archive.
fn sane() -> String {
    format!(
        "# the pins\n[[source]]\nname = \"thing\"\nversion = \"1.0\"\nurls = [\"https://h.example/thing-1.0.tar.gz\"]\nsha256 = \"{}\"\n\
         license = \"MIT\"\nlicense-files = [\"LICENSE\"]\npurl = \"pkg:github/o/thing@v1.0\"\n",
        "a".repeat(64)
    )
}

fn check(place: &Place, more: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    Outcome::of(&command.args(["lock", "check", "--stack"]).arg(place.path("stack")).args(more).output().unwrap())
}

/// Runs git, deaf to this machine's settings.
fn git(folder: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    command.current_dir(folder).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "t").env(format!("GIT_{who}_EMAIL"), "t@example.org");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A stack below the root of a repository, with this lock committed.
fn committed(lock: &str) -> Place {
    let place = Place::new();
    place.write("stack/vendor.lock", lock);
    git(&place.path(""), &["init", "--quiet"]);
    git(&place.path(""), &["add", "stack/vendor.lock"]);
    git(&place.path(""), &["commit", "--quiet", "-m", "pins"]);
    place
}

#[test]
fn a_sane_lock_passes_and_without_git_the_comparison_is_said_to_be_passed_over() {
    let place = Place::new();
    place.write("stack/vendor.lock", sane());
    let text = check(&place, &[]).good();
    assert!(text.contains("nothing found") && text.contains("passed over"), "{text}");
    // Tracked by nobody, though in a repository.
    git(&place.path(""), &["init", "--quiet"]);
    assert!(check(&place, &[]).good().contains("passed over"));
    check(&place, &["--against", "HEAD"]).bad(2, &["--against"]);
    // Where there is no git at all.
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["lock", "check", "--stack"]).arg(place.path("stack")).env("PATH", place.path("stack"));
    let text = Outcome::of(&command.output().unwrap()).good();
    assert!(text.contains("git cannot be run"), "{text}");
}

#[test]
fn everything_that_is_wrong_in_a_lock_is_told_at_once() {
    let place = Place::new();
    let bad = "[[source]]\nname = \"one\"\nversion = \"1.1\"\nurls = [\"http://h.example/one-1.0.tar.gz\"]\nsha256 = \"abc\"\nlicense = \"Nonsense\"\n\
               [[source]]\nname = \"two\"\nversion = \"2.0\"\nurls = [\"https://h.example/two-2.0.tar.gz\"]\n"
        .to_owned()
        + &format!("sha256 = \"{0}\"\nlicense = \"MIT\"\nlicense-files = [\"LICENSE\"]\npurl = \"pkg:github/o/two@v2.0.1\"\n", "a".repeat(64))
        + &sane()
        + "[[source]]\nname = \"thing\"\nversion = \"1\"\npath = \"sources/thing\"\nlicense = \"MIT\"\nlicense-files = [\"GONE\"]\n";
    place.write("stack/vendor.lock", bad);
    let parts = [
        "\"thing\" stands there twice",
        "not https",
        "64 lower-case",
        "Nonsense",
        "no address names version 1.1",
        "\"one\": license-files is missing",
        "\"one\": purl is missing",
        "names v2.0.1, but the version is 2.0",
        "\"two\" and \"thing\" have the same sha256",
        "GONE is not in sources/thing",
        "findings",
    ];
    let text = check(&place, &[]).bad(2, &parts);
    assert!(!text.contains("\"two\": no address"), "{text}");
}

#[test]
fn a_pin_of_which_only_a_half_was_changed_is_found_by_the_last_commit() {
    let place = committed(&sane());
    assert!(check(&place, &[]).good().contains("compared with that of HEAD"));
    let changed = |lock: String| {
        place.write("stack/vendor.lock", lock);
        check(&place, &[])
    };
    // Version and address bumped, hash not.
    let bumped = sane().replace("1.0", "1.1");
    changed(bumped.clone()).bad(2, &["\"thing\"", "version (1.0 → 1.1)", "thing-1.1.tar.gz", "sha256 did not"]);
    // The address alone.
    changed(sane().replace("h.example", "other.example")).bad(2, &["address", "sha256 did not"]);
    // Hash changed without a reason, and behind the pretext of one more mirror.
    let other = "b".repeat(64);
    changed(sane().replace(&"a".repeat(64), &other)).bad(2, &["sha256 changed, but neither version nor address"]);
    let mirror = sane().replace("urls = [", "urls = [\"https://m.example/thing-1.0.tar.gz\", ");
    changed(mirror.replace(&"a".repeat(64), &other)).bad(2, &["sha256 changed, but neither"]);
    // A mirror added to the same archive, and a whole bump, are fine.
    changed(mirror).good();
    changed(bumped.replace(&"a".repeat(64), &other)).good();
    // Once committed, the half bump is seen only by looking further back.
    place.write("stack/vendor.lock", bumped);
    git(&place.path(""), &["commit", "--quiet", "-am", "half"]);
    check(&place, &[]).good();
    check(&place, &["--against", "HEAD~1"]).bad(2, &["sha256 did not"]);
}

const LICENCE: &str = "Copyright 2020 A\nDo what you like.\n";

/// The archive of a version of `thing`.
fn archive(version: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let named: Vec<_> = files.iter().map(|(name, content)| (format!("thing-{version}/{name}"), *content)).collect();
    tar_gz(&named.iter().map(|(name, content)| (name.as_str(), *content)).collect::<Vec<_>>())
}

/// A stack whose `thing` 1.0 is in a mirror folder called `old`; its addresses are made by `address` for any version.
fn bumpable(urls: &[String]) -> Place {
    let place = Place::new();
    let old = archive("1.0", &[("hello.txt", "hello\n"), ("LICENSE", LICENCE)]);
    place.write("old/thing-1.0.tar.gz", &old);
    place.one_component(&[], &old);
    let urls: String = urls.iter().map(|url| format!("    \"{url}\", # seen\n")).collect();
    place.write(
        "stack/vendor.lock",
        format!(
            "# the pins\n\n# of the thing\n[[source]]\nname = \"thing\"\nversion = \"1.0\" # newest\nurls = [\n{urls}]\nsha256 = \"{}\"\n\
             license = \"MIT\"\nlicense-files = [\"LICENSE\"]\npurl = \"pkg:github/o/thing@v1.0\"\n# tail\n",
            sha256(&old)
        ),
    );
    place
}

/// `lock bump thing …`, with the old archive at hand; what compilers would need is kept beside the stack.
fn bump(place: &Place, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["lock", "bump", "thing"]).args(args).arg("--stack").arg(place.path("stack"));
    command.arg("--build-dir").arg(place.path("build")).arg("--mirror").arg(place.path("old"));
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let outcome = Outcome::of(&command.output().unwrap());
    // Leaves nothing behind in the system's temporary folder, where this place's name has blanks.
    place.xtask(&["clean"]).good();
    outcome
}

fn lock_of(place: &Place) -> String {
    fs::read_to_string(place.path("stack/vendor.lock")).unwrap()
}

fn at(version: &str, body: &[u8]) -> String {
    let server = serve("200 OK", "application/gzip", body.to_vec(), None);
    format!("http://{server}/v{version}/thing-{version}.tar.gz")
}

#[test]
fn a_bump_fetches_shows_and_rewrites_and_the_lock_keeps_its_comments() {
    let new =
        archive("1.1", &[("hello.txt", "hello!\n"), ("LICENSE", &LICENCE.replace("2020", "2021")), ("NOTICE", "thanks\n")]);
    let place = bumpable(&[at("1.0", &new)]);
    let before = lock_of(&place);
    let parts = [
        "thing 1.0 → 1.1",
        &sha256(&new),
        &new.len().to_string(),
        "on first use",
        "alone",
        "LICENSE changed",
        "-Copyright 2020 A",
        "+Copyright 2021 A",
        "NOTICE is new",
        "recipes/thing.toml",
        "comments stay",
    ];
    let dry = bump(&place, &["1.1", "--dry-run"]);
    assert_eq!(lock_of(&place), before, "a dry run wrote");
    let text = dry.good();
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
    let text = bump(&place, &["1.1"]).good();
    let tree = text.lines().find_map(|line| line.trim().strip_prefix("tree ")).unwrap().split_once("→ ").unwrap().1.to_owned();
    let old = sha256(&fs::read(place.path("old/thing-1.0.tar.gz")).unwrap());
    let licence = sha256(LICENCE.replace("2020", "2021").as_bytes());
    let texts = sha256(format!("{licence}  LICENSE\n{}  NOTICE\n", sha256(b"thanks\n")).as_bytes());
    let wanted = before
        .replace("\"1.0\"", "\"1.1\"")
        .replace("v1.0", "v1.1")
        .replace("thing-1.0", "thing-1.1")
        .replace(&format!("\"{old}\"\n"), &format!("\"{}\"\nsize = {}\ntree-sha256 = \"{tree}\"\n", sha256(&new), new.len()))
        .replace("[\"LICENSE\"]\n", &format!("[\"LICENSE\", \"NOTICE\"]\nlicense-sha256 = \"{texts}\"\n"));
    assert_eq!(lock_of(&place), wanted);
    assert!(
        fs::read_dir(place.path("stack")).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with('.'))
    );
    // The archive is in the store: the package needs no network.
    place.xtask(&["package", "--offline"]).good();
    assert_eq!(fs::read_to_string(place.tree().join("share/hello.txt")).unwrap(), "hello!\n");
    // Once more changes nothing.
    bump(&place, &["1.1"]).good();
    assert_eq!(lock_of(&place), wanted);
}

#[test]
fn addresses_must_agree_and_those_that_give_no_archive_do_not_count() {
    let files = [("hello.txt", "hello!\n"), ("LICENSE", LICENCE)];
    let new = archive("1.1", &files);
    let page = b"<!DOCTYPE html><title>moved</title>".to_vec();
    let html = format!("http://{}/thing-1.0.tar.gz", serve("200 OK", "text/html", page, None));
    let gone = format!("http://{}/thing-1.0.tar.gz", serve("404 Not Found", "text/plain", Vec::new(), None));
    let dead = format!("http://127.0.0.1:{}/thing-1.0.tar.gz", closed_port());
    let place = bumpable(&[html.clone(), gone.clone(), dead, at("1.0", &new), at("1.0", &new)]);
    let text = bump(&place, &["1.1"]).good();
    for part in ["word of 2 addresses", "404", "no usable archive", "LICENSE is as before"] {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
    // Different content, and the same content in another packing.
    let evil = archive("1.1", &[("hello.txt", "evil!\n"), ("LICENSE", LICENCE)]);
    let place = bumpable(&[at("1.0", &new), at("1.0", &evil)]);
    let before = lock_of(&place);
    bump(&place, &["1.1"]).bad(5, &["different trees", &sha256(&new), &sha256(&evil)]);
    let repacked = archive("1.1-repacked", &files);
    assert_ne!(sha256(&repacked), sha256(&new));
    let place = bumpable(&[at("1.0", &new), at("1.0", &repacked)]);
    bump(&place, &["1.1"]).bad(5, &["unpack to is the same"]);
    assert!(lock_of(&place).contains("\"1.0\"") && before.contains("\"1.0\""));
    // Nobody has it.
    let place = bumpable(std::slice::from_ref(&gone));
    bump(&place, &["1.1"]).bad(4, &["404", "--mirror FOLDER", "thing-1.1.tar.gz"]);
    let place = bumpable(&[html]);
    bump(&place, &["1.1"]).bad(5, &["no usable archive"]);
    // Without a hash nothing is taken over plain http, by whichever way.
    let leads = "302 Found\r\nlocation: http://h.example/thing-1.1.tar.gz";
    let leads = format!("http://{}/thing-1.0.tar.gz", serve(leads, "text/plain", Vec::new(), None));
    let place = bumpable(&[leads]);
    let parts = ["http://m.example/: is not https", "redirected to http://h.example/thing-1.1.tar.gz, which is not https"];
    bump(&place, &["1.1", "--mirror", "http://m.example/"]).bad(4, &parts);
}

#[test]
fn a_bump_that_cannot_be_right_leaves_the_lock_alone() {
    let old = archive("1.0", &[("hello.txt", "hello\n"), ("LICENSE", LICENCE)]);
    let place = bumpable(&[at("1.0", &old)]);
    let before = lock_of(&place);
    bump(&place, &["1.1"]).bad(5, &["byte for byte"]);
    bump(&place, &["v1.1"]).bad(2, &["give 1.1"]);
    bump(&place, &["1.1/../x"]).bad(2, &["no version"]);
    bump(&place, &["1.1", "--only", "thing"]).bad(2, &["--only"]);
    bump(&place, &["1.1", "--offline"]).bad(4, &["not tried (--offline)"]);
    let unlicensed = archive("1.1", &[("hello.txt", "hello\n"), ("COPYING", LICENCE)]);
    place.write("old/thing-1.1.tar.gz", unlicensed);
    bump(&place, &["1.1", "--offline"]).bad(5, &["license-files LICENSE", "COPYING"]);
    assert_eq!(lock_of(&place), before);
    // From a mirror folder alone; the present version again adds what the entry lacks.
    bump(&place, &["1.0", "--offline"]).good();
    assert!(lock_of(&place).contains(&format!("size = {}\ntree-sha256", old.len())), "{}", lock_of(&place));
    // Another archive under the present version.
    let place = bumpable(&[at("1.0", &archive("1.0", &[("hello.txt", "other\n")]))]);
    fs::remove_file(place.path("old/thing-1.0.tar.gz")).unwrap();
    bump(&place, &["1.0"]).bad(5, &["cannot confirm"]);
    // Names that the lock does not have.
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["lock", "bump", "nothing", "1.1", "--stack"]).arg(place.path("stack"));
    Outcome::of(&command.arg("--build-dir").arg(place.path("build")).output().unwrap()).bad(2, &["there are thing"]);
}

#[test]
fn without_the_old_archive_texts_are_not_compared_and_new_ones_only_named() {
    let new = archive("1.1", &[("hello.txt", "hello!\n"), ("LICENSE", LICENCE), ("NOTICE", "thanks\n")]);
    let place = bumpable(&[format!("https://127.0.0.1:{}/thing-1.0.tar.gz", closed_port())]);
    fs::remove_file(place.path("old/thing-1.0.tar.gz")).unwrap();
    place.write("old/thing-1.1.tar.gz", &new);
    let text = bump(&place, &["1.1", "--offline"]).good();
    assert!(text.contains("cannot be compared") && text.contains("NOTICE is there, but not in license-files"), "{text}");
    assert!(lock_of(&place).contains("license-files = [\"LICENSE\"]"));
}
