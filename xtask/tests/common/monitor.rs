//! The miniature stack, built once for all tests, unpacked, installed, run.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

use super::{Outcome, get, ministack_place as build_place, wait_for, workspace};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Enough for a metric to be stored, indexed and found, and for a daemon to come up on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One build at a time: what is built is shared.
static BUILDING: Mutex<()> = Mutex::new(());

/// Packages the miniature stack, into that folder.
pub fn package(args: &[&str], dist: &str) -> Outcome {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("package").arg("--stack").arg(workspace().join("examples/ministack"));
    command.arg("--build-dir").arg(build_place("build")).arg("--dist-dir").arg(build_place(dist)).args(args);
    Outcome::of(&command.output().unwrap())
}

/// The archive of the whole stack.
pub static ARCHIVE: LazyLock<PathBuf> = LazyLock::new(|| {
    package(&[], "dist").good();
    build_place("dist").join(concat!("dkumonitor-ministack-", env!("CARGO_PKG_VERSION"), ".tar.gz"))
});

/// A bundle that was unpacked by tar into a folder of its own.
pub struct Bundle {
    /// Where it was unpacked, and where data folders go.
    pub folder: tempfile::TempDir,
    /// The bundle.
    pub root: PathBuf,
}

impl Bundle {
    /// Unpacks an archive.
    pub fn unpack(archive: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("unpacked élsewhere ").tempdir().unwrap();
        let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).status().unwrap();
        assert!(tar.success());
        let name = archive.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz");
        let root = folder.path().join(name);
        Self { folder, root }
    }

    /// Runs the installer for a data folder beside the bundle.
    pub fn installer(&self, name: &str, args: &[&str]) -> (Outcome, u16) {
        let port = xtask::free_ports::ten().unwrap();
        let mut command = Command::new(self.root.join("installer"));
        command.arg("-d").arg(self.folder.path().join(name)).arg("-p").arg(port.to_string()).args(args);
        // Nobody else is to reach what is tested.
        command.args(["carbon", "carbonapi", "grafana"].map(|part| format!("--{part}-listen=127.0.0.1")));
        (Outcome::of(&command.output().unwrap()), port)
    }

    /// Installs a monitor, in a folder whose name has what names can have.
    pub fn install(&self, args: &[&str]) -> Monitor {
        self.install_at(r#"the "däta" of O'Neil & $sons"#, args)
    }

    /// Installs a monitor in a folder of this name.
    pub fn install_at(&self, name: &str, args: &[&str]) -> Monitor {
        let (outcome, port) = self.installer(name, args);
        outcome.good();
        Monitor { data: self.folder.path().join(name), port }
    }
}

/// An installed monitor; shut down at the latest when the test ends.
pub struct Monitor {
    /// Its data folder.
    pub data: PathBuf,
    /// The first of its ports.
    pub port: u16,
}

impl Monitor {
    /// `dkm` with these words.
    pub fn dkm(&self, args: &[&str]) -> Outcome {
        // Like an operator's shell after a login: nothing of cargo's environment.
        let mut command = Command::new(self.data.join("bin/dkm"));
        command.args(args).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        // CI is often root.
        command.env("DKM_ALLOW_ROOT", "1");
        Outcome::of(&command.output().unwrap())
    }

    /// Name, state and process of each service.
    pub fn states(&self) -> Vec<(String, String, i64)> {
        let outcome = self.dkm(&["status", "--json"]);
        let all: Vec<Value> = serde_json::from_str(&outcome.text).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        all.iter().map(|one| (text(one, "name"), text(one, "state"), one["pid"].as_i64().unwrap_or(0))).collect()
    }

    /// Sends a line to carbon.
    pub fn send_tcp(&self, line: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port + 1)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
    }

    /// The same by UDP.
    pub fn send_udp(&self, line: &str) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(line.as_bytes(), ("127.0.0.1", self.port + 1)).unwrap();
    }

    /// The values that carbonapi gives for a target, missing ones left out.
    pub fn values(&self, target: &str) -> Vec<f64> {
        let path = format!("/render?format=json&from=-10min&until=now&target={target}");
        let Some(body) = get(self.port + 2, &path) else { return Vec::new() };
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        let series = answer.as_array().cloned().unwrap_or_default();
        let points = series.iter().flat_map(|one| one["datapoints"].as_array().cloned().unwrap_or_default());
        points.filter_map(|point| point[0].as_f64()).collect()
    }

    /// Waits until carbonapi gives this value for a target.
    #[track_caller]
    pub fn wait_for_value(&self, target: &str, value: f64) {
        wait_for(&format!("{value} at {target}"), PATIENCE, || self.values(target).contains(&value).then_some(()));
    }

    /// Waits until carbonapi gives any.
    #[track_caller]
    pub fn wait_for_any(&self, target: &str) {
        wait_for(&format!("values at {target}"), PATIENCE, || (!self.values(target).is_empty()).then_some(()));
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = Command::new(self.data.join("bin/dkm")).env("DKM_ALLOW_ROOT", "1").arg("shutdown").output();
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Fails the test unless all processes below `place` end: what a monitor has left behind. What only waits for the others' end, or is dead
/// and not reaped yet, may take a moment.
#[track_caller]
pub fn assert_nothing_left(place: &Path) {
    let mut left = processes_below(place);
    let deadline = Instant::now() + PATIENCE;
    while !left.is_empty() {
        assert!(Instant::now() < deadline, "processes are left behind: {left:#?}");
        std::thread::sleep(Duration::from_millis(20));
        left = processes_below(place);
    }
}

/// The processes whose command line or folder lies below `place`.
fn processes_below(place: &Path) -> Vec<String> {
    let place = place.to_str().unwrap();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
        let text = fs::read(process.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&text).replace('\0', " ");
        let folder = fs::read_link(process.join("cwd")).unwrap_or_default();
        if command.contains(place) || folder.starts_with(place) {
            found.push(format!("{} {command}", process.display()));
        }
    }
    found
}
