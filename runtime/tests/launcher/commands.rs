//! What verbs print, how they end, and which names they take.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::bench::{Bench, alive, send, shell, text, until};

/// One service that runs as long as it should, one that waits for a go before it is ready, one that dies.
fn services() -> Vec<Value> {
    let mut slow = shell("slow", "read x < go; exec sleep 1000");
    slow["probes"] = json!([{"tcp": "127.0.0.1:1"}]);
    vec![shell("good", "exec sleep 1000"), slow, shell("bad", "echo the reason; exit 7"), shell("rest", "exec sleep 1000")]
}

/// A data folder with these services alone.
pub fn with(services: &[Value]) -> Bench {
    let bench = Bench::installed(&Bench::two());
    let folder = bench.data().join("conf/services.d");
    for entry in fs::read_dir(&folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for service in services {
        let path = folder.join(format!("{}.toml", service["name"].as_str().unwrap()));
        fs::write(path, toml::to_string(service).unwrap()).unwrap();
    }
    bench
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

fn ends(bench: &Bench, cases: &[(&[&str], i32)]) {
    for (arguments, wanted) in cases {
        let output = bench.dkm(arguments);
        assert_eq!(code(&output), *wanted, "dkm {arguments:?}: {}", text(&output));
    }
}

#[test]
fn every_end_has_its_number_without_a_supervisor_and_none_is_started() {
    let bench = with(&services());
    ends(
        &bench,
        &[
            (&["status"], 3),
            (&["status", "nobody"], 4),
            (&["status", "good", "nobody"], 4),
            (&["pid"], 3),
            (&["pid", "good"], 3),
            (&["pid", "nobody"], 1),
            (&["wait", "good"], 3),
            (&["wait", "nobody"], 4),
            (&["wait", "--ready", "--timeout", "10ms", "good"], 124),
            (&["version"], 0),
            (&["avail"], 0),
            (&["check", "good"], 0),
            (&["tail", "good"], 0),
            (&["logs"], 0),
            (&["maintail"], 0),
            (&["stop"], 0),
            (&["shutdown"], 0),
            (&["reread"], 7),
            (&["signal", "HUP", "good"], 7),
            (&["clear", "good"], 7),
            (&["reopenlogs"], 7),
            (&["events"], 7),
            (&["fg", "good"], 7),
            (&["upgrade-self"], 7),
            (&["reload", "good"], 7),
        ],
    );
    assert!(!bench.data().join("run/supervisor.lock").exists(), "one of them started a supervisor");
}

#[test]
fn every_end_has_its_number_with_a_supervisor() {
    let bench = with(&services());
    ends(
        &bench,
        &[
            (&["start", "good"], 0),
            (&["start", "nobody"], 1),
            (&["start", "bad"], 1),
            (&["start", "slow", "--timeout", "300ms"], 124),
            (&["status", "good"], 0),
            (&["status", "bad"], 1),
            (&["status", "slow"], 150),
            (&["status", "rest"], 3),
            (&["status", "good", "slow"], 150),
            (&["status", "good", "slow", "rest"], 3),
            (&["status", "good", "slow", "rest", "bad"], 1),
            (&["wait", "good"], 0),
            (&["wait", "slow", "--timeout", "50ms"], 124),
            (&["pid", "good"], 0),
            (&["pid", "all"], 3),
            (&["fg", "rest"], 7),
            (&["run", "good"], 1),
            (&["stop", "bad", "slow", "--no-wait"], 0),
            (&["stop", "all"], 0),
            (&["restart", "good"], 0),
            // Misuse.
            (&[], 2),
            (&["dance"], 2),
            (&["start", "--timeout", "soon"], 2),
            (&["start", "--timeout", "1", "--no-wait"], 2),
            (&["clear"], 2),
            (&["signal", "HUP"], 2),
            (&["signal", "NOSUCH", "good"], 2),
            (&["logs", "--since", "tomorrow"], 2),
            (&["logs", "--json", "--raw"], 2),
            (&["completions", "tcsh"], 2),
            (&["top"], 1),
            (&["help"], 0),
            (&["help", "status"], 0),
            (&["--version"], 0),
            (&["shutdown"], 0),
        ],
    );
}

#[test]
fn services_are_named_by_patterns_too() {
    let services: Vec<Value> = ["carbon-a", "carbon-b", "other"].iter().map(|name| shell(name, "exec sleep 1000")).collect();
    let bench = with(&services);
    bench.good(&["start", "carbon-?"]);
    let states = || ["carbon-a", "carbon-b", "other"].map(|name| bench.state(name));
    assert_eq!(states(), ["running", "running", "stopped"]);
    assert_eq!(bench.good(&["pid", "c*"]).lines().count(), 2);
    bench.good(&["stop", "*-b"]);
    assert_eq!(states(), ["running", "stopped", "stopped"]);
    let output = bench.dkm(&["start", "x*"]);
    assert_eq!(code(&output), 1);
    assert!(text(&output).contains("there is no service x*. There are: carbon-a"), "{}", text(&output));
    let output = bench.dkm(&["fg", "carbon*"]);
    assert!(text(&output).contains("means carbon-a and carbon-b: name one"), "{}", text(&output));
}

#[test]
fn whatever_can_be_read_can_be_read_as_json() {
    let bench = with(&services());
    let started = json_of(&bench.dkm(&["start", "good", "--json"]));
    assert_eq!(started["services"][0]["state"], "running");
    let all = json_of(&bench.dkm(&["status", "--json", "good", "rest"]));
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(json_of(&bench.dkm(&["pid", "--json"]))[0]["name"], "supervisor");
    assert_eq!(json_of(&bench.dkm(&["pid", "--json", "rest"])), json!([{"name": "rest", "pid": null}]));
    assert_eq!(json_of(&bench.dkm(&["avail", "--json", "good"]))[0]["definition"], "in use");
    assert_eq!(json_of(&bench.dkm(&["version", "--json"]))["supervisor"]["pid"], json!(bench.pid("")));
    assert_eq!(json_of(&bench.dkm(&["check", "--json", "good"]))[0]["good"], json!(true));
    assert_eq!(json_of(&bench.dkm(&["wait", "--json", "good"]))[0]["name"], "good");
    assert_eq!(json_of(&bench.dkm(&["stop", "--json", "good"]))["problems"], json!([]));
    bench.dkm(&["start", "bad"]);
    let lines = bench.good(&["logs", "--json", "-n", "1", "bad"]);
    let line: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((line["service"].as_str(), line["line"].as_str()), (Some("bad"), Some("the reason")));
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
}

/// A command that does not know its data folder by the name it was called by.
fn stray(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new(bench.bundle_path().join("bin/dkm"));
    command.args(arguments).stdin(Stdio::null());
    command
}

#[test]
fn a_data_folder_is_named_in_four_ways() {
    let bench = with(&[shell("good", "exec sleep 1000")]);
    bench.good(&["start"]);
    let data = bench.data();
    let socket = data.join("run/dkm.sock");
    let nowhere = stray(&bench, &["status"]).output().unwrap();
    assert_eq!(code(&nowhere), 1);
    assert!(text(&nowhere).contains("or name one by --home"), "{}", text(&nowhere));
    let by_variable = stray(&bench, &["status"]).env("DKM_HOME", &data).output().unwrap();
    let by_option = stray(&bench, &["status", "--home"]).arg(&data).output().unwrap();
    let by_socket = stray(&bench, &["--socket"]).arg(&socket).arg("status").output().unwrap();
    let by_name = bench.dkm(&["status"]);
    for output in [by_variable, by_option, by_socket, by_name] {
        assert_eq!(code(&output), 0, "{}", text(&output));
    }
    let wrong = stray(&bench, &["--socket"]).arg(bench.root().join("x/y.sock")).arg("status").output().unwrap();
    assert!(text(&wrong).contains("y.sock"), "{}", text(&wrong));
}

#[test]
#[cfg(target_os = "linux")]
fn root_may_look_and_has_to_be_allowed_the_rest() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bench = with(&[shell("good", "exec sleep 1000")]);
    let as_told = |arguments: &[&str], told: Option<&str>| {
        let mut command = bench.command(arguments);
        command.env_remove("DKM_ALLOW_ROOT");
        if let Some(told) = told {
            command.env("DKM_ALLOW_ROOT", told);
        }
        command.output().unwrap()
    };
    for arguments in
        [&["start"][..], &["stop"], &["restart", "good"], &["shutdown"], &["supervisor"], &["run", "good"], &["check"]]
    {
        let output = as_told(arguments, None);
        assert_eq!(code(&output), 4, "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains("--allow-root"), "{}", text(&output));
    }
    assert_eq!(code(&as_told(&["start"], Some("0"))), 4);
    assert!(!bench.data().join("run/supervisor.lock").exists());
    assert_eq!(code(&as_told(&["status"], None)), 3);
    assert_eq!(code(&as_told(&["start", "--allow-root"], None)), 0);
    assert_eq!(code(&as_told(&["status"], None)), 0);
    assert_eq!(code(&as_told(&["shutdown"], None)), 4);
    assert_eq!(code(&as_told(&["shutdown"], Some("1"))), 0);
}

#[test]
fn logs_cannot_harm_a_terminal_and_raw_is_as_it_was() {
    let nasty = r"printf 'a\033[2Jb\033]0;t\007\302\2331mc\342\200\256d\377e\n'; exec sleep 1000";
    let bench = with(&[shell("nasty", nasty)]);
    bench.good(&["start"]);
    until("its line", || bench.log("nasty").ends_with('\n') || !bench.dkm(&["tail", "--raw", "nasty"]).stdout.is_empty());
    let shown = "a\\x1b[2Jb\\x1b]0;t\\x07\\u{9b}1mc\\u{202e}d\\xffe\n";
    let bytes = b"a\x1b[2Jb\x1b]0;t\x07\xc2\x9b1mc\xe2\x80\xaed\xffe\n";
    assert_eq!(bench.good(&["tail", "nasty"]), shown);
    assert!(bench.good(&["logs", "nasty"]).ends_with(&format!("  nasty  {shown}")));
    assert_eq!(bench.dkm(&["tail", "--raw", "nasty"]).stdout, bytes);
    assert!(bench.dkm(&["logs", "--raw", "nasty"]).stdout.ends_with(bytes));
    assert!(bench.good(&["logs", "--json", "nasty"]).contains("\\u009b1mc\\u202ed\u{fffd}e"));
}

#[test]
fn tail_counts_lines_and_bytes() {
    let bench = with(&[shell("talker", "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; exec sleep 1000")]);
    bench.good(&["start"]);
    until("nine lines", || bench.log("talker").lines().count() == 9);
    assert_eq!(bench.good(&["tail", "-2", "talker"]), "line 8\nline 9\n");
    assert_eq!(bench.good(&["tail", "-c", "4", "talker"]), "e 9\n");
    assert_eq!(bench.good(&["tail", "-n", "0", "talker"]), "");
    let own = bench.good(&["maintail", "-100"]);
    assert!(own.contains("talker: running"), "{own}");
    assert_eq!(bench.good(&["maintail", "-1"]).lines().count(), 1);
}

/// A verb that goes on, with what it prints.
struct Going {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Going {
    fn start(bench: &Bench, arguments: &[&str]) -> Self {
        let mut child = bench.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// Ctrl-C; how it ends, and what it says about it.
    fn interrupt(mut self) -> (Option<i32>, String) {
        send(i32::try_from(self.child.id()).unwrap(), Signal::SIGINT);
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn logs_are_merged_by_time_and_followed_without_a_gap() {
    let step = |from: &str, to: &str, word: &str| format!("read x < {from}; echo {word}; echo > {to}; ");
    let first = step("go", "b1", "one") + &step("a1", "b2", "three") + &step("a2", "done", "five") + "exec sleep 1000";
    let second = step("b1", "a1", "two") + &step("b2", "a2", "four") + "exec sleep 1000";
    let bench = with(&[shell("first", &first), shell("other", &second)]);
    for name in ["go", "a1", "a2", "b1", "b2", "done"] {
        nix::unistd::mkfifo(&bench.data().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    bench.good(&["start"]);
    let words = |text: &str| -> Vec<String> { text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect() };
    let mut follow = Going::start(&bench, &["logs", "-f"]);
    fs::write(bench.data().join("go"), "x\n").unwrap();
    let followed: Vec<String> = (0..5).map(|_| follow.line()).collect();
    let in_order = |words: &[String]| {
        let at = |word: &str| words.iter().position(|other| other == word).unwrap();
        words.len() == 5 && at("one") < at("three") && at("three") < at("five") && at("two") < at("four")
    };
    // Within 10 ms the index does not tell services apart, and what is followed is shown as it comes; each one's own lines are in order
    // in any case.
    assert!(in_order(&words(&followed.concat())), "{followed:?}");
    assert!(followed[0].contains("Z  first  one") || followed[0].contains("Z  other  two"), "{followed:?}");
    assert_eq!(follow.interrupt().0, Some(130));
    let all = bench.good(&["logs"]);
    assert!(in_order(&words(&all)) && all.lines().is_sorted_by_key(|line| &line[..24]), "{all}");
    assert_eq!(bench.good(&["logs", "-n", "2"]).lines().count(), 2);
    assert_eq!(bench.good(&["logs", "--since", "2001-01-01", "first"]).lines().count(), 3);
    until("them to be older than that", || bench.good(&["logs", "--since", "20ms"]).is_empty());
}

/// A full disk behind the standard output is told, by a number too.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_is_an_error_in_words() {
    let bench = Bench::installed(&[shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")]);
    for arguments in [&["status"][..], &["status", "--json"], &["avail"], &["version"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = bench.command(arguments).stdout(full).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("dkm: cannot write to the standard output: No space left") && !said.contains("panicked"),
            "{said}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let bench = with(&[shell("talker", "for i in $(seq 1 5000); do echo line $i; done; exec sleep 1000")]);
    bench.good(&["start"]);
    until("its lines", || bench.log("talker").lines().count() == 5000);
    for verb in ["tail -n 5000", "logs", "status --json", "maintail"] {
        let script = format!("\"$0\" {verb} | head -n 1 >/dev/null");
        let output = Command::new("/bin/sh").args(["-c", &script]).arg(bench.data().join("bin/dkm")).output().unwrap();
        assert_eq!(text(&output), format!("{}\n", output.status), "{verb}");
        assert!(output.status.success());
    }
}

#[test]
fn ctrl_c_ends_the_waiting_and_not_what_is_waited_for() {
    let mut slow = shell("slow", "read x < go; echo up; exec sleep 1000");
    slow["probes"] = json!([{"tcp": "127.0.0.1:1"}]);
    slow["ready-timeout-s"] = json!(60);
    let bench = with(&[slow]);
    nix::unistd::mkfifo(&bench.data().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut start = Going::start(&bench, &["start"]);
    while !start.line().contains("starting") {}
    let (status, said) = start.interrupt();
    assert_eq!(status, Some(130), "{said}");
    assert!(said.contains("waiting for slow (starting") && said.contains("goes on in the supervisor"), "{said}");
    fs::write(bench.data().join("go"), "x\n").unwrap();
    until("it to come up by itself", || bench.log("slow") == "up\n");
    assert_eq!(bench.state("slow"), "starting");
}

#[test]
fn wait_ends_when_the_service_has_arrived() {
    let bench = with(&[shell("good", "exec sleep 1000")]);
    // Even a supervisor that is not there yet is waited for.
    let mut wait = bench.command(&["wait", "--ready", "--timeout", "120"]).stdout(Stdio::piped()).spawn().unwrap();
    bench.good(&["start", "--no-wait"]);
    assert_eq!(wait.wait().unwrap().code(), Some(0));
    assert_eq!(bench.state("good"), "running");
    bench.good(&["stop", "--no-wait"]);
    assert_eq!(code(&bench.dkm(&["wait"])), 3);
    assert_eq!(bench.state("good"), "stopped");
}

#[test]
fn status_tells_what_lives_when_the_supervisor_does_not() {
    let bench = with(&[shell("good", "exec sleep 1000"), shell("rest", "exec sleep 1000")]);
    bench.good(&["start", "good"]);
    let (supervisor, pid) = (bench.pid(""), bench.pid("good"));
    send(supervisor, Signal::SIGKILL);
    until("its end", || !alive(supervisor));
    let table = String::from_utf8(bench.dkm(&["status"]).stdout).unwrap();
    assert!(
        table.lines().any(|line| line.starts_with("good") && line.contains("running") && line.contains(&pid.to_string())),
        "{table}"
    );
    assert_eq!(bench.pid("good"), pid);
    assert_eq!(bench.dkm(&["pid"]).stdout, b"0\n");
    assert_eq!(code(&bench.dkm(&["status", "good"])), 0);
    assert!(bench.good(&["version"]).contains("no supervisor"));
    // With definitions that cannot be read as well.
    fs::write(bench.data().join("conf/services.d/good.toml"), "nonsense").unwrap();
    assert_eq!(code(&bench.dkm(&["status", "good"])), 0);
    fs::write(bench.data().join("conf/services.d/good.toml"), "command = [\"/bin/sh\", \"-c\", \"exec sleep 1000\"]\n")
        .unwrap();
    bench.good(&["stop"]);
    assert!(!alive(pid));
}

#[test]
fn run_is_the_service_itself_and_the_only_one() {
    let bench = with(&[shell("good", "echo here; echo \"$DKM_SERVICE\"; pwd; exec sleep 1000")]);
    let mut run = Going::start(&bench, &["run", "good"]);
    assert_eq!([run.line(), run.line()], ["here\n", "good\n"]);
    assert_eq!(run.line().trim_end(), bench.data().to_str().unwrap());
    let pid = i32::try_from(run.child.id()).unwrap();
    assert_eq!(code(&bench.dkm(&["run", "good"])), 1);
    let output = bench.dkm(&["start", "good", "--timeout", "5"]);
    assert_ne!(code(&output), 1, "it runs already: {}", text(&output));
    #[cfg(target_os = "linux")]
    assert_eq!(bench.processes(), [pid], "a second copy");
    bench.good(&["shutdown"]);
    let _ = run.child.kill();
    run.child.wait().unwrap();
}

#[test]
fn bash_completes_verbs_and_services() {
    let bench = with(&[shell("go-carbon", "exit"), shell("grafana", "exit")]);
    let dkm = bench.data().join("bin/dkm");
    let script = bench.root().join("complete");
    fs::write(&script, bench.good(&["completions", "bash"])).unwrap();
    let complete = |words: &[&str]| {
        let program =
            r#". "$0"; dkm=$1; shift; COMP_WORDS=("$dkm" "$@"); COMP_CWORD=$#; _dkm; printf '%s\n' "${COMPREPLY[@]}""#;
        let output = Command::new("bash").args(["-c", program]).arg(&script).arg(&dkm).args(words).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete(&["sta"]), ["start", "status"]);
    assert_eq!(complete(&["start", "g"]), ["go-carbon", "grafana"]);
    assert_eq!(complete(&["start", "go-carbon", ""]), ["grafana", "all"]);
    assert_eq!(complete(&["tail", "--fo"]), ["--follow"]);
    for shell in ["zsh", "fish"] {
        assert!(bench.good(&["completions", shell]).contains("complete --"));
    }
}

#[test]
fn a_shell_reads_commands_from_a_pipe() {
    let bench = with(&[shell("good", "exec sleep 1000")]);
    let run = |script: &str| {
        let mut command = bench.command(&["shell"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = run("# a comment\nstart 'good'\npid good\nexit\nstop good\n");
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(text(&output).contains(&bench.pid("good").to_string()), "{}", text(&output));
    assert_eq!(code(&run("pid good\nstart nobody\npid good\n")), 1);
    let output = run(&format!("open 'unix://{}'\nopen /nowhere\n", bench.data().join("run/dkm.sock").display()));
    assert!(text(&output).contains("running") && text(&output).contains("/nowhere"), "{}", text(&output));
}
