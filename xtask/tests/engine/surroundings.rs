//! What a step has around it: its folder, its network, a shell in its place, daemons that it leaves.

use crate::common::{self, GOOD_MAKEFILE, Outcome, compiled};
use crate::stepped::Stepped;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

#[test]
fn a_machine_without_a_way_out_is_told_before_more_is_begun() {
    let stepped = Stepped::new();
    let lock = fs::read_to_string(stepped.place.path("stack/vendor.lock")).unwrap();
    let pin = format!("urls = [\"https://127.0.0.1:1/other.tar.gz\"]\nsha256 = \"{}\"\nsize = 1", "0".repeat(64));
    stepped.place.write("stack/vendor.lock", lock.replace("path = \"other\"", &pin));
    let makefile = fs::read_to_string(stepped.place.path("stack/thing/Makefile")).unwrap();
    // It takes until the fetching has failed, or a minute.
    let events = stepped.place.path("events");
    let wait =
        format!("\tfor i in `seq 600`; do ! grep -q '\"result\":\"failed\"' '{}' || break; sleep 0.1; done", events.display());
    stepped.place.write("stack/thing/Makefile", makefile.replace("\tcp one.in $@", &format!("{wait}\n\tcp one.in $@")));
    let mut run = stepped.place.command(&["package", "--json"]);
    let outcome = Outcome::of(&run.stdout(fs::File::create(&events).unwrap()).output().unwrap());
    let text = outcome.bad(4, &["cannot reach any address of other 1", "ways out:"]);
    // The first step may run already; no other one is begun.
    assert!(!stepped.counted().contains(&"two".to_owned()), "{text}");
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
    // Without words of one's own one is told what the step runs.
    let mut shell = stepped.place.command(&["shell", "thing", "--step", "two"]);
    let text = Outcome::of(&shell.env("SHELL", "/bin/true").output().unwrap()).good();
    assert!(text.contains("step two of thing runs, without network:\n    ./configure\n    make -j"), "{text}");
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
    let probe = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["without-network", "--", "true"]).status();
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

/// Compilers work in a stand-in for a build folder whose path has blanks; the folder of temporary files may have some, too, or may
/// not be there.
#[test]
fn a_folder_of_temporary_files_that_make_cannot_bear_is_not_used_for_compiling() {
    let place = compiled(&GOOD_MAKEFILE.replace("all:\n", "all:\n\ttest $(words $(CURDIR)) = 1\n"));
    let blank = place.path("temporary files");
    fs::create_dir(&blank).unwrap();
    for folder in [blank, place.path("nowhere"), "relative".into()] {
        drop(fs::remove_dir_all(place.path("build")));
        Outcome::of(&place.command(&["package"]).env("TMPDIR", folder).output().unwrap()).good();
    }
}

/// Where this program was compiled is one path to the checkout; there may be others.
#[test]
fn the_roots_stack_is_that_by_whatever_path_one_comes_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("another-name");
    std::os::unix::fs::symlink(common::workspace(), &link).unwrap();
    let name = |command: &mut Command| {
        let text = Outcome::of(&command.output().unwrap()).good();
        text.lines().next().unwrap().to_owned()
    };
    let plan = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["plan", "--build-dir"]).arg(folder.path().join("build"));
        command
    };
    let usual = format!("dkumonitor-{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(name(&mut plan()), usual);
    assert_eq!(name(plan().arg("--stack").arg(&link)), usual);
    assert_eq!(name(plan().env("DKUMONITOR_CHECKOUT", &link)), usual);
}

#[test]
fn a_repository_that_git_cannot_read_is_told_where_the_archive_bears_another_time_for_it() {
    let place = compiled(GOOD_MAKEFILE);
    let told = "git does not tell when the stack was committed (";
    let text = place.xtask(&["package", "--skip-archive"]).good();
    assert!(!text.contains(told), "it is in no repository: {text}");
    place.write("stack/.git", "gitdir: nowhere\n");
    let text = place.xtask(&["package"]).good();
    assert!(text.contains(told) && text.contains("SOURCE_DATE_EPOCH"), "{text}");
}
