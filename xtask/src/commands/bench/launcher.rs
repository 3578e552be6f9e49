//! `bench launcher`: the launcher against supervisord and s6, side by side on this machine.
//!
//! Compiles the launcher as it ships (release, static), gets supervisord from PyPI into a folder below `target/`, and takes s6 from the
//! system. What cannot be had is said and left out. All services are loops of sleep; everything listens on nothing, lives in a
//! temporary folder, and is ended by its number. Nothing here passes or fails: the goals are printed beside the figures.

use super::super::workspace;
use super::measure::{field, kill, median_of as median, millis, wait_for};
use crate::cli;
use crate::target::Target;
use anyhow::Context as _;
use peers::{Ours, Peer, S6, Supervisord};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod peers;

/// How many bytes of log are carried for the throughput.
const LOG_BYTES: usize = 200_000_000;

/// Measures everything.
///
/// # Errors
/// When the launcher cannot be compiled, or a measured command fails.
pub fn run(args: &cli::Bench) -> anyhow::Result<()> {
    let workspace = workspace();
    let program = program(args, &workspace)?;
    let cache = workspace.join("target/bench-launcher");
    std::fs::create_dir_all(&cache)?;
    let supervisord = supervisord(&cache).map_err(|error| eprintln!("without supervisord: {error:#}")).ok();
    let s6 = which::which("s6-svscan").is_ok();
    if !s6 {
        eprintln!("without s6: it is not installed (apt-get install s6)");
    }
    let folder = tempfile::Builder::new().prefix("dkm-bench-").tempdir()?;
    let new = |number: usize, what: &str| -> anyhow::Result<Vec<Box<dyn Peer>>> {
        let place = |name: &str| folder.path().join(format!("{what}-{name}"));
        let mut peers: Vec<Box<dyn Peer>> = vec![Box::new(Ours::new(&program, &place("ours"), number)?)];
        if let Some(bin) = &supervisord {
            peers.push(Box::new(Supervisord::new(bin, &place("supervisord"), number)?));
        }
        if s6 {
            peers.push(Box::new(S6::new(&place("s6"), number)?));
        }
        Ok(peers)
    };
    println!("medians of {} runs; every figure: ours, the others', ours divided by each of theirs; the goal", args.runs);
    size(&program)?;
    few(&mut new(4, "few")?, args)?;
    for number in [10, 100, 1_000] {
        let mut peers = new(number, &format!("many{number}"))?;
        // supervisord gets slow and large with thousands; s6 is the one to be compared with.
        peers.retain(|peer| peer.name() != "supervisord");
        many(&mut peers, number, folder.path())?;
    }
    if s6 {
        throughput(&program, folder.path(), args.runs)?;
    }
    Ok(())
}

/// The launcher as it ships.
fn program(args: &cli::Bench, workspace: &Path) -> anyhow::Result<PathBuf> {
    if let Some(program) = &args.program {
        return program.canonicalize().with_context(|| format!("cannot find {}", program.display()));
    }
    let target = Target::of_this_machine().to_string();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["build", "--release", "--locked", "--quiet", "--package", "dkumonitor-runtime"]);
    let done = command.args(["--bin", "dkm", "--target", &target]).status().context("cannot start cargo")?;
    anyhow::ensure!(done.success(), "cannot compile the launcher for {target}; or give one by --program FILE");
    let target_dir = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target_dir.join(target).join("release/dkm"))
}

/// The folder of supervisord's programs.
fn supervisord(cache: &Path) -> anyhow::Result<PathBuf> {
    let bin = cache.join("venv/bin");
    if !bin.join("supervisord").exists() {
        let run = |program: &Path, words: &[&str]| -> anyhow::Result<()> {
            let output = Command::new(program).args(words).current_dir(cache).output()?;
            anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(())
        };
        run(Path::new("python3"), &["-m", "venv", "venv"]).context("cannot make a Python environment")?;
        run(&bin.join("pip"), &["install", "--quiet", "supervisor", "setuptools<81"])
            .context("cannot get supervisor from PyPI")?;
    }
    Ok(bin)
}

fn size(program: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    // The path of a dynamic loader is in every program that wants one.
    let is_static = !bytes.windows(7).any(|part| part == b"/ld-mus" || part == b"/ld-lin");
    let linked = if is_static { "static" } else { "not static" };
    println!("{:<46} {:>10}   goal ≤ 3 MB, static ({linked})", "program", format!("{:.2} MB", bytes.len() as f64 / 1e6));
    Ok(())
}

