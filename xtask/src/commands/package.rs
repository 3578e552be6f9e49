//! `package`: from the pins to the archive.

use super::Workshop;
use crate::build::{self, Session};
use crate::cli;
use crate::error::{self, Kind, WithKind as _};
use crate::outputs::{self, Output};
use crate::plan::{self, Planned, State};
use crate::progress::{Ahead, Fate, bytes};
use crate::schedule::{GivenUp, Resources, Scheduler, side_by_side};
use crate::stack::Material;
use crate::stack::lock::Source;
use crate::stack::recipe::Recipe;
use crate::stage::{self, ArchiveState, Piece, StageState};
use crate::{archive, fetch, fingerprint, host, interrupt, preflight};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Makes the package.
///
/// # Errors
/// Whatever a step fails with; its kind gives the exit status.
pub fn run(args: &cli::Package) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, args.dist_dir.as_deref())?;
    let recipes = workshop.stack.select(&args.common.only)?;
    let partial = recipes.len() < workshop.stack.recipes.len();
    let bundle = stage::bundle_name(&workshop.stack, partial);
    let _lock = workshop.lock(!args.wait.no_wait)?;
    workshop.ui.keep_logs(&workshop.dirs.build)?;
    let outcome = make(&workshop, args, &bundle, &recipes);
    let kept = workshop.ui.end(&workshop.dirs.build, &bundle, outcome.is_ok());
    // What made the run fail matters more than that its history could not be written for the same reason.
    outcome.and(kept)
}

/// The whole way, from the plan to the archive.
fn make(workshop: &Workshop, args: &cli::Package, bundle: &str, recipes: &[&Recipe]) -> anyhow::Result<()> {
    let planned = plan::plan(&workshop.stack, recipes, &workshop.workspace, &workshop.host, &workshop.dirs)?;
    let steps = ahead(&planned, args);
    workshop.ui.plan(workshop.stack.name.as_deref(), bundle, steps, machine(args), &workshop.dirs.build);
    let built = if args.skip_build { compiled_before(workshop, &planned)? } else { compile(workshop, &planned, args)? };
    let pieces: Vec<_> = planned.iter().zip(built).map(|(planned, output)| Piece { planned, output }).collect();
    for piece in &pieces {
        outputs::touch(&piece.output);
    }
    workshop.dirs.remove_stand_in();
    let epoch = bundle_epoch(workshop)?;
    let state = stage::stage(&workshop.stack, &pieces, bundle, epoch, &workshop.dirs, &workshop.ui)?;
    if args.skip_archive {
        workshop.ui.artifact(&workshop.dirs.tree(bundle), None, None);
        return Ok(());
    }
    archive_bundle(workshop, bundle, state, epoch, jobs(args))
}

