//! The installer: a data folder from a bundle.
//!
//! It works in three steps, and only the last one changes anything:
//!
//! 1. [`plan`] looks at the bundle, the machine and the arguments, and collects *everything* that is wrong;
//! 2. [`render`] makes every file's content in memory, so that a template's error is met before anything is made;
//! 3. [`build`] writes the folder beside its place and renames it: it is there whole or not at all.
//!
//! A folder that is there goes to another version, or gets other arguments, by [`update`], decided and carried out as one [`switch`].
//! [`uninstall`] takes the programs out of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cli::Installer;
use crate::home::Home;
use crate::manifest::Manifest;
use plan::{Plan, Problems, Purpose};
use record::Record;

pub mod arguments;
pub mod ask;
pub mod build;
pub mod collectd;
pub mod context;
pub mod database;
pub mod farewell;
pub mod plan;
pub mod record;
pub mod render;
pub mod restart;
pub mod retention;
pub mod switch;
pub mod tidy;
pub mod uninstall;
pub mod update;

/// Makes the data folder, and says what to do next; or does with one that is there what it was told.
///
/// # Errors
/// Everything that is wrong at once, or what could not be written.
pub fn run(arguments: &Installer) -> Result<ExitCode> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    if arguments.allow_root {
        crate::commands::root::allow();
    }
    if arguments.existing.uninstall {
        return uninstall::run(arguments);
    }
    let bundle = bundle_root()?;
    if arguments.run {
        return run_it(arguments, &bundle);
    }
    let manifest = Manifest::read(&bundle)?;
    if arguments.existing.rollback {
        return update::rollback(arguments);
    }
    if arguments.existing.update {
        return update::update(arguments, &bundle, &manifest);
    }
    if let Ok(home) = Home::open(&arguments.data) {
        return again(arguments, &home, &bundle);
    }
    let plan = match plan::make(arguments, &bundle, &manifest, Purpose::New) {
        Ok(plan) => plan,
        Err(problems) => return show_problems(arguments, "install into", &arguments.data, &problems),
    };
    let files = render::all(&plan)?;
    if !arguments.dry_run {
        build::folder(&plan, &files)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&outcome(&plan, &files, arguments.dry_run))?);
    } else if arguments.dry_run {
        println!("{} {} would be installed in {}, with", plan.kind, plan.context.version, plan.data.display());
        files.keys().for_each(|path| println!("  {path}"));
        plan.notes.iter().for_each(|note| println!("Note: {note}."));
    } else {
        print!("{}", plan.farewell());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the folder or brings it to this version, as the case may be, and becomes its supervisor.
fn run_it(arguments: &Installer, bundle: &Path) -> Result<ExitCode> {
    let mut first = arguments.clone();
    first.run = false;
    if let Ok(home) = Home::open(&arguments.data) {
        first.existing.update = Record::read(home.root())?.bundle != bundle;
        first.yes = first.existing.update;
    }
    let done = run(&first)?;
    if done != ExitCode::SUCCESS {
        return Ok(done);
    }
    let program = arguments.data.join("bin/dkm");
    let error = std::os::unix::process::CommandExt::exec(std::process::Command::new(&program).arg("run"));
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// What was made, for programs.
fn outcome(plan: &Plan, files: &BTreeMap<String, render::Rendered>, dry_run: bool) -> serde_json::Value {
    let context = &plan.context;
    let listens = |name: &str| plan.services.iter().flat_map(|service| &service.ports).any(|port| port.name == name);
    let used: BTreeMap<_, _> = context.endpoints.iter().filter(|(name, _)| listens(name)).collect();
    json!({
        "v": 1,
        "dry-run": dry_run,
        "data": plan.data,
        "type": plan.kind,
        "version": context.version,
        "hostname": context.hostname,
        "services": context.services,
        "endpoints": used,
        "reserved-ports": context.ports.iter().filter(|(name, _)| !used.contains_key(*name)).collect::<BTreeMap<_, _>>(),
        "notes": plan.notes,
        "files": files.keys().collect::<Vec<_>>(),
        "grafana-password": if dry_run { None } else { plan.password.clone() },
    })
}

/// Tells everything that speaks against it.
fn show_problems(arguments: &Installer, what: &str, data: &Path, problems: &Problems) -> Result<ExitCode> {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&json!({"v": 1, "data": data, "problems": problems.0}))?);
    }
    eprintln!("installer: cannot {what} {}:", data.display());
    for problem in &problems.0 {
        eprintln!("  - {problem}");
    }
    Ok(ExitCode::FAILURE)
}

/// The folder is there already: with the same arguments that is what was wanted.
fn again(arguments: &Installer, home: &Home, bundle: &Path) -> Result<ExitCode> {
    let record = Record::read(home.root())?;
    let place = home.root().display();
    let differences = arguments::differences(&record.arguments, arguments);
    if !differences.is_empty() {
        bail!(
            "cannot install into {place}: it is a data folder already, with other arguments ({}). `installer --update -d DIR` with those \
             arguments changes it",
            differences.join("; ")
        );
    }
    if !home.root().join(build::BUNDLE).is_symlink() {
        bail!(
            "cannot install into {place}: it is what --uninstall has left of an installation. `installer --update -d DIR` makes it whole \
             again; `installer --uninstall --purge -d DIR` removes the rest"
        );
    }
    if record.bundle != *bundle {
        bail!(
            "cannot install into {place}: it is a data folder already, of {}. `installer --update -d DIR` brings this version",
            record.version
        );
    }
    if arguments.json {
        println!("{}", json!({"v": 1, "data": home.root(), "version": record.version, "unchanged": true}));
    } else {
        println!("{place} is installed already, with the same arguments; nothing to do.");
    }
    Ok(ExitCode::SUCCESS)
}

/// The bundle this program lies in, as `bin/dkm`.
///
/// # Errors
/// When the program's own file cannot be found.
pub fn bundle_root() -> Result<std::path::PathBuf> {
    let program =
        std::env::current_exe().and_then(|path| path.canonicalize()).context("cannot find this program's own file")?;
    let root = program.parent().and_then(Path::parent);
    root.map(Path::to_owned).with_context(|| format!("{} does not lie in a bundle", program.display()))
}
