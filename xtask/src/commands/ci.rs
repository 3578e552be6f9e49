//! `ci`: all checks and tests, the same by hand and in CI.
//!
//! The miniature stack is built, installed and run by the integration tests in `xtask/tests/`, which is why the tools
//! that it is built with have to be there first.

use super::Workshop;
use crate::cli;
use crate::error::{Kind, WithKind as _};
use crate::preflight::{self, Finding};
use std::path::PathBuf;
use xshell::{Shell, cmd};

/// The other platform that the launcher must at least compile for.
const OTHER_TARGET: &str = "aarch64-apple-darwin";

/// What checks .github/workflows/; go fetches and compiles it once.
const ACTIONLINT: &str = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12";

/// Runs everything; stops at the first thing that is red.
///
/// # Errors
/// The first check or test that fails.
pub fn run(args: &cli::Ci) -> anyhow::Result<()> {
    let workspace = super::workspace();
    require_tools(args, workspace.join("examples/ministack"))?;
    let shell = Shell::new()?;
    shell.change_dir(&workspace);
    let check = |what: &str, command: xshell::Cmd<'_>| -> anyhow::Result<()> {
        eprintln!("── {what}");
        command.run().kind(Kind::Other, || format!("{what}: red"))
    };
    check("format", cmd!(shell, "cargo fmt --all --check"))?;
    // With it, so that little is compiled twice; without, for what only then is dead or amiss.
    let shared = ["--features", "xtask/shared-cache"];
    check("clippy", cmd!(shell, "cargo clippy --workspace {shared...} --all-targets --locked --quiet -- -D warnings"))?;
    let plain = cmd!(shell, "cargo clippy --package xtask --all-targets --locked --quiet -- -D warnings");
    check("clippy without the shared cache", plain)?;
    let other = cmd!(shell, "cargo check --package dkumonitor-runtime --target {OTHER_TARGET} --locked --quiet");
    check("the launcher for macOS", other)?;
    if which::which("cargo-deny").is_ok() {
        check("licences and duplicates of crates", cmd!(shell, "cargo deny --offline check licenses bans sources"))?;
    } else {
        eprintln!("── licences of crates: passed over, cargo-deny is not installed (cargo install cargo-deny)");
    }
    let lint = cmd!(shell, "go run {ACTIONLINT} -no-color");
    check("the workflows of GitHub", lint)?;
    let this = std::env::current_exe()?;
    check("the lock", cmd!(shell, "{this} lock check"))?;
    check("the lock of the miniature stack", cmd!(shell, "{this} lock check --stack examples/ministack"))?;
    check("tests", cmd!(shell, "cargo test --workspace {shared...} --locked"))?;
    let both = cmd!(shell, "cargo test --package xtask --features shared-cache,zstd --locked --lib archive::");
    check("tests of what else is optional", both)?;
    eprintln!("all green");
    Ok(())
}

/// The tools that the tests drive, all missing ones in one report.
fn require_tools(args: &cli::Ci, stack: PathBuf) -> anyhow::Result<()> {
    let common = cli::Common { stack: Some(stack), build_dir: None, target: None, only: Vec::new(), talk: args.talk };
    let workshop = Workshop::open(&common, None)?;
    let recipes = workshop.stack.select(&[])?;
    let bootstrap: Vec<_> = recipes.iter().map(|recipe| recipe.name.as_str()).collect();
    let look = || -> Vec<Finding> {
        let mut findings = preflight::check(&recipes, &bootstrap, &workshop.host, &workshop.dirs, workshop.target);
        // Debian's collectd stands for the one that --system-collectd takes over.
        findings.push(preflight::look("collectd", None, &["the tests"], &workshop.host));
        // Archives and signatures are read back by those for whom they are made.
        findings.extend(
            ["xz", "zstd", "minisign", "rpm", "rpmbuild", "skopeo"]
                .map(|tool| preflight::look(tool, None, &["the tests"], &workshop.host)),
        );
        // The launcher's tests make certificates.
        findings.push(preflight::look("openssl", None, &["the tests"], &workshop.host));
        // The manual's readers, the shells that complete, what the guide's commands use, and what fetches zig.
        let guide = ["mandoc", "man", "zsh", "fish", "carbon-c-relay", "curl", "ss", "python3", "pip3"];
        findings.extend(guide.map(|tool| preflight::look(tool, None, &["the tests"], &workshop.host)));
        // The miniature stack's page is looked at in a browser.
        findings.extend(["chromium", "chromedriver"].map(|tool| preflight::look(tool, None, &["the tests"], &workshop.host)));
        // What starts with the machine is read by those who will read it.
        if cfg!(target_os = "linux") {
            findings.push(preflight::look("systemd-analyze", None, &["the tests"], &workshop.host));
            // Images are run by those for whom they are made.
            findings.extend(["podman", "crun"].map(|tool| preflight::look(tool, None, &["the tests"], &workshop.host)));
        }
        findings.push(preflight::rust_target(OTHER_TARGET, "the tests"));
        findings
    };
    let findings = look();
    if args.install_missing && findings.iter().any(|finding| finding.state.is_err()) {
        preflight::install(&findings)?;
        workshop.host.forget();
        return preflight::require(&look());
    }
    preflight::require(&findings)
}
