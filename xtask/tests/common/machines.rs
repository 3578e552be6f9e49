//! Two machines for one stack: this one, and another that has no network, nothing in its home and no caches.

use super::Outcome;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program.
pub const XTASK: &str = env!("CARGO_BIN_EXE_xtask");

/// A run of the program on another machine: no network, nothing in its home, no caches. `stack` is built in `build`.
pub fn elsewhere(words: &[&str], stack: &Path, build: &Path) -> Outcome {
    let home = tempfile::Builder::new().prefix("an empty home ").tempdir().unwrap();
    let mut command = Command::new(XTASK);
    command.args(["without-network", "--", XTASK]).arg(words[0]).arg("--stack").arg(stack).arg("--build-dir").arg(build);
    command.args(&words[1..]).env_clear();
    for name in ["PATH", "RUSTUP_TOOLCHAIN"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.env("RUSTUP_HOME", rustup_home()).env("HOME", home.path()).env("CARGO_HOME", home.path().join("cargo"));
    Outcome::of(&command.output().unwrap())
}

/// Rust itself has to be on the other machine, or the program could not be compiled there.
pub fn rustup_home() -> PathBuf {
    let set = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    set.unwrap_or_else(|| std::env::home_dir().unwrap().join(".rustup"))
}

/// A run of the program here, with network.
pub fn here(words: &[&str], stack: &Path, build: &Path) -> Outcome {
    let mut command = Command::new(XTASK);
    command.arg(words[0]).arg("--stack").arg(stack).arg("--build-dir").arg(build).args(&words[1..]);
    Outcome::of(&command.output().unwrap())
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
