//! What starts the services with the machine: read by systemd's own tools, by Python's reader of property lists, and run by a shell.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;

use crate::bench::{Bench, shell, text};

/// The hardest name that the installer takes.
const HARD: &str = "100% \"d'ata\" $HOME ${x} %n \\t <é&ü> -- `;";

/// A data folder of that name.
fn hostile() -> Bench {
    named(HARD)
}

fn named(name: &str) -> Bench {
    let mut bench =
        Bench::bundle(&[shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")]).with_assets();
    bench.place = PathBuf::from(name);
    assert!(bench.install(&[]).status.success());
    bench
}

/// Runs dkmadmin, as called from the data folder.
fn admin(bench: &Bench, arguments: &[&str]) -> Output {
    Command::new(bench.data().join("bin/dkmadmin")).args(arguments).output().unwrap()
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Root's own folders have to be named; the tests run as root and as others.
fn user() -> &'static str {
    if nix::unistd::geteuid().is_root() { "root" } else { "" }
}

fn printed(bench: &Bench, init: &str, more: &[&str]) -> String {
    let mut words = vec!["install-boot", "--print", "--init", init];
    if !user().is_empty() {
        words.extend(["--user", user()]);
    }
    words.extend(more);
    good(&admin(bench, &words))
}

/// The value of a key of a unit, by its beginning.
fn line<'a>(unit: &'a str, key: &str) -> &'a str {
    unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in\n{unit}"))
}

