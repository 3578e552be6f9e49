//! `installer --update` and `--rollback`: a data folder moves to another version and back.
//!
//! What the user changed stays as it is. For each file of the configuration three contents are compared: as it was shipped, as the new
//! version would ship it, and as it is. Where only the versions differ the file is replaced; where only the user has changed it, it stays;
//! where both have, it stays and the new content is written beside it as `.new` and listed.
//!
//! The order: everything is looked at and prepared while the services run; they are stopped by the program that started them; Grafana's database
//! is copied before another Grafana opens it; the [`switch`] is carried out; what ran is started again by the new program.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::arguments;
use super::build::{self, BUNDLE, make_folder, write};
use super::plan::{self, Plan, Purpose};
use super::record::Record;
use super::render::{self, Rendered};
use super::switch::{self, Change, Content, Switch};
use super::{ask, database, restart, show_problems};
use crate::cli::Installer;
use crate::home::{Home, RECORD};
use crate::integrity::hex;
use crate::manifest::Manifest;

/// Held while a data folder changes its version.
pub(super) const LOCK: &str = "run/update.lock";

/// Moves a data folder to this bundle's version.
///
/// # Errors
/// Whatever cannot be done; the folder is then as before, unless the message says otherwise.
pub fn update(arguments: &Installer, bundle: &Path, manifest: &Manifest) -> Result<ExitCode> {
    let home = Home::open(&arguments.data)?;
    let root = home.root();
    refuse_others(root)?;
    let _lock = lock(root)?;
    finish_earlier(root)?;
    let record = Record::read(root)?;
    refuse_older(&record, manifest)?;
    let mut wanted = arguments::replaced(&record.arguments, arguments)?;
    wanted.data = root.to_owned();
    if wanted.kind() != record.kind {
        bail!(
            "cannot make {} of the type {}: it is of the type {}; install another folder",
            root.display(),
            wanted.kind(),
            record.kind
        );
    }
    let plan = match plan::make(&wanted, bundle, manifest, Purpose::Update(&record.ports)) {
        Ok(plan) => plan,
        Err(problems) => return show_problems(arguments, "update", root, &problems),
    };
    let files = render::all(&plan)?;
    let (mut switch, contents) = three_way(root, &record, &plan, &files)?;
    switch.running = restart::running(root, &record)?;
    switch.concerned = Some(restart::concerned(&record, &plan, manifest, &switch.changes));
    if switch.changes.is_empty() && record.bundle == plan.bundle && root.join(BUNDLE).is_symlink() {
        say(arguments, &switch, &format!("{} is at {} already; nothing to do.", root.display(), record.version))?;
        return Ok(ExitCode::SUCCESS);
    }
    let database = record.components.get("grafana") != plan.components.get("grafana");
    make_what_lacks(root, &plan, arguments.dry_run)?;
    if database && let Some(concerned) = &mut switch.concerned {
        concerned.extend(["grafana".to_owned()]);
    }
    carry_out(arguments, &home, &record.bundle, &switch, &contents, database)
}

/// Goes back to what the last update replaced.
///
/// # Errors
/// As [`update`]; also when there is nothing to go back to.
pub fn rollback(arguments: &Installer) -> Result<ExitCode> {
    let home = Home::open(&arguments.data)?;
    let root = home.root();
    refuse_others(root)?;
    let _lock = lock(root)?;
    finish_earlier(root)?;
    let record = Record::read(root)?;
    let Some(last) = Switch::read(root, switch::PREVIOUS)? else {
        bail!("cannot go back: {} has not been updated since it was installed", root.display());
    };
    if !last.from.bundle.join("bin/dkm").is_file() {
        bail!(
            "cannot go back to {}: its bundle {} is not there any more; unpack it there again",
            last.from.version,
            last.from.bundle.display()
        );
    }
    let (mut switch, contents) = last.back(root)?;
    switch.running = restart::running(root, &record)?;
    let database = switch.restores_database;
    carry_out(arguments, &home, &record.bundle, &switch, &contents, database)
}

