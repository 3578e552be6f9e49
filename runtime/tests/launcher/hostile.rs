//! Clients that mean harm, or do it: frames that are none, half a request, a thousand connections, another user.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::bench::{Bench, PATIENCE, Random, shell, text, until};

fn connect(bench: &Bench) -> UnixStream {
    UnixStream::connect(bench.data().join("run/dkm.sock")).unwrap()
}

/// A supervisor with one service, and its PID.
fn bench() -> (Bench, i32, i32) {
    let mut services = Bench::two();
    services.push(shell("sleeper", "exec sleep 1000"));
    let bench = Bench::installed(&services);
    bench.good(&["start", "sleeper"]);
    let (supervisor, service) = (bench.pid(""), bench.pid("sleeper"));
    (bench, supervisor, service)
}

fn assert_unharmed(bench: &Bench, supervisor: i32, service: i32) {
    assert_eq!((bench.pid(""), bench.pid("sleeper")), (supervisor, service), "{}", bench.supervisor_log());
}

#[test]
fn frames_that_are_none_harm_nobody() {
    let (bench, supervisor, service) = bench();
    let mut random = Random::new("frames");
    let good = br#"{"v":2,"verb":"status","services":["sleeper"],"wait":true}"#;
    for _ in 0..300 {
        let mut frame = good.to_vec();
        match random.below(4) {
            // Noise.
            0 => frame = (0..random.below(5_000)).map(|_| u8::try_from(random.below(256)).unwrap()).collect(),
            // A bit turned over here and there: what comes out may even be a request, of the harmless verb.
            1 => {
                for _ in 0..=random.below(4) {
                    let at = usize::try_from(random.below(frame.len() as u64)).unwrap();
                    frame[at] ^= 1 << random.below(8);
                }
            }
            // Cut off.
            2 => frame.truncate(usize::try_from(random.below(frame.len() as u64)).unwrap()),
            // Deep nesting.
            _ => frame = [vec![b'['; usize::try_from(random.below(60_000)).unwrap()], frame].concat(),
        }
        if random.below(2) == 0 {
            frame.push(b'\n');
        }
        let mut stream = connect(&bench);
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let _ = stream.write_all(&frame);
        let _ = stream.read(&mut [0; 4096]);
    }
    assert_unharmed(&bench, supervisor, service);
}

#[test]
fn half_a_request_is_not_waited_for_for_ever() {
    let (bench, supervisor, service) = bench();
    let mut half = connect(&bench);
    half.write_all(br#"{"v":2,"verb":"sta"#).unwrap();
    // Others are served meanwhile.
    assert_unharmed(&bench, supervisor, service);
    half.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    half.read_to_end(&mut rest).expect("it is thrown out before long");
}

#[test]
fn a_thousand_connections_keep_nobody_out_for_long() {
    let (bench, supervisor, service) = bench();
    let mut held = Vec::new();
    for _ in 0..1_000 {
        // Those that are refused are closed at once.
        held.extend(UnixStream::connect(bench.data().join("run/dkm.sock")));
    }
    until("an answer all the same", || bench.dkm(&["status"]).status.code().is_some_and(|code| code != 1));
    drop(held);
    assert_unharmed(&bench, supervisor, service);
    #[cfg(target_os = "linux")]
    until("the descriptors to be free again", || std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count() < 40);
}

/// A client that asks and asks and never reads, and one that goes away in the middle.
#[test]
fn who_does_not_read_is_dropped_and_holds_nobody_up() {
    let (bench, supervisor, service) = bench();
    let mut deaf = Vec::new();
    for _ in 0..50 {
        let mut stream = connect(&bench);
        stream.write_all(b"{\"v\":2,\"verb\":\"start\",\"services\":[\"sleeper\"],\"wait\":true}\n").unwrap();
        deaf.push(stream);
    }
    for _ in 0..50 {
        let mut stream = connect(&bench);
        stream.write_all(b"{\"v\":2,\"verb\":\"status\"}\n").unwrap();
    }
    assert_unharmed(&bench, supervisor, service);
}

/// Another user does not even find the socket. Needs root to become another user.
#[cfg(target_os = "linux")]
#[test]
fn another_user_does_not_get_in() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("passed over: only root can become another user");
        return;
    }
    let (bench, supervisor, service) = bench();
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &std::path::Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let attempt = || {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(bench.bundle_path().join("bin/dkm"));
        command.arg("--home").arg(bench.data()).args(["stop", "sleeper"]).output().unwrap()
    };
    [bench.root(), bench.bundle_path(), bench.bundle_path().join("bin")].iter().for_each(|path| open(path));
    let output = attempt();
    assert!(!output.status.success(), "{}", text(&output));
    assert_unharmed(&bench, supervisor, service);
    // Not even with every door open: the supervisor looks who it is.
    let data = bench.data();
    ["", "conf", "conf/services.d", "bin", "run", "run/dkm.sock"].iter().for_each(|path| open(&data.join(path)));
    let output = attempt();
    assert!(!output.status.success(), "{}", text(&output));
    assert_unharmed(&bench, supervisor, service);
}
