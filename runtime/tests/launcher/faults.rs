//! What goes wrong: processes killed, services that do not want to end, a supervisor that dies.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::{Bench, alive, send, shell, text, until};

#[test]
fn what_dies_is_restarted_at_once() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    let old = bench.pid("go-carbon");
    send(old, Signal::SIGKILL);
    until("a new process", || bench.status("go-carbon")["pid"].as_i64().is_some_and(|pid| pid != 0 && pid != i64::from(old)));
    // How long it really took is a matter for a benchmark.
    assert!(bench.supervisor_log().contains("next try in 0.0 s"), "{}", bench.supervisor_log());
    until("it to be ready", || bench.state("go-carbon") == "running");
    assert_eq!(bench.status("go-carbon")["restarts"], json!(1));
    assert!(bench.supervisor_log().contains(&format!("process {old} killed by SIGKILL")), "{}", bench.supervisor_log());
}

#[test]
fn a_crash_loop_slows_down() {
    let mut services = Bench::two();
    services.push(shell("crash", "echo again; exit 1"));
    let bench = Bench::installed(&services);
    bench.dkm(&["start", "crash"]);
    until("four tries", || bench.log("crash").lines().count() >= 4);
    // Its last line may be there before its end was seen; and on a busy machine it may be more than the fourth by now.
    let mut status = json!(null);
    until("the pause after the fourth", || {
        status = bench.status("crash");
        status["state"] == "backing-off" && status["failures"].as_u64().unwrap() >= 4
    });
    let longest = 2_200 << (status["failures"].as_u64().unwrap() - 4);
    assert!(status["next-try-ms"].as_u64().unwrap() <= longest, "{status}");
    assert!(bench.supervisor_log().contains("failure 3 in a row, next try in 1."), "{}", bench.supervisor_log());
    bench.good(&["stop", "crash"]);
    assert_eq!(bench.state("crash"), "stopped");
}

#[test]
fn a_stop_takes_the_whole_family() {
    let mut services = Bench::two();
    services.push(shell("family", "sh -c 'sleep 1000 & sleep 1000' & sleep 1000 & echo here; wait"));
    let bench = Bench::installed(&services);
    bench.good(&["start", "family"]);
    #[cfg(target_os = "linux")]
    until("five processes", || bench.processes().len() >= 5);
    bench.good(&["stop", "family"]);
    #[cfg(target_os = "linux")]
    assert_eq!(bench.processes(), Vec::<i32>::new());
}

/// Those that leave the group are found too: we are their subreaper, and they carry our tag.
#[cfg(target_os = "linux")]
#[test]
fn a_stop_takes_those_that_ran_away() {
    let mut services = Bench::two();
    services.push(shell("runaway", "setsid sh -c '(sleep 1000 &) ; exec sleep 1000' & echo here; exec sleep 1000"));
    let bench = Bench::installed(&services);
    bench.good(&["start", "runaway"]);
    until("three processes", || bench.processes().len() >= 3);
    bench.good(&["stop", "runaway"]);
    assert_eq!(bench.processes(), Vec::<i32>::new());
    assert_eq!(bench.state("runaway"), "stopped");
}

#[test]
fn a_stop_is_bounded_for_a_service_that_ignores_it() {
    let mut services = Bench::two();
    services.push(shell("stubborn", "trap '' TERM INT HUP; echo here; while :; do sleep 1000; done"));
    services[2]["stop-timeout-s"] = json!(1);
    let bench = Bench::installed(&services);
    bench.good(&["start", "stubborn"]);
    until("the trap", || bench.log("stubborn").contains("here"));
    let pid = bench.pid("stubborn");
    let begin = Instant::now();
    bench.good(&["stop", "stubborn", "--timeout", "120"]);
    assert!(begin.elapsed() >= Duration::from_millis(900), "it was not given its time: {:?}", begin.elapsed());
    assert!(!alive(pid));
}

#[test]
fn a_stopped_process_hears_the_stop_and_each_service_gets_its_own_signal() {
    let mut services = Bench::two();
    services.push(shell("dumper", "trap 'echo dumped; exit 0' USR2; trap '' TERM; echo here; while :; do sleep 0.05; done"));
    services[2]["stop-signal"] = json!("SIGUSR2");
    services[2]["stop-timeout-s"] = json!(3600);
    let bench = Bench::installed(&services);
    bench.good(&["start", "dumper"]);
    until("the trap", || bench.log("dumper").contains("here"));
    send(bench.pid("dumper"), Signal::SIGSTOP);
    bench.good(&["stop", "dumper", "--timeout", "120"]);
    assert!(bench.log("dumper").contains("dumped"));
}

