//! `repro`: builds a bundle again under other conditions, and compares.

use super::Workshop;
use crate::archive::Format;
use crate::cli;
use crate::error::{Kind, WithKind as _};
use crate::fetch::Mirror;
use crate::gate::Machine;
use crate::interrupt;
use crate::parallel;
use crate::repro::Sides;
use crate::repro::compare::{Comparison, compare};
use crate::repro::second::{self, Second};
use crate::stack::recipe::Recipe;
use crate::stage::{self, Extent};
use crate::store::Store;
use dkumonitor_interface::service::InstallType;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// No more members that differ are told.
const SHOWN: usize = 20;

/// Builds twice and compares.
///
/// # Errors
/// [`Kind::Repro`] with the first difference when there is one; else what a build fails with.
pub fn run(args: &cli::Repro) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, args.dist_dir.as_deref())?;
    let (recipes, extent) = match args.profile {
        Some(kind) => (workshop.stack.of_type(kind), if kind == InstallType::All { Extent::Whole } else { Extent::Type(kind) }),
        None => {
            let recipes = workshop.stack.select(&args.common.only)?;
            let extent = Extent::of(recipes.len(), &workshop.stack);
            (recipes, extent)
        }
    };
    let name = stage::bundle_name(&workshop.stack, extent) + &workshop.target.suffix();
    let epoch = super::package::bundle_epoch(&workshop)?;
    let (ui, dirs) = (&workshop.ui, &workshop.dirs);

    // Told before an hour of building.
    let place = args.place.clone().unwrap_or_else(std::env::temp_dir);
    if !place.is_dir() {
        return Err(Kind::Usage
            .error(format!("cannot build in {} a second time: there is no such folder (--place DIR)", place.display())));
    }
    ui.line(&format!("{name}, first: as usual, in {}", dirs.build.display()));
    let program = std::env::current_exe()?;
    let mut first = Command::new(program);
    first.args(words(args, &workshop.stack.root, &dirs.build, &dirs.dist)).env("SOURCE_DATE_EPOCH", epoch.to_string());
    finish(first, "first")?;

    let second = Second::make(&place, &workshop.workspace, &workshop.stack.root, dirs)?;
    ui.line(&format!("{name}, second: from nothing, in {}", second.build().display()));
    let mut words = words(args, &second.stack, &second.build(), &second.dist());
    words.extend(["--jobs".into(), (parallel::cores() + 1).to_string().into()]);
    let (mut command, apart) = second.command(&words, epoch)?;
    command.env(super::CHECKOUT, second.workspace.canonicalize()?);
    if !apart {
        ui.line("  ! no user namespaces are to be had here: both builds are this user's, on this machine");
    }
    if second.shares_disk_with(dirs) {
        ui.line("  · both builds lie on one file system, which gives a folder's names in one order; --place DIR on another one varies that");
    }
    let built = finish(command, "second");
    let compared = built.and_then(|()| {
        let file = format!("{name}.{}", Format::Gz.ending());
        let sides = sides(&workshop, &second, apart);
        compare(&dirs.dist.join(&file), &second.dist().join(&file), &sides)
    });
    if args.keep {
        ui.line(&format!("  · the second build is kept in {}", second.keep().display()));
    } else {
        second.remove()?;
    }
    let compared = compared?;
    tell(&workshop, &recipes, &compared)?;
    verdict(&name, &compared)
}

/// What `package` is told in both builds.
fn words(args: &cli::Repro, stack: &Path, build: &Path, dist: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["package".into(), "--skip-gate".into()];
    let mut add = |flag: &str, value: OsString| words.extend([flag.into(), value]);
    add("--stack", stack.into());
    add("--build-dir", build.into());
    add("--dist-dir", dist.into());
    if let Some(kind) = args.profile {
        add("--profile", kind.to_string().into());
    }
    if !args.common.only.is_empty() {
        add("--only", args.common.only.join(",").into());
    }
    if let Some(target) = args.common.target {
        add("--target", target.suffix().trim_start_matches('-').into());
    }
    for mirror in &args.network.mirrors {
        let word = match mirror {
            // The builds run in folders of their own.
            Mirror::Folder(folder) => std::path::absolute(folder).map_or_else(|_| folder.clone().into(), PathBuf::into),
            Mirror::Url(url) => url.into(),
        };
        add("--mirror", word);
    }
    if args.network.offline {
        words.push("--offline".into());
    }
    if args.common.talk.quiet {
        words.push("--quiet".into());
    }
    words
}

/// Runs a build to its end.
fn finish(mut command: Command, which: &str) -> anyhow::Result<()> {
    let status = command.status().kind(Kind::Other, || format!("cannot start the {which} build"))?;
    interrupt::check()?;
    if status.success() {
        return Ok(());
    }
    let kind = status.code().map_or(Kind::Other, Kind::of_status);
    Err(kind.error(format!("the {which} build fails ({status}), see above; nothing was compared")))
}

/// What each build would leave of its own places and numbers.
fn sides(workshop: &Workshop, second: &Second, apart: bool) -> Sides {
    let marks = |paths: Vec<PathBuf>, machine: Machine| {
        let paths = paths.into_iter().map(|path| ("its own places", path)).chain(machine.paths).collect();
        Machine { paths, ..machine }.marks()
    };
    let first = workshop.dirs.places().into_iter().map(PathBuf::from).chain([workshop.workspace.clone()]).collect();
    let user = i64::from(rustix::process::getuid().as_raw());
    let jobs = i64::try_from(parallel::cores()).ok();
    Sides {
        one: marks(first, Machine::this()),
        other: marks(second.places(), if apart { second::somebody_else() } else { Machine::default() }),
        jobs: jobs.map(|jobs| (jobs, jobs + 1)),
        users: apart.then(|| (user, i64::from(second::USER))),
    }
}

/// The verdict for each component.
fn tell(workshop: &Workshop, recipes: &[&Recipe], compared: &Comparison) -> anyhow::Result<()> {
    let store = Store::at(workshop.dirs.store());
    let plan = workshop.planner(&store).plan(recipes)?;
    for component in &plan.components {
        let name = &component.recipe.name;
        let Some(record) = &component.ready else { continue };
        let entries = store.entries(record)?;
        let different = entries.iter().filter(|entry| compared.differs(&entry.path.to_string_lossy())).count();
        let line = match different {
            0 => format!("  ✓ {name}: the same, {} files", entries.len()),
            different => format!("  ✗ {name}: {different} of {} files differ", entries.len()),
        };
        workshop.ui.line(&line);
    }
    Ok(())
}

fn verdict(name: &str, compared: &Comparison) -> anyhow::Result<()> {
    if compared.is_same() {
        crate::progress::say(&format!(
            "{name}: both builds are the same, {} members and every byte of the archive",
            compared.members
        ));
        return Ok(());
    }
    let mut text = format!("{name}: the two builds differ");
    for (member, how) in compared.different.iter().take(SHOWN) {
        text += &format!("\n  - {member}: {how}");
        compared.why.get(member).into_iter().flatten().for_each(|reason| text += &format!("\n      {reason}"));
    }
    if compared.different.is_empty() {
        compared.reasons.iter().for_each(|reason| text += &format!("\n  - {reason}"));
    }
    if compared.different.len() > SHOWN {
        text += &format!("\n  and {} more", compared.different.len() - SHOWN);
    }
    Err(Kind::Repro.error(text))
}
