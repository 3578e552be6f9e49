//! A change runs exactly the steps that it must, and what is to be done is told with its reason.

use crate::common::{self, Outcome, Place};
use crate::stepped::{Stepped, THREE};
use std::fs;

#[test]
fn every_change_runs_exactly_the_steps_that_it_must() {
    let stepped = Stepped::new();
    let thing = || fs::read_to_string(stepped.place.tree().join("bin/three")).unwrap();
    assert_eq!(stepped.runs(), ["one", "two", "three"]);
    assert_eq!(thing(), THREE);
    assert_eq!(stepped.runs(), [""; 0]);
    // What a step takes of the machine and what the component is changes nothing.
    stepped.recipe(|text| text.replace("\"x\"", "\"y\"").replace("name = \"two\"", "name = \"two\"\nmemory-mb = 7\ncores = 2"));
    assert_eq!(stepped.runs(), [""; 0]);
    stepped.recipe(|text| text.replace("a word", "another"));
    assert_eq!(stepped.runs(), ["two", "three"]);
    assert_eq!(thing(), "the source\nanother\nthree\n");
    stepped.recipe(|text| text.replace("a word", "another").replace("\"out/three\"]", "\"out/three\", \"out/one\"]"));
    assert_eq!(stepped.runs(), ["three"]);
    // The last result but one is still there.
    stepped.recipe(|text| text.replace("a word", "another"));
    assert_eq!(stepped.runs(), [""; 0]);
    stepped.recipe(|text| text.replace("a word", "another").replace("bin/three", "bin/drei"));
    assert_eq!(stepped.runs(), [""; 0]);
    assert_eq!(fs::read_to_string(stepped.place.tree().join("bin/drei")).unwrap(), "the source\nanother\nthree\n");
    stepped.place.write("stack/other/file", "a changed neighbour\n");
    assert_eq!(stepped.runs(), [""; 0]);
    assert_eq!(fs::read_to_string(stepped.place.tree().join("share/other")).unwrap(), "a changed neighbour\n");
    stepped.place.write("stack/thing/one.in", "another source\n");
    assert_eq!(stepped.runs(), ["one", "two", "three"]);
}

#[test]
fn the_plan_says_what_is_cached_and_explain_what_differs_in_which_step() {
    let stepped = Stepped::new();
    stepped.package(&[]).good();
    let text = stepped.place.xtask(&["explain", "thing"]).good();
    assert!(text.contains("thing is built") && text.contains("step two: as it was"), "{text}");
    stepped.recipe(|text| text.replace("a word", "another").replace("\"out/three\"]", "\"out/three\", \"out/one\"]"));
    let text = stepped.place.xtask(&["explain", "thing"]).good();
    for part in [
        "step one: as it was",
        "step two: recipe changed",
        "step three: recipe changed",
        "collect: as it was, but comes after step two",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.contains("\nunpack: as it was\n"), "{text}");
    let text = stepped.place.xtask(&["plan"]).good();
    for part in [
        "to be built: step two: recipe changed, step three: recipe changed",
        "unpack: to do: for what comes after it",
        "one (cc",
        "cached, laid out from the store",
        "collect: to do: comes after step two",
        "other 1, x\n│  ready",
        "stage ",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let plan: serde_json::Value = serde_json::from_str(&stepped.place.xtask(&["plan", "--json"]).good()).unwrap();
    let nodes = plan["nodes"].as_array().unwrap();
    let states: Vec<_> = nodes
        .iter()
        .filter(|node| node["component"] == "thing")
        .map(|node| (node["name"].as_str().unwrap(), node["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("unpack", "run"), ("one", "reuse"), ("two", "run"), ("three", "run"), ("collect", "run")]);
    let graph = stepped.place.xtask(&["plan", "--dot"]).good();
    assert!(graph.contains("digraph plan") && graph.contains(r"thing\ntwo"), "{graph}");
}

/// Cargo reads its user's configuration wherever it compiles.
#[test]
fn what_cargo_was_told_about_compiling_is_part_of_the_key_and_where_crates_come_from_is_not() {
    let place = Place::new();
    let explain = |config: &str| {
        place.write("cargo/config.toml", config);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["explain", "launcher", "--stack"]).arg(common::workspace().join("examples/ministack"));
        command.arg("--build-dir").arg(place.path("build")).env("CARGO_HOME", place.path("cargo"));
        Outcome::of(&command.output().unwrap()).good()
    };
    let plain = explain("[source.crates-io]\nreplace-with = \"x\"\n[source.x]\nregistry = \"sparse+https://127.0.0.1:1/\"\n");
    assert!(!plain.contains("config.toml"), "{plain}");
    let told = explain("[build]\nrustflags = [\"-Ctarget-cpu=native\"]\n[term]\nquiet = true\n");
    assert!(told.contains("cargo's config.toml"), "{told}");
    assert_ne!(told, explain("[profile.release]\nopt-level = 3\n"));
}
