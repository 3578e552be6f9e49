//! Which services another version concerns, and their way from the old one to the new one.
//!
//! The supervisor is replaced where it stands (`dkm upgrade-self`): services that are the same in both versions keep their processes.
//! Those that are not are stopped by the old version, and started in their order by the new one.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::build::BUNDLE;
use super::plan::Plan;
use super::record::Record;
use super::switch::{self, Change, Switch};
use crate::home::Home;
use crate::manifest::{FileKind, Manifest};
use crate::service::Service;
use crate::supervise::child;

/// The names of the services that run, as the installed version sees them; those that an interrupted update had stopped count.
///
/// # Errors
/// When that cannot be told.
pub fn running(root: &Path, record: &Record) -> Result<Vec<String>> {
    let mut names: Vec<String> = Switch::read(root, switch::DRAFT)?.map(|draft| draft.running).unwrap_or_default();
    if !root.join(BUNDLE).is_symlink() {
        // Uninstalled, by which everything was stopped.
        return Ok(Vec::new());
    }
    let program = record.bundle.join("bin/dkm");
    if !program.exists() && nothing_runs(root) {
        // As in the container of a newer image: what nobody can ask any more has nothing to tell.
        return Ok(names);
    }
    let output = Command::new(&program).arg("--home").arg(root).args(["status", "--json"]).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot ask {} what runs; is its bundle still there?", program.display()))?;
    let services: Vec<crate::control::Status> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cannot tell what runs: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    names.extend(services.into_iter().filter(|service| service.wanted || service.pid.is_some()).map(|service| service.name));
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether neither a supervisor nor a service holds its lock.
fn nothing_runs(root: &Path) -> bool {
    let entries = root.join("run").read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    // This very update holds its own.
    let others =
        |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "lock") && !path.ends_with(super::update::LOCK);
    !entries.filter(others).any(|path| child::holder(&path).is_some())
}

/// Runs a verb of the given bundle's dkm on the data folder. Its lines go to standard error: ours alone are for programs.
///
/// # Errors
/// When it cannot be run at all.
pub fn dkm(bundle: &Path, root: &Path, words: &[&str]) -> Result<bool> {
    let program = bundle.join("bin/dkm");
    let mut command = Command::new(&program);
    // Whoever owns the folder is meant to run its services, be it root.
    command.env(crate::commands::root::VARIABLE, "1");
    command.arg("--home").arg(root).args(words).stdin(Stdio::null()).stdout(std::io::stderr());
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    Ok(status.success())
}

/// The services that are not the same before and after.
#[must_use]
pub fn concerned(record: &Record, plan: &Plan, manifest: &Manifest, changes: &[Change]) -> Vec<String> {
    let old = Manifest::read(&record.bundle).ok();
    let differs = |service: &Service| {
        let own = |change: &Change| {
            // Grafana reads these anew by itself.
            let is_read_anew = change.path.starts_with("conf/dashboards/");
            change.path == format!("conf/services.d/{}.toml", service.name)
                || (!is_read_anew && service.config.iter().any(|file| file.to == change.path))
        };
        changes.iter().any(own)
            || record.components.get(&service.name) != plan.components.get(&service.name)
            // Nothing is known of a program that is not in the list.
            || old.as_ref().map(|old| program(old, service, plan)).is_none_or(|old| old.is_empty() || old != program(manifest, service, plan))
    };
    plan.services.iter().filter(|service| differs(service)).map(|service| service.name.clone()).collect()
}

/// What a bundle has of a service, by hashes: its program, and the folders that bear its name.
fn program<'a>(manifest: &'a Manifest, service: &Service, plan: &Plan) -> Vec<(&'a str, &'a str)> {
    let name = &service.name;
    let program = Path::new(&service.command[0]).strip_prefix(&plan.context.bundle).unwrap_or(Path::new(""));
    let is_own = |path: &str| {
        let of_pages = name == "grafana" && path.starts_with("static/");
        let in_folder = |rest: &str| rest.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/'));
        Path::new(path) == program
            || of_pages
            || ["lib/", "share/"].iter().any(|folder| path.strip_prefix(folder).is_some_and(in_folder))
    };
    let files = manifest.files.iter().filter(|file| is_own(&file.path));
    let hashes = files.filter_map(|file| match &file.kind {
        FileKind::File { sha256, .. } => Some((file.path.as_str(), sha256.as_str())),
        FileKind::Link { .. } => None,
    });
    hashes.collect()
}

/// Stops the services concerned, by the program that started them.
///
/// # Errors
/// When one does not stop; nothing has changed then.
pub fn stop(bundle: &Path, root: &Path, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let words: Vec<&str> = std::iter::once("stop").chain(names.iter().map(String::as_str)).collect();
    if !dkm(bundle, root, &words)? {
        bail!("cannot update: not everything stopped, see above. Nothing was changed; `dkm start` starts what was stopped");
    }
    Ok(())
}

/// Lets the new version take over. `names`: what was stopped; `running`: all that ran before. Whether all of it is ready.
///
/// # Errors
/// When the new version cannot be run.
pub fn start(bundle: &Path, home: &Home, names: &[String], running: &[String]) -> Result<bool> {
    let root = home.root();
    let begin = |names: &[String]| {
        let words: Vec<&str> = std::iter::once("start").chain(names.iter().map(String::as_str)).collect();
        dkm(bundle, root, &words)
    };
    if child::holder(&home.supervisor_lock()).is_some() {
        let taken_over = dkm(bundle, root, &["upgrade-self"])? && dkm(bundle, root, &["update"])?;
        if !taken_over {
            // Another way to the same end, at the price of a stop of all.
            return Ok(dkm(bundle, root, &["shutdown"])? && begin(running)?);
        }
    }
    if names.is_empty() { Ok(true) } else { begin(names) }
}
