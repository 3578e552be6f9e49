//! The kind `cargo`: release programs with locked dependencies, static against musl where the recipe wants it.

use super::{Build, zig};
use crate::account;
use crate::environment::Environment;
use crate::error::{Kind, WithKind as _};
use crate::shell::Command;
use crate::stack::recipe::{Cargo, Step};
use crate::supply::crates;
use std::path::{Path, PathBuf};

/// The target folder of a component, kept between runs for the crates that it depends on.
fn target_dir(build: &Build<'_>) -> PathBuf {
    build.session.dirs.cache("cargo-target").join(&build.planned.recipe.name)
}

/// cargo in the environment of a step, without words yet.
fn tool(build: &Build<'_>, step: &Step, dir: &Path, offline: bool) -> anyhow::Result<Command> {
    let additions = [
        ("CARGO_TARGET_DIR", target_dir(build).to_string_lossy().into_owned()),
        ("CARGO_TERM_PROGRESS_WHEN", "never".to_owned()),
        // Incremental pieces would make the bytes depend on what was compiled before.
        ("CARGO_INCREMENTAL", "0".to_owned()),
        ("CARGO_NET_OFFLINE", offline.to_string()),
    ];
    let mut env = build.env(step, &additions);
    let stocked = build.session.supply.crates(&lock_file(build, dir))?;
    let mut remap = vec![(build.src.clone(), ".".to_owned()), (cargo_home(&env), CARGO_HOME.to_owned())];
    // Programs hold paths of the crates' sources: they are to be those that crates from a registry would have.
    remap.extend(stocked.map(|stocked| (stocked.folder.clone(), format!("{CARGO_HOME}/registry/src/{}", stocked.registry))));
    let flags: Vec<String> = remap.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect();
    // Unlike RUSTFLAGS, the encoded form may hold paths with blanks.
    env.entry("CARGO_ENCODED_RUSTFLAGS".to_owned()).or_insert_with(|| flags.join("\u{1f}").into());
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN").filter(|_| build.planned.is_workspace()) {
        env.insert("RUSTUP_TOOLCHAIN".to_owned(), toolchain);
    }
    let command = Command::new("cargo", dir, &env);
    let Some(stocked) = stocked else { return Ok(command) };
    let folder = toml::Value::String(stocked.folder.to_string_lossy().into_owned());
    let settings = [
        "source.crates-io.replace-with=\"dkumonitor-stock\"".to_owned(),
        format!("source.dkumonitor-stock.directory={folder}"),
    ];
    Ok(settings.into_iter().fold(command, |command, setting| command.arg("--config").arg(setting)))
}

/// What stands for cargo's own folder in the paths that programs hold.
const CARGO_HOME: &str = "/cargo";

/// cargo's own folder.
pub(super) fn cargo_home(env: &Environment) -> PathBuf {
    env.get("CARGO_HOME").map(PathBuf::from).unwrap_or_default()
}

/// The lock file of a step in `dir`.
pub(super) fn lock_file(build: &Build<'_>, dir: &Path) -> PathBuf {
    crates::lock_file(dir, &build.src)
}

