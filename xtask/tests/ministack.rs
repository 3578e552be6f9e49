//! The whole way with real tools: the miniature stack from its sources to a monitor that takes metrics and answers queries.
//!
//! The stack is built once for all tests here, in the target folder, where the next run finds what has not changed.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Outcome, get, ministack_place as build_place, wait_for, workspace};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Enough for a metric to be stored, indexed and found, and for a daemon to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One build at a time: what is built is shared.
static BUILDING: Mutex<()> = Mutex::new(());

fn package(args: &[&str], dist: &str) -> Outcome {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("package").arg("--stack").arg(workspace().join("examples/ministack"));
    command.arg("--build-dir").arg(build_place("build")).arg("--dist-dir").arg(build_place(dist)).args(args);
    Outcome::of(&command.output().unwrap())
}

/// The archive of the whole stack.
static ARCHIVE: LazyLock<PathBuf> = LazyLock::new(|| {
    package(&[], "dist").good();
    build_place("dist").join(concat!("dkumonitor-ministack-", env!("CARGO_PKG_VERSION"), ".tar.gz"))
});

/// A bundle that was unpacked by tar into a folder of its own.
struct Bundle {
    folder: tempfile::TempDir,
    root: PathBuf,
}

impl Bundle {
    fn unpack(archive: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("unpacked élsewhere ").tempdir().unwrap();
        let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).status().unwrap();
        assert!(tar.success());
        let name = archive.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz");
        let root = folder.path().join(name);
        Self { folder, root }
    }

    /// Runs the installer for the data folder `data` beside the bundle.
    fn installer(&self, args: &[&str]) -> (Outcome, u16) {
        let port = free_ports();
        let data = self.folder.path().join("the data");
        let mut command = Command::new(self.root.join("installer"));
        command.arg("-d").arg(&data).arg("-p").arg(port.to_string()).args(args);
        (Outcome::of(&command.output().unwrap()), port)
    }

    fn install(&self, args: &[&str]) -> Monitor {
        let (outcome, port) = self.installer(args);
        outcome.good();
        Monitor { data: self.folder.path().join("the data"), port }
    }
}

/// The first of four ports in a row that nobody has now, TCP and UDP.
fn free_ports() -> u16 {
    wait_for("four free ports in a row", PATIENCE, || {
        let first = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let last = first.checked_add(3)?;
        let free = |port| TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok();
        (first..=last).all(free).then_some(first)
    })
}

/// An installed monitor; shut down at the latest when the test ends.
struct Monitor {
    data: PathBuf,
    port: u16,
}

impl Monitor {
    fn dkm(&self, args: &[&str]) -> Outcome {
        // Like an operator's shell after a login: nothing of cargo's environment.
        let mut command = Command::new(self.data.join("bin/dkm"));
        command.args(args).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        // CI is often root.
        command.env("DKM_ALLOW_ROOT", "1");
        Outcome::of(&command.output().unwrap())
    }

    fn states(&self) -> Vec<(String, String, i64)> {
        let outcome = self.dkm(&["status", "--json"]);
        let all: Vec<Value> = serde_json::from_str(&outcome.text).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        all.iter().map(|one| (text(one, "name"), text(one, "state"), one["pid"].as_i64().unwrap_or(0))).collect()
    }