/// Everything that is measured with four services.
fn few(peers: &mut [Box<dyn Peer>], args: &cli::Bench) -> anyhow::Result<()> {
    let mut first = vec![Vec::new(); peers.len()];
    let mut respawn = vec![Vec::new(); peers.len()];
    for run in 0..args.runs {
        for (at, peer) in peers.iter_mut().enumerate() {
            if run > 0 {
                peer.stop()?;
            }
            first[at].push(start(peer.as_mut(), true)?);
            settle(peer.as_ref());
            respawn[at].push(respawned(peer.as_ref())?);
        }
    }
    // They have just restarted a service; after a while they are as they are for years.
    let sizes = |peers: &[Box<dyn Peer>]| -> Vec<_> { peers.iter().map(|peer| memory(peer.as_ref())).collect() };
    memory_rows("memory, 4 services, at work", peers, &sizes(peers), "");
    peers.iter().for_each(|peer| settle(peer.as_ref()));
    memory_rows("memory, 4 services", peers, &sizes(peers), "≤ 3 MB");
    let status: Vec<f64> = peers.iter().map(|peer| status(peer.as_ref(), 20)).collect::<anyhow::Result<_>>()?;
    row("status", peers, &status, "ms", "≤ 3 ms");
    row("respawn after kill -9", peers, &medians(respawn), "ms", "≤ 20 ms");
    row("start to first child", peers, &medians(first), "ms", "≤ 10 ms");
    idle(peers, args.idle);
    peers.iter_mut().try_for_each(|peer| peer.stop())
}

/// Starts a supervisor; milliseconds until its first service, or all of them, are up.
fn start(peer: &mut dyn Peer, first: bool) -> anyhow::Result<f64> {
    peer.forget_marks();
    let number = peer.number();
    let begin = Instant::now();
    peer.start()?;
    let up = || if first { peer.marks() > 0 } else { peer.marks() >= number };
    wait_for("the services to start", up)?;
    let took = millis(begin.elapsed());
    wait_for("all services to start", || peer.marks() >= number)?;
    Ok(took)
}

/// Waits until a supervisor takes its services for well: only then is a death answered as usual.
fn settle(peer: &dyn Peer) {
    std::thread::sleep(peer.settling());
}

/// Kills the first service; milliseconds until the next one is there.
fn respawned(peer: &dyn Peer) -> anyhow::Result<f64> {
    let pid = peer.service_pid()?;
    let mark = peer.mark(0);
    std::fs::remove_file(&mark)?;
    let begin = Instant::now();
    kill(pid, libc::SIGKILL);
    wait_for("the service to come back", || mark.exists())?;
    Ok(millis(begin.elapsed()))
}

/// Milliseconds of the command that shows the state.
fn status(peer: &dyn Peer, runs: u32) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let begin = Instant::now();
        peer.status().stdout(Stdio::null()).stderr(Stdio::null()).status().context("cannot ask for the status")?;
        times.push(millis(begin.elapsed()));
    }
    Ok(median(times))
}

/// Megabytes of all supervising processes: resident ones, of which a page that two of them share counts for each, and the
/// proportional ones, of which it counts once.
fn memory(peer: &dyn Peer) -> [f64; 2] {
    let sum = |file: &str, name: &str| -> u64 { peer.pids().iter().filter_map(|&pid| field(pid, file, name)).sum() };
    [sum("status", "VmRSS:"), sum("smaps_rollup", "Pss:")].map(|kilobytes| kilobytes as f64 / 1024.0)
}

fn memory_rows(what: &str, peers: &[Box<dyn Peer>], sizes: &[[f64; 2]], goal: &str) {
    for (at, (name, goal)) in [("resident", goal), ("proportional", "")].into_iter().enumerate() {
        row(&format!("{what}, {name}"), peers, &sizes.iter().map(|size| size[at]).collect::<Vec<_>>(), "MB", goal);
    }
}

/// How often anything of the supervisors ran in a time in which nothing happened.
fn idle(peers: &[Box<dyn Peer>], seconds: u64) {
    let switches = |peer: &dyn Peer| -> u64 {
        peer.pids().iter().filter_map(|&pid| field(pid, "status", "voluntary_ctxt_switches:")).sum()
    };
    std::thread::sleep(Duration::from_secs(3));
    let before: Vec<u64> = peers.iter().map(|peer| switches(peer.as_ref())).collect();
    std::thread::sleep(Duration::from_secs(seconds));
    let woken: Vec<f64> =
        peers.iter().zip(before).map(|(peer, before)| switches(peer.as_ref()).abs_diff(before) as f64).collect();
    row(&format!("wake-ups in {seconds} s without work"), peers, &woken, "", "0");
}

