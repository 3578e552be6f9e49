//! What definitions can say, and what becomes of those that say it wrongly.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, alive, send, shell, text, until};

/// A bundle with `go-carbon`, `carbonapi` and these.
fn with(more: Vec<Value>) -> Bench {
    let mut services = vec![
        shell("go-carbon", "exec sleep 1000"),
        json!({"name": "carbonapi", "types": ["backend"], "command": ["/bin/sleep", "1000"]}),
    ];
    services.extend(more);
    Bench::installed(&services)
}

#[test]
fn a_broken_file_takes_nobody_else_down() {
    let bench = with(vec![]);
    let mine = bench.definition("mine");
    fs::write(&mine, "command = [\"/bin/sleep\", \"1000\"]\nstop-sginal = \"SIGTERM\"\nrestart = \"allways\"\n").unwrap();
    let output = bench.dkm(&["start"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("mine.toml, line 2, column 1: there is no key \"stop-sginal\": did you mean \"stop-signal\"?"),
        "{said}"
    );
    assert_eq!(bench.state("go-carbon"), "running");
    assert_eq!(bench.state("mine"), "broken");
    assert!(bench.status("mine")["reason"].as_str().unwrap().contains("line 2"), "{}", bench.status("mine"));
    // Mended it is taken up without a word.
    fs::write(&mine, "command = [\"/bin/sleep\", \"1000\"]\n").unwrap();
    bench.good(&["start", "mine"]);
    assert_eq!(bench.state("mine"), "running");
}

/// A service is stopped by the rules that it was started with, even if its file is broken or gone and the supervisor another one.
#[test]
fn what_runs_by_a_definition_that_is_gone_is_still_stopped_by_it() {
    let mut services = Vec::new();
    for name in ["broken", "gone"] {
        let mut service = shell(name, "trap 'echo dumped; exit 0' USR2; trap '' TERM; echo here; while :; do sleep 0.05; done");
        service["stop-signal"] = json!("SIGUSR2");
        services.push(service);
    }
    let bench = with(services);
    bench.good(&["start"]);
    until("the traps", || ["broken", "gone"].iter().all(|name| bench.log(name).contains("here")));
    let pids = [bench.pid("broken"), bench.pid("gone")];
    let supervisor = bench.pid("");
    send(supervisor, Signal::SIGKILL);
    until("the supervisor to be gone", || !alive(supervisor));
    fs::write(bench.definition("broken"), "command = 7\n").unwrap();
    fs::remove_file(bench.definition("gone")).unwrap();
    bench.good(&["start", "go-carbon"]);
    let now = ["broken", "gone"].map(|name| bench.status(name)["pid"].clone());
    assert_eq!(now, pids.map(|pid| json!(pid)), "{}", bench.supervisor_log());
    assert_eq!(bench.status("gone")["definition"], "removed");
    assert_eq!(bench.status("broken")["definition"], "broken");
    bench.done(&json!({"verb": "stop", "services": ["broken", "gone"], "wait": true}));
    for (name, pid) in ["broken", "gone"].iter().zip(pids) {
        assert!(bench.log(name).contains("dumped") && !alive(pid), "{name}: {}", bench.log(name));
    }
    assert_eq!(bench.state("broken"), "broken");
}

#[test]
fn a_service_finds_what_its_definition_says() {
    let mut service = shell(
        "about",
        "echo \"[$FROM_FILE][$BOTH][$NOTIFY_SOCKET][$PWD]\"; umask; ulimit -S -n; ulimit -H -n; ulimit -c; exec sleep 1000",
    );
    service["environment"] = json!({"BOTH": "the definition's"});
    service["environment-file"] = json!(["conf/about.env", "-conf/not there.env"]);
    service["directory"] = json!("{{ data }}/conf");
    service["umask"] = json!("027");
    service["limits"] = json!({"nofile": "100:200", "core": 0});
    let mut unknown = shell("lacking", "exec sleep 1000");
    unknown["environment-file"] = json!("conf/none.env");
    let mut high = shell("high", "exec sleep 1000");
    high["limits"] = json!({"nofile": "500:"});
    high["command"] = json!(["/bin/sh", "-c", "ulimit -S -n; exec sleep 1000"]);
    let bench = with(vec![service, unknown, high]);
    fs::write(bench.data().join("conf/about.env"), "# of the user\nFROM_FILE=\"two words\"\nBOTH=the file's\n").unwrap();
    bench.good(&["start", "about", "high"]);
    until("its words", || bench.log("about").lines().count() == 5 && bench.log("high").lines().count() == 1);
    let folder = bench.data().join("conf");
    assert_eq!(bench.log("about"), format!("[two words][the definition's][][{}]\n0027\n100\n200\n0\n", folder.display()));
    assert_eq!(bench.log("high"), "500\n");
    let said = text(&bench.dkm(&["start", "lacking"]));
    assert!(said.contains("cannot read its environment from") && said.contains("none.env"), "{said}");
}

/// Without a word about it a service has as many files as the user gave the supervisor.
#[test]
fn the_supervisors_own_limits_are_not_the_services() {
    let bench = with(vec![shell("about", "ulimit -S -n; exec sleep 1000")]);
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "ulimit -S -n 345 && exec \"$0\" start about"]).arg(bench.data().join("bin/dkm"));
    assert!(command.output().unwrap().status.success());
    until("its words", || bench.log("about") == "345\n");
}

