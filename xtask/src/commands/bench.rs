//! `bench`: what the builder costs, against common tools run side by side.
//!
//! Absolute times belong to a machine; what is printed to be compared is the ratio, from the medians of several runs in
//! turn. Nothing here passes or fails.

use super::Workshop;
use crate::archive::{self, Format};
use crate::fetch::{self, Mirror};
use crate::parallel;
use crate::progress::{Ui, Verbosity, bytes};
use crate::stack::lock::Source;
use crate::stage::{self, Extent};
use crate::{cli, fingerprint, unpack};
use anyhow::Context as _;
use measure::{compare, compare_sizes, in_turn, peak, shell, time};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod launcher;
mod measure;
mod monitor;
mod synthetic;

/// A file so large or smaller stands for one component among several, in bytes: of a real bundle that is every program but
/// Grafana's.
const COMPONENT: u64 = 32 * 1024 * 1024;

/// Measures archive, unpack and fetch, and a `package` with nothing changed.
///
/// # Errors
/// When a command cannot be run.
pub fn run(args: &cli::Bench) -> anyhow::Result<()> {
    match args.subject {
        cli::Subject::Launcher => return launcher::run(args),
        cli::Subject::Monitor => return monitor::run(args),
        cli::Subject::Build => {}
    }
    if !args.peak_of.is_empty() {
        return measure::tell_peak(&args.peak_of);
    }
    if let Some(target) = &args.only_archive {
        // What is measured from outside, in a process that does nothing else.
        let tree = args.tree.as_deref().context("--only-archive goes with --tree")?;
        return archive::write(tree, "bench", target, &options(args.only_form, None)).map(drop);
    }
    let workshop = Workshop::open(&args.common, args.dist_dir.as_deref())?;
    let components = workshop.stack.select(&args.common.only)?.len();
    let bundle = stage::bundle_name(&workshop.stack, Extent::of(components, &workshop.stack));
    std::fs::create_dir_all(&workshop.dirs.build)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&workshop.dirs.build)?;
    let staged = workshop.dirs.tree(&bundle);
    let (tree, what) = match &args.tree {
        Some(tree) => (tree.clone(), "the tree that was given"),
        None if staged.is_dir() => (staged.clone(), "the staged tree"),
        None => {
            let tree = folder.path().join("synthetic");
            synthetic::make(&tree)?;
            (tree, "no staged tree is at hand; a synthetic one like a real bundle")
        }
    };
    let sizes: Vec<u64> = files(&tree).map(|(size, _)| size).collect();
    println!("{what}: {}, {} files, {}", tree.display(), sizes.len(), bytes(sizes.iter().sum()));
    println!("{} cores, medians of {} runs in turn: ours, the other's, the ratio", parallel::cores(), args.runs);
    let bench = Bench { tree: &tree, folder: folder.path(), runs: args.runs };
    bench.gz()?;
    bench.one_component_changed()?;
    bench.unpack()?;
    bench.fetch()?;
    bench.other_forms()?;
    bench.memory(Format::Gz)?;
    bench.memory(Format::Xz)?;
    if args.tree.is_none() && staged.is_dir() {
        rebuild_against_build(args, &workshop, folder.path(), &bundle)?;
    }
    Ok(())
}

fn options(format: Format, cache: Option<&Path>) -> archive::Options<'_> {
    archive::Options { format, mtime: 0, jobs: parallel::cores(), cache }
}

/// A tree, and a folder for what is made from it.
struct Bench<'a> {
    tree: &'a Path,
    folder: &'a Path,
    runs: u8,
}

