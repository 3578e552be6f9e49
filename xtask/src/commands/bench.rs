//! `bench`: what the builder costs, against common tools run side by side.
//!
//! Absolute times belong to a machine; what is printed to be compared is the ratio, from the medians of several runs in
//! turn. Nothing here passes or fails.

use super::Workshop;
use crate::error::Kind;
use crate::fetch::Mirror;
use crate::progress::bytes;
use crate::{archive, cli, host, stage};
use anyhow::Context as _;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Measures the archive, and a `package` with nothing changed.
///
/// # Errors
/// When there is no tree to measure, or a command cannot be run.
pub fn run(args: &cli::Bench) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, args.dist_dir.as_deref())?;
    let partial = workshop.stack.select(&args.common.only)?.len() < workshop.stack.recipes.len();
    let bundle = stage::bundle_name(&workshop.stack, partial);
    let tree = args.tree.clone().unwrap_or_else(|| workshop.dirs.tree(&bundle));
    if !tree.is_dir() {
        return Err(Kind::Usage
            .error(format!("there is no {}: make it with `cargo xtask package` first, or give --tree DIR", tree.display())));
    }
    std::fs::create_dir_all(&workshop.dirs.build)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&workshop.dirs.build)?;
    println!("{} cores, {} runs each, medians", host::cores(), args.runs);
    archive_against_gzip(&tree, folder.path(), args.runs)?;
    if args.tree.is_none() {
        rebuild_against_build(args, &workshop, folder.path(), &bundle)?;
    }
    Ok(())
}

fn archive_against_gzip(tree: &Path, folder: &Path, runs: u8) -> anyhow::Result<()> {
    let ours = folder.join("ours.tar.gz");
    let theirs = folder.join("theirs.tar.gz");
    let options = archive::Options { mtime: 0, jobs: host::cores(), cache: None, level: archive::LEVEL };
    let write = || archive::write(tree, "bench", &ours, &options).map(drop);
    let (a, b) = in_turn(runs, write, || tar_gzip(tree, &theirs))?;
    compare("archive", "tar | gzip -6", a, b);
    let (size, other) = (ours.metadata()?.len(), theirs.metadata()?.len());
    println!(
        "{:<34} {:>10} {:>10}  ratio {:.3}",
        "archive size against gzip -6",
        bytes(size),
        bytes(other),
        size as f64 / other as f64
    );
    let cache = folder.join("cache");
    let cached = archive::Options { cache: Some(&cache), ..options };
    archive::write(tree, "bench", &ours, &cached)?;
    let again = || archive::write(tree, "bench", &ours, &cached).map(drop);
    let (a, b) = in_turn(runs, again, || tar_gzip(tree, &theirs))?;
    compare("archive again, from its cache", "tar | gzip -6", a, b);
    Ok(())
}

fn tar_gzip(tree: &Path, target: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(tree)
        .args(["-cf", "-", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start tar")?;
    let stream = tar.stdout.take().context("tar has no output")?;
    let gzip =
        Command::new("gzip").arg("-6").stdin(stream).stdout(File::create(target)?).status().context("cannot start gzip")?;
    anyhow::ensure!(tar.wait()?.success() && gzip.success(), "tar | gzip failed");
    Ok(())
}

/// A second `package` against the first in a fresh build folder, and against looking at the same files by `find -ls`.
fn rebuild_against_build(args: &cli::Bench, workshop: &Workshop, folder: &Path, bundle: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let (build, dist) = (folder.join("build"), folder.join("dist"));
    let package = || -> anyhow::Result<()> {
        let mut command = Command::new(&program);
        command.args(["package", "--quiet", "--stack"]).arg(&workshop.stack.root);
        command.arg("--build-dir").arg(&build).arg("--dist-dir").arg(&dist).arg("--mirror").arg(workshop.dirs.sources());
        for mirror in &args.network.mirrors {
            command.arg("--mirror").arg(match mirror {
                Mirror::Folder(path) => path.as_os_str(),
                Mirror::Url(url) => url.as_ref(),
            });
        }
        if args.network.offline {
            command.arg("--offline");
        }
        if !args.common.only.is_empty() {
            command.arg("--only").args(&args.common.only);
        }
        anyhow::ensure!(command.status()?.success(), "the measured `package` failed");
        Ok(())
    };
    let first = time(package)?;
    let tree = dist.join(bundle);
    let find = || -> anyhow::Result<()> {
        anyhow::ensure!(Command::new("find").arg(&tree).arg("-ls").stdout(Stdio::null()).status()?.success(), "find failed");
        Ok(())
    };
    let (second, found) = in_turn(args.runs, package, find)?;
    compare("package, nothing changed", "the first package", second, first);
    compare("package, nothing changed", "find -ls", second, found);
    Ok(())
}

/// Runs both in turn and gives the medians.
fn in_turn(
    runs: u8,
    mut one: impl FnMut() -> anyhow::Result<()>,
    mut other: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<(Duration, Duration)> {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ones.push(time(&mut one)?);
        others.push(time(&mut other)?);
    }
    Ok((median(ones), median(others)))
}

fn time(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn compare(what: &str, against: &str, ours: Duration, theirs: Duration) {
    let title = format!("{what} against {against}");
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("{title:<34} {:>8.3} s {:>8.3} s  ratio {ratio:.3}", ours.as_secs_f64(), theirs.as_secs_f64());
}
