//! The pictures: every panel of every dashboard asks for something that is really sent, and the page is drawn in a real browser.
//!
//! The questions go through Grafana's proxy, as a browser's do.

mod webdriver;

use crate::common::monitor::{ARCHIVE, Bundle, Monitor, PATIENCE, now};
use crate::common::wait_for;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use webdriver::Browser;

/// This machine's name in the test; another one has fewer parts.
const HOST: &str = "test.example.host-1";
const OTHER: &str = "elsewhere";
/// A DSS instance, as its own integration would name it.
const INSTANCE: &str = "domain.example.dss.11200";

/// Grafana as a logged-in browser sees it.
struct Grafana {
    client: Client,
    root: String,
    password: String,
}

impl Grafana {
    fn of(monitor: &Monitor) -> Self {
        // Only the first one is taken; all are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        let password = fs::read_to_string(monitor.data.join("conf/secrets/grafana-admin-password")).unwrap();
        Self { client, root: format!("http://127.0.0.1:{}", monitor.port), password }
    }

    /// A GET, which has to be answered well.
    #[track_caller]
    fn get(&self, path: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.root)).basic_auth("admin", Some(&self.password));
        let answer = request.send().unwrap();
        let (status, text) = (answer.status(), answer.text().unwrap());
        assert!(status.is_success(), "{path}: {status}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    fn dashboards(&self) -> BTreeMap<String, Value> {
        let found = self.get("/api/search");
        let uids = found.as_array().unwrap().iter().map(|one| one["uid"].as_str().unwrap().to_owned());
        uids.map(|uid| (uid.clone(), self.get(&format!("/api/dashboards/uid/{uid}"))["dashboard"].clone())).collect()
    }

    /// The series of a target in the last five minutes: each one's name and how many values it has.
    #[track_caller]
    fn render(&self, target: &str) -> Vec<(String, usize)> {
        let form = [("target", target), ("from", "-5min"), ("until", "now"), ("format", "json"), ("maxDataPoints", "500")];
        let body = form.map(|(name, value)| format!("{name}={}", escaped(value))).join("&");
        let request = self.client.post(format!("{}/api/datasources/proxy/uid/dkumonitor/render", self.root));
        let request = request.basic_auth("admin", Some(&self.password)).body(body);
        let answer = request.header("content-type", "application/x-www-form-urlencoded").send().unwrap();
        let (status, text) = (answer.status(), answer.text().unwrap());
        assert!(status.is_success(), "{target} is not understood: {status}: {text}");
        let series: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{target}: {error}: {text}"));
        let values = |one: &Value| one["datapoints"].as_array().unwrap().iter().filter(|point| !point[0].is_null()).count();
        series.iter().map(|one| (one["target"].as_str().unwrap().to_owned(), values(one))).collect()
    }

    /// What a dashboard's variable can be chosen from.
    fn choices(&self, variable: &Value) -> Vec<String> {
        let query = variable["query"].as_str().unwrap();
        let query = query.strip_prefix("expand(").and_then(|rest| rest.strip_suffix(')')).unwrap_or_else(|| panic!("{query}"));
        let found = self.get(&format!("/api/datasources/proxy/uid/dkumonitor/metrics/expand?query={}", escaped(query)));
        // The one form of pattern that is used: what stands before and behind the one group.
        let pattern = variable["regex"].as_str().unwrap().replace('\\', "");
        let (before, behind) = pattern.trim_matches('/').split_once("(.*)").unwrap();
        let behind = behind.trim_end_matches('$').replace("(?:backend|collectd)", "");
        let names = found["results"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        let inner = names.filter_map(|name| {
            let rest = name.strip_prefix(before.trim_start_matches('^'))?;
            let ends = ["", "backend", "collectd"].map(|end| format!("{behind}{end}"));
            ends.iter().rev().find_map(|end| rest.strip_suffix(end.as_str())).map(str::to_owned)
        });
        inner.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A process that DSS might have started. It ends when this is dropped.
struct Pretender(Child);

impl Pretender {
    fn new(mark: &str) -> Self {
        // It reads from a pipe that nobody writes to; with a shell's own command nothing else is executed.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read nothing", "java", mark]).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Pretender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What DSS's own integration sends, by the names that it is documented with.
fn send_as_dss(monitor: &Monitor) {
    let names = "backend.server.dku.collaboration.activeUsers backend.server.jvm.memory.heap.used backend.server.jvm.memory.heap.max \
        backend.server.catalog.indexAll.datasets.count backend.server.catalog.indexAll.recipes \
        collectd.processes.dss_fek.ps_count.processes collectd.processes.dss_jek.ps_count.processes \
        collectd.processes.dss_backend.ps_rss collectd.processes.dss_backend.ps_cputime.user \
        collectd.processes.dss_backend.ps_cputime.syst collectd.processes.dss_backend.file_handles.mapped \
        collectd.cpu.0.percent.user collectd.cpu.1.user collectd.load.shortterm collectd.memory.used collectd.df.root.df_complex.used \
        collectd.interface.eth0.if_octets.rx collectd.interface.eth0.if_octets.tx collectd.disk.sda.disk_io_time.io_time";
    let lines: String = names.split_whitespace().map(|name| format!("dss.{INSTANCE}.{name} 5 {}\n", now())).collect();
    monitor.send_tcp(&lines);
    monitor.send_tcp(&format!("collectd.{OTHER}.load.load.shortterm 5 {}\n", now()));
}

/// The prefixes of what this machine cannot have: it has no disk, or no network but its own, that collectd would measure.
fn not_here() -> Vec<&'static str> {
    let lines = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let disks = lines("/proc/diskstats");
    let disk = disks.lines().filter_map(|line| line.split_whitespace().nth(2));
    let real = |name: &str| !["loop", "ram", "zram", "sr", "fd"].iter().any(|kind| name.starts_with(kind));
    let interfaces = lines("/proc/net/dev");
    let mut interface = interfaces.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim);
    let mut out = Vec::new();
    if !disk.into_iter().any(real) {
        out.push("disk-");
    }
    if !interface.any(|name| name != "lo" && !name.starts_with("veth")) {
        out.push("interface-");
    }
    out
}

#[test]
fn every_panel_draws_what_is_really_sent() {
    assert!(Path::new("/usr/sbin/collectd").exists(), "`cargo xtask ci --install-missing` installs Debian's collectd");
    let bundle = Bundle::unpack(&ARCHIVE);
    let monitor = bundle.install(&["--system-collectd", "--interval", "1", "--hostname", HOST]);
    let _dss = ["-Ddku.backend", "-Ddku.fek", "-Ddku.jek"].map(Pretender::new);
    monitor.dkm(&["start"]).good();
    let grafana = Grafana::of(&monitor);
    let dashboards = grafana.dashboards();
    let wanted = ["dkumonitor-dss", "dkumonitor-dss-instance", "dkumonitor-machine", "dkumonitor-monitor"];
    assert_eq!(dashboards.keys().map(String::as_str).collect::<Vec<_>>(), wanted);

    let mut missing: Vec<(String, String)> = Vec::new();
    for (uid, dashboard) in &dashboards {
        let host = if uid == "dkumonitor-dss-instance" { INSTANCE } else { HOST };
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
                let target = target["target"].as_str().unwrap();
                // Before anything is there it has to be understood as well, and with a variable that has no choice yet.
                grafana.render(&target.replace("$host", ""));
                missing.push((format!("{uid}, {title}: {target}"), target.replace("$host", host)));
            }
        }
    }
    assert!(missing.len() > 60, "only {} targets were found", missing.len());
    let not_here = not_here();
    missing.retain(|(_, target)| !not_here.iter().any(|part| target.contains(part)));
    send_as_dss(&monitor);
    // Rates need a second point, and carbonapi's figures a query.
    let deadline = std::time::Instant::now() + PATIENCE;
    while !missing.is_empty() {
        missing.retain(|(_, target)| !grafana.render(target).iter().any(|(_, values)| *values > 0));
        assert!(std::time::Instant::now() < deadline, "nothing is sent for\n{missing:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }

    for (uid, wanted) in [
        ("dkumonitor-machine", vec![OTHER, HOST]),
        ("dkumonitor-dss", vec![HOST]),
        ("dkumonitor-dss-instance", vec![INSTANCE]),
        ("dkumonitor-monitor", vec![HOST]),
    ] {
        assert_eq!(grafana.choices(&dashboards[uid]["templating"]["list"][0]), wanted, "{uid}");
    }
    assert_eq!(grafana.render("no.such.thing.*"), [], "a pattern without a match is no data, and no error");
    monitor.dkm(&["shutdown"]).good();
}

/// What Grafana needs to take a dashboard for its own, and what an operator may rely on.
#[test]
fn dashboards_are_whole() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let monitor = bundle.install(&["--interval", "300", "--hostname", HOST]);
    let folder = monitor.data.join("conf/dashboards");
    let mut titles = BTreeSet::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert!(dashboard["uid"].as_str().unwrap().starts_with("dkumonitor-") && dashboard.get("id").is_none(), "{path:?}");
        assert_eq!((&dashboard["schemaVersion"], &dashboard["time"]["from"]), (&json!(37), &json!("now-6h")), "{path:?}");
        assert!(titles.insert(dashboard["title"].to_string()), "{path:?}");
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_i64()).collect();
        assert_eq!(ids.len(), panels.len(), "{path:?}");
        let mut taken = BTreeSet::new();
        for panel in panels {
            let at = |name: &str| panel["gridPos"][name].as_i64().unwrap();
            assert!(at("x") + at("w") <= 24, "{panel}");
            for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
                assert!(taken.insert((x, y)), "{path:?}: {} lies over another panel", panel["title"]);
            }
            for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
                let text = target["target"].as_str().unwrap();
                assert!(!text.contains("{{") && text.matches('(').count() == text.matches(')').count(), "{text}");
            }
        }
    }
    assert_eq!(titles.len(), 4);
}