/// The target to compile for, where it is not the host's own.
fn target(build: &Build<'_>, cargo: &Cargo) -> Option<&'static str> {
    build.session.target.rust(cargo.r#static)
}

/// The variable that names a target's linker.
fn linker_of(triple: &str) -> String {
    format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_"))
}

/// Whether a program of a step is linked statically.
pub(super) fn is_static(build: &Build<'_>, cargo: &Cargo) -> bool {
    cargo.r#static && target(build, cargo).is_some_and(|target| target.ends_with("musl"))
}

/// What cargo says of the crates of a step's programs, in the form that [`account::crates`] reads.
///
/// # Errors
/// When cargo has not got all of them.
pub(super) fn tree(build: &Build<'_>, step: &Step, cargo: &Cargo, dir: &Path) -> anyhow::Result<String> {
    let mut command = tool(build, step, dir, true)?.args(["tree", "--locked", "--package", &cargo.package]);
    command = command.args(["--edges", "normal", "--prefix", "none", "--format", account::crates::FORMAT]);
    command = target(build, cargo).into_iter().fold(command, |command, target| command.arg("--target").arg(target));
    if !cargo.features.is_empty() {
        command = command.args(["--features".to_owned(), cargo.features.join(",")]);
    }
    ask(&command)
}

/// Where a step's crates and compiler are.
pub(super) struct Sources {
    cargo_home: PathBuf,
    stocked: Option<PathBuf>,
    rustc: Command,
}

/// A compiler.
pub(super) struct Compiler {
    pub(super) version: String,
    pub(super) sysroot: PathBuf,
}

/// Finds out where a step's crates and compiler are.
///
/// # Errors
/// When a mirror lacks crates.
pub(super) fn sources(build: &Build<'_>, step: &Step, dir: &Path) -> anyhow::Result<Sources> {
    let stocked = build.session.supply.crates(&lock_file(build, dir))?.map(|stocked| stocked.folder.clone());
    let rustc = Command { program: "rustc".into(), args: Vec::new(), ..tool(build, step, dir, true)? };
    Ok(Sources { cargo_home: cargo_home(&rustc.env), stocked, rustc })
}

impl Sources {
    /// The folders that hold crates' sources, one for each registry.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(super) fn folders(&self) -> anyhow::Result<Vec<PathBuf>> {
        let registries = self.cargo_home.join("registry/src");
        let listed = registries.read_dir().map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        let mut folders: Vec<PathBuf> = if self.stocked.is_some() { listed.unwrap_or_default() } else { listed? };
        folders.sort();
        Ok(self.stocked.iter().cloned().chain(folders).collect())
    }

    /// The compiler that cargo uses.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(super) fn compiler(&self) -> anyhow::Result<Compiler> {
        let version = ask(&self.rustc.clone().arg("--version"))?;
        let version = version.split(' ').nth(1).unwrap_or_default().to_owned();
        let sysroot = ask(&self.rustc.clone().args(["--print", "sysroot"]))?.into();
        Ok(Compiler { version, sysroot })
    }
}

/// What a command answers.
fn ask(command: &Command) -> anyhow::Result<String> {
    let Command { program, args, env, dir, .. } = command;
    let shell = xshell::Shell::new()?;
    let _dir = shell.push_dir(dir);
    let command = xshell::cmd!(shell, "{program} {args...}").quiet().env_clear().ignore_stderr();
    let command = env.iter().fold(command, |command, (name, value)| command.env(name, value));
    command.read().kind(Kind::Stage, || format!("cannot ask {}", program.display()))
}

/// Fetches the crates of Cargo.lock.
pub(super) fn dependencies(build: &Build<'_>, step: &Step, cargo: &Cargo, dir: &Path) -> anyhow::Result<Vec<Command>> {
    zig::fetch(build, step)?;
    let command = tool(build, step, dir, build.session.supply.offline)?.args(["fetch", "--locked"]);
    // A registry in a folder must have the crates of all platforms, or cargo will not read the lock file.
    let target = target(build, cargo).filter(|_| build.session.supply.gathered().is_none());
    Ok(vec![target.into_iter().fold(command, |command, target| command.arg("--target").arg(target))])
}

pub(super) fn commands(build: &Build<'_>, step: &Step, cargo: &Cargo, dir: &Path) -> anyhow::Result<Vec<Command>> {
    let plain = tool(build, step, dir, true)?;
    // Whether its own sources have changed cargo tells by their times, which says nothing after a build folder was copied or a
    // clock set back; this step runs because something has changed.
    let mut clean = plain.clone().args(["clean", "--quiet", "--release", "--locked", "--workspace"]);
    let mut command = plain.clone().args(["build", "--release", "--locked", "--package", &cargo.package]);
    let mut out = target_dir(build);
    if let Some(target) = target(build, cargo) {
        out.push(target);
        command = command.arg("--target").arg(target);
        clean = clean.arg("--target").arg(target);
        if let Some(linker) = zig::linker(build, step)? {
            command.env = linker.in_environment(command.env);
            command.env.insert(linker_of(target), zig::CC.into());
        } else if build.session.target.is_crossed() {
            // It comes with Rust, as does all else that a static program of pure Rust is linked with.
            command.env.insert(linker_of(target), "rust-lld".into());
        }
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
    let install =
        |words: &[&str]| Command { program: "install".into(), args: Vec::new(), ..plain.clone() }.args(words.iter().copied());
    Ok(vec![clean, command, install(&["-d"]).arg(&bin_dir), install(&["-m", "755"]).args(made).arg(&bin_dir)])
}
