//! What the supervisor tells carbon: a listener here takes carbon's place.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bench::{Bench, send, shell, text, until};

/// Takes connections and reads lines without waiting.
struct Carbon {
    listener: TcpListener,
    streams: Vec<TcpStream>,
    bytes: Vec<u8>,
}

/// The values of each time, by their names below the prefix.
type Rounds = BTreeMap<u64, BTreeMap<String, u64>>;

impl Carbon {
    fn new(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, streams: Vec::new(), bytes: Vec::new() }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// All that has come so far in whole lines. Each has to be one.
    fn rounds(&mut self) -> Rounds {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            self.streams.push(stream);
        }
        let mut buffer = [0; 65_536];
        for stream in &mut self.streams {
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                self.bytes.extend_from_slice(&buffer[..count]);
            }
        }
        let whole = self.bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let mut out = Rounds::new();
        for line in String::from_utf8(self.bytes[..whole].to_vec()).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, value, time] = words[..] else { panic!("\"{line}\" is not NAME VALUE TIME") };
            let name = name.strip_prefix("dkumonitor.local.test.supervisor.").unwrap_or_else(|| panic!("{line}"));
            let old = out.entry(time.parse().unwrap()).or_default().insert(name.to_owned(), value.parse().unwrap());
            assert_eq!(old, None, "\"{line}\" came twice");
        }
        out
    }

    /// The first round from now on that is so.
    fn wait_for(&mut self, what: &str, mut good: impl FnMut(&BTreeMap<String, u64>) -> bool) -> BTreeMap<String, u64> {
        let before = self.rounds().keys().next_back().copied().unwrap_or(0);
        let mut found = None;
        until(what, || {
            found = self.rounds().range(before + 1..).map(|(_, round)| round).find(|round| good(round)).cloned();
            found.is_some()
        });
        found.unwrap()
    }
}

fn configure(bench: &Bench, carbon: &str) {
    let settings = format!("[metrics]\ncarbon = \"{carbon}\"\nprefix = \"dkumonitor.local.test.supervisor\"\ninterval-s = 1\n");
    fs::write(bench.data().join("conf/supervisor.toml"), settings).unwrap();
}

fn two_sleepers() -> Bench {
    Bench::installed(&[shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "sleep 1000 & wait")])
}

#[test]
fn services_and_the_supervisor_are_told_of() {
    let bench = two_sleepers();
    let mut carbon = Carbon::new("127.0.0.1:0");
    configure(&bench, &carbon.address());
    bench.good(&["start"]);
    let round = carbon.wait_for("two running services", |round| round.get("services.running") == Some(&2));
    let of = |round: &BTreeMap<String, u64>, service: &str, what: &str| round[&format!("service.{service}.{what}")];
    assert_eq!((of(&round, "go-carbon", "state"), of(&round, "go-carbon", "up")), (3, 1));
    assert_eq!((of(&round, "go-carbon", "processes"), of(&round, "carbonapi", "processes")), (1, 2), "{round:?}");
    assert!(of(&round, "go-carbon", "memory") > 10_000 && round["memory"] > 100_000, "{round:?}");
    assert_eq!((round["services.all"], round["services.failing"], round["metrics_dropped"]), (2, 0, 0));
    for name in ["uptime", "cpu_ms", "service.carbonapi.uptime", "service.carbonapi.cpu_ms", "service.carbonapi.log_dropped"] {
        assert!(round.contains_key(name), "{name} is not in {round:?}");
    }
    send(bench.pid("go-carbon"), Signal::SIGKILL);
    let round = carbon.wait_for("a restart", |round| of(round, "go-carbon", "restarts") == 1);
    assert_eq!(of(&round, "carbonapi", "restarts"), 0);
    bench.good(&["stop", "carbonapi"]);
    let round = carbon.wait_for("a stopped service", |round| of(round, "carbonapi", "state") == 0);
    let values = ["up", "uptime", "processes", "memory"].map(|what| of(&round, "carbonapi", what));
    assert_eq!((values, round["services.running"]), ([0; 4], 1));
}

#[cfg(target_os = "linux")]
#[test]
fn a_carbon_that_is_away_holds_nobody_up_and_gets_what_it_missed() {
    let bench = two_sleepers();
    let place = Carbon::new("127.0.0.1:0").address();
    configure(&bench, &place);
    bench.good(&["start"]);
    let supervisor = bench.pid("");
    let open = || fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    until("the first try", || bench.supervisor_log().contains("cannot send metrics"));
    let before = open();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(bench.state("go-carbon"), "running");
    until("no more descriptors than before", || open() <= before);
    assert_eq!(bench.supervisor_log().matches("cannot send metrics").count(), 1, "{}", bench.supervisor_log());
    let mut carbon = Carbon::new(&place);
    carbon.wait_for("a round", |_| true);
    until("the word that it is back", || bench.supervisor_log().contains("metrics reach"));
    let rounds = carbon.rounds();
    let times: Vec<u64> = rounds.keys().copied().collect();
    assert!(times.len() >= 4, "what was missed has not come: {times:?}");
    assert!(times.windows(2).all(|pair| pair[1] == pair[0] + 1), "a round is missing: {times:?}");
    assert!(rounds.values().all(|round| round["metrics_dropped"] == 0));
    // One that goes away and comes again is found again, by one connection.
    drop(carbon);
    let mut carbon = Carbon::new(&place);
    carbon.wait_for("a round", |_| true);
    carbon.wait_for("another", |_| true);
    assert_eq!(carbon.streams.len(), 1);
}

/// Whoever sends metrics wakes up for that, and once more to rest, and for nothing else.
#[cfg(target_os = "linux")]
#[test]
fn there_are_two_wake_ups_each_interval() {
    let bench = two_sleepers();
    let mut carbon = Carbon::new("127.0.0.1:0");
    configure(&bench, &carbon.address());
    bench.good(&["start"]);
    let supervisor = bench.pid("");
    let switches = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse().unwrap()
    };
    carbon.wait_for("a quiet start", |round| round.get("services.running") == Some(&2));
    carbon.wait_for("another round", |_| true);
    // Rounds are counted from before the one look to behind the other: none that woke it up is missed.
    let first = carbon.rounds().len();
    let before = switches();
    until("four rounds", || carbon.rounds().len() >= first + 4);
    let woken = switches() - before;
    let rounds = (carbon.rounds().len() - first) as u64;
    assert!(woken <= 2 * rounds + 2, "woke up {woken} times for {rounds} rounds");
}

#[test]
fn settings_change_with_update_and_bad_ones_are_refused_by_name() {
    let bench = two_sleepers();
    bench.good(&["start"]);
    let mut carbon = Carbon::new("127.0.0.1:0");
    configure(&bench, &carbon.address());
    bench.good(&["update"]);
    carbon.wait_for("a round", |_| true);
    assert!(bench.good(&["check"]).contains("supervisor: good"));
    let path = bench.data().join("conf/supervisor.toml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("interval-s = 1", "interval-s = 0")).unwrap();
    for verb in ["check", "update"] {
        let output = bench.dkm(&[verb]);
        let said = text(&output);
        assert!(
            !output.status.success() && said.contains("supervisor.toml") && said.contains("is not from 1 to 3600"),
            "{said}"
        );
    }
    carbon.wait_for("a round by what was in force", |_| true);
    fs::remove_file(&path).unwrap();
    bench.good(&["update"]);
    until("the connection to be closed", || {
        let mut byte = [0];
        carbon.rounds();
        carbon.streams.iter_mut().all(|stream| matches!(stream.read(&mut byte), Ok(0)))
    });
}
