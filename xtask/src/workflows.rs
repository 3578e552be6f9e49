//! `.github/workflows`, held against what this program offers and against what a release may be entrusted to; and the commands that pages
//! tell. Tests alone.
//!
//! Promises: every command line of theirs is run as GitHub runs it, with stand-ins for cargo and gh that note their words, and those
//! words are parsed by the real definitions. Every fault that is looked for is planted once.

use crate::cli::Cli;
use clap::Parser as _;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use yaml_rust2::{Yaml, YamlLoader};

/// A tag as it is pushed.
const TAG: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// Notes the words that it is called with, a line a call; `gh release view` finds nothing.
const STAND_IN: &str =
    "#!/bin/sh\nprintf '%s\\037' \"${0##*/}\" \"$@\" >> \"$CALLS\"\necho >> \"$CALLS\"\n[ \"$2\" != view ]\n";

/// Jobs that compile or run what others wrote; they may read the repository and nothing else.
const READS_ONLY: [&str; 2] = ["checks", "package"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn texts() -> Vec<(String, String)> {
    let folder = workspace().join(".github/workflows");
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap()))
        .collect();
    all.sort();
    all
}

fn parsed(text: &str) -> Yaml {
    YamlLoader::load_from_str(text).unwrap().remove(0)
}

/// The entries of a mapping as texts; none where there is none.
fn entries(yaml: &Yaml) -> Vec<(String, &Yaml)> {
    let scalar = |yaml: &Yaml| match yaml {
        Yaml::String(text) | Yaml::Real(text) => text.clone(),
        other => format!("{other:?}"),
    };
    yaml.as_hash().into_iter().flatten().map(|(key, value)| (scalar(key), value)).collect()
}

fn words(yaml: &Yaml) -> String {
    match yaml {
        Yaml::String(text) | Yaml::Real(text) => text.clone(),
        Yaml::Integer(number) => number.to_string(),
        Yaml::Boolean(truth) => truth.to_string(),
        _ => String::new(),
    }
}

/// All texts in it.
fn leaves(yaml: &Yaml, found: &mut Vec<String>) {
    match yaml {
        Yaml::Array(all) => all.iter().for_each(|one| leaves(one, found)),
        Yaml::Hash(all) => all.iter().for_each(|(_, one)| leaves(one, found)),
        other => found.push(words(other)),
    }
}

fn text_of(yaml: &Yaml) -> String {
    let mut found = Vec::new();
    leaves(yaml, &mut found);
    found.join("\n")
}

/// Everything that speaks against a workflow.
fn faults(text: &str) -> Vec<String> {
    let workflow = parsed(text);
    let mut faults = Vec::new();
    let mut fault = |what: &str| faults.push(what.to_owned());
    if !matches!(&workflow["permissions"], Yaml::Hash(all) if all.is_empty()) {
        fault("the workflow has permissions of its own");
    }
    if workflow["concurrency"]["group"].as_str().is_none() {
        fault("runs may overtake each other");
    }
    let on = entries(&workflow["on"]).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    if on.is_empty() || on.iter().any(|name| !["push", "pull_request"].contains(&name.as_str())) {
        fault("it is started by more than pushes and pull requests");
    }
    for (name, job) in entries(&workflow["jobs"]) {
        job_faults(&name, job, &mut fault);
    }
    for line in text.lines().filter(|line| line.trim_start().trim_start_matches("- ").starts_with("uses:")) {
        if !is_pinned(line) {
            fault("an action is not pinned by a commit with its version");
        }
    }
    faults
}

