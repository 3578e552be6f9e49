//! What follows from the definitions of commands and flags: manual pages, completions for shells, `docs/flags.md`.
//!
//! All of it is text that is made in memory, and the same in every run: no dates, nothing of the terminal or the machine. The
//! launcher's pages and completions are part of the bundle, by a step of the kind `manual` in its recipe; the builder's are for those
//! who build.
//!
//! `dkm` is completed by a function that asks `dkm` itself, since only that knows the services of a data folder; `installer` and
//! `dkmadmin` have nothing that is not in their definitions.

use crate::cli::Cli;
use crate::fingerprint;
use anyhow::Context as _;
use clap::builder::PossibleValue;
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use dkumonitor_interface::cli::{self as launcher, completions, dkm};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Files by their paths below the folder that they are written to.
pub type Files = BTreeMap<PathBuf, String>;

/// The launcher's programs, in the order in which they are met.
fn programs() -> [Command; 3] {
    [launcher::Installer::command(), dkm::Dkm::command(), launcher::Admin::command()]
}

/// The launcher's manual pages and completions, as they are shipped in `share/`.
///
/// # Errors
/// None that is known: all of it is text in memory.
pub fn of_launcher() -> anyhow::Result<Files> {
    let mut files = Files::new();
    for program in programs() {
        let name = program.get_name().to_owned();
        pages(built(program.clone()), &mut files)?;
        for (shell, path) in [
            (Shell::Bash, format!("completions/bash/{name}")),
            (Shell::Zsh, format!("completions/zsh/_{name}")),
            (Shell::Fish, format!("completions/fish/{name}.fish")),
        ] {
            let text = if name == "dkm" { own_function(shell) } else { completion(program.clone(), shell)? };
            files.insert(path.into(), text);
        }
    }
    Ok(files)
}

/// The builder's manual pages.
///
/// # Errors
/// As [`of_launcher`].
pub fn of_builder() -> anyhow::Result<Files> {
    let mut files = Files::new();
    pages(built(Cli::command().name("cargo-xtask").bin_name("cargo xtask")), &mut files)?;
    Ok(files)
}

/// A hash of what is shipped.
pub fn identity() -> String {
    let mut hash = Sha256::new();
    // What cannot be made has no identity, and the step that makes it says why.
    for (path, text) in of_launcher().unwrap_or_default() {
        hash.update(format!("{}\0{text}\0", path.display()));
    }
    fingerprint::hex(&hash.finalize())
}

/// The definitions with everything that clap works out by itself, and without `help`, which explains itself.
fn built(program: Command) -> Command {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    program
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set())
}

/// The page of a command and those of its subcommands, as `git-commit.1` is one of git's.
fn pages(command: Command, files: &mut Files) -> anyhow::Result<()> {
    for sub in visible(&command) {
        pages(sub.clone(), files)?;
    }
    let page = Man::new(command).source(concat!("dkumonitor ", env!("CARGO_PKG_VERSION"))).manual("dkumonitor");
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8(text).context("a manual page is not UTF-8")?;
    // What stands behind the flags in the help: a heading that says nothing, or one that every reader knows.
    let text = text.replace("\n.SH EXTRA\n", "\n.SH NOTES\n");
    files.insert(PathBuf::from("man/man1").join(page.get_filename()), text);
    Ok(())
}

fn own_function(shell: Shell) -> String {
    let shell = match shell {
        Shell::Zsh => dkm::Shell::Zsh,
        Shell::Fish => dkm::Shell::Fish,
        _ => dkm::Shell::Bash,
    };
    completions::function(shell).to_owned()
}

fn completion(mut program: Command, shell: Shell) -> anyhow::Result<String> {
    let name = program.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut text);
    String::from_utf8(text).context("a completion is not UTF-8")
}

/// The text of `docs/flags.md`.
pub fn flags() -> String {
    let mut text = String::from(
        "# Every command and flag\n\n\
         Written by `cargo xtask manual` from the definitions that `--help`, the manual pages and the completions come from. The bundle \
         has the same as manual pages: `man -M DATA_DIR/bundle/share/man dkm` (`dkm-start`, `installer`, `dkmadmin` …).\n",
    );
    for program in programs() {
        section(&built(program), 2, &mut text);
    }
    text
}