#[test]
fn a_killed_supervisor_leaves_the_services_and_the_next_one_adopts_them() {
    let mut services = Bench::two();
    services.push(shell("mortal", "exec sleep 1000"));
    let bench = Bench::installed(&services);
    bench.good(&["start"]);
    let supervisor = bench.pid("");
    let pids = [bench.pid("go-carbon"), bench.pid("carbonapi")];
    let mortal = bench.pid("mortal");
    send(supervisor, Signal::SIGKILL);
    until("the supervisor to be gone", || !alive(supervisor));

    // Without a supervisor: told from what lives, and nothing started.
    let output = bench.dkm(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("no supervisor"), "{}", text(&output));
    assert!(pids.iter().all(|&pid| alive(pid)));
    send(mortal, Signal::SIGKILL);
    until("mortal to be gone", || bench.state("mortal") == "stopped");

    // Several at once find one new supervisor, the same processes, and the dead one brought back.
    let children: Vec<_> = (0..5).map(|_| bench.command(&["start"]).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success(), "{}", bench.supervisor_log());
    }
    assert_eq!([bench.pid("go-carbon"), bench.pid("carbonapi")], pids);
    assert_eq!(bench.status("go-carbon")["adopted"], json!(true));
    assert_eq!(bench.state("mortal"), "running");
    #[cfg(target_os = "linux")]
    assert_eq!(bench.processes().len(), 3, "{}", bench.supervisor_log());

    // An adopted one is watched, and stopped, like any other.
    send(pids[1], Signal::SIGKILL);
    until("carbonapi to be restarted", || bench.renewed("carbonapi", pids[1]));
    bench.good(&["stop"]);
    assert!(!alive(pids[0]));
    #[cfg(target_os = "linux")]
    assert_eq!(bench.processes(), Vec::<i32>::new());
}

#[test]
fn stop_after_a_killed_supervisor_stops_what_it_left() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    let pids = [bench.pid("go-carbon"), bench.pid("carbonapi")];
    let supervisor = bench.pid("");
    send(supervisor, Signal::SIGKILL);
    until("the supervisor to be gone", || !alive(supervisor));
    // Not even its memory is left.
    fs::remove_file(bench.data().join("run/state.json")).unwrap();
    fs::remove_file(bench.data().join("run/dkm.sock")).unwrap();
    bench.good(&["stop"]);
    assert!(pids.iter().all(|&pid| !alive(pid)), "{}", bench.supervisor_log());
}

/// What the system has accepted for a service is read before the service is asked to end, if its definition says so.
#[cfg(target_os = "linux")]
#[test]
fn a_stop_waits_until_sockets_are_read() {
    use std::io::Write;
    let mut services = Bench::two();
    services[0]["environment"]["HELPER"] = json!("read-late");
    services[0]["probes"] = json!([]);
    services[0]["drain-timeout-s"] = json!(10);
    let bench = Bench::installed(&services);
    bench.good(&["start", "go-carbon"]);
    until("it to listen", || bench.log("go-carbon").contains("listening"));
    let mut stream = TcpStream::connect(("127.0.0.1", bench.port + 1)).unwrap();
    stream.write_all(&[b'x'; 1000]).unwrap();
    drop(stream);
    bench.good(&["stop", "go-carbon"]);
    assert!(bench.log("go-carbon").contains("read 1000"), "{}", bench.log("go-carbon"));
}

#[test]
fn a_removed_socket_is_made_anew() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    let supervisor = bench.pid("");
    fs::remove_file(bench.data().join("run/dkm.sock")).unwrap();
    assert_eq!(bench.pid(""), supervisor);
    assert_eq!(bench.state("go-carbon"), "running");
}

#[test]
fn term_to_the_supervisor_stops_everything_in_order() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    let pids = [bench.pid("go-carbon"), bench.pid("carbonapi"), bench.pid("")];
    send(pids[2], Signal::SIGTERM);
    until("everything to end", || pids.iter().all(|&pid| !alive(pid)));
    assert!(!bench.data().join("run/dkm.sock").exists());
    assert!(TcpStream::connect(("127.0.0.1", bench.port + 1)).is_err());
    // What was stopped in order is not brought back.
    bench.good(&["start", "carbonapi"]);
    assert_eq!(bench.state("go-carbon"), "stopped");
}

