//! What only happens on a terminal: the shell, `top`, and the line that says what is waited for. The terminal is a real one (a
//! pseudo-terminal), and what it would show is known from a terminal emulator.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::{Bench, PATIENCE, send, shell, until};
use crate::commands::with;

/// A terminal with a program on it.
struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    fn start(bench: &Bench, arguments: &[&str]) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = bench.command(arguments);
        let child = command.env("TERM", "xterm-256color").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keys = File::from(pty.master);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(30, 100, 0)));
        let (mut output, shown) = (keys.try_clone().unwrap(), Arc::clone(&screen));
        // Its own end comes with the program's: then there is nothing left to read.
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().process(&buffer[..count]);
            }
        });
        Self { child, keys, screen, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Types, as soon as the screen shows something.
    fn on(&mut self, wanted: &str, keys: &str) {
        self.shows(wanted);
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn shows(&self, wanted: &str) {
        let begin = std::time::Instant::now();
        while !self.text().contains(wanted) {
            assert!(begin.elapsed() < PATIENCE, "the screen does not show \"{wanted}\":\n{}", self.text());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status, self.text())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_shell_edits_completes_remembers_and_runs() {
    let bench = with(&[shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")]);
    bench.good(&["start"]);
    let mut terminal = Terminal::start(&bench, &[]);
    terminal.shows("go-carbon  running");
    terminal.on("dkm> ", "stx\x7f\t\t");
    terminal.on("start   stop    status", "op go\tX\x15stop go\t");
    terminal.on("dkm> stop go-carbon ", "\r");
    terminal.shows("go-carbon    stopped");
    assert_eq!(bench.state("go-carbon"), "stopped");
    // The one before, changed; and what was thrown away is not run.
    terminal.on("stopped\ndkm> ", "shutdown\x03\x1b[A\x1b[H\x1bdstart\r");
    until("it to run again", || bench.state("go-carbon") == "running");
    terminal.on("dkm> ", "nonsense\r");
    terminal.shows("unrecognized subcommand 'nonsense'");
    terminal.on("try '--help'.\ndkm> ", "\x04");
    let (status, screen) = terminal.end();
    assert!(status.success(), "{screen}");
    let history = bench.data().join("run/shell.history");
    assert_eq!(std::fs::read_to_string(&history).unwrap(), "stop go-carbon \nstart go-carbon \nnonsense\n");
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn ctrl_c_in_the_shell_ends_the_verb_and_not_the_shell() {
    let bench = with(&[shell("talker", "echo hello; exec sleep 1000")]);
    bench.good(&["start"]);
    let mut terminal = Terminal::start(&bench, &[]);
    terminal.on("dkm> ", "tail -f talker\r");
    terminal.shows("hello");
    // The terminal is no controlling one here, so that the key has no meaning: the signal goes to the verb, as it would.
    let shell_pid = terminal.child.id();
    let verb = || {
        let children = std::fs::read_to_string(format!("/proc/{shell_pid}/task/{shell_pid}/children")).unwrap_or_default();
        children.trim().parse::<i32>().ok()
    };
    if cfg!(target_os = "linux") {
        send(i32::try_from(shell_pid).unwrap(), Signal::SIGINT);
        until("the verb", || verb().is_some());
        send(verb().unwrap(), Signal::SIGINT);
        terminal.on("hello\ndkm> ", "pid talker\r");
        terminal.shows(&bench.pid("talker").to_string());
    }
}

#[test]
fn top_shows_what_runs_and_does_what_it_is_told() {
    let bench = with(&[
        shell("go-carbon", "while :; do echo one line of it; sleep 1; done"),
        shell("carbonapi", "echo \"another $(printf '\\033[2J')one\"; exec sleep 1000"),
    ]);
    bench.good(&["start"]);
    let mut terminal = Terminal::start(&bench, &["top", "--interval", "100ms"]);
    terminal.shows("2 of 2 run");
    let row = |terminal: &Terminal, name: &str| {
        terminal.text().lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
    };
    let pid = bench.pid("carbonapi").to_string();
    assert!(row(&terminal, "carbonapi").contains(&pid), "{}", terminal.text());
    // The cursor is on the first, whose last lines are shown.
    terminal.shows("another \\x1b[2Jone");
    terminal.on("q quit", "\x1b[B");
    terminal.on("one line of it", "t");
    terminal.on("stop go-carbon?", "n");
    terminal.on("q quit", "k");
    terminal.on("another", "t");
    terminal.on("stop carbonapi?", "y");
    until("it to stop", || bench.state("carbonapi") == "stopped");
    terminal.on("1 of 2 run", "sy");
    until("it to run", || bench.state("carbonapi") == "running");
    terminal.on("2 of 2 run", "ry");
    until("another process", || bench.pid("carbonapi").to_string() != pid && bench.state("carbonapi") == "running");
    // What it uses is measured.
    until("a share of a processor", || {
        row(&terminal, "go-carbon").split_whitespace().nth(3).is_some_and(|share| share.parse::<f64>().is_ok())
    });
    until("memory", || row(&terminal, "go-carbon").contains(" MB") || row(&terminal, "go-carbon").contains(" kB"));
    terminal.on("2 of 2 run", "q");
    let (status, screen) = terminal.end();
    assert!(status.success());
    assert!(!screen.contains("q quit"), "the screen is as it was: {screen}");
}

#[test]
fn a_line_says_what_is_waited_for() {
    let mut slow = shell("slow", "exec sleep 1000");
    slow["probes"] = json!([{"tcp": "127.0.0.1:1"}]);
    let bench = with(&[slow]);
    let terminal = Terminal::start(&bench, &["start"]);
    terminal.shows(" for slow (starting: waits for tcp 127.0.0.1:1");
    send(i32::try_from(terminal.child.id()).unwrap(), Signal::SIGINT);
    let (status, screen) = terminal.end();
    assert_eq!(status.code(), Some(130));
    let lines: Vec<&str> = screen.lines().collect();
    assert!(lines[1].starts_with("dkm: interrupted, waiting for slow"), "the line is gone: {screen}");
}

#[test]
fn wait_says_what_for() {
    let mut slow = shell("slow", "exec sleep 1000");
    slow["probes"] = json!([{"tcp": "127.0.0.1:1"}]);
    let bench = with(&[slow]);
    bench.good(&["start", "--no-wait"]);
    let terminal = Terminal::start(&bench, &["wait"]);
    terminal.shows(" for slow (starting");
    send(i32::try_from(terminal.child.id()).unwrap(), Signal::SIGINT);
    let (status, screen) = terminal.end();
    assert_eq!(status.code(), Some(130), "{screen}");
}
