//! Takes the account of a component that was made: what went into it, while everything that tells of it is at hand.

use super::{Build, cargo, collect, go};
use crate::account::{Taking, crates, go as modules, npm};
use crate::elf;
use crate::error::{Kind, WithKind as _};
use crate::stack::recipe::{Action, Cargo, Go, Step};
use crate::supply::crates as pins;
use std::collections::BTreeSet;
use std::path::Path;
use walkdir::WalkDir;

/// Takes the account of the component whose part of the bundle is in `tree`, and puts it there.
///
/// # Errors
/// [`Kind::Stage`] when something that went in cannot be accounted for, [`Kind::Fetch`] when what is needed to do so is not
/// there any more and cannot be had.
pub(super) fn take(build: &Build<'_>, tree: &Path) -> anyhow::Result<()> {
    let name = &build.planned.recipe.name;
    let mut taking = Taking::below(tree)?;
    for file in collect::own_licenses(build) {
        let text = crate::account::texts::read(&build.src.join(&file))?;
        let text = taking.texts().keep(file.to_string_lossy().into_owned(), &text)?;
        taking.own(text);
    }
    for (at, step) in build.planned.recipe.steps.iter().enumerate() {
        take_step(build, at, step, &mut taking)
            .map_err(|error| error.context(format!("cannot account for {name}, step {}", step.name)))?;
    }
    libraries(&mut taking, tree)?;
    taking.write()
}

fn take_step(build: &Build<'_>, at: usize, step: &Step, taking: &mut Taking) -> anyhow::Result<()> {
    let dir = build.dir(step)?;
    match step.action() {
        Action::Go(go) => take_go(build, step, go, &dir, taking),
        Action::Cargo(cargo) => take_cargo(build, step, cargo, &dir, taking),
        Action::Node(_) => {
            // What several steps do in one folder is to be seen behind the last of them.
            let later = &build.planned.recipe.steps[at + 1..];
            let again = |other: &Step| matches!(other.action(), Action::Node(_)) && other.dir == step.dir;
            if later.iter().any(again) { Ok(()) } else { take_npm(build, step, &dir, taking) }
        }
        Action::Autotools(_) | Action::Manual => Ok(()),
    }
}

fn take_go(build: &Build<'_>, step: &Step, go: &Go, dir: &Path, taking: &mut Taking) -> anyhow::Result<()> {
    let Some(output) = &go.output else { return Ok(()) };
    let program = dir.join(build.fill(output));
    // A program that only helped to build is no part of the bundle.
    let Some(within) = collect::installed_as(build, &program) else { return Ok(()) };
    let vendor = dir.join("vendor");
    let is_vendored = match go.r#mod.as_deref() {
        Some(word) => word == "vendor",
        None => vendor.join("modules.txt").is_file(),
    };
    let place = modules::Place {
        vendor: is_vendored.then_some(vendor),
        cache: build.session.supply.go(build.session.dirs),
        source: dir.to_owned(),
        roots: go::roots(build),
    };
    if modules::take(taking, &program, &within, &place)?.is_empty() {
        return Ok(());
    }
    // The program came from a store, and its modules never were on this machine.
    build.fetch_dependencies(step)?;
    let lacking = modules::take(taking, &program, &within, &place)?;
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Kind::Fetch.error(format!(
        "{} holds modules whose licences are not at hand: {}",
        program.display(),
        lacking.join(", ")
    )))
}

fn take_npm(build: &Build<'_>, step: &Step, root: &Path, taking: &mut Taking) -> anyhow::Result<()> {
    let mut built = Vec::new();
    let mut within = Vec::new();
    for install in &build.planned.recipe.installs {
        let Some(from) = install.from.as_ref().map(|from| collect::resolve(build, from)) else { continue };
        if from.is_dir() && from.starts_with(&build.src) && holds_scripts(&from) {
            within.push(install.to.trim_end_matches('/').to_owned());
            built.push(from);
        }
    }
    let source = build.src.canonicalize().kind(Kind::Stage, || format!("cannot look at {}", build.src.display()))?;
    let root = root.canonicalize().kind(Kind::Stage, || format!("cannot look at {}", root.display()))?;
    let caches = vec![build.session.dirs.cache("yarn")];
    let place = npm::Place { root, source, built, caches };
    if npm::take(taking, &within.join(", "), &place)?.is_empty() {
        return Ok(());
    }
    // The pages came from a store, and what Yarn keeps outside of the source never was on this machine.
    for step in build.planned.recipe.steps.iter().filter(|other| other.dir == step.dir) {
        if matches!(step.action(), Action::Node(node) if node.install) {
            build.fetch_dependencies(step)?;
        }
    }
    let lacking = npm::take(taking, &within.join(", "), &place)?;
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Kind::Fetch.error(format!("npm packages that Yarn has installed are not in its cache: {}", lacking.join(", "))))
}

fn holds_scripts(folder: &Path) -> bool {
    let mut files = WalkDir::new(folder).into_iter().flatten();
    files.any(|entry| entry.path().extension().is_some_and(|ending| ending == "js" || ending == "mjs"))
}

fn take_cargo(build: &Build<'_>, step: &Step, cargo: &Cargo, dir: &Path, taking: &mut Taking) -> anyhow::Result<()> {
    let place = cargo::sources(build, step, dir)?;
    let pinned = pins::pinned(&cargo::lock_file(build, dir))?;
    let programs = cargo.bins.iter().map(|bin| build.dest().join("bin").join(bin));
    let within: BTreeSet<String> = programs.filter_map(|program| collect::installed_as(build, &program)).collect();
    if within.is_empty() {
        return Ok(());
    }
    let mut attempt = || -> anyhow::Result<()> {
        let resolved = crates::parse(&cargo::tree(build, step, cargo, dir)?);
        crates::take(taking, &resolved, &within, &pinned, &place.folders()?)
    };
    if attempt().is_err() {
        // The program came from a store, and its crates never were on this machine.
        build.fetch_dependencies(step)?;
        attempt()?;
    }
    let compiler = place.compiler()?;
    crates::take_std(taking, &compiler.version, &compiler.sysroot, cargo::is_static(build, cargo), &within)
}

/// What the component's programs and libraries need and do not bring along.
fn libraries(taking: &mut Taking, tree: &Path) -> anyhow::Result<()> {
    let binaries = elf::scan(tree).kind(Kind::Stage, || "cannot see which libraries are needed".to_owned())?;
    let own: BTreeSet<&str> = binaries.iter().filter_map(|(path, _)| path.file_name()?.to_str()).collect();
    if let Some(glibc) = binaries.iter().filter_map(|(_, binary)| binary.glibc()).max() {
        taking.glibc(glibc.to_string());
    }
    for (path, binary) in &binaries {
        for library in binary.needed.iter().filter(|library| !own.contains(library.as_str())) {
            taking.library(library, path);
        }
    }
    Ok(())
}