/// With nothing to do, nothing is done: no switch of the one thread in three seconds, once the start owes nothing more.
#[cfg(target_os = "linux")]
#[test]
fn an_idle_supervisor_does_not_wake_up() {
    let services = [shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")];
    let bench = Bench::installed(&services);
    bench.good(&["start"]);
    let supervisor = bench.pid("");
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
        status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut last = switches();
    until("three seconds of quiet", || {
        // Longer than it takes until memory is given back after work.
        std::thread::sleep(Duration::from_secs(3));
        let now = switches();
        std::mem::replace(&mut last, now.clone()) == now
    });
}

#[test]
fn hostile_names_are_no_obstacle() {
    let bench = Bench::bundle(&Bench::two());
    for name in ["a \"b\" 'c' \\d", "$HOME `id` #e ;f %g", "ünïcode ☃", "{{ data }} {% x %}", "-dash", "*?[a]"] {
        let data = bench.root().join("x").join(name);
        let mut command = std::process::Command::new(bench.bundle_path().join("installer"));
        command.arg("-d").arg(&data).arg("-p").arg(bench.port.to_string()).args(["-t", "backend", "--hostname", "x"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output));
        for verb in ["start", "status", "check", "shutdown"] {
            let output = std::process::Command::new(data.join("bin/dkm")).arg(verb).output().unwrap();
            assert!(output.status.success(), "{name}: {verb}: {}", text(&output));
        }
    }
    let newline = bench.root().join("a\nb");
    let mut command = std::process::Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(&newline).arg("-p").arg(bench.port.to_string()).args(["-t", "backend", "--hostname", "x"]);
    assert!(text(&command.output().unwrap()).contains("control character"));
}

#[test]
fn a_long_path_is_no_obstacle_for_the_socket() {
    let bench = Bench::bundle(&Bench::two());
    let long = bench.root().join("x".repeat(150));
    let mut command = std::process::Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(&long).arg("-p").arg(bench.port.to_string()).args(["-t", "backend", "--hostname", "x"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let run = |verb: &str| std::process::Command::new(long.join("bin/dkm")).arg(verb).output().unwrap();
    let started = run("start");
    let stopped = run("shutdown");
    assert!(started.status.success() && stopped.status.success(), "{}{}", text(&started), text(&stopped));
}

#[test]
fn what_a_short_lived_service_says_is_there_each_time() {
    let mut services = Bench::two();
    services.push(shell("brief", "echo born; echo died >&2; exit 3"));
    let bench = Bench::installed(&services);
    bench.dkm(&["start", "brief"]);
    until("three tries", || bench.status("brief")["restarts"].as_u64() >= Some(3));
    bench.good(&["stop", "brief"]);
    let log = bench.log("brief");
    assert!(log.lines().count() >= 8, "{log}");
    assert!(log.lines().collect::<Vec<_>>().chunks(2).all(|two| two == ["born", "died"]), "{log}");
}

#[test]
fn a_service_may_close_its_output() {
    let mut services = Bench::two();
    services.push(shell("silent", "echo last; exec >&- 2>&-; while :; do sleep 1000; done"));
    let bench = Bench::installed(&services);
    bench.good(&["start", "silent"]);
    until("its last line", || bench.log("silent") == "last\n");
    assert_eq!(bench.state("silent"), "running");
    let pid = bench.pid("silent");
    send(pid, Signal::SIGKILL);
    until("a new one", || bench.renewed("silent", pid));
    bench.good(&["stop", "silent"]);
}

/// One service that prints as fast as it can does not keep the others, or a client, waiting.
#[test]
fn a_flood_drowns_nobody() {
    let mut services = Bench::two();
    services.push(shell("flood", "exec yes 'a line of a flood that does not end'"));
    services[2]["log"] = json!({"max-bytes": 1_000_000, "keep": 2});
    services.push(shell("calm", "while read -r x < go; do echo \"$x\"; done"));
    let bench = Bench::installed(&services);
    nix::unistd::mkfifo(&bench.data().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    bench.good(&["start"]);
    for number in 0..20 {
        fs::write(bench.data().join("go"), format!("line {number}\n")).unwrap();
        until("a calm line", || bench.log("calm").ends_with(&format!("line {number}\n")));
        assert_eq!(bench.state("carbonapi"), "running");
    }
    bench.good(&["stop", "flood"]);
    let sum: u64 =
        fs::read_dir(bench.data().join("run/log")).unwrap().flatten().map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(sum < 5_000_000, "{sum} bytes");
}
