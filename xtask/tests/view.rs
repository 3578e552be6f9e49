//! What a run tells: events for programs, lines for terminals and CI services, logs, history; and how it is interrupted.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{GOOD_MAKEFILE, Outcome, Place, compiled, serve, tar_gz, wait_for, workspace};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// The fields of each event as docs/events.md lists them.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(workspace().join("docs/events.md")).unwrap();
    let mut events = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        // The table of events has three columns, the one of common fields two.
        if cells.len() != 5 {
            continue;
        }
        // What stands in parentheses is about a field and not the name of one.
        let mut plain = String::new();
        let mut depth = 0;
        for c in cells[2].chars() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            if depth == 0 {
                plain.push(c);
            }
        }
        let fields = plain.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        events.insert(cells[1].trim_matches('`').to_owned(), fields);
    }
    assert!(events.len() >= 10, "{events:?}");
    events
}

/// Every line as an event, each held against the documentation.
#[track_caller]
fn events(stdout: &str) -> Vec<Value> {
    let documented = documented();
    let all: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in a line that is no event: {line}")))
        .collect();
    for event in &all {
        let name = event["event"].as_str().unwrap_or_else(|| panic!("no name: {event}"));
        let mut expected = documented.get(name).unwrap_or_else(|| panic!("not documented: {event}")).clone();
        expected.extend(["format", "time", "event"].map(str::to_owned));
        let object = event.as_object().unwrap();
        assert_eq!(object.keys().cloned().collect::<BTreeSet<_>>(), expected, "{event}");
        assert_eq!(event["format"], 1, "{event}");
        let time = event["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{event}");
        for (field, value) in object {
            let right = match field.as_str() {
                "component" | "step" if name == "failure" => value.is_string() || value.is_null(),
                "wall-s" => value.is_f64(),
                field if field.ends_with("-s") => value.is_f64() || value.is_null(),
                "format" | "pid" | "steps" | "cached" | "exit-status" => value.is_u64(),
                "bytes" if name == "step-progress" => value.is_u64(),
                "bytes" | "total" | "peak" => value.is_u64() || value.is_null(),
                "why" | "stack" | "sha256" | "command-status" | "first-error" | "dir" | "again" | "log" => {
                    value.is_string() || value.is_null()
                }
                "command" if name == "failure" => value.is_string() || value.is_null(),
                _ => value.is_string(),
            };
            assert!(right, "{field} of {event}");
        }
    }
    assert_eq!(all.first().unwrap()["event"], "run-begin");
    assert_eq!(all.last().unwrap()["event"], "run-end");
    all
}

fn named<'a>(all: &'a [Value], name: &str) -> Vec<&'a Value> {
    all.iter().filter(|event| event["event"] == name).collect()
}

