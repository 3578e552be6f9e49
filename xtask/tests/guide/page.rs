//! A page of the guide as a script.
//!
//! | in the page | is |
//! |---|---|
//! | a block ```` ```sh ```` | run, in order, with `bash -eu` from one folder; the first command that fails fails the test |
//! | ```` ```sh fails ```` | run, and has to end with another status than 0 |
//! | ```` ```sh on NAME… ```` | run for each of these machines (all of them are this one) |
//! | ```` ```sh not run: WHY ```` | shown only, for a reason |
//! | a block ```` ```text ```` behind one that is run | lines that have to be among what it printed, in this order; `…` is anything |
//! | a comment `<!-- run`, up to a line `-->` | run as well, and not seen by readers: preparations, checks |
//!
//! Machines have a folder each. In what is run for a machine, `/data/` and `/opt/` are below it, `276xx` is a port of its own,
//! `NAME.example.org:276xx` one of the machine NAME, and any other name below `example.org` is this machine. Without `on` the machine is `server`.
//! `dkumonitor-0.1.0` is the miniature bundle, whatever version it has; 0.2.0 is newer than any. The functions that hidden parts may use are in `prelude.sh`.

use crate::common::monitor::{ARCHIVE, assert_nothing_left};
use crate::common::{Outcome, end_of, workspace};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// No page may take longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// The version that the pages show, whichever it is by now, and the one that they show as newer.
const WRITTEN: &str = "0.1.0";
const NEWER: &str = "0.2.0";

/// The machine that is meant where none is named.
const SERVER: &str = "server";

/// A part of a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Commands.
    Run {
        /// The line of the page that they begin on.
        line: usize,
        /// The commands.
        text: String,
        /// For which machines.
        on: Vec<String>,
        /// Whether they have to fail.
        fails: bool,
        /// Whether readers see them.
        visible: bool,
    },
    /// What the commands before have to print.
    Shows {
        /// The line of the page.
        line: usize,
        /// Lines.
        text: String,
    },
}

impl Part {
    /// Whether these are commands that readers see.
    pub fn runs(&self) -> bool {
        matches!(self, Self::Run { visible: true, .. })
    }
}

/// The pages of the repository that are for reading.
pub fn all() -> Vec<String> {
    let root = workspace();
    let docs = fs::read_dir(root.join("docs")).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut all: Vec<String> = docs.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    all.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "examples/ministack/README.md"].map(str::to_owned));
    all.sort();
    all
}

/// The parts of a page.
pub fn parse(path: &str, text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut shown = false;
    while let Some((at, line)) = lines.next() {
        let hidden = line == "<!-- run";
        let Some(kind) = line.strip_prefix("```").or(hidden.then_some("sh")) else {
            // A text belongs to commands only if no other words stand between them.
            shown &= line.trim().is_empty();
            continue;
        };
        let end = if hidden { "-->" } else { "```" };
        let text: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != end).collect();
        let (line, text) = (at + 1, text.join("\n"));
        let words: Vec<&str> = kind.split_whitespace().collect();
        let (fails, on) = match &words[..] {
            ["sh"] => (false, &[][..]),
            ["sh", "fails"] => (true, &[][..]),
            ["sh", "on", machines @ ..] if !machines.is_empty() => (false, machines),
            ["sh", "not", "run:", _, ..] => {
                shown = false;
                continue;
            }
            ["sh", ..] => panic!("{path}:{line}: cannot understand \"{kind}\""),
            ["text"] if shown => {
                parts.push(Part::Shows { line, text });
                continue;
            }
            _ => {
                shown = false;
                continue;
            }
        };
        let on = if on.is_empty() { vec![SERVER.to_owned()] } else { on.iter().map(|&name| name.to_owned()).collect() };
        shown = !hidden;
        parts.push(Part::Run { line, text, on, fails, visible: !hidden });
    }
    parts
}

/// Machines that are all this one: a folder and ports for each.
struct Machines {
    root: PathBuf,
    ports: BTreeMap<String, u16>,
}

impl Machines {
    fn new(root: &Path, parts: &[Part]) -> Self {
        let named = parts.iter().filter_map(|part| if let Part::Run { on, .. } = part { Some(on) } else { None });
        let names: BTreeSet<&String> = named.flatten().collect();
        for (name, folder) in names.iter().flat_map(|name| ["data", "opt", "home"].map(|folder| (name, folder))) {
            fs::create_dir_all(root.join(name).join(folder)).unwrap();
        }
        let ports = names.into_iter().map(|name| (name.clone(), xtask::free_ports::ten().unwrap())).collect();
        Self { root: root.to_owned(), ports }
    }

