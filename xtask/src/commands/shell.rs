//! `shell`: the place where a step runs, to look around in and to try things by hand.
//!
//! The work folder is the one that a failed step has left, where there is one; else it is prepared: the source unpacked and
//! patched, what the steps before have made laid out from the store (or made), what the step needs fetched. Environment,
//! folder and network are those of the step's own commands. What is done by hand changes nothing of what `package` makes:
//! it begins with a folder of its own.

use super::{BuildLock, Workshop, bring};
use crate::build::Work;
use crate::cli;
use crate::error::{Kind, WithKind as _};
use crate::parallel;
use crate::preflight;
use crate::sandbox;
use crate::shell::Command;
use crate::stack::recipe::Recipe;
use crate::store::Store;
use crate::supply::{Supply, stock};
use anyhow::Context as _;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;

/// Becomes the shell or the command. Returns only when something fails.
///
/// # Errors
/// [`Kind::Usage`] for a component or step that there is not, those of preparing, and [`Kind::Compile`] when the shell
/// cannot be started.
pub fn run(args: &cli::Shell) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipe = workshop.recipe(&args.name)?;
    let lock = workshop.lock(!args.wait.no_wait)?;
    let command = prepare(&workshop, &lock, recipe, args)?;
    let error = replace_words(&command, &args.command).exec();
    Err(error).kind(Kind::Compile, || "cannot start the shell".to_owned())
}

/// Makes the work folder ready, shows what the step runs there, and gives its first command.
fn prepare(workshop: &Workshop, lock: &BuildLock, recipe: &Recipe, args: &cli::Shell) -> anyhow::Result<Command> {
    let store = Store::at(workshop.dirs.store());
    let plan = workshop.planner(&store).plan(&[recipe])?;
    // The logs of the last run are what one wants to read in such a shell.
    workshop.ui.keep_logs(&workshop.dirs.build.join("shell"))?;
    let stock = stock::take(&args.network.mirrors, &workshop.stack, &[recipe], &[], &workshop.dirs, &workshop.ui)?;
    let supply = Supply::usual(args.network.offline, stock);
    let session = workshop.session(&store, &supply, parallel::cores());
    let component = plan.components.first().ok_or_else(|| Kind::Other.error("nothing was planned"))?;
    let work = Work::new(&session, component);
    let at = choose(recipe, args.step.as_deref(), work.unfinished().map(|unfinished| unfinished.step))?;
    lock.share()?;
    if work.take_over(at) {
        workshop.ui.line(&format!(
            "  {} as step {} has left it",
            workshop.dirs.work(&args.name).display(),
            recipe.steps[at].name
        ));
    } else {
        preflight::require(&workshop.preflight(&[recipe], &[], false)?)?;
        let working = store.begin()?;
        let made = make_ready(workshop, &work, recipe, at, args);
        working.end();
        made?;
    }
    let (step, commands) = (&recipe.steps[at].name, work.commands(at)?);
    if args.command.is_empty() {
        let lines: String = commands.iter().map(|command| format!("\n    {}", command.echo())).collect();
        let network = if sandbox::PROGRAM.is_some() { ", without network" } else { "" };
        workshop.ui.line(&format!("  here step {step} of {} runs{network}:{lines}", recipe.name));
    }
    // Environment, folder and network are those of all of them.
    commands.into_iter().next().with_context(|| format!("step {step} runs no command"))
}

/// The step's number: the one that is named, the one that was left unfinished, or the first.
fn choose(recipe: &Recipe, named: Option<&str>, unfinished: Option<String>) -> anyhow::Result<usize> {
    let position = |name: &str| recipe.steps.iter().position(|step| step.name == name);
    let names = || recipe.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", ");
    match named {
        _ if recipe.steps.is_empty() => {
            Err(Kind::Usage.error(format!("{} has no steps, so that nothing runs anywhere", recipe.name)))
        }
        Some(name) => position(name)
            .ok_or_else(|| Kind::Usage.error(format!("--step: {} has no step \"{name}\"; it has {}", recipe.name, names()))),
        None => Ok(unfinished.and_then(|name| position(&name)).unwrap_or(0)),
    }
}

/// Brings the work folder to where the step begins.
fn make_ready(workshop: &Workshop, work: &Work<'_>, recipe: &Recipe, at: usize, args: &cli::Shell) -> anyhow::Result<()> {
    let archives = bring::fetch_sources(workshop, &[recipe], &args.network)?;
    if !work.component().is_workspace() {
        work.unpack(archives.get(&recipe.source).map(std::path::PathBuf::as_path))?;
        if !recipe.patches.is_empty() {
            work.patch()?;
        }
    }
    for before in 0..at {
        if let Some(record) = work.kept(before)? {
            work.reuse(&record)?;
        } else {
            work.needs(before, true)?;
            work.run(before, true)?;
        }
    }
    work.needs(at, true)
}

/// The command with other words: those that are given, or the user's shell. On a terminal it is told which one.
fn replace_words(command: &Command, words: &[OsString]) -> std::process::Command {
    let shell = || vec![std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())];
    let words = if words.is_empty() { shell() } else { words.to_vec() };
    let mut started = match sandbox::PROGRAM.as_ref() {
        Some(wrapper) => {
            let mut started = std::process::Command::new(wrapper);
            started.arg(sandbox::COMMAND).arg("--").arg(&words[0]);
            started
        }
        None => std::process::Command::new(&words[0]),
    };
    started.args(&words[1..]).env_clear().envs(&command.env).current_dir(&command.dir);
    if std::io::stdin().is_terminal()
        && let Some(terminal) = std::env::var_os("TERM")
    {
        started.env("TERM", terminal);
    }
    started
}