/// A command with its flags, then its subcommands.
fn section(command: &Command, level: usize, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{} {name}\n", "#".repeat(level));
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "{}\n", markdown(&about));
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(text, "```text\n{}\n```", usage.trim_start_matches("Usage:").trim());
    let nested = level > 2;
    let hidden = |arg: &Arg| arg.is_hide_set() || is_usual(arg) || (nested && arg.is_global_set());
    let rows: Vec<String> = command.get_arguments().filter(|arg| !hidden(arg)).map(row).collect();
    if !rows.is_empty() {
        let _ = writeln!(text, "\n| flag | means |\n|---|---|\n{}", rows.join("\n"));
    }
    if let Some(after) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        let _ = writeln!(text, "\n{}", markdown(&after.to_string()));
    }
    visible(command).for_each(|sub| section(sub, level + 1, text));
}

/// What every command has.
fn is_usual(arg: &Arg) -> bool {
    matches!(arg.get_id().as_str(), "help" | "version")
}

/// A line of a table: how an argument is written, and what it means.
fn row(arg: &Arg) -> String {
    let value = arg.get_value_names().unwrap_or_default().join(" ");
    let takes = arg.get_action().takes_values();
    let names: Vec<String> = arg
        .get_short()
        .map(|short| format!("-{short}"))
        .into_iter()
        .chain(arg.get_long().map(|long| if takes { format!("--{long} {value}") } else { format!("--{long}") }))
        .collect();
    let written = if names.is_empty() { value } else { names.join("`, `") };
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut means = vec![help];
    let values: Vec<PossibleValue> = if takes { arg.get_possible_values() } else { Vec::new() };
    let values: Vec<String> = values.iter().filter(|value| !value.is_hide_set()).map(one_value).collect();
    if !values.is_empty() {
        means.push(format!("One of {}", values.join("; ")));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes && !defaults.is_empty() {
        means.push(format!("Default: `{}`", defaults.join(" ")));
    }
    format!("| `{}` | {} |", cell(&written), cell(&means.join(". ")))
}

fn one_value(value: &PossibleValue) -> String {
    let help = value.get_help().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("`{}`{help}", value.get_name())
}

/// Text in one cell of a table.
fn cell(text: &str) -> String {
    markdown(&text.split_whitespace().collect::<Vec<_>>().join(" ")).replace('|', "\\|")
}

/// Help as Markdown: what could be taken for markup is not meant so.
fn markdown(text: &str) -> String {
    text.replace('*', "\\*").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visible_command_has_a_page_and_the_hidden_ones_have_none() {
        let files = of_launcher().unwrap();
        for name in ["installer", "dkm", "dkm-start", "dkm-top", "dkm-shell", "dkmadmin", "dkmadmin-verify"] {
            let page = files.get(&PathBuf::from(format!("man/man1/{name}.1")));
            let page = page.unwrap_or_else(|| panic!("{name} has no page: {:?}", files.keys()));
            assert!(page.contains(".SH SYNOPSIS") && !page.contains(".SH EXTRA"), "{page}");
        }
        assert!(!files.keys().any(|path| path.to_string_lossy().contains("complete.1")), "{:?}", files.keys());
        assert!(of_builder().unwrap().contains_key(&PathBuf::from("man/man1/cargo-xtask-lock-bump.1")));
    }

    #[test]
    fn flags_are_written_as_they_are_typed() {
        let text = flags();
        for line in [
            "## installer",
            "### dkm start",
            "| `-d`, `--data-dir DATA_DIR` | The folder to make; it may exist if it is empty |",
            "| `SERVICE` | The services; all when none is named |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert_eq!(text.matches("`--home DATA_DIR`").count(), 1, "a flag of all verbs is told once");
        assert!(!text.contains("| `-h`"));
    }

    #[test]
    fn it_is_the_same_every_time() {
        assert_eq!(identity(), identity());
        assert_eq!(of_launcher().unwrap(), of_launcher().unwrap());
    }

    #[test]
    fn docs_flags_is_as_the_definitions_are() {
        let path = crate::commands::workspace().join("docs/flags.md");
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == flags(), "docs/flags.md is not as the definitions of the flags are: run `cargo xtask manual`");
    }
}
