//! How much memory the builder takes, as its own benchmark measures it.
#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use common::repacked::Unpacked;
use common::{Outcome, Place, noise, sha256, tar_gz};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// What xtask promises not to exceed, whatever the stack, in bytes.
const MOST: u64 = 64 * 1024 * 1024;

/// The most memory that a command held, as `bench` tells it.
fn peak(words: &[&str]) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "--"]).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

#[test]
fn a_peak_is_that_of_the_command_and_not_of_who_asks() {
    let held = vec![1_u8; 200 * 1024 * 1024];
    assert!(peak(&["true"]) < MOST);
    assert!(peak(&["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1", "status=none"]) > 100 * 1024 * 1024);
    assert!(held.iter().all(|byte| *byte == 1));
    let failed = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "--", "false"]).output().unwrap();
    assert!(!failed.status.success());
}

/// Bytes that become somewhat smaller, as programs do.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 26) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn writing_an_archive_takes_no_more_than_promised() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for at in 0..6_u32 {
        fs::write(tree.join(format!("program{at}")), bytes(2 * 1024 * 1024, at)).unwrap();
    }
    for form in ["gz", "xz"] {
        let target = folder.path().join(format!("archive.{form}"));
        let paths = [tree.as_path(), target.as_path()].map(Path::to_str).map(Option::unwrap);
        let xtask = env!("CARGO_BIN_EXE_xtask");
        let held = peak(&[xtask, "bench", "--tree", paths[0], "--only-archive", paths[1], "--only-form", form]);
        assert!(held < MOST, "{form}: {held} bytes");
        assert!(target.metadata().unwrap().len() > 1024 * 1024);
    }
}

/// How many packages the made-up stack has: several times as many as Grafana.
const NPM: usize = 6000;
const GO: usize = 3000;

/// A package as an account has it, with the text that it brings, which no other does.
fn package(at: usize) -> (Value, String) {
    let clause = "The above copyright notice and this permission notice shall be included in all copies. ".repeat(12);
    let text = format!("Copyright (c) {} somebody of number {at}\n\n{clause}\n", 1990 + at % 35);
    let (ecosystem, name, evidence) = match at < GO {
        true => ("golang", format!("example.org/modules/number-{at:05}"), "build-information"),
        false => ("npm", format!("@scope/package-number-{at:05}"), "lock-file"),
    };
    let package = json!({
        "ecosystem": ecosystem,
        "name": name,
        "version": format!("v1.{at}.0"),
        "sum": format!("h1:{}=", sha256(name.as_bytes())),
        "declared": "MIT",
        "texts": [{ "name": "LICENSE", "sha256": sha256(text.as_bytes()) }],
        "evidence": evidence,
        "within": ["lib/programs", "share/static/build"],
    });
    (package, text)
}

/// Adds an account of [`NPM`] and [`GO`] packages to the result of the component `thing`, as if that had been made of them.
fn account_for_many(place: &Place) {
    let store = place.path("build/store");
    let mut list = Vec::new();
    let mut add = |path: &str, content: &[u8]| {
        let hash = sha256(content);
        let object = store.join("objects").join(&hash[..2]).join(&hash);
        fs::create_dir_all(object.parent().unwrap()).unwrap();
        fs::write(object, content).unwrap();
        list.extend_from_slice(format!("f 644 {} {hash} .account/{}\0", content.len(), path.replace('#', &hash)).as_bytes());
        hash
    };
    let (mut packages, mut seen) = (Vec::new(), serde_json::Map::new());
    for at in 0..NPM + GO {
        let (package, text) = package(at);
        packages.push(serde_json::to_string_pretty(&package).unwrap().replace('\n', "\n    "));
        seen.insert(add("texts/#", text.as_bytes()), json!(["MIT"]));
    }
    let packages = packages.join(",\n    ");
    let rest = format!("\"libraries\": {{}},\n  \"own\": [],\n  \"seen\": {}", Value::from(seen));
    add("account.json", format!("{{\n  \"packages\": [\n    {packages}\n  ],\n  {rest}\n}}\n").as_bytes());
    // The list of the result's files and its record are those that there were, with the account.
    let results = fs::read_dir(store.join("results/thing/collect")).unwrap().map(|entry| entry.unwrap().path());
    let record = results.into_iter().find(|path| path.extension().is_some_and(|end| end == "json")).unwrap();
    let written = fs::read_to_string(&record).unwrap();
    let old: Value = serde_json::from_str(&written).unwrap();
    let old = old["record"]["content"]["list"]["sha256"].as_str().unwrap();
    let object = |hash: &str| store.join("objects").join(&hash[..2]).join(hash);
    let files = fs::read(object(old)).unwrap();
    let without: Vec<u8> =
        files.split_inclusive(|byte| *byte == 0).filter(|line| !is_of_account(line)).flatten().copied().collect();
    list.extend_from_slice(&without);
    let new = sha256(&list);
    fs::create_dir_all(object(&new).parent().unwrap()).unwrap();
    fs::write(object(&new), &list).unwrap();
    let body = written.split_once("\"record\":").unwrap().1.trim_end().strip_suffix('}').unwrap();
    let body = body.replace(
        &format!("\"sha256\":\"{old}\",\"size\":{}", files.len()),
        &format!("\"sha256\":\"{new}\",\"size\":{}", list.len()),
    );
    assert!(body.contains(&new));
    fs::write(&record, format!("{{\"sha256\":\"{}\",\"record\":{body}}}\n", sha256(body.as_bytes()))).unwrap();
    fs::remove_file(record.with_extension("seen")).unwrap();
}

