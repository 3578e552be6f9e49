//! `dkmadmin audit`: nothing is found where nothing is wrong, and every weakness that is planted is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::bench::{Bench, helper, shell, text, until};

/// The shipped templates of the three files that have rules, and services that take them.
fn services() -> Vec<Value> {
    let mut services =
        vec![shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000"), shell("grafana", "exec sleep 1000")];
    for (service, file) in services.iter_mut().zip(["go-carbon.conf", "carbonapi.yaml", "grafana.ini"]) {
        service["config"] = json!([{"template": format!("conf/{file}.j2"), "to": format!("conf/{file}")}]);
    }
    services[0]["folders"] = json!(["storage/whisper"]);
    services
}

fn installed(services: &[Value]) -> Bench {
    let bench = Bench::bundle(services).with_assets();
    let assets = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/conf"));
    for file in ["go-carbon.conf.j2", "carbonapi.yaml.j2", "grafana.ini.j2"] {
        fs::write(bench.bundle_path().join("conf").join(file), fs::read(assets.join(file)).unwrap()).unwrap();
    }
    let output =
        bench.install(&["--grafana-listen", "127.0.0.1", "--carbon-listen", "127.0.0.1", "--carbonapi-listen", "127.0.0.1"]);
    assert!(output.status.success(), "{}", text(&output));
    bench
}

fn audit(bench: &Bench, more: &[&str]) -> Output {
    Command::new(bench.data().join("bin/dkmadmin")).arg("audit").args(more).output().unwrap()
}

/// What is found, each as "check place: what", and the status that it ends with.
fn found(bench: &Bench) -> (Vec<String>, i32) {
    let output = audit(bench, &["--json"]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let word = |found: &Value, key: &str| found[key].as_str().unwrap().to_owned();
    let findings = all["findings"].as_array().unwrap();
    assert!(findings.iter().all(|found| !word(found, "mend").is_empty()));
    let lines =
        findings.iter().map(|found| format!("{} {}: {}", word(found, "check"), word(found, "place"), word(found, "what")));
    (lines.collect(), output.status.code().unwrap())
}

/// Exactly one more finding than before, with these words, of this severity; `mend` takes it away.
fn finds(bench: &Bench, wanted: &str, severity: i32, plant: impl FnOnce(), mend: impl FnOnce()) {
    plant();
    let (findings, status) = found(bench);
    let hits: Vec<_> = findings.iter().filter(|line| line.contains(wanted)).collect();
    assert_eq!(hits.len(), 1, "\"{wanted}\" in {findings:#?}");
    assert_eq!(status, severity, "{findings:#?}");
    mend();
    assert_eq!(found(bench), (vec![], 0), "after {wanted}");
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// As the root that runs the tests owns everything, services as root are what should be found.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_fresh_folder_is_safe_and_planted_modes_are_found() {
    let bench = installed(&services());
    assert_eq!(found(&bench), (vec![], 0));
    let output = audit(&bench, &[]);
    assert!(text(&output).contains("OK: 0 critical, 0 warnings in "), "{}", text(&output));
    let data = bench.data();
    for (path, bad, good, wanted, severity) in [
        ("", 0o750, 0o700, "others may look into it: mode 0750", 2),
        ("", 0o702, 0o700, "others may change it: mode 0702", 2),
        ("conf", 0o755, 0o700, "others may look into it: mode 0755", 1),
        ("conf/secrets", 0o710, 0o700, "others may look into it: mode 0710", 2),
        ("conf/secrets/grafana-admin-password", 0o640, 0o600, "others may look into it: mode 0640", 2),
        ("conf/grafana.ini", 0o644, 0o600, "others may look into it: mode 0644", 1),
        ("conf/services.d/carbonapi.toml", 0o620, 0o600, "others may change it", 2),
        ("storage/whisper", 0o755, 0o700, "others may look into it: mode 0755", 1),
        ("run/log", 0o755, 0o700, "others may look into it: mode 0755", 1),
    ] {
        let path = if path.is_empty() { data.clone() } else { data.join(path) };
        let wanted = format!("mode {}: {wanted}", path.display());
        finds(&bench, &wanted, severity, || mode(&path, bad), || mode(&path, good));
    }
    let parent = bench.root();
    finds(&bench, "everybody may put another folder", 2, || mode(&parent, 0o777), || mode(&parent, 0o700));
    let dkm = bench.bundle_path().join("bin/dkm");
    finds(&bench, "others may change what the services run", 2, || mode(&dkm, 0o775), || mode(&dkm, 0o755));
    if is_root() {
        let log = data.join("run/log/x.log");
        fs::write(&log, "").unwrap();
        mode(&log, 0o600);
        finds(
            &bench,
            "not belong to the data folder's owner, but to user 12345",
            2,
            || chown(&log, Some(12345), None).unwrap(),
            || chown(&log, Some(0), None).unwrap(),
        );
        finds(
            &bench,
            "user 12345",
            1,
            || chown(&parent, Some(12345), None).unwrap(),
            || chown(&parent, Some(0), None).unwrap(),
        );
    }
}

/// The file, what is in it, what comes in its place, what is found then, and what the audit ends with.
const SETTINGS: &[(&str, &str, &str, &str, i32)] = &[
    (
        "grafana.ini",
        "[auth.anonymous]\nenabled = false",
        "[auth.anonymous]\nenabled = true",
        "auth.anonymous/enabled: everybody may look",
        2,
    ),
    // Without the line the program's default counts.
    ("grafana.ini", "\nallow_sign_up = false", "\n;allow_sign_up = false", "users/allow_sign_up", 2),
    ("grafana.ini", "allow_embedding = false", "allow_embedding = True ; false", "security/allow_embedding", 1),
    (
        "grafana.ini",
        "secret_key = ",
        "secret_key = SW2YcwTIb9zpOOhoPsMm\nother = ",
        "security/secret_key: data sources' passwords",
        2,
    ),
    (
        "grafana.ini",
        "admin_password = ",
        "admin_password = admin\nother = ",
        "security/admin_password: the administrator's password",
        2,
    ),
    (
        "grafana.ini",
        "admin_password = ",
        "admin_password = \"\"\"admin\nother = ",
        "unclear conf/grafana.ini security/admin_password",
        1,
    ),
    ("grafana.ini", "http_addr = `127.0.0.1`", "http_addr = `0.0.0.0`", "server/protocol: passwords go over the network", 1),
    ("grafana.ini", "protocol = http", "protocol = https", "security/cookie_secure", 1),
    ("grafana.ini", "reporting_enabled = false", "# reporting_enabled = false", "analytics/reporting_enabled", 1),
    ("carbonapi.yaml", "expvar:\n  enabled: false", "expvar:\n  # enabled: false\n  enabled: true", "expvar/enabled", 1),
    ("carbonapi.yaml", "pprofEnabled: false", "pprofEnabled: true", "expvar/pprofEnabled", 2),
    ("carbonapi.yaml", "httpResponseStackTrace: false\n", "", "httpResponseStackTrace", 1),
    (
        "carbonapi.yaml",
        "httpResponseStackTrace: false",
        "httpResponseStackTrace: !!bool false",
        "unclear conf/carbonapi.yaml httpResponseStackTrace",
        1,
    ),
    (
        "go-carbon.conf",
        "[pprof]\nlisten = \"127.0.0.1:0\"\nenabled = false",
        "[pprof]\nlisten = \":7007\"\nenabled = true",
        "pprof/enabled",
        2,
    ),
    ("go-carbon.conf", "[dump]", "[dumped]", "dump/enabled", 1),
    ("go-carbon.conf", "[cache]", "[cache", "unclear conf/go-carbon.conf", 1),
];

#[test]
fn planted_settings_are_found_and_comments_are_not_taken_for_them() {
    let bench = installed(&services());
    for &(file, old, new, wanted, severity) in SETTINGS {
        let path = bench.data().join("conf").join(file);
        let before = fs::read_to_string(&path).unwrap();
        assert!(before.contains(old), "{file} has no {old:?}");
        let plant = || fs::write(&path, before.replacen(old, new, 1)).unwrap();
        finds(&bench, wanted, severity, plant, || fs::write(&path, &before).unwrap());
    }
    let secret = bench.data().join("conf/secrets/grafana-admin-password");
    let before = fs::read(&secret).unwrap();
    finds(
        &bench,
        "security/admin_password",
        2,
        || fs::write(&secret, "admin").unwrap(),
        || fs::write(&secret, &before).unwrap(),
    );
    // What is written as a path is followed out of the folder, too.
    let outside = bench.root().join("key");
    fs::write(&outside, "0123456789abcdef0123456789").unwrap();
    mode(&outside, 0o644);
    let ini = bench.data().join("conf/grafana.ini");
    let before = fs::read_to_string(&ini).unwrap();
    let elsewhere = before.replacen("secret_key = ", &format!("secret_key = $__file{{{}}}\nother = ", outside.display()), 1);
    finds(
        &bench,
        "key: a secret can be read by others",
        2,
        || fs::write(&ini, elsewhere).unwrap(),
        || fs::write(&ini, &before).unwrap(),
    );
}

#[test]
fn definitions_that_weaken_are_found_and_what_is_meant_is_passed_over() {
    let bench = installed(&services());
    let definition = bench.definition("grafana");
    let before = fs::read_to_string(&definition).unwrap();
    let write = |more: &str| fs::write(&definition, format!("{more}\n{before}")).unwrap();
    finds(&bench, "umask grafana: others get at its new files: umask 022", 1, || write("umask = \"022\""), || write(""));
    finds(&bench, "umask grafana", 2, || write("umask = \"000\""), || write(""));
    finds(&bench, "unclear conf/services.d: ", 1, || write("nonsense = 1"), || write(""));
    // A variable goes before the file: it is named, its value is not shown, and the rule counts for it.
    fs::write(&definition, format!("{before}\n[environment]\nGF_SECURITY_ADMIN_PASSWORD = \"password\"\n")).unwrap();
    let (findings, status) = found(&bench);
    assert_eq!((findings.len(), status), (2, 2), "{findings:#?}");
    assert!(
        findings
            .iter()
            .any(|line| line.starts_with("override conf/grafana.ini") && line.ends_with("GF_SECURITY_ADMIN_PASSWORD"))
    );
    assert!(findings.iter().any(|line| line.contains("security/admin_password")), "{findings:#?}");
    let output = audit(&bench, &["--ignore", "override *", "--ignore", "setting conf/grafana.ini security/admin_p*"]);
    assert!(output.status.success(), "{}", text(&output));
    let output = audit(&bench, &["--ignore", "override *"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    fs::write(&definition, &before).unwrap();
    let nowhere = Command::new(bench.data().join("bin/dkmadmin")).args(["audit", "-d", "/"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(3), "{}", text(&nowhere));
}

#[cfg(target_os = "linux")]
#[test]
fn what_really_listens_is_found() {
    let mut services = services();
    services[0] = helper("go-carbon", "listen-on");
    services[0]["environment"]["HELPER_LISTEN"] = json!("127.0.0.1:{{ ports.carbon }} 0.0.0.0:{{ ports.carbonserver }}");
    services[0]["ports"] = json!([
        {"name": "carbon", "port": "{{ ports.carbon }}", "protocols": ["tcp", "udp"]},
        {"name": "carbonserver", "port": "{{ ports.carbonserver }}"},
    ]);
    services[1]["ports"] =
        json!([{"name": "carbonapi", "address": "0.0.0.0", "port": "{{ ports.carbonapi }}", "protocols": ["tcp", "udp"]}]);
    let bench = installed(&services);
    let open = format!("open carbonapi {}: it is to listen on 0.0.0.0", bench.port + 2);
    assert_eq!(found(&bench), (vec![open.clone()], 1));
    bench.good(&["--allow-root", "start", "go-carbon"]);
    until("listening", || bench.log("go-carbon").contains("listening"));
    let (findings, status) = found(&bench);
    let wider = format!("listener go-carbon {}/tcp: it listens wider than its definition says, on 0.0.0.0", bench.port + 3);
    assert!(findings.contains(&wider) && findings.contains(&open) && status == 2, "{findings:#?}");
    let as_root = findings.iter().filter(|line| line.starts_with("user ")).count();
    assert_eq!(findings.len() - as_root, 2, "{findings:#?}");
    assert_eq!(as_root > 0, is_root(), "{findings:#?}");
    // One that its definition says nothing of.
    let definition = bench.definition("go-carbon");
    let text = fs::read_to_string(&definition).unwrap();
    let begin = text.find("[[ports]]").unwrap();
    fs::write(&definition, &text[..begin]).unwrap();
    let (findings, _) = found(&bench);
    let said =
        |port, address| format!("listener go-carbon {port}/tcp: it listens where its definition says nothing of, on {address}");
    assert!(findings.contains(&said(bench.port + 1, "127.0.0.1")), "{findings:#?}");
    assert!(findings.contains(&said(bench.port + 3, "0.0.0.0")), "{findings:#?}");
    let shown = String::from_utf8(audit(&bench, &[]).stdout).unwrap();
    let line = format!(
        "add rule inet dkumonitor input iif != lo ip saddr != NETWORK meta l4proto {{ tcp, udp }} th dport {} drop",
        bench.port + 2
    );
    assert!(shown.contains(&line), "{shown}");
}
