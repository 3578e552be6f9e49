//! The gate with packages and images: those of the miniature stack pass, and each fault that is planted in one is named.
//!
//! Faults are planted by the formats' own tools (dpkg-deb, rpmbuild), or by writing an image's documents anew.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;
#[path = "gate_packed/deb.rs"]
mod deb;
#[path = "gate_packed/image.rs"]
mod image;
#[path = "gate_packed/rpm.rs"]
mod rpm;

use common::monitor::package;
use common::{Outcome, ministack_place, sha256, workspace};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the packages of the whole stack lie, with its archive beside them.
static PACKAGES: LazyLock<PathBuf> = LazyLock::new(|| {
    package(&["--format", "gz,deb,rpm"], "dist packages").good();
    ministack_place("dist packages")
});

fn run(program: &str, words: &[&str]) -> Outcome {
    Outcome::of(&Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}")))
}

fn gate(file: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("gate").arg(file).arg("--stack").arg(workspace().join("examples/ministack"));
    command.arg("--build-dir").arg(ministack_place("build")).args(args);
    Outcome::of(&command.output().unwrap())
}

fn is_root() -> bool {
    run("id", &["-u"]).text.trim() == "0"
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
}

#[test]
fn packages_pass_when_they_were_installed_used_and_removed_by_their_own_tools() {
    let folder = tempfile::tempdir().unwrap();
    for (ending, tool) in [("deb", "dpkg"), ("rpm", "rpm")] {
        let file = PACKAGES.join(format!("dkumonitor-ministack-{VERSION}.{ending}"));
        let text = gate(&file, &[]).good();
        says(
            &text,
            &[&format!("all files are those of dkumonitor-ministack-{VERSION}.tar.gz"), "installed as all, 4 services probed"],
        );
        says(&text, &["read back through carbonapi", "nothing left behind, and the bundle as it was"]);
        let way = if is_root() {
            format!("installed by {tool} to /opt/dkumonitor-ministack/{VERSION}, and removed by it with nothing left")
        } else {
            format!("it was not installed by {tool} (only root can)")
        };
        says(&text, &[&way]);
        // It is known by its content, whatever it is called, and says what it could not be compared with.
        let renamed = folder.path().join("x.tar.gz");
        fs::copy(&file, &renamed).unwrap();
        says(&gate(&renamed, &["--still"]).good(), &["no archive of the same release lies beside it", "not run: --still"]);
    }
}

#[test]
fn the_root_of_another_system_is_refused_where_it_is_none_or_nothing_would_run_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let deb = PACKAGES.join(format!("dkumonitor-ministack-{VERSION}.deb"));
    gate(&image::IMAGE, &["--root", root]).bad(2, &["--root is for archives and packages: an image brings its own system"]);
    gate(&deb, &["--root", root]).bad(2, &["cannot use --root", "it has no /dev, /proc, /tmp, /opt", "debootstrap makes one"]);
    gate(&deb, &["--root", root, "--still"]).bad(2, &["--root", "cannot be used with", "--still"]);
    for name in ["dev", "proc", "tmp"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    gate(&deb, &["--root", root]).bad(2, &["it has no /opt, where packages are installed; mkdir", root]);
}

#[test]
fn a_package_that_is_larger_than_its_stack_allows_or_has_grown_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let stack = folder.path().join("stack");
    run("cp", &["-R", workspace().join("examples/ministack").to_str().unwrap(), stack.to_str().unwrap()]).good();
    let deb = PACKAGES.join(format!("dkumonitor-ministack-{VERSION}.deb"));
    let with = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .arg("gate")
            .arg(&deb)
            .arg("--still")
            .arg("--stack")
            .arg(&stack)
            .arg("--build-dir")
            .arg(ministack_place("build"));
        Outcome::of(&command.args(args).output().unwrap())
    };
    fs::write(stack.join("gate.toml"), "[largest-mb]\ndkumonitor-ministack = 1\n").unwrap();
    with(&[]).bad(10, &["the .deb has ", "gate.toml allows 1"]);
    fs::write(stack.join("gate.toml"), "").unwrap();
    // The last release had half of it.
    with(&["--record"]).good();
    let path = stack.join("sizes.json");
    let mut sizes: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let size = &mut sizes["dkumonitor-ministack"]["archives"]["deb"];
    *size = (size.as_u64().unwrap() / 2).into();
    fs::write(&path, sizes.to_string()).unwrap();
    with(&[]).bad(10, &["the .deb has ", &format!("in {VERSION}: more than 10 % more")]);
    with(&["--growth", "200"]).good();
}
