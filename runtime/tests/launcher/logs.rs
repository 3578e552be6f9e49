//! Logs end to end: policies, compression, full disks, the death of whoever writes them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, alive, listener, send, shell, until};

/// A service that prints numbers, and where its log's policy is.
fn counter(kind: &str, log: &Value) -> Value {
    let mut service = listener("counter", "carbon", &[]);
    service["environment"] = json!({"HELPER": kind});
    service["ports"] = json!([]);
    service["probes"] = json!([]);
    service["log"] = log.clone();
    service
}

/// All files of a service's log in the order of time, without indexes; what is there twice, packed and plain, once.
pub fn files(bench: &Bench, service: &str) -> Vec<PathBuf> {
    let folder = bench.data().join("run/log");
    let name = format!("{service}.log");
    let mut by_time: BTreeMap<String, PathBuf> = BTreeMap::new();
    // Twice: one that is compressed while the folder is read may have neither of its names in what is read.
    let listed: Vec<_> = (0..2).flat_map(|_| fs::read_dir(&folder).unwrap().flatten()).collect();
    for entry in listed {
        let file = entry.file_name().into_string().unwrap();
        let Some(rest) = file.strip_prefix(&name) else { continue };
        if rest.ends_with(".idx") || rest.ends_with('~') {
            continue;
        }
        // "~" comes after every digit: the current file is the last one.
        let time = if rest.is_empty() { "~".to_owned() } else { rest.trim_end_matches(".gz").to_owned() };
        if !by_time.contains_key(&time) || file.ends_with(".gz") {
            by_time.insert(time, entry.path());
        }
    }
    by_time.into_values().collect()
}

/// A file's content, unpacked if need be; it may be compressed before it is opened.
pub fn content(path: &Path) -> String {
    let mut text = String::new();
    let packed = PathBuf::from(format!("{}.gz", path.display()));
    let (path, file) = File::open(path).map_or_else(|_| (&*packed, File::open(&packed).unwrap()), |file| (path, file));
    if path.extension().is_some_and(|end| end == "gz") {
        flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
    } else {
        (&file).read_to_string(&mut text).unwrap();
    }
    text
}

/// Every line of a service's log.
pub fn lines(bench: &Bench, service: &str) -> Vec<String> {
    let all: String = files(bench, service).iter().map(|path| content(path)).collect();
    all.lines().map(str::to_owned).collect()
}

/// A line without the stamp it has to have.
pub fn unstamped(line: &str) -> &str {
    let (stamp, rest) = line.split_at_checked(25).unwrap_or_else(|| panic!("no stamp: {line}"));
    let form: String = stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z ", "{line}");
    rest
}

/// Asserts that lines count from 0 without a gap, but for what the helper prints before; how many there are.
fn assert_counting<'a>(lines: impl Iterator<Item = &'a str>) -> u64 {
    let mut next = 0;
    for line in lines.skip_while(|line| !line.starts_with("number ")) {
        assert_eq!(line, format!("number {next}"), "lines are missing, doubled or torn");
        next += 1;
    }
    next
}

/// Rotation, compression and the supervisor are interrupted again and again; every line is there, once and whole.
#[cfg(target_os = "linux")]
#[test]
fn no_line_is_lost_whoever_is_killed() {
    for timestamps in [false, true] {
        let mut services = Bench::two();
        let policy = json!({"max-bytes": 500_000, "keep": 100_000, "timestamps": timestamps});
        services.push(counter("count", &policy));
        let bench = Bench::installed(&services);
        let rotated = || files(&bench, "counter").len();
        bench.good(&["start", "counter"]);
        for _ in 0..8 {
            let before = rotated();
            until("rotations", || rotated() > before + 2);
            let supervisor = bench.pid("");
            send(supervisor, Signal::SIGKILL);
            for compressor in bench.helpers("@compress") {
                send(compressor, Signal::SIGKILL);
            }
            until("the supervisor to be gone", || !alive(supervisor));
            bench.good(&["start", "counter"]);
        }
        bench.good(&["stop", "counter"]);
        let lines = lines(&bench, "counter");
        let count = assert_counting(lines.iter().map(|line| if timestamps { unstamped(line) } else { line.as_str() }));
        assert!(count > 10_000);
        for old in files(&bench, "counter").iter().rev().skip(1) {
            let text = content(old);
            assert!(text.ends_with('\n') && text.len() <= 600_000, "{}: {} bytes", old.display(), text.len());
        }
    }
}

