//! nfpm, which writes .deb and .rpm: a tool of Go, compiled by the go that is pinned here from the modules of the version that is
//! pinned here, so that the same package comes out wherever it was made.
//!
//! Go's checksum database vouches for the modules where there is internet; an export takes what it has vouched for along.

use crate::archive::Format;
use crate::dirs::Dirs;
use crate::environment;
use crate::error::{Kind, WithKind as _};
use crate::shell::Network;
use crate::supply::Supply;
use crate::toolchain::go::{toolchain_module, variables};
use std::path::PathBuf;
use xshell::{Cmd, Shell, cmd};

/// The version of nfpm.
const VERSION: &str = "2.45.2";

/// The go that compiles it, as `recipes/go-carbon.toml` has it: its library compresses what is in the packages.
const GO: &str = "1.26.8";

/// Whether one of these forms is written by nfpm.
pub fn is_wanted(formats: &[Format]) -> bool {
    formats.iter().any(|format| matches!(format, Format::Deb | Format::Rpm))
}

/// Its package, as go takes it.
fn package() -> String {
    format!("github.com/goreleaser/nfpm/v2/cmd/nfpm@v{VERSION}")
}

/// Brings its modules to where the supply keeps them, and compiles nothing.
///
/// # Errors
/// [`Kind::Preflight`] where they cannot be had.
pub fn fetch(dirs: &Dirs, supply: &Supply) -> anyhow::Result<()> {
    let shell = Shell::new()?;
    let package = package();
    go(&shell, &["install", "-n", "-trimpath", &package], supply.network(), dirs, supply)?;
    if supply.gathered().is_some() {
        // This machine's go may be the one that is wanted; that of the machine that a mirror is for may be another.
        let (_dir, module) = (shell.push_dir(dirs.home()), toolchain_module(GO));
        let command = prepared(&shell, &["mod", "download", &module], Network::Open, dirs, supply)?;
        run(command.env("GOTOOLCHAIN", "local"), supply)?;
    }
    Ok(())
}

/// The program, compiled where it is not there yet.
///
/// # Errors
/// [`Kind::Preflight`] where it cannot be had.
pub(super) fn tool(dirs: &Dirs, supply: &Supply) -> anyhow::Result<PathBuf> {
    let folder = dirs.toolchains().join(format!("nfpm-{VERSION}-go{GO}"));
    let program = folder.join("nfpm");
    if program.is_file() {
        return Ok(program);
    }
    fetch(dirs, supply)?;
    std::fs::create_dir_all(dirs.toolchains()).kind(Kind::Preflight, cannot)?;
    let draft = tempfile::Builder::new().prefix(".nfpm-").tempdir_in(dirs.toolchains())?;
    let shell = Shell::new()?;
    let package = package();
    // From what is there now. (Without any proxy go will not look for a tool's version at all.)
    let command = prepared(&shell, &["install", "-trimpath", &package], Network::Offline, dirs, supply)?;
    run(command.env("GOBIN", draft.path()), supply)?;
    std::fs::set_permissions(draft.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    match std::fs::rename(draft.keep(), &folder) {
        // Somebody else was faster.
        Err(_) if program.is_file() => Ok(program),
        other => other.map(|()| program).kind(Kind::Preflight, cannot),
    }
}

fn cannot() -> String {
    format!("cannot get nfpm {VERSION}, which makes .deb and .rpm (it is compiled by go, 1.21 or newer)")
}

fn go(shell: &Shell, words: &[&str], network: Network, dirs: &Dirs, supply: &Supply) -> anyhow::Result<()> {
    run(prepared(shell, words, network, dirs, supply)?, supply)
}

/// go in an environment where it may take modules so.
fn prepared<'a>(shell: &'a Shell, words: &[&str], network: Network, dirs: &Dirs, supply: &Supply) -> anyhow::Result<Cmd<'a>> {
    let mut command = cmd!(shell, "go {words...}").env_clear();
    for (name, value) in environment::base(dirs, 0) {
        command = command.env(name, value);
    }
    for (name, value) in variables(GO, network, supply, dirs)? {
        command = command.env(name, value);
    }
    Ok(command)
}

fn run(command: Cmd<'_>, supply: &Supply) -> anyhow::Result<()> {
    let output = command.quiet().ignore_status().output().kind(Kind::Preflight, cannot)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or_default();
    let way = "--offline; where there is internet, `cargo xtask vendor-export DIR --format deb,rpm` takes it along";
    let why = if supply.offline { format!(" ({way})") } else { String::new() };
    Err(Kind::Preflight.error(format!("{}: {said}{why}", cannot())))
}
