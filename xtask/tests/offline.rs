//! Building without internet: what `vendor-export` writes is all that a build wants, and what lacks is named.
//!
//! Nothing is mocked: real Go, npm, Yarn 1 and 4 and cargo, in a network namespace that has nothing but loopback, with a home
//! and caches that are empty.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Outcome, Place, ministack_place, workspace};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");

/// A run of the program on another machine: no network, nothing in its home, no caches. `stack` is built in `build`.
fn elsewhere(words: &[&str], stack: &Path, build: &Path) -> Outcome {
    let home = tempfile::Builder::new().prefix("an empty home ").tempdir().unwrap();
    let mut command = Command::new(XTASK);
    command.args(["without-network", "--", XTASK]).arg(words[0]).arg("--stack").arg(stack).arg("--build-dir").arg(build);
    command.args(&words[1..]).env_clear();
    for name in ["PATH", "RUSTUP_TOOLCHAIN"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.env("RUSTUP_HOME", rustup_home()).env("HOME", home.path()).env("CARGO_HOME", home.path().join("cargo"));
    Outcome::of(&command.output().unwrap())
}

/// Rust itself has to be on the other machine, or the program could not be compiled there.
fn rustup_home() -> PathBuf {
    let set = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    set.unwrap_or_else(|| std::env::home_dir().unwrap().join(".rustup"))
}

/// A run of the program here, with network.
fn here(words: &[&str], stack: &Path, build: &Path) -> Outcome {
    let mut command = Command::new(XTASK);
    command.arg(words[0]).arg("--stack").arg(stack).arg("--build-dir").arg(build).args(&words[1..]);
    Outcome::of(&command.output().unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The export of the miniature stack.
static MINISTACK: LazyLock<PathBuf> = LazyLock::new(|| {
    let mirror = ministack_place("mirror");
    here(&["vendor-export", text(&mirror)], &workspace().join("examples/ministack"), &ministack_place("build")).good();
    mirror
});

/// The lines of the miniature stack's recipe that pin Go and node.
fn toolchain() -> String {
    let recipe = fs::read_to_string(workspace().join("examples/ministack/recipes/grafana.toml")).unwrap();
    let begin = recipe.find("[toolchain]").unwrap();
    recipe[begin..recipe.find("[needs]").unwrap()].to_owned()
}

/// A component: its name, its recipe without the summary, the files of its source with what is in them.
type Component<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// A stack of small components from folders.
fn small_stack(place: Place, components: &[Component<'_>]) -> Place {
    let mut lock = String::new();
    for (name, recipe, files) in components {
        lock += &format!("[[source]]\nname = \"{name}\"\nversion = \"1.0\"\npath = \"sources/{name}\"\nlicense = \"MIT\"\n");
        place.write(&format!("stack/recipes/{name}.toml"), format!("summary = \"{name}\"\n{recipe}"));
        for (file, content) in *files {
            place.write(&format!("stack/sources/{name}/{file}"), content);
        }
    }
    place.write("stack/vendor.lock", lock);
    place
}

fn node_recipe(run: &str, output: &str) -> String {
    format!(
        "{}[[step]]\nname = \"build\"\n[step.node]\ninstall = true\nrun = [\"{run}\"]\n\
         [[install]]\nfrom = \"src/out.txt\"\nto = \"share/{output}\"\n",
        toolchain()
    )
}

/// A go that is surely not this machine's own, so that its module has to be used.
const OTHER_GO: &str = "1.24.1";

const GO_MAIN: &str = "package main\n\nimport (\n\t\"fmt\"\n\n\t\"github.com/BurntSushi/toml\"\n)\n\nfunc main() {\n\
    \tvar all map[string]any\n\tfmt.Println(toml.Unmarshal([]byte(\"a = 1\"), &all))\n}\n";

/// What all the pages do: a script that needs the package.
fn package_json(manager: &str) -> String {
    let manager = if manager.is_empty() { String::new() } else { format!("\"packageManager\": \"{manager}\", ") };
    format!(
        "{{\"name\": \"page\", \"version\": \"1.0.0\", \"license\": \"MIT\", {manager}\"dependencies\": {{\"left-pad\": \"1.3.0\"}}, \
         \"scripts\": {{\"build\": \"node build.js\"}}}}"
    )
}

const BUILD_JS: &str =
    "require('fs').writeFileSync('out.txt', require('left-pad')('x', 5) + process.env.npm_config_user_agent)";

const LEFT_PAD: &str = "sha512-XI5MPzVNApjAyhQzphX8BkmKsKUxD4LdyK24iZeQGinBN9yTQT3bFlCBy/aVx2HrNcqQGsdot8ghrjyrvMCoEA==";

/// Lock files hold addresses; these are those of the registry that npm is set up for.
fn resolved() -> String {
    let asked = Command::new("npm").args(["config", "get", "registry"]).output().unwrap();
    let registry = String::from_utf8(asked.stdout).unwrap();
    format!("{}/left-pad/-/left-pad-1.3.0.tgz", registry.trim().trim_end_matches('/'))
}

fn npm_lock() -> String {
    let resolved = resolved();
    format!(
        "{{\"name\": \"page\", \"version\": \"1.0.0\", \"lockfileVersion\": 3, \"requires\": true, \"packages\": {{\
         \"\": {{\"name\": \"page\", \"version\": \"1.0.0\", \"license\": \"MIT\", \"dependencies\": {{\"left-pad\": \"1.3.0\"}}}}, \
         \"node_modules/left-pad\": {{\"version\": \"1.3.0\", \"resolved\": \"{resolved}\", \
         \"integrity\": \"{LEFT_PAD}\"}}}}}}"
    )
}

fn yarn_1_lock() -> String {
    let resolved = resolved();
    format!(
        "# THIS IS AN AUTOGENERATED FILE. DO NOT EDIT THIS FILE DIRECTLY.\n# yarn lockfile v1\n\n\nleft-pad@1.3.0:\n  version \"1.3.0\"\n  \
         resolved \"{resolved}#5b8a3a7765dfe001261dde915589e782f8c94d1e\"\n  \
         integrity {LEFT_PAD}\n"
    )
}

const YARN_4_LOCK: &str = "# This file is generated by running \"yarn install\" inside your project.\n\
    # Manual changes might be lost - proceed with caution!\n\n__metadata:\n  version: 8\n  cacheKey: 10c0\n\n\"left-pad@npm:1.3.0\":\n  version: 1.3.0\n  \
    resolution: \"left-pad@npm:1.3.0\"\n  \
    checksum: 10c0/3fb59c76e281a2f5c810ad71dbbb8eba8b10c6cf94733dc7f27b8c516a5376cacea53543e76f6ae477d866c8954b27f1e15ca349424c2542474eb5bb1d2b6955\n  \
    languageName: node\n  linkType: hard\n\n\
    \"page@workspace:.\":\n  version: 0.0.0-use.local\n  resolution: \"page@workspace:.\"\n  dependencies:\n    left-pad: \"npm:1.3.0\"\n  \
    languageName: unknown\n  linkType: soft\n";

/// A component for each way of having dependencies, and their export.
static SMALL: LazyLock<Place> = LazyLock::new(|| {
    let go_sum = fs::read_to_string(workspace().join("examples/ministack/sources/go-carbon/go.sum")).unwrap();
    let go_recipe = format!(
        "[toolchain]\ngo = \"{OTHER_GO}\"\n[[step]]\nname = \"compile\"\n[step.go]\npackage = \".\"\noutput = \"tool\"\n\
         [[install]]\nfrom = \"src/tool\"\nto = \"bin/tool\"\n"
    );
    let go_mod = "module small\n\ngo 1.24.0\n\nrequire github.com/BurntSushi/toml v1.6.0\n";
    let place = small_stack(
        Place::lasting("small"),
        &[
            ("tool", &go_recipe, &[("go.mod", go_mod), ("go.sum", &go_sum), ("main.go", GO_MAIN)]),
            (
                "npm",
                &node_recipe("build", "npm"),
                &[("package.json", &package_json("")), ("package-lock.json", &npm_lock()), ("build.js", BUILD_JS)],
            ),
            (
                "yarn1",
                &node_recipe("build", "yarn1"),
                &[("package.json", &package_json("yarn@1.22.22")), ("yarn.lock", &yarn_1_lock()), ("build.js", BUILD_JS)],
            ),
            (
                "yarn4",
                &node_recipe("build", "yarn4"),
                &[
                    ("package.json", &package_json("yarn@4.9.2")),
                    ("yarn.lock", YARN_4_LOCK),
                    (".yarnrc.yml", "nodeLinker: node-modules\n"),
                    ("build.js", BUILD_JS),
                ],
            ),
        ],
    );
    // What the other export holds need not be fetched again: node, for one.
    let mirror = place.path("mirror");
    let words = ["vendor-export", text(&mirror), "--mirror", text(&MINISTACK)];
    here(&words, &place.path("stack"), &place.path("build")).good();
    place
});

/// A copy of the small stack's export in which a file is changed. Gives the file's path in the mirror.
fn changed_mirror(place: &Place, copy: &str, which: impl Fn(&str) -> bool, change: impl Fn(&Path)) -> (PathBuf, String) {
    let mirror = place.path(copy);
    assert!(Command::new("cp").args(["-R"]).arg(place.path("mirror")).arg(&mirror).status().unwrap().success());
    let index: serde_json::Value = serde_json::from_slice(&fs::read(mirror.join("mirror.json")).unwrap()).unwrap();
    let mut found: Vec<&String> = index["files"].as_object().unwrap().keys().filter(|path| which(path)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let path = found.remove(0).clone();
    change(&mirror.join(&path));
    (mirror, path)
}

#[test]
fn the_whole_stack_built_from_an_export_without_network_is_byte_for_byte_the_one_built_online() {
    let route = Command::new(XTASK).args(["without-network", "--", "cat", "/proc/net/route"]).output().unwrap();
    assert_eq!(Outcome::of(&route).good().lines().count(), 1, "the namespace has a route");
    let stack = workspace().join("examples/ministack");
    let folder = tempfile::Builder::new().prefix("the other machine ").tempdir_in(ministack_place("")).unwrap();
    let dist = folder.path().join("dist");
    let words = ["package", "--dist-dir", text(&dist), "--mirror", text(&MINISTACK), "--offline"];
    elsewhere(&words, &stack, &folder.path().join("build")).good();
    // The builder itself can be compiled there too, by cargo alone.
    let home = folder.path().join("cargo home");
    let mut cargo = Command::new(XTASK);
    cargo.args(["without-network", "--", "cargo", "--config"]).arg(MINISTACK.join("cargo/config.toml"));
    cargo.args(["fetch", "--locked"]).current_dir(workspace()).env("CARGO_HOME", &home);
    cargo.env("RUSTUP_HOME", rustup_home());
    Outcome::of(&cargo.output().unwrap()).good();
    let online = ministack_place("dist");
    here(&["package", "--dist-dir", text(&online)], &stack, &ministack_place("build")).good();
    let name = concat!("dkumonitor-ministack-", env!("CARGO_PKG_VERSION"), ".tar.gz");
    let (one, other) = (fs::read(dist.join(name)).unwrap(), fs::read(online.join(name)).unwrap());
    assert!(one == other, "the archives differ: {} and {}", common::sha256(&one), common::sha256(&other));
}

#[test]
fn go_npm_and_both_yarns_find_all_they_want_in_an_export_and_another_one_adds_nothing() {
    let place = &*SMALL;
    let (mirror, dist) = (place.path("mirror"), place.path("dist"));
    let words = ["package", "--dist-dir", text(&dist), "--mirror", text(&mirror), "--offline"];
    elsewhere(&words, &place.path("stack"), &place.path("other build")).good();
    let tree = place.tree();
    for (name, manager) in [("npm", "npm/"), ("yarn1", "yarn/1.22.22"), ("yarn4", "yarn/4.9.2")] {
        let made = fs::read_to_string(tree.join("share").join(name)).unwrap();
        assert!(made.starts_with(&format!("    x{manager}")), "{made}");
    }
    let tool = fs::read(tree.join("bin/tool")).unwrap();
    let version = format!("go{OTHER_GO}");
    assert!(tool.windows(version.len()).any(|part| part == version.as_bytes()), "not compiled by {version}");
    let again = here(&["vendor-export", text(&mirror)], &place.path("stack"), &place.path("build")).good();
    assert!(again.contains(" 0 new files"), "{again}");
}

#[test]
fn what_was_fetched_before_is_enough_to_build_offline_without_a_mirror() {
    let place = &*SMALL;
    let (stack, build, dist) = (place.path("stack"), place.path("fetched build"), place.path("fetched dist"));
    let only = ["--only", "npm", "yarn1", "yarn4"];
    here(&[&["fetch", "--dependencies"], &only[..]].concat(), &stack, &build).good();
    let outcome = elsewhere(&[&["package", "--offline", "--dist-dir", text(&dist)], &only[..]].concat(), &stack, &build);
    assert!(!outcome.good().contains("mirror"));
}

#[test]
fn what_an_export_lacks_is_named_with_the_way_out() {
    let place = &*SMALL;
    type Case<'a> = (&'a str, &'a str, fn(&str) -> bool, &'a str);
    let cases: [Case<'_>; 4] = [
        ("tool", "lacks a module", |path| path.ends_with("toml/@v/v1.6.0.zip"), "github.com/BurntSushi/toml@v1.6.0"),
        ("yarn4", "lacks a zip", |path| path.starts_with("yarn/left-pad"), "left-pad@npm:1.3.0"),
        ("yarn1", "lacks a tgz", |path| path.starts_with("yarn-classic/left-pad"), "left-pad-1.3.0.tgz"),
        ("yarn4", "lacks Yarn", |path| path.starts_with("packages/yarnpkg-cli-dist"), "@yarnpkg/cli-dist@4.9.2"),
    ];
    for (component, copy, which, name) in cases {
        let (mirror, path) = changed_mirror(place, copy, which, |path| fs::remove_file(path).unwrap());
        let words = ["fetch", "--dependencies", "--only", component, "--mirror", text(&mirror), "--offline"];
        let outcome = elsewhere(&words, &place.path("stack"), &place.path(&format!("build that {copy}")));
        let missing = format!("{} is missing", mirror.join(path).display());
        outcome.bad(4, &[&missing, name, "vendor-export DIR"]);
    }
}

#[test]
fn a_damaged_file_of_an_export_is_named_and_an_export_mends_it() {
    let place = &*SMALL;
    let content_of_left_pad = |path: &str| path.starts_with("npm/content-v2/sha512/5c/8e/");
    let (mirror, path) = changed_mirror(place, "damaged", content_of_left_pad, |path| {
        let mut content = fs::read(path).unwrap();
        content[1000] ^= 1;
        fs::write(path, content).unwrap();
    });
    let words = ["fetch", "--dependencies", "--only", "npm", "--mirror", text(&mirror), "--offline"];
    let fetch = |build: &str| elsewhere(&words, &place.path("stack"), &place.path(build));
    let damaged = format!("{} is damaged", mirror.join(path).display());
    fetch("damaged build").bad(4, &[&damaged, "left-pad", "run vendor-export on it again"]);
    let words = ["vendor-export", text(&mirror), "--only", "npm"];
    let mended = here(&words, &place.path("stack"), &place.path("build")).good();
    assert!(!mended.contains(" 0 new files"), "{mended}");
    fetch("damaged build").good();
}

#[test]
fn no_folder_with_something_else_in_it_becomes_a_mirror() {
    let place = small_stack(Place::new(), &[]);
    place.one_component(&["https://127.0.0.1:1/x.tar.gz".to_owned()], b"");
    place.write("papers/diary.txt", "mine");
    place.xtask(&["vendor-export", text(&place.path("papers"))]).bad(2, &["diary.txt", "empty folder"]);
    assert_eq!(fs::read_dir(place.path("papers")).unwrap().count(), 1);
}

#[test]
fn a_step_that_tries_the_network_is_told_from_one_that_fails_otherwise_whatever_the_tool() {
    let script = |manager: &str, command: &str| {
        package_json(manager).replace("node build.js", command).replace("\"left-pad\": \"1.3.0\"", "")
    };
    let empty_lock = npm_lock().replace(", \"dependencies\": {\"left-pad\": \"1.3.0\"}", "");
    let empty_lock = format!("{}}}}}", &empty_lock[..empty_lock.find(", \"node_modules").unwrap()]);
    let yarn_lock = YARN_4_LOCK.replace("  dependencies:\n    left-pad: \"npm:1.3.0\"\n", "");
    let (begin, end) = (yarn_lock.find("\"left-pad@").unwrap(), yarn_lock.find("\"page@").unwrap());
    let yarn_lock = format!("{}{}", &yarn_lock[..begin], &yarn_lock[end..]);
    let go =
        format!("{}[[step]]\nname = \"compile\"\n[step.go]\npackage = \".\"\noutput = \"tool\"\nmod = \"mod\"\n", toolchain());
    let cargo = "[[step]]\nname = \"compile\"\n[step.cargo]\npackage = \"tool\"\nbins = [\"tool\"]\n";
    let build_rs = "fn main() {\n    let other = std::process::Command::new(\"cargo\").args([\"fetch\", \"--manifest-path\", \
                    \"other/Cargo.toml\"]).status();\n    assert!(other.unwrap().success());\n}\n";
    let manifest = |name: &str, rest: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[workspace]\n{rest}")
    };
    let place = small_stack(
        Place::new(),
        &[
            ("go", &go, &[("go.mod", "module small\n\ngo 1.24.0\n"), ("main.go", GO_MAIN)]),
            (
                "npm",
                &node_recipe("build", "npm"),
                &[("package.json", &script("", "npm install left-pad")), ("package-lock.json", &empty_lock)],
            ),
            (
                "yarn",
                &node_recipe("build", "yarn"),
                &[("package.json", &script("yarn@4.9.2", "yarn add left-pad@1.3.0")), ("yarn.lock", &yarn_lock)],
            ),
            (
                "cargo",
                cargo,
                &[
                    ("Cargo.toml", &manifest("tool", "")),
                    ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"tool\"\nversion = \"1.0.0\"\n"),
                    ("build.rs", build_rs),
                    ("src/main.rs", "fn main() {}\n"),
                    ("other/Cargo.toml", &manifest("other", "[dependencies]\nno-such-crate-anywhere = \"1\"\n")),
                    ("other/src/lib.rs", ""),
                ],
            ),
        ],
    );
    let said = here(&["package", "--mirror", text(&MINISTACK)], &place.path("stack"), &place.path("build"))
        .bad(7, &["4 components failed"]);
    let told: Vec<&str> = said.lines().filter(|line| line.contains("It tried to use the network")).collect();
    assert_eq!(told.len(), 4, "{said}");
    for name in ["github.com/BurntSushi/toml", "/left-pad", "left-pad@npm:1.3.0", "no-such-crate-anywhere"] {
        assert!(told.iter().any(|line| line.contains(name)), "{name} is not in {told:#?}");
    }
}