#[test]
fn rotated_files_are_compressed_and_bounded() {
    let mut services = Bench::two();
    services.push(counter("count", &json!({"max-bytes": 200_000, "keep": 3})));
    let bench = Bench::installed(&services);
    bench.good(&["start", "counter"]);
    until("some rotations", || files(&bench, "counter").len() == 4);
    bench.good(&["stop", "counter"]);
    let packed = || files(&bench, "counter").iter().filter(|path| path.extension().is_some_and(|end| end == "gz")).count();
    until("the last of them to be compressed", || packed() == 3);
    let folder: Vec<_> = fs::read_dir(bench.data().join("run/log")).unwrap().flatten().collect();
    let plain = |name: &str| name.starts_with("counter.log.2") && !name.ends_with(".gz") && !name.ends_with(".idx");
    until("nothing else to be left", || {
        let left = fs::read_dir(bench.data().join("run/log")).unwrap().flatten();
        left.filter(|entry| plain(entry.file_name().to_str().unwrap())).count() == 0
    });
    for entry in folder {
        use std::os::unix::fs::PermissionsExt;
        let mode = entry.metadata().map_or(0o600, |meta| meta.permissions().mode());
        assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
    }
    // The tail reaches into what is compressed.
    fs::write(bench.data().join("run/log/counter.log"), "").unwrap();
    let tail = bench.good(&["tail", "-n", "2", "counter"]);
    assert!(tail.lines().all(|line| line.starts_with("number ")) && tail.lines().count() == 2, "{tail}");
}

#[test]
fn the_last_words_are_kept_with_the_crash() {
    let mut services = Bench::two();
    services.push(shell("mortal", "echo $$ says something; echo last words; kill -SEGV $$"));
    services[2]["log"] = json!({"crash-keep": 2, "crash-lines": 1});
    services.push(shell("polite", "echo here; exec sleep 1000"));
    let bench = Bench::installed(&services);
    bench.dkm(&["start", "mortal"]);
    bench.good(&["start", "polite"]);
    until("four tries", || bench.status("mortal")["restarts"].as_u64() >= Some(3));
    bench.good(&["stop", "mortal", "polite"]);
    let mut reports: Vec<PathBuf> =
        fs::read_dir(bench.data().join("run/crash")).unwrap().map(|entry| entry.unwrap().path()).collect();
    reports.sort();
    assert_eq!(reports.len(), 2, "{reports:?}");
    for report in &reports {
        let text = fs::read_to_string(report).unwrap();
        assert!(text.starts_with("service: mortal\nprocess: "), "{text}");
        assert!(text.contains("\nend: killed by SIGSEGV"), "{text}");
        assert!(text.ends_with("\n\nlast words\n"), "{text}");
    }
    let said = bench.supervisor_log();
    assert!(said.contains("mortal: its last lines are in "), "{said}");
    assert!(!said.contains("polite: its last lines are in "), "{said}");
}

