//! How an installation ends: killed, repeated, changed, taken back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::bench::{Bench, Instants, alive, text, until};

fn installer(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(bench.data()).args(arguments).stdin(Stdio::null());
    command
}

fn run(bench: &Bench, arguments: &[&str]) -> Output {
    installer(bench, arguments).output().unwrap()
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    assert!(!output.status.success() && text(output).contains(why), "\"{why}\" is not in {}", text(output));
}

/// Everything in a folder, by its names.
fn names(place: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
    out.sort();
    out
}

/// Everything below a folder, by its paths.
fn paths(place: &Path) -> Vec<PathBuf> {
    let mut folders = vec![place.to_owned()];
    let mut out = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.is_symlink() {
                folders.push(path.clone());
            }
            out.push(path.strip_prefix(place).unwrap().to_owned());
        }
    }
    out.sort();
    out
}

/// Killed at any instant, there is the whole folder, or nothing at all.
#[test]
fn killed_at_any_instant_it_leaves_nothing_or_everything() {
    let bench = Bench::shipped();
    let arguments = ["-p", &bench.port.to_string(), "-t", "all", "--hostname", "x"];
    let before = names(&bench.root());
    let started = std::time::Instant::now();
    good(&run(&bench, &arguments));
    let mut instants = Instants(started.elapsed());
    let whole = paths(&bench.data());
    fs::remove_dir_all(bench.data()).unwrap();
    let (mut nothing, mut everything) = (0, 0);
    for round in 0.. {
        // Spread over the time that one takes, and a bit more; until there was enough of both.
        if round >= 30 && nothing > 2 && everything > 0 {
            break;
        }
        assert!(round < 300, "{nothing} times nothing, {everything} times everything: these were no random instants");
        let child = installer(&bench, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        instants.kill(child, round % 30 * 4);
        if bench.data().exists() {
            everything += 1;
            assert_eq!(paths(&bench.data()), whole, "round {round}");
            fs::remove_dir_all(bench.data()).unwrap();
        } else {
            nothing += 1;
        }
        until("what was half made is removed", || names(&bench.root()) == before);
    }
}

#[test]
fn what_a_lost_machine_left_is_removed_by_the_next() {
    let bench = Bench::bundle(&Bench::two());
    // No system gives out this number.
    let left = bench.root().join(".the data.new-2147483646");
    fs::create_dir_all(left.join("conf")).unwrap();
    good(&bench.install(&[]));
    assert!(!left.exists());
}

#[test]
fn the_same_in_other_words_is_nothing_to_do() {
    let bench = Bench::bundle(&Bench::two());
    let port = bench.port.to_string();
    good(&run(&bench, &["-p", &port, "-t", "backend", "--hostname", "local.test"]));
    let defaults = ["--interval", "10", "--retention", "10s:6h,60s:7d,600s:1y", "--carbon-listen", "0.0.0.0", "--yes"];
    let said = good(&run(&bench, &[&["-p", &port, "-t", "backend"], &defaults[..]].concat()));
    assert!(said.contains("nothing to do"), "{said}");
    let other = run(&bench, &["-p", &port, "-t", "backend", "--interval", "60"]);
    refused(&other, "--interval was 10, and is 60; --retention was 10s:6h,60s:7d,600s:1y, and is 60s:30d,3600s:1y");
}

#[test]
fn other_arguments_come_by_an_update() {
    let mut services = Bench::two();
    services[0]["config"] = json!([{"template": "conf/a.conf.j2", "to": "conf/a.conf"}]);
    let bench = Bench::installed(&services);
    fs::write(bench.bundle_path().join("conf/a.conf.j2"), "every {{ interval }}\n").unwrap();
    bench.good(&["start"]);
    let (supervisor, carbon, api) = (bench.pid(""), bench.pid("go-carbon"), bench.pid("carbonapi"));
    // The manifest of a bundle that lists its programs: those that are the same stay.
    let path = bench.bundle_path().join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["files"] = json!([{"path": "bin/helper", "type": "file", "size": 1, "mode": "0755", "sha256": "00"}]);
    fs::write(&path, manifest.to_string()).unwrap();
    let said = good(&run(&bench, &["--update", "--yes", "--interval", "60"]));
    assert!(said.contains("was brought up to date") && said.contains("changed  conf/a.conf"), "{said}");
    assert_eq!(fs::read_to_string(bench.data().join("conf/a.conf")).unwrap(), "every 60\n");
    assert!(bench.renewed("go-carbon", carbon), "its configuration is another one");
    assert_eq!((bench.pid("carbonapi"), bench.pid("")), (api, supervisor), "nothing of these has changed");
    assert!(good(&run(&bench, &["--update", "--yes", "--interval", "60"])).contains("nothing to do"));
    refused(&run(&bench, &["--update", "--yes", "-t", "all"]), "it is of the type backend");
    good(&run(&bench, &["--rollback", "--yes"]));
    assert_eq!(
        fs::read_to_string(bench.data().join("conf/a.conf")).unwrap(),
        "data = ...\n".replace("...", &format!("\"{}\"\nport = {}", bench.data().display(), bench.port + 1))
    );
    assert_eq!(bench.pid("carbonapi"), api);
}

#[test]
fn an_uninstallation_keeps_the_data_and_can_be_undone() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    let pids = [bench.pid(""), bench.pid("go-carbon"), bench.pid("carbonapi")];
    fs::write(bench.data().join("storage/precious"), "x").unwrap();
    let before = paths(&bench.data().join("conf"));
    refused(&run(&bench, &["--uninstall"]), "give --yes");
    good(&run(&bench, &["--uninstall", "--dry-run"]));
    assert!(pids.iter().all(|&pid| alive(pid)));
    let said = good(&run(&bench, &["--uninstall", "--yes"]));
    assert!(said.contains("Data and configuration stay"), "{said}");
    assert!(!pids.iter().any(|&pid| alive(pid)), "something runs on");
    assert_eq!(names(&bench.data()), ["bin", "conf", "storage"].map(PathBuf::from));
    assert_eq!(names(&bench.data().join("bin")), Vec::<PathBuf>::new());
    assert_eq!(paths(&bench.data().join("conf")), before);
    assert!(good(&run(&bench, &["--uninstall", "--yes"])).contains("nothing to do"));
    refused(&bench.install(&[]), "it is what --uninstall has left");
    good(&run(&bench, &["--update", "--yes"]));
    bench.good(&["start"]);
    assert_eq!(fs::read_to_string(bench.data().join("storage/precious")).unwrap(), "x");
}