    /// The text as it is meant for a machine.
    fn fill(&self, text: &str, machine: &str) -> String {
        let mut text = text.replace(&format!("dkumonitor-{WRITTEN}"), &bundle_name());
        text = text.replace(WRITTEN, env!("CARGO_PKG_VERSION")).replace(NEWER, "9999.0.0");
        // Nothing is to be reached from outside while it is tried.
        text = text.replace("0.0.0.0", "127.0.0.1");
        for (name, port) in &self.ports {
            let host = format!("{name}.example.org");
            text = with_ports(&text, &format!("{host}:276"), *port, "127.0.0.1:").replace(&host, "127.0.0.1");
        }
        let others: Vec<String> = words(&text).filter(|word| word.ends_with(".example.org")).map(str::to_owned).collect();
        let text = others.iter().fold(text, |text, other| text.replace(other, "127.0.0.1"));
        let text = with_ports(&text, "276", self.ports[machine], "");
        let place = self.root.join(machine);
        ["data", "opt"].iter().fold(text, |text, folder| replace_folder(&text, folder, &place))
    }
}

/// What may be a name, cut out of a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c))).filter(|word| !word.is_empty())
}

/// `before` and two digits become `instead` and a port.
fn with_ports(text: &str, before: &str, first: u16, instead: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(before) {
        let (head, tail) = rest.split_at(at);
        let digits = &tail[before.len()..];
        let more = digits.bytes().take_while(u8::is_ascii_digit).count();
        let inside =
            before.starts_with(|c: char| c.is_ascii_digit()) && head.ends_with(|c: char| c.is_ascii_digit() || c == '.');
        out.push_str(head);
        match digits.get(..2).and_then(|digits| digits.parse::<u16>().ok()) {
            Some(offset) if more == 2 && !inside => {
                let _ = write!(out, "{instead}{}", first + offset);
                rest = &digits[2..];
            }
            _ => {
                out.push_str(before);
                rest = digits;
            }
        }
    }
    out + rest
}

/// `/data/…` at the beginning of a path becomes one below the machine's folder.
fn replace_folder(text: &str, folder: &str, place: &Path) -> String {
    let wanted = format!("/{folder}/");
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(&wanted) {
        let (head, tail) = rest.split_at(at);
        out.push_str(head);
        if !head.ends_with(|c: char| c.is_alphanumeric() || "./}~_-".contains(c)) {
            out.push_str(place.to_str().unwrap());
        }
        out.push_str(&wanted);
        rest = &tail[wanted.len()..];
    }
    out + rest
}

fn bundle_name() -> String {
    ARCHIVE.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz").to_owned()
}

/// Runs the commands of a page, and compares what they print.
#[track_caller]
pub fn run(path: &str) {
    let text = fs::read_to_string(workspace().join(path)).unwrap();
    let parts = parse(path, &text);
    let folder = tempfile::Builder::new().prefix("guide-").tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let machines = Machines::new(&root, &parts);
    let script = script(&parts, &machines);
    fs::write(root.join("script.sh"), &script).unwrap();
    let mut command = Command::new("bash");
    command.arg(root.join("script.sh")).current_dir(&root).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("LC_ALL", "C.UTF-8").env("DKM_ALLOW_ROOT", "1");
    command.env("ARCHIVE", &*ARCHIVE).env("GUIDE", &root).env("HOME", root.join("home"));
    let outcome = end_of(command.spawn().unwrap(), PATIENCE);
    shut_down(&root, &machines);
    let printed = |number: usize| fs::read_to_string(root.join(format!("out.{number}"))).unwrap_or_default();
    if outcome.status != 0 {
        let last = fs::read_to_string(root.join("now")).unwrap_or_default();
        let (number, line) = last.trim().split_once(' ').unwrap_or(("", "?"));
        let out = printed(number.parse().unwrap_or(usize::MAX));
        panic!(
            "{path}:{line}: its commands ended with {}:\n{out}\n{}\n(the page as a script)\n{script}",
            outcome.status, outcome.text
        );
    }
    for (number, pair) in parts.windows(2).enumerate() {
        if let [Part::Run { on, .. }, Part::Shows { line, text }] = pair {
            let wanted = machines.fill(text, &on[0]);
            if let Some(missing) = missing(&wanted, &printed(number)) {
                panic!("{path}:{line}: this is not what is printed: {missing}\n(printed)\n{}", printed(number));
            }
        }
    }
    assert_nothing_left(&root);
}