fn job_faults(name: &str, job: &Yaml, fault: &mut impl FnMut(&str)) {
    if job["timeout-minutes"].as_i64().is_none() {
        fault("a job may run for hours");
    }
    let rights = entries(&job["permissions"]);
    if rights.is_empty() {
        fault("a job does not say what it may");
    }
    let writes = rights.iter().any(|(right, how)| words(how) != "read" && right != "id-token");
    if READS_ONLY.contains(&name) && writes {
        fault("a job that compiles may write");
    }
    // A role of the shared cache is had by an identity; but never where a release is made.
    let cache = words(&job["env"]["DKUMONITOR_CACHE"]);
    let identity = rights.iter().any(|(right, _)| right == "id-token");
    if READS_ONLY.contains(&name) && identity && cache.is_empty() {
        fault("a job that compiles has an identity without need");
    }
    if !cache.is_empty() {
        let mode = words(&job["env"]["DKUMONITOR_CACHE_MODE"]);
        if mode != "${{ github.ref == 'refs/heads/main' && 'read-write' || 'read-only' }}" {
            fault("a pull request may write to the shared cache");
        }
    }
    let everywhere = ["env", "if", "runs-on", "environment", "strategy"].map(|key| text_of(&job[key]));
    if everywhere.iter().any(|text| text.contains("secrets.")) {
        fault("a secret is there for all steps of a job");
    }
    for step in job["steps"].as_vec().into_iter().flatten() {
        step_faults(step, fault);
    }
}

fn step_faults(step: &Yaml, fault: &mut impl FnMut(&str)) {
    let run = words(&step["run"]);
    if run.contains("${{") {
        fault("text from outside becomes part of a script");
    }
    let is_build = ["cargo build", "xtask package", "xtask ci"].iter().any(|word| run.contains(word));
    if is_build && text_of(&step["env"]).contains("secrets.") {
        fault("a secret is there while something is compiled");
    }
    let uses = words(&step["uses"]);
    if uses.starts_with("actions/checkout@") && step["with"]["persist-credentials"].as_bool() != Some(false) {
        fault("the checkout keeps its credentials");
    }
    if !uses.is_empty() && text_of(&step["with"]).contains("secrets.") {
        fault("a secret is given to somebody else's action");
    }
}

/// `uses: owner/name@<40 digits> # v1.2.3`.
fn is_pinned(line: &str) -> bool {
    let Some((_, rest)) = line.split_once('@') else { return false };
    let (commit, version) = rest.split_once(" # ").unwrap_or((rest, ""));
    let is_version = version
        .strip_prefix('v')
        .is_some_and(|number| number.split('.').count() == 3 && number.split('.').all(|part| part.parse::<u32>().is_ok()));
    commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) && is_version
}

