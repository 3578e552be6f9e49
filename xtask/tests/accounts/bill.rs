//! The bill of materials: that it lists what the bundle holds, is valid by the official schema, and has a text for each package.

use super::{DIST, Outcome, VERSION, common, name, purls, read, tree, workspace};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Command;

#[test]
fn the_bill_lists_what_the_programs_pages_and_locks_say() {
    let bill = read(&tree().join("sbom.cdx.json"));
    let found = purls(&bill);
    // What Go itself reads from the programs.
    for program in ["go-carbon", "carbonapi", "grafana"] {
        let said = Command::new("go").args(["version", "-m"]).arg(tree().join("bin").join(program)).output().unwrap();
        let said = Outcome::of(&said).good();
        for words in said.lines().filter_map(|line| line.trim().strip_prefix("dep\t")) {
            let words: Vec<&str> = words.split('\t').collect();
            let purl = format!("pkg:golang/{}@{}", words[0], words[1].replace('+', "%2B"));
            assert!(found.contains(&purl), "{purl} of {program} is not in {found:#?}");
        }
    }
    assert!(found.contains("pkg:golang/github.com/BurntSushi/toml@v1.6.0"), "{found:#?}");
    assert!(found.contains("pkg:golang/stdlib@1.26.8"), "{found:#?}");
    assert!(found.contains("pkg:npm/uplot@1.6.32"), "{found:#?}");
    assert!(!found.iter().any(|purl| purl.contains("esbuild")), "a tool is listed: {found:#?}");
    // Of the launcher's crates all are in the lock, and some of the lock, the builder's own, are not the launcher's.
    let lock: toml::Value = toml::from_str(&fs::read_to_string(workspace().join("Cargo.lock")).unwrap()).unwrap();
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().replace('+', "%2B");
    let locked: BTreeSet<String> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version")))
        .collect();
    let crates: BTreeSet<String> = found.iter().filter(|purl| purl.starts_with("pkg:cargo/")).cloned().collect();
    assert!(crates.is_subset(&locked) && crates.len() > 10 && crates.len() < locked.len(), "{crates:#?}");
    assert!(crates.iter().any(|purl| purl.contains("/serde@")) && !crates.iter().any(|purl| purl.contains("/reqwest@")));
    // Who supplies it, as whoever takes bills of materials in has to know.
    assert_eq!(bill["metadata"]["supplier"]["name"], "The dkumonitor project");
    assert_eq!(bill["metadata"]["component"]["purl"], format!("pkg:generic/dkumonitor-ministack@{VERSION}"));
    // Components with their patches and hashes, and what the machine has to have.
    let named = |name: &str| bill["components"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    let patch = fs::read_to_string(workspace().join("examples/ministack/patches/go-carbon/01-tcp-read-timeout.patch")).unwrap();
    assert_eq!(named("go-carbon")["pedigree"]["patches"][0]["diff"]["text"]["content"], patch);
    assert_eq!(named("uplot")["hashes"][0]["alg"], "SHA-512");
    assert_eq!(named("serde")["hashes"][0]["content"].as_str().unwrap().len(), 64);
    if cfg!(target_os = "linux") {
        let needed_by = named("libc.so.6")["properties"].as_array().unwrap().clone();
        assert!(needed_by.iter().any(|one| one["value"] == "bin/collectd"), "{needed_by:#?}");
    }
    assert!(fs::read(tree().join("sbom.cdx.json")).unwrap() == fs::read(DIST.join(name() + ".sbom.cdx.json")).unwrap());
}

/// Says, past the test harness, that something is not tested here.
fn pass_over(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "── {what}: passed over, {why}");
}

/// Checks bills by CycloneDX's own library, against the official schema that it brings along; none where Python has no
/// environments. Gives what is wrong with each, nothing where it is right.
fn validated(bills: &[&Value]) -> Option<Vec<String>> {
    let python = common::python("sbom-requirements.txt")?;
    let script = "import json, sys\nfrom cyclonedx.schema import SchemaVersion\nfrom cyclonedx.validation.json import JsonStrictValidator\n\
                  for bill in json.load(sys.stdin):\n    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))\n    \
                  print(json.dumps(str(error.data)[:300] if error else ''))\n";
    let mut child = Command::new(python)
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(bills).unwrap()).unwrap();
    let said = Outcome::of(&child.wait_with_output().unwrap()).good();
    Some(said.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn the_bill_is_valid_by_the_official_schema_and_a_broken_one_is_not() {
    let bill = read(&tree().join("sbom.cdx.json"));
    let mut other_type = bill.clone();
    other_type["components"][0]["type"] = json!("thing");
    let mut other_key = bill.clone();
    other_key["metadata"]["colour"] = json!("blue");
    let mut other_serial = bill.clone();
    other_serial["serialNumber"] = json!("urn:uuid:1");
    match validated(&[&bill, &other_type, &other_key, &other_serial]) {
        None => pass_over("CycloneDX's schema", "python3 cannot make an environment (apt install python3-venv)"),
        Some(wrong) => {
            assert_eq!(wrong[0], "");
            assert!(wrong[1..].iter().all(|why| !why.is_empty()), "{wrong:?}");
        }
    }
}

#[test]
fn every_package_of_the_bill_has_its_texts_in_the_bundle_once() {
    let bill = read(&tree().join("sbom.cdx.json"));
    let index = read(&tree().join("licenses/index.json"));
    let third_party = fs::read_to_string(tree().join("licenses/THIRD-PARTY.txt")).unwrap();
    let listed = fs::read_to_string(tree().join("licenses/index.txt")).unwrap();
    let packages = index["packages"].as_array().unwrap();
    let indexed: BTreeSet<String> = packages.iter().map(|one| one["purl"].as_str().unwrap().to_owned()).collect();
    assert_eq!(indexed, purls(&bill), "the bill and the index differ");
    for package in packages {
        let texts = package["texts"].as_array().unwrap();
        assert!(!texts.is_empty(), "{package} has no text");
        for text in texts {
            match text["number"].as_u64() {
                Some(number) => assert!(third_party.contains(&format!("\n[{number}] ")), "{text}"),
                None => assert!(tree().join(text["file"].as_str().unwrap()).is_file(), "{text}"),
            }
        }
    }
    assert!(listed.contains("golang github.com/BurntSushi/toml v1.6.0 — MIT") && listed.contains("npm uplot 1.6.32 — MIT"));
    assert!(third_party.contains("Copyright (c) 2013 TOML authors"));
    // Several crates have Apache's text, word for word; it stands there as often as it differs.
    let apache = |text: &str| text.matches("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION").count();
    let with_it = packages.iter().filter(|one| one["license"].as_str().unwrap().contains("Apache-2.0")).count();
    assert!(apache(&third_party) * 2 < with_it, "{} texts for {with_it} packages", apache(&third_party));
    assert!(tree().join("licenses/go-carbon/LICENSE").is_file());
    assert!(!tree().join(".account").exists());
}
