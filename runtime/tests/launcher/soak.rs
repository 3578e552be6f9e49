//! A long time with random verbs and kills, what must always hold being looked at all along.
//!
//! By hand: `DKM_SOAK_SECONDS=600 cargo test -p dkumonitor-runtime --test launcher soak:: -- --nocapture`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, Random, counter, send, shell, text, until, wanted};
use crate::chaos::{assert_complete, assert_single, together};

/// Services of every temper.
fn services() -> Vec<Value> {
    let mut out = Bench::two();
    out.push(counter("plain", &json!({"max-bytes": 200_000, "keep": 100_000})));
    out.push(counter("stamped", &json!({"max-bytes": 200_000, "keep": 100_000, "timestamps": true})));
    out.push(shell("stubborn", "trap '' TERM; while :; do sleep 1; done"));
    out.push(shell("brief", "echo here; sleep 0.3; exit 1"));
    out.push(shell("family", "sleep 1000 & setsid sleep 1000 & exec sleep 1000"));
    out.push(shell("flood", "while :; do head -c 100000 /dev/zero | tr '\\0' 'x' | fold -w 99; sleep 0.05; done"));
    out.push(shell("sickly", "echo ready now; exec sleep 1000"));
    out[8]["probes"] = json!([{"log": "ready now"}]);
    let test = ["/bin/sh", "-c", "test $(($(date +%s) % 10)) -lt 8"];
    out[8]["health"] = json!({"probe": {"exec": test}, "period-s": 1, "threshold": 1, "action": "restart"});
    out[4]["stop-timeout-s"] = json!(1);
    out[7]["log"] = json!({"max-bytes": 500_000, "keep": 2});
    out
}

/// What a supervisor holds: kilobytes of memory and descriptors.
fn holdings(pid: i32) -> Option<(u64, usize)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let anonymous =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_ascii_whitespace().next()?.parse().ok())?;
    Some((anonymous, fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
}

/// Does something at random, as a person, a script or a misfortune would.
fn meddle(bench: &Bench, random: &mut Random, names: &[&str]) {
    let name = names[usize::try_from(random.below(names.len() as u64)).unwrap()];
    let run = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if begin.elapsed() > Duration::from_secs(300) {
                panic!("dkm {arguments:?} does not end\n{}", bench.supervisor_log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    match random.below(22) {
        0..4 => run(&["start", name]),
        4..6 => run(&["stop", name]),
        6..8 => run(&["restart", name]),
        8 => run(&["restart", "--no-wait", name]),
        9 => run(&["start"]),
        10..12 => run(&["status"]),
        12 => run(&["tail", name]),
        13 if bench.keeper().is_some() => bench.supervisors().iter().for_each(|&pid| send(pid, Signal::SIGKILL)),
        14 => bench.helpers("@compress").iter().for_each(|&pid| send(pid, Signal::SIGKILL)),
        15 => bench.supervisors().iter().for_each(|&pid| send(pid, Signal::SIGUSR1)),
        16 => _ = fs::remove_file(bench.data().join("run/dkm.sock")),
        17 => upgrade(bench),
        18 => run(&["reload", name]),
        19 => {
            // Somebody who asks and goes away.
            let child = bench.command(&["restart", name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = child.unwrap();
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            let _ = child.kill();
            let _ = child.wait();
        }
        _ => bench.processes_of(Some(name)).iter().for_each(|&pid| send(pid, Signal::SIGKILL)),
    }
}

/// Lets the supervisor's own program take its place, which nobody may notice.
fn upgrade(bench: &Bench) {
    let Ok(mut stream) = UnixStream::connect(bench.data().join("run/dkm.sock")) else { return };
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut answer = String::new();
    if stream.write_all(b"{\"v\":2,\"verb\":\"upgrade-self\",\"wait\":true}\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
    {
        assert!(answer.is_empty() || answer.contains("\"type\":\"done\""), "{answer}\n{}", bench.supervisor_log());
    }
}

#[test]
fn a_long_time_of_verbs_and_kills_changes_nothing() {
    let names = ["go-carbon", "carbonapi", "plain", "stamped", "stubborn", "brief", "family", "flood", "sickly"];
    let bench = Bench::installed(&services());
    let mut random = Random::new("soak");
    let end = Instant::now() + Duration::from_secs(wanted("DKM_SOAK_SECONDS", 15));
    bench.dkm(&["start"]);
    let mut most = (0, 0);
    let mut rounds = 0_u64;
    while Instant::now() < end {
        meddle(&bench, &mut random, &names);
        rounds += 1;
        std::thread::sleep(Duration::from_micros(random.below(30_000)));
        // Never two first processes of one service: first ones lead sessions. (Of the family another one does too,
        // and what asks for the health of the sickly one.)
        for name in names.iter().filter(|name| !["family", "sickly"].contains(name)) {
            let leaders: Vec<i32> = together(&bench, name).into_iter().filter(|&pid| leads(pid)).collect();
            assert!(leaders.len() <= 1, "{name}: {leaders:?}\n{}", bench.supervisor_log());
        }
        let supervisors = bench.supervisors();
        if let [pid] = supervisors[..]
            && let Some((memory, files)) = holdings(pid)
        {
            most = (memory.max(most.0), files.max(most.1));
        }
        if rounds.is_multiple_of(50) {
            // Whatever happened: an answer.
            until("a status", || bench.dkm(&["status", "--json"]).stdout.starts_with(b"["));
        }
    }
    // Everything can be brought up, and down, again.
    until("a start", || bench.dkm(&["start", "go-carbon", "carbonapi", "plain", "stamped"]).status.success());
    assert_single(&bench, &["go-carbon", "carbonapi", "plain", "stamped"]);
    let supervisor = bench.pid("");
    println!("{rounds} rounds; a supervisor had at most {} KB of its own and {} descriptors", most.0, most.1);
    // Flat: bounds that no leak of a soak's length would keep.
    assert!(most.0 < 4_000 && most.1 < 100, "{most:?}");
    let output = bench.dkm(&["stop"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(bench.processes(), Vec::<i32>::new());
    assert_eq!(bench.pid(""), supervisor);
    assert_complete(&bench, "plain", false);
    assert_complete(&bench, "stamped", true);
}

/// Whether a process leads a session, as the first process of a service does.
fn leads(pid: i32) -> bool {
    nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).is_ok_and(|session| session.as_raw() == pid)
}
