//! The engine of the real program: every change rebuilds exactly what it must, whatever is damaged is found and made again,
//! and a kill at any instant costs nothing but the step that ran.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Outcome, Place, Tmpfs};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Makes `out/three` of `out/two` of `out/one`, each by a step of its own; every rule that runs is counted. A folder that
/// stays empty, a link, a file that goes away: all that a step can do to its folder.
const MAKEFILE: &str = "
out/one: one.in
	@echo one >> 'COUNTER'
	mkdir -p out empty/inner
	cp one.in $@
	ln -s one out/link
out/two: out/one
	@echo two >> 'COUNTER'
	test -d empty/inner && test \"$$(readlink out/link)\" = one
	rm -r passing
	{ cat out/one; echo $(WORD); } > $@
out/three: out/two
	@echo three >> 'COUNTER'
	test ! -e passing
	{ cat out/two; echo three; } > $@
install:
	mkdir -p \"$(DESTDIR)/opt\"
	install -m 755 out/three \"$(DESTDIR)/opt/three\"
";

const STEPS: &str = "
[[step]]
name = \"one\"
[step.autotools]
targets = [\"out/one\"]
install = false
[[step]]
name = \"two\"
[step.env]
WORD = \"a word\"
[step.autotools]
targets = [\"out/two\"]
install = false
[[step]]
name = \"three\"
[step.autotools]
targets = [\"out/three\"]
[[install]]
from = \"dest/opt/three\"
to = \"bin/three\"
";

/// A stack whose component `thing` has three steps, and a neighbour without any.
struct Stepped {
    place: Place,
}

impl Stepped {
    fn new() -> Self {
        let place = Place::new();
        let lock = ["thing", "other"]
            .map(|name| format!("[[source]]\nname = \"{name}\"\nversion = \"1\"\npath = \"{name}\"\nlicense = \"MIT\"\n"));
        place.write("stack/vendor.lock", lock.concat());
        let counter = place.path("counter");
        place.write("stack/thing/Makefile", MAKEFILE.replace("COUNTER", counter.to_str().unwrap()));
        place.write("stack/thing/one.in", "the source\n");
        place.write("stack/thing/passing/file", "soon gone\n");
        let configure = place.write("stack/thing/configure", "#!/bin/sh\nexit 0\n");
        fs::set_permissions(configure, fs::Permissions::from_mode(0o755)).unwrap();
        place.write("stack/other/file", "a neighbour\n");
        place.write("stack/recipes/other.toml", "summary = \"x\"\n[[install]]\nfrom = \"src/file\"\nto = \"share/other\"\n");
        let stepped = Self { place };
        stepped.recipe(|text| text);
        stepped
    }

    /// Writes the recipe, changed.
    fn recipe(&self, change: impl FnOnce(String) -> String) {
        self.place.write("stack/recipes/thing.toml", change(format!("summary = \"x\"\n{STEPS}")));
    }

    fn package(&self, args: &[&str]) -> Outcome {
        let mut command = self.place.command(&[&["package"], args].concat());
        Outcome::of(&command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap())
    }

    /// The rules that have run since this was asked last.
    fn counted(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.path("counter")).unwrap_or_default();
        let _ = fs::remove_file(self.place.path("counter"));
        text.lines().map(str::to_owned).collect()
    }

    /// Packages, and says which rules have run.
    #[track_caller]
    fn runs(&self) -> Vec<String> {
        self.package(&[]).good();
        self.counted()
    }

    fn archive(&self) -> Vec<u8> {
        fs::read(self.place.archive()).unwrap()
    }

    fn store(&self, inner: &str) -> PathBuf {
        self.place.path("build/store").join(inner)
    }

    /// The files below a folder whose name ends so.
    fn files(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let found = walkdir::WalkDir::new(self.place.path(folder)).sort_by_file_name().into_iter().flatten();
        let files = found.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
        files.filter(|path| path.to_str().unwrap().ends_with(ending)).collect()
    }

    /// The object that holds this.
    fn object(&self, content: &str) -> PathBuf {
        let hash = common::sha256(content.as_bytes());
        self.store("objects").join(&hash[..2]).join(hash)
    }
}

/// Flips one bit in the middle of a file and gives it its old time back, as a broken disk would.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let meta = fs::metadata(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
    fs::File::open(path).unwrap().set_modified(meta.modified().unwrap()).unwrap();
}

const THREE: &str = "the source\na word\nthree\n";

#[test]
fn every_change_runs_exactly_the_steps_that_it_must() {
    let stepped = Stepped::new();
    let thing = || fs::read_to_string(stepped.place.tree().join("bin/three")).unwrap();
    assert_eq!(stepped.runs(), ["one", "two", "three"]);
    assert_eq!(thing(), THREE);
    assert_eq!(stepped.runs(), [""; 0]);
    // What a step takes of the machine and what the component is changes nothing.
    stepped.recipe(|text| text.replace("\"x\"", "\"y\"").replace("name = \"two\"", "name = \"two\"\nmemory-mb = 7\ncores = 2"));
    assert_eq!(stepped.runs(), [""; 0]);
    stepped.recipe(|text| text.replace("a word", "another"));
    assert_eq!(stepped.runs(), ["two", "three"]);
    assert_eq!(thing(), "the source\nanother\nthree\n");
    stepped.recipe(|text| text.replace("a word", "another").replace("\"out/three\"]", "\"out/three\", \"out/one\"]"));
    assert_eq!(stepped.runs(), ["three"]);
    // The last result but one is still there.
    stepped.recipe(|text| text.replace("a word", "another"));
    assert_eq!(stepped.runs(), [""; 0]);
    stepped.recipe(|text| text.replace("a word", "another").replace("bin/three", "bin/drei"));
    assert_eq!(stepped.runs(), [""; 0]);
    assert_eq!(fs::read_to_string(stepped.place.tree().join("bin/drei")).unwrap(), "the source\nanother\nthree\n");
    stepped.place.write("stack/other/file", "a changed neighbour\n");
    assert_eq!(stepped.runs(), [""; 0]);
    assert_eq!(fs::read_to_string(stepped.place.tree().join("share/other")).unwrap(), "a changed neighbour\n");
    stepped.place.write("stack/thing/one.in", "another source\n");
    assert_eq!(stepped.runs(), ["one", "two", "three"]);
}

#[test]
fn the_plan_says_what_is_cached_and_explain_what_differs_in_which_step() {
    let stepped = Stepped::new();
    stepped.package(&[]).good();
    let text = stepped.place.xtask(&["explain", "thing"]).good();
    assert!(text.contains("thing is built") && text.contains("step two: as it was"), "{text}");
    stepped.recipe(|text| text.replace("a word", "another").replace("\"out/three\"]", "\"out/three\", \"out/one\"]"));
    let text = stepped.place.xtask(&["explain", "thing"]).good();
    for part in ["step one: as it was", "step two: recipe changed", "step three: recipe changed", "collect: as it was, but"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let text = stepped.place.xtask(&["plan"]).good();
    for part in [
        "to be built: step two: recipe changed, step three: recipe changed",
        "unpack: to do: for what comes after it",
        "one (cc",
        "cached, laid out from the store",
        "collect: to do: comes after step two",
        "other 1, x\n│  ready",
        "stage ",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let plan: serde_json::Value = serde_json::from_str(&stepped.place.xtask(&["plan", "--json"]).good()).unwrap();
    let nodes = plan["nodes"].as_array().unwrap();
    let states: Vec<_> = nodes
        .iter()
        .filter(|node| node["component"] == "thing")
        .map(|node| (node["name"].as_str().unwrap(), node["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("unpack", "run"), ("one", "reuse"), ("two", "run"), ("three", "run"), ("collect", "run")]);
    let graph = stepped.place.xtask(&["plan", "--dot"]).good();
    assert!(graph.contains("digraph plan") && graph.contains(r"thing\ntwo"), "{graph}");
}

/// Cargo reads its user's configuration wherever it compiles.
#[test]
fn what_cargo_was_told_about_compiling_is_part_of_the_key_and_where_crates_come_from_is_not() {
    let place = Place::new();
    let explain = |config: &str| {
        place.write("cargo/config.toml", config);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["explain", "launcher", "--stack"]).arg(common::workspace().join("examples/ministack"));
        command.arg("--build-dir").arg(place.path("build")).env("CARGO_HOME", place.path("cargo"));
        Outcome::of(&command.output().unwrap()).good()
    };
    let plain = explain("[source.crates-io]\nreplace-with = \"x\"\n[source.x]\nregistry = \"sparse+https://127.0.0.1:1/\"\n");
    assert!(!plain.contains("config.toml"), "{plain}");
    let told = explain("[build]\nrustflags = [\"-Ctarget-cpu=native\"]\n[term]\nquiet = true\n");
    assert!(told.contains("cargo's config.toml"), "{told}");
    assert_ne!(told, explain("[profile.release]\nopt-level = 3\n"));
}

#[test]
fn whatever_is_damaged_is_named_and_made_again_with_the_same_bytes() {
    let stepped = Stepped::new();
    stepped.package(&[]).good();
    let whole = stepped.archive();
    stepped.counted();
    let is_whole = |what: &str| {
        assert_eq!(stepped.archive(), whole, "{what}");
        assert_eq!(fs::read_to_string(stepped.place.tree().join("bin/three")).unwrap(), THREE, "{what}");
    };
    // An object that is not used is believed; used, or looked at by a paranoid run, it is found.
    flip(&stepped.object(THREE));
    assert_eq!(stepped.runs(), [""; 0]);
    stepped.package(&["--paranoid"]).good_and_said("bin/three has other content");
    assert_eq!(stepped.counted(), [""; 0], "the steps' results were whole");
    is_whole("paranoid");
    for ending in ["", "gone"] {
        let object = stepped.object(THREE);
        if ending.is_empty() {
            flip(&object);
        } else {
            fs::remove_file(&object).unwrap();
        }
        fs::remove_dir_all(stepped.place.tree()).unwrap();
        stepped.package(&[]).good_and_said("the kept result of thing is damaged: bin/three");
        assert_eq!(stepped.counted(), [""; 0]);
        is_whole("object");
    }
    // A step's result, met when what comes after it has to be made.
    let record = stepped.files("build/store/results/thing/step-two", ".json").remove(0);
    for damage in [flip, |path: &Path| fs::remove_file(path).unwrap()] {
        let pack = packed(&record);
        damage(&stepped.store("objects").join(&pack[..2]).join(&pack));
        fs::remove_dir_all(stepped.store("results/thing/collect")).unwrap();
        stepped.package(&[]).good_and_said("step two, is damaged");
        assert_eq!(stepped.counted(), ["two", "three"]);
        is_whole("packed files");
    }
    for record in [record, stepped.files("build/store/results/thing/collect", ".json").remove(0)] {
        flip(&record);
        stepped.package(&["--paranoid"]).good_and_said(record.file_name().unwrap().to_str().unwrap());
        is_whole("record");
    }
    stepped.counted();
    for (folder, ending) in [("build/store/results", ".seen"), ("build/state", ".json"), ("build/cache", "versions.json")] {
        let files = stepped.files(folder, ending);
        assert!(!files.is_empty(), "{folder}");
        files.iter().for_each(|path| flip(path));
        fs::remove_dir_all(stepped.place.tree()).unwrap();
        assert_eq!(stepped.runs(), [""; 0], "{folder}");
        is_whole(folder);
    }
    flip(&stepped.place.tree().join("bin/three"));
    stepped.package(&[]).good_and_said("bin/three was changed in");
    is_whole("staged file");
    for path in [stepped.place.archive(), stepped.place.archive().with_extension("gz.sha256")] {
        flip(&path);
        stepped.package(&[]).good_and_said("was damaged");
        is_whole("archive");
    }
    stepped.files("build/cache/archive", "").iter().for_each(|path| flip(path));
    fs::remove_file(stepped.place.archive()).unwrap();
    assert_eq!(stepped.runs(), [""; 0]);
    is_whole("compressed pieces");
}

impl Outcome {
    /// Fails the test unless the run was good and said this.
    #[track_caller]
    fn good_and_said(self, part: &str) {
        let text = self.good();
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
}

/// The object that a step's record names.
fn packed(record: &Path) -> String {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    record["record"]["content"]["pack"]["sha256"].as_str().unwrap().to_owned()
}

#[test]
fn a_machine_without_a_way_out_is_told_before_more_is_begun() {
    let stepped = Stepped::new();
    let lock = fs::read_to_string(stepped.place.path("stack/vendor.lock")).unwrap();
    let pin = format!("urls = [\"https://127.0.0.1:1/other.tar.gz\"]\nsha256 = \"{}\"\nsize = 1", "0".repeat(64));
    stepped.place.write("stack/vendor.lock", lock.replace("path = \"other\"", &pin));
    let makefile = fs::read_to_string(stepped.place.path("stack/thing/Makefile")).unwrap();
    stepped.place.write("stack/thing/Makefile", makefile.replace("\tcp one.in $@", "\tsleep 3\n\tcp one.in $@"));
    let text = stepped.package(&[]).bad(4, &["cannot reach any address of other 1", "ways out:"]);
    // The first step may run already; no other one is begun.
    assert!(!stepped.counted().contains(&"two".to_owned()), "{text}");
}

#[test]
fn a_damaged_source_archive_is_found_when_it_is_used() {
    let place = Place::new();
    let archive = common::tar_gz(&[("thing-1.0/hello.txt", "hello\n")]);
    let mirror = place.write("mirror/thing-1.0+x.tar.gz", &archive);
    place.one_component(&[format!("file://{}", mirror.display()).replace(' ', "%20")], &archive);
    place.xtask(&["package"]).good();
    let stored = fs::read_dir(place.path("build/sources")).unwrap().flatten().map(|entry| entry.path());
    let stored = stored.into_iter().find(|path| path.extension().is_some_and(|end| end == "gz")).unwrap();
    flip(&stored);
    place.xtask(&["package"]).good();
    fs::remove_dir_all(place.path("build/store/results")).unwrap();
    let text = place.xtask(&["package"]).good();
    assert!(text.contains("is damaged (sha256") && text.contains("thrown away"), "{text}");
    flip(&stored);
    let text = place.xtask(&["package", "--paranoid"]).good();
    assert!(text.contains("is damaged (sha256") && text.contains("unchanged") && !stored.exists(), "{text}");
    assert_eq!(fs::read_to_string(place.tree().join("share/hello.txt")).unwrap(), "hello\n");
}

#[test]
fn a_mere_touch_costs_a_hash_and_a_killed_run_believes_nothing() {
    let stepped = Stepped::new();
    stepped.package(&[]).good();
    stepped.counted();
    let (object, file) = (stepped.object(THREE), stepped.place.tree().join("bin/three"));
    for path in [&object, &file, &stepped.place.archive()] {
        fs::File::open(path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    }
    let text = stepped.package(&[]).good();
    assert!(text.contains("unchanged") && !text.contains("damaged"), "{text}");
    fs::write(stepped.store("working"), "1").unwrap();
    let text = stepped.package(&[]).good();
    assert!(text.contains("the last run was killed: what is used is hashed first"), "{text}");
    assert!(!stepped.store("working").exists());
    let text = stepped.package(&[]).good();
    assert!(!text.contains("killed"), "{text}");
    fs::write(stepped.store("boot"), "another").unwrap();
    assert!(stepped.package(&[]).good().contains("was started anew"));
    assert_eq!(stepped.counted(), [""; 0]);
}

#[test]
fn a_shell_is_where_the_step_runs_with_what_it_has_and_without_network() {
    let stepped = Stepped::new();
    let look = "pwd; cat out/one; ls; echo \"$WORD/$HOME/$LC_ALL\"; ls /sys/class/net | wc -l";
    // Nothing was built yet: what comes before the step is made.
    let text = stepped.place.xtask(&["shell", "thing", "--step", "two", "--", "sh", "-c", look]).good();
    let build = fs::canonicalize(stepped.place.path("build")).unwrap();
    assert!(text.contains("the source") && text.contains("passing") && text.contains("a word/"), "{text}");
    assert!(text.contains("/home/C") && !text.contains(build.to_str().unwrap()), "{text}");
    assert_eq!(stepped.counted(), ["one"]);
    stepped.place.xtask(&["shell", "thing", "--step", "four"]).bad(2, &["four", "one, two, three"]);
    stepped.place.xtask(&["shell", "thing", "--step", "one", "--", "sh", "-c", "exit 7"]).bad(7, &[]);
    // A step that fails leaves its folder, and says how to get there.
    stepped.recipe(|text| text.replace("\"out/two\"", "\"out/two\", \"no-such-target\""));
    let text = stepped.package(&[]).bad(7, &["a shell:     cargo xtask shell thing --step two --stack"]);
    assert!(text.contains("--build-dir"), "{text}");
    stepped.counted();
    let text = stepped.place.xtask(&["shell", "thing", "--", "cat", "out/two"]).good();
    assert!(text.contains("a word") && text.contains("as step two has left it"), "{text}");
    assert_eq!(stepped.counted(), [""; 0]);
}

/// Not by what tools say, who have switches of their own, but by the namespace that the kernel names.
#[test]
#[cfg(target_os = "linux")]
fn a_step_and_its_shell_are_in_a_network_of_their_own() {
    let probe = std::process::Command::new(env!("CARGO_BIN_EXE_xtask")).args(["without-network", "--", "true"]).status();
    if !probe.unwrap().success() {
        eprintln!("no namespaces are to be had here");
        return;
    }
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let stepped = Stepped::new();
    let noted = stepped.place.path("noted");
    let makefile = fs::read_to_string(stepped.place.path("stack/thing/Makefile")).unwrap();
    let note = format!("\treadlink /proc/self/ns/net > '{}'\n\tcp one.in $@", noted.display());
    stepped.place.write("stack/thing/Makefile", makefile.replace("\tcp one.in $@", &note));
    stepped.package(&[]).good();
    let of_step = fs::read_to_string(noted).unwrap();
    let of_shell = stepped.place.xtask(&["shell", "thing", "--step", "two", "--", "readlink", "/proc/self/ns/net"]).good();
    for text in [&of_step, &of_shell] {
        assert!(text.contains("net:["), "{text}");
        assert!(!text.contains(own.to_str().unwrap()), "it is in the network of everybody: {text}");
    }
}

#[test]
fn a_full_disk_leaves_nothing_in_the_store_that_could_be_taken_for_whole() {
    let stepped = Stepped::new();
    stepped.place.write("stack/thing/one.in", common::noise(1_500_000));
    let Some(store) = Tmpfs::mount(stepped.store("")) else {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root and can mount a tmpfs");
        eprintln!("passed over: mounting a tmpfs needs root");
        return;
    };
    stepped.package(&[]).bad(8, &["No space left on device", "cannot keep"]);
    assert!(stepped.files("build/store/results/thing", ".json").is_empty());
    assert!(stepped.files("build/store/drafts", "").is_empty());
    drop(store);
    stepped.counted();
    assert_eq!(stepped.runs(), ["one", "two", "three"]);
}

#[test]
fn a_daemon_that_a_package_starts_does_not_hold_the_build_folder() {
    let stepped = Stepped::new();
    let place = &stepped.place;
    // A package manager that brings what makes `configure`, and a daemon; it is asked when the source is unpacked.
    fs::remove_file(place.path("stack/thing/configure")).unwrap();
    stepped.recipe(|text| {
        let text = text.replacen("[[step]]", "[needs]\nbootstrap-tools = [\"frobnicate\"]\n[[step]]", 1);
        text.replace("[step.autotools]\n", "[step.autotools]\nbootstrap = [\"frobnicate\"]\n")
    });
    let program = |name: &str, text: &str| {
        let path = place.write(&format!("bin/{name}"), format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let (bin, daemon) = (place.path("bin"), place.path("daemon"));
    program("sudo", "exec \"$@\"");
    let install = format!(
        "test \"$1\" = install || exit 0\n\
         printf '#!/bin/sh\\necho \"#!/bin/sh\" > configure; chmod 755 configure\\n' > '{0}/frobnicate'; chmod 755 '{0}/frobnicate'\n\
         sleep 1000 </dev/null >/dev/null 2>&1 &\n\
         echo $! > '{1}'",
        bin.display(),
        daemon.display()
    );
    program("apt-get", &install);
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())));
    let path = path.unwrap();
    let run = |args: &[&str]| Outcome::of(&place.command(args).env("PATH", &path).output().unwrap());
    let outcome = run(&["package", "--install-missing"]);
    let pid = fs::read_to_string(&daemon).ok().and_then(|text| rustix::process::Pid::from_raw(text.trim().parse().unwrap()));
    let again = run(&["package", "--no-wait"]);
    let runs = pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
    outcome.good();
    assert!(runs, "the daemon has ended by itself");
    again.good();
}

/// Numbers that look random and are the same in every run.
fn pseudo_random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

#[test]
fn killed_at_any_instant_the_next_run_goes_on_to_the_same_bytes() {
    let stepped = Stepped::new();
    let place = &stepped.place;
    let package = || {
        let mut command = place.command(&["package"]);
        command.env("SOURCE_DATE_EPOCH", "1700000000").stderr(std::process::Stdio::null());
        command
    };
    let started = Instant::now();
    stepped.package(&[]).good();
    let whole = started.elapsed();
    let undisturbed = stepped.archive();
    let mut random = pseudo_random(7);
    let (mut killed, mut ended) = (0, 0);
    for _ in 0..60 {
        // Each time from another state: nothing there, one step's result there, all there, or what the last kill left.
        match random() % 6 {
            0 => drop(fs::remove_dir_all(place.path("build"))),
            1 => drop(fs::remove_dir_all(place.path("dist"))),
            2 => drop(fs::remove_dir_all(stepped.store("results/thing/collect"))),
            3 => ["collect", "step-two", "step-three"]
                .iter()
                .for_each(|slot| drop(fs::remove_dir_all(stepped.store("results/thing").join(slot)))),
            _ => {}
        }
        let mut run = package().spawn().unwrap();
        let instant = Instant::now() + whole.mul_f64((random() % 1000) as f64 / 1000.0);
        while Instant::now() < instant {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = run.kill();
        if run.wait().unwrap().success() {
            ended += 1;
        } else {
            killed += 1;
        }
        // Whatever has its final name is whole.
        if place.archive().exists() {
            assert_eq!(stepped.archive(), undisturbed);
        }
        if place.tree().exists() {
            assert_eq!(fs::read_to_string(place.tree().join("bin/three")).unwrap(), THREE);
            assert!(place.tree().join("manifest.json").exists());
        }
    }
    assert!(killed >= 10, "only {killed} of the runs were killed, {ended} ended before");
    // The last run has to stage and to archive, and tidies up on the way; few kills hit the moment of staging, so one of
    // their leavings is laid there.
    let bundle = place.tree().file_name().unwrap().to_str().unwrap().to_owned();
    fs::create_dir_all(place.path("dist").join(format!(".draft-{bundle}-killed/new"))).unwrap();
    fs::remove_dir_all(place.tree()).or_else(|error| if place.tree().exists() { Err(error) } else { Ok(()) }).unwrap();
    stepped.package(&[]).good();
    assert_eq!(stepped.archive(), undisturbed);
    let left: Vec<_> = fs::read_dir(place.path("dist")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    // The tree, the archive with its checksum, and what tells of them.
    assert_eq!(left.len(), 5, "{left:?}");
    assert!(stepped.files("build/store/drafts", "").is_empty());
}
