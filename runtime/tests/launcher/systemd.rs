//! In the foreground: below systemd, as the first process of a container, in a terminal.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bench::{Bench, PATIENCE, alive, send, shell, text, until};

/// A manager that listens to what it is told, as systemd does.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(bench: &Bench) -> Self {
        let socket = UnixDatagram::bind(bench.root().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self { socket, heard: Vec::new() }
    }

    /// Waits until this was said since it was asked last.
    fn hears(&mut self, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while !self.heard.iter().any(|heard| heard.contains(wanted)) {
            assert!(Instant::now() < end, "\"{wanted}\" was not said, but {:?}", self.heard);
            if let Ok(count) = self.socket.recv(&mut buffer) {
                self.heard.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            }
        }
        self.heard.clear();
    }
}

fn supervisor(bench: &Bench, manager: bool) -> Child {
    let mut command = bench.command(&["supervisor"]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "3").stdout(Stdio::null());
    if manager {
        command.env("NOTIFY_SOCKET", bench.root().join("notify")).env("WATCHDOG_USEC", "200000");
    }
    command.spawn().unwrap()
}

#[test]
fn systemd_is_told_everything_it_asks() {
    let services = [
        shell("go-carbon", "echo \"[$NOTIFY_SOCKET$WATCHDOG_USEC$LISTEN_FDS]\"; exec sleep 1000"),
        shell("carbonapi", "exec sleep 1000"),
    ];
    let bench = Bench::installed(&services);
    let mut manager = Manager::new(&bench);
    let mut child = supervisor(&bench, true);
    manager.hears("READY=1");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    bench.good(&["start"]);
    manager.hears("STATUS=2 of 2 services run");
    assert_eq!(bench.log("go-carbon"), "[]\n", "a service was told what was meant for the supervisor");
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(bench.pid(""), pid);
    send(pid, Signal::SIGHUP);
    manager.hears("RELOADING=1\nMONOTONIC_USEC=");
    manager.hears("READY=1");
    // Another program in its place is the same to systemd.
    let before = bench.pid("go-carbon");
    bench.done(&serde_json::json!({"verb": "upgrade-self"}));
    manager.hears("READY=1");
    assert_eq!((bench.pid(""), bench.pid("go-carbon")), (pid, before));
    send(pid, Signal::SIGTERM);
    manager.hears("STOPPING=1");
    assert!(child.wait().unwrap().success());
    assert!(!alive(before));
}

#[cfg(target_os = "linux")]
#[test]
fn orphans_are_reaped() {
    let bench = Bench::installed(&[
        shell("go-carbon", "(setsid sh -c 'echo $$; exec sleep 0.2' &) ; exec sleep 1000"),
        shell("carbonapi", "exec sleep 1000"),
    ]);
    bench.good(&["start"]);
    until("the orphan's number", || bench.log("go-carbon").ends_with('\n'));
    let orphan: i32 = bench.log("go-carbon").trim().parse().unwrap();
    // Gone, and not only dead.
    until("the orphan to be reaped", || !std::path::Path::new(&format!("/proc/{orphan}")).exists());
    assert_eq!(bench.state("go-carbon"), "running");
}

/// As the first process of a container: its services end with TERM to it, and so does it.
#[cfg(target_os = "linux")]
#[test]
fn as_the_first_process_of_a_container_it_ends_everything() {
    let bench = Bench::installed(&[shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")]);
    let unshare = |rest: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]).args(rest);
        command
    };
    let possible = unshare(&["true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !possible {
        eprintln!("no namespaces here: not tried");
        return;
    }
    let dkm = bench.data().join("bin/dkm");
    let dkm = dkm.to_str().unwrap();
    // TERM from inside, as from the container's manager; the shell is the second process.
    let script = "\"$0\" start && \"$0\" pid && kill -TERM 1";
    let mut child = unshare(&[
        "sh",
        "-c",
        &format!("(until test -S run/dkm.sock; do sleep 0.02; done; {script}) & exec \"$0\" supervisor"),
    ]);
    let output = child.arg(dkm).current_dir(bench.data()).output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output), bench.supervisor_log());
    assert!(text(&output).contains("\n1\n"), "the supervisor is not the first process: {}", text(&output));
    let log = bench.supervisor_log();
    assert!(log.contains("go-carbon: stopped") && log.contains("SIGTERM: stopping everything"), "{log}");
    assert_eq!(bench.processes(), Vec::<i32>::new());
}

/// Where systemd has delegated the control group, nobody runs away: here one that has left its group, its session, its parents
/// and its variables behind.
#[cfg(target_os = "linux")]
#[test]
fn a_delegated_control_group_keeps_together_what_runs_away() {
    let place = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
    let Some(root) = place.into_iter().find(|place| place.join("cgroup.procs").exists()) else { return };
    let own = root.join(format!("dkm-test-{}", std::process::id()));
    let mark = "setfattr -n user.delegate -v 1 \"$0\" || python3 -c 'import os,sys; os.setxattr(sys.argv[1],\"user.delegate\",b\"1\")' \"$0\"";
    let marked = || Command::new("/bin/sh").args(["-c", mark]).arg(&own).stderr(Stdio::null()).status();
    let possible = std::fs::create_dir(&own).is_ok() && marked().is_ok_and(|status| status.success());
    if !possible {
        eprintln!("no control group can be had here: not tried");
        let _ = std::fs::remove_dir(&own);
        return;
    }
    let script = "setsid env -i /bin/sh -c '(exec sleep 1234 &) ; exit' ; echo here; exec sleep 1000";
    let bench = Bench::installed(&[shell("go-carbon", script), shell("carbonapi", "exec sleep 1000")]);
    let mut enter = Command::new("/bin/sh");
    enter.arg("-c").arg("echo 0 > \"$0/cgroup.procs\" && exec \"$1\" supervisor").arg(&own).arg(bench.data().join("bin/dkm"));
    let mut child = enter.stdout(Stdio::null()).spawn().unwrap();
    until("the supervisor", || bench.data().join("run/dkm.sock").exists());
    bench.good(&["start", "go-carbon"]);
    until("its word", || bench.log("go-carbon").contains("here"));
    let members = || std::fs::read_to_string(own.join("dkm-go-carbon/cgroup.procs")).unwrap_or_default();
    let runaway: Vec<i32> =
        members().lines().map(|line| line.parse().unwrap()).filter(|&pid| pid != bench.pid("go-carbon")).collect();
    assert_eq!(runaway.len(), 1, "{}", members());
    bench.good(&["stop", "go-carbon"]);
    assert!(!alive(runaway[0]));
    assert!(!own.join("dkm-go-carbon").exists(), "an empty group is left behind");
    bench.good(&["shutdown"]);
    child.wait().unwrap();
    until("the group to be empty", || std::fs::remove_dir(&own).is_ok());
}