#[test]
fn a_purge_leaves_nothing() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    let pid = bench.pid("go-carbon");
    refused(&run(&bench, &["--purge", "--yes"]), "--uninstall");
    let output = run(&bench, &["--uninstall", "--purge", "--yes", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    assert_eq!((&told["purge"], told["removed"].as_array().unwrap().contains(&json!("storage"))), (&json!(true), true));
    assert!(!alive(pid));
    assert_eq!(names(&bench.root()), [PathBuf::from("the bundle")]);
}

/// The bundle's folder is gone: what runs can be stopped all the same.
#[test]
fn an_uninstallation_does_not_need_the_bundle_that_was_used() {
    let bench = Bench::installed(&Bench::two());
    bench.good(&["start"]);
    let pid = bench.pid("carbonapi");
    let other = bench.root().join("another bundle");
    assert!(Command::new("cp").arg("-a").arg(bench.bundle_path()).arg(&other).status().unwrap().success());
    fs::remove_dir_all(bench.bundle_path()).unwrap();
    let output =
        Command::new(other.join("installer")).arg("-d").arg(bench.data()).args(["--uninstall", "--yes"]).output().unwrap();
    good(&output);
    until("nothing runs", || !alive(pid));
    // For the bench's own end.
    fs::rename(other, bench.bundle_path()).unwrap();
}