/// The plan for those who watch.
fn ahead(planned: &[Planned<'_>], args: &cli::Package) -> Vec<Ahead> {
    let mut all: Vec<Ahead> = Vec::new();
    let mut ends = Vec::new();
    for planned in planned {
        let mut last = None;
        let fate = |step: &str| match &planned.state {
            State::Build(why) if !args.skip_build => Fate::Run(why.clone()),
            State::Build(_) => Fate::Cached(None),
            State::Ready(output) => {
                Fate::Cached(output.record.steps.iter().find(|cost| cost.name == step).map(outputs::StepCost::cost))
            }
        };
        for step in &planned.recipe.steps {
            let need = build::need(planned, step);
            let (component, step) = (planned.recipe.name.clone(), step.name.clone());
            let fate = fate(&step);
            all.push(Ahead { component, step, after: last.into_iter().collect(), need, fate });
            last = Some(all.len() - 1);
        }
        ends.extend(last);
    }
    let names = if args.skip_archive { &["stage"][..] } else { &["stage", "archive"] };
    for name in names {
        let fate = Fate::Run("always looked at".to_owned());
        let need = Resources { cores: 1, memory_mb: 0 };
        all.push(Ahead { component: "bundle".to_owned(), step: (*name).to_owned(), after: ends, need, fate });
        ends = vec![all.len() - 1];
    }
    all
}

fn jobs(args: &cli::Package) -> usize {
    args.jobs.map_or_else(host::cores, usize::from)
}

/// What may be used of this machine.
fn machine(args: &cli::Package) -> Resources {
    Resources {
        cores: u32::try_from(jobs(args)).unwrap_or(u32::MAX),
        memory_mb: host::memory().map_or(u64::MAX, |bytes| bytes / 1_000_000),
    }
}

/// `--skip-build`: what was compiled before, whether or not it still is what the recipes say.
fn compiled_before(workshop: &Workshop, planned: &[Planned<'_>]) -> anyhow::Result<Vec<Output>> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for planned in planned {
        let name = &planned.recipe.name;
        let output = match &planned.state {
            State::Ready(output) => Some(output.clone()),
            State::Build(why) => {
                let latest = outputs::latest(&workshop.dirs.outputs(name));
                if latest.is_some() {
                    workshop.ui.line(&format!("  ! {name} is staged as it was compiled before, though: {why}"));
                }
                latest
            }
        };
        match output {
            Some(output) => found.push(output),
            None => missing.push(name.as_str()),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    Err(Kind::Stage.error(format!(
        "--skip-build: {} was never compiled in {}; run without --skip-build, or leave it out with --only",
        missing.join(", "),
        workshop.dirs.build.display()
    )))
}

/// Compiles what is not ready; gives all outputs in the plan's order.
fn compile(workshop: &Workshop, planned: &[Planned<'_>], args: &cli::Package) -> anyhow::Result<Vec<Output>> {
    let ui = &workshop.ui;
    let scheduler = Scheduler::new(machine(args));
    let session = Session {
        stack: &workshop.stack,
        workspace: &workshop.workspace,
        dirs: &workshop.dirs,
        ui,
        host: &workshop.host,
        jobs: jobs(args),
        offline: args.network.offline,
        scheduler: &scheduler,
    };
    let todo: Vec<_> = planned.iter().filter(|planned| planned.to_build()).collect();
    for planned in &todo {
        if let State::Build(why) = &planned.state {
            ui.line(&format!("  · {}: {why}", planned.recipe.name));
        }
    }
    prepare(workshop, &session, &todo, args)?;
    // All are announced before the first begins, so that it is the one with the longest way to go.
    let todo: Vec<_> =
        todo.into_iter().map(|planned| (planned, Mutex::new(Some(build::announce(&session, planned))))).collect();
    let results = side_by_side(&todo, |(planned, start)| {
        // Each is begun once, so its start is there; were it not, it would just be announced late.
        let start = start.lock().unwrap_or_else(PoisonError::into_inner).take();
        let start = start.unwrap_or_else(|| build::announce(&session, planned));
        let outcome = build::build(&session, planned, start);
        if outcome.is_err() && args.fail_fast {
            scheduler.give_up();
        }
        outcome
    });
    interrupt::check()?;
    let mut built: BTreeMap<&str, Output> = BTreeMap::new();
    let mut failures = Vec::new();
    for ((planned, _), outcome) in todo.iter().zip(results) {
        match outcome {
            Ok(output) => drop(built.insert(&planned.recipe.name, output)),
            Err(error) if error.is::<GivenUp>() => {}
            Err(error) => failures.push(error),
        }
    }
    conclude(failures)?;
    let outputs = planned.iter().map(|planned| match &planned.state {
        State::Ready(output) => Some(output.clone()),
        State::Build(_) => built.remove(planned.recipe.name.as_str()),
    });
    outputs.collect::<Option<_>>().ok_or_else(|| Kind::Stage.error("a component was not built, and nobody said why"))
}

/// One failure is returned as it is; of several all are shown, and the first gives the kind.
fn conclude(mut failures: Vec<anyhow::Error>) -> anyhow::Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        count => {
            let kind = error::kind_of(&failures[0]);
            let texts: Vec<_> = failures.iter().map(|error| format!("{error:#}")).collect();
            Err(kind.error(format!("{count} components failed:\n{}", texts.join("\n"))))
        }
    }
}

/// Everything before the first compiler runs: the machine is checked, sources are fetched, unpacked and patched, so that
/// what can fail early does.
fn prepare(workshop: &Workshop, session: &Session<'_>, todo: &[&Planned<'_>], args: &cli::Package) -> anyhow::Result<()> {
    if todo.is_empty() {
        return Ok(());
    }
    let recipes: Vec<_> = todo.iter().map(|planned| planned.recipe).collect();
    preflight::require(&workshop.preflight(&recipes, &[], args.install_missing)?)?;
    let archives = fetch_sources(workshop, todo, &args.network)?;
    let prepared = side_by_side(todo, |planned| {
        build::prepare(session, planned, archives.get(&planned.recipe.source).map(PathBuf::as_path))
    });
    interrupt::check()?;
    conclude(prepared.into_iter().filter_map(Result::err).collect())?;
    let bootstrap: Vec<_> = todo
        .iter()
        .filter(|planned| build::needs_bootstrap(session, planned))
        .map(|planned| planned.recipe.name.as_str())
        .collect();
    if bootstrap.is_empty() {
        Ok(())
    } else {
        preflight::require(&workshop.preflight(&recipes, &bootstrap, args.install_missing)?)
    }
}

/// Brings the archives of the components into the store.
pub(super) fn fetch_sources(
    workshop: &Workshop,
    todo: &[&Planned<'_>],
    network: &cli::Network,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut sources: Vec<&Source> = Vec::new();
    for planned in todo {
        if let Material::Locked(source) = planned.material
            && !sources.iter().any(|known| known.name == source.name)
        {
            sources.push(source);
        }
    }
    let options = fetch::Options {
        store: workshop.dirs.sources(),
        rejected: workshop.dirs.rejected(),
        mirrors: network.mirrors.clone(),
        offline: network.offline,
        jobs: host::cores().max(4),
        retry: fetch::Retry::default(),
    };
    fetch::fetch_all(&sources, &options, &workshop.ui)
}

/// The time that a bundle's files carry: SOURCE_DATE_EPOCH, or the stack's newest commit, or its lock's time.
fn bundle_epoch(workshop: &Workshop) -> anyhow::Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.parse().kind(Kind::Usage, || format!("SOURCE_DATE_EPOCH is \"{text}\", not seconds since 1970"));
    }
    let root = &workshop.stack.root;
    let commit = xshell::Shell::new()
        .and_then(|shell| xshell::cmd!(shell, "git -C {root} log -1 --format=%ct -- .").quiet().ignore_stderr().read());
    if let Some(time) = commit.ok().and_then(|text| text.trim().parse().ok()) {
        return Ok(time);
    }
    let modified = root.join("vendor.lock").metadata()?.modified()?;
    Ok(modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs()))
}

