//! Runs two ways of doing the same in turn, and prints what is to be compared.

use anyhow::Context as _;
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wait4::Wait4 as _;

/// No condition may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs both in turn and gives the medians.
pub(super) fn in_turn(
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

pub(super) fn time(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// One line: what, how long it took, how long the other way took, the ratio.
pub(super) fn compare(what: &str, against: &str, ours: Duration, theirs: Duration) {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    let (ours, theirs) = (format!("{:.3} s", ours.as_secs_f64()), format!("{:.3} s", theirs.as_secs_f64()));
    row(what, against, &ours, &theirs, ratio);
}

/// One line about sizes.
pub(super) fn compare_sizes(what: &str, against: &str, ours: u64, theirs: u64) {
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    row(what, against, &megabytes(ours), &megabytes(theirs), ours as f64 / theirs as f64);
}

fn row(what: &str, against: &str, ours: &str, theirs: &str, ratio: f64) {
    println!("{what:<32} {against:<22} {ours:>10} {theirs:>10}  ratio {ratio:.3}");
}

/// The most memory that a command held, in bytes, that of commands which it waited for included.
///
/// It is started by a small process ([`tell_peak`]): the kernel begins to count with what the one held that starts a command, and a
/// benchmark may have held a hundred megabytes by then.
pub(super) fn peak(command: &Command) -> anyhow::Result<u64> {
    let mut between = Command::new(std::env::current_exe().context("cannot find this program")?);
    between.args(["bench", "--"]).arg(command.get_program()).args(command.get_args());
    let output = between.stderr(Stdio::inherit()).output().context("cannot start the measured command")?;
    anyhow::ensure!(output.status.success(), "the measured command failed");
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the measured command's memory was not told")
}

/// Runs a command without its output, and prints the most memory that it held, in bytes.
pub(super) fn tell_peak(words: &[OsString]) -> anyhow::Result<()> {
    let (program, words) = words.split_first().context("there is no command to measure")?;
    let mut command = Command::new(program);
    command.args(words).stdout(Stdio::null());
    let used = command.spawn().with_context(|| format!("cannot start {}", program.display()))?.wait4()?;
    anyhow::ensure!(used.status.success(), "{} failed: {}", program.display(), used.status);
    println!("{}", used.rusage.maxrss);
    Ok(())
}

/// Runs a line of the shell in which `$1`, `$2` … are these paths.
pub(super) fn shell(line: &str, paths: &[&std::path::Path]) -> anyhow::Result<()> {
    let status = Command::new("bash").args(["-o", "pipefail", "-c", line, "bash"]).args(paths).stdout(Stdio::null()).status();
    anyhow::ensure!(status.context("cannot start bash")?.success(), "`{line}` failed");
    Ok(())
}

/// The median of figures.
pub(super) fn median_of(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// As a number for people.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number of a file in /proc/PID.
pub(super) fn field(pid: i32, file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
}

/// Waits until something holds.
pub(super) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !holds() {
        anyhow::ensure!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Sends a signal to one process of a supervisor that was started here.
pub(super) fn kill(pid: i32, signal: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| pid > 1) {
        let signal = if signal == libc::SIGKILL { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
        let _ = rustix::process::kill_process(pid, signal);
    }
}
