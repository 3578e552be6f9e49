//! The whole way with real tools: the miniature stack from its sources to a monitor that takes metrics and answers queries.
//!
//! The stack is built once for all tests here, in the target folder, where the next run finds what has not changed.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;
mod pictures;

use common::monitor::{ARCHIVE, Bundle, PATIENCE, assert_nothing_left, now, package};
use common::{Outcome, get, ministack_place as build_place, wait_for, workspace};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

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
    assert_nothing_left(bundle.folder.path());
}

/// Whether Grafana lets this password in.
fn lets_in(port: u16, password: &str) -> bool {
    let script = "import base64,sys,urllib.request\n\
        r=urllib.request.Request('http://127.0.0.1:%s/api/user' % sys.argv[1])\n\
        r.add_header('Authorization','Basic '+base64.b64encode(b'admin:'+sys.argv[2].encode()).decode())\n\
        sys.exit(0 if urllib.request.urlopen(r).status==200 else 1)\n";
    Command::new("python3").args(["-c", script, &port.to_string(), password]).output().unwrap().status.success()
}

#[test]
fn its_operator_audits_it_changes_its_password_backs_it_up_and_has_it_started_at_boot() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let monitor = bundle.install(&["--interval", "1"]);
    let admin = |args: &[&str]| Outcome::of(&Command::new(monitor.data.join("bin/dkmadmin")).args(args).output().unwrap());
    monitor.dkm(&["start"]).good();
    // CI is often root, and is rightly told of. All else is as it should be, what is really listened on included.
    admin(&["audit", "--ignore", "user *"]).good();

    let secret = monitor.data.join("conf/secrets/grafana-admin-password");
    let before = fs::read_to_string(&secret).unwrap();
    assert!(lets_in(monitor.port, &before));
    admin(&["reset-password"]).good();
    let after = fs::read_to_string(&secret).unwrap();
    wait_for("the new password", PATIENCE, || lets_in(monitor.port, &after).then_some(()));
    assert!(!lets_in(monitor.port, &before), "the old password is still good");
    monitor.dkm(&["stop", "grafana"]).good();
    admin(&["reset-password"]).good();
    monitor.dkm(&["start", "grafana"]).good();
    assert!(lets_in(monitor.port, &fs::read_to_string(&secret).unwrap()));

    monitor.send_tcp(&format!("test.kept.value 44.5 {}\n", now()));
    monitor.wait_for_value("test.kept.value", 44.5);
    let file = bundle.folder.path().join("backup.tar.gz");
    wait_for("the value on the disk", PATIENCE, || {
        let _ = fs::remove_file(&file);
        admin(&["backup", file.to_str().unwrap()]).good();
        let listed = Command::new("tar").arg("-tzf").arg(&file).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).contains("kept").then_some(())
    });
    monitor.dkm(&["shutdown"]).good();
    fs::remove_dir_all(&monitor.data).unwrap();
    let restored = Command::new(bundle.root.join("bin/dkmadmin")).arg("restore").arg(&file).output().unwrap();
    Outcome::of(&restored).good();
    monitor.dkm(&["start"]).good();
    monitor.wait_for_value("test.kept.value", 44.5);
    assert!(lets_in(monitor.port, &fs::read_to_string(&secret).unwrap()));
    let user: &[&str] = if rustix::process::geteuid().is_root() { &["--user", "root"] } else { &[] };
    let unit = admin(&[&["install-boot", "--print", "--init", "systemd"], user].concat()).good();
    assert!(unit.contains("Type=notify"), "{unit}");
    monitor.dkm(&["shutdown"]).good();
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
    assert_nothing_left(bundle.folder.path());
}

#[test]
fn a_type_whose_components_the_bundle_lacks_is_refused_by_name_and_others_are_not() {
    LazyLock::force(&ARCHIVE);
    package(&["--only", "go-carbon", "carbonapi"], "partial").good();
    let name = concat!("dkumonitor-ministack-partial-", env!("CARGO_PKG_VERSION"), ".tar.gz");
    let bundle = Bundle::unpack(&build_place("partial").join(name));
    let (outcome, _) = bundle.installer("refused", &["-t", "all"]);
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
