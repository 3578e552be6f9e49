//! The pages' packages where Yarn 4 has installed them, by Plug'n'Play and in `node_modules`: a small workspace with a patched
//! package, one that wants a peer, and tools.

use super::{BUILDING, Outcome, Place, ministack_place, read, workspace};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;

const PACKAGE: &str = r#"{"name": "page", "version": "1.0.0", "license": "MIT", "packageManager": "yarn@4.9.2", "workspaces": ["packages/*"],
    "dependencies": {"@own/ui": "workspace:*", "left-pad": "patch:left-pad@1.3.0#./patches/left-pad.patch", "lib": "link:./lib", "react": "17.0.2"},
    "devDependencies": {"ms": "2.1.3"}, "scripts": {"build": "node build.js"}}"#;

const UI: &str = r#"{"name": "@own/ui", "version": "1.0.0", "license": "MIT", "dependencies": {"use-sync-external-store": "1.2.0"},
    "peerDependencies": {"react": "*"}, "devDependencies": {"react": "17.0.2", "inherits": "2.0.4"}}"#;

const PATCH: &str = "diff --git a/index.js b/index.js\n--- a/index.js\n+++ b/index.js\n@@ -1,3 +1,4 @@\n+/* patched */\n \
    /* This program is free software. It comes without any warranty, to\n      \
    * the extent permitted by applicable law. You can redistribute it\n      \
    * and/or modify it under the terms of the Do What The Fuck You Want\n";

/// Does what a bundler does with two of the packages: finds them, and names their files in a source map.
const BUILD_JS: &str = "const fs = require('fs'), path = require('path'), ui = path.dirname(require.resolve('@own/ui/package.json'));\n\
    const files = [require.resolve('left-pad'), require.resolve('use-sync-external-store/shim', { paths: [ui] })];\n\
    fs.mkdirSync('out');\n\
    fs.writeFileSync('out/app.js', files.map((file) => fs.readFileSync(file, 'utf8')).join('\\n'));\n\
    const sources = files.map((file) => 'webpack://page/' + path.relative('.', file));\n\
    fs.writeFileSync('out/app.js.map', JSON.stringify({ version: 3, sources }));\n";

/// A stack of these pages alone, built beside the miniature one, whose node it takes.
struct Pages {
    place: Place,
}

impl Pages {
    fn new(linker: &str) -> Self {
        let place = Place::new();
        let recipe = fs::read_to_string(workspace().join("examples/ministack/recipes/grafana.toml")).unwrap();
        let toolchain = &recipe[recipe.find("[toolchain]").unwrap()..recipe.find("[needs]").unwrap()];
        let step = "[[step]]\nname = \"build\"\n[step.node]\ninstall = true\nrun = [\"build\"]\n";
        let install = "[[install]]\nfrom = \"src/out\"\nto = \"static\"\nexclude = [\"**/*.map\"]\n";
        place.write("stack/recipes/pages.toml", format!("summary = \"pages\"\n{toolchain}{step}{install}"));
        let lock = "[[source]]\nname = \"pages\"\nversion = \"1.0\"\npath = \"pages\"\nlicense = \"MIT\"\n";
        place.write("stack/vendor.lock", lock);
        for (file, content) in [
            ("package.json", PACKAGE),
            ("packages/ui/package.json", UI),
            ("patches/left-pad.patch", PATCH),
            ("lib/x.js", ""),
            ("build.js", BUILD_JS),
            ("yarn.lock", include_str!("yarn.lock")),
            (".yarnrc.yml", linker),
        ] {
            place.write(&format!("stack/pages/{file}"), content);
        }
        Self { place }
    }

