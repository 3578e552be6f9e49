//! Building twice with real builds: what is the same passes, and what is not is named with its reason.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{GOOD_MAKEFILE, Outcome, compiled, ministack_place as build_place, workspace};
use std::process::Command;

/// A make file that does what the recipe wants, with a program of this content.
fn making(content: &str) -> String {
    GOOD_MAKEFILE.replace("echo made > thing", &format!("echo {content} > thing"))
}

fn repro(makefile: &str) -> Outcome {
    let place = compiled(makefile);
    let (dist, second) = (place.path("dist"), place.path("second"));
    std::fs::create_dir(&second).unwrap();
    let outcome = place.xtask(&["repro", "--dist-dir", dist.to_str().unwrap(), "--place", second.to_str().unwrap()]);
    assert_eq!(second.read_dir().unwrap().count(), 0, "the second build was left behind");
    outcome
}

#[test]
fn what_comes_out_the_same_is_said_to_be_the_same() {
    let text = repro(&making("made")).good();
    assert!(text.contains("both builds are the same") && text.contains("✓ thing: the same"), "{text}");
}

#[test]
fn a_step_that_writes_the_time_is_named_with_the_time() {
    let text = repro(&making("made at $$(date +%s%N)"))
        .bad(12, &["the two builds differ", "/bin/thing: content", "line 1: \"made at "]);
    assert!(text.contains("these are times: 2") && text.contains("✗ thing: 1 of "), "{text}");
}

#[test]
fn a_step_that_writes_where_and_by_whom_it_was_built_is_named() {
    let text = repro(&making("in $$PWD")).bad(12, &["/bin/thing: content"]);
    assert!(text.contains("the first names ") && text.contains("the second names "), "{text}");
    let text = repro(&making("user $$(id -u) on $$(uname -n) with $(MAKEFLAGS)")).bad(12, &["/bin/thing: content"]);
    assert!(cfg!(not(target_os = "linux")) || text.contains("another-machine"), "{text}");
}

/// The first build is the one of the other tests; the second one is all that this costs.
#[test]
fn the_miniature_stack_comes_out_the_same_byte_by_byte() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("repro").arg("--stack").arg(workspace().join("examples/ministack"));
    command.arg("--build-dir").arg(build_place("build")).arg("--dist-dir").arg(build_place("dist"));
    let text = Outcome::of(&command.output().unwrap()).good();
    for name in ["carbonapi", "collectd", "go-carbon", "grafana", "launcher"] {
        assert!(text.contains(&format!("✓ {name}: the same")), "{text}");
    }
    assert!(text.contains("every byte of the archive"), "{text}");
}
