//! docs/recipes.md says what a recipe may say: its example is built, and its tables have all keys and no others.

use crate::common::{Place, workspace};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

fn page(name: &str) -> String {
    fs::read_to_string(workspace().join("docs").join(name)).unwrap()
}

/// The block of code of the page that is marked so.
fn block(page: &str, mark: &str) -> String {
    let begin = format!("```{mark}\n");
    let rest = page.split_once(&begin).unwrap_or_else(|| panic!("no block {mark}")).1;
    rest.split_once("```").unwrap().0.to_owned()
}

/// The words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(|word| word.trim_matches(['[', ']']).to_owned())
}

/// The first column of each table by what its head says, "key" for one that says no more.
fn tables(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut table = None;
    for line in page.lines() {
        let Some(cell) = line.strip_prefix("| ").and_then(|line| line.split('|').next()) else {
            // The line below a head begins otherwise.
            table = table.filter(|_| line.starts_with("|-"));
            continue;
        };
        match &table {
            None => table = Some(quoted(cell).next().unwrap_or_else(|| cell.trim().to_owned())),
            Some(name) => found.entry(name.clone()).or_default().extend(quoted(cell)),
        }
    }
    found
}

/// The keys that are expected in the place of one that nobody knows.
fn known(lock: &str, recipe: &str) -> BTreeSet<String> {
    let place = Place::new();
    place.write("stack/vendor.lock", lock);
    place.write("stack/recipes/thing.toml", recipe);
    let text = place.xtask(&["plan"]).bad(2, &["unknown field `nonsense`"]);
    let line = text.lines().find(|line| line.contains("unknown field `nonsense`")).unwrap();
    quoted(line.split_once("expected").unwrap().1).collect()
}

#[test]
fn the_tables_have_all_keys_and_no_others() {
    let mut tables = tables(&page("recipes.md"));
    // One table of the page has only the keys that stand beside those of another page.
    let mut service = tables.remove("key").unwrap();
    let recipe = ["summary", "source", "patches", "toolchain", "needs", "step", "install", "service"].map(str::to_owned);
    assert!(recipe.iter().all(|key| service.remove(key)), "{service:?}");
    assert_eq!(known("", "nonsense = 1\nsummary = \"x\"\n"), BTreeSet::from(recipe));
    let of_services = page("services.md");
    let keys = of_services.split_once("## Keys").unwrap().1.split_once("A **probe**").unwrap().0;
    service.extend(self::tables(keys).remove("key").unwrap());
    assert_eq!(known("", "summary = \"x\"\n[service]\nnonsense = 1\n"), service);
    assert_eq!(known("[[source]]\nnonsense = 1\n", "summary = \"x\"\n"), tables.remove("source").unwrap());
    for (name, keys) in &tables {
        let head = match name.as_str() {
            "step" | "install" => format!("[[{name}]]\n"),
            name if name.starts_with("step.") => format!("[[step]]\nname = \"x\"\n[{name}]\n"),
            name => format!("[{name}]\n"),
        };
        assert_eq!(known("", &format!("summary = \"x\"\n{head}nonsense = 1\n")), *keys, "{name}");
    }
    let names: Vec<_> = tables.keys().map(String::as_str).collect();
    assert_eq!(names, ["install", "needs", "step", "step.autotools", "step.cargo", "step.go", "step.node", "toolchain"]);
}

const MAKEFILE: &str = "
all:
	cc -O2 -DGREETING='\"$(GREETING)\"' -o hello hello.c
install:
	mkdir -p \"$(DESTDIR)PREFIX/bin\"
	cp hello \"$(DESTDIR)PREFIX/bin/hello\"
";

#[test]
fn the_example_is_built() {
    let place = Place::new();
    let page = page("recipes.md");
    place.write("stack/vendor.lock", block(&page, "toml lock"));
    place.write("stack/recipes/hello.toml", block(&page, "toml recipe"));
    place.write("stack/sources/hello/hello.c", "#include <stdio.h>\nint main(void)\n{\n    return puts(GREETING) < 0;\n}\n");
    place.write("stack/sources/hello/Makefile.in", MAKEFILE);
    let configure = "#!/bin/sh\nsed \"s|PREFIX|${1#--prefix=}|\" Makefile.in > Makefile\n";
    let configure = place.write("stack/sources/hello/configure", configure);
    fs::set_permissions(configure, fs::Permissions::from_mode(0o755)).unwrap();
    let patch =
        "--- a/hello.c\n+++ b/hello.c\n@@ -4 +4 @@\n-    return puts(GREETING) < 0;\n+    return puts(GREETING \"!\") < 0;\n";
    place.write("stack/patches/hello/01-louder.patch", patch);
    place.xtask(&["package", "--skip-archive"]).good();
    let output = Command::new(place.tree().join("bin/hello")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from 1.0!\n");
}