    fn package(&self) -> Outcome {
        let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["package", "--skip-archive", "--stack"]).arg(self.place.path("stack"));
        command.arg("--build-dir").arg(ministack_place("build")).arg("--dist-dir").arg(self.place.path("dist"));
        Outcome::of(&command.output().unwrap())
    }

    /// Has the component collected anew from what its step has made.
    fn collect_anew(&self, to: &str) {
        let recipe = fs::read_to_string(self.place.path("stack/recipes/pages.toml")).unwrap();
        let (before, _) = recipe.split_once("to = ").unwrap();
        self.place.write("stack/recipes/pages.toml", format!("{before}to = \"{to}\"\nexclude = [\"**/*.map\"]\n"));
    }

    /// The packages in the bill, each with its name.
    fn bill(&self) -> Vec<(String, Value)> {
        let bill = read(&self.place.tree().join("sbom.cdx.json"));
        let packages = bill["components"].as_array().unwrap().iter().filter(|one| one["type"] == "library");
        packages.map(|one| (one["purl"].as_str().unwrap().to_owned(), one.clone())).collect()
    }
}

/// The zip of a package in the cache that all projects share.
fn zip_of(name: &str) -> PathBuf {
    let files = ministack_place("build").join("cache/yarn/cache");
    let fits = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with(name);
    files.read_dir().unwrap().map(|entry| entry.unwrap().path()).find(|path| fits(path)).unwrap()
}

fn assert_is_right(bill: &[(String, Value)]) {
    let found: Vec<_> = bill.iter().map(|(purl, one)| format!("{purl} {}", one["scope"].as_str().unwrap())).collect();
    let wanted = [
        "pkg:npm/js-tokens@4.0.0 optional",
        "pkg:npm/left-pad@1.3.0 required",
        "pkg:npm/loose-envify@1.4.0 optional",
        "pkg:npm/object-assign@4.1.1 optional",
        "pkg:npm/react@17.0.2 optional",
        "pkg:npm/use-sync-external-store@1.2.0 required",
    ];
    assert_eq!(found, wanted);
    let left_pad = &bill[1].1;
    assert_eq!(left_pad["pedigree"]["patches"][0]["diff"]["text"]["content"], PATCH);
    assert_eq!(left_pad["licenses"][0]["expression"], "WTFPL");
    let has = |one: &Value, name: &str, begin: &str| {
        let properties = one["properties"].as_array().unwrap();
        properties.iter().any(|one| one["name"] == name && one["value"].as_str().unwrap().starts_with(begin))
    };
    assert!(has(left_pad, "dkumonitor:patch", "patches/left-pad.patch"), "{left_pad}");
    assert!(bill.iter().all(|(_, one)| has(one, "dkumonitor:sum", "10c0/")), "{bill:#?}");
    assert!(bill.iter().filter(|(_, one)| one.get("pedigree").is_some()).count() == 1, "{bill:#?}");
}

#[test]
fn both_ways_in_which_yarn_installs_give_the_same_bill() {
    let plug = Pages::new("");
    plug.package().good();
    let bill = plug.bill();
    assert_is_right(&bill);
    let texts = fs::read_to_string(plug.place.tree().join("licenses/THIRD-PARTY.txt")).unwrap();
    assert!(texts.contains("Copyright (c) Facebook, Inc. and its affiliates") && texts.contains("DO WHAT THE FUCK"), "{texts}");
    let modules = Pages::new("nodeLinker: node-modules\n");
    modules.package().good();
    let same = |bill: &[(String, Value)]| bill.iter().map(|(_, one)| one.clone()).collect::<Vec<_>>();
    assert_eq!(same(&modules.bill()), same(&bill));
    // A zip that is gone is fetched again, for the account alone.
    let zip = zip_of("object-assign-npm-4.1.1");
    fs::remove_file(&zip).unwrap();
    plug.collect_anew("pages");
    let said = plug.package().good();
    assert!(said.contains("build from the store"), "{said}");
    assert_eq!(plug.bill().len(), bill.len());
    // One that is another than the lock's stops the build.
    let good = fs::read(&zip).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&zip, bad).unwrap();
    plug.collect_anew("other");
    let refused = plug.package();
    fs::write(&zip, good).unwrap();
    refused.bad(8, &["pages, step build", zip.to_str().unwrap(), "not the one that yarn.lock pins"]);
    plug.package().good();
}
