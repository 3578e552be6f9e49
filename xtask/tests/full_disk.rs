//! A disk that fills up at each stage of a build: told plainly with the path and the way out, by the right exit status, with
//! nothing half-written under a final name; and with more room the next run gives the same bytes.
//!
//! The small disk is a tmpfs in a mount namespace of its own, so no root is needed where users may have namespaces.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Outcome, Place, noise, serve, tar_gz};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What came of a run on a disk that is too small, and of one on the same disk with room.
struct Runs {
    small: Outcome,
    /// All files on the disk after the first run.
    left: Vec<String>,
    large: Outcome,
    /// The archive that the second run left.
    archive: Vec<u8>,
}

/// Runs `package` twice where `disk`, which stands for this folder of the place, is a disk of `size` (as mount takes it) that then grows.
/// Nothing where no disk can be mounted.
fn on_a_small_disk(place: &Place, folder: &str, disk: &Path, size: &str) -> Option<Runs> {
    fs::create_dir_all(disk).unwrap();
    let possible = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs"]).arg(disk).output();
    let why = match possible {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    };
    if let Some(why) = why {
        assert!(std::env::var_os("CI").is_none(), "CI can have mount namespaces: {why}");
        eprintln!("passed over: a small disk needs a mount namespace: {why}");
        return None;
    }
    let script = r#"
        disk=$1 size=$2 out=$3; shift 3
        mount -t tmpfs -o "size=$size" tmpfs "$disk" || exit 99
        "$@" > "$out/small" 2>&1; echo $? > "$out/small.status"
        (cd "$disk" && find . -type f) > "$out/left"
        mount -o remount,size=256m "$disk" || exit 99
        "$@" > "$out/large" 2>&1; echo $? > "$out/large.status"
        cp "$ARCHIVE" "$out/archive""#;
    let out = place.path("out");
    fs::create_dir_all(&out).unwrap();
    let command = place.command(&["package"]);
    let mut run = Command::new("unshare");
    run.args(["-rm", "bash", "-c", script, "bash"]).arg(disk).arg(size).arg(&out);
    let instead = |word| if word == place.path(folder) { disk.as_os_str() } else { word };
    run.arg(command.get_program()).args(command.get_args().map(instead));
    run.env("ARCHIVE", place.archive()).env("SOURCE_DATE_EPOCH", "1700000000");
    let output = run.output().unwrap();
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}, {output:?}"));
    let outcome = |name: &str| Outcome { status: read(&format!("{name}.status")).trim().parse().unwrap(), text: read(name) };
    let (small, large) = (outcome("small"), outcome("large"));
    assert!(output.status.success(), "{output:?}\n{}\n{}", small.text, large.text);
    let left = read("left").lines().map(str::to_owned).collect();
    Some(Runs { small, left, large, archive: fs::read(out.join("archive")).unwrap() })
}

/// The archive that a run with room everywhere makes.
fn undisturbed(place: &Place) -> Vec<u8> {
    let mut command = place.command(&["package"]);
    Outcome::of(&command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()).good();
    let archive = fs::read(place.archive()).unwrap();
    fs::remove_dir_all(place.path("build")).unwrap();
    fs::remove_dir_all(place.path("dist")).unwrap();
    archive
}

/// A stack of one component that is this file, from a server.
fn stack_of(content: &str) -> Place {
    let place = Place::new();
    let archive = tar_gz(&[("thing-1.0/hello.txt", content)]);
    let address = serve("200 OK", "application/gzip", archive.clone(), None);
    place.one_component(&[format!("http://{address}/thing.tar.gz")], &archive);
    place
}

#[track_caller]
fn check(place: &Place, folder: &str, size: &str, status: i32, words: &[&str]) -> Option<Vec<String>> {
    let whole = undisturbed(place);
    // Compilers cannot bear the blanks in the place's name, and would work elsewhere than on the disk.
    let plain = tempfile::tempdir_in("/tmp").unwrap();
    let disk = if folder == "build" { plain.path().to_owned() } else { place.path(folder) };
    let runs = on_a_small_disk(place, folder, &disk, size)?;
    let text = runs.small.bad(status, &[&["No space left on device", "make room"], words].concat());
    assert!(text.contains(disk.to_str().unwrap()), "the disk's folder is not named: {text}");
    runs.large.good();
    assert!(runs.archive == whole, "with room the archive is another");
    Some(runs.left)
}

fn ending(path: &str) -> &str {
    Path::new(path).extension().and_then(|ending| ending.to_str()).unwrap_or_default()
}

#[test]
fn while_fetching() {
    let place = stack_of(&noise(3_000_000));
    let Some(left) = check(&place, "build", "1m", 4, &["cannot write to the store", "--build-dir"]) else { return };
    let sources: Vec<_> = left.iter().filter(|path| path.starts_with("./sources/")).collect();
    assert!(sources.iter().all(|path| ["part", "json"].contains(&ending(path))), "{sources:?}");
}

#[test]
fn while_unpacking() {
    // Packs to a few kilobytes.
    let place = stack_of(&"the same line again\n".repeat(150_000));
    let Some(left) = check(&place, "build", "2m", 3, &["cannot unpack", "hello.txt", "--build-dir"]) else { return };
    assert!(!left.iter().any(|path| path.contains("hello.txt")), "{left:?}");
}

#[test]
fn while_keeping_what_was_built() {
    let place = stack_of(&"the same line again\n".repeat(150_000));
    let Some(left) = check(&place, "build", "5m", 3, &["cannot take", "--build-dir"]) else { return };
    assert!(!left.iter().any(|path| path.starts_with("./store/results/thing/") && ending(path) == "json"), "{left:?}");
}

#[test]
fn while_staging() {
    let place = stack_of(&noise(3_000_000));
    let Some(left) = check(&place, "dist", "2m", 8, &["cannot stage"]) else { return };
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn while_archiving() {
    let place = stack_of(&noise(3_000_000));
    let Some(left) = check(&place, "dist", "4m", 9, &["cannot write the archive", "--dist-dir"]) else { return };
    assert!(left.iter().all(|path| !["gz", "sha256", "part"].contains(&ending(path))), "{left:?}");
}