impl Bench<'_> {
    fn ours(&self, format: Format) -> PathBuf {
        self.folder.join(format!("ours.{}", format.ending()))
    }

    fn write(&self, format: Format, tree: &Path, cache: Option<&Path>) -> anyhow::Result<()> {
        archive::write(tree, "bench", &self.ours(format), &options(format, cache)).map(drop)
    }

    /// The usual archive, at first and again.
    fn gz(&self) -> anyhow::Result<()> {
        let theirs = self.folder.join("theirs.tar.gz");
        let gzip = || shell("tar -C \"$1\" -cf - . | gzip -6 > \"$2\"", &[self.tree, &theirs]);
        let (a, b) = in_turn(self.runs, || self.write(Format::Gz, self.tree, None), gzip)?;
        compare("archive gz", "tar | gzip -6", a, b);
        compare_sizes("archive gz, size", "tar | gzip -6", self.ours(Format::Gz).metadata()?.len(), theirs.metadata()?.len());
        let cache = self.folder.join("cache");
        self.write(Format::Gz, self.tree, Some(&cache))?;
        let (a, _) = in_turn(self.runs, || self.write(Format::Gz, self.tree, Some(&cache)), || Ok(()))?;
        compare("archive gz, nothing changed", "tar | gzip -6", a, b);
        Ok(())
    }

    /// The archive of a tree in which one component's file is another, when the cache has all others.
    fn one_component_changed(&self) -> anyhow::Result<()> {
        let (copy, cache) = (self.folder.join("changed"), self.folder.join("changed-cache"));
        shell("cp -a \"$1\" \"$2\"", &[self.tree, &copy])?;
        let Some((size, file)) = component(&copy) else { return Ok(()) };
        let theirs = self.folder.join("theirs.tar.gz");
        self.write(Format::Gz, &copy, Some(&cache))?;
        let mut run = 0;
        let mut ours = Vec::new();
        let mut others = Vec::new();
        for _ in 0..self.runs {
            run += 1;
            synthetic::change(&file, run)?;
            ours.push(time(|| self.write(Format::Gz, &copy, Some(&cache)))?);
            others.push(time(|| shell("tar -C \"$1\" -cf - . | gzip -6 > \"$2\"", &[&copy, &theirs]))?);
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let what = format!("  … {name} changed ({})", bytes(size));
        compare(&what, "tar | gzip -6", measure::median(ours), measure::median(others));
        std::fs::remove_dir_all(&copy)?;
        Ok(())
    }

    fn unpack(&self) -> anyhow::Result<()> {
        let archive = self.ours(Format::Gz);
        let (ours, theirs) = (self.folder.join("unpacked"), self.folder.join("tarred"));
        let unpack = || unpack::unpack(&archive, &ours).map(drop);
        let tar = || shell("mkdir \"$2\" && tar -C \"$2\" -xzf \"$1\"", &[&archive, &theirs]);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            a.push(time(unpack)?);
            b.push(time(tar)?);
            shell("rm -rf \"$1\" \"$2\"", &[&ours, &theirs])?;
        }
        compare("unpack", "tar xzf", measure::median(a), measure::median(b));
        Ok(())
    }

    /// A fetch from a folder, which hashes on the way, against copying and hashing.
    fn fetch(&self) -> anyhow::Result<()> {
        let archive = self.ours(Format::Gz);
        let mirror = self.folder.join("mirror");
        std::fs::create_dir_all(&mirror)?;
        std::fs::hard_link(&archive, mirror.join("bench-1.tar.gz"))?;
        let source = Source {
            name: "bench".to_owned(),
            version: "1".to_owned(),
            urls: vec!["https://bench.invalid/bench-1.tar.gz".to_owned()],
            path: None,
            sha256: Some(fingerprint::hash_file(&archive)?),
            size: Some(archive.metadata()?.len()),
            tree_sha256: None,
            license: String::new(),
            license_files: Vec::new(),
            license_sha256: None,
            purl: None,
        };
        let store = self.folder.join("store");
        let options = fetch::Options {
            store: store.clone(),
            rejected: self.folder.join("rejected"),
            mirrors: vec![Mirror::Folder(mirror)],
            offline: true,
            jobs: 1,
            retry: fetch::Retry::default(),
        };
        let ui = Ui::new(Verbosity::Quiet);
        let ours = || fetch::fetch_all(&[&source], &options, &ui).map(drop);
        let copy = self.folder.join("copy");
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            a.push(time(ours)?);
            b.push(time(|| shell("cp \"$1\" \"$2\" && sha256sum \"$2\"", &[&archive, &copy]))?);
            shell("rm -rf \"$1\" \"$2\"", &[&store, &copy])?;
        }
        compare("fetch from a folder", "cp; sha256sum", measure::median(a), measure::median(b));
        Ok(())
    }

    /// The slow small form and the fast one, each once: they are far apart from their peers, and take long.
    fn other_forms(&self) -> anyhow::Result<()> {
        let gzip = self.folder.join("theirs.9.gz");
        shell("tar -C \"$1\" -cf - . | gzip -9 > \"$2\"", &[self.tree, &gzip])?;
        for (form, tool) in [("xz", "xz -6 -T1"), ("zst", "zstd -q -3")] {
            let Ok(format) = Format::parse(form) else {
                println!("archive {form}: passed over, this program was compiled without it");
                continue;
            };
            let theirs = self.folder.join(format!("theirs.tar.{form}"));
            let a = time(|| self.write(format, self.tree, None))?;
            let b = time(|| shell(&format!("tar -C \"$1\" -cf - . | {tool} -c > \"$2\""), &[self.tree, &theirs]))?;
            let peer = format!("tar | {}", tool.trim_end_matches(" -T1"));
            compare(&format!("archive {form}"), &peer, a, b);
            let size = self.ours(format).metadata()?.len();
            compare_sizes(&format!("archive {form}, size"), &peer, size, theirs.metadata()?.len());
            compare_sizes(&format!("archive {form}, size"), "tar | gzip -9", size, gzip.metadata()?.len());
        }
        Ok(())
    }

    /// The most memory that writing the archive takes.
    fn memory(&self, format: Format) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg("bench").arg("--tree").arg(self.tree).arg("--only-archive").arg(self.ours(format));
        println!("archive {format}, peak memory: {}", bytes(peak(command.args(["--only-form", &format.to_string()]))?));
        Ok(())
    }
}

/// The file that stands for a component: the largest one of a component's size.
fn component(tree: &Path) -> Option<(u64, PathBuf)> {
    files(tree).filter(|(size, _)| *size <= COMPONENT).max()
}

/// The files of a tree, each with its size in bytes.
fn files(tree: &Path) -> impl Iterator<Item = (u64, PathBuf)> {
    let files = walkdir::WalkDir::new(tree).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    files.filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.into_path())))
}

/// A second `package` against the first in a fresh build folder, and against looking at the same files by `find -ls`.
fn rebuild_against_build(args: &cli::Bench, workshop: &Workshop, folder: &Path, bundle: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let (build, dist) = (folder.join("build"), folder.join("dist"));
    let command = || {
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
        command
    };
    let package = || -> anyhow::Result<()> {
        anyhow::ensure!(command().status()?.success(), "the measured `package` failed");
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
    // Compiled already, so that this run stages and archives, and no compiler's memory is counted.
    std::fs::remove_dir_all(&dist)?;
    std::fs::remove_dir_all(build.join("cache").join("archive"))?;
    println!("package, stage and archive, peak memory: {}", bytes(peak(&command())?));
    Ok(())
}