/// A supervisor whose logs lie on a small file system that the test can fill, and its world, seen from outside.
#[cfg(target_os = "linux")]
struct SmallDisk {
    bench: Bench,
    supervisor: i32,
}

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// None where this machine allows no namespaces.
    fn new(services: &[Value]) -> Option<Self> {
        let bench = Bench::installed(services);
        let log = bench.data().join("run/log");
        fs::create_dir_all(&log).unwrap();
        // Mapped to root inside, whoever we are.
        let script = "mount -t tmpfs -o size=4m,mode=700 tmpfs \"$1\" && exec \"$0\" start counter";
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(bench.data().join("bin/dkm")).arg(&log);
        let output = command.output().unwrap();
        let said = crate::bench::text(&output);
        if said.contains("unshare failed") || said.contains("Operation not permitted") {
            eprintln!("passed over: this machine allows no user namespaces: {said}");
            return None;
        }
        assert!(output.status.success(), "{said}");
        let supervisor = bench.pid("");
        Some(Self { bench, supervisor })
    }

    /// The folder of the logs as the supervisor sees it.
    fn logs(&self) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.supervisor)).join(self.bench.data().strip_prefix("/").unwrap()).join("run/log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.logs().join("counter.log")).unwrap_or_default()
    }

    /// Leaves no byte free.
    fn fill(&self) -> PathBuf {
        let path = self.logs().join("filler");
        let mut filler = File::create(&path).unwrap();
        let error = std::io::Write::write_all(&mut filler, &vec![0; 8 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENOSPC as i32), "{error}");
        path
    }
}

/// A number on each line that is given by `stepper`, which waits for a line in `DATA/go` for each thousand.
#[cfg(target_os = "linux")]
fn stepper(bench: &Bench) -> File {
    fs::OpenOptions::new().read(true).write(true).open(bench.data().join("go")).unwrap()
}

