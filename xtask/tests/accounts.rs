//! A bundle is accounted for: its bill of materials, licences, provenance and vulnerabilities, on the miniature stack and on
//! stacks made on the spot. Each check sees the fault that it is there for.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;
#[path = "accounts/yarn.rs"]
mod yarn;

use common::{GOOD_MAKEFILE, Outcome, Place, compiled, ministack_place, sha256, tar_gz, workspace};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One build at a time: what is built is shared.
static BUILDING: Mutex<()> = Mutex::new(());

fn ministack(stack: &Path, dist: &Path, args: &[&str]) -> Outcome {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("package").arg("--stack").arg(stack).arg("--build-dir").arg(ministack_place("build"));
    command.arg("--dist-dir").arg(dist).args(args);
    Outcome::of(&command.output().unwrap())
}

/// The folder of the miniature stack's bundle and archive.
static DIST: LazyLock<PathBuf> = LazyLock::new(|| {
    let dist = ministack_place("accounted dist");
    ministack(&workspace().join("examples/ministack"), &dist, &[]).good();
    dist
});

fn name() -> String {
    format!("dkumonitor-ministack-{VERSION}")
}

fn tree() -> PathBuf {
    DIST.join(name())
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn purls(bill: &Value) -> BTreeSet<String> {
    bill["components"].as_array().unwrap().iter().filter_map(|one| Some(one["purl"].as_str()?.to_owned())).collect()
}

/// A copy of the miniature stack, of the same name, in which something can be changed.
fn copy_of_ministack(folder: &Path) -> PathBuf {
    let stack = folder.join("ministack");
    let copied = Command::new("cp").arg("-R").arg(workspace().join("examples/ministack")).arg(&stack).status().unwrap();
    assert!(copied.success());
    stack
}

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

#[test]
fn a_licence_that_is_not_allowed_stops_the_build_and_names_what_is_under_it() {
    let folder = tempfile::tempdir().unwrap();
    let stack = copy_of_ministack(folder.path());
    let policy = fs::read_to_string(workspace().join("licences.toml")).unwrap();
    fs::write(stack.join("licences.toml"), policy.replace("    \"MIT\",\n", "")).unwrap();
    let dist = folder.path().join("dist");
    let said = ministack(&stack, &dist, &["--skip-archive"]).bad(
        11,
        &[
            "pkg:npm/uplot@1.6.32 (grafana): it is under MIT, which may not be shipped",
            "pkg:golang/github.com/BurntSushi/toml@v1.6.0",
        ],
    );
    assert!(!said.contains("pkg:golang/stdlib"), "{said}");
    assert!(!dist.join(name()).exists(), "a tree was made");
    // Somebody has looked at one of them, at other texts than these.
    let entry = "[[package]]\npurl = \"pkg:npm/uplot\"\nlicense = \"ISC\"\ntexts = [\"ab\"]\nreason = \"x\"\n";
    fs::write(stack.join("licences.toml"), policy.clone() + entry).unwrap();
    let said = ministack(&stack, &dist, &["--skip-archive"]).bad(11, &["pkg:npm/uplot@1.6.32", "texts changed"]);
    let texts = &said[said.find("texts = {").unwrap() + 9..];
    let right = entry.replace("\"ab\"", &texts[..texts.find('}').unwrap()]);
    fs::write(stack.join("licences.toml"), policy + &right).unwrap();
    ministack(&stack, &dist, &["--skip-archive"]).good();
    let listed = fs::read_to_string(dist.join(name()).join("licenses/index.txt")).unwrap();
    assert!(listed.contains("npm uplot 1.6.32 — ISC"), "{listed}");
}

#[test]
fn licence_files_that_changed_and_licences_of_components_that_are_not_allowed_stop_the_build() {
    let place = compiled(GOOD_MAKEFILE);
    let lock = |more: &str| {
        place.write(
            "stack/vendor.lock",
            format!("[[source]]\nname = \"thing\"\nversion = \"1\"\npath = \"thing\"\nlicense-files = [\"LICENSE\"]\n{more}"),
        )
    };
    place.write("stack/thing/LICENSE", "Do what you like.\n");
    lock(&format!("license = \"MIT\"\nlicense-sha256 = \"{}\"\n", "0".repeat(64)));
    let said = place.xtask(&["package"]).bad(11, &["thing: its licence files (LICENSE) are not those that vendor.lock knows"]);
    let at = said.find("license-sha256 = \"").unwrap();
    let right = &said[at..at + 18 + 65];
    lock(&format!("license = \"MIT\"\n{right}\n"));
    place.xtask(&["package"]).good();
    place.write("stack/thing/LICENSE", "Do what we like.\n");
    place.xtask(&["package"]).bad(11, &["LICENSE", "license-sha256"]);
    lock("license = \"BUSL-1.1\"\n");
    place.xtask(&["package"]).bad(11, &["thing is under BUSL-1.1, which may not be shipped"]);
}

#[test]
fn bumping_pins_the_licence_files_that_it_has_shown() {
    let place = Place::new();
    let archive = tar_gz(&[("thing-2/LICENSE", "new words\n"), ("thing-2/hello.txt", "hi")]);
    let mirror = place.path("mirror");
    fs::create_dir(&mirror).unwrap();
    fs::write(mirror.join("thing-2.tar.gz"), &archive).unwrap();
    let url = |version: &str| format!("file://{}/thing-{version}.tar.gz", mirror.display()).replace(' ', "%20");
    place.write(
        "stack/vendor.lock",
        format!(
            "[[source]]\nname = \"thing\"\nversion = \"1\"\nurls = [\"{}\"]\nsha256 = \"{}\"\nlicense = \"MIT\"\nlicense-files = [\"LICENSE\"]\n",
            url("1"),
            "a".repeat(64)
        ),
    );
    place.write(
        "stack/recipes/thing.toml",
        "summary = \"a file\"\n[[install]]\nfrom = \"src/hello.txt\"\nto = \"share/hello.txt\"\n",
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["lock", "bump", "thing", "2", "--offline", "--mirror"]).arg(&mirror);
    command.arg("--stack").arg(place.path("stack")).arg("--build-dir").arg(place.path("build"));
    Outcome::of(&command.output().unwrap()).good();
    let lock = fs::read_to_string(place.path("stack/vendor.lock")).unwrap();
    let known = sha256(format!("{}  LICENSE\n", sha256(b"new words\n")).as_bytes());
    assert!(lock.contains(&format!("license-sha256 = \"{known}\"")), "{lock}");
    place.xtask(&["package", "--offline"]).good();
}

/// An advisory on a Go module that every version before `fixed` has.
fn advisory(id: &str, module: &str, fixed: &str, severity: &str) -> Value {
    json!({
        "id": id, "aliases": [format!("CVE-of-{id}")], "summary": "it goes wrong", "database_specific": { "severity": severity },
        "affected": [{ "package": { "ecosystem": "Go", "name": module },
            "ranges": [{ "type": "SEMVER", "events": [{ "introduced": "0" }, { "fixed": fixed }] }] }],
    })
}

fn audit(stack: &Path, database: &Path, more: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("audit").arg("--stack").arg(stack).arg("--dist-dir").arg(&*DIST).arg("--db").arg(database).args(more);
    Outcome::of(&command.output().unwrap())
}

#[test]
fn a_vulnerability_in_range_fails_the_audit_unless_it_is_excused_and_the_excuse_still_counts() {
    LazyLock::force(&DIST);
    let folder = tempfile::tempdir().unwrap();
    let stack = copy_of_ministack(folder.path());
    let database = folder.path().join("osv");
    fs::create_dir(&database).unwrap();
    let module = "github.com/BurntSushi/toml";
    let plant = |id: &str, fixed: &str, severity: &str| {
        fs::write(database.join(format!("{id}.json")), advisory(id, module, fixed, severity).to_string()).unwrap();
    };
    plant("GHSA-past", "1.6.0", "CRITICAL");
    plant("GHSA-low", "1.7.0", "LOW");
    let text = audit(&stack, &database, &[]).good();
    assert!(text.contains("GHSA-low") && !text.contains("GHSA-past"), "{text}");
    audit(&stack, &database, &["--fail-on", "low"]).bad(11, &["1 vulnerabilities are low or worse"]);
    plant("GHSA-now", "1.7.0", "HIGH");
    let text =
        audit(&stack, &database, &[]).bad(11, &["GHSA-now", "in go-carbon: it goes wrong", "fixed in 1.7.0", "audit.toml"]);
    assert!(text.contains("pkg:golang/github.com/BurntSushi/toml@v1.6.0"), "{text}");
    let excuse = |id: &str, until: &str| {
        let text = format!("[[exception]]\nid = \"{id}\"\nreason = \"files are ours\"\nuntil = \"{until}\"\n");
        fs::write(stack.join("audit.toml"), text).unwrap();
    };
    excuse("CVE-of-GHSA-now", "2999-12-31");
    let text = audit(&stack, &database, &[]).good();
    assert!(text.contains("excused until 2999-12-31: files are ours"), "{text}");
    excuse("GHSA-now", "2020-01-01");
    audit(&stack, &database, &[]).bad(11, &["was excused until 2020-01-01", "1 exceptions have expired"]);
    excuse("GHSA-other", "2999-12-31");
    let said = audit(&stack, &database, &["--json"]);
    assert_eq!(said.status, 11);
    let json: Value = serde_json::from_str(&said.text[..said.text.rfind("}\n").unwrap() + 1]).unwrap();
    assert_eq!(json["unused-exceptions"], json!(["GHSA-other"]));
    assert_eq!((&json["findings"][0]["fails"], &json["findings"][1]["fails"]), (&json!(true), &json!(false)));
    fs::write(database.join("broken.json"), "{\"id\": ").unwrap();
    audit(&stack, &database, &[]).bad(2, &["broken.json"]);
    audit(&stack, &folder.path().join("nowhere"), &[]).bad(2, &["--db"]);
}

#[test]
fn the_archive_of_sources_holds_the_repository_and_a_mirror_from_which_the_bundle_is_built() {
    let place = compiled(GOOD_MAKEFILE);
    let key = place.path("key");
    common::new_key(&key, None);
    let said = place.xtask(&["package", "--sources", "--sign", key.to_str().unwrap()]).good();
    assert!(said.contains("-sources.tar.gz"), "{said}");
    let built = fs::read(place.archive()).unwrap();
    let archive = place.path("dist").join(format!("dkumonitor-stack-{VERSION}-sources.tar.gz"));
    let public = place.path("key.pub");
    let verified = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("verify").arg(&archive).arg("--key").arg(public).output();
    Outcome::of(&verified.unwrap()).good();
    let unpacked = place.path("un packed");
    fs::create_dir(&unpacked).unwrap();
    assert!(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked).status().unwrap().success());
    let root = unpacked.join(format!("dkumonitor-stack-{VERSION}-sources"));
    for file in ["Cargo.lock", "licences.toml", "xtask/src/main.rs", "runtime/src/lib.rs", "recipes/grafana.toml"] {
        assert!(fs::read(root.join(file)).unwrap() == fs::read(workspace().join(file)).unwrap(), "{file}");
    }
    assert!(!root.join("target").exists());
    let readme = fs::read_to_string(root.join("SOURCES.md")).unwrap();
    assert!(readme.contains("--stack stack/stack --mirror mirror --offline"), "{readme}");
    assert_eq!(read(&root.join("mirror/mirror.json"))["complete"], true);
    // Built again from what was unpacked.
    let epoch = readme.split("SOURCE_DATE_EPOCH=").nth(1).unwrap().lines().next().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["package", "--offline", "--mirror"]).arg(root.join("mirror")).arg("--stack").arg(root.join("stack/stack"));
    command.arg("--build-dir").arg(place.path("other build")).arg("--dist-dir").arg(place.path("other dist"));
    command.arg("--sign").arg(&key);
    Outcome::of(&command.env("SOURCE_DATE_EPOCH", epoch).output().unwrap()).good();
    let again = place.path("other dist").join(place.archive().file_name().unwrap());
    assert!(fs::read(again).unwrap() == built, "another archive");
}

#[test]
fn a_stack_that_git_does_not_track_goes_along_with_the_sources() {
    // Below the target folder, which as a rule lies in the repository and is ignored by git.
    let place = Place::lasting("untracked");
    place.write("stack/vendor.lock", "[[source]]\nname = \"thing\"\nversion = \"1\"\npath = \"thing\"\nlicense = \"MIT\"\n");
    place.write("stack/recipes/thing.toml", "summary = \"x\"\n[[install]]\nfrom = \"src/file\"\nto = \"share/file\"\n");
    place.write("stack/thing/file", "x");
    place.xtask(&["package", "--sources", "--skip-gate"]).good();
    let archive = place.path("dist").join(format!("dkumonitor-stack-{VERSION}-sources.tar.gz"));
    let listed = Command::new("tar").arg("tzf").arg(archive).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let wanted = format!("dkumonitor-stack-{VERSION}-sources/stack/stack/thing/file");
    assert!(listed.lines().any(|line| line == wanted), "{wanted} is not in it");
}
