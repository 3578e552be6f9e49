//! `bench monitor`: what a bundle makes of this machine.
//!
//! Takes an unpacked bundle (`--tree`, or what is staged), installs it into temporary folders, on ports that nobody has, and measures:
//! how long the installer and `dkm start` take, beside what the daemons take alone; what each daemon costs when nothing is asked of it;
//! and whether every point is kept that is sent at a given rate. For the last there is a peer, run in turn: the same go-carbon, started
//! by hand with its own example configuration. What was sent is compared with what carbonserver gives back, value by value, and again
//! after a restart. Nothing here passes or fails: the goals are printed beside the figures.

use super::measure::{field, median_of, millis, wait_for};
use crate::cli;
use crate::commands::Workshop;
use crate::free_ports;
use crate::progress::bytes;
use crate::stage::{self, Extent};
use anyhow::Context as _;
use points::{Account, Load};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod daemons;
mod points;

/// Measures everything.
///
/// # Errors
/// When there is no bundle, or something of it does not run.
pub fn run(args: &cli::Bench) -> anyhow::Result<()> {
    let bundle = bundle(args)?;
    let folder = tempfile::Builder::new().prefix("dkm-monitor-").tempdir()?;
    println!("{}, {} cores", bundle.display(), crate::parallel::cores());
    if !args.only_points {
        times(&bundle, folder.path(), args)?;
        idle(&bundle, folder.path(), args.idle)?;
    }
    let load = Load { series: args.series, rate: args.rate, seconds: args.seconds };
    println!("{load}");
    let ours = Installed::new(&bundle, &folder.path().join("points"), "backend", &["--retention", &load.schema()])?;
    ours.dkm(&["start"])?;
    let account = points::run(&load, ours.port + 1, ours.port + 3, || ours.pid("go-carbon"), || ours.dkm(&["restart"]))?;
    tell("ours", &account, &ours.data.join("storage/whisper"));
    drop(ours);
    let mut plain = daemons::Plain::start(&bundle, &folder.path().join("plain"), &load.schema())?;
    let (carbon, server, pid) = (plain.carbon, plain.server, plain.pid());
    let peer = "go-carbon by hand, its own example configuration";
    match points::run(&load, carbon, server, || Ok(pid), || Ok(())) {
        Ok(account) => tell(peer, &account, &plain.storage),
        // What the peer cannot do is its own affair.
        Err(error) => println!("{peer}: cannot be counted: {error:#}"),
    }
    plain.stop()
}

/// The folder of the bundle.
fn bundle(args: &cli::Bench) -> anyhow::Result<PathBuf> {
    let tree = match &args.tree {
        Some(tree) => tree.clone(),
        None => {
            let workshop = Workshop::open(&args.common, args.dist_dir.as_deref())?;
            let components = workshop.stack.select(&args.common.only)?.len();
            workshop.dirs.tree(&stage::bundle_name(&workshop.stack, Extent::of(components, &workshop.stack)))
        }
    };
    let tree = tree
        .canonicalize()
        .with_context(|| format!("cannot find the bundle {}: make it, or name one by --tree", tree.display()))?;
    anyhow::ensure!(tree.join("installer").exists(), "{} is no unpacked bundle: it has no installer", tree.display());
    Ok(tree)
}

/// A data folder; its services end with it.
struct Installed {
    data: PathBuf,
    port: u16,
    took: Duration,
}

