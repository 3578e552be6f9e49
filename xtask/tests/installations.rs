//! Installations of the miniature stack: every type, https, another version and back.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::monitor::{ARCHIVE, Bundle, PATIENCE, assert_nothing_left, now};
use common::{Outcome, get};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The types besides "all", on one machine: an agent that sends to a backend, which a frontend asks.
#[test]
fn every_type_is_installed_started_queried_and_stopped() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let started = |kind: &str, more: &[&str], services: &[&str]| {
        let monitor = bundle.install_at(kind, &[&["-t", kind, "--hostname", &format!("test.{kind}")], more].concat());
        monitor.dkm(&["start"]).good();
        let states = monitor.states();
        let mut names: Vec<_> = states.iter().map(|(name, ..)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, services);
        assert!(states.iter().all(|(_, state, pid)| state == "running" && *pid > 0), "{kind}: {states:?}");
        monitor
    };
    let backend = started("backend", &[], &["carbonapi", "go-carbon"]);
    let at = |offset: u16| format!("127.0.0.1:{}", backend.port + offset);
    let agent = started("agent", &["--carbon-server", &at(1), "--interval", "1"], &["collectd"]);
    let frontend = started("frontend", &["--carbon-backends", &at(3)], &["carbonapi", "grafana"]);
    let both = started("backend-agent", &["--interval", "1"], &["carbonapi", "collectd", "go-carbon"]);
    let server = started("server", &[], &["carbonapi", "go-carbon", "grafana"]);
    for monitor in [&backend, &server] {
        monitor.send_tcp(&format!("test.one 1.5 {}\n", now()));
    }
    server.wait_for_value("test.one", 1.5);
    for monitor in [&backend, &frontend] {
        monitor.wait_for_value("test.one", 1.5);
        monitor.wait_for_any("collectd.test.agent.load.load.shortterm");
    }
    both.wait_for_any("collectd.test.backend-agent.load.load.shortterm");
    for monitor in [&frontend, &server] {
        assert!(get(monitor.port, "/api/health").unwrap().contains("ok"));
    }
    for monitor in [&agent, &frontend, &backend, &both, &server] {
        monitor.dkm(&["stop"]).good();
        assert_eq!(monitor.dkm(&["status"]).status, 3);
        monitor.dkm(&["shutdown"]).good();
    }
    assert_nothing_left(bundle.folder.path());
}

/// With https there is no answer by http; and a key that is another certificate's is not taken for a server that is ready.
#[test]
fn grafana_speaks_https_when_it_is_told() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let path = |name: &str| bundle.folder.path().join(name).to_str().unwrap().to_owned();
    let certificate = |name: &str| {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
        openssl.args(["-keyout", &path(&format!("{name}.key")), "-out", &path(&format!("{name}.pem"))]);
        Outcome::of(&openssl.output().unwrap()).good();
    };
    certificate("its");
    certificate("another");
    let monitor = bundle.install(&["-t", "server", "--tls", &path("its.pem"), &path("its.key")]);
    monitor.dkm(&["start"]).good();
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-CAfile", &path("its.pem"), "-verify_return_error", "-connect"]);
    client.arg(format!("127.0.0.1:{}", monitor.port)).stdin(Stdio::piped());
    let mut client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    client.stdin.take().unwrap().write_all(b"GET /api/health HTTP/1.0\r\n\r\n").unwrap();
    let said = common::end_of(client, PATIENCE);
    assert!(said.text.contains("200 OK") && said.text.contains("database"), "{said:?}");
    assert!(get(monitor.port, "/api/health").is_none_or(|body| !body.contains("database")), "it answers by http as well");
    fs::copy(path("another.key"), path("its.key")).unwrap();
    let said = monitor.dkm(&["restart", "grafana"]);
    assert_ne!(said.status, 0, "{said:?}");
    monitor.dkm(&["shutdown"]).good();
}

/// From one version to the next and back while it runs: what the user changed stays, what was stored is there, and who is the same in
/// both keeps his process.
#[test]
fn an_update_and_its_rollback_keep_changes_data_and_whoever_is_the_same() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let next = bundle.folder.path().join("the next version");
    assert!(Command::new("cp").arg("-a").arg(&bundle.root).arg(&next).status().unwrap().success());
    let edit =
        |path: &Path, change: &dyn Fn(&str) -> String| fs::write(path, change(&fs::read_to_string(path).unwrap())).unwrap();
    edit(&next.join("manifest.json"), &|text| {
        let mut manifest: Value = serde_json::from_str(text).unwrap();
        manifest["version"] = "77.0.0".into();
        let components = manifest["components"].as_array_mut().unwrap();
        components.iter_mut().find(|part| part["name"] == "grafana").unwrap()["version"] = "77".into();
        manifest.to_string()
    });
    for file in ["conf/go-carbon.conf.j2", "conf/storage-schemas.conf.j2"] {
        edit(&next.join(file), &|text| format!("# Of the next version.\n{text}"));
    }
    let monitor = bundle.install(&["--interval", "1"]);
    edit(&monitor.data.join("conf/storage-schemas.conf"), &|text| format!("# Of the user's.\n{text}"));
    monitor.dkm(&["start"]).good();
    monitor.send_tcp(&format!("test.before 1.5 {}\n", now()));
    monitor.wait_for_value("test.before", 1.5);
    let pids = || monitor.states().into_iter().map(|(name, _, pid)| (name, pid)).collect::<BTreeMap<_, _>>();
    let installer = |what: &str| {
        let mut command = Command::new(next.join("installer"));
        Outcome::of(&command.arg("-d").arg(&monitor.data).args([what, "--yes"]).output().unwrap()).good()
    };
    let begins = |file: &str, text: &str| fs::read_to_string(monitor.data.join("conf").join(file)).unwrap().starts_with(text);
    let old = pids();
    let said = installer("--update");
    let new = pids();
    for (name, pid) in &new {
        assert_eq!(*pid == old[name], ["carbonapi", "collectd"].contains(&name.as_str()), "{name} {old:?} {new:?}\n{said}");
    }
    assert!(begins("go-carbon.conf", "# Of the next version.") && begins("storage-schemas.conf", "# Of the user's."), "{said}");
    assert!(begins("storage-schemas.conf.new", "# Of the next version."), "{said}");
    assert_eq!(fs::read_link(monitor.data.join("bundle")).unwrap(), next.canonicalize().unwrap());
    monitor.wait_for_value("test.before", 1.5);
    monitor.send_tcp(&format!("test.after 2.5 {}\n", now()));
    monitor.wait_for_value("test.after", 2.5);
    installer("--rollback");
    assert!(!begins("go-carbon.conf", "# Of the next version.") && begins("storage-schemas.conf", "# Of the user's."));
    assert!(monitor.states().iter().all(|(_, state, _)| state == "running"), "{:?}", monitor.states());
    for (target, value) in [("test.before", 1.5), ("test.after", 2.5)] {
        monitor.wait_for_value(target, value);
    }
    monitor.dkm(&["shutdown"]).good();
}
