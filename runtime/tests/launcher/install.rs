//! The installer: what it makes, and everything it refuses.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::bench::{Bench, text};

/// The installer has to refuse, say this, and leave nothing behind.
fn refused(bench: &Bench, more: &[&str], wanted: &[&str]) {
    let names = || fs::read_dir(bench.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>();
    let before = names();
    let output = bench.install(more);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for wanted in wanted {
        assert!(said.contains(wanted), "\"{wanted}\" is not in:\n{said}");
    }
    assert_eq!(before, names(), "something was left behind");
}

#[test]
fn makes_the_folder() {
    let mut services = Bench::two();
    services[0]["config"] = json!([{"template": "conf/a.conf.j2", "to": "conf/a.conf"}]);
    services[0]["folders"] = json!(["storage/whisper"]);
    let bench = Bench::installed(&services);
    let data = bench.data();
    for folder in ["conf", "bin", "storage/whisper", "run"] {
        let mode = fs::metadata(data.join(folder)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
    assert_eq!(fs::read_link(data.join("bundle")).unwrap(), bench.bundle_path());
    assert_eq!(data.join("static").canonicalize().unwrap(), bench.bundle_path().join("static"));
    assert_eq!(data.join("bin/dkm").canonicalize().unwrap(), bench.bundle_path().join("bin/dkm"));
    let rendered = fs::read_to_string(data.join("conf/a.conf")).unwrap();
    assert_eq!(rendered, format!("data = \"{}\"\nport = {}\n", data.display(), bench.port + 1));
    assert_eq!(fs::metadata(data.join("conf/a.conf")).unwrap().permissions().mode() & 0o777, 0o600);
    let record: serde_json::Value = serde_json::from_slice(&fs::read(data.join("conf/installed.json")).unwrap()).unwrap();
    assert_eq!((&record["type"], &record["hostname"]), (&json!("backend"), &json!("local.test")));
    assert_eq!(record["files"]["conf/a.conf"].as_str().unwrap().len(), 64);
}

#[test]
fn an_empty_folder_is_taken_and_parents_are_made() {
    let bench = Bench::bundle(&Bench::two());
    fs::create_dir(bench.data()).unwrap();
    let output = bench.install(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let deep = bench.root().join("a/b c/d");
    let mut command = Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(&deep).arg("-p").arg(bench.port.to_string()).args(["-t", "backend", "--hostname", "x"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(deep.join("bin/dkm").exists());
}

#[test]
fn secrets_are_random_private_and_shown_once() {
    let mut services = Bench::two();
    services.push(json!({"name": "grafana", "types": ["backend"], "command": ["/bin/sh"]}));
    let bench = Bench::bundle(&services);
    let output = bench.install(&[]);
    let file = bench.data().join("conf/secrets/grafana-admin-password");
    let password = fs::read_to_string(&file).unwrap();
    assert_eq!(password.len(), 20);
    assert_eq!(text(&output).matches(&password).count(), 1, "{}", text(&output));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_to_string(bench.data().join("conf/secrets/grafana-secret-key")).unwrap().len(), 40);
}

#[test]
fn refuses_a_folder_that_is_not_empty() {
    let bench = Bench::bundle(&Bench::two());
    fs::create_dir(bench.data()).unwrap();
    fs::write(bench.data().join("precious"), "x").unwrap();
    refused(&bench, &[], &["is not empty"]);
    assert!(bench.data().join("precious").exists());
}

#[test]
fn refuses_a_file_and_a_place_in_the_bundle() {
    let bench = Bench::bundle(&Bench::two());
    fs::write(bench.data(), "x").unwrap();
    refused(&bench, &[], &["is not a folder"]);
    fs::remove_file(bench.data()).unwrap();
    let run = |place: &std::path::Path| {
        let mut command = Command::new(bench.bundle_path().join("installer"));
        command.arg("-d").arg(place).arg("-p").arg(bench.port.to_string()).args(["-t", "backend"]).output().unwrap()
    };
    for place in [bench.bundle_path().join("data"), bench.root()] {
        let said = text(&run(&place));
        assert!(said.contains("lie in one another"), "{said}");
    }
}

#[test]
fn refuses_taken_ports_and_says_who_has_them() {
    let bench = Bench::bundle(&Bench::two());
    let _carbon = TcpListener::bind(("127.0.0.1", bench.port + 1)).unwrap();
    let owner = format!("TCP port {} is taken by process {}", bench.port + 1, std::process::id());
    refused(&bench, &[], &[if cfg!(target_os = "linux") { &owner } else { "is taken by" }]);
}

#[test]
fn refuses_everything_at_once() {
    let bench = Bench::bundle(&Bench::two());
    fs::create_dir(bench.data()).unwrap();
    fs::write(bench.data().join("precious"), "x").unwrap();
    let _carbon = TcpListener::bind(("127.0.0.1", bench.port + 1)).unwrap();
    let more = ["--hostname", "not a name", "--interval", "0", "--retention", "10s:1h,15s:1d", "--system-collectd"];
    let mut command = Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(bench.data()).arg("-p").arg(bench.port.to_string()).args(["-t", "backend"]).args(more);
    let said = text(&command.output().unwrap());
    for wanted in [
        "is not empty",
        "is taken by",
        "--hostname not a name",
        "--interval 0",
        "--retention 10s:1h,15s:1d",
        "the type backend has no collectd",
    ] {
        assert!(said.contains(wanted), "\"{wanted}\" is not in:\n{said}");
    }
}

#[test]
fn refuses_ports_out_of_range() {
    let bench = Bench::bundle(&Bench::two());
    for bad in ["0", "65533", "70000"] {
        let mut command = Command::new(bench.bundle_path().join("installer"));
        command.arg("-d").arg(bench.data()).args(["-p", bad, "-t", "backend", "--hostname", "x"]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains(&format!("--port {bad}: ")), "{}", text(&output));
        assert!(!bench.data().exists());
    }
}

#[test]
fn refuses_a_type_whose_components_are_missing_and_says_which_it_can_be() {
    let bench = Bench::bundle(&Bench::two());
    let mut command = Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(bench.data()).arg("-p").arg(bench.port.to_string()).args(["-t", "all", "--hostname", "x"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("the type all needs grafana, collectd, and this bundle has no such component"), "{said}");
    assert!(said.contains("It can be installed as: backend"), "{said}");
    assert!(!bench.data().exists());
}

#[test]
fn refuses_an_agent_without_a_server_and_a_server_without_an_agent() {
    let bench = Bench::bundle(&Bench::two());
    refused(&bench, &["--carbon-server", "example.org"], &["--carbon-server is for an agent"]);
    let mut command = Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(bench.data()).arg("-p").arg(bench.port.to_string()).args(["-t", "agent"]);
    let said = text(&command.output().unwrap());
    assert!(said.contains("an agent has to be told where to send to"), "{said}");
}

#[test]
fn refuses_a_bundle_that_is_not_whole_or_not_for_this_machine() {
    let mut services = Bench::two();
    services[0]["command"] = json!(["{{ bundle }}/bin/nothing"]);
    services[1]["config"] = json!([{"template": "conf/none.j2", "to": "conf/none"}]);
    let bench = Bench::bundle(&services);
    refused(&bench, &[], &["bin/nothing is not a program", "it has no conf/none.j2"]);
    let manifest = bench.bundle_path().join("manifest.json");
    let other = fs::read_to_string(&manifest).unwrap().replace(std::env::consts::ARCH, "sparc");
    fs::write(&manifest, other).unwrap();
    refused(&bench, &[], &["the bundle is for", "sparc"]);
    fs::remove_file(&manifest).unwrap();
    refused(&bench, &[], &["is this an unpacked bundle?"]);
}

#[test]
fn a_template_that_cannot_be_filled_in_leaves_nothing_behind() {
    let mut services = Bench::two();
    services[0]["config"] = json!([{"template": "conf/bad.j2", "to": "conf/bad"}]);
    let bench = Bench::bundle(&services);
    fs::write(bench.bundle_path().join("conf/bad.j2"), "{{ nobody }}\n").unwrap();
    refused(&bench, &[], &["cannot fill in", "conf/bad.j2"]);
}

#[test]
fn dkm_before_the_installation_says_what_to_do() {
    let bench = Bench::bundle(&Bench::two());
    let run = |command: &mut Command| text(&command.env_remove("DKM_HOME").output().unwrap());
    let said = run(Command::new(bench.bundle_path().join("bin/dkm")).arg("start"));
    assert!(said.contains("installer -d DATA_DIR -p PORT"), "{said}");
    let said = run(Command::new(bench.bundle_path().join("bin/dkm")).args(["--home", "/"]).arg("status"));
    assert!(said.contains("is not a data folder"), "{said}");
}

#[test]
fn dkmadmin_finds_what_was_changed() {
    let bench = Bench::bundle(&Bench::two());
    let admin = bench.bundle_path().join("bin/dkmadmin");
    let output = Command::new(&admin).arg("verify").output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("conf/a.conf.j2: not in the manifest"), "{said}");
    let output = Command::new(&admin).arg("version").output().unwrap();
    assert!(text(&output).contains("dkumonitor (test) 9.9.9"), "{}", text(&output));
}
