//! `installer --uninstall`: the programs go, the data and the configuration stay unless `--purge` says otherwise.
//!
//! What is left is a data folder without programs. `installer --update` makes it whole again; so an uninstallation is no loss, and one
//! that was cut short is finished by the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::build::{BUNDLE, LINKS};
use super::record::Record;
use super::switch::{self, DRAFT, PREVIOUS};
use super::{ask, bundle_root, restart, tidy, update};
use crate::cli::Installer;
use crate::home::Home;

/// What goes besides the links: the places of what runs, and of what former versions had.
const FOLDERS: [&str; 3] = ["run", PREVIOUS, DRAFT];

/// Takes the programs out of a data folder, or removes it.
///
/// # Errors
/// When somebody else owns it, a service does not stop, or something cannot be removed.
pub fn run(arguments: &Installer) -> Result<ExitCode> {
    let home = Home::open(&arguments.data)?;
    let root = home.root();
    update::refuse_others(root)?;
    // Before the lock, which lies in one of them.
    let gone: Vec<String> = if arguments.purge { entries(root)? } else { programs(root) };
    let lock = update::lock(root)?;
    update::finish_earlier(root)?;
    let record = Record::read(root)?;
    let boot = boot_files(root);
    if arguments.dry_run || gone.is_empty() {
        say(arguments, &record, root, &gone, &boot)?;
        return Ok(ExitCode::SUCCESS);
    }
    let what = if arguments.purge {
        "all its data and configuration are removed"
    } else {
        "its services are stopped, its programs removed"
    };
    if !ask::agreed(arguments, &format!("{}: {what}.", root.display()), "--yes")? {
        bail!("nothing was changed");
    }
    stop(root, &record)?;
    if arguments.purge {
        purge(root)?;
    } else {
        for name in names() {
            switch::remove(&root.join(name))?;
        }
    }
    drop(lock);
    say(arguments, &record, root, &gone, &boot)?;
    Ok(ExitCode::SUCCESS)
}

/// Programs, and what only serves them. The way to the programs comes last: as long as it is there, the folder counts as installed.
fn names() -> impl Iterator<Item = &'static str> {
    LINKS.iter().map(|(_, path)| *path).chain(FOLDERS).chain([BUNDLE])
}

/// What there is of those.
fn programs(root: &Path) -> Vec<String> {
    names().filter(|name| root.join(name).symlink_metadata().is_ok()).map(str::to_owned).collect()
}

/// Everything in the folder.
fn entries(root: &Path) -> Result<Vec<String>> {
    let look = || format!("cannot look into {}", root.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(root).with_context(look)? {
        names.push(entry.with_context(look)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Stops whatever runs, by the program that started it, or by this one if that is not there any more.
fn stop(root: &Path, record: &Record) -> Result<()> {
    if !root.join("run").is_dir() {
        return Ok(());
    }
    let own = bundle_root()?;
    let bundle = if record.bundle.join("bin/dkm").is_file() { &record.bundle } else { &own };
    if !restart::dkm(bundle, root, &["shutdown"])? {
        bail!("cannot uninstall: not everything stopped, see above. Nothing was removed");
    }
    Ok(())
}

/// Removes the folder: by one rename it is gone, whatever happens while the rest is removed.
fn purge(root: &Path) -> Result<()> {
    tidy::remove_left(root);
    let beside = tidy::beside(root);
    if fs::rename(root, &beside).is_ok() {
        return switch::remove(&beside);
    }
    // Nobody but root may change the folder it lies in: it stays, empty. Its mark goes last.
    for name in entries(root)?.iter().filter(|name| *name != "conf") {
        switch::remove(&root.join(name))?;
    }
    switch::remove(&root.join("conf"))?;
    let _ = fs::remove_dir(root);
    Ok(())
}

/// The files by which the system starts it, as far as they can be read: whoever made them has to remove them.
fn boot_files(root: &Path) -> Vec<PathBuf> {
    let root = root.display().to_string();
    let places = ["/etc/systemd/system", "/etc/init.d", "/Library/LaunchDaemons"];
    let files = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = files
        .filter(|path| path.is_file() && !path.is_symlink())
        .filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(&root)))
        .collect();
    found.sort();
    found
}

/// Says what was, or would be, done.
fn say(arguments: &Installer, record: &Record, root: &Path, gone: &[String], boot: &[PathBuf]) -> Result<()> {
    let place = root.display();
    if arguments.json {
        let text = json!({
            "v": 1, "dry-run": arguments.dry_run, "data": root, "version": record.version, "purge": arguments.purge,
            "removed": gone, "bundle": record.bundle, "boot-files": boot,
        });
        println!("{}", serde_json::to_string_pretty(&text)?);
        return Ok(());
    }
    let verb = if arguments.dry_run { "would be removed" } else { "removed" };
    if gone.is_empty() {
        println!("{place} has no programs; nothing to do.");
    }
    for name in gone {
        println!("  {verb} {}", root.join(name).display());
    }
    if !arguments.purge {
        println!(
            "Data and configuration stay in {place}. `installer --update -d DIR` makes it whole again; `installer --uninstall --purge -d DIR` \
             removes them."
        );
    }
    println!("The bundle {} stays; remove it when no other data folder uses it.", record.bundle.display());
    for path in boot {
        println!("{} starts it with the system: remove that as root, by `dkmadmin uninstall-boot`.", path.display());
    }
    Ok(())
}
