//! What a supervisor in the foreground prints: its own words, and what services print where that is wanted.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, send, shell, text, until};
use crate::logs::unstamped;

/// How long may be waited for what a busy machine takes its time for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A supervisor in the foreground. Whatever a test comes to, it does not outlive it.
struct Foreground {
    child: Child,
    out: PathBuf,
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Foreground {
    /// Starts one that prints into a file.
    fn start(bench: &Bench, mut command: Command) -> Self {
        let out = bench.root().join("printed");
        let child = command.stdout(File::create(&out).unwrap()).spawn().unwrap();
        Self { child, out }
    }

    /// What it has printed, without the times, which have to be there.
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.out).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| unstamped(line).trim_start().to_owned()).collect()
    }

    fn shows(&self, wanted: &str) -> bool {
        self.lines().iter().any(|line| line == wanted)
    }

    fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Ends it, and gives what it has printed until then.
    fn end(mut self) -> Vec<String> {
        send(self.pid(), Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success());
        self.lines()
    }
}

/// An installation with these services, beside those that no installation is without.
fn with(mut services: Vec<Value>) -> Bench {
    services.extend(["go-carbon", "carbonapi"].map(|name| shell(name, "exec sleep 1000")));
    Bench::installed(&services)
}

#[test]
fn what_services_print_is_printed_line_by_line_with_their_names() {
    let long = "head -c 20000 /dev/zero | tr '\\0' x; echo";
    let talker = shell("talker", &format!("printf 'one\\ntwo \\033[2J\\n'; {long}; printf 'no end'; exec sleep 1000"));
    let mut broken = shell("broken", "printf 'last words'; exit 3");
    broken["restart"] = json!("never");
    let mut stamped = shell("stamped", "echo with a time in its log; exec sleep 1000");
    stamped["log"] = json!({"timestamps": true});
    let bench = with(vec![talker, broken, stamped]);
    let foreground = Foreground::start(&bench, bench.command(&["run", "--forward-logs"]));
    let cut = format!("talker      {} [3616 more bytes in this line; they are in its log]", "x".repeat(16 * 1024));
    let lines =
        ["talker      one", "talker      two \\x1b[2J", &cut, "broken      last words", "stamped     with a time in its log"];
    until("what they print", || lines.iter().all(|line| foreground.shows(line)));
    until("what becomes of them", || foreground.shows("supervisor  broken: exited, ended with status 3"));
    until("a line without an end", || bench.log("talker").ends_with("no end"));
    let pid = foreground.pid();
    let all = foreground.end();
    assert_eq!(all[0], format!("supervisor  supervisor {} started, process {pid}", env!("CARGO_PKG_VERSION")));
    assert_eq!(all.last().unwrap(), "supervisor  supervisor ended");
    assert!(all.iter().any(|line| line == "talker      no end"), "{all:#?}");
    let once = |line: &&str| all.iter().filter(|other| other == line).count() == 1;
    assert!(lines.iter().all(once), "{all:#?}");
    // The logs are as they always are.
    assert!(bench.log("talker").starts_with("one\ntwo \x1b[2J\nxxx"));
    assert_eq!(unstamped(&bench.log("stamped")), "with a time in its log\n");
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up_and_is_told_what_it_missed() {
    const COUNT: u64 = 100_000;
    let flood = shell("flood", &format!("seq {COUNT}; touch printed-all; exec sleep 1000"));
    let bench = with(vec![flood]);
    let mut command = bench.command(&["run", "--forward-logs"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let pipe = child.stdout.take().unwrap();
    let foreground = Foreground { child, out: PathBuf::new() };
    until("the end of a flood that nobody reads", || bench.data().join("printed-all").exists());
    until("all of it in the log", || bench.log("flood").ends_with(&format!("\n{COUNT}\n")));
    until("the supervisor's answer", || bench.state("flood") == "running");

    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let _ = sender.send(line.unwrap());
        }
    });
    let end = Instant::now() + PATIENCE;
    let (mut shown, mut missing, mut last) = (0, 0, 0);
    while shown + missing < COUNT {
        let left = end.saturating_duration_since(Instant::now());
        let line = receiver.recv_timeout(left).unwrap_or_else(|_| panic!("{shown} are shown and {missing} missing"));
        let line = unstamped(&line).trim_start();
        if let Some(number) = line.strip_prefix("flood       ") {
            let number: u64 = number.parse().unwrap_or_else(|_| panic!("torn: {line}"));
            assert!(number > last, "{number} comes behind {last}");
            (shown, last) = (shown + 1, number);
        } else if let Some(count) = line.split_once(" lines are missing here").and_then(|(head, _)| head.rsplit_once(' ')) {
            missing += count.1.parse::<u64>().unwrap();
        } else {
            assert!(line.starts_with("supervisor  "), "torn: {line}");
        }
    }
    assert!(shown > 0 && missing > 0 && shown + missing == COUNT, "{shown} are shown and {missing} missing");
    send(foreground.pid(), Signal::SIGTERM);
    // The end of what it prints is its own.
    reader.join().unwrap();
    assert!(receiver.iter().any(|line| line.ends_with("supervisor  supervisor ended")));
}