fn is_of_account(line: &[u8]) -> bool {
    line.windows(10).any(|part| part == b" .account/")
}

#[test]
fn packing_a_stack_of_thousands_of_packages_on_many_cores_takes_no_more_than_promised() {
    let place = Place::new();
    let all = noise(16 * 1024 * 1024);
    let names: Vec<String> = (0..8).map(|at| format!("thing/programs/{at}")).collect();
    let files: Vec<_> = names.iter().enumerate().map(|(at, name)| (name.as_str(), &all[at << 21..(at + 1) << 21])).collect();
    let archive = tar_gz(&files);
    let path = place.write("mirror/thing-1.tar.gz", &archive);
    place.one_component(&[format!("file://{}", path.display()).replace(' ', "%20")], &archive);
    let recipe = "summary = \"x\"\n[[install]]\nfrom = \"src/programs\"\nto = \"lib/programs\"\n";
    place.write("stack/recipes/thing.toml", recipe);
    place.xtask(&["package", "--skip-archive"]).good();
    account_for_many(&place);
    for form in ["gz", "xz"] {
        fs::remove_dir_all(place.tree()).unwrap();
        let command = place.command(&["package", "--skip-gate", "--format", form, "--jobs", "64"]);
        let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
        let words: Vec<&str> = words.into_iter().map(|word| word.to_str().unwrap()).collect();
        let held = peak(&words);
        assert!(held < MOST, "{form}: {held} bytes");
        let bill = fs::read_to_string(place.tree().join("sbom.cdx.json")).unwrap();
        let listed = |kind: &str| bill.matches(&format!("\"purl\": \"pkg:{kind}/")).count();
        assert_eq!((listed("npm"), listed("golang")), (NPM, GO));
        let texts = fs::read_to_string(place.tree().join("licenses/THIRD-PARTY.txt")).unwrap();
        assert_eq!(texts.matches("somebody of number").count(), NPM + GO);
        assert!(place.archive().with_extension(form).metadata().unwrap().len() > 8 * 1024 * 1024);
    }
}

/// A stack of one component with a step for node, of a version that no machine has: the archive is its source and stands for the
/// package that holds node too. Gives that package's path in a cache.
fn node_component(place: &Place, archive: &[u8]) -> String {
    let path = place.write("files/thing-1.tar.gz", archive);
    place.one_component(&[format!("file://{}", path.display()).replace(' ', "%20")], archive);
    let os = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let platform = format!("{os}-{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" });
    let kind = if platform == "darwin-arm64" { "node-bin" } else { "node" };
    let package = format!("packages/{kind}-{platform}-1.2.3.tgz");
    place.write(&format!("build/cache/{package}"), archive);
    let integrity = BASE64.encode(Sha512::digest(archive));
    let recipe = format!(
        "summary = \"x\"\n[toolchain]\nnode = \"1.2\"\n[toolchain.node-package]\nversion = \"1.2.3\"\n\
         integrity = {{ {platform} = \"sha512-{integrity}\" }}\n[[step]]\nname = \"build\"\n[step.node]\nrun = [\"build\"]\n\
         [[install]]\nfrom = \"src/build\"\nto = \"share/static\"\n"
    );
    place.write("stack/recipes/thing.toml", recipe);
    package
}

/// The most memory that the program held on such a stack. What children hold counts too, and a real npm holds as much as xtask may:
/// this one only tells a version, and has nothing to do in the step.
fn peak_with_npm(place: &Place, args: &[&str]) -> u64 {
    let npm = place.write("programs/npm", "#!/bin/sh\necho 10.9.2\n");
    fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).unwrap();
    let programs = format!("PATH={}", npm.parent().unwrap().display());
    let command = place.command(args);
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_str().unwrap());
    peak(&["env", &programs].into_iter().chain(words).collect::<Vec<_>>())
}

