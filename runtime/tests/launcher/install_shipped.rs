//! The shipped templates and services, installed as each type, in places and under circumstances that are meant to break them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::bench::{Bench, text};

/// All types, with what they need to be told.
const TYPES: [(&str, &[&str], &[&str]); 6] = [
    ("all", &[], &["carbonapi", "collectd", "go-carbon", "grafana"]),
    ("server", &[], &["carbonapi", "go-carbon", "grafana"]),
    ("agent", &["--carbon-server", "server.example"], &["collectd"]),
    ("backend", &[], &["carbonapi", "go-carbon"]),
    ("frontend", &["--carbon-backends", "one.example:2003,two.example"], &["carbonapi", "grafana"]),
    ("backend-agent", &[], &["carbonapi", "collectd", "go-carbon"]),
];

fn command(bench: &Bench, place: &Path, kind: &str, more: &[&str]) -> Command {
    let mut command = Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(place).arg("-p").arg(bench.port.to_string());
    command.args(["-t", kind, "--hostname", "domain.example.host"]).args(more);
    command
}

fn install(bench: &Bench, place: &Path, kind: &str, more: &[&str]) -> Output {
    command(bench, place, kind, more).output().unwrap()
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

fn read(place: &Path, file: &str) -> String {
    fs::read_to_string(place.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every file and folder below a place, with its mode.
fn modes(place: &Path) -> BTreeMap<PathBuf, u32> {
    let mut out = BTreeMap::new();
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_symlink() {
                continue;
            }
            out.insert(path.strip_prefix(place).unwrap().to_owned(), meta.permissions().mode() & 0o7777);
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    out
}

/// What go-carbon listens on, by its configuration.
fn listens(place: &Path) -> Vec<(String, String)> {
    let conf: toml::Table = read(place, "conf/go-carbon.conf").parse().unwrap();
    let mut out = Vec::new();
    let mut look = |name: &str, table: &toml::Table| {
        if table.get("enabled").is_some_and(|on| on.as_bool() == Some(true)) && table.contains_key("listen") {
            out.push((name.to_owned(), table["listen"].as_str().unwrap().to_owned()));
        }
    };
    for (name, section) in &conf {
        if let Some(table) = section.as_table() {
            look(name, table);
            table
                .iter()
                .filter_map(|(inner, value)| Some((inner, value.as_table()?)))
                .for_each(|(inner, value)| look(inner, value));
        }
    }
    out
}

#[test]
fn every_type_has_its_services_and_opens_nothing_else() {
    let bench = Bench::shipped();
    for (kind, more, services) in TYPES {
        let place = bench.root().join(kind);
        let said = good(&install(&bench, &place, kind, more));
        let mut found: Vec<_> =
            fs::read_dir(place.join("conf/services.d")).unwrap().map(|file| file.unwrap().file_name()).collect();
        found.sort();
        let wanted: Vec<_> = services.iter().map(|name| OsString::from(format!("{name}.toml"))).collect();
        assert_eq!(found, wanted, "{kind}");
        let has = |name: &str| services.contains(&name);
        for (path, mode) in modes(&place) {
            let folder = place.join(&path).is_dir();
            assert_eq!(mode, if folder { 0o700 } else { 0o600 }, "{kind}: {}", path.display());
            if !folder {
                let text = read(&place, path.to_str().unwrap());
                assert!(
                    !text.contains("{{") || path.starts_with("conf/dashboards"),
                    "{kind}: {} is not filled in",
                    path.display()
                );
            }
        }
        let wide = if kind == "all" { "127.0.0.1" } else { "0.0.0.0" };
        if has("go-carbon") {
            let at = |offset: u16, address: &str| format!("{address}:{}", bench.port + offset);
            let wanted = [("carbonserver", at(3, "127.0.0.1")), ("tcp", at(1, wide)), ("udp", at(1, wide))];
            let mut found = listens(&place);
            found.sort();
            assert_eq!(found, wanted.map(|(name, address)| (name.to_owned(), address)), "{kind}");
            let conf: toml::Table = read(&place, "conf/go-carbon.conf").parse().unwrap();
            for (section, offset) in [("pickle", 4), ("carbonlink", 7), ("grpc", 8)] {
                let reserved = conf[section]["listen"].as_str().unwrap();
                assert!(reserved.ends_with(&format!(":{}", bench.port + offset)), "{section} {reserved}");
            }
            assert!(read(&place, "conf/go-carbon.conf").contains(&format!(":{}\"", bench.port + 9)));
        }
        if has("carbonapi") {
            let conf = read(&place, "conf/carbonapi.yaml");
            let asked = if kind == "frontend" {
                format!("- \"http://one.example:2003\"\n          - \"http://two.example:{}\"\n", bench.port + 3)
            } else {
                format!("- \"http://127.0.0.1:{}\"\n", bench.port + 3)
            };
            assert!(conf.contains(&format!("servers:\n          {asked}")), "{kind}: {conf}");
        }
        if has("collectd") {
            let conf = read(&place, "conf/collectd.d/write_graphite.conf");
            let host = if kind == "agent" { "server.example" } else { "127.0.0.1" };
            assert!(
                conf.contains(&format!("Host \"{host}\"")) && conf.contains("Prefix \"collectd.domain.example.\""),
                "{conf}"
            );
            let telegraf: toml::Table = read(&place, "conf/telegraf.conf").parse().unwrap();
            let output = &telegraf["outputs"]["graphite"][0];
            assert_eq!(output["servers"][0].as_str().unwrap(), format!("{host}:{}", bench.port + 1));
            assert_eq!(output["prefix"].as_str().unwrap(), "telegraf.domain.example");
        }
        // Of what listens to others it is said what that means; the rules are for exactly that.
        let open = has("go-carbon") && kind != "all";
        assert_eq!(said.contains("knows no passwords"), open, "{kind}: {said}");
        assert_eq!(place.join("conf/firewall.txt").exists(), open, "{kind}");
        if open {
            let rules = read(&place, "conf/firewall.txt");
            assert!(rules.contains(&format!("udp dport {{ {} }}", bench.port + 1)), "{rules}");
            assert_eq!(rules.contains(&format!("port port=\"{}\"", bench.port + 2)), !has("grafana"), "{rules}");
        }
    }
}

/// Neither its number nor its place is in any file but the record: nobody has to restart for those.
#[test]
fn another_version_alone_changes_no_file() {
    let bench = Bench::shipped();
    good(&install(&bench, &bench.data(), "all", &[]));
    let next = bench.root().join("the next bundle");
    assert!(Command::new("cp").arg("-a").arg(bench.bundle_path()).arg(&next).status().unwrap().success());
    let path = next.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["version"] = json!("77.0.0");
    fs::write(&path, manifest.to_string()).unwrap();
    let update = Command::new(next.join("installer"))
        .arg("-d")
        .arg(bench.data())
        .args(["--update", "--yes", "--json"])
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&update.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&update)));
    assert_eq!((&told["to"]["version"], &told["changed"]), (&json!("77.0.0"), &json!(["conf/installed.json"])), "{told}");
}

