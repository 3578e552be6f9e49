//! What the bundle ships for people at a terminal: manual pages that both formatters take, completions that the shells really use.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::monitor::{ARCHIVE, Bundle};
use common::{Outcome, workspace};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes what ships, and the builder's pages, into a folder.
fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for more in [&[][..], &["--builder"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        Outcome::of(&command.arg("manual").arg(folder.path()).args(more).output().unwrap()).good();
    }
    folder
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn every_page_is_good_for_mandoc_and_for_groff() {
    let folder = written();
    let pages = files(&folder.path().join("man/man1"));
    assert!(pages.len() > 40, "{pages:?}");
    for page in pages {
        let lint = Outcome::of(&Command::new("mandoc").args(["-Tlint", "-Werror"]).arg(&page).output().unwrap());
        assert_eq!(lint.status, 0, "{}: {}", page.display(), lint.text);
        // As Debian checks its own: nothing may be said, and the lines have to fit.
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]).arg(&page).env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8");
        let output = man.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty() && !output.stdout.is_empty(), "{}: {said}", page.display());
    }
}

#[test]
fn the_builders_help_says_all_that_is_written_about_a_command() {
    let help = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(words).output().unwrap();
        Outcome::of(&output).good().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (words, parts) in [
        (
            ["verify", "--help"],
            ["Check an archive, an unpacked bundle or a release", "Ends with 5 when anything is not as it should be"],
        ),
        (
            ["release", "--help"],
            ["Make everything that is published of a version", "Refuses a work tree that is not as committed"],
        ),
        (["audit", "--help"], ["known vulnerabilities, offline", "nothing is fetched"]),
    ] {
        let text = help(&words);
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} are not in: {text}");
    }
    let list = help(&["--help"]);
    for line in [
        "package Make the package: fetch, unpack, patch",
        "repro Build twice under different conditions",
        "lock Check the pins",
    ] {
        assert!(list.contains(line), "{line} is not in: {list}");
    }
}

#[test]
fn a_page_is_found_and_read_as_the_guide_says() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let mut man = Command::new("man");
    man.arg("-M").arg(bundle.root.join("share/man")).arg("dkm-restart").env("LC_ALL", "C.UTF-8").env("MANPAGER", "cat");
    let text = Outcome::of(&man.output().unwrap()).good();
    for part in ["Stop services and start them again", "SYNOPSIS", "--no-wait", "Ends with 0 when it is done"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn the_bundle_ships_what_is_written() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let folder = written();
    for part in ["completions/bash", "completions/zsh", "completions/fish"] {
        for file in files(&folder.path().join(part)) {
            let shipped = bundle.root.join("share").join(part).join(file.file_name().unwrap());
            assert_eq!(fs::read(&file).unwrap(), fs::read(&shipped).unwrap(), "{}", shipped.display());
        }
    }
    assert!(!bundle.root.join("share/man/man1/cargo-xtask.1").exists(), "the builder's pages are of no use in a bundle");
}

/// What a shell makes of a line and a TAB, with the shipped completions.
fn completed(shell: &[&str], setup: &str, line: &str, path: &str) -> String {
    let mut command = Command::new("python3");
    command.arg(workspace().join("xtask/tests/complete.py")).args([setup, line]).args(shell);
    let output = command.env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8").output().unwrap();
    let said = Outcome::of(&output);
    assert_eq!(said.status, 0, "{shell:?}, {line}: {}", said.text);
    said.text.trim().to_owned()
}

#[test]
fn bash_zsh_and_fish_complete_verbs_flags_and_services() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let monitor = bundle.install(&[]);
    // Through a link without blanks, as a path of the guide is.
    let links = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&bundle.root, links.path().join("bundle")).unwrap();
    std::os::unix::fs::symlink(&monitor.data, links.path().join("data")).unwrap();
    let share = links.path().join("bundle/share/completions");
    let share = share.display();
    let path = format!("{}/data/bin:{0}/bundle/bin:{0}/bundle:/usr/local/bin:/usr/bin:/bin", links.path().display());
    let shells: [(&[&str], String); 3] = [
        (&["bash", "--norc", "--noprofile", "-i"], format!("for file in {share}/bash/*; do source $file; done")),
        (&["zsh", "-f", "-i"], format!("bindkey -e; fpath=({share}/zsh $fpath); autoload -Uz compinit; compinit -D -u")),
        (&["fish", "--no-config", "-i"], format!("set -p fish_complete_path {share}/fish")),
    ];
    for (shell, setup) in &shells {
        for (line, wanted) in [
            ("dkm resta", "dkm restart"),
            ("dkm restart graf", "dkm restart grafana"),
            ("dkm start --no-w", "dkm start --no-wait"),
            ("dkmadmin verif", "dkmadmin verify"),
            ("installer --data-d", "installer --data-dir"),
        ] {
            assert_eq!(completed(shell, setup, line, &path), wanted, "{} completes \"{line}\"", shell[0]);
        }
    }
}
