//! Definitions that change while services run, and what else is asked of the supervisor by its socket.

use std::fs;
use std::io::BufRead;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, alive, send, shell, until};

fn sleepers(names: &[&str]) -> Bench {
    let services: Vec<Value> = names.iter().map(|name| shell(name, "exec sleep 1000")).collect();
    Bench::installed(&services)
}

/// The differences that an answer tells of, as `service kind details`.
fn told(answer: &Value) -> Vec<String> {
    let changes = answer["changes"].as_array().cloned().unwrap_or_default();
    let one = |change: &Value| {
        let details: Vec<&str> =
            change["details"].as_array().into_iter().flatten().map(|detail| detail.as_str().unwrap()).collect();
        let (service, kind) = (change["service"].as_str().unwrap(), change["kind"].as_str().unwrap());
        format!("{service} {kind} {}", details.join(" "))
    };
    changes.iter().map(|change| one(change).trim_end().to_owned()).collect()
}

#[test]
fn only_what_changed_is_touched() {
    let bench = sleepers(&["go-carbon", "carbonapi", "leaving", "resting"]);
    bench.good(&["start", "go-carbon", "carbonapi", "leaving"]);
    let pids = [bench.pid("go-carbon"), bench.pid("carbonapi"), bench.pid("leaving")];
    let answer = bench.done(&json!({"verb": "reread"}));
    assert_eq!(told(&answer), Vec::<String>::new());

    let longer = "command = [\"/bin/sh\", \"-c\", \"exec sleep 2000\"]\nstop-timeout-s = 7\n";
    fs::write(bench.definition("carbonapi"), longer).unwrap();
    fs::write(bench.definition("resting"), longer).unwrap();
    fs::write(bench.definition("new"), longer).unwrap();
    fs::write(bench.definition("spare"), format!("{longer}enabled = false\n")).unwrap();
    fs::write(bench.definition("wrong"), "comand = 7\n").unwrap();
    fs::remove_file(bench.definition("leaving")).unwrap();
    let answer = bench.done(&json!({"verb": "reread"}));
    let changes = told(&answer);
    assert_eq!(changes[..2], ["carbonapi changed command ready-timeout-s stop-timeout-s", "new added"], "{changes:?}");
    assert!(changes[2].starts_with("resting changed") && changes[3] == "spare added", "{changes:?}");
    assert_eq!(changes[4], "leaving removed", "{changes:?}");
    assert!(changes[5].starts_with("wrong broken") && changes[5].contains("did you mean \"command\"?"), "{changes:?}");
    // It has only told.
    assert_eq!(["go-carbon", "carbonapi", "leaving"].map(|name| bench.status(name)["pid"].clone()), pids.map(|pid| json!(pid)));
    assert_eq!(bench.status("carbonapi")["definition"], "changed");

    let answer = bench.done(&json!({"verb": "update", "wait": true}));
    assert_eq!(told(&answer), changes);
    assert_eq!(bench.status("go-carbon")["pid"], pids[0]);
    let now = bench.status("carbonapi");
    assert!(now["pid"] != pids[1] && now["state"] == "running" && now.get("definition").is_none(), "{now}");
    assert!(!alive(pids[1]) && !alive(pids[2]));
    assert_eq!(
        (bench.state("new"), bench.state("spare"), bench.state("resting")),
        ("running".into(), "stopped".into(), "stopped".into())
    );
    let known: Value = serde_json::from_slice(&bench.dkm(&["status", "--json"]).stdout).unwrap();
    assert!(!known.as_array().unwrap().iter().any(|status| status["name"] == "leaving"), "{known}");
    let command = fs::read(format!("/proc/{}/cmdline", now["pid"]));
    if cfg!(target_os = "linux") {
        assert_eq!(command.unwrap(), b"sleep\x002000\0");
    }
    // Nothing is left to be done.
    let answer = bench.done(&json!({"verb": "update", "wait": true}));
    assert_eq!(told(&answer).len(), 1, "only what is broken is told again");
    assert_eq!(bench.status("carbonapi")["pid"], now["pid"]);
    fs::remove_file(bench.definition("wrong")).unwrap();
    fs::remove_file(bench.definition("new")).unwrap();
    bench.done(&json!({"verb": "update", "services": ["new"], "wait": true}));
}

