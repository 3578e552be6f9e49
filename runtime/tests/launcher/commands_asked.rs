//! The verbs that a running supervisor answers: signals, definitions, logs, events, its own replacement.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, alive, send, shell, text, until};
use crate::commands::with;

/// Says which signals it gets.
fn listener() -> Value {
    let script = "trap 'echo got HUP' HUP; trap 'echo got USR1' USR1; echo up; while :; do sleep 0.05; done";
    let mut service = shell("listener", script);
    service["reload-signal"] = json!("SIGHUP");
    service
}

#[test]
fn signals_by_name_and_number_and_reload_by_what_a_service_knows() {
    let bench = with(&[listener(), shell("deaf", "exec sleep 1000"), shell("rest", "exec sleep 1000")]);
    bench.good(&["start", "listener", "deaf"]);
    until("it to be up", || bench.log("listener") == "up\n");
    assert_eq!(bench.good(&["signal", "usr1", "listener"]), "listener: got SIGUSR1\n");
    until("the signal", || bench.log("listener").ends_with("got USR1\n"));
    bench.good(&["signal", "1", "list*"]);
    until("the signal", || bench.log("listener").ends_with("got HUP\n"));
    let pid = bench.pid("listener");
    bench.good(&["reload", "listener"]);
    until("the signal again", || bench.log("listener").ends_with("got HUP\ngot HUP\n"));
    assert_eq!(bench.pid("listener"), pid);
    let output = bench.dkm(&["reload", "deaf"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("deaf: "), "{}", text(&output));
    let output = bench.dkm(&["signal", "HUP", "rest"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
}

#[test]
fn definitions_are_compared_and_applied() {
    let bench = with(&[shell("same", "exec sleep 1000"), shell("other", "exec sleep 1000"), shell("gone", "exec sleep 1000")]);
    bench.good(&["start"]);
    assert!(bench.good(&["reread"]).contains("those in force"));
    let pids = ["same", "other", "gone"].map(|name| bench.pid(name));
    let folder = bench.data().join("conf/services.d");
    let write = |service: &Value| {
        fs::write(folder.join(format!("{}.toml", service["name"].as_str().unwrap())), toml::to_string(service).unwrap())
            .unwrap();
    };
    write(&shell("other", "exec sleep 2000"));
    write(&shell("young", "exec sleep 1000"));
    fs::remove_file(folder.join("gone.toml")).unwrap();
    let said = bench.good(&["reread"]);
    assert!(said.contains("other: changed") && said.contains("young: new") && said.contains("gone: gone"), "{said}");
    let changes: Value = serde_json::from_str(&bench.good(&["reread", "--json"])).unwrap();
    assert_eq!(changes.as_array().unwrap().len(), 3);
    assert!(bench.good(&["avail"]).lines().any(|line| line.starts_with("young") && line.contains("new")));
    assert_eq!(bench.pid("other"), pids[1], "reread changes nothing");
    let said = bench.good(&["update"]);
    assert!(said.contains("other: changed"), "{said}");
    assert_eq!(bench.pid("same"), pids[0]);
    assert_ne!(bench.pid("other"), pids[1]);
    assert_eq!(bench.state("young"), "running");
    assert!(!alive(pids[2]));
    fs::write(folder.join("young.toml"), "command = 7\n").unwrap();
    let output = bench.dkm(&["reread"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("young: cannot be used: ") && text(&output).contains("young.toml"), "{}", text(&output));
}

#[test]
fn logs_are_cleared_and_reopened() {
    let bench = with(&[listener()]);
    bench.good(&["start"]);
    until("it to be up", || bench.log("listener") == "up\n");
    assert_eq!(bench.good(&["clear", "listener"]), "listener: cleared\n");
    assert_eq!(bench.log("listener"), "");
    bench.good(&["signal", "USR1", "listener"]);
    until("the signal", || bench.log("listener") == "got USR1\n");
    let log = bench.data().join("run/log/listener.log");
    fs::rename(&log, bench.root().join("moved")).unwrap();
    bench.good(&["reopenlogs"]);
    bench.good(&["signal", "HUP", "listener"]);
    until("the signal in the new file", || bench.log("listener") == "got HUP\n");
    assert_eq!(fs::read_to_string(bench.root().join("moved")).unwrap(), "got USR1\n");
}

#[test]
fn events_are_remembered_and_followed() {
    let bench = with(&[shell("good", "exec sleep 1000"), shell("other", "exec sleep 1000")]);
    bench.good(&["start", "good"]);
    let past = bench.good(&["events", "good"]);
    assert!(past.lines().any(|line| line.contains("good") && line.contains("running")), "{past}");
    let mut follow = bench.command(&["events", "-f", "--json", "other"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    bench.good(&["start"]);
    let running = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()).find(|event| {
        assert_eq!(event["service"], "other");
        event["state"] == "running"
    });
    assert!(running.unwrap()["pid"].is_number());
    send(i32::try_from(follow.id()).unwrap(), Signal::SIGINT);
    assert_eq!(follow.wait().unwrap().code(), Some(130));
}

#[test]
fn fg_follows_until_the_service_is_stopped() {
    let bench = with(&[listener()]);
    bench.good(&["start"]);
    until("it to be up", || bench.log("listener") == "up\n");
    let mut fg = bench.command(&["fg", "listener"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(fg.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("listener (running)"));
    bench.good(&["signal", "USR1", "listener"]);
    let mut lines = BufReader::new(fg.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "got USR1", "what was there before is not shown");
    bench.good(&["stop"]);
    assert_eq!(fg.wait().unwrap().code(), Some(7));
    let said: Vec<String> = said.map(Result::unwrap).collect();
    assert!(
        said.iter().any(|line| line.contains("stopping")) && said.last().unwrap().contains("does not run any more"),
        "{said:?}"
    );
}

#[test]
fn another_program_takes_the_supervisors_place() {
    let bench = with(&[shell("good", "exec sleep 1000")]);
    bench.good(&["start"]);
    let (supervisor, pid) = (bench.pid(""), bench.pid("good"));
    let said = bench.good(&["upgrade-self"]);
    assert!(said.contains(&format!("process {supervisor}")), "{said}");
    assert_eq!((bench.pid(""), bench.pid("good"), bench.state("good")), (supervisor, pid, "running".to_owned()));
    bench.good(&["restart", "good"]);
    assert_ne!(bench.pid("good"), pid);
}

/// A supervisor that is stopped by a signal answers nobody; nobody waits for it for ever.
#[test]
fn a_supervisor_that_does_not_answer_is_named() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start", "--no-wait"]);
    let supervisor = bench.pid("");
    send(supervisor, Signal::SIGSTOP);
    let output = bench.dkm(&["status"]);
    let late = bench.dkm(&["stop", "--timeout", "100ms"]);
    send(supervisor, Signal::SIGCONT);
    assert!(text(&output).contains(&format!("process {supervisor} took longer than")), "{}", text(&output));
    assert_eq!(late.status.code(), Some(124), "{}", text(&late));
}

#[test]
fn the_supervisor_in_the_foreground_starts_all_if_told() {
    let bench = with(&[shell("good", "exec sleep 1000")]);
    for (arguments, state) in [(&["run"][..], "running"), (&["supervisor", "--start"], "running"), (&["supervisor"], "stopped")]
    {
        let mut foreground = bench.command(arguments).stdout(Stdio::null()).spawn().unwrap();
        until("it to answer", || bench.pid("") == i32::try_from(foreground.id()).unwrap());
        bench.dkm(&["wait"]);
        assert_eq!(bench.state("good"), state, "{arguments:?}");
        bench.good(&["shutdown"]);
        assert!(foreground.wait().unwrap().success());
    }
}
