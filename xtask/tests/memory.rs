//! How much memory the builder takes, as its own benchmark measures it.
#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// What xtask promises not to exceed, whatever the stack, in bytes.
const MOST: u64 = 64 * 1024 * 1024;

/// The most memory that a command held, as `bench` tells it.
fn peak(words: &[&str]) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "--"]).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

#[test]
fn a_peak_is_that_of_the_command_and_not_of_who_asks() {
    let held = vec![1_u8; 200 * 1024 * 1024];
    assert!(peak(&["true"]) < MOST);
    assert!(peak(&["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1", "status=none"]) > 100 * 1024 * 1024);
    assert!(held.iter().all(|byte| *byte == 1));
    let failed = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "--", "false"]).output().unwrap();
    assert!(!failed.status.success());
}

/// Bytes that become somewhat smaller, as programs do.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 26) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn writing_an_archive_takes_no_more_than_promised() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for at in 0..6_u32 {
        fs::write(tree.join(format!("program{at}")), bytes(2 * 1024 * 1024, at)).unwrap();
    }
    for form in ["gz", "xz"] {
        let target = folder.path().join(format!("archive.{form}"));
        let paths = [tree.as_path(), target.as_path()].map(Path::to_str).map(Option::unwrap);
        let xtask = env!("CARGO_BIN_EXE_xtask");
        let held = peak(&[xtask, "bench", "--tree", paths[0], "--only-archive", paths[1], "--only-form", form]);
        assert!(held < MOST, "{form}: {held} bytes");
        assert!(target.metadata().unwrap().len() > 1024 * 1024);
    }
}
