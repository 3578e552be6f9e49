//! What the machine may run out of, and a clock that jumps.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::{Bench, alive, send, shell, text, until};

/// Sets the soft limit of a running process.
fn limit(pid: i32, what: &str, value: &str) {
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    let mut command = Command::new("prlimit");
    if owner != nix::unistd::geteuid().as_raw() {
        // Not even root may do that to others without the capability for it.
        command = Command::new("setpriv");
        command.args([&format!("--reuid={owner}"), &format!("--regid={owner}"), "--clear-groups", "prlimit"]);
    }
    let output = command.args(["--pid", &pid.to_string(), &format!("--{what}={value}:")]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// How long a process was busy. (How long it waited for a processor says more of the machine than of the process.)
fn busy(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(text.split_ascii_whitespace().next().unwrap().parse().unwrap())
}

/// Runs dkm as somebody for whom limits hold: root is exempt from that on processes.
fn as_somebody(bench: &Bench, arguments: &[&str]) -> std::process::Output {
    if !nix::unistd::geteuid().is_root() {
        return bench.dkm(arguments);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(bench.data().join("bin/dkm")).args(arguments);
    command.output().unwrap()
}

#[test]
fn without_a_process_to_be_had_a_service_comes_back_later() {
    let mut services = Bench::two();
    services.push(shell("mortal", "exec sleep 1000"));
    let bench = Bench::installed(&services);
    if nix::unistd::geteuid().is_root() {
        let done = Command::new("chown").args(["-R", "65534:65534"]).arg(bench.root()).status().unwrap();
        assert!(done.success());
    }
    let output = as_somebody(&bench, &["start", "mortal"]);
    assert!(output.status.success(), "{}", text(&output));
    let (supervisor, mortal) = (bench.pid(""), bench.pid("mortal"));
    let before = limits(supervisor, "Max processes");
    limit(supervisor, "nproc", "1");
    send(mortal, Signal::SIGKILL);
    until("a failed start", || bench.status("mortal")["reason"].as_str().is_some_and(|reason| reason.contains("os error 11")));
    assert_eq!(bench.state("mortal"), "backing-off");
    limit(supervisor, "nproc", &before);
    until("it to come back by itself", || bench.state("mortal") == "running");
    assert_eq!(bench.pid(""), supervisor);
    let output = as_somebody(&bench, &["shutdown"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn without_a_descriptor_left_it_goes_on_and_does_not_spin() {
    let mut services = Bench::two();
    services.push(shell("mortal", "exec sleep 1000"));
    services.push(shell("talker", "n=0; while sleep 0.02; do echo number $n; n=$((n+1)); done"));
    services[3]["log"] = json!({"max-bytes": 2_000});
    let bench = Bench::installed(&services);
    bench.good(&["start", "mortal", "talker"]);
    until("lines", || bench.log("talker").lines().count() > 3);
    let (supervisor, mortal) = (bench.pid(""), bench.pid("mortal"));
    let before = limits(supervisor, "Max open files");
    // The first number that is not taken: those above it that are open stay so.
    let open = |number: &u32| Path::new(&format!("/proc/{supervisor}/fd/{number}")).symlink_metadata().is_ok();
    let free = (0_u32..).find(|number| !open(number)).unwrap();
    limit(supervisor, "nofile", &free.to_string());
    // What needs no new descriptor goes on: an open log.
    let length = || fs::metadata(bench.data().join("run/log/talker.log")).map_or(0, |meta| meta.len());
    let then = length();
    until("more lines", || length() > then);
    // Nobody gets in, and nobody is turned away by a loop that burns the machine.
    let mut client = bench.command(&["status"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    send(mortal, Signal::SIGKILL);
    until("mortal to be gone", || !alive(mortal));
    let (begin, used) = (Instant::now(), busy(supervisor));
    std::thread::sleep(Duration::from_millis(1_500));
    let spent = busy(supervisor).saturating_sub(used);
    assert!(spent < begin.elapsed() / 3, "{spent:?} of {:?} were spent for nothing", begin.elapsed());
    limit(supervisor, "nofile", &before);
    client.wait().unwrap();
    until("everything to be well again", || bench.dkm(&["status", "mortal", "talker"]).status.success());
    assert_eq!(bench.pid(""), supervisor);
}

fn limits(pid: i32, what: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find(|line| line.starts_with(what)).unwrap();
    line[what.len()..].split_ascii_whitespace().next().unwrap().to_owned()
}

/// A library that shifts the clock on the wall by as many seconds as a file says, for programs that are not static: as the tests'
/// dkm is. None where there is no C compiler.
fn shifted_clock(folder: &Path, shift: &Path) -> Option<std::path::PathBuf> {
    let source = format!(
        "#define _GNU_SOURCE\n#include <time.h>\n#include <stdio.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int clock_gettime(clockid_t id, struct timespec *t) {{\n\
           int r = syscall(SYS_clock_gettime, id, t); long s = 0; FILE *f;\n\
           if (id == CLOCK_REALTIME && (f = fopen(\"{}\", \"r\"))) {{ if (fscanf(f, \"%ld\", &s) == 1) t->tv_sec += s; fclose(f); }}\n\
           return r; }}\n",
        shift.display()
    );
    // Blanks part the names of several libraries: it gets a folder of its own.
    let (file, library) = (folder.join("clock.c"), folder.join("clock.so"));
    fs::write(&file, source).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&file).status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
}

#[test]
fn a_clock_that_jumps_changes_nothing_but_the_dates() {
    let mut services = Bench::two();
    services.push(shell("mortal", "exec sleep 1000"));
    services.push(shell("stubborn", "trap '' TERM; echo here; while :; do sleep 1000; done"));
    services[3]["stop-timeout-s"] = json!(1);
    services.push(shell("talker", "n=0; while sleep 0.01; do echo number $n; n=$((n+1)); done"));
    services[4]["log"] = json!({"max-bytes": 2_000, "keep": 1_000, "timestamps": true});
    let bench = Bench::installed(&services);
    let shift = bench.root().join("shift");
    let set = |seconds: i64| {
        fs::write(bench.root().join("shift~"), seconds.to_string()).unwrap();
        fs::rename(bench.root().join("shift~"), &shift).unwrap();
    };
    set(0);
    let blankless = tempfile::Builder::new().prefix("dkm-clock-").tempdir().unwrap();
    let Some(library) = shifted_clock(blankless.path(), &shift) else {
        eprintln!("passed over: there is no C compiler");
        return;
    };
    let output = bench.command(&["start", "mortal", "stubborn", "talker"]).env("LD_PRELOAD", &library).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let year = || bench.log("talker").lines().last().map_or(String::new(), |line| line.chars().take(4).collect());
    for (round, jump) in [3_600, -3_600, 30 * 365 * 86_400, -400_000, 0].into_iter().enumerate() {
        let rotated = || crate::logs::files(&bench, "talker").len();
        let before = rotated();
        set(jump);
        // Restarts keep their pace, and rotation goes on.
        let old = bench.pid("mortal");
        send(old, Signal::SIGKILL);
        until("a new process", || bench.renewed("mortal", old));
        until("rotations", || rotated() > before + 1);
        if jump > 1_000_000_000 {
            until("another date", || year().as_str() > "2050");
        }
        let status = bench.status("talker");
        assert_eq!(status["state"], json!("running"), "round {round}: {status}");
    }
    // A stop's time is not the wall's.
    until("the trap", || bench.log("stubborn").contains("here"));
    set(-86_400);
    bench.good(&["stop", "stubborn", "--timeout", "120"]);
    bench.good(&["stop"]);
    // The files are in the order in which they were written, whatever the clock said.
    let mut next = 0;
    for line in crate::logs::lines(&bench, "talker") {
        assert_eq!(crate::logs::unstamped(&line), format!("number {next}"));
        next += 1;
    }
    assert!(next > 50);
}

/// Without a byte of space where the supervisor keeps its things: what dies comes back, the supervisor too, and `status` says what
/// cannot be written. Everything happens in a world of its own, where that folder is a small file system.
#[test]
fn on_a_full_disk_what_dies_comes_back_and_status_says_what_is_wrong() {
    let bench = Bench::installed(&[shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")]);
    let script = r#"
        mount -t tmpfs -o size=2m,mode=700 tmpfs run || exit 77
        until_so() { n=0; until "$@"; do n=$((n+1)); [ $n -lt 400 ] || { echo "never: $*"; exit 1; }; sleep 0.05; done; }
        renewed() { new=$("$dkm" pid go-carbon) && [ "$new" != 0 ] && [ "$new" != "$old" ]; }
        says() { "$dkm" status 2>&1 | grep -q 'the supervisor: cannot write .*No space left'; }
        silent() { ! says; }
        "$dkm" start || exit 1
        old=$("$dkm" pid go-carbon)
        cat /dev/zero > run/filler && { echo 'the disk does not get full'; exit 1; }
        kill -9 "$old"
        until_so renewed
        until_so says
        kill -9 "$("$dkm" pid)"
        "$dkm" start || exit 1
        [ "$("$dkm" pid go-carbon)" = "$new" ] || { echo 'it was not adopted'; exit 1; }
        until_so says
        rm run/filler
        until_so silent
        "$dkm" shutdown"#;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).current_dir(bench.data());
    let output = command.env("dkm", bench.data().join("bin/dkm")).output().unwrap();
    let said = text(&output);
    if output.status.code() == Some(77) || said.contains("unshare failed") || said.contains("Operation not permitted") {
        eprintln!("passed over: this machine allows no user namespaces: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
}
