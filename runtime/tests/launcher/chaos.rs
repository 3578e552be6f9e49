//! Kills at random instants: of supervisors, keepers, compressors and services, in any order.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::{Bench, Random, alive, counter, send, text, until, wanted};
use crate::logs::{lines, unstamped};

/// Asserts that the log of [`counter`] has every number once; those that are passed over may be missing. How many there are.
pub fn assert_complete(bench: &Bench, service: &str, timestamps: bool) -> u64 {
    let mut next = 0;
    let (mut count, mut passed) = (0_u64, 0_u64);
    for line in lines(bench, service) {
        let line = if timestamps { unstamped(&line) } else { line.as_str() };
        let number = |start: &str| line.strip_prefix(start).and_then(|number| number.parse::<u64>().ok());
        if let Some(number) = number("number ") {
            assert_eq!(number, next, "{service}: lines are missing, doubled or out of order");
            next += 1;
            count += 1;
        } else if let Some(number) = number("passing over ") {
            // What the killed one had noted: printed or not.
            assert!(next == number || next == number + 1, "{service}: it knew of {number}, and the log ends before {next}");
            next = number + 1;
            passed += 1;
        } else {
            assert!(!line.contains("number") && !line.contains("passing"), "{service}: a torn line: {line}");
        }
    }
    println!("{service}: {count} lines, killed {passed} times");
    count
}

/// The processes of a service that live at the same time. One that was killed may end, and its successor begin, while all processes are
/// looked at one by one; then the second look does not find the first of them any more.
pub fn together(bench: &Bench, service: &str) -> Vec<i32> {
    let first = bench.processes_of(Some(service));
    if first.len() < 2 {
        return first;
    }
    let second = bench.processes_of(Some(service));
    first.into_iter().filter(|pid| second.contains(pid)).collect()
}

/// Asserts that there is one supervisor, and of each of these services one first process, which `status` knows.
pub fn assert_single(bench: &Bench, services: &[&str]) {
    // One that was killed is seen until it is gone altogether, and one too many ends as soon as it sees the other's lock.
    until("one supervisor", || bench.supervisors().len() == 1);
    for service in services {
        until(&format!("one process of {service}, which status knows"), || {
            let processes = together(bench, service);
            assert!(processes.len() <= 1, "{service}: {processes:?}\n{}", bench.supervisor_log());
            processes.len() == 1 && bench.status(service)["pid"].as_i64() == Some(i64::from(processes[0]))
        });
    }
}

fn kill_all(pids: &[i32]) {
    pids.iter().for_each(|&pid| send(pid, Signal::SIGKILL));
}

/// How many sockets listen on a TCP port.
fn listeners(port: u16) -> usize {
    let wanted = format!(":{port:04X} ");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().filter(|line| line.contains(&wanted) && line.split_ascii_whitespace().nth(3) == Some("0A")).count()
}

/// By hand: `DKM_FAULT_KILLS=200 cargo test -p dkumonitor-runtime --test launcher chaos:: -- --nocapture`.
#[test]
fn whoever_is_killed_whenever_nothing_is_lost_and_nothing_runs_twice() {
    let mut random = Random::new("kills");
    let mut services = Bench::two();
    services.push(counter("plain", &json!({"max-bytes": 100_000, "keep": 100_000})));
    services.push(counter("stamped", &json!({"max-bytes": 100_000, "keep": 100_000, "timestamps": true})));
    let names = ["go-carbon", "carbonapi", "plain", "stamped"];
    let bench = Bench::installed(&services);
    bench.good(&["start"]);
    for round in 0..wanted("DKM_FAULT_KILLS", 20) {
        until("a keeper at work", || bench.keeper().is_some());
        std::thread::sleep(Duration::from_micros(random.below(40_000)));
        // If supervisor, keeper and service all go, what nobody has read goes with them: that is the one limit, and documented.
        let spared = random.below(3);
        for _ in 0..=random.below(3) {
            match random.below(9) {
                0..3 if spared != 0 => kill_all(&bench.supervisors()),
                3 if spared != 1 => kill_all(&bench.helpers("@keep")),
                4 => kill_all(&bench.helpers("@compress")),
                other @ 5.. if spared != 2 => kill_all(&bench.processes_of(Some(names[usize::try_from(other).unwrap() - 5]))),
                _ => {}
            }
            std::thread::sleep(Duration::from_micros(random.below(3_000)));
        }
        // A start that meets a dying supervisor fails, and the next one does not.
        until("a start", || bench.dkm(&["start"]).status.success());
        assert_single(&bench, &names);
        for port in [bench.port + 1, bench.port + 2] {
            until(&format!("round {round}: somebody to listen on {port}"), || {
                let listeners = listeners(port);
                assert!(listeners <= 1, "round {round}: {listeners} listen on {port}");
                listeners == 1
            });
        }
    }
    bench.good(&["stop"]);
    assert_eq!(bench.processes(), Vec::<i32>::new());
    assert!(assert_complete(&bench, "plain", false) > 100);
    assert!(assert_complete(&bench, "stamped", true) > 100);
}

#[test]
fn fifty_starts_at_once_give_one_of_each() {
    let bench = Bench::installed(&Bench::two());
    let children: Vec<_> =
        (0..50).map(|_| bench.command(&["start"]).stdout(std::process::Stdio::null()).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{}", text(&output), bench.supervisor_log());
    }
    assert_single(&bench, &["go-carbon", "carbonapi"]);
    // And once more where there is something to adopt.
    let pids = [bench.pid("go-carbon"), bench.pid("carbonapi")];
    let supervisor = bench.pid("");
    send(supervisor, Signal::SIGKILL);
    until("the supervisor to be gone", || !alive(supervisor));
    let children: Vec<_> =
        (0..50).map(|_| bench.command(&["start"]).stdout(std::process::Stdio::null()).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}\n{}", text(&output), bench.supervisor_log());
    }
    assert_single(&bench, &["go-carbon", "carbonapi"]);
    assert_eq!([bench.pid("go-carbon"), bench.pid("carbonapi")], pids);
}