#[test]
fn services_are_silent_unless_it_is_asked_for_and_the_supervisor_is_not() {
    let bench = with(vec![shell("talker", "echo one; exec sleep 1000")]);
    let ready = || bench.log("talker") == "one\n";
    let foreground = Foreground::start(&bench, bench.command(&["run"]));
    until("the service's line", ready);
    until("the supervisor's line", || foreground.lines().iter().any(|line| line.starts_with("supervisor  talker: running")));
    let lines = foreground.end();
    assert!(lines.iter().all(|line| line.starts_with("supervisor  ")), "{lines:#?}");

    let mut command = bench.command(&["supervisor", "--start"]);
    command.env("DKM_FORWARD_LOGS", "1");
    let foreground = Foreground::start(&bench, command);
    until("the service's line by the variable", || foreground.shows("talker      one"));
    foreground.end();

    let output = bench.command(&["run"]).env("DKM_FORWARD_LOGS", "perhaps").output().unwrap();
    let said = text(&output);
    assert!(output.status.code() == Some(1) && said.contains("cannot use DKM_FORWARD_LOGS=perhaps"), "{said}");
    let output = bench.dkm(&["run", "talker", "--forward-logs"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));

    // In the background standard output is its own log, which has every line once.
    fs::remove_file(bench.data().join("run/supervisor.log")).unwrap();
    let output = bench.command(&["start"]).env("DKM_FORWARD_LOGS", "1").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    bench.done(&json!({"verb": "upgrade-self"}));
    let log = bench.supervisor_log();
    for line in ["started, process", "has taken over, process", "talker: running"] {
        assert_eq!(log.matches(line).count(), 1, "{log}");
    }
    assert!(!log.contains("talker      "), "{log}");
}

#[test]
fn a_program_that_takes_over_prints_on() {
    let script = "printf 'before, '; until [ -e more ]; do sleep 0.05; done; echo and after; exec sleep 1000";
    let bench = with(vec![shell("talker", script)]);
    let foreground = Foreground::start(&bench, bench.command(&["run", "--forward-logs"]));
    until("the service's line", || bench.log("talker") == "before, ");
    bench.done(&json!({"verb": "upgrade-self"}));
    fs::write(bench.data().join("more"), "").unwrap();
    until("a line of the service's to the new program", || foreground.shows("talker      and after"));
    let pid = foreground.pid();
    let lines = foreground.end();
    let at = |wanted: &str| lines.iter().position(|line| line == wanted).unwrap_or_else(|| panic!("no {wanted} in {lines:#?}"));
    let version = env!("CARGO_PKG_VERSION");
    let taken_over = at(&format!("supervisor  supervisor {version} has taken over, process {pid}"));
    assert!(at("talker      before, ") < taken_over && taken_over < at("talker      and after"), "{lines:#?}");
}
