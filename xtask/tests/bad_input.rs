//! What is wrong in the input is told by name, with the way out, by an exit status of its own; and nothing half-done is
//! left that the next run could take for whole.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{GOOD_MAKEFILE, Place, closed_port, compiled, serve, sha256, tar_gz};
use std::fs;

/// For a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

fn good_archive() -> Vec<u8> {
    tar_gz(&[("thing-1.0/hello.txt", "hello\n"), ("thing-1.0/deep/er.txt", "x")])
}

fn url(address: std::net::SocketAddr) -> String {
    format!("http://{address}/thing.tar.gz")
}

/// Nothing in the store that the next run could take for the source.
fn assert_store_is_empty(place: &Place) {
    let files: Vec<_> =
        fs::read_dir(place.path("build/sources")).map(|entries| entries.flatten().collect()).unwrap_or_default();
    let whole: Vec<_> = files.iter().filter(|file| file.path().extension().is_none_or(|ending| ending != "part")).collect();
    assert!(whole.is_empty(), "{whole:?}");
}

#[test]
fn a_good_source_is_packaged_and_a_second_run_needs_no_network() {
    let place = Place::new();
    let archive = good_archive();
    place.one_component(&[url(serve("200 OK", "application/gzip", archive.clone(), None))], &archive);
    place.xtask(&["package"]).good();
    assert_eq!(fs::read_to_string(place.tree().join("share/hello.txt")).unwrap(), "hello\n");
    let manifest = fs::read_to_string(place.tree().join("manifest.json")).unwrap();
    assert!(manifest.contains(&sha256(b"hello\n")) && manifest.contains(&sha256(&archive)), "{manifest}");
    let first = fs::metadata(place.archive()).unwrap().modified().unwrap();
    let text = place.xtask(&["package", "--offline"]).good();
    assert!(text.contains("unchanged") && !text.contains("stage:"), "{text}");
    assert_eq!(fs::metadata(place.archive()).unwrap().modified().unwrap(), first, "the archive was written again");
    // A file that somebody has changed in the staged tree is not shipped.
    fs::write(place.tree().join("share/hello.txt"), "changed\n").unwrap();
    place.xtask(&["package", "--offline"]).good();
    assert_eq!(fs::read_to_string(place.tree().join("share/hello.txt")).unwrap(), "hello\n");
}

#[test]
fn a_wrong_hash_is_refused_and_the_next_address_is_tried() {
    let place = Place::new();
    let archive = good_archive();
    let wrong = url(serve("200 OK", "application/gzip", tar_gz(&[("thing-1.0/hello.txt", "evil!\n")]), None));
    place.locked(std::slice::from_ref(&wrong), &sha256(&archive), archive.len());
    place.one_component(std::slice::from_ref(&wrong), &archive);
    place.xtask(&["package"]).bad(5, &["thing", &wrong]);
    assert_store_is_empty(&place);
    let right = url(serve("200 OK", "application/gzip", archive.clone(), None));
    place.one_component(&[wrong, right], &archive);
    place.xtask(&["package"]).good();
}

#[test]
fn a_short_file_is_refused() {
    let place = Place::new();
    let archive = good_archive();
    let short = archive[..archive.len() / 2].to_vec();
    let address = url(serve("200 OK", "application/gzip", short, None));
    place.one_component(std::slice::from_ref(&address), &archive);
    let outcome = place.xtask(&["package"]);
    assert!(matches!(outcome.status, 4 | 5), "{outcome:?}");
    assert!(outcome.text.contains(&address) && outcome.text.contains(&format!("{}", archive.len())), "{}", outcome.text);
    assert_store_is_empty(&place);
}

#[test]
fn a_web_page_instead_of_an_archive_is_recognised_with_its_title() {
    let place = Place::new();
    let page = b"<!DOCTYPE html><html><head><title>Please log in to the proxy</title></head><body>no</body></html>".to_vec();
    place.one_component(&[url(serve("200 OK", "text/html", page, None))], &good_archive());
    place.xtask(&["package"]).bad(5, &["HTML", "Please log in to the proxy"]);
    assert_store_is_empty(&place);
}