#[test]
fn a_service_is_ended_by_the_definition_that_began_it() {
    let script =
        |word: &str| format!("trap 'echo {word}; exit 0' USR1 USR2; trap '' TERM; echo here; while :; do sleep 0.02; done");
    let mut service = shell("go-carbon", &script("old"));
    service["stop-signal"] = json!("SIGUSR1");
    let bench = Bench::installed(&[service, shell("carbonapi", "exec sleep 1000")]);
    bench.good(&["start"]);
    until("the trap", || bench.log("go-carbon").contains("here"));
    let text = fs::read_to_string(bench.definition("go-carbon")).unwrap();
    fs::write(bench.definition("go-carbon"), text.replace("SIGUSR1", "SIGUSR2").replace("echo old", "echo new")).unwrap();
    bench.done(&json!({"verb": "update", "wait": true}));
    until("the new trap", || bench.log("go-carbon").matches("here").count() == 2);
    bench.good(&["stop"]);
    // The shell tells of its child's signal, too.
    let log = bench.log("go-carbon");
    let words: Vec<&str> = log.lines().filter(|line| ["here", "old", "new"].contains(line)).collect();
    assert_eq!(words, ["here", "old", "here", "new"]);
}

#[test]
fn hup_applies_what_changed() {
    let bench = sleepers(&["go-carbon", "carbonapi"]);
    bench.good(&["start"]);
    let (kept, changed) = (bench.pid("go-carbon"), bench.pid("carbonapi"));
    fs::write(bench.definition("carbonapi"), "command = [\"/bin/sleep\", \"3000\"]\n").unwrap();
    send(bench.pid(""), Signal::SIGHUP);
    until("the new one", || bench.renewed("carbonapi", changed));
    assert_eq!(bench.pid("go-carbon"), kept);
}

#[test]
fn a_reload_sends_what_the_service_knows() {
    let mut service = shell("go-carbon", "trap 'echo read again' HUP; echo here; while :; do sleep 0.02; done");
    service["reload-signal"] = json!("HUP");
    let bench = Bench::installed(&[service, shell("carbonapi", "exec sleep 1000")]);
    bench.good(&["start"]);
    until("the trap", || bench.log("go-carbon").contains("here"));
    bench.done(&json!({"verb": "reload", "services": ["go-carbon"]}));
    until("the signal", || bench.log("go-carbon").contains("read again"));
    let answer = bench.ask(&json!({"verb": "reload", "services": ["carbonapi"]})).pop().unwrap();
    assert!(answer["problems"][0]["message"].as_str().unwrap().contains("no reload-signal"), "{answer}");
    let answer = bench.ask(&json!({"verb": "reload"})).pop().unwrap();
    assert_eq!(answer["type"], "error");

    let pid = bench.pid("carbonapi");
    bench.done(&json!({"verb": "signal", "signal": "KILL", "services": ["carbonapi"]}));
    until("its end", || !alive(pid));
    let answer = bench.ask(&json!({"verb": "signal", "signal": "SIGNAL"})).pop().unwrap();
    assert!(answer["message"].as_str().unwrap().contains("not the name of a signal"), "{answer}");
    bench.good(&["stop", "go-carbon"]);
    let answer = bench.ask(&json!({"verb": "signal", "signal": "HUP", "services": ["go-carbon"]})).pop().unwrap();
    assert_eq!(answer["problems"][0]["message"], "does not run");
}

#[test]
fn waiting_changes_nothing_and_ends_in_time() {
    let mut service = shell("go-carbon", "exec sleep 1000");
    service["probes"] = json!([{"exec": ["/bin/sh", "-c", "test -e ready"], "period-s": 0.02}]);
    let bench = Bench::installed(&[service, shell("carbonapi", "exec sleep 1000")]);
    bench.good(&["start", "--no-wait"]);
    let ask = |until: &str, services: Value| json!({"verb": "wait", "until": until, "services": services, "timeout-ms": 200});
    let answer = bench.ask(&ask("ready", json!(["go-carbon"]))).pop().unwrap();
    let problem = answer["problems"][0]["message"].as_str().unwrap();
    assert!(problem.starts_with("is starting after 0.2 s: waits for /bin/sh"), "{answer}");
    fs::write(bench.data().join("ready"), "").unwrap();
    bench.done(&json!({"verb": "wait", "until": "ready"}));
    assert_eq!(bench.state("go-carbon"), "running");
    let mut waiting = bench.asking(&json!({"verb": "wait", "until": "stopped"}));
    bench.good(&["stop"]);
    let mut last = String::new();
    while waiting.read_line(&mut last).unwrap() > 0 && !last.contains("\"done\"") {
        last.clear();
    }
    assert!(last.contains("\"problems\":[]"), "{last}");
    // A start with a time of its own ends by it, and goes on behind it.
    fs::remove_file(bench.data().join("ready")).unwrap();
    let answer =
        bench.ask(&json!({"verb": "start", "wait": true, "timeout-ms": 100, "services": ["go-carbon"]})).pop().unwrap();
    assert!(answer["problems"][0]["message"].as_str().unwrap().contains("is starting after"), "{answer}");
    fs::write(bench.data().join("ready"), "").unwrap();
    until("it to get there", || bench.state("go-carbon") == "running");
}

