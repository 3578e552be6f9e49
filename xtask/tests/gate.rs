//! The gate with real archives: the miniature stack passes, and each fault that is planted in it is named.
//!
//! What can be seen without running anything has its tests beside the code; here it is about what shows only in use.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::repacked::Unpacked;
use common::{Outcome, ministack_place as build_place, workspace};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

static BUILDING: Mutex<()> = Mutex::new(());

fn package(args: &[&str], dist: &str) -> Outcome {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("package").arg("--stack").arg(workspace().join("examples/ministack"));
    command.arg("--build-dir").arg(build_place("build")).arg("--dist-dir").arg(build_place(dist)).args(args);
    Outcome::of(&command.output().unwrap())
}

const NAME: &str = concat!("dkumonitor-ministack-", env!("CARGO_PKG_VERSION"));

/// The archive of the whole stack, which passes.
static ARCHIVE: LazyLock<PathBuf> = LazyLock::new(|| {
    package(&[], "dist").good();
    build_place("dist").join(format!("{NAME}.tar.gz"))
});

fn gate(archive: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("gate").arg(archive).arg("--stack").arg(workspace().join("examples/ministack"));
    command.arg("--build-dir").arg(build_place("build")).args(args);
    Outcome::of(&command.output().unwrap())
}

#[test]
fn the_miniature_stack_passes_and_what_has_passed_is_not_looked_at_again() {
    let text = gate(&ARCHIVE, &[]).good();
    for said in [
        "installed as all, 4 services probed",
        "a metric sent by tcp and udp and read back through carbonapi",
        "queries asked through Grafana",
        "stopped, updated over itself, started again with what it knew",
        "nothing left behind, and the bundle as it was",
        "oldest glibc by component: collectd 2.",
    ] {
        assert!(text.contains(said), "\"{said}\" is not in:\n{text}");
    }
    let text = package(&["--offline"], "dist").good();
    assert!(text.contains("unchanged") && !text.contains("bundle gate"), "{text}");
    let glibc = |manifest: &Value, name: &str| {
        let components = manifest["components"].as_array().unwrap();
        components.iter().find(|one| one["name"] == name).unwrap()["glibc"].clone()
    };
    let manifest: Value = serde_json::from_slice(&Unpacked::of(&ARCHIVE).files["manifest.json"].0).unwrap();
    assert!(glibc(&manifest, "collectd").as_str().unwrap().starts_with("2."), "{manifest}");
    assert_eq!(glibc(&manifest, "launcher"), Value::Null);
}

#[test]
fn a_service_that_does_not_start_after_unpacking_is_named_with_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut bundle = Unpacked::of(&ARCHIVE);
    bundle.files.insert("bin/carbonapi".to_owned(), (b"#!/bin/sh\necho the library is not here >&2\nexit 3\n".to_vec(), 0o755));
    let text = gate(&bundle.pack(folder.path()), &[])
        .bad(10, &["does not run as it should", "carbonapi: is ", "the library is not here"]);
    let log = text.lines().find_map(|line| line.trim().strip_prefix("its log: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(log.ends_with("carbonapi.log") && fs::read_to_string(log).unwrap().contains("the library is not here"), "{text}");
}

#[test]
fn the_bundle_runs_where_nothing_of_the_build_is_seen_and_nobody_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let mut bundle = Unpacked::of(&ARCHIVE);
    // Fails as a service where one of these is not so; else it is the real one.
    // The script must not hold the paths themselves, or they are found in it.
    let hidden = |path: &Path| path.to_str().unwrap().replace('/', "/''");
    let script = format!(
        "die() {{ echo \"$1\" >&2; exit 1; }}\n\
         [ -e '{}/Cargo.toml' ] && die 'the checkout is to be seen'\n\
         [ -e '{}/store' ] && die 'the build folder is to be seen'\n\
         [ \"$(id -u)\" = 0 ] && die 'it is root'\n\
         [ \"$(grep -c : /proc/net/dev)\" = 1 ] || die 'there is a network'\n\
         (: > /usr/planted) 2>/dev/null && die 'the system can be written to'\n\
         [ -n \"$CARGO_MANIFEST_DIR$CARGO_HOME\" ] && die 'the environment is the build one'\n\
         case \"$PWD\" in *' '*) ;; *) die 'there is no blank in the path' ;; esac\n\
         exec \"$0.real\" \"$@\"",
        hidden(&workspace()),
        hidden(&build_place("build"))
    );
    bundle.wrap("bin/collectd", &script);
    let text = gate(&bundle.pack(folder.path()), &[]);
    assert_eq!(text.status, 0, "{}", text.text);
}

