//! The provenance: what it names, what it must not, and that it is of the published form.

use super::common::{GOOD_MAKEFILE, compiled, ministack_place, sha256};
use super::{DIST, Outcome, VERSION, name, read, workspace};
use serde_json::{Value, json};
use std::fs;

#[test]
fn the_provenance_names_archives_inputs_and_commands_and_nothing_of_the_machine() {
    let path = DIST.join(name() + ".provenance.json");
    let statement = read(&path);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let archive = format!("{}.tar.gz", name());
    let hash = sha256(&fs::read(DIST.join(&archive)).unwrap());
    assert_eq!(statement["subject"], json!([{ "name": archive, "digest": { "sha256": hash } }]));
    let definition = &statement["predicate"]["buildDefinition"];
    let inputs = definition["resolvedDependencies"].as_array().unwrap();
    let digest = |name: &str| inputs.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}: {inputs:#?}"));
    let stack = workspace().join("examples/ministack");
    for name in ["vendor.lock", "recipes/grafana.toml", "patches/go-carbon/01-tcp-read-timeout.patch"] {
        assert_eq!(digest(name)["digest"]["sha256"], sha256(&fs::read(stack.join(name)).unwrap()), "{name}");
    }
    digest("toolchain go 1.26.8");
    let text = fs::read_to_string(&path).unwrap();
    let home = std::env::home_dir().unwrap();
    for mark in [ministack_place(""), workspace(), home.join(".cargo")] {
        let mark = mark.to_str().unwrap();
        assert!(!text.contains(mark), "it names {mark}");
    }
}

/// What is unlike in-toto's statement v1 with SLSA's provenance v1: fields that are missing, unknown or of another kind.
fn misshapen(statement: &Value) -> Vec<String> {
    fn fields(at: &str, value: &Value, needed: &[&str], others: &[&str], wrong: &mut Vec<String>) {
        let Some(object) = value.as_object() else { return wrong.push(format!("{at} is no object")) };
        wrong.extend(needed.iter().filter(|name| !object.contains_key(**name)).map(|name| format!("{at} lacks {name}")));
        let unknown = object.keys().filter(|name| !needed.iter().chain(others).any(|known| known == name));
        wrong.extend(unknown.map(|name| format!("{at} has {name}")));
    }
    fn is_uri(value: &Value) -> bool {
        value.as_str().and_then(|text| text.split_once(':')).is_some_and(|(scheme, rest)| {
            scheme.starts_with(|c: char| c.is_ascii_lowercase()) && !rest.is_empty() && !rest.contains(' ')
        })
    }
    fn is_digest(digest: &Value) -> bool {
        let hex = |value: &Value| {
            value.as_str().is_some_and(|text| text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        digest.as_object().is_some_and(|all| !all.is_empty() && all.values().all(hex))
    }
    /// A descriptor says what it is about by at least one of three.
    fn descriptors(at: &str, value: &Value, wrong: &mut Vec<String>) {
        let Some(all) = value.as_array() else { return wrong.push(format!("{at} is no list")) };
        for (number, one) in all.iter().enumerate() {
            let at = format!("{at}[{number}]");
            let known = ["name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"];
            fields(&at, one, &[], &known, wrong);
            if ["uri", "digest", "content"].iter().all(|name| one.get(name).is_none()) {
                wrong.push(format!("{at} is about nothing"));
            }
            if one.get("digest").is_some_and(|digest| !is_digest(digest)) || one.get("uri").is_some_and(|uri| !is_uri(uri)) {
                wrong.push(format!("{at} has a digest or an address that is none"));
            }
        }
    }
    let mut wrong = Vec::new();
    fields("the statement", statement, &["_type", "subject", "predicateType", "predicate"], &[], &mut wrong);
    descriptors("subject", &statement["subject"], &mut wrong);
    let subjects = statement["subject"].as_array().cloned().unwrap_or_default();
    if subjects.is_empty() || subjects.iter().any(|one| !is_digest(&one["digest"])) {
        wrong.push("a subject without a digest".to_owned());
    }
    let (predicate, how) = (&statement["predicate"], &statement["predicate"]["buildDefinition"]);
    let who = &predicate["runDetails"];
    fields("the predicate", predicate, &["buildDefinition", "runDetails"], &[], &mut wrong);
    let others = ["internalParameters", "resolvedDependencies"];
    fields("buildDefinition", how, &["buildType", "externalParameters"], &others, &mut wrong);
    fields("runDetails", who, &["builder"], &["metadata", "byproducts"], &mut wrong);
    fields("builder", &who["builder"], &["id"], &["builderDependencies", "version"], &mut wrong);
    if !is_uri(&how["buildType"]) || !is_uri(&who["builder"]["id"]) || !how["externalParameters"].is_object() {
        wrong.push("a type or a builder that is no address, or no parameters".to_owned());
    }
    descriptors("resolvedDependencies", &how["resolvedDependencies"], &mut wrong);
    descriptors("byproducts", &who["byproducts"], &mut wrong);
    wrong
}

#[test]
fn the_provenance_has_the_commands_that_have_run_even_if_that_was_long_ago() {
    let place = compiled(GOOD_MAKEFILE);
    let mut command = place.command(&["package"]);
    for name in
        ["GOPROXY", "NPM_CONFIG_REGISTRY", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY", "DKUMONITOR_SIGN_PASSWORD", "LC_NAME"]
    {
        command.env(name, "http://somebody:hush-hush@127.0.0.1:9/");
    }
    Outcome::of(&command.output().unwrap()).good();
    let path = place.path("dist").join(format!("dkumonitor-stack-{VERSION}.provenance.json"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hush-hush"), "a secret is told: {text}");
    let statement = read(&path);
    assert_eq!(misshapen(&statement), Vec::<String>::new());
    for broken in ["/subject/0/digest", "/predicate/buildDefinition/buildType", "/predicate/runDetails/builder/id"] {
        let mut other = statement.clone();
        *other.pointer_mut(broken).unwrap() = json!({});
        assert!(!misshapen(&other).is_empty(), "nobody misses {broken}");
    }
    let commands =
        |statement: &Value| statement["predicate"]["buildDefinition"]["internalParameters"]["commands"]["thing"].clone();
    let first = commands(&read(&path));
    let said: Vec<String> =
        first.as_array().unwrap().iter().map(|one| format!("{} {} {}", one["step"], one["dir"], one["words"][0])).collect();
    assert!(said.iter().any(|one| one == r#""compile" "{build}/wip/thing/src/." "make""#), "{said:#?}");
    // One that is gone is written again, for the same archive, in the same words.
    let (before, archive) = (read(&path), fs::read(place.archive()).unwrap());
    fs::remove_file(&path).unwrap();
    let text = place.xtask(&["package"]).good();
    assert!(text.contains("gz unchanged") && fs::read(place.archive()).unwrap() == archive, "{text}");
    assert_eq!(read(&path), before);
    // What is staged in another way is made by the same commands.
    let recipe = fs::read_to_string(place.path("stack/recipes/thing.toml")).unwrap();
    place.write("stack/recipes/thing.toml", recipe.replace("bin/thing", "bin/other"));
    let text = place.xtask(&["package"]).good();
    assert!(text.contains("compile from the store"), "{text}");
    assert_eq!(commands(&read(&path)), first);
}