#[test]
fn strange_places_stay_places() {
    let bench = Bench::shipped();
    let long = "x".repeat(200);
    for name in
        ["two  words", "it's", "a \"quote\"", "däta ☃", "$HOME", "a#b;c", "back\\slash", "%(x)", "(round)", "-dash", &long]
    {
        let place = bench.root().join(name);
        let output = install(&bench, &place, "all", &[]);
        if name == "%(x)" {
            // Grafana would put something in the place of that.
            assert!(
                !output.status.success() && text(&output).contains("cannot be written in Grafana's configuration"),
                "{}",
                text(&output)
            );
            assert!(!place.exists());
            continue;
        }
        good(&output);
        let conf: toml::Table = read(&place, "conf/go-carbon.conf").parse().unwrap();
        assert_eq!(Path::new(conf["whisper"]["data-dir"].as_str().unwrap()), place.join("storage/whisper"));
        let said = good(&bench.command_in(&place, &["avail", "--json"]).output().unwrap());
        assert!(said.contains("grafana"), "{name}: {said}");
    }
    for name in ["a\nb", "back`quote"] {
        let output = install(&bench, &bench.root().join(name), "all", &[]);
        assert!(!output.status.success(), "{}", text(&output));
        assert!(!bench.root().join(name).exists());
    }
}

#[test]
fn the_mask_of_whoever_installs_does_not_matter() {
    let bench = Bench::shipped();
    let made = |mask: &str| {
        let place = bench.root().join(format!("new {mask}/data"));
        let installer = command(&bench, &place, "all", &[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {mask}; exec \"$@\""), "sh"]).arg(installer.get_program()).args(installer.get_args());
        good(&shell.output().unwrap());
        modes(&place)
    };
    let (open, closed) = (made("000"), made("077"));
    assert_eq!(open, closed);
    assert!(open.values().all(|mode| mode & 0o077 == 0));
}