#[test]
fn exporting_a_node_of_half_a_hundred_megabytes_takes_no_more_than_promised() {
    let place = Place::new();
    let archive = tar_gz(&[("thing/package.json", "{\"name\": \"thing\"}"), ("thing/bin/node", &noise(64 * 1024 * 1024))]);
    assert!(archive.len() > 40 * 1024 * 1024, "{} bytes", archive.len());
    let package = node_component(&place, &archive);
    let mirror = place.path("mirror");
    let held = peak_with_npm(&place, &["vendor-export", mirror.to_str().unwrap()]);
    assert!(held < MOST, "{held} bytes");
    assert!(fs::read(mirror.join(&package)).unwrap() == archive, "{package} is another one");
    let index: Value = serde_json::from_slice(&fs::read(mirror.join("mirror.json")).unwrap()).unwrap();
    assert_eq!((&index["complete"], &index["files"][&package]["sha256"]), (&json!(true), &json!(sha256(&archive))));
}

/// A program of 80 MiB, more than xtask may hold: what tells of it, and behind that what becomes smaller.
fn large_program() -> Vec<u8> {
    let mut program = bytes(1024 * 1024, 7).repeat(80);
    if cfg!(target_os = "linux") {
        let machine = if std::env::consts::ARCH == "aarch64" { 183 } else { 62 };
        let mut head = [0_u8; 64];
        head[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        (head[16], head[18], head[20], head[52], head[54], head[58]) = (2, machine, 1, 64, 56, 64);
        program[..64].copy_from_slice(&head);
    }
    program
}

#[test]
fn looking_at_a_program_that_is_larger_than_that_takes_no_more_than_promised() {
    let place = Place::new();
    let archive = tar_gz(&[("thing/hello.txt", "hello")]);
    let path = place.write("mirror/thing-1.tar.gz", &archive);
    place.one_component(&[format!("file://{}", path.display()).replace(' ', "%20")], &archive);
    place.xtask(&["package", "--skip-gate"]).good();
    let mut bundle = Unpacked::of(&place.archive());
    bundle.files.insert("lib/programs/large".to_owned(), (large_program(), 0o755));
    let packed = bundle.pack(&place.path("mirror"));
    let mut command = place.command(&["gate", packed.to_str().unwrap(), "--still"]);
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let words: Vec<&str> = words.into_iter().map(|word| word.to_str().unwrap()).collect();
    let held = peak(&words);
    assert!(held < MOST, "{held} bytes");
    // Where there is no room for it, that is no fault of the archive's.
    let nowhere = place.path("nowhere");
    let outcome = Outcome::of(&command.env("TMPDIR", &nowhere).output().unwrap());
    outcome.bad(3, &["lib/programs/large", "cannot keep it meanwhile in", "TMPDIR", nowhere.to_str().unwrap()]);
}

#[test]
fn accounting_for_packages_with_long_texts_and_a_long_source_map_takes_no_more_than_promised() {
    const PACKAGES: usize = 200;
    let place = Place::new();
    // Longer than what is compared with licences, which takes its time.
    let long = noise(256 * 1024).replace(['"', '\\'], "-");
    let name = |at: usize| format!("package-{at}");
    let needed: Value = (0..PACKAGES).map(|at| (name(at), json!("1.0.0"))).collect::<serde_json::Map<_, _>>().into();
    let map =
        json!({ "sources": ["webpack://x/./a.js"], "sourcesContent": vec![long.as_str(); 160], "mappings": "" }).to_string();
    let mut files = vec![
        ("thing/package.json".to_owned(), json!({ "name": "thing", "version": "1.0.0", "dependencies": needed }).to_string()),
        ("thing/build/app.js".to_owned(), String::new()),
        ("thing/build/app.js.map".to_owned(), map),
    ];
    for at in 0..PACKAGES {
        let folder = format!("thing/node_modules/{}", name(at));
        let manifest = json!({ "name": name(at), "version": "1.0.0", "license": "MIT" }).to_string();
        files.push((format!("{folder}/package.json"), manifest));
        files.push((format!("{folder}/LICENSE"), format!("Copyright somebody of number {at}\n\n{long}\n")));
    }
    let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    node_component(&place, &tar_gz(&files));
    let held = peak_with_npm(&place, &["package", "--skip-gate", "--skip-archive"]);
    assert!(held < MOST, "{held} bytes");
    let texts = fs::read_to_string(place.tree().join("licenses/THIRD-PARTY.txt")).unwrap();
    assert_eq!(texts.matches("somebody of number").count(), PACKAGES);
}
