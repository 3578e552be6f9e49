//! What the supervisor outlives, and what outlives the supervisor.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, alive, send, shell, text, until};

fn two_sleepers() -> Bench {
    Bench::installed(&[shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")])
}

fn kill_supervisor(bench: &Bench) {
    let supervisor = bench.pid("");
    send(supervisor, Signal::SIGKILL);
    until("the supervisor to be gone", || !alive(supervisor));
}

/// A program of this name in the test's folder that is a line of shell.
fn program(bench: &Bench, name: &str, script: &str) -> String {
    let path = bench.root().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn another_program_takes_over_without_touching_a_service() {
    let mut crash = shell("crash", "exit 3");
    crash["restart-pause-s"] = json!(300);
    crash["restart-longest-pause-s"] = json!(300);
    let mut once = shell("once", "exit 4");
    once["restart"] = json!("never");
    let services = [shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000"), crash, once];
    let bench = Bench::installed(&services);
    bench.good(&["start", "go-carbon", "carbonapi"]);
    bench.dkm(&["start", "crash", "once"]);
    until("the pause", || bench.state("crash") == "backing-off" && bench.state("once") == "exited");
    let pids = [bench.pid(""), bench.pid("go-carbon"), bench.pid("carbonapi")];
    let since = bench.status("go-carbon")["since"].clone();

    // The new program is another file, and the one that asks speaks another protocol.
    let new = bench.root().join("new dkm");
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_dkm")).arg(&new).status().unwrap().success());
    let answer = bench.done(&json!({"v": 99, "verb": "upgrade-self", "program": new.to_str().unwrap()}));
    assert_eq!(answer["supervisor"]["pid"], pids[0]);
    assert_eq!([bench.pid(""), bench.pid("go-carbon"), bench.pid("carbonapi")], pids);
    #[cfg(target_os = "linux")]
    assert_eq!(fs::read_link(format!("/proc/{}/exe", pids[0])).unwrap(), new);
    let status = bench.status("go-carbon");
    assert_eq!((&status["state"], &status["since"], status.get("adopted")), (&json!("running"), &since, None), "{status}");
    // What it was about to do it will do.
    let crash = bench.status("crash");
    assert_eq!((&crash["state"], &crash["failures"]), (&json!("backing-off"), &json!(2)), "{crash}");
    assert!(crash["next-try-ms"].as_u64().unwrap() > 100_000, "{crash}");
    assert_eq!((bench.state("once"), &bench.status("once")["reason"]), ("exited".to_owned(), &json!("ended with status 4")));

    // They are its children still: how they end is told.
    send(pids[1], Signal::SIGTERM);
    until("the next copy", || bench.renewed("go-carbon", pids[1]));
    assert!(
        bench.supervisor_log().contains(&format!("go-carbon: process {} killed by SIGTERM", pids[1])),
        "{}",
        bench.supervisor_log()
    );
    // Again and again.
    for _ in 0..5 {
        bench.done(&json!({"verb": "upgrade-self"}));
    }
    assert_eq!([bench.pid(""), bench.pid("carbonapi")], [pids[0], pids[2]]);
    #[cfg(target_os = "linux")]
    assert!(fs::read_dir(format!("/proc/{}/fd", pids[0])).unwrap().count() < 30, "descriptors are left behind");
    bench.good(&["stop"]);
    #[cfg(target_os = "linux")]
    assert_eq!(bench.processes(), Vec::<i32>::new());
}

#[test]
fn a_program_that_cannot_take_over_does_not() {
    let bench = two_sleepers();
    bench.good(&["start"]);
    let pids = [bench.pid(""), bench.pid("go-carbon")];
    let failing = program(&bench, "failing", "echo some reason >&2; exit 5");
    let gone = bench.root().join("gone").to_str().unwrap().to_owned();
    for (program, wanted) in [(failing, "cannot take over: it ended with status 5"), (gone, "cannot find the program")] {
        let answer = bench.ask(&json!({"verb": "upgrade-self", "program": program})).pop().unwrap();
        assert!(answer["type"] == "error" && answer["message"].as_str().unwrap().contains(wanted), "{answer}");
        assert_eq!([bench.pid(""), bench.pid("go-carbon")], pids);
    }
    assert!(bench.supervisor_log().contains("some reason"));
    // It shows that it can, and then is none: the services go on, and the next command finds them.
    let dying = program(&bench, "dying", "case $1 in @rehearse) exit 0;; *) exit 1;; esac");
    assert!(bench.asking(&json!({"verb": "upgrade-self", "program": dying})).buffer().is_empty());
    until("it to be gone", || !alive(pids[0]));
    assert!(alive(pids[1]));
    bench.good(&["start"]);
    assert_eq!((bench.pid("go-carbon"), bench.pid("") != pids[0]), (pids[1], true));
}

#[test]
fn who_waits_gets_the_answer_before_another_program_takes_over() {
    let mut slow = shell("go-carbon", "exec sleep 1000");
    slow["probes"] = json!([{"exec": ["/bin/sh", "-c", "test -e ready"], "period-s": 0.02}]);
    let bench = Bench::installed(&[slow, shell("carbonapi", "exec sleep 1000")]);
    let start = bench.command(&["start", "go-carbon"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    until("it to start", || bench.status("go-carbon")["state"] == "starting");
    let upgrade = bench.asking(&json!({"verb": "upgrade-self"}));
    fs::write(bench.data().join("ready"), "").unwrap();
    let output = start.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let answers: Vec<String> = std::io::BufRead::lines(upgrade).map(Result::unwrap).collect();
    assert!(answers.last().unwrap().contains("\"done\""), "{answers:?}");
}

/// A supervisor that was killed and is not dead yet still takes connections; and one that dies while it is asked has perhaps done it.
#[test]
fn a_command_outlives_the_supervisor_that_it_asked() {
    let mut slow = shell("go-carbon", "exec sleep 1000");
    slow["probes"] = json!([{"exec": ["/bin/sh", "-c", "test -e ready"], "period-s": 0.02}]);
    let bench = Bench::installed(&[slow, shell("carbonapi", "exec sleep 1000")]);
    let start = bench.command(&["start"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    until("it to start", || bench.status("go-carbon")["state"] == "starting" && bench.state("carbonapi") == "running");
    let (supervisor, service) = (bench.pid(""), bench.pid("go-carbon"));
    send(supervisor, Signal::SIGKILL);
    // Whoever asks now meets one that is dead, dying, or new; and is answered.
    for _ in 0..20 {
        assert_ne!(bench.dkm(&["status"]).status.code(), Some(1));
    }
    fs::write(bench.data().join("ready"), "").unwrap();
    let output = start.unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(bench.pid("go-carbon"), service);
    for verb in ["start", "stop"] {
        send(bench.pid(""), Signal::SIGKILL);
        bench.good(&[verb]);
    }
}

#[test]
fn a_stop_goes_on_when_the_supervisor_dies_in_it() {
    let stubborn = |word: &str| {
        let mut service = shell(word, "trap 'echo asked' TERM; echo here; while ! test -e go; do sleep 0.02; done");
        service["directory"] = json!("{{ data }}");
        service["stop-timeout-s"] = json!(60);
        service
    };
    let bench = Bench::installed(&[stubborn("go-carbon"), stubborn("carbonapi")]);
    bench.good(&["start"]);
    until("the traps", || ["go-carbon", "carbonapi"].iter().all(|name| bench.log(name).contains("here")));
    let pids = [bench.pid("go-carbon"), bench.pid("carbonapi")];
    bench.good(&["stop", "--no-wait", "go-carbon"]);
    bench.good(&["restart", "--no-wait", "carbonapi"]);
    until("both to be asked", || ["go-carbon", "carbonapi"].iter().all(|name| bench.log(name).contains("asked")));
    until("that to be written down", || {
        let stored: Value = serde_json::from_slice(&fs::read(bench.data().join("run/state.json")).unwrap()).unwrap();
        stored["services"].as_array().unwrap().iter().all(|status| status["state"] == "stopping")
    });
    kill_supervisor(&bench);
    // It is asked for nothing, and does what the last one was asked for.
    let mut supervisor = bench.command(&["supervisor"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    until("both to be asked again", || {
        ["go-carbon", "carbonapi"].iter().all(|name| bench.log(name).matches("asked").count() == 2)
    });
    fs::write(bench.data().join("go"), "").unwrap();
    until("both to have ended", || pids.iter().all(|&pid| !alive(pid)));
    fs::remove_file(bench.data().join("go")).unwrap();
    until("the one to have stopped", || bench.state("go-carbon") == "stopped");
    until("the other to run again", || bench.renewed("carbonapi", pids[1]));
    fs::write(bench.data().join("go"), "").unwrap();
    bench.good(&["shutdown"]);
    assert!(supervisor.wait().unwrap().success());
}

/// What stands in PID files is information: a number that means another process by now is left alone.
#[cfg(target_os = "linux")]
#[test]
fn a_reused_number_is_not_taken_for_the_service() {
    let bench = Bench::installed(&[shell("go-carbon", "sleep 1000 & exec sleep 1000"), shell("carbonapi", "exec sleep 1000")]);
    bench.good(&["start"]);
    let (leader, supervisor) = (bench.pid("go-carbon"), bench.pid(""));
    kill_supervisor(&bench);
    let _ = supervisor;
    // Its first process ends, another one of it lives on and holds the lock, in which now stands a stranger's number.
    send(leader, Signal::SIGKILL);
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let number = i32::try_from(stranger.id()).unwrap();
    fs::write(bench.data().join("run/go-carbon.lock"), format!("{number}\n")).unwrap();
    fs::write(bench.data().join("run/supervisor.lock"), format!("{number}\n")).unwrap();
    bench.good(&["start"]);
    assert!(alive(number), "a stranger was killed");
    assert_ne!(bench.pid("go-carbon"), number);
    assert_eq!(bench.state("go-carbon"), "running");
    until("one copy", || bench.processes().len() == 3);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// A supervisor that is killed between fork and exec leaves a child that has the service's lock and cannot be told from anything else
/// until it is the service. It is found then, and not locked out for ever.
#[cfg(target_os = "linux")]
#[test]
fn a_child_that_was_being_made_is_adopted_once_it_is_the_service() {
    let bench = two_sleepers();
    let script = "exec 9<>run/go-carbon.lock; flock 9; echo > held; until test -e go; do sleep 0.02; done; \
                  echo $$ > run/go-carbon.lock; exec env DKM_DATA=\"$0\" DKM_SERVICE=go-carbon sleep 1000";
    fs::create_dir_all(bench.data().join("run")).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).arg(bench.data()).current_dir(bench.data());
    let mut child = crate::bench::as_job(&mut command).spawn().unwrap();
    let number = i32::try_from(child.id()).unwrap();
    until("it to have the lock", || bench.data().join("held").exists());
    let said = text(&bench.dkm(&["start", "go-carbon"]));
    assert!(said.contains("are still there"), "{said}");
    assert_eq!(bench.state("go-carbon"), "backing-off");
    fs::write(bench.data().join("go"), "").unwrap();
    until("it to be taken over", || bench.status("go-carbon")["pid"].as_i64() == Some(number.into()));
    until("it to be well", || bench.state("go-carbon") == "running");
    assert_eq!(bench.status("go-carbon")["adopted"], json!(true));
    // As good as any: its end is seen, and its successor is ours.
    send(number, Signal::SIGKILL);
    child.wait().unwrap();
    until("another one", || bench.renewed("go-carbon", number));
    bench.good(&["stop"]);
    assert_eq!(bench.processes(), Vec::<i32>::new());
}

#[test]
fn stale_files_are_no_obstacle() {
    let bench = two_sleepers();
    let run = bench.data().join("run");
    // A socket that nobody listens on, and a number that nobody has.
    drop(std::os::unix::net::UnixListener::bind(run.join("dkm.sock")).unwrap());
    fs::write(run.join("supervisor.lock"), "999999999\n").unwrap();
    fs::write(run.join("go-carbon.lock"), "999999999\n").unwrap();
    fs::write(run.join("state.json"), "half of a fi").unwrap();
    fs::write(run.join("definitions.json"), "[{").unwrap();
    fs::write(run.join("go-carbon.out"), "not a FIFO").unwrap();
    bench.good(&["start"]);
    assert_eq!((bench.state("go-carbon"), bench.state("carbonapi")), ("running".into(), "running".into()));
    // The whole folder goes while everything runs: the next supervisor knows nothing, and makes no mess.
    bench.good(&["shutdown"]);
    fs::remove_dir_all(&run).unwrap();
    bench.good(&["start"]);
    assert_eq!(bench.state("carbonapi"), "running");
}

/// The folder is moved away under a living supervisor: it says so, starts nothing more, and can be ended.
#[test]
fn a_moved_data_folder_is_told() {
    let bench = two_sleepers();
    bench.good(&["start"]);
    let elsewhere = bench.root().join("else where");
    fs::rename(bench.data(), &elsewhere).unwrap();
    let dkm = |verb: &str| Command::new(elsewhere.join("bin/dkm")).arg(verb).output().unwrap();
    let said = text(&dkm("start"));
    assert!(said.contains("was moved to") && said.contains("else where"), "{said}");
    assert!(dkm("status").status.success());
    let output = dkm("shutdown");
    assert!(output.status.success(), "{}", text(&output));
    fs::rename(&elsewhere, bench.data()).unwrap();
    bench.good(&["start"]);
}

/// With no descriptor left nothing is started and nothing breaks; with some again everything goes on.
#[cfg(target_os = "linux")]
#[test]
fn no_descriptors_left() {
    let bench = two_sleepers();
    bench.good(&["start", "go-carbon"]);
    let (supervisor, first) = (bench.pid(""), bench.pid("go-carbon"));
    // The first number that is not taken: those above it that are open stay so.
    let taken = |number: &usize| std::path::Path::new(&format!("/proc/{supervisor}/fd/{number}")).symlink_metadata().is_ok();
    let open = (0..).find(|number| !taken(number)).unwrap();
    let limit = |soft: usize| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--pid={supervisor}")).arg(format!("--nofile={soft}:")).status().unwrap()
    };
    // One for the client that asks, and none for what a start takes.
    assert!(limit(open + 1).success());
    let said = text(&bench.dkm(&["start", "carbonapi"]));
    assert!(said.contains("Too many open files"), "{said}");
    // Not even the client gets in, and what dies cannot be made anew; nothing spins meanwhile.
    assert!(limit(open).success());
    send(first, Signal::SIGKILL);
    until("its end to be seen", || bench.supervisor_log().contains(&format!("process {first} killed by SIGKILL")));
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    let waiting = bench.command(&["status"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(ticks() - before < 25, "it spins: {} ticks", ticks() - before);
    assert!(limit(4096).success());
    assert!(text(&waiting.wait_with_output().unwrap()).contains("go-carbon"));
    until("it to come up by itself", || bench.state("go-carbon") == "running");
    bench.good(&["start", "carbonapi"]);
}

/// Where the wall clock is used it is only shown: a state file of the future or of long ago changes nothing.
#[test]
fn the_clock_may_jump() {
    let bench = two_sleepers();
    bench.good(&["start"]);
    let pids = [bench.pid("go-carbon"), bench.pid("carbonapi")];
    for hours in [1_i64, -1] {
        kill_supervisor(&bench);
        let path = bench.data().join("run/state.json");
        let mut stored: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for status in stored["services"].as_array_mut().unwrap() {
            status["since"] = json!(status["since"].as_i64().unwrap() + hours * 3_600);
        }
        fs::write(&path, stored.to_string()).unwrap();
        bench.good(&["start"]);
        assert_eq!([bench.pid("go-carbon"), bench.pid("carbonapi")], pids);
        assert_eq!(bench.dkm(&["status"]).status.code(), Some(0));
    }
}