/// Writes the archive, unless the one that is there was made from the same tree.
fn archive_bundle(workshop: &Workshop, bundle: &str, mut state: StageState, epoch: u64, jobs: usize) -> anyhow::Result<()> {
    let target = workshop.dirs.dist.join(format!("{bundle}.tar.gz"));
    let step = workshop.ui.step("bundle", "archive");
    let unchanged = state.archive.as_ref().is_some_and(|archive| archive.mtime == epoch && is_as_it_was(&target, archive));
    if unchanged {
        step.done("unchanged");
    } else {
        let cache = workshop.dirs.archive_cache();
        let options = archive::Options { mtime: epoch, jobs, cache: Some(&cache), level: archive::LEVEL };
        let summary = step.close(archive::write(&workshop.dirs.tree(bundle), bundle, &target, &options), |summary| {
            format!(
                "{} of {} files with {}, {} of {} blocks as before",
                bytes(summary.bytes),
                summary.files,
                bytes(summary.content),
                summary.reused,
                summary.blocks
            )
        })?;
        state.archive = Some(ArchiveState { file: fingerprint::known(&target, summary.sha256)?, mtime: epoch });
        state.write(&workshop.dirs.state(bundle))?;
    }
    let (sha256, size) = match state.archive.as_ref().map(|archive| &archive.file) {
        Some(fingerprint::EntryKind::File { sha256, size, .. }) => (Some(sha256.as_str()), Some(*size)),
        _ => (None, None),
    };
    workshop.ui.artifact(&target, sha256, size);
    Ok(())
}

fn is_as_it_was(target: &Path, archive: &ArchiveState) -> bool {
    let fingerprint::EntryKind::File { sha256, .. } = &archive.file else { return false };
    fingerprint::known(target, sha256.clone()).is_ok_and(|now| now == archive.file)
}
