//! When a service is ready, and whether it is still well.

use std::fs;

use serde_json::{Value, json};

use crate::bench::{Bench, helper, shell, text, until};

/// A bundle whose `carbonapi` waits for `go-carbon`, which is this.
fn with(first: Value) -> Bench {
    let mut second = shell("carbonapi", "exec sleep 1000");
    second["after"] = json!(["go-carbon"]);
    Bench::installed(&[first, second])
}

/// Nothing says that the service is ready before `sign` does.
fn ready_only_by(bench: &Bench, waits_for: &str, sign: impl FnOnce()) {
    bench.good(&["start", "--no-wait"]);
    until("it to wait for that", || {
        bench.status("go-carbon")["reason"].as_str().is_some_and(|reason| reason.contains(waits_for))
    });
    assert_eq!((bench.state("go-carbon"), bench.state("carbonapi")), ("starting".into(), "waiting".into()));
    sign();
    until("both to run", || ["go-carbon", "carbonapi"].iter().all(|name| bench.state(name) == "running"));
}

#[test]
fn a_program_may_tell() {
    let mut service = shell("go-carbon", "exec sleep 1000");
    service["environment"] = json!({"SIGN": "{{ data }}/the sign"});
    service["probes"] = json!([{"exec": ["/bin/sh", "-c", "test -e \"$SIGN\" || exit 9"], "period-s": 0.02}]);
    let bench = with(service);
    ready_only_by(&bench, "ended with status 9", || fs::write(bench.data().join("the sign"), "").unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_does_not_answer_is_ended_with_what_it_started() {
    let mut service = shell("go-carbon", "exec sleep 1000");
    let ask = "test -e second && exit 0; touch second; sleep 1111 & sleep 1111";
    service["probes"] = json!([{"exec": ["/bin/sh", "-c", ask], "timeout-s": 1, "period-s": 0.01}]);
    let bench = with(service);
    bench.good(&["start", "go-carbon"]);
    until("nobody to be left", || bench.processes().len() == 1);
}

#[test]
fn a_line_of_its_log_may_tell() {
    let mut service = shell("go-carbon", "echo not up; cat go; printf 'now up a'; printf 'nd running\\n'; exec sleep 1000");
    service["probes"] = json!([{"log": "up and running"}]);
    let bench = with(service);
    nix::unistd::mkfifo(&bench.data().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    ready_only_by(&bench, "the line \"up and running\"", || fs::write(bench.data().join("go"), "").unwrap());
}

#[test]
fn a_line_with_a_stamp_may_tell() {
    let mut service = shell("go-carbon", "cat go; echo up and running; exec sleep 1000");
    service["probes"] = json!([{"log": "up and running"}]);
    service["log"] = json!({"timestamps": true});
    let bench = with(service);
    nix::unistd::mkfifo(&bench.data().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    ready_only_by(&bench, "the line", || fs::write(bench.data().join("go"), "").unwrap());
}

#[test]
fn a_unix_socket_may_tell() {
    let mut service = shell("go-carbon", "exec sleep 1000");
    service["probes"] = json!([{"unix": "{{ data }}/run/x.sock"}]);
    let bench = with(service);
    let mut listener = None;
    let path = bench.data().join("run/x.sock");
    ready_only_by(&bench, "No such file", || listener = Some(std::os::unix::net::UnixListener::bind(path).unwrap()));
}

#[test]
fn the_service_may_tell_by_itself() {
    let mut service = helper("go-carbon", "notify");
    service["probes"] = json!([{"notify": true}]);
    let bench = with(service);
    ready_only_by(&bench, "its READY=1", || fs::write(bench.data().join("ready"), "").unwrap());
    until("its words", || bench.status("go-carbon")["says"] == "serving");
    // A supervisor that comes later is told by the same way, and does not wait for what was said before.
    let supervisor = bench.pid("");
    crate::bench::send(supervisor, nix::sys::signal::Signal::SIGKILL);
    until("the supervisor to be gone", || !crate::bench::alive(supervisor));
    bench.good(&["start"]);
    assert_eq!((bench.state("go-carbon"), &bench.status("go-carbon")["adopted"]), ("running".into(), &json!(true)));
    fs::write(bench.data().join("status"), "busy").unwrap();
    until("its new words", || bench.status("go-carbon")["says"] == "busy");
}

#[test]
fn http_statuses_are_judged_as_the_definition_says() {
    let mut services = Bench::two();
    services[0]["probes"] = json!([{"http": "http://{{ reach.carbon }}/", "status": "300-499"}]);
    services[0]["ready-timeout-s"] = json!(1);
    let bench = Bench::installed(&services);
    let said = text(&bench.dkm(&["start", "go-carbon"]));
    assert!(said.contains("is not ready after 1 s") && said.contains("HTTP status 200"), "{said}");
}

#[test]
fn what_is_not_well_is_restarted() {
    let mut service = shell("go-carbon", "rm -f ill; echo here; exec sleep 1000");
    service["health"] = json!({
        "probe": {"exec": ["/bin/sh", "-c", "test ! -e ill"]}, "period-s": 0.05, "threshold": 2, "action": "restart",
    });
    let bench = with(service);
    bench.good(&["start"]);
    let (first, other) = (bench.pid("go-carbon"), bench.pid("carbonapi"));
    fs::write(bench.data().join("ill"), "").unwrap();
    until("another process", || bench.renewed("go-carbon", first));
    let log = bench.supervisor_log();
    assert!(
        log.contains("go-carbon: is not well: /bin/sh -c test ! -e ill (ended with status 1; failure 2 in a row)"),
        "{log}"
    );
    assert_eq!(bench.pid("carbonapi"), other);
    assert_eq!(bench.status("go-carbon")["restarts"], 1);
}

#[test]
fn what_is_not_well_may_only_be_reported() {
    let mut service = shell("go-carbon", "exec sleep 1000");
    service["health"] = json!({
        "probe": {"exec": ["/bin/sh", "-c", "test ! -e ill"]}, "period-s": 0.05, "threshold": 2, "action": "report",
    });
    let bench = with(service);
    bench.good(&["start"]);
    let pid = bench.pid("go-carbon");
    fs::write(bench.data().join("ill"), "").unwrap();
    until("it to be told", || bench.status("go-carbon")["ill"].as_str().is_some_and(|ill| ill.contains("status 1")));
    fs::remove_file(bench.data().join("ill")).unwrap();
    until("it to be well", || bench.status("go-carbon").get("ill").is_none());
    assert_eq!((bench.pid("go-carbon"), bench.state("go-carbon")), (pid, "running".to_owned()));
    assert!(bench.supervisor_log().contains("is well again"));
}

#[test]
fn a_watchdog_bites_what_gives_no_sign_of_life() {
    let mut service = helper("go-carbon", "notify");
    service["probes"] = json!([{"notify": true}]);
    // Longer than a busy machine keeps anybody waiting for a processor.
    service["health"] = json!({"probe": {"notify": true}, "period-s": 5, "threshold": 1});
    let bench = with(service);
    fs::write(bench.data().join("ready"), "").unwrap();
    bench.good(&["start"]);
    let pid = bench.pid("go-carbon");
    // It keeps on living while it gives signs; the helper stops when told.
    until("some signs", || bench.log("go-carbon").matches("sign").count() > 10);
    assert_eq!(bench.pid("go-carbon"), pid, "{}", bench.supervisor_log());
    fs::write(bench.data().join("hang"), "").unwrap();
    until("a new process", || bench.status("go-carbon")["pid"].as_i64().is_some_and(|new| new != i64::from(pid)));
    assert!(bench.supervisor_log().contains("is not well: its WATCHDOG=1 (none in 5 s"), "{}", bench.supervisor_log());
}
