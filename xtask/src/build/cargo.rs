//! The kind `cargo`: release programs with locked dependencies, static against musl where the recipe wants it.

use super::Build;
use crate::shell::Command;
use crate::stack::recipe::{Cargo, Step};
use crate::toolchain;
use std::path::Path;

pub(super) fn commands(build: &Build<'_>, step: &Step, cargo: &Cargo, dir: &Path) -> Vec<Command> {
    let target_dir = build.session.dirs.cache("cargo-target").join(&build.planned.recipe.name);
    let remap = [(build.src.to_string_lossy().into_owned(), "."), (cargo_home(build, step), "/cargo")];
    let flags: Vec<String> = remap.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
    // Unlike RUSTFLAGS, the encoded form may hold paths with blanks.
    let additions = [
        ("CARGO_TARGET_DIR", target_dir.to_string_lossy().into_owned()),
        ("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")),
        ("CARGO_TERM_PROGRESS_WHEN", "never".to_owned()),
        // Incremental pieces would make the bytes depend on what was compiled before.
        ("CARGO_INCREMENTAL", "0".to_owned()),
    ];
    let mut env = build.env(step, &additions);
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN").filter(|_| build.planned.is_workspace()) {
        env.insert("RUSTUP_TOOLCHAIN".to_owned(), toolchain);
    }
    let mut command = Command::new("cargo", dir, &env).args(["build", "--release", "--locked", "--package", &cargo.package]);
    let is_static = cargo.r#static && cfg!(target_os = "linux");
    let mut out = target_dir;
    if is_static {
        command = command.args(["--target".to_owned(), toolchain::musl_target()]);
        out.push(toolchain::musl_target());
    }
    if build.session.offline {
        command = command.arg("--offline");
    }
    for bin in &cargo.bins {
        command = command.args(["--bin", bin]);
    }
    if !cargo.features.is_empty() {
        command = command.args(["--features".to_owned(), cargo.features.join(",")]);
    }
    command = command.arg("--jobs").arg(build.session.jobs.to_string());
    let bin_dir = build.dest().join("bin");
    let made = cargo.bins.iter().map(|bin| out.join("release").join(bin));
    let install = Command::new("install", dir, &env).args(["-d"]).arg(&bin_dir);
    let copy = Command::new("install", dir, &env).args(["-m", "755"]).args(made).arg(&bin_dir);
    vec![command, install, copy]
}

fn cargo_home(build: &Build<'_>, step: &Step) -> String {
    build.env(step, &[]).get("CARGO_HOME").map(|home| home.to_string_lossy().into_owned()).unwrap_or_default()
}