#[test]
fn grafana_is_told_how_browsers_reach_it() {
    let bench = Bench::shipped();
    let pem = |name: &str, part: &str| {
        let path = bench.root().join(name);
        fs::write(&path, format!("-----BEGIN {part}-----\nAA==\n-----END {part}-----\n")).unwrap();
        path
    };
    let (certificate, key) = (pem("cert.pem", "CERTIFICATE"), pem("key.pem", "PRIVATE KEY"));
    let ini = |name: &str, more: &[&str]| {
        let place = bench.root().join(name);
        good(&install(&bench, &place, "server", more));
        (read(&place, "conf/grafana.ini"), read(&place, "conf/services.d/grafana.toml"))
    };
    let has = |text: &str, lines: &[String]| {
        for line in lines {
            assert!(text.lines().any(|other| other == line), "\"{line}\" is not in:\n{text}");
        }
    };
    let line = |line: &str| line.to_owned();
    let (plain, _) = ini("plain", &[]);
    has(&plain, &[line("protocol = http"), line("cookie_secure = false"), line("http_addr = `0.0.0.0`")]);
    assert!(!plain.contains("root_url") && !plain.contains("cert_file"));
    let (secure, service) = ini("secure", &["--tls", certificate.to_str().unwrap(), key.to_str().unwrap()]);
    has(&secure, &[line("protocol = https"), line("cookie_secure = true"), format!("cert_key = `{}`", key.display())]);
    assert!(service.contains(&format!("http = \"https://127.0.0.1:{}/api/health\"", bench.port)), "{service}");
    let (proxied, service) = ini("proxied", &["--behind-proxy", "https://example.org/grafana/"]);
    has(
        &proxied,
        &[
            line("protocol = http"),
            line("http_addr = `127.0.0.1`"),
            line("domain = `example.org`"),
            line("root_url = `https://example.org/grafana/`"),
            line("serve_from_sub_path = true"),
            line("cookie_secure = true"),
        ],
    );
    assert!(service.contains(&format!("http = \"http://127.0.0.1:{}/api/health\"", bench.port)), "{service}");
    for (more, why) in [
        (vec!["--behind-proxy", "example.org"], "it has to be as https://HOST/"),
        (vec!["--tls", "/nowhere", key.to_str().unwrap()], "cannot use /nowhere"),
        (vec!["--tls", key.to_str().unwrap(), certificate.to_str().unwrap()], "a certificate is needed"),
    ] {
        let output = install(&bench, &bench.data(), "server", &more);
        assert!(!output.status.success() && text(&output).contains(why), "{why}: {}", text(&output));
    }
    let output = install(&bench, &bench.data(), "backend", &["--behind-proxy", "https://x/"]);
    assert!(text(&output).contains("the type backend does not have"), "{}", text(&output));
}

#[test]
fn the_originals_interval_and_schema_by_flags() {
    let bench = Bench::shipped();
    good(&install(&bench, &bench.data(), "all", &["--interval", "300", "--retention", "5m:30d,1h:1y"]));
    assert!(read(&bench.data(), "conf/storage-schemas.conf").contains("retentions = 5m:30d,1h:1y\n"));
    assert!(read(&bench.data(), "conf/collectd.conf").contains("Interval 300\n"));
    let said = good(&install(&bench, &bench.root().join("other"), "all", &["--retention", "5m:30d,1h:1y"]));
    assert!(said.contains("points come every 10 s and are kept every 300 s"), "{said}");
}

/// As DSS's guide to its processes names them.
#[test]
fn processes_of_dss_are_told_apart_by_their_command_lines() {
    let bench = Bench::shipped();
    good(&install(&bench, &bench.data(), "all", &[]));
    let conf = read(&bench.data(), "conf/collectd.d/processes.conf");
    let pattern = |name: &str| {
        let line = conf.lines().find(|line| line.contains(&format!("\"{name}\""))).unwrap();
        line.split('"').nth(3).unwrap().replace("\\\\", "\\")
    };
    // By the same kind of expression as collectd's.
    let matches = |name: &str, line: &str| {
        let mut grep =
            Command::new("grep").args(["-Eq", "--", &pattern(name)]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut grep.stdin.take().unwrap(), format!("{line}\n").as_bytes()).unwrap();
        grep.wait().unwrap().success()
    };
    let java = |class: &str| {
        format!("/usr/lib/jvm/java-17/bin/java -ea -Dfile.encoding=utf8 -Xmx2g -cp a.jar:b.jar com.dataiku.dip.{class}")
    };
    let lines = [
        (java("DSSBackendMain"), "dss_backend"),
        (java("server.DSSBackendMain --port 11201"), "dss_backend"),
        (java("DSSFutureKernelMain 1 2"), "dss_fek"),
        (java("futures.DSSFutureKernelName"), "dss_fek"),
        (java("dataflow.jobrunner.DSSJobKernelMain 7"), "dss_jek"),
        // What DSS marks them by, in front of a class path of any length.
        ("java -Ddku.backend -ea -cp a.jar com.dataiku.dip.Main".to_owned(), "dss_backend"),
        ("/usr/bin/java -Ddku.fek -Xmx2g".to_owned(), "dss_fek"),
        ("java -Ddku.jek=7".to_owned(), "dss_jek"),
        ("java -Ddku.jekyll".to_owned(), ""),
        ("grep DSSJobKernelMain".to_owned(), ""),
        (java("DSSGovernServerMain"), ""),
        ("tail -f run/backend.log".to_owned(), ""),
    ];
    for (line, wanted) in lines {
        for name in ["dss_backend", "dss_fek", "dss_jek"] {
            assert_eq!(matches(name, &line), name == wanted, "{name}: {line}");
        }
    }
}

