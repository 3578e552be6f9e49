//! The verbs: what they do, what they print, how they end.

use std::fs;
use std::net::TcpListener;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::{Bench, PATIENCE, alive, as_job, listener, send, shell, text, until};

#[test]
fn starts_in_order_when_ready_and_stops_in_reverse() {
    let mut services = Bench::two();
    services[0]["environment"]["HELPER_DELAY_MS"] = json!("300");
    let bench = Bench::installed(&services);
    assert_eq!(bench.dkm(&["status"]).status.code(), Some(3));
    assert!(!bench.data().join("run/supervisor.lock").exists(), "status started a supervisor");

    bench.good(&["start"]);
    assert_eq!(bench.dkm(&["status"]).status.code(), Some(0));
    let log = bench.supervisor_log();
    let at = |line: &str| log.find(line).unwrap_or_else(|| panic!("\"{line}\" is not in:\n{log}"));
    assert!(at("go-carbon: running") < at("carbonapi: starting"), "{log}");

    let pids = [bench.pid("go-carbon"), bench.pid("carbonapi")];
    assert_eq!(bench.good(&["pid", "all"]), format!("{}\n{}\n", pids[0], pids[1]));
    bench.good(&["stop"]);
    let log = bench.supervisor_log();
    assert!(log.find("carbonapi: stopped") < log.find("go-carbon: stopping"), "{log}");
    assert!(pids.iter().all(|&pid| !alive(pid)));
    assert_eq!(bench.dkm(&["status"]).status.code(), Some(3));
    assert_eq!(bench.dkm(&["pid", "go-carbon"]).status.code(), Some(3));
}

