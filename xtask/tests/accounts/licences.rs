//! Licences that are unknown, not allowed or changed stop the build, and are named.

use super::common::{GOOD_MAKEFILE, Place, compiled, sha256, tar_gz};
use super::{Outcome, copy_of_ministack, ministack, name, workspace};
use std::fs;
use std::process::Command;

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
