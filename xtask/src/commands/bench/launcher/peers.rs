//! The supervisors that are measured, each with a number of services that do nothing but say when they are up.

use super::{kill, millis, wait_for};
use anyhow::Context as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a service is: it leaves a mark, and sleeps.
pub(super) fn script(marks: &Path, number: usize) -> String {
    format!(": > {}/{number}; exec sleep 100000", marks.display())
}

/// How many marks there are.
pub(super) fn count(marks: &Path) -> usize {
    fs::read_dir(marks).map_or(0, Iterator::count)
}

/// A supervisor with services.
pub(super) trait Peer {
    fn name(&self) -> &'static str;
    /// How many services it has.
    fn number(&self) -> usize;
    /// The folder with a mark for each service that was started.
    fn folder(&self) -> PathBuf;
    /// Starts it with all services.
    fn start(&mut self) -> anyhow::Result<()>;
    /// The PID of its first service.
    fn service_pid(&self) -> anyhow::Result<i32>;
    /// The processes that supervise.
    fn pids(&self) -> Vec<i32>;
    /// The command that shows the state.
    fn status(&self) -> Command;
    /// How long it takes until it trusts a service.
    fn settling(&self) -> Duration;
    /// Ends it and all services.
    fn stop(&mut self) -> anyhow::Result<()>;

    fn marks(&self) -> usize {
        count(&self.folder())
    }
    fn mark(&self, number: usize) -> PathBuf {
        self.folder().join(number.to_string())
    }
    fn forget_marks(&self) {
        for number in 0..self.number() {
            let _ = fs::remove_file(self.mark(number));
        }
    }
}

/// Makes the folder of marks in a new folder.
fn prepare(root: &Path) -> anyhow::Result<PathBuf> {
    let marks = root.join("marks");
    fs::create_dir_all(&marks).with_context(|| format!("cannot make {}", marks.display()))?;
    Ok(marks)
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    anyhow::ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Processes of which the command line has this word and that one.
fn processes(one: &str, other: &Path) -> Vec<i32> {
    let other = other.to_string_lossy();
    let numbers =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let fits = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = line.split('\0').collect();
        words.iter().any(|word| Path::new(word).ends_with(one)) && words.contains(&&*other)
    };
    numbers.filter(fits).collect()
}

/// This launcher.
pub(super) struct Ours {
    root: PathBuf,
    number: usize,
}

impl Ours {
    pub(super) fn new(program: &Path, root: &Path, number: usize) -> anyhow::Result<Self> {
        let marks = prepare(root)?;
        let peer = Self { root: root.to_owned(), number };
        peer.make(program)?;
        for at in 0..number {
            peer.define(&format!("s{at}"), &script(&marks, at), "")?;
        }
        Ok(peer)
    }

    fn make(&self, program: &Path) -> anyhow::Result<()> {
        for folder in ["conf/services.d", "bin", "run"] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
        fs::write(self.root.join("conf/installed.json"), "{}")?;
        symlink(program, self.root.join("bin/dkm"))?;
        Ok(())
    }

    fn define(&self, name: &str, script: &str, more: &str) -> anyhow::Result<()> {
        let command = toml::Value::from(script).to_string();
        let text = format!("name = \"{name}\"\ncommand = [\"/bin/sh\", \"-c\", {command}]\n{more}");
        Ok(fs::write(self.root.join(format!("conf/services.d/{name}.toml")), text)?)
    }

    fn dkm(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.root.join("bin/dkm"));
        // Who measures as root means it.
        command.args(words).env("DKM_ALLOW_ROOT", "1");
        command
    }

    /// Milliseconds until a service's lines are all in its log.
    pub(super) fn carry(program: &Path, root: &Path, lines: &Path, stamped: bool) -> anyhow::Result<f64> {
        fs::create_dir_all(root)?;
        let mut peer = Self { root: root.to_owned(), number: 0 };
        peer.make(program)?;
        let go = root.join("go");
        succeed(Command::new("mkfifo").arg(&go))?;
        let script = format!("read x < {}; cat {}; echo the end; exec sleep 100000", go.display(), lines.display());
        let log = format!("[log]\nmax-bytes = 10000000\nkeep = 2\ncompress = false\ntimestamps = {stamped}\n");
        peer.define("talker", &script, &log)?;
        peer.start()?;
        let begin = Instant::now();
        fs::write(&go, "go\n")?;
        let log = root.join("run/log/talker.log");
        wait_for("the last line", || last_line_is(&log, b"the end\n"))?;
        let took = millis(begin.elapsed());
        peer.stop()?;
        fs::remove_dir_all(root)?;
        Ok(took)
    }
}