#[test]
fn every_source_is_tried_before_the_failures_are_told_together() {
    let place = Place::new();
    let archive = good_archive();
    place.one_component(&[url(serve("404 Not Found", "text/plain", b"no".to_vec(), None))], &archive);
    let lock = fs::read_to_string(place.path("stack/vendor.lock")).unwrap();
    place.write("stack/vendor.lock", format!("{lock}\n{}", lock.replace("\"thing\"", "\"other\"")));
    let recipe = fs::read_to_string(place.path("stack/recipes/thing.toml")).unwrap();
    place.write("stack/recipes/other.toml", recipe.replace("share/", "share/other/"));
    place.xtask(&["package"]).bad(4, &["thing", "other", "404"]);
}

#[test]
fn where_nobody_can_be_reached_the_ways_out_are_told_once() {
    let place = Place::new();
    place.one_component(&[format!("http://127.0.0.1:{}/thing.tar.gz", closed_port())], &good_archive());
    let text = place.xtask(&["package"]).bad(4, &["proxy", "--mirror", "ministack"]);
    assert_eq!(text.matches("ways out").count(), 1, "{text}");
}

#[test]
fn offline_says_what_is_missing_and_a_mirror_folder_serves_it() {
    let place = Place::new();
    let archive = good_archive();
    place.one_component(&[format!("https://127.0.0.1:{}/v1.0.tar.gz", closed_port())], &archive);
    place.xtask(&["package", "--offline"]).bad(4, &["thing", "--offline"]);
    place.write("mirror/thing-1.0+x.tar.gz", &archive);
    let mirror = place.path("mirror");
    place.xtask(&["package", "--offline", "--mirror", mirror.to_str().unwrap()]).good();
}

#[test]
fn an_archive_that_climbs_out_is_refused_by_name() {
    for name in ["thing-1.0/../../../climbed.txt", "/climbed.txt"] {
        let place = Place::new();
        let archive = tar_gz(&[("thing-1.0/hello.txt", "hello\n"), (name, "gotcha")]);
        place.one_component(&[url(serve("200 OK", "application/gzip", archive.clone(), None))], &archive);
        place.xtask(&["package"]).bad(5, &["climbed.txt"]);
        for escaped in ["build/climbed.txt", "build/wip/climbed.txt", "climbed.txt"] {
            assert!(!place.path(escaped).exists(), "{escaped} was written");
        }
        assert!(!std::path::Path::new("/climbed.txt").exists());
    }
}

#[test]
fn unknown_keys_are_refused_with_file_and_line() {
    let place = Place::new();
    let archive = good_archive();
    place.one_component(&["https://127.0.0.1:1/x.tar.gz".to_owned()], &archive);
    place.write("stack/recipes/thing.toml", "summary = \"x\"\n\n[[instal]]\nfrom = \"src/x\"\nto = \"y\"\n");
    place.xtask(&["package"]).bad(2, &["recipes/thing.toml", "line 3", "instal"]);
    place.one_component(&["https://127.0.0.1:1/x.tar.gz".to_owned()], &archive);
    let lock = fs::read_to_string(place.path("stack/vendor.lock")).unwrap();
    place.write("stack/vendor.lock", lock.replace("license", "licence"));
    place.xtask(&["plan"]).bad(2, &["vendor.lock", "licence"]);
}

#[test]
fn a_lock_that_cannot_be_right_is_refused_with_everything_that_is_wrong_in_it() {
    let place = Place::new();
    place.one_component(&["http://example.org/x.tar.gz".to_owned()], &good_archive());
    place.locked(&["http://example.org/x.tar.gz".to_owned()], "abc", 3);
    place.xtask(&["plan"]).bad(2, &["not https", "64 lower-case"]);
    place.xtask(&["plan", "--only", "nothing"]).bad(2, &["vendor.lock"]);
}