#[test]
fn a_frontend_is_told_whom_to_ask_and_others_are_not() {
    let bench = Bench::shipped();
    let refused = |kind: &str, more: &[&str], why: &str| {
        let output = install(&bench, &bench.data(), kind, more);
        assert!(!output.status.success() && text(&output).contains(why), "{why} is not in {}", text(&output));
        assert!(!bench.data().exists());
    };
    refused("frontend", &[], "a frontend has to be told which carbonservers to ask");
    refused("frontend", &["--carbon-backends", "a:1,a:1"], "it is named twice");
    refused("frontend", &["--carbon-backends", "a:x"], "it has to be HOST or HOST:PORT");
    refused("server", &["--carbon-backends", "a:1"], "--carbon-backends is for a frontend");
    good(&install(&bench, &bench.data(), "frontend", &["--carbon-backends", "a", "--carbon-server", "b:1"]));
    assert!(read(&bench.data(), "conf/carbonapi.yaml").contains("host: \"b:1\"\n"));
}

#[test]
fn an_agent_needs_no_port_of_its_own() {
    let bench = Bench::shipped();
    let run = |server: &str| {
        let mut command = Command::new(bench.bundle_path().join("installer"));
        command.arg("-d").arg(bench.data()).args(["-t", "agent", "--carbon-server", server]).output().unwrap()
    };
    let said = text(&run("server.example"));
    assert!(said.contains("without --port it has to be HOST:PORT"), "{said}");
    good(&run("server.example:2003"));
}

#[test]
fn root_is_refused_unless_told() {
    if !nix::unistd::geteuid().is_root() || !cfg!(target_os = "linux") {
        return;
    }
    let bench = Bench::shipped();
    let mut alone = command(&bench, &bench.data(), "all", &[]);
    let output = alone.env_remove("DKM_ALLOW_ROOT").output().unwrap();
    assert!(!output.status.success() && text(&output).contains("this is root"), "{}", text(&output));
    assert!(!bench.data().exists());
    let mut told = command(&bench, &bench.data(), "all", &["--allow-root"]);
    good(&told.env_remove("DKM_ALLOW_ROOT").output().unwrap());
}

#[test]
fn a_place_that_may_not_be_changed_is_told() {
    let bench = Bench::shipped();
    let parent = bench.root().join("parent");
    fs::create_dir(&parent).unwrap();
    for folder in [bench.root(), parent.clone()] {
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).unwrap();
    }
    let mut command = command(&bench, &parent.join("data"), "all", &[]);
    if nix::unistd::geteuid().is_root() {
        // Nobody refuses root anything here.
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    fs::set_permissions(bench.root(), PermissionsExt::from_mode(0o755)).unwrap();
    let why = format!("cannot make anything in {}", parent.display());
    assert!(!output.status.success() && text(&output).contains(&why), "{}", text(&output));
}

#[cfg(target_os = "linux")]
#[test]
fn a_place_without_room_is_told() {
    let bench = Bench::shipped();
    let disk = bench.root().join("disk");
    fs::create_dir(&disk).unwrap();
    let installer = command(&bench, &disk.join("data"), "all", &[]);
    let mut shell = Command::new("unshare");
    shell.args(["-rm", "sh", "-c", "mount -t tmpfs -o size=4m tmpfs \"$0\" || exit 99; \"$@\"; ls -A \"$0\""]).arg(&disk);
    let output = shell.arg(installer.get_program()).args(installer.get_args()).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        assert!(std::env::var_os("CI").is_none(), "CI can have mount namespaces");
        eprintln!("passed over: a small disk needs a mount namespace");
        return;
    };
    let said = text(&output);
    assert!(said.contains("MB of room; all needs 600 MB to begin with"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "something was left on the disk");
}

#[test]
fn a_bundle_for_a_newer_c_library_is_refused() {
    let bench = Bench::shipped();
    let path = bench.bundle_path().join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["platform"]["glibc"] = json!("99.0");
    fs::write(&path, manifest.to_string()).unwrap();
    let said = text(&install(&bench, &bench.data(), "all", &[]));
    assert!(said.contains("the bundle needs glibc 99.0 or newer"), "{said}");
    manifest["platform"]["glibc"] = json!("2.2");
    fs::write(&path, manifest.to_string()).unwrap();
    let output = install(&bench, &bench.data(), "all", &["--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    assert_eq!(told["endpoints"].as_object().unwrap().len(), 4, "{told}");
    assert_eq!(told["reserved-ports"]["tags"], json!(bench.port + 9), "{told}");
}