fn last_line_is(log: &Path, wanted: &[u8]) -> bool {
    use std::os::unix::fs::FileExt as _;
    let Ok(file) = fs::File::open(log) else { return false };
    let size = file.metadata().map_or(0, |meta| meta.len());
    let mut end = vec![0; wanted.len()];
    size.checked_sub(wanted.len() as u64).is_some_and(|at| file.read_exact_at(&mut end, at).is_ok()) && end == wanted
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }
    fn number(&self) -> usize {
        self.number
    }
    fn folder(&self) -> PathBuf {
        self.root.join("marks")
    }
    fn start(&mut self) -> anyhow::Result<()> {
        // Not waited for: its end is not what is measured.
        let mut child = quiet(&mut self.dkm(&["start"])).spawn()?;
        std::thread::spawn(move || child.wait());
        Ok(())
    }
    fn service_pid(&self) -> anyhow::Result<i32> {
        let output = self.dkm(&["pid", "s0"]).output()?;
        String::from_utf8(output.stdout)?.trim().parse().context("dkm does not know its service's process")
    }
    fn pids(&self) -> Vec<i32> {
        [processes("supervisor", &self.root), processes("@keep", &self.root)].concat()
    }
    fn status(&self) -> Command {
        self.dkm(&["status"])
    }
    fn settling(&self) -> Duration {
        Duration::from_secs(2)
    }
    fn stop(&mut self) -> anyhow::Result<()> {
        succeed(&mut self.dkm(&["shutdown"]))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// supervisord, with its own way of talking and logging.
pub(super) struct Supervisord {
    bin: PathBuf,
    root: PathBuf,
    number: usize,
    child: Option<Child>,
}

impl Supervisord {
    pub(super) fn new(bin: &Path, root: &Path, number: usize) -> anyhow::Result<Self> {
        let marks = prepare(root)?;
        let place = root.display();
        let mut text = format!(
            "[unix_http_server]\nfile={place}/s.sock\n[supervisord]\nlogfile={place}/s.log\npidfile={place}/s.pid\nnodaemon=true\n\
             user={}\n[rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl=unix://{place}/s.sock\n",
            rustix::process::geteuid().as_raw()
        );
        for at in 0..number {
            let script = script(&marks, at);
            text += &format!(
                "[program:s{at}]\ncommand=/bin/sh -c '{script}'\nstdout_logfile={place}/s{at}.log\nredirect_stderr=true\n"
            );
        }
        fs::write(root.join("supervisord.conf"), text)?;
        Ok(Self { bin: bin.to_owned(), root: root.to_owned(), number, child: None })
    }

    fn control(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("supervisorctl"));
        command.arg("-c").arg(self.root.join("supervisord.conf")).args(words);
        command
    }
}

impl Peer for Supervisord {
    fn name(&self) -> &'static str {
        "supervisord"
    }
    fn number(&self) -> usize {
        self.number
    }
    fn folder(&self) -> PathBuf {
        self.root.join("marks")
    }
    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(self.bin.join("supervisord"));
        self.child = Some(quiet(command.arg("-c").arg(self.root.join("supervisord.conf"))).spawn()?);
        Ok(())
    }
    fn service_pid(&self) -> anyhow::Result<i32> {
        let output = self.control(&["pid", "s0"]).output()?;
        String::from_utf8(output.stdout)?.trim().parse().context("supervisorctl does not know its service's process")
    }
    fn pids(&self) -> Vec<i32> {
        self.child.iter().filter_map(|child| i32::try_from(child.id()).ok()).collect()
    }
    fn status(&self) -> Command {
        self.control(&["status"])
    }
    fn settling(&self) -> Duration {
        Duration::from_secs(3)
    }
    fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            kill(i32::try_from(child.id())?, libc::SIGTERM);
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Supervisord {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// s6: one s6-svscan, one s6-supervise for each service; without loggers, which would be one process more for each.
pub(super) struct S6 {
    root: PathBuf,
    number: usize,
    child: Option<Child>,
}

impl S6 {
    pub(super) fn new(root: &Path, number: usize) -> anyhow::Result<Self> {
        let marks = prepare(root)?;
        for at in 0..number {
            let service = root.join("scan").join(format!("s{at}"));
            fs::create_dir_all(&service)?;
            let run = service.join("run");
            fs::write(&run, format!("#!/bin/sh\n{}\n", script(&marks, at)))?;
            fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { root: root.to_owned(), number, child: None })
    }

    fn service(&self) -> PathBuf {
        self.root.join("scan/s0")
    }

    /// Milliseconds until s6-log has written all lines.
    pub(super) fn carry(root: &Path, lines: &Path, stamp: Option<&str>) -> anyhow::Result<f64> {
        fs::create_dir_all(root)?;
        let words = [stamp, Some("n2"), Some("s10000000")].into_iter().flatten();
        let begin = Instant::now();
        let mut cat = Command::new("cat").arg(lines).stdout(Stdio::piped()).spawn()?;
        let pipe = cat.stdout.take().context("cat has no output")?;
        let done = Command::new("s6-log").arg("-b").args(words).arg(root.join("log")).stdin(pipe).status()?;
        anyhow::ensure!(cat.wait()?.success() && done.success(), "s6-log failed");
        let took = millis(begin.elapsed());
        fs::remove_dir_all(root)?;
        Ok(took)
    }
}

impl Peer for S6 {
    fn name(&self) -> &'static str {
        "s6"
    }
    fn number(&self) -> usize {
        self.number
    }
    fn folder(&self) -> PathBuf {
        self.root.join("marks")
    }
    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("s6-svscan");
        command.arg("-c").arg((self.number * 2 + 10).to_string()).arg(self.root.join("scan"));
        self.child = Some(quiet(&mut command).spawn()?);
        Ok(())
    }
    fn service_pid(&self) -> anyhow::Result<i32> {
        let output = Command::new("s6-svstat").args(["-o", "pid"]).arg(self.service()).output()?;
        String::from_utf8(output.stdout)?.trim().parse().context("s6-svstat does not know its service's process")
    }
    fn pids(&self) -> Vec<i32> {
        let Some(child) = &self.child else { return Vec::new() };
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        children.chain(i32::try_from(child.id()).ok()).collect()
    }
    fn status(&self) -> Command {
        // Of one service: there is no command for all.
        let mut command = Command::new("s6-svstat");
        command.arg(self.service());
        command
    }
    fn settling(&self) -> Duration {
        Duration::from_secs(3)
    }
    fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            // Told to end its services and then itself.
            let supervised = self.service();
            if supervised.exists() {
                succeed(Command::new("s6-svscanctl").arg("-t").arg(self.root.join("scan")))?;
            }
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for S6 {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