#[test]
fn the_workflows_ask_for_no_more_than_they_need() {
    for (name, text) in texts() {
        assert_eq!(faults(&text), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn each_fault_of_a_workflow_is_told_when_it_is_planted() {
    let all: BTreeMap<_, _> = texts().into_iter().collect();
    let planted = |file: &str, from: &str, to: &str, told: &str| {
        let text = &all[file];
        assert!(text.contains(from), "{file} has no \"{from}\"");
        let found = faults(&text.replacen(from, to, 1));
        assert!(found.iter().any(|fault| fault == told), "\"{told}\" is not in {found:?}");
    };
    let hash = "3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1";
    for pin in ["v7", "main # v7.0.1", "3d3c42e # v7.0.1", "3d3c42e5aac5ba805825da76410c181273ba90b1"] {
        planted("ci.yml", hash, pin, "an action is not pinned by a commit with its version");
    }
    planted("ci.yml", "permissions: {}", "permissions: write-all", "the workflow has permissions of its own");
    planted("ci.yml", "contents: read", "contents: write", "a job that compiles may write");
    planted("release.yml", "contents: read", "id-token: write", "a job that compiles has an identity without need");
    planted("ci.yml", "  pull_request:", "  pull_request_target:", "it is started by more than pushes and pull requests");
    planted("ci.yml", "persist-credentials: false", "fetch-depth: 0", "the checkout keeps its credentials");
    planted("ci.yml", "timeout-minutes: 60", "continue-on-error: true", "a job may run for hours");
    planted("ci.yml", "|| 'read-only'", "|| 'read-write'", "a pull request may write to the shared cache");
    planted("release.yml", "concurrency:", "defaults:", "runs may overtake each other");
    let title = "cargo xtask ci --install-missing";
    planted("ci.yml", title, "echo ${{ github.event.pull_request.title }}", "text from outside becomes part of a script");
    let runner = "runs-on: ubuntu-24.04\n    timeout-minutes: 60";
    let leaked = format!("{runner}\n    env:\n      KEY: ${{{{ secrets.MINISIGN_KEY }}}}");
    planted("release.yml", runner, &leaked, "a secret is there for all steps of a job");
    let target = "TARGET: ${{ matrix.target }}";
    planted("release.yml", target, "TARGET: ${{ secrets.MINISIGN_KEY }}", "a secret is there while something is compiled");
    planted("release.yml", "pattern: package-*", "token: ${{ secrets.X }}", "a secret is given to somebody else's action");
}

/// A text with what GitHub puts in place of `${{ … }}`.
fn filled(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        let (expression, behind) = after.split_once("}}").unwrap();
        out += before;
        out += known.get(expression.trim()).map_or("", String::as_str);
        rest = behind;
    }
    out + rest
}

/// Runs all scripts of a job with stand-ins; the words of each call.
fn calls_of(job: &Yaml, matrix: &Yaml) -> Vec<Vec<String>> {
    let folder = tempfile::Builder::new().prefix("a work flow ").tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("bin")).unwrap();
    for name in ["cargo", "gh"] {
        fs::write(at("bin").join(name), STAND_IN).unwrap();
        fs::set_permissions(at("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
    let mut known: BTreeMap<_, _> =
        entries(matrix).into_iter().map(|(name, value)| (format!("matrix.{name}"), words(value))).collect();
    known.insert("secrets.MINISIGN_KEY".to_owned(), "a key".to_owned());
    known.insert("github.token".to_owned(), "a token".to_owned());
    fs::write(at("calls"), "").unwrap();
    for step in job["steps"].as_vec().unwrap() {
        let run = words(&step["run"]);
        if run.is_empty() {
            continue;
        }
        fs::write(at("script"), &run).unwrap();
        fs::write(at("output"), "").unwrap();
        let mut command = Command::new("bash");
        command.arg("-e").arg(at("script")).current_dir(folder.path());
        command.env("PATH", &path).env("CALLS", at("calls")).env("GITHUB_OUTPUT", at("output")).env("GITHUB_REF_NAME", TAG);
        for (name, value) in entries(&job["env"]).into_iter().chain(entries(&step["env"])) {
            command.env(name, filled(&words(value), &known));
        }
        assert!(command.status().unwrap().success(), "{run}");
        let id = words(&step["id"]);
        for (name, value) in fs::read_to_string(at("output")).unwrap().lines().filter_map(|line| line.split_once('=')) {
            known.insert(format!("steps.{id}.outputs.{name}"), value.to_owned());
        }
    }
    let calls = fs::read_to_string(at("calls")).unwrap();
    calls.lines().map(|line| line.trim_end_matches('\x1f').split('\x1f').map(str::to_owned).collect()).collect()
}

#[test]
fn each_command_of_the_workflows_is_one_that_there_is() {
    let mut commands = Vec::new();
    let mut uploads = Vec::new();
    for (_, text) in texts() {
        for (_, job) in entries(&parsed(&text)["jobs"]) {
            let alone = [Yaml::Null];
            let matrix = job["strategy"]["matrix"]["include"].as_vec().map_or(alone.as_slice(), Vec::as_slice);
            for call in matrix.iter().flat_map(|one| calls_of(job, one)) {
                match call.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                    ["cargo", alias @ ("xtask" | "xtask-shared"), command, ..] => {
                        commands.push(format!("{alias} {command}"));
                        let words = call[1..].iter().map(String::as_str);
                        if let Err(error) = Cli::try_parse_from(words) {
                            panic!("{}: {error}", call.join(" "));
                        }
                    }
                    ["cargo", "build", "--package", "xtask", "--locked"] => {}
                    ["gh", "release", "upload", rest @ ..] => uploads.push(rest.join(" ")),
                    ["gh", "release", "view" | "create" | "edit", tag, ..] => assert_eq!(*tag, TAG),
                    other => panic!("nobody knows {other:?}"),
                }
            }
        }
    }
    commands.sort();
    let package = ["xtask package"; 3];
    assert_eq!(commands, [["xtask ci"].as_slice(), &package, &["xtask release", "xtask-shared package"]].concat());
    // The folder is that of `release`; see there.
    let folder = format!("dist/release-{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(uploads, [format!("{TAG} --clobber {folder}/*")]);
    let aliases = fs::read_to_string(workspace().join(".cargo/config.toml")).unwrap();
    assert!(["xtask = ", "xtask-shared = "].iter().all(|alias| aliases.contains(alias)));
}

#[test]
fn what_is_carried_from_the_packagers_is_all_of_it_and_no_tree() {
    let all: BTreeMap<_, _> = texts().into_iter().collect();
    let release = parsed(&all["release.yml"]);
    let steps = release["jobs"]["package"]["steps"].as_vec().unwrap();
    let upload = steps.iter().find(|step| words(&step["uses"]).starts_with("actions/upload-artifact@")).unwrap();
    let globs: Vec<_> = words(&upload["with"]["path"]).lines().map(|line| line.trim().to_owned()).collect();
    let mut set = globset::GlobSetBuilder::new();
    for glob in &globs {
        set.add(globset::GlobBuilder::new(glob).literal_separator(true).build().unwrap());
    }
    let set = set.build().unwrap();
    let name = "dist/dkumonitor-partial-0.1.0-aarch64-apple-darwin";
    let endings = [".tar.gz", ".tar.gz.sha256", ".tar.xz", ".tar.xz.sha256", ".deb", ".deb.sha256", ".rpm", ".rpm.sha256"];
    for ending in endings.into_iter().chain([".sbom.cdx.json", ".provenance.json"]) {
        assert!(set.is_match(format!("{name}{ending}")), "{ending} stays behind: {globs:?}");
    }
    // It is in the archive, and is as large as all else together.
    assert!(!set.is_match(name), "the tree goes along: {globs:?}");
    assert!(!set.is_match(format!("{name}/manifest.json")), "{globs:?}");
}

/// The command lines of the builder in a page: in blocks, and between backquotes where they are whole.
fn told(page: &str) -> Vec<Vec<String>> {
    let mut lines: Vec<&str> = page.lines().map(str::trim).collect();
    lines.extend(page.split('`').skip(1).step_by(2));
    let lines = lines.into_iter().filter(|line| line.starts_with("cargo xtask ") || line.starts_with("cargo xtask-shared "));
    // What may be left out, or stands for more, is no command as it stands.
    let whole = lines.filter(|line| !line.contains(['[', '…', '|', '\n', '$']));
    let words = whole.map(|line| line.split(" #").next().unwrap_or(line).split_whitespace().map(str::to_owned).collect());
    words.filter(|words: &Vec<_>| words.len() > 2).collect()
}

#[test]
fn each_command_that_the_pages_tell_is_one_that_there_is() {
    let docs = fs::read_dir(workspace().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.chain(["README.md", "ARCHITECTURE.md", "examples/ministack/README.md"].map(|name| workspace().join(name)));
    let mut count = 0;
    for page in pages {
        for words in told(&fs::read_to_string(&page).unwrap()) {
            count += 1;
            if let Err(error) = Cli::try_parse_from(&words[1..]) {
                // `cargo xtask lock bump` alone names the command, and lacks what it wants.
                let named = error.kind() == clap::error::ErrorKind::MissingRequiredArgument;
                assert!(named, "{}: {}: {error}", page.display(), words.join(" "));
            }
        }
    }
    assert!(count > 40, "{count}");
    assert_eq!(told("`cargo xtask gate --stil x` and\ncargo xtask plan --json   # so\n`cargo xtask gate [X]`\n").len(), 2);
}