/// The first line that is not among what was printed behind the line before it.
fn missing<'a>(wanted: &'a str, printed: &str) -> Option<&'a str> {
    let mut lines = printed.lines();
    wanted
        .lines()
        .filter(|line| !line.trim().is_empty() && line.trim() != "…")
        .find(|wanted| !lines.any(|line| fits(wanted, line)))
}

/// Whether a line is as it is shown: `…` is anything, blanks at the ends and how many there are do not count.
fn fits(wanted: &str, line: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (wanted, line) = (plain(wanted), plain(line));
    let pieces: Vec<&str> = wanted.split('…').map(str::trim).collect();
    let [first, middle @ .., last] = &pieces[..] else { return line == wanted };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for piece in middle {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

/// The page as a script. Each part writes to a file of its own; `now` names the one that is under way.
fn script(parts: &[Part], machines: &Machines) -> String {
    let mut script = String::from("set -euo pipefail\n");
    script.push_str(include_str!("prelude.sh"));
    for (number, part) in parts.iter().enumerate() {
        let Part::Run { line, text, on, fails, .. } = part else { continue };
        let _ = writeln!(script, "exec 3>&1 4>&2 >\"$GUIDE/out.{number}\" 2>&1; echo '{number} {line}' >\"$GUIDE/now\"");
        for machine in on {
            let _ = writeln!(script, "machine {machine} {}", machines.ports[machine]);
            let text = machines.fill(text, machine);
            if *fails {
                let _ = writeln!(script, "set +e; (set -e\n{text}\n); status=$?; set -e\ntest \"$status\" -ne 0");
            } else {
                let _ = writeln!(script, "{text}");
            }
        }
        script.push_str("exec >&3 2>&4\n");
    }
    script
}

/// Ends what the page has started.
fn shut_down(root: &Path, machines: &Machines) {
    for machine in machines.ports.keys() {
        for data in fs::read_dir(root.join(machine).join("data")).into_iter().flatten().flatten() {
            let dkm = data.path().join("bin/dkm");
            if dkm.exists() {
                Outcome::of(&Command::new(dkm).env("DKM_ALLOW_ROOT", "1").arg("shutdown").output().unwrap());
            }
        }
    }
}

#[test]
fn a_page_is_read_as_the_rules_say() {
    let page = "# x\n```sh\necho a\n```\n\n```text\na\n```\n```sh on b c\necho b\n```\nwords\n```text\nno\n```\n<!-- run\ntrue\n-->\n\
                ```sh fails\nfalse\n```\n```sh not run: it needs root\nx\n```\n```toml\na = 1\n```\n";
    let parts = parse("x", page);
    let run = |line, text: &str, on: &[&str], fails, visible| Part::Run {
        line,
        text: text.to_owned(),
        on: on.iter().map(|&name| name.to_owned()).collect(),
        fails,
        visible,
    };
    assert_eq!(
        parts,
        [
            run(2, "echo a", &["server"], false, true),
            Part::Shows { line: 6, text: "a".to_owned() },
            run(9, "echo b", &["b", "c"], false, true),
            run(16, "true", &["server"], false, false),
            run(19, "false", &["server"], true, true),
        ]
    );
}

#[test]
fn what_is_shown_is_compared_with_what_is_printed() {
    let printed = "go-carbon  running  12 s\nport 27601 is taken by process 7 (nc)\nlast\n";
    assert_eq!(missing("go-carbon running …\n…\nport … is taken by process … (…)", printed), None);
    assert_eq!(missing("last\ngo-carbon …", printed), Some("go-carbon …"));
    assert_eq!(missing("port 27602 …", printed), Some("port 27602 …"));
}

#[test]
fn machines_have_folders_and_ports_of_their_own() {
    let ports = BTreeMap::from([("one".to_owned(), 100), ("server".to_owned(), 200)]);
    let machines = Machines { root: PathBuf::from("/r"), ports };
    for (text, wanted) in [
        ("-d /data/monitor -p 27600", "-d /r/server/data/monitor -p 200"),
        ("'/data/a b' /x/data/y", "'/r/server/data/a b' /x/data/y"),
        ("one.example.org:27603,server.example.org:27601", "127.0.0.1:103,127.0.0.1:201"),
        ("http://dss.example.org:27602/", "http://127.0.0.1:202/"),
        ("1276001 0.27600 276000", "1276001 0.27600 276000"),
    ] {
        assert_eq!(machines.fill(text, "server"), wanted);
    }
}
