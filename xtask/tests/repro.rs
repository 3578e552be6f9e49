//! Building twice with real builds: what is the same passes, and what is not is named with its reason.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{GOOD_MAKEFILE, Outcome, compiled, ministack_place as build_place, workspace};
use std::process::Command;

/// A make file that does what the recipe wants, with a program of this content.
fn making(content: &str) -> String {
    GOOD_MAKEFILE.replace("echo made > thing", &format!("echo {content} > thing"))
}

fn repro(makefile: &str) -> Outcome {
    let place = compiled(makefile);
    let (dist, second) = (place.path("dist"), place.path("second"));
    std::fs::create_dir(&second).unwrap();
    let outcome = place.xtask(&["repro", "--dist-dir", dist.to_str().unwrap(), "--place", second.to_str().unwrap()]);
    assert_eq!(second.read_dir().unwrap().count(), 0, "the second build was left behind");
    outcome
}

#[test]
fn what_comes_out_the_same_is_said_to_be_the_same() {
    let text = repro(&making("made")).good();
    assert!(text.contains("both builds are the same") && text.contains("✓ thing: the same"), "{text}");
    assert!(text.contains("both builds lie on one file system"), "{text}");
}

#[test]
fn a_step_that_writes_the_time_is_named_with_the_time() {
    let text = repro(&making("made at $$(date +%s%N)"))
        .bad(12, &["the two builds differ", "/bin/thing: content", "line 1: \"made at "]);
    assert!(text.contains("these are times: 2") && text.contains("✗ thing: 1 of "), "{text}");
}

#[test]
fn a_step_that_writes_where_and_by_whom_it_was_built_is_named() {
    let text = repro(&making("in $$PWD")).bad(12, &["/bin/thing: content"]);
    assert!(text.contains("the first names ") && text.contains("the second names "), "{text}");
    let text = repro(&making("user $$(id -u) on $$(uname -n) with $(MAKEFLAGS)")).bad(12, &["/bin/thing: content"]);
    assert!(cfg!(not(target_os = "linux")) || text.contains("another-machine"), "{text}");
}

#[test]
fn a_build_that_fails_fails_repro_as_it_does_and_a_place_that_is_none_before_that() {
    let place = compiled("all:\n\tfalse\n");
    let dist = place.path("dist");
    let words = ["repro", "--dist-dir", dist.to_str().unwrap()];
    let nowhere = place.path("nowhere");
    let text = place.xtask(&[words.as_slice(), &["--place", nowhere.to_str().unwrap()]].concat()).bad(2, &["--place DIR"]);
    assert!(!text.contains("first:"), "{text}");
    place.xtask(&words).bad(7, &["the first build fails"]);
}

/// What a step can leave of where, when and by whom it was run: a file's name, the commands that write it to `$@`, and what has to be
/// said of it.
const PLANTED: [(&str, &str, &[&str]); 10] = [
    ("a-path", "echo in $$PWD > $@", &["the first names", "the second names its own places"]),
    (
        "b-program",
        "echo 'char p[] = \"'$$PWD'\"; int main(void) { return p[0]; }' | cc -x c -o $@ -",
        &["the second names its own places"],
    ),
    ("c-time", "date +%s > $@; sleep 1.1", &["these are times: 2"]),
    ("d-jobs", "echo $(MAKEFLAGS) > $@", &["jobs that were run at once"]),
    ("e-user", "id -u > $@", &["who built it: ", "and 64124"]),
    ("f-host", "uname -n > $@", &["the second names the name of the machine that built it: \"another-machine"]),
    ("g-variable", "echo $$PATH > $@", &["the second names its own places"]),
    ("h-random", "head -c 16 /dev/urandom | sha256sum > $@", &["these look random"]),
    ("i-packed", "date +%N > y; gzip -c y > $@", &["gzip"]),
    (
        "j-zip",
        "echo in $$PWD > z; python3 -m zipfile -c $@ z",
        &["the second names its own places", "inside the zip, z: line 1: "],
    ),
];

#[test]
fn whatever_a_step_leaves_of_its_surroundings_is_named_with_its_reason() {
    let place = compiled("");
    let mut recipe = "summary = \"x\"\n[[step]]\nname = \"compile\"\n[step.autotools]\n".to_owned();
    let mut makefile = format!(
        "all: {}\n\ninstall:\n\tmkdir -p \"$(DESTDIR)/opt\"\n\tcp ?-* \"$(DESTDIR)/opt\"\n\n",
        PLANTED.map(|one| one.0).join(" ")
    );
    for (name, command, _) in PLANTED {
        recipe += &format!("[[install]]\nfrom = \"dest/opt/{name}\"\nto = \"share/{name}\"\n");
        makefile += &format!("{name}:\n\t{command}\n\n");
    }
    place.write("stack/recipes/thing.toml", recipe);
    place.write("stack/thing/Makefile", makefile);
    let dist = place.path("dist");
    let text = place.xtask(&["repro", "--dist-dir", dist.to_str().unwrap()]).bad(12, &["the two builds differ"]);
    for (name, _, told) in PLANTED {
        let (_, from) =
            text.split_once(&format!("/share/{name}: content")).unwrap_or_else(|| panic!("{name} is not named: {text}"));
        let part = from.split("\n  - ").next().unwrap();
        // Without namespaces the user and the machine are the same.
        let wanted = cfg!(target_os = "linux") || !["e-user", "f-host"].contains(&name);
        assert!(!wanted || told.iter().all(|words| part.contains(words)), "{name}: {told:?} are not in {part}");
    }
}

/// The order of names is the file system's.
#[test]
#[cfg(target_os = "linux")]
fn a_step_that_takes_names_as_they_come_is_named_where_file_systems_differ() {
    let names = "for name in one two three four five six seven eight nine ten; do touch names/$name; done; ls -U names";
    let place = compiled(&making(&format!("$$(mkdir names; {})", names.replace('$', "$$"))));
    // Compilers work among the temporary files, since the place has a blank in its name.
    let listed = |folder: &std::path::Path| {
        let apart = tempfile::tempdir_in(folder).ok()?;
        let script = format!("mkdir names; {names}");
        Some(Command::new("sh").arg("-c").arg(script).current_dir(apart.path()).output().unwrap().stdout)
    };
    let memory = std::path::Path::new("/dev/shm");
    if listed(memory).is_none_or(|there| listed(&std::env::temp_dir()) == Some(there)) {
        eprintln!("no other file system is here that gives names in another order");
        return;
    }
    let memory = tempfile::Builder::new().prefix("another-disk-").tempdir_in(memory).unwrap();
    let dist = place.path("dist");
    let words = ["repro", "--dist-dir", dist.to_str().unwrap(), "--place"];
    let text = place.xtask(&[words.as_slice(), &[memory.path().to_str().unwrap()]].concat());
    let text = text.bad(12, &["/bin/thing: content", "the same words in another order"]);
    assert!(!text.contains("one file system"), "{text}");
}

/// The first build is the one of the other tests; the second one is all that this costs.
#[test]
fn the_miniature_stack_comes_out_the_same_byte_by_byte() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("repro").arg("--stack").arg(workspace().join("examples/ministack"));
    command.arg("--build-dir").arg(build_place("build")).arg("--dist-dir").arg(build_place("dist"));
    let text = Outcome::of(&command.output().unwrap()).good();
    for name in ["carbonapi", "collectd", "go-carbon", "grafana", "launcher"] {
        assert!(text.contains(&format!("✓ {name}: the same")), "{text}");
    }
    assert!(text.contains("every byte of the archive"), "{text}");
}