/// A log in, a picture, and nothing in the browser's console.
#[test]
fn the_page_is_drawn_in_a_browser() {
    let bundle = Bundle::unpack(&ARCHIVE);
    let monitor = bundle.install(&["--interval", "1", "--hostname", HOST]);
    monitor.dkm(&["start"]).good();
    let target = format!("collectd.{HOST}.load.load.*");
    monitor.wait_for_any(&target);
    let browser = Browser::start();
    browser.go_to(&format!("http://127.0.0.1:{}/#target={}&range=15min", monitor.port, escaped(&target)));
    let password = fs::read_to_string(monitor.data.join("conf/secrets/grafana-admin-password")).unwrap();
    browser.type_into("input[name=password]", &password);
    browser.click("form button");
    // What was drawn: dots of the canvas that are not transparent, and a line of the table for each series, with numbers.
    let drawn = "const canvas = document.querySelector('.chart canvas');
        if (!canvas || canvas.width === 0) { return null; }
        const dots = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let count = 0;
        for (let at = 3; at < dots.length; at += 4) { count += dots[at] > 0 ? 1 : 0; }
        return {dots: count, rows: Array.from(document.querySelectorAll('tbody tr'), (row) => row.innerText)};";
    let page = wait_for("the picture", PATIENCE, || {
        let page = browser.run(drawn);
        let rows = page["rows"].as_array().map_or(0, Vec::len);
        (page["dots"].as_i64().unwrap_or(0) > 1_000 && rows == 3).then_some(page)
    });
    let rows: Vec<&str> = page["rows"].as_array().unwrap().iter().map(|row| row.as_str().unwrap()).collect();
    assert!(rows.iter().all(|row| row.contains(HOST) && row.contains(|c: char| c.is_ascii_digit())), "{rows:?}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // The console is really listened to.
    browser.run("console.error('is heard')");
    wait_for("the complaint", PATIENCE, || browser.complaints().iter().any(|text| text.contains("is heard")).then_some(()));
    monitor.dkm(&["shutdown"]).good();
}