impl Installed {
    fn new(bundle: &Path, data: &Path, kind: &str, more: &[&str]) -> anyhow::Result<Self> {
        let port = free_ports::ten()?;
        let mut command = Command::new(bundle.join("installer"));
        command.arg("-d").arg(data).args(["-p", &port.to_string(), "-t", kind, "--hostname", "bench.test"]);
        command
            .args(["--grafana-listen", "127.0.0.1", "--carbon-listen", "127.0.0.1", "--carbonapi-listen", "127.0.0.1"])
            .args(more);
        let begin = Instant::now();
        let output = command.output().context("cannot run the installer")?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self { data: data.to_owned(), port, took: begin.elapsed() })
    }

    fn dkm(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(self.data.join("bin/dkm"));
        let output = command.args(words).env("DKM_ALLOW_ROOT", "1").output().context("cannot run dkm")?;
        anyhow::ensure!(output.status.success(), "dkm {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    fn pid(&self, service: &str) -> anyhow::Result<i32> {
        let output = Command::new(self.data.join("bin/dkm")).args(["pid", service]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        text.parse().ok().filter(|pid| *pid > 0).with_context(|| format!("{service} does not run"))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = Command::new(self.data.join("bin/dkm"))
            .arg("shutdown")
            .env("DKM_ALLOW_ROOT", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Installer, first and later starts, and what of these is the daemons' own.
fn times(bundle: &Path, folder: &Path, args: &cli::Bench) -> anyhow::Result<()> {
    let monitor = Installed::new(bundle, &folder.join("times"), "all", &[])?;
    println!("{:<44} {:>9.3} s   goal ≤ 1 s", "installer", monitor.took.as_secs_f64());
    let begin = Instant::now();
    monitor.dkm(&["start"])?;
    println!("{:<44} {:>9.3} s", "dkm start, the first, which makes the database", begin.elapsed().as_secs_f64());
    let (mut all, mut own) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        monitor.dkm(&["shutdown"])?;
        own.push(millis(daemons::by_hand(&monitor.data)?));
        let begin = Instant::now();
        monitor.dkm(&["start"])?;
        all.push(millis(begin.elapsed()));
    }
    let (all, own) = (median_of(all) / 1e3, median_of(own) / 1e3);
    println!("{:<44} {all:>9.3} s", format!("dkm start, median of {}", args.runs));
    println!("{:<44} {own:>9.3} s", "the same daemons one after the other by hand");
    println!("{:<44} {:>9.3} s   goal ≤ 2 s", "the launcher's part", all - own);
    Ok(())
}

/// Processor time and memory while nothing is asked.
fn idle(bundle: &Path, folder: &Path, seconds: u64) -> anyhow::Result<()> {
    let monitor = Installed::new(bundle, &folder.join("idle"), "all", &[])?;
    monitor.dkm(&["start"])?;
    // What a start still has to do should not be counted.
    std::thread::sleep(Duration::from_secs(15));
    let names = ["go-carbon", "carbonapi", "grafana", "collectd"];
    let mut pids = names.iter().map(|name| Ok((*name, monitor.pid(name)?))).collect::<anyhow::Result<Vec<_>>>()?;
    let supervisor = Command::new(monitor.data.join("bin/dkm")).arg("pid").output()?;
    pids.extend(String::from_utf8_lossy(&supervisor.stdout).trim().parse().ok().map(|pid| ("supervisor", pid)));
    let before: Vec<f64> = pids.iter().map(|(_, pid)| processor(*pid)).collect();
    std::thread::sleep(Duration::from_secs(seconds));
    for ((name, pid), before) in pids.iter().zip(before) {
        let share = (processor(*pid) - before) / seconds as f64 * 100.0;
        let goal = if *name == "collectd" { "   goal ≤ 0.5 %" } else { "" };
        let memory = bytes(field(*pid, "status", "VmRSS:").unwrap_or(0) * 1024);
        println!("{:<44} {share:>9.2} % of a core, {memory}{goal}", format!("{name}, idle for {seconds} s"));
    }
    Ok(())
}

/// The processor time of a process, in seconds.
fn processor(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // Behind the name: state is the first, utime the twelfth, stime the thirteenth.
    (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
}

fn tell(whose: &str, account: &Account, storage: &Path) {
    println!("{whose}:");
    println!("  sent {} points in {:.1} s, {:.0} a second", account.sent, account.took.as_secs_f64(), account.rate());
    println!("  {}", account.verdict("at once", &account.kept));
    if let Some(kept) = &account.kept_after_restart {
        println!("  {}", account.verdict("after a restart", kept));
    }
    let cores = account.processor / account.took.as_secs_f64() * 100.0;
    println!("  go-carbon: {cores:.0} % of a core, at most {}", bytes(account.memory));
    println!("  on disk: {}", bytes(size_of(storage)));
}

/// What the files of a folder take of the disk: holes of sparse files are none.
fn size_of(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let files = walkdir::WalkDir::new(folder).into_iter().flatten();
    files.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512)).sum()
}

/// Waits until somebody listens.
fn wait_for_port(port: u16) -> anyhow::Result<()> {
    wait_for("a port to be listened on", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
}
