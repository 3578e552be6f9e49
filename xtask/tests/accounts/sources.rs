//! The archive of all sources, and that the bundle can be built from it.

use super::common::{self, GOOD_MAKEFILE, Place, compiled};
use super::{Outcome, VERSION, read, workspace};
use std::fs;
use std::process::Command;

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