#[cfg(target_os = "linux")]
fn analyze(words: &[&str], file: &Path) -> Output {
    Command::new("systemd-analyze").args(words).arg(file).output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_takes_the_unit_and_thinks_well_of_it() {
    let bench = hostile();
    let unit = printed(&bench, "systemd", &["--name", "mon"]);
    let file = bench.root().join("mon.service");
    fs::write(&file, &unit).unwrap();
    let verified = analyze(&["verify", "--man=no", "--recursive-errors=no"], &file);
    assert_eq!((verified.status.code(), text(&verified).trim()), (Some(0), "exit status: 0"), "{unit}");
    let rated = analyze(&["security", "--offline=yes", "--threshold=30", "--no-pager"], &file);
    let said = text(&rated);
    assert!(rated.status.success(), "more than 3.0: {said}");
    assert!(said.contains("Overall exposure level for mon.service: "), "{said}");
    assert!(line(&unit, "ReadWritePaths=").contains("100%% \\\"d'ata\\\" $HOME ${x} %%n \\\\t <é&ü> -- `;\""), "{unit}");
    // The shell's own variables are doubled as those in arguments are.
    let start = line(&unit, "ExecStart=");
    assert!(
        start.starts_with("/bin/sh -c 'exec \"$$0\" \"$$@\"' \"/")
            && start.contains("--home")
            && start.contains("$$HOME $${x}"),
        "{unit}"
    );
    assert_eq!((line(&unit, "CapabilityBoundingSet="), line(&unit, "KillMode=")), ("", "process"));
    // 5 s for each of the two, and half a minute.
    assert_eq!(line(&unit, "TimeoutStopSec="), "40");
}

/// systemd looks whether the program is there, by the path that it has read.
#[cfg(target_os = "linux")]
#[test]
fn systemd_reads_the_very_path() {
    let bench = named("100% $HOME ${x} %n <é&ü> -- `;");
    let unit = printed(&bench, "systemd", &["--name", "mon"]);
    let file = bench.root().join("mon.service");
    assert!(line(&unit, "ExecStart=").starts_with("\"/"), "{unit}");
    let verify = || analyze(&["verify", "--man=no", "--recursive-errors=no"], &file);
    fs::write(&file, &unit).unwrap();
    assert!(verify().status.success(), "{}", text(&verify()));
    fs::write(&file, unit.replace("%%n", "%%%%n")).unwrap();
    assert!(!verify().status.success(), "it would take another path, too");
}

#[cfg(target_os = "linux")]
#[test]
fn the_unit_gives_what_the_services_need() {
    let mut services = vec![shell("go-carbon", "exec sleep 1000"), shell("carbonapi", "exec sleep 1000")];
    services[0]["ports"] = json!([{"name": "web", "port": 443}]);
    services[0]["drain-timeout-s"] = json!(7);
    services[0]["folders"] = json!(["storage/whisper"]);
    let bench = Bench::bundle(&services).with_assets();
    let output = bench.install(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let disk = bench.root().join("big disk");
    fs::create_dir(&disk).unwrap();
    fs::remove_dir(bench.data().join("storage/whisper")).unwrap();
    std::os::unix::fs::symlink(&disk, bench.data().join("storage/whisper")).unwrap();
    let unit = printed(&bench, "systemd", &["--writable", "/var/tmp"]);
    assert_eq!(line(&unit, "AmbientCapabilities="), "CAP_NET_BIND_SERVICE");
    assert_eq!(line(&unit, "CapabilityBoundingSet="), "CAP_NET_BIND_SERVICE");
    let writable = format!("\"{}\" \"{}\" \"/var/tmp\"", bench.data().display(), disk.display());
    assert_eq!(line(&unit, "ReadWritePaths="), writable);
    assert_eq!(line(&unit, "TimeoutStopSec="), "47");
}

#[test]
fn launchd_s_job_is_a_property_list_with_the_very_paths() {
    let bench = hostile();
    let file = bench.root().join("job.plist");
    fs::write(&file, printed(&bench, "launchd", &["--name", "mon"])).unwrap();
    let script = "import json,plistlib,sys; print(json.dumps(plistlib.load(open(sys.argv[1],'rb'))))";
    let read = Command::new("python3").args(["-c", script]).arg(&file).output().unwrap();
    let job: serde_json::Value = serde_json::from_str(&good(&read)).unwrap();
    let data = bench.data();
    assert_eq!(job["ProgramArguments"], json!([data.join("bin/dkm"), "supervisor", "--start"]));
    assert_eq!(job["EnvironmentVariables"]["DKM_HOME"], json!(data));
    assert_eq!((&job["Label"], &job["RunAtLoad"], &job["AbandonProcessGroup"]), (&json!("mon"), &json!(true), &json!(true)));
    assert_eq!((&job["KeepAlive"], &job["Umask"]), (&json!({"SuccessfulExit": false}), &json!(0o077)));
}

#[cfg(target_os = "linux")]
#[test]
fn the_init_script_starts_stops_and_tells() {
    let bench = hostile();
    let script = bench.root().join("script");
    fs::write(&script, printed(&bench, "sysvinit", &["--name", "mon"])).unwrap();
    let run = |word: &str| {
        Command::new("/bin/sh").arg(&script).arg(word).current_dir("/").env_remove("DKM_ALLOW_ROOT").output().unwrap()
    };
    let ends = |word: &str, wanted: i32| {
        let output = run(word);
        assert_eq!(output.status.code(), Some(wanted), "{word}: {}", text(&output));
    };
    let header = fs::read_to_string(&script).unwrap();
    let header = &header[header.find("### BEGIN INIT INFO\n").unwrap()..header.find("### END INIT INFO\n").unwrap()];
    for key in [
        "Provides:          mon\n",
        "Required-Start: ",
        "Required-Stop: ",
        "Default-Start: ",
        "Default-Stop: ",
        "Short-Description: ",
    ] {
        assert!(header.contains(&format!("# {key}")), "{header}");
    }
    ends("status", 3);
    ends("start", 0);
    assert_eq!((bench.state("go-carbon").as_str(), bench.state("carbonapi").as_str()), ("running", "running"));
    let before = bench.pid("go-carbon");
    ends("start", 0);
    ends("status", 0);
    // A definition that is new is taken by it.
    let definition = "command = [\"/bin/sleep\", \"1000\"]\n";
    fs::write(bench.data().join("conf/services.d/mine.toml"), definition).unwrap();
    ends("reload", 0);
    assert_eq!(bench.state("mine"), "running");
    assert_eq!(bench.pid("go-carbon"), before);
    ends("restart", 0);
    assert_ne!(bench.pid("go-carbon"), before);
    ends("stop", 0);
    ends("stop", 0);
    ends("status", 3);
    assert_eq!(bench.processes(), Vec::<i32>::new());
    ends("nonsense", 2);
    fs::remove_file(bench.data().join("bundle")).unwrap();
    ends("start", 5);
    ends("status", 4);
    ends("stop", 0);
}

/// At boot it is root who runs the script, and the folder belongs to somebody else.
#[test]
#[cfg(target_os = "linux")]
fn the_init_script_of_root_runs_services_as_the_folders_owner() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can become somebody else");
        return;
    }
    let services = ["go-carbon", "carbonapi"].map(|name| shell(name, "exec sleep 1000"));
    let mut bench = Bench::bundle(&services).with_assets();
    bench.place = PathBuf::from("a \"folder\" of nobody's");
    assert!(bench.install(&[]).status.success());
    // For root no user may be guessed.
    let refused = admin(&bench, &["install-boot", "--print", "--init", "sysvinit"]);
    assert!(!refused.status.success() && text(&refused).contains("would run as root"), "{}", text(&refused));
    let given = Command::new("chown").args(["-hR", "nobody"]).arg(bench.data()).status().unwrap();
    assert!(given.success());
    fs::set_permissions(bench.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let script = bench.root().join("script");
    let text_of_it = good(&admin(&bench, &["install-boot", "--print", "--init", "sysvinit", "--user", "nobody"]));
    fs::write(&script, text_of_it).unwrap();
    let ends = |word: &str, wanted: i32| {
        let mut command = Command::new("/bin/sh");
        let output = command.arg(&script).arg(word).current_dir("/").env_remove("DKM_ALLOW_ROOT").output().unwrap();
        assert_eq!(output.status.code(), Some(wanted), "{word}: {}", text(&output));
    };
    ends("status", 3);
    ends("start", 0);
    ends("status", 0);
    let owner = |pid: i32| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(format!("/proc/{pid}")).unwrap().uid()
    };
    let nobody = fs::metadata(bench.data()).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).unwrap();
    let running = bench.processes();
    assert!(running.len() >= 2 && nobody != 0, "{running:?}");
    for pid in running {
        assert_eq!(owner(pid), nobody, "process {pid}");
    }
    ends("stop", 0);
    assert_eq!(bench.processes(), Vec::<i32>::new());
}