#[test]
fn a_patch_that_does_not_apply_stops_with_file_and_hunk() {
    let place = Place::new();
    let archive = good_archive();
    place.one_component(&[url(serve("200 OK", "application/gzip", archive.clone(), None))], &archive);
    let recipe = fs::read_to_string(place.path("stack/recipes/thing.toml")).unwrap();
    place.write("stack/recipes/thing.toml", recipe.replace("[[install]]", "patches = [\"01-x.patch\"]\n[[install]]"));
    let patch = |old: &str| format!("--- a/hello.txt\n+++ b/hello.txt\n@@ -1 +1 @@\n-{old}\n+patched\n");
    place.write("stack/patches/thing/01-x.patch", patch("bonjour"));
    place.xtask(&["package"]).bad(6, &["01-x.patch", "hello.txt", "hunk"]);
    place.write("stack/patches/thing/01-x.patch", patch("hello"));
    place.xtask(&["package"]).good();
    assert_eq!(fs::read_to_string(place.tree().join("share/hello.txt")).unwrap(), "patched\n");
    place.write("stack/patches/thing/02-forgotten.patch", patch("hello"));
    place.xtask(&["package"]).bad(2, &["02-forgotten.patch", "not listed"]);
}

#[test]
fn a_failing_compile_shows_the_first_error_the_command_and_the_log() {
    let place = compiled("all:\n\t@echo 'thing.c:3:1: error: no such luck'; seq 40; exit 7\n");
    let text = place
        .xtask(&["package"])
        .bad(7, &["thing", "step compile", "thing.c:3:1: error: no such luck", "make", "run again", "log:"]);
    assert!(text.contains("✗ thing compile"), "{text}");
    let log = fs::read_to_string(place.path("build/build.log")).unwrap();
    assert!(log.lines().any(|line| line.contains(" thing/compile | ") && line.contains("no such luck")), "{log}");
    assert!(!place.tree().exists() && !place.archive().exists());
    // Mended, the next run succeeds, and what it stages can be staged again without compiling.
    place.write("stack/thing/Makefile", GOOD_MAKEFILE);
    place.xtask(&["package", "--skip-archive"]).good();
    assert!(!place.archive().exists());
    place.write("stack/thing/Makefile", "all:\n\tfalse\n");
    let text = place.xtask(&["package", "--skip-build"]).good();
    assert!(text.contains("source changed"), "{text}");
    let plan: serde_json::Value = serde_json::from_str(&place.xtask(&["plan", "--json"]).good()).unwrap();
    assert_eq!((&plan["format"], &plan["components"][0]["why"]), (&2.into(), &"source changed".into()), "{plan}");
    let graph = place.xtask(&["plan", "--dot"]).good();
    assert!(graph.contains(r#"label="thing\ncompile""#) && graph.contains("n0 -> n1"), "{graph}");
    let text = place.xtask(&["explain", "thing"]).good();
    assert!(text.contains("thing has to be built: source changed") && text.contains("last built with"), "{text}");
    assert!(fs::read_to_string(place.path("build/timings.html")).unwrap().contains("<b>compile</b>"));
    assert_eq!(fs::read_to_string(place.tree().join("bin/thing")).unwrap(), "made\n");
}

#[test]
fn skip_build_names_what_was_never_compiled() {
    let place = compiled(GOOD_MAKEFILE);
    place.xtask(&["package", "--skip-build"]).bad(8, &["thing", "never compiled"]);
}

#[test]
fn output_that_nobody_takes_ends_the_program_without_a_panic() {
    let place = compiled(GOOD_MAKEFILE);
    let run = |words: &[&str], output: std::process::Stdio| {
        let mut command = place.command(words);
        command.stdout(output).stderr(std::process::Stdio::piped());
        let done = command.spawn().unwrap().wait_with_output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    // As `| head -0` would, before anything is written.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(&["plan"], writer.into()), (Some(1), String::new()));
    if cfg!(target_os = "linux") {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (status, said) = run(&["plan"], full.into());
        assert!(status == Some(1) && said.starts_with("error: cannot write to the standard output: No space"), "{said}");
    }
}

#[test]
fn a_dist_folder_that_cannot_be_written_to_is_told_before_anything_is_compiled() {
    let place = compiled(GOOD_MAKEFILE);
    place.write("dist", "in the way");
    let text = place.xtask(&["package"]).bad(8, &[place.path("dist").to_str().unwrap(), "choose another with --dist-dir"]);
    assert!(!text.contains("thing unpack"), "{text}");
    fs::remove_file(place.path("dist")).unwrap();
    // A form that is named twice is written and told once.
    let text = place.xtask(&["package", "--format", "gz,xz,gz"]).good();
    assert_eq!(text.matches("\nsha256 ").count(), 2, "{text}");
}

#[test]
fn missing_tools_are_told_all_at_once_with_the_command_that_installs_them() {
    let place = compiled(GOOD_MAKEFILE);
    let recipe = fs::read_to_string(place.path("stack/recipes/thing.toml")).unwrap();
    place.write(
        "stack/recipes/thing.toml",
        recipe.replace("[[step]]", "[needs]\ntools = [\"frobnicate\", \"twiddle\"]\n[[step]]"),
    );
    let text = place.xtask(&["package"]).bad(3, &["frobnicate", "twiddle", "thing"]);
    if which::which("apt-get").is_ok() {
        assert!(text.contains("apt-get install"), "{text}");
    }
    place.write("stack/recipes/thing.toml", recipe.replace("[[step]]", "[needs]\nmemory-mb = 900000000\n[[step]]"));
    place.xtask(&["doctor"]).bad(3, &["memory", "thing"]);
}

#[test]
fn a_bundle_that_two_components_would_fill_differently_is_refused() {
    let place = compiled(GOOD_MAKEFILE);
    let recipe = fs::read_to_string(place.path("stack/recipes/thing.toml")).unwrap();
    place.write("stack/recipes/other.toml", recipe.replace("summary = \"x\"", "summary = \"y\"\nsource = \"thing\""));
    place.xtask(&["package"]).bad(8, &["bin/thing", "other", "thing"]);
}

#[test]
fn what_the_build_did_not_make_is_named() {
    let place = compiled(GOOD_MAKEFILE);
    let recipe = fs::read_to_string(place.path("stack/recipes/thing.toml")).unwrap();
    place.write("stack/recipes/thing.toml", recipe.replace("dest/opt/thing", "dest/opt/missing"));
    place.xtask(&["package"]).bad(8, &["dest/opt/missing", "thing"]);
}

/// Starts `package` on a component whose compiling writes `started` and then takes for ever.
fn endless(place: &Place) -> (std::process::Child, rustix::process::Pid) {
    let started = place.path("started");
    place.write("stack/thing/Makefile", format!("all:\n\t@echo $$$$ > '{}'; sleep 1000\n", started.display()));
    let run = place.command(&["package"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let shell = common::wait_for("the compile step", PATIENCE, || {
        fs::read_to_string(&started).ok()?.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
    });
    (run, shell)
}

#[test]
fn an_interrupt_ends_the_commands_too_and_the_next_run_goes_on() {
    let place = compiled("");
    let (run, shell) = endless(&place);
    rustix::process::kill_process(rustix::process::Pid::from_child(&run), rustix::process::Signal::INT).unwrap();
    common::end_of(run, PATIENCE).bad(130, &["interrupted"]);
    common::wait_for("the end of the compile step", PATIENCE, || {
        rustix::process::test_kill_process(shell).is_err().then_some(())
    });
    place.write("stack/thing/Makefile", GOOD_MAKEFILE);
    place.xtask(&["package"]).good();
}

#[test]
fn a_second_run_on_the_same_build_folder_waits_and_says_for_whom() {
    let place = compiled("");
    let (first, _) = endless(&place);
    place.write("stack/thing/Makefile", GOOD_MAKEFILE);
    place.xtask(&["package", "--no-wait"]).bad(1, &[&format!("process {}", first.id())]);
    let mut second = place.command(&["package"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(second.stderr.take().unwrap()), &mut said).unwrap();
    assert!(said.contains(&format!("waiting for process {}", first.id())), "{said}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&first), rustix::process::Signal::INT).unwrap();
    common::end_of(first, PATIENCE);
    common::end_of(second, PATIENCE).good();
}

#[test]
fn a_compile_step_that_tries_the_network_fails_and_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = compiled(&format!("all:\n\t@bash -c 'echo hello > /dev/tcp/127.0.0.1/{port}'\n"));
    let sandboxed = std::process::Command::new(env!("CARGO_BIN_EXE_xtask")).args(["without-network", "true"]).status();
    if !sandboxed.unwrap().success() {
        assert!(std::env::var_os("CI").is_none(), "CI can have network namespaces");
        eprintln!("passed over: no network namespace can be had here");
        return;
    }
    place.xtask(&["package"]).bad(7, &["step compile", "tried to use the network", "Connection refused"]);
    assert!(listener.accept().is_err(), "the compile step got through");
}