/// From the finished decision to running services. `database`: Grafana's is copied first.
fn carry_out(
    arguments: &Installer,
    home: &Home,
    old_bundle: &Path,
    switch: &Switch,
    contents: &BTreeMap<String, Vec<u8>>,
    database: bool,
) -> Result<ExitCode> {
    let (root, from, to) = (home.root(), &switch.from.version, &switch.to.version);
    let place = root.display();
    // With the same version it is arguments, or what --uninstall took out.
    let told = |verb: &str, mended: &str| {
        if from == to { format!("{place} {mended}") } else { format!("{place} {verb} from {from} to {to}") }
    };
    if arguments.dry_run {
        say(arguments, switch, &format!("{}.", told("would go", "would be brought up to date")))?;
        return Ok(ExitCode::SUCCESS);
    }
    let restarted = switch.restarted();
    let restart = !arguments.no_restart;
    if restart && !restarted.is_empty() {
        let question = format!("{}; {} will be restarted.", told("goes", "is brought up to date"), restarted.join(", "));
        if !ask::agreed(arguments, &question, "--yes, or --no-restart")? {
            bail!("nothing was changed");
        }
    }
    switch.prepare(root, contents)?;
    switch.take_database_back(root)?;
    if restart {
        restart::stop(old_bundle, root, &restarted)?;
    }
    if database {
        let copy = root.join(switch::DRAFT).join(switch::DATABASE_BEFORE);
        database::copy(&root.join(switch::DATABASE), &copy)?;
    }
    Switch::decide(root)?;
    switch::complete(root)?;
    let started = !restart || restart::start(&switch.to.bundle, home, &restarted, &switch.running)?;
    say(arguments, switch, &format!("{}.", told("went", "was brought up to date")))?;
    if !started {
        eprintln!("Not everything is ready, see above. `installer --rollback -d DIR` goes back to {from}.");
    }
    Ok(if started { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What somebody else made in a data folder its owner could not change any more; above all root has to become that owner first.
///
/// # Errors
/// When we are somebody else.
pub fn refuse_others(root: &Path) -> Result<()> {
    let owner = std::fs::metadata(root).with_context(|| format!("cannot look at {}", root.display()))?.uid();
    let me = nix::unistd::geteuid().as_raw();
    if owner != me {
        bail!("cannot change {}: it belongs to user {owner}, and this is user {me}; do it as its owner", root.display());
    }
    Ok(())
}

/// One at a time. The lock ends with this process.
///
/// # Errors
/// When somebody is at work.
pub fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    make_folder(path.parent().unwrap_or(root))?;
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!("another installer, or a backup, is at work on {}", root.display()),
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// An installer that was killed may have left a switch that was decided and not finished.
pub(super) fn finish_earlier(root: &Path) -> Result<()> {
    if let Some(switch) = switch::complete(root)? {
        eprintln!("Finished the change from {} to {} that was interrupted.", switch.from.version, switch.to.version);
    }
    Ok(())
}

fn refuse_older(record: &Record, manifest: &Manifest) -> Result<()> {
    let numbers =
        |version: &str| version.split(['.', '-', '+']).map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>();
    if numbers(&manifest.version) < numbers(&record.version) {
        bail!(
            "cannot update from {} to the older {}: `installer --rollback -d DIR` goes back to what the last update replaced",
            record.version,
            manifest.version
        );
    }
    if manifest.stack != record.stack {
        let name = |stack: &Option<String>| stack.clone().unwrap_or_else(|| "the real one".to_owned());
        bail!("cannot update from the stack {} to {}", name(&record.stack), name(&manifest.stack));
    }
    Ok(())
}

/// Says what was, or would be, done.
fn say(arguments: &Installer, switch: &Switch, headline: &str) -> Result<()> {
    if arguments.json {
        let text = json!({
            "v": 1,
            "dry-run": arguments.dry_run,
            "from": switch.from,
            "to": switch.to,
            "changed": switch.changes.iter().map(|change| &change.path).collect::<Vec<_>>(),
            "kept": switch.kept,
            "restarted": if arguments.no_restart { Vec::new() } else { switch.restarted() },
        });
        println!("{}", serde_json::to_string_pretty(&text)?);
        return Ok(());
    }
    println!("{headline}");
    for change in switch.changes.iter().filter(|change| change.path != RECORD) {
        let what = match (&change.old, &change.new) {
            (None, _) => "new",
            (_, None) => "removed",
            _ => "changed",
        };
        println!("  {what:8} {}", change.path);
    }
    for path in &switch.kept {
        println!("  kept     {path}, which you changed");
    }
    if arguments.no_restart && !switch.running.is_empty() {
        println!("Running services go on as they are; `dkm restart` brings the new ones.");
    }
    Ok(())
}

/// What of every file becomes of it.
fn three_way(
    root: &Path,
    record: &Record,
    plan: &Plan,
    files: &BTreeMap<String, Rendered>,
) -> Result<(Switch, BTreeMap<String, Vec<u8>>)> {
    let (mut changes, mut kept, mut contents) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (path, file) in files {
        let new = Content { sha256: hex(&Sha256::digest(&file.content)), mode: file.mode };
        let found = switch::look(&root.join(path))?.map(|(_, content)| content);
        let shipped = record.files.get(path);
        let is = found.as_ref().map(|content| &content.sha256);
        if is == Some(&new.sha256) || (shipped == Some(&new.sha256) && is != shipped) {
            // As it will be, or changed by the user alone (removing it is a change as well).
            continue;
        }
        let (path, old) = if is == shipped {
            (path.clone(), found)
        } else {
            kept.push(path.clone());
            let beside = format!("{path}.new");
            let old = switch::look(&root.join(&beside))?.map(|(_, content)| content);
            (beside, old)
        };
        contents.insert(path.clone(), file.content.clone());
        changes.push(Change { path, old, new: Some(new) });
    }
    for (path, shipped) in record.files.iter().filter(|(path, _)| !files.contains_key(*path)) {
        match switch::look(&root.join(path))? {
            Some((_, found)) if found.sha256 == *shipped => {
                changes.push(Change { path: path.clone(), old: Some(found), new: None });
            }
            Some(_) => kept.push(path.clone()),
            None => {}
        }
    }
    let new = Record::of(plan, files);
    if new != *record {
        let bytes = new.text()?;
        let old = switch::look(&root.join(RECORD))?.map(|(_, content)| content);
        let content = Content { sha256: hex(&Sha256::digest(&bytes)), mode: 0o600 };
        contents.insert(RECORD.to_owned(), bytes);
        changes.push(Change { path: RECORD.to_owned(), old, new: Some(content) });
    }
    let side = |version: &str, bundle: &PathBuf| switch::Side { version: version.to_owned(), bundle: bundle.clone() };
    let switch = Switch {
        from: side(&record.version, &record.bundle),
        to: side(&plan.context.version, &plan.bundle),
        changes,
        kept,
        restores_database: false,
        running: Vec::new(),
        concerned: None,
    };
    Ok((switch, contents))
}

/// Folders and secrets that the new version wants and the old one did not; what is there stays.
fn make_what_lacks(root: &Path, plan: &Plan, dry_run: bool) -> Result<()> {
    if dry_run {
        return Ok(());
    }
    let wanted = plan.services.iter().flat_map(|service| &service.folders).map(String::as_str);
    for folder in build::FOLDERS.into_iter().chain(wanted) {
        make_folder(&root.join(folder))?;
    }
    build::links(root)?;
    for (path, secret) in render::secrets(plan) {
        let path = root.join(path);
        if !path.exists() {
            write(&path, secret.as_bytes(), 0o600)?;
        }
    }
    Ok(())
}