/// What grows with the number of services.
fn many(peers: &mut [Box<dyn Peer>], number: usize, folder: &Path) -> anyhow::Result<()> {
    let fork = fork_cost(number, folder)?;
    let (mut times, mut sizes, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for peer in peers.iter_mut() {
        times.push(start(peer.as_mut(), false)? - fork);
        settle(peer.as_ref());
        sizes.push(memory(peer.as_ref()));
        answers.push(status(peer.as_ref(), 10)?);
        peer.stop()?;
    }
    let goal = |text: &'static str| if number == 1_000 { text } else { "" };
    memory_rows(&format!("{number} services: memory"), peers, &sizes, goal("≤ 12 MB"));
    row(&format!("{number} services: status"), peers, &answers, "ms", goal("≤ 15 ms"));
    let title = format!("{number} services: started, forks off");
    row(&title, peers, &times, "ms", goal("≤ 2000 ms"));
    println!("{:<46} {:>10}", format!("{number} services: the forks alone"), format!("{fork:.1} ms"));
    Ok(())
}

/// Milliseconds that it takes to start so many of the same services by a plain loop.
fn fork_cost(number: usize, folder: &Path) -> anyhow::Result<f64> {
    let marks = folder.join(format!("fork-{number}"));
    std::fs::create_dir_all(&marks)?;
    let mut children = Vec::new();
    let begin = Instant::now();
    for at in 0..number {
        children.push(Command::new("/bin/sh").args(["-c", &peers::script(&marks, at)]).stdin(Stdio::null()).spawn()?);
    }
    wait_for("the plain loop", || peers::count(&marks) >= number)?;
    let took = millis(begin.elapsed());
    for mut child in children {
        child.kill()?;
        child.wait()?;
    }
    Ok(took)
}

/// The same lines through the launcher and through s6-log, plain and stamped. On memory, so that no disk is measured.
fn throughput(program: &Path, folder: &Path, runs: u8) -> anyhow::Result<()> {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        tempfile::Builder::new().prefix("dkm-bench-").tempdir_in(memory)?
    } else {
        tempfile::tempdir_in(folder)?
    };
    let lines = place.path().join("lines");
    let line = b"level=info ts=1700000000 caller=http.go:123 msg=\"request done\" path=/api/v1/query status=200\n";
    std::fs::write(&lines, line.repeat(LOG_BYTES / line.len()))?;
    let bytes = std::fs::metadata(&lines)?.len() as f64 / 1e6;
    for (what, stamped, flag, goal) in [("plain", false, None, "≥ 1.0"), ("time stamps", true, Some("t"), "≥ 0.8")] {
        let (mut ours, mut theirs, mut unstamped) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..runs {
            ours.push(Ours::carry(program, &place.path().join(format!("ours-{what}-{run}")), &lines, stamped)?);
            theirs.push(S6::carry(&place.path().join("s6"), &lines, flag)?);
            unstamped.push(S6::carry(&place.path().join("s6"), &lines, None)?);
        }
        let rate = |times: Vec<f64>| bytes / median(times) * 1e3;
        let (ours, theirs, unstamped) = (rate(ours), rate(theirs), rate(unstamped));
        println!(
            "{:<46} {:>10} {:>10}   ratio {:.2}, against s6-log without stamps {:.2}; goal {goal}",
            format!("log throughput against s6-log, {what}"),
            format!("{ours:.0} MB/s"),
            format!("{theirs:.0} MB/s"),
            ours / theirs,
            ours / unstamped,
        );
    }
    Ok(())
}

fn row(what: &str, peers: &[Box<dyn Peer>], figures: &[f64], unit: &str, goal: &str) {
    let ours = figures.first().copied().unwrap_or_default();
    let others: Vec<String> = peers
        .iter()
        .zip(figures)
        .skip(1)
        .map(|(peer, &theirs)| {
            format!("{} {theirs:.1} (ratio {:.3})", peer.name(), if theirs == 0.0 { 0.0 } else { ours / theirs })
        })
        .collect();
    let goal = if goal.is_empty() { String::new() } else { format!("; goal {goal}") };
    println!("{what:<46} {:>10}   {}{goal}", format!("{ours:.1} {unit}"), others.join(", "));
}

fn medians(all: Vec<Vec<f64>>) -> Vec<f64> {
    all.into_iter().map(median).collect()
}