#[test]
fn a_supervisor_starts_no_service_by_itself_and_shutdown_ends_it() {
    let mut services = Bench::two();
    services[0]["aliases"] = json!(["carbon-server"]);
    let bench = Bench::installed(&services);
    bench.good(&["start", "carbon-server"]);
    assert_eq!((bench.state("go-carbon"), bench.state("carbonapi")), ("running".into(), "stopped".into()));
    let supervisor = bench.pid("");
    assert!(alive(supervisor));
    bench.good(&["shutdown"]);
    assert!(!alive(supervisor), "shutdown came back before the supervisor had ended");
    assert!(bench.good(&["shutdown"]).contains("nothing runs"));
    assert!(bench.good(&["stop"]).contains("nothing runs"));
    assert_eq!(bench.dkm(&["pid"]).status.code(), Some(3));
}

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let bench = Bench::installed(&Bench::two());
    let output = bench.dkm(&["status", "nobody"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    for verb in ["start", "stop", "restart"] {
        let output = bench.dkm(&[verb, "nobody"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("there is no service nobody"), "{}", text(&output));
    }
    bench.good(&["start", "go-carbon"]);
    assert!(text(&bench.dkm(&["stop", "nobody"])).contains("There are: go-carbon, carbonapi"));
    assert_eq!(bench.dkm(&["pid", "nobody"]).status.code(), Some(1));
    assert_eq!(bench.dkm(&["tail", "nobody"]).status.code(), Some(1));
}

#[test]
fn restart_gives_new_processes_and_leaves_the_others_alone() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    let before = [bench.pid("go-carbon"), bench.pid("carbonapi")];
    bench.good(&["restart", "carbonapi"]);
    let after = [bench.pid("go-carbon"), bench.pid("carbonapi")];
    assert_eq!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
    bench.good(&["restart"]);
    assert_ne!(bench.pid("go-carbon"), after[0]);
    bench.good(&["start"]);
    assert_eq!(bench.state("carbonapi"), "running");
}

#[test]
fn tail_shows_the_last_lines_and_follows() {
    let mut services = Bench::two();
    services.push(shell("talker", "for i in 1 2 3 4 5; do echo line $i; done; read x < go; echo woken; exec sleep 1000"));
    let bench = Bench::installed(&services);
    nix::unistd::mkfifo(&bench.data().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    bench.good(&["start", "talker"]);
    until("five lines", || bench.log("talker").lines().count() == 5);
    assert_eq!(bench.good(&["tail", "-n", "2", "talker"]), "line 4\nline 5\n");
    let mut follow = bench.command(&["tail", "-f", "-n", "1", "talker"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(follow.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "line 5\n");
    fs::write(bench.data().join("go"), "x\n").unwrap();
    line.clear();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "woken\n");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn a_service_that_cannot_run_is_reported_with_its_last_lines() {
    let mut services = Bench::two();
    services.push(shell("broken", "echo the reason; exit 7"));
    services[2]["ready-timeout-s"] = json!(3600);
    services
        .push(json!({"name": "gone", "types": ["backend"], "command": ["{{ data }}/bin/dkm"], "directory": "{{ data }}/none"}));
    let mut bench_services = services.clone();
    bench_services[3]["command"] = json!(["/bin/sh"]);
    let bench = Bench::installed(&bench_services);
    // It does not wait for as long as the service might take to be ready.
    let output = bench.dkm(&["start", "broken", "--timeout", "120"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("broken: ended with status 7") && said.contains("  the reason"), "{said}");
    assert_eq!(bench.dkm(&["status", "broken"]).status.code(), Some(1));
    assert!(bench.status("broken")["reason"].as_str().unwrap().contains("status 7"));
    let said = text(&bench.dkm(&["start", "gone"]));
    assert!(said.contains("which is not a folder"), "{said}");
    bench.good(&["stop", "broken", "gone"]);
}

#[test]
fn a_taken_port_is_said_in_words_and_nothing_is_started() {
    let bench = Bench::installed(&Bench::two());
    let squatter = TcpListener::bind(("127.0.0.1", bench.port + 2)).unwrap();
    let output = bench.dkm(&["start"]);
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!("carbonapi: TCP port {} is taken by ", bench.port + 2);
    assert!(text(&output).contains(&wanted), "{}", text(&output));
    assert_eq!(bench.state("go-carbon"), "running", "the others run all the same");
    assert_eq!(bench.status("carbonapi")["pid"], json!(null));
    drop(squatter);
    // It never gave up.
    until("carbonapi to come up by itself", || bench.state("carbonapi") == "running");
}

#[test]
fn a_service_that_is_slow_is_waited_for_and_one_that_is_late_is_told() {
    let mut services = Bench::two();
    services[0]["environment"]["HELPER_WAITS_FOR"] = json!("{{ data }}/the sign");
    services[0]["ready-timeout-s"] = json!(1);
    let bench = Bench::installed(&services);
    let output = bench.dkm(&["start", "go-carbon"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("is not ready after 1 s") && said.contains("/ready"), "{said}");
    assert_eq!(bench.dkm(&["status", "go-carbon"]).status.code(), Some(150));
    // Late and found ready in the end, without a restart.
    let pid = bench.pid("go-carbon");
    fs::write(bench.data().join("the sign"), "").unwrap();
    until("go-carbon to become ready", || bench.state("go-carbon") == "running");
    assert_eq!(bench.pid("go-carbon"), pid);
}

#[test]
fn twenty_starts_at_once_give_one_supervisor_and_one_copy() {
    let bench = Bench::installed(&Bench::two());
    let children: Vec<_> =
        (0..20).map(|_| bench.command(&["start"]).stdout(std::process::Stdio::piped()).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{}", text(&output), bench.supervisor_log());
    }
    assert_eq!(bench.supervisor_log().matches("supervisor 0.1.0 started").count(), 1, "{}", bench.supervisor_log());
    assert_eq!(bench.supervisor_log().matches(": starting").count(), 2);
    #[cfg(target_os = "linux")]
    assert_eq!(bench.supervisors().len(), 1, "the others have ended before their starters");
    bench.good(&["shutdown"]);
    assert!(!bench.data().join("run/dkm.sock").exists(), "one of the others came to life");
    assert_eq!(bench.dkm(&["pid"]).status.code(), Some(3));
    bench.good(&["start"]);
    #[cfg(target_os = "linux")]
    assert_eq!(bench.processes().len(), 2);
}

#[test]
fn it_survives_the_terminal_that_started_it() {
    let bench = Bench::installed(&Bench::two());
    // A job as a shell makes it: a group of its own, which a closing terminal sends HUP to.
    let mut command = bench.command(&["start"]);
    let mut child = as_job(&mut command).spawn().unwrap();
    let job = i32::try_from(child.id()).unwrap();
    assert!(child.wait().unwrap().success());
    let supervisor = bench.pid("");
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(supervisor))).unwrap().as_raw();
    assert_eq!(group, supervisor, "it leads a group of its own");
    assert_ne!(group, job);
    let session = |pid| nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).unwrap().as_raw();
    assert_eq!(session(supervisor), supervisor, "and a session of its own");
    let service = bench.pid("go-carbon");
    assert_eq!(session(service), service);
    send(supervisor, Signal::SIGHUP);
    bench.good(&["status"]);
    assert_eq!(bench.pid(""), supervisor);
}

/// Whoever waits for the end of a pipe that `dkm start` inherited does not wait for the supervisor.
#[test]
fn a_start_lets_go_of_what_its_caller_has_open() {
    let bench = Bench::installed(&Bench::two());
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", "exec 7>&1; exec \"$0\" start 1>/dev/null"]).arg(bench.data().join("bin/dkm"));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(shell.output().unwrap()));
    let output = receiver.recv_timeout(PATIENCE).expect("the supervisor holds the pipe");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn check_runs_the_services_own_checks_and_points_at_bad_definitions() {
    let mut services = Bench::two();
    services[0]["check"] = json!(["/bin/sh", "-c", "echo complaint; exit 3"]);
    services[1]["check"] = json!(["/bin/sh", "-c", "exit 0"]);
    let bench = Bench::installed(&services);
    let output = bench.dkm(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("ended with status 3\ncomplaint") && said.contains("carbonapi: good"), "{said}");
    fs::write(bench.data().join("conf/services.d/mine.toml"), "command = [\"/bin/sh\"]\nstop-sginal = \"SIGTERM\"\n").unwrap();
    let said = text(&bench.dkm(&["start"]));
    assert!(said.contains("mine.toml") && said.contains("line 2") && said.contains("stop-sginal"), "{said}");
}

#[test]
fn a_service_of_ones_own_is_taken_up_without_a_new_supervisor() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    fs::write(bench.data().join("conf/services.d/mine.toml"), "command = [\"/bin/sh\", \"-c\", \"exec sleep 1000\"]\n")
        .unwrap();
    bench.good(&["start", "mine"]);
    assert_eq!(bench.state("mine"), "running");
}

#[test]
fn requests_that_are_no_requests_are_refused_and_harm_nobody() {
    use std::io::{Read, Write};
    let bench = Bench::installed(&[listener("go-carbon", "carbon", &[]), listener("carbonapi", "carbonapi", &[])]);
    bench.good(&["start"]);
    let ask = |bytes: &[u8]| {
        let mut stream = std::os::unix::net::UnixStream::connect(bench.data().join("run/dkm.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A refusal may close the connection before all is sent.
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask(b"hello\n").contains("cannot understand"));
    assert!(ask(b"{\"v\":99,\"verb\":\"stop\"}\n").contains("speaks protocol 2"));
    assert!(ask(b"{\"v\":2,\"verb\":\"dance\"}\n").contains("cannot understand"));
    assert!(ask(&vec![b'x'; 200_000]).contains("longer than") || ask(b"\n").contains("cannot understand"));
    // Many that say nothing do not keep one out that does.
    let idle: Vec<_> =
        (0..60).map(|_| std::os::unix::net::UnixStream::connect(bench.data().join("run/dkm.sock")).unwrap()).collect();
    assert_eq!(bench.state("go-carbon"), "running");
    drop(idle);
    bench.good(&["stop"]);
}