/// A service that prints a thousand numbers for each line that it gets, and then says so in a file of its own.
#[cfg(target_os = "linux")]
fn step_service(log: &Value) -> Value {
    let script = "mkfifo go 2>/dev/null; n=0; exec 3<>go; echo ready > steps; while read -r x <&3; do i=0; \
                  while [ $i -lt 1000 ]; do echo number $n; n=$((n+1)); i=$((i+1)); done; echo $n >> steps; done";
    let mut service = shell("counter", script);
    service["log"] = log.clone();
    service
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_log_and_not_the_service() {
    for timestamps in [false, true] {
        let mut services = Bench::two();
        services.push(step_service(&json!({"timestamps": timestamps})));
        let Some(disk) = SmallDisk::new(&services) else { return };
        let done =
            |steps: usize| fs::read_to_string(disk.bench.data().join("steps")).is_ok_and(|all| all.lines().count() > steps);
        until("it to be ready", || done(0));
        let mut go = stepper(&disk.bench);
        let step = |go: &mut File| std::io::Write::write_all(go, b"x\n").unwrap();
        step(&mut go);
        until("the first thousand", || disk.log().contains("number 999\n"));
        let filler = disk.fill();
        for number in 2..=60 {
            // More than the FIFO holds: the service is not held up.
            step(&mut go);
            until("the service to go on", || done(number));
        }
        // Empty once all is taken, and the disk is still full.
        assert_eq!(disk.bench.state("counter"), "running");
        fs::remove_file(&filler).unwrap();
        until("the log to say what was lost", || disk.log().contains("lines) were lost here: No space left on device"));
        step(&mut go);
        until("the log to go on", || disk.log().contains("number 60999\n"));
        let log = disk.log();
        let texts = log.lines().map(|line| if timestamps { unstamped(line) } else { line });
        let (mut kept, mut lost, mut torn) = (0_u64, 0_u64, 0_u64);
        for line in texts {
            match line.strip_prefix("[dkm ") {
                Some(rest) => lost += rest.split('(').nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap(),
                None if line.strip_prefix("number ").is_some_and(|number| number.parse::<u64>().is_ok()) => kept += 1,
                None => torn += 1,
            }
        }
        // One line may have been begun when the space was gone, and looks whole or torn; its end is counted as lost.
        assert!(kept + lost + torn >= 61_000 && kept + lost <= 61_001 && torn <= 1, "{kept} kept, {lost} lost, {torn} torn");
        disk.bench.good(&["stop", "counter"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn with_the_policy_block_a_full_disk_loses_nothing() {
    for timestamps in [false, true] {
        let mut services = Bench::two();
        services.push(step_service(&json!({"timestamps": timestamps, "on-full": "block", "max-bytes": 0})));
        let Some(disk) = SmallDisk::new(&services) else { return };
        let steps = || fs::read_to_string(disk.bench.data().join("steps")).map_or(0, |all| all.lines().count());
        until("it to be ready", || steps() > 0);
        let mut go = stepper(&disk.bench);
        let filler = disk.fill();
        for _ in 0..30 {
            std::io::Write::write_all(&mut go, b"x\n").unwrap();
        }
        // It comes to a stand when the FIFO is full, long before all is printed.
        let mut last = usize::MAX;
        until("the service to wait", || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            std::mem::replace(&mut last, steps()) == steps()
        });
        assert!(last < 31, "{last} of 30 steps were done on a full disk");
        fs::remove_file(&filler).unwrap();
        until("all of it", || disk.log().contains("number 29999\n"));
        let log = disk.log();
        let count = assert_counting(log.lines().map(|line| if timestamps { unstamped(line) } else { line }));
        assert_eq!(count, 30_000);
        disk.bench.good(&["stop", "counter"]);
    }
}

/// First the supervisor dies, then the service, and nobody has read what it wrote between: it is in the log all the same.
#[cfg(target_os = "linux")]
#[test]
fn nothing_is_lost_when_the_service_dies_after_the_supervisor() {
    for timestamps in [false, true] {
        let mut services = Bench::two();
        services.push(step_service(&json!({"timestamps": timestamps})));
        let bench = Bench::installed(&services);
        let steps = || fs::read_to_string(bench.data().join("steps")).map_or(0, |all| all.lines().count());
        bench.good(&["start", "counter"]);
        until("it to be ready, with a keeper", || steps() > 0 && bench.keeper().is_some());
        let (supervisor, service, keeper) = (bench.pid(""), bench.pid("counter"), bench.helpers("@keep")[0]);
        let mut go = stepper(&bench);
        send(supervisor, Signal::SIGKILL);
        // More than the FIFO holds: without a supervisor the service goes on.
        for number in 1..=60 {
            std::io::Write::write_all(&mut go, b"x\n").unwrap();
            until("the service to go on", || steps() > number);
        }
        send(service, Signal::SIGKILL);
        // With nobody left the keeper has nothing to keep.
        until("the keeper to end", || !alive(keeper));
        let lines = lines(&bench, "counter");
        assert_eq!(assert_counting(lines.iter().map(|line| if timestamps { unstamped(line) } else { line.as_str() })), 60_000);
        assert!(bench.supervisor_log().contains("carries the logs on"), "{}", bench.supervisor_log());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn there_is_one_keeper_and_it_ends_with_the_supervisor() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start", "go-carbon"]);
    until("a keeper", || bench.helpers("@keep").len() == 1);
    let first = bench.helpers("@keep")[0];
    // Killed, it is replaced.
    send(first, Signal::SIGKILL);
    until("another keeper", || matches!(bench.helpers("@keep")[..], [one] if one != first));
    let second = bench.helpers("@keep")[0];
    let supervisor = bench.pid("");
    send(supervisor, Signal::SIGKILL);
    until("the supervisor to be gone", || !alive(supervisor));
    bench.good(&["start"]);
    until("a keeper of the new supervisor's", || matches!(bench.helpers("@keep")[..], [one] if one != second));
    // One that hangs is not waited for.
    let third = bench.helpers("@keep")[0];
    send(third, Signal::SIGSTOP);
    send(bench.pid(""), Signal::SIGKILL);
    until("a start", || bench.dkm(&["start"]).status.success());
    until("the hanging keeper to be replaced", || matches!(bench.helpers("@keep")[..], [one] if one != third));
    bench.good(&["shutdown"]);
    until("no keeper to be left", || bench.helpers("@keep").is_empty());
}