#[test]
fn events_are_remembered_and_followed() {
    let bench = sleepers(&["go-carbon", "carbonapi"]);
    bench.good(&["start"]);
    let mut lines = bench.asking(&json!({"verb": "events", "follow": true, "services": ["go-carbon"]})).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["event"].clone();
    let states: Vec<Value> = (0..3).map(|_| next()).collect();
    let words: Vec<&str> = states.iter().map(|event| event["state"].as_str().unwrap()).collect();
    assert_eq!(words, ["waiting", "starting", "running"]);
    assert!(states.iter().all(|event| event["service"] == "go-carbon" && event["at"].as_u64().unwrap() > 1_700_000_000_000));
    assert_eq!(states[2]["pid"], bench.pid("go-carbon"));
    bench.good(&["stop"]);
    let (stopping, stopped) = (next(), next());
    assert_eq!(
        (&stopping["before"], &stopping["state"], &stopped["state"]),
        (&json!("running"), &json!("stopping"), &json!("stopped"))
    );
    // Without following there is an end.
    let answers = bench.ask(&json!({"verb": "events"}));
    assert!(answers.len() >= 10 && answers.last().unwrap()["type"] == "done", "{answers:?}");
}

#[test]
fn usage_is_told_when_it_is_asked_for() {
    let busy = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep 1000 & exec sleep 1000";
    let bench = Bench::installed(&[shell("go-carbon", busy), shell("carbonapi", "exec sleep 1000")]);
    bench.good(&["start", "go-carbon"]);
    let usage = || bench.done(&json!({"verb": "status", "usage": true}))["services"].clone();
    until("two processes and some time", || {
        let all = usage();
        let one = all.as_array().unwrap().iter().find(|status| status["name"] == "go-carbon").unwrap()["usage"].clone();
        one["processes"] == 2 && one["rss"].as_u64().unwrap() > 100_000 && one["cpu-ms"].as_u64().unwrap() > 0
    });
    let stopped = usage().as_array().unwrap().iter().find(|status| status["name"] == "carbonapi").unwrap().clone();
    assert!(stopped.get("usage").is_none(), "{stopped}");
}

#[test]
fn logs_are_cleared_and_opened_anew() {
    let bench = Bench::installed(&[
        shell("go-carbon", "echo one; cat go; echo two; cat go; echo three; exec sleep 1000"),
        shell("carbonapi", "exec sleep 1000"),
    ]);
    nix::unistd::mkfifo(&bench.data().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    bench.good(&["start"]);
    until("a line", || bench.log("go-carbon") == "one\n");
    bench.done(&json!({"verb": "clear", "services": ["go-carbon"]}));
    assert_eq!(bench.log("go-carbon"), "");
    fs::write(bench.data().join("go"), "").unwrap();
    until("the next line", || bench.log("go-carbon") == "two\n");
    // As logrotate does it.
    let (log, moved) = (bench.data().join("run/log/go-carbon.log"), bench.data().join("run/log/moved"));
    fs::rename(&log, &moved).unwrap();
    let own = bench.data().join("run/supervisor.log");
    fs::rename(&own, bench.data().join("run/moved.log")).unwrap();
    send(bench.pid(""), Signal::SIGUSR2);
    until("its own log", || bench.supervisor_log().contains("opened all logs anew"));
    fs::write(bench.data().join("go"), "").unwrap();
    until("the last line", || bench.log("go-carbon") == "three\n");
    assert_eq!(fs::read_to_string(moved).unwrap(), "two\n");
}