#[test]
fn a_process_that_is_left_behind_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut bundle = Unpacked::of(&ARCHIVE);
    // What a service leaves the launcher ends; what the launcher itself left nobody would.
    bundle.links.insert("more/installer".to_owned(), "../bin/dkm".to_owned());
    bundle.links.remove("installer").unwrap();
    let script = "#!/bin/sh\nsetsid sleep 98765 >/dev/null 2>&1 </dev/null &\nexec \"${0%/*}/more/installer\" \"$@\"\n";
    bundle.files.insert("installer".to_owned(), (script.as_bytes().to_vec(), 0o755));
    gate(&bundle.pack(folder.path()), &[]).bad(10, &["processes were left behind", "sleep 98765"]);
}

#[test]
fn a_file_that_is_left_outside_of_the_data_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut bundle = Unpacked::of(&ARCHIVE);
    bundle.wrap("bin/collectd", ": > /tmp/planted.by.it\nexec \"$0.real\" \"$@\"");
    gate(&bundle.pack(folder.path()), &[]).bad(10, &["files were left outside of the data folder", "/tmp/planted.by.it"]);
}

#[test]
fn an_agent_has_an_archive_of_its_own_that_sends_what_it_measures() {
    LazyLock::force(&ARCHIVE);
    package(&["--profile", "agent", "--skip-gate"], "agent").good();
    let archive = build_place("agent").join(concat!("dkumonitor-ministack-agent-", env!("CARGO_PKG_VERSION"), ".tar.gz"));
    let text = gate(&archive, &[]).good();
    assert!(text.contains("installed as agent, 1 services probed: collectd"), "{text}");
    assert!(text.contains("the agent sends what it measures, such as collectd."), "{text}");
    assert!(archive.metadata().unwrap().len() <= 8_000_000);
    assert!(!Unpacked::of(&archive).files.contains_key("bin/grafana"));
}

#[test]
fn a_damaged_archive_is_not_let_through() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join(ARCHIVE.file_name().unwrap());
    fs::copy(&*ARCHIVE, &damaged).unwrap();
    common::flip_checksum(&damaged);
    gate(&damaged, &["--still"]).bad(5, &["cannot read", "tar.gz"]);
    fs::copy(ARCHIVE.with_added_extension("sha256"), damaged.with_added_extension("sha256")).unwrap();
    gate(&damaged, &["--still"]).bad(5, &["is not what", "sha256 says"]);
}

#[test]
fn a_bundle_that_has_grown_too_much_is_not_let_through() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest: Value = serde_json::from_slice(&Unpacked::of(&ARCHIVE).files["manifest.json"].0).unwrap();
    manifest["version"] = "0.0.9".into();
    for file in manifest["files"].as_array_mut().unwrap() {
        if file["path"] == "bin/grafana" {
            file["size"] = 1000.into();
        }
    }
    let last = folder.path().join("manifest.json");
    fs::write(&last, manifest.to_string()).unwrap();
    let last = last.to_str().unwrap();
    gate(&ARCHIVE, &["--still", "--against", last]).bad(10, &["in 0.0.9: more than 10 % more", "most of it in bin"]);
    gate(&ARCHIVE, &["--still", "--against", last, "--growth", "1000"]).good();
}

#[test]
fn what_cannot_be_used_is_said() {
    let folder = tempfile::tempdir().unwrap();
    gate(&folder.path().join("none.tar.gz"), &[]).bad(2, &["there is no archive", "none.tar.gz"]);
    let stack = folder.path().join("stack");
    let copied = Command::new("cp").arg("-R").arg(workspace().join("examples/ministack")).arg(&stack).status().unwrap();
    assert!(copied.success());
    fs::write(stack.join("gate.toml"), "glibcc = \"2.17\"\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("gate").arg(&*ARCHIVE).arg("--stack").arg(&stack).arg("--build-dir").arg(folder.path().join("build"));
    Outcome::of(&command.output().unwrap()).bad(2, &["gate.toml", "glibcc"]);
}