#[test]
fn a_service_starts_and_stops_with_what_it_requires() {
    let mut needy = shell("needy", "exec sleep 1000");
    needy["requires"] = json!(["base"]);
    let bench = with(vec![shell("base", "exec sleep 1000"), needy]);
    // A start brings what is required.
    bench.good(&["start", "needy"]);
    let log = bench.supervisor_log();
    assert!(log.find("base: running").unwrap() < log.find("needy: starting").unwrap(), "{log}");
    // A restart restarts both, in order.
    let before = [bench.pid("base"), bench.pid("needy")];
    bench.good(&["restart", "base"]);
    let after = [bench.pid("base"), bench.pid("needy")];
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    // Its death and return alone are no reason.
    send(after[0], Signal::SIGKILL);
    until("base to be back", || bench.renewed("base", after[0]));
    assert_eq!(bench.pid("needy"), after[1]);
    // A stop takes it along, and before it.
    let log_before = bench.supervisor_log().len();
    bench.good(&["stop", "base"]);
    assert_eq!((bench.state("base"), bench.state("needy")), ("stopped".into(), "stopped".into()));
    let log = bench.supervisor_log().split_off(log_before);
    assert!(log.find("needy: stopped").unwrap() < log.find("base: stopping").unwrap(), "{log}");
}

#[test]
fn what_requires_something_that_fails_is_not_started_and_says_so() {
    let mut base = shell("base", "test -e ready || exit 7; exec sleep 1000");
    base["directory"] = json!("{{ data }}");
    base["probes"] = json!([{"log": "never said"}, {"exec": ["/bin/true"]}]);
    base["probes"] = json!([]);
    let mut needy = shell("needy", "exec sleep 1000");
    needy["requires"] = json!(["base"]);
    let bench = with(vec![base, needy]);
    let output = bench.dkm(&["start", "needy"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("needy: requires base, which is "), "{said}");
    assert_eq!(bench.state("needy"), "waiting");
    assert_eq!(bench.status("needy")["pid"], json!(null));
    assert!(bench.status("needy")["reason"].as_str().unwrap().contains("requires base"), "{}", bench.status("needy"));
    // Nothing is forgotten: it starts when it can.
    fs::write(bench.data().join("ready"), "").unwrap();
    until("needy to run", || bench.state("needy") == "running");
}

#[test]
fn what_ends_for_good_takes_along_what_requires_it() {
    let mut base = shell("base", "until test -e stop; do sleep 0.02; done; exit 3");
    base["directory"] = json!("{{ data }}");
    base["restart"] = json!("never");
    let mut needy = shell("needy", "exec sleep 1000");
    needy["requires"] = json!(["base"]);
    let bench = with(vec![base, needy]);
    bench.good(&["start", "needy"]);
    fs::write(bench.data().join("stop"), "").unwrap();
    until("both to have ended", || bench.state("base") == "exited" && bench.state("needy") == "stopped");
    assert_eq!(
        (&bench.status("base")["failed"], &bench.status("base")["reason"]),
        (&json!(true), &json!("ended with status 3"))
    );
    assert!(bench.supervisor_log().contains("needy: stops because it requires base"), "{}", bench.supervisor_log());
}

#[test]
fn restart_policies() {
    let policy = |name: &str, script: &str, restart: &str| {
        let mut service = shell(name, script);
        service["restart"] = json!(restart);
        service["restart-pause-s"] = json!(0.02);
        service["restart-longest-pause-s"] = json!(0.02);
        service
    };
    let bench = with(vec![
        policy("once", "echo run", "never"),
        policy("task", "echo run; echo x >> count; test $(wc -l < count) -ge 3", "on-failure"),
        policy("always", "echo run", "always"),
    ]);
    bench.good(&["start", "once"]);
    assert_eq!(bench.state("once"), "exited");
    assert_eq!(bench.status("once").get("failed"), None, "it ended well");
    bench.dkm(&["start", "--no-wait", "task", "always"]);
    until("the task to be done", || bench.state("task") == "exited");
    until("the other to be run often", || bench.log("always").lines().count() > 5);
    assert_eq!((bench.log("once"), bench.log("task").lines().count()), ("run\n".to_owned(), 3));
    // Started again it runs again.
    bench.good(&["start", "once"]);
    until("a second run", || bench.log("once") == "run\nrun\n");
}

#[test]
fn what_is_not_enabled_is_started_by_its_name_alone() {
    let mut spare = shell("spare", "exec sleep 1000");
    spare["enabled"] = json!(false);
    let bench = with(vec![spare]);
    for all in [vec!["start"], vec!["start", "all"], vec!["start", "*"]] {
        bench.good(&all);
        assert_eq!((bench.state("go-carbon"), bench.state("spare")), ("running".into(), "stopped".into()), "{all:?}");
    }
    assert_eq!(bench.status("spare")["enabled"], false);
    bench.good(&["start", "spare"]);
    assert_eq!(bench.state("spare"), "running");
    bench.good(&["stop"]);
    assert_eq!(bench.state("spare"), "stopped");
}

#[test]
fn circles_are_refused_by_name_and_the_others_run() {
    let bench = with(vec![]);
    for (name, after) in [("one", "two"), ("two", "three"), ("three", "one")] {
        fs::write(bench.definition(name), format!("command = [\"/bin/sleep\", \"1\"]\nafter = [\"{after}\"]\n")).unwrap();
    }
    let output = bench.dkm(&["start"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("one → two → three → one"), "{said}");
    assert_eq!((bench.state("carbonapi"), bench.state("one")), ("running".into(), "broken".into()));
}
