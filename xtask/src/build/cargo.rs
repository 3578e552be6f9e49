//! The kind `cargo`: release programs with locked dependencies, static against musl where the recipe wants it.

use super::Build;
use crate::shell::Command;
use crate::stack::recipe::{Cargo, Step};
use crate::toolchain;
use std::path::{Path, PathBuf};

/// The target folder of a component, kept between runs since cargo knows by itself what to compile again.
fn target_dir(build: &Build<'_>) -> PathBuf {
    build.session.dirs.cache("cargo-target").join(&build.planned.recipe.name)
}

/// cargo in the environment of a step, without words yet.
fn tool(build: &Build<'_>, step: &Step, dir: &Path, offline: bool) -> Command {
    let additions = [
        ("CARGO_TARGET_DIR", target_dir(build).to_string_lossy().into_owned()),
        ("CARGO_TERM_PROGRESS_WHEN", "never".to_owned()),
        // Incremental pieces would make the bytes depend on what was compiled before.
        ("CARGO_INCREMENTAL", "0".to_owned()),
        ("CARGO_NET_OFFLINE", offline.to_string()),
    ];
    let mut env = build.env(step, &additions);
    let cargo_home = env.get("CARGO_HOME").map(|home| home.to_string_lossy().into_owned()).unwrap_or_default();
    let remap = [(build.src.to_string_lossy().into_owned(), "."), (cargo_home, "/cargo")];
    let flags: Vec<String> = remap.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
    // Unlike RUSTFLAGS, the encoded form may hold paths with blanks.
    env.entry("CARGO_ENCODED_RUSTFLAGS".to_owned()).or_insert_with(|| flags.join("\u{1f}").into());
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN").filter(|_| build.planned.is_workspace()) {
        env.insert("RUSTUP_TOOLCHAIN".to_owned(), toolchain);
    }
    Command::new("cargo", dir, &env)
}

/// The target to compile for, where it is not the host's own.
fn target(cargo: &Cargo) -> Option<String> {
    (cargo.r#static && cfg!(target_os = "linux")).then(toolchain::musl_target)
}

/// Fetches the crates of Cargo.lock.
pub(super) fn dependencies(build: &Build<'_>, step: &Step, cargo: &Cargo, dir: &Path) -> Vec<Command> {
    let command = tool(build, step, dir, build.session.offline).args(["fetch", "--locked"]);
    vec![target(cargo).into_iter().fold(command, |command, target| command.arg("--target").arg(target))]
}

pub(super) fn commands(build: &Build<'_>, step: &Step, cargo: &Cargo, dir: &Path) -> Vec<Command> {
    let plain = tool(build, step, dir, true);
    let mut command = plain.clone().args(["build", "--release", "--locked", "--package", &cargo.package]);
    let mut out = target_dir(build);
    if let Some(target) = target(cargo) {
        out.push(&target);
        command = command.arg("--target").arg(target);
    }
    for bin in &cargo.bins {
        command = command.args(["--bin", bin]);
    }
    if !cargo.features.is_empty() {
        command = command.args(["--features".to_owned(), cargo.features.join(",")]);
    }
    command = command.arg("--jobs").arg(build.jobs.to_string());
    let bin_dir = build.dest().join("bin");
    let made = cargo.bins.iter().map(|bin| out.join("release").join(bin));
    let install = |words: &[&str]| Command { program: "install".into(), ..plain.clone() }.args(words.iter().copied());
    vec![command, install(&["-d"]).arg(&bin_dir), install(&["-m", "755"]).args(made).arg(&bin_dir)]
}