/// The folder of another system, such as an image.
fn image(bench: &Bench) -> PathBuf {
    let image = bench.root().join("image");
    fs::create_dir_all(image.join("etc/init.d")).unwrap();
    image
}

fn install(bench: &Bench, image: &Path, data: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(bench.bundle_path().join("bin/dkmadmin"));
    command.arg("install-boot").arg("-d").arg(data).arg("--root").arg(image);
    if !user().is_empty() && !more.contains(&"--user") {
        command.args(["--user", user()]);
    }
    command.args(more).output().unwrap()
}

#[test]
fn several_folders_are_kept_apart_and_strangers_left_alone() {
    let bench = hostile();
    let image = image(&bench);
    let other = bench.root().join("the other");
    let mut command = Command::new(bench.bundle_path().join("installer"));
    command.arg("-d").arg(&other).arg("-p").arg(bench.port.to_string()).args(["-t", "backend", "--hostname", "x"]);
    good(&command.output().unwrap());
    let scripts = image.join("etc/init.d");
    let refused = |output: Output, wanted: &str| {
        let said = text(&output);
        assert!(!output.status.success() && said.contains(wanted), "\"{wanted}\" is not in:\n{said}");
    };
    good(&install(&bench, &image, &bench.data(), &[]));
    let script = scripts.join("dkumonitor");
    assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(good(&install(&bench, &image, &bench.data(), &[])).contains("is as it should be"));
    refused(install(&bench, &image, &bench.data(), &["-n", "again"]), "is started by dkumonitor already");
    refused(install(&bench, &image, &other, &[]), "it belongs to something else");
    fs::write(scripts.join("ssh"), "#!/bin/sh\n").unwrap();
    refused(install(&bench, &image, &other, &["-n", "ssh"]), "it belongs to something else");
    refused(install(&bench, &image, &other, &["-n", "../x"]), "no leading dot");
    refused(install(&bench, &image, &other, &["--user", "nobody"]), "could not write in it");
    good(&install(&bench, &image, &other, &["-n", "second"]));
    let uninstall = |words: &[&str], data: Option<&Path>| {
        let mut command = Command::new(bench.bundle_path().join("bin/dkmadmin"));
        command.arg("uninstall-boot").arg("--root").arg(&image).args(words);
        if let Some(data) = data {
            command.arg("-d").arg(data);
        }
        command.output().unwrap()
    };
    refused(uninstall(&["-n", "ssh"], None), "dkmadmin has not made it");
    good(&uninstall(&[], Some(&bench.data())));
    assert!(!script.exists() && scripts.join("second").exists() && scripts.join("ssh").exists());
    refused(uninstall(&[], Some(&bench.data())), "nothing in");
    // Its data folder may be gone.
    fs::remove_dir_all(&other).unwrap();
    good(&uninstall(&["-n", "second"], None));
    assert!(!scripts.join("second").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_unit_is_enabled_in_an_image() {
    let bench = hostile();
    let image = image(&bench);
    good(&install(&bench, &image, &bench.data(), &["--init", "systemd", "-n", "mon"]));
    let wants = image.join("etc/systemd/system/multi-user.target.wants/mon.service");
    assert!(wants.is_symlink(), "not enabled");
    let unit = fs::read_to_string(image.join("etc/systemd/system/mon.service")).unwrap();
    assert_eq!(unit, printed(&bench, "systemd", &["-n", "mon"]));
    let mut command = Command::new(bench.data().join("bin/dkmadmin"));
    good(&command.args(["uninstall-boot", "--init", "systemd", "--root"]).arg(&image).output().unwrap());
    assert!(!wants.is_symlink() && !image.join("etc/systemd/system/mon.service").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn only_root_writes_to_the_system_and_says_so() {
    let bench = hostile();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // As somebody else, who may read the bundle and own the folder.
    let script = "import os,sys; os.setgid(65534); os.setuid(65534); os.execv(sys.argv[1], sys.argv[1:])";
    let owned = Command::new("chown").args(["-R", "65534:65534"]).arg(bench.root()).status().unwrap();
    assert!(owned.success());
    let run = |words: &[&str]| {
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(bench.data().join("bin/dkmadmin")).args(words).output().unwrap()
    };
    let output = run(&["install-boot", "--init", "sysvinit", "-n", "dkm-test-of-nobody"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("only root"), "{}", text(&output));
    let unit = good(&run(&["install-boot", "--init", "systemd", "--print"]));
    assert!(!line(&unit, "User=").contains("root"), "{unit}");
    assert!(!unit.contains("DKM_ALLOW_ROOT"));
    assert!(!Path::new("/etc/init.d/dkm-test-of-nobody").exists());
}