fn json(place: &Place, args: &[&str]) -> (i32, Vec<Value>, String) {
    let output = place.command(args).output().unwrap();
    let events = events(&String::from_utf8(output.stdout.clone()).unwrap());
    (output.status.code().unwrap_or(-1), events, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_line_of_a_run_is_an_event_as_documented() {
    let place = compiled(&GOOD_MAKEFILE.replace("all:\n", "all:\n\t@printf '\\033[31mred\\033[0m\\n'\n"));
    let (status, all, people) = json(&place, &["package", "--json", "-v"]);
    assert_eq!(status, 0, "{people}");
    assert!(people.contains("✓ thing compile") && people.contains("    thing compile | red\n"), "{people}");
    let plan = named(&all, "plan")[0];
    assert_eq!((&plan["stack"], &plan["cached"], &plan["expected-s"]), (&"stack".into(), &0.into(), &Value::Null));
    let begin = named(&all, "step-begin").into_iter().find(|event| event["step"] == "unpack").unwrap();
    assert_eq!((&begin["component"], &begin["why"]), (&"thing".into(), &"was never built here".into()));
    assert!(named(&all, "output").iter().any(|event| event["line"] == "red" && event["step"] == "compile"), "{all:#?}");
    let end = named(&all, "step-end").into_iter().find(|event| event["step"] == "compile").unwrap();
    assert_eq!(end["result"], "built");
    assert!(end["peak"].as_u64().unwrap() > 100_000 && end["cpu-s"].is_f64(), "{end}");
    let artifact = named(&all, "artifact")[0];
    assert_eq!(artifact["path"], place.archive().to_str().unwrap());
    let content = fs::read(place.archive()).unwrap();
    assert_eq!((&artifact["sha256"], &artifact["bytes"]), (&common::sha256(&content).into(), &content.len().into()));
    let last = all.last().unwrap();
    assert_eq!((&last["exit-status"], &last["result"]), (&0.into(), &"done".into()));
    // Again: nothing runs, and what it took is remembered.
    let (_, all, _) = json(&place, &["package", "--json", "-q"]);
    let end = named(&all, "step-end").into_iter().find(|event| event["step"] == "compile").unwrap();
    assert_eq!(end["result"], "cached");
    assert!(end["wall-s"].as_f64().unwrap() > 0.0, "{end}");
    assert!(named(&all, "step-begin").iter().all(|event| event["component"] == "bundle"), "{all:#?}");
    // Changed: it is known how long it will take.
    place.write("stack/thing/Makefile", GOOD_MAKEFILE);
    let (_, all, _) = json(&place, &["package", "--json", "-q"]);
    assert!(named(&all, "plan")[0]["expected-s"].is_f64(), "{all:#?}");
}

#[test]
fn a_failure_is_an_event_with_all_that_helps() {
    let place = compiled("all:\n\t@echo 'thing.c:3:1: error: no such luck'; exit 7\n");
    let (status, all, people) = json(&place, &["package", "--json"]);
    assert_eq!(status, 7, "{people}");
    let failures = named(&all, "failure");
    assert_eq!(failures.len(), 1, "{failures:#?}");
    let failure = failures[0];
    let text = |field: &str| failure[field].as_str().unwrap_or_default().to_owned();
    assert_eq!((text("component"), text("step"), text("kind")), ("thing".into(), "compile".into(), "compile".into()));
    assert_eq!((failure["exit-status"].as_u64(), text("command-status")), (Some(7), "exit status: 2".to_owned()));
    assert_eq!(text("first-error"), "thing.c:3:1: error: no such luck");
    assert!(text("command").starts_with("make") && fs::metadata(text("dir")).is_ok(), "{failure}");
    assert_eq!(text("log"), place.path("build/logs/thing/compile.log").to_str().unwrap());
    let again = Outcome::of(&Command::new("sh").arg(text("again")).output().unwrap());
    again.bad(2, &["no such luck"]);
    let end = named(&all, "step-end").into_iter().find(|event| event["step"] == "compile").unwrap();
    assert_eq!(end["result"], "failed");
    assert_eq!((&all.last().unwrap()["exit-status"], &all.last().unwrap()["result"]), (&7.into(), &"compile".into()));
    // A failure before any step is the run's own.
    place.write("stack/recipes/thing.toml", "summary = 3\n");
    let (status, all, _) = json(&place, &["package", "--json"]);
    assert_eq!(status, 2);
    assert_eq!((&named(&all, "failure")[0]["component"], &named(&all, "failure")[0]["kind"]), (&Value::Null, &"usage".into()));
}

#[test]
fn downloads_tell_how_far_they_are() {
    let place = Place::new();
    let archive = tar_gz(&[("thing-1.0/hello.txt", &"hello\n".repeat(1000))]);
    let server = serve("200 OK", "application/gzip", archive.clone(), None);
    place.one_component(&[format!("http://{server}/thing.tar.gz")], &archive);
    let (status, all, people) = json(&place, &["fetch", "--json"]);
    assert_eq!(status, 0, "{people}");
    let progress = named(&all, "step-progress");
    assert_eq!(progress.last().unwrap()["bytes"], archive.len());
    assert_eq!(progress.last().unwrap()["total"], archive.len());
}

#[test]
fn a_reader_that_leaves_does_not_end_the_build() {
    let place = compiled(GOOD_MAKEFILE);
    let mut command = place.command(&["package", "--json", "-v"]);
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(1, run.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("run-begin"), "{first}");
    let outcome = Outcome::of(&run.wait_with_output().unwrap());
    assert_eq!(outcome.text.matches("the run goes on without them").count(), 1, "{}", outcome.text);
    outcome.good();
    assert!(place.archive().exists());
}

#[test]
fn closed_standard_error_does_not_change_how_a_run_ends() {
    let place = compiled("all:\n\tfalse\n");
    let mut command = place.command(&["package"]);
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(run.stderr.take());
    assert_eq!(run.wait().unwrap().code(), Some(7));
}

#[test]
fn services_get_groups_and_a_failure_that_is_seen_first() {
    let place = compiled("all:\n\t@echo '::error::fake'; echo 'thing.c:3:1: error: 100% broken'; exit 7\n");
    let run = |variable: &str, args: &[&str]| {
        let mut command = place.command(args);
        Outcome::of(&command.env(variable, "true").output().unwrap())
    };
    let text = run("GITHUB_ACTIONS", &["package"]).bad(7, &["::group::thing compile\n", "\n::endgroup::\n"]);
    let annotation = "::error title=thing compile failed::make failed (exit status: 2)%0Athing.c:3:1: error: 100%25 broken";
    assert_eq!(text.lines().filter(|line| line.starts_with("::error")).collect::<Vec<_>>(), [annotation], "{text}");
    run("TF_BUILD", &["package"]).bad(7, &["##[group]thing compile", "##vso[task.logissue type=error]thing compile failed"]);
    run("BUILDKITE", &["package"]).bad(7, &["+++ thing compile"]);
    run("GITLAB_CI", &["package"]).bad(7, &["section_start:", ":thing_compile\r"]);
    run("ANYTHING", &["package"]).bad(7, &["✗ thing compile"]);
    // Asked for, output is shown of what went well, too, but never twice.
    place.write("stack/thing/Makefile", GOOD_MAKEFILE);
    let text = run("GITHUB_ACTIONS", &["package", "-v"]).good();
    assert_eq!(text.matches("configuring in").count(), 1, "{text}");
}

#[test]
fn logs_by_step_and_failed_runs_are_kept() {
    let place = compiled("all:\n\t@echo broken; exit 1\n");
    place.xtask(&["package"]).bad(7, &["build/logs/thing/compile.log"]);
    place.write("stack/thing/Makefile", GOOD_MAKEFILE);
    place.xtask(&["package"]).good();
    let log = |name: &str| fs::read_to_string(place.path("build").join(name)).unwrap();
    assert!(log("logs/thing/compile.log").contains("echo made > thing"));
    assert!(log("build.log").contains("thing/compile | (built in"), "{}", log("build.log"));
    assert!(log("build.log.1").contains("thing/compile | broken"), "{}", log("build.log.1"));
    let mut runs: Vec<_> = fs::read_dir(place.path("build/history")).unwrap().flatten().map(|entry| entry.path()).collect();
    runs.sort();
    let runs: Vec<Value> = runs.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect();
    assert_eq!(runs.iter().map(|run| run["good"].as_bool().unwrap()).collect::<Vec<_>>(), [false, true], "{runs:#?}");
    let compile = |run: &Value| run["steps"].as_array().unwrap().iter().find(|step| step["step"] == "compile").cloned();
    assert_eq!(compile(&runs[0]).unwrap()["result"], "failed");
    assert_eq!(compile(&runs[1]).unwrap()["result"], "built");
}

/// Where [`in_terminal`] keeps what came out so far.
fn typescript(place: &Place) -> PathBuf {
    place.path("typescript")
}

/// Runs `package` in a pseudo-terminal of that width, by util-linux' script; gives its status and all that came out.
fn in_terminal(place: &Place, width: u32) -> Option<(i32, String)> {
    if !cfg!(target_os = "linux") || which::which("script").is_err() {
        eprintln!("passed over: there is no script of util-linux");
        return None;
    }
    let inner = place.command(&["package"]);
    let words: Vec<_> = std::iter::once(inner.get_program()).chain(inner.get_args()).collect();
    let quoted: Vec<_> = words.iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut command = Command::new("script");
    command.args(["-qefc", &format!("stty cols {width} rows 24; {}; s=$?; stty -a; exit $s", quoted.join(" "))]);
    let output = command.arg(typescript(place)).env("TERM", "xterm").stdin(Stdio::null()).output().unwrap();
    Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn a_terminal_shows_a_line_for_each_running_step_and_one_for_all() {
    // It runs until its line was drawn, or for a minute.
    let place = compiled("");
    let until_drawn = |what: &str, seconds: u32| {
        let drawn = format!(
            "for i in `seq 600`; do ! grep -q '{what}' '{}' || break; sleep 0.1; done; sleep {seconds}",
            typescript(&place).display()
        );
        let line = "CC übersetzt 日本語 and a line that is longer than any terminal that is eighty columns wide";
        let body = format!("all:\n\t@echo '{line}'; {drawn}\n\techo made > thing\n");
        place.write("stack/thing/Makefile", GOOD_MAKEFILE.replace("all:\n\techo made > thing\n", &body));
    };
    // So long that there will be something to promise.
    until_drawn("CC .bersetzt .* steps ", 4);
    let Some((status, text)) = in_terminal(&place, 80) else { return };
    assert_eq!(status, 0, "{text}");
    for part in ["thing compile", "CC übersetzt 日本語", " steps   0:0", "✓ thing compile"] {
        assert!(text.contains(part), "\"{part}\" is not in {text}");
    }
    // Nothing was promised of which nothing was known.
    assert!(!text.contains(" left"), "{text}");
    // What is drawn again and again is cut, or it would be drawn all over the screen.
    assert!(!text.contains("eighty columns"), "{text}");
    // The terminal is as it was: its cursor is there, its modes are those of a shell.
    assert!(!text.contains("\u{1b}[?25l") || text.rfind("\u{1b}[?25h") > text.rfind("\u{1b}[?25l"), "{text}");
    assert!(text.contains(" echo ") && text.contains(" icanon"), "{text}");
    // With something known there is a promise.
    until_drawn("about .* left", 0);
    let (_, text) = in_terminal(&place, 200).unwrap();
    assert!(text.contains("about ") && text.contains(" s left"), "{text}");
    assert!(text.contains("eighty columns"), "{text}");
}

/// A component whose compiling ignores SIGTERM, in a process and in a child of that, and says when it is ready for that.
fn stubborn(place: &Place) -> (Child, [Pid; 2]) {
    let pids = place.path("pids");
    let script = "trap '' TERM INT; (trap '' TERM INT; while :; do sleep 0.1; done) & echo $$$$ $$! > ids.new; mv ids.new";
    let makefile = format!("all:\n\t@{script} '{}'; while :; do sleep 0.1; done\n", pids.display());
    place.write("stack/thing/Makefile", makefile);
    let mut command = place.command(&["package", "--json"]);
    let run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let found = wait_for("the compile step", PATIENCE, || {
        let text = fs::read_to_string(&pids).ok()?;
        let ids: Vec<_> = text.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect();
        ids.try_into().ok()
    });
    (run, found)
}

/// Killed, a process stays a zombie until whoever inherited it has reaped it.
fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
        || fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_second_signal_kills_what_the_first_could_not_end() {
    for signal in [Signal::INT, Signal::TERM] {
        // Far sooner than it would have happened by itself, if not on every try of a busy machine.
        let tries: Vec<Duration> = std::iter::repeat_with(|| killed_by_two(signal)).take(5).collect();
        assert!(tries.iter().any(|took| *took < Duration::from_secs(6)), "it took {tries:?}");
    }
}

/// How long it takes from the second signal to the end.
fn killed_by_two(signal: Signal) -> Duration {
    let place = compiled("");
    let (mut run, pids) = stubborn(&place);
    let mut stderr = BufReader::new(run.stderr.take().unwrap());
    kill_process(Pid::from_child(&run), signal).unwrap();
    let mut said = String::new();
    while !said.contains("once more kills") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended at the first signal: {said}");
    }
    assert!(pids.iter().all(|pid| !is_gone(*pid)), "they were to ignore the first signal");
    let started = Instant::now();
    kill_process(Pid::from_child(&run), signal).unwrap();
    let mut out = String::new();
    run.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let took = started.elapsed();
    wait_for("the end of all processes", PATIENCE, || pids.iter().all(|pid| is_gone(*pid)).then_some(()));
    let all = events(&out);
    assert_eq!((&all.last().unwrap()["exit-status"], &all.last().unwrap()["result"]), (&130.into(), &"interrupted".into()));
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("interrupted"), "{said}");
    took
}

#[test]
fn what_ignores_the_first_signal_is_killed_after_a_while() {
    let place = compiled("");
    let (run, pids) = stubborn(&place);
    // Stopped, it could not even take a signal that it does not ignore.
    kill_process(pids[1], Signal::STOP).unwrap();
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    Outcome::of(&run.wait_with_output().unwrap()).bad(130, &["interrupted"]);
    wait_for("the end of all processes", PATIENCE, || pids.iter().all(|pid| is_gone(*pid)).then_some(()));
}

/// A component whose compiling starts a process that leaves its group, session and parents, and then takes its time or ends; the
/// numbers of that process and of the compiling one.
#[cfg(target_os = "linux")]
fn deserted(place: &Place, rest: &str) -> (Child, [Pid; 2]) {
    let pids = place.path("pids");
    let stray = r"trap '' TERM INT HUP; echo \$$\$$ > stray; exec sleep 1000";
    let script =
        format!("(setsid sh -c \"{stray}\" &) ; until test -s stray; do sleep 0.01; done; echo `cat stray` $$$$ > ids.new");
    place.write("stack/thing/Makefile", format!("all:\n\t@{script}; mv ids.new '{}'; {rest}\n", pids.display()));
    let run = place.command(&["package"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let found = wait_for("the compile step", PATIENCE, || {
        let text = fs::read_to_string(&pids).ok()?;
        let ids: Vec<_> = text.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect();
        ids.try_into().ok()
    });
    (run, found)
}

/// Whoever leaves the group of a command ends with it all the same: when it ends by itself, when the run is interrupted, and when
/// the run is killed.
#[cfg(target_os = "linux")]
#[test]
fn nothing_that_a_command_has_started_outlives_it() {
    let gone = |pids: [Pid; 2]| {
        wait_for("the end of all processes", PATIENCE, || pids.iter().all(|pid| is_gone(*pid)).then_some(()));
    };
    let place = compiled("");
    let (run, pids) = deserted(&place, "exit 1");
    assert!(!run.wait_with_output().unwrap().status.success());
    gone(pids);
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let place = compiled("");
        let (run, pids) = deserted(&place, "sleep 1000");
        assert!(pids.iter().all(|pid| !is_gone(*pid)));
        kill_process(Pid::from_child(&run), signal).unwrap();
        assert_eq!(run.wait_with_output().unwrap().status.code(), code);
        gone(pids);
    }
}

#[test]
fn an_interrupt_while_nothing_is_built_leaves_at_once_and_ends_the_events() {
    let place = compiled("");
    let (mut first, _) = stubborn(&place);
    let mut second = place.command(&["package", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(second.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("waiting for process"), "{said}");
    kill_process(Pid::from_child(&second), Signal::INT).unwrap();
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(events(&String::from_utf8(output.stdout).unwrap()).last().unwrap()["result"], "interrupted");
    for _ in 0..2 {
        kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    }
    let mut rest = String::new();
    first.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    first.wait().unwrap();
}

#[test]
fn an_archive_that_cannot_be_written_has_its_own_status() {
    let place = compiled(GOOD_MAKEFILE);
    place.write(&format!("dist/{}/in the way", place.archive().file_name().unwrap().to_str().unwrap()), "");
    place.xtask(&["package"]).bad(9, &["cannot", ".tar.gz"]);
}