    fn send_tcp(&self, line: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port + 1)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
    }

    fn send_udp(&self, line: &str) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(line.as_bytes(), ("127.0.0.1", self.port + 1)).unwrap();
    }

    /// The values that carbonapi gives for a target, missing ones left out.
    fn values(&self, target: &str) -> Vec<f64> {
        let path = format!("/render?format=json&from=-10min&until=now&target={target}");
        let Some(body) = get(self.port + 2, &path) else { return Vec::new() };
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        let series = answer.as_array().cloned().unwrap_or_default();
        let points = series.iter().flat_map(|one| one["datapoints"].as_array().cloned().unwrap_or_default());
        points.filter_map(|point| point[0].as_f64()).collect()
    }

    #[track_caller]
    fn wait_for_value(&self, target: &str, value: f64) {
        wait_for(&format!("{value} at {target}"), PATIENCE, || self.values(target).contains(&value).then_some(()));
    }

    #[track_caller]
    fn wait_for_any(&self, target: &str) {
        wait_for(&format!("values at {target}"), PATIENCE, || (!self.values(target).is_empty()).then_some(()));
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = Command::new(self.data.join("bin/dkm")).env("DKM_ALLOW_ROOT", "1").arg("shutdown").output();
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The processes whose command line or folder lies below `place`: what a monitor has left behind.
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

#[test]
fn a_fresh_archive_becomes_a_monitor_that_takes_metrics_and_answers_queries() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let monitor = bundle.install(&["--interval", "1"]);
    for folder in ["conf", "bin", "storage", "run", "static"] {
        assert!(monitor.data.join(folder).is_dir(), "{folder} is not there");
    }
    assert!(monitor.data.join("static").canonicalize().unwrap().starts_with(bundle.root.canonicalize().unwrap()));
    monitor.dkm(&["start"]).good();
    let states = monitor.states();
    let names: Vec<_> = states.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names.len(), 4, "{states:?}");
    assert!(states.iter().all(|(_, _, pid)| *pid > 0), "{states:?}");
    monitor.dkm(&["status"]).good();
    monitor.dkm(&["status", "grafana-server"]).good();

    monitor.send_tcp(&format!("test.tcp.value 41.5 {}\n", now()));
    monitor.send_udp(&format!("test.udp.value 42.5 {}\n", now()));
    monitor.wait_for_value("test.tcp.value", 41.5);
    monitor.wait_for_value("test.udp.value", 42.5);
    monitor.wait_for_any("collectd.*.load.load.shortterm");
    wait_for("the page", PATIENCE, || get(monitor.port, "/api/health")?.contains("ok").then_some(()));

    // Stopped and started again, the values are still there; the points sent last are those most easily lost.
    monitor.send_tcp(&format!("test.last.value 43.5 {}\n", now()));
    monitor.dkm(&["stop"]).good();
    assert!(get(monitor.port + 2, "/lb_check").is_none(), "carbonapi still answers");
    assert_eq!(monitor.dkm(&["status"]).status, 3);
    monitor.dkm(&["start"]).good();
    for (target, value) in [("test.tcp.value", 41.5), ("test.udp.value", 42.5), ("test.last.value", 43.5)] {
        monitor.wait_for_value(target, value);
    }
    monitor.dkm(&["shutdown"]).good();
    let left = processes_below(bundle.folder.path());
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn the_hosts_collectd_can_measure_instead_of_the_bundles() {
    assert!(
        ["/usr/sbin/collectd", "/usr/local/sbin/collectd"].iter().any(|path| Path::new(path).exists()),
        "this test takes over Debian's collectd: `cargo xtask ci --install-missing` installs it"
    );
    let bundle = Bundle::unpack(&ARCHIVE);
    let monitor = bundle.install(&["--system-collectd", "--interval", "1"]);
    monitor.dkm(&["start"]).good();
    let collectd = monitor.states().into_iter().find(|(name, ..)| name == "collectd").unwrap().2;
    let program = fs::read_link(format!("/proc/{collectd}/exe")).unwrap();
    assert!(program.starts_with("/usr"), "{}", program.display());
    // The miniature measures neither processes nor disks: what comes here is Debian's.
    for target in ["collectd.*.load.load.shortterm", "collectd.*.memory.memory-free", "collectd.*.df-root.*"] {
        monitor.wait_for_any(target);
    }
    monitor.dkm(&["shutdown"]).good();
    let left = processes_below(bundle.folder.path());
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_type_whose_components_the_bundle_lacks_is_refused_by_name_and_others_are_not() {
    LazyLock::force(&ARCHIVE);
    package(&["--only", "go-carbon", "carbonapi"], "partial").good();
    let name = concat!("dkumonitor-ministack-partial-", env!("CARGO_PKG_VERSION"), ".tar.gz");
    let bundle = Bundle::unpack(&build_place("partial").join(name));
    let (outcome, _) = bundle.installer(&["-t", "all"]);
    assert_ne!(outcome.status, 0);
    assert!(outcome.text.contains("grafana") && outcome.text.contains("collectd"), "{}", outcome.text);
    assert!(!outcome.text.contains("go-carbon,"), "{}", outcome.text);
    let monitor = bundle.install(&["-t", "backend"]);
    monitor.dkm(&["start"]).good();
    monitor.send_tcp(&format!("test.backend 1.25 {}\n", now()));
    monitor.wait_for_value("test.backend", 1.25);
    monitor.dkm(&["shutdown"]).good();
}

#[test]
fn the_archive_holds_what_its_manifest_says_and_nothing_of_the_builders_machine() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let text = fs::read_to_string(bundle.root.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["stack"], "ministack");
    assert_eq!(manifest["components"].as_array().unwrap().len(), 5);
    for file in manifest["files"].as_array().unwrap().iter().filter(|file| file["type"] == "file") {
        let content = fs::read(bundle.root.join(file["path"].as_str().unwrap())).unwrap();
        assert_eq!(file["sha256"], common::sha256(&content), "{file}");
    }
    for path in [
        "LICENSE",
        "installer",
        "bin/dkm",
        "bin/dkmadmin",
        "bin/go-carbon",
        "bin/carbonapi",
        "bin/grafana",
        "bin/collectd",
        "licenses/grafana",
    ] {
        assert!(bundle.root.join(path).exists(), "{path} is missing");
    }
    let mut check = Command::new("sha256sum");
    check.arg("-c").arg(ARCHIVE.with_extension("gz.sha256")).current_dir(build_place("dist"));
    assert!(check.output().unwrap().status.success());
    let marks = [build_place(""), workspace(), std::env::home_dir().unwrap().join(".cargo")];
    for entry in walkdir::WalkDir::new(&bundle.root).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        let content = fs::read(entry.path()).unwrap();
        for mark in &marks {
            let mark = mark.to_str().unwrap().as_bytes();
            assert!(
                !content.windows(mark.len()).any(|part| part == mark),
                "{} names {}",
                entry.path().display(),
                String::from_utf8_lossy(mark)
            );
        }
    }
}

#[test]
fn nothing_is_compiled_twice_and_a_patch_that_changed_rebuilds_its_component_alone() {
    LazyLock::force(&ARCHIVE);
    let text = package(&["--offline"], "dist").good();
    assert!(!text.contains("compile"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let stack = folder.path().join("ministack");
    let copied = Command::new("cp").arg("-R").arg(workspace().join("examples/ministack")).arg(&stack).status().unwrap();
    assert!(copied.success());
    let patch = fs::read_dir(stack.join("patches/go-carbon")).unwrap().flatten().next().unwrap().path();
    let mut content = fs::read_to_string(&patch).unwrap();
    content.insert_str(0, "Another word of explanation.\n\n");
    fs::write(&patch, content).unwrap();
    let mut plan = Command::new(env!("CARGO_BIN_EXE_xtask"));
    plan.arg("plan").arg("--stack").arg(&stack).arg("--build-dir").arg(build_place("build"));
    let text = Outcome::of(&plan.output().unwrap()).good();
    let name = patch.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(&format!("to be built: patches/go-carbon/{name} changed")), "{text}");
    assert_eq!(text.matches("to be built:").count(), 1, "{text}");
}
