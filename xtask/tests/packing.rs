//! The miniature stack as packages and as a container image: checked by the tools for whom they are, installed, started, removed.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::monitor::package;
use common::{Outcome, ministack_place};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn run(program: &str, words: &[&str]) -> Outcome {
    Outcome::of(
        &Command::new(program)
            .args(words)
            .env("DKM_ALLOW_ROOT", "1")
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}")),
    )
}

/// Whether this may install packages; a person who runs the tests may not want it.
fn is_root() -> bool {
    let root = run("id", &["-u"]).text.trim() == "0";
    if !root {
        println!("passed over: only root can install packages");
    }
    root
}

#[test]
fn packages_are_installed_beside_each_other_start_nothing_and_leave_nothing() {
    package(&["--format", "gz,deb,rpm"], "dist packages").good();
    let file = |ending: &str| ministack_place("dist packages").join(format!("dkumonitor-ministack-{VERSION}.{ending}"));
    let (deb, rpm) = (file("deb"), file("rpm"));
    let (deb, rpm) = (deb.to_str().unwrap(), rpm.to_str().unwrap());
    let said = run("dpkg-deb", &["--info", deb]).good();
    assert!(said.contains(&format!("Package: dkumonitor-ministack-{VERSION}")) && said.contains("libc6"), "{said}");
    let said = run("rpm", &["-qp", "--requires", "--provides", rpm]).good();
    assert!(said.contains("glibc") && said.contains("dkumonitor-ministack"), "{said}");
    // The same bytes again, without what was remembered of them.
    let before = [deb, rpm].map(|path| fs::read(path).unwrap());
    [deb, rpm].iter().for_each(|path| fs::remove_file(path).unwrap());
    package(&["--format", "gz,deb,rpm"], "dist packages").good();
    assert!([deb, rpm].map(|path| fs::read(path).unwrap()) == before, "a package is not the same again");
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("rpm").to_str().unwrap().to_owned();
    let (next_deb, next_rpm) = next(Path::new(deb), folder.path());
    let rpm_words =
        |words: &[&str]| [&["--nodeps", "--dbpath", &database], words].concat().iter().map(|word| (*word).to_owned()).collect();
    let deb_words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let name = |version: &str| format!("dkumonitor-ministack-{version}");
    live(&Ways {
        tool: "dpkg",
        install: [deb_words(&["-i", deb]), deb_words(&["-i", next_deb.to_str().unwrap()])],
        again: deb_words(&["-i", deb]),
        remove: [deb_words(&["-P", &name(VERSION)]), deb_words(&["-P", &name(NEXT)])],
        // Root may type what the scripts show, and it is others who call folders something.
        data: folder.path().join("dpkg's; data"),
    });
    live(&Ways {
        tool: "rpm",
        install: [rpm_words(&["-i", rpm]), rpm_words(&["-i", next_rpm.to_str().unwrap()])],
        again: rpm_words(&["--reinstall", rpm]),
        remove: [rpm_words(&["-e", &name(VERSION)]), rpm_words(&["-e", &name(NEXT)])],
        data: folder.path().join("rpm's; data"),
    });
}

/// The version after this one.
const NEXT: &str = "0.99.0";

/// How two versions are installed and removed, and where a monitor of theirs lies.
struct Ways {
    tool: &'static str,
    install: [Vec<String>; 2],
    again: Vec<String>,
    remove: [Vec<String>; 2],
    data: PathBuf,
}

/// However a test ends, it leaves neither a monitor nor packages: of what is gone already nothing is left to do.
impl Drop for Ways {
    fn drop(&mut self) {
        let _ = Command::new(self.data.join("bin/dkm")).env("DKM_ALLOW_ROOT", "1").arg("shutdown").output();
        for words in &self.remove {
            let _ = Command::new(self.tool).args(words).output();
        }
    }
}

/// The packages of the next version: the same files, of which the manifest says so, with the same scripts, packed by others' tools.
fn next(deb: &Path, folder: &Path) -> (PathBuf, PathBuf) {
    let parts = folder.join("parts");
    let path = |inner: &str| parts.join(inner).to_str().unwrap().to_owned();
    run("dpkg-deb", &["-R", deb.to_str().unwrap(), parts.to_str().unwrap()]).good();
    let base = "opt/dkumonitor-ministack";
    fs::rename(path(&format!("{base}/{VERSION}")), path(&format!("{base}/{NEXT}"))).unwrap();
    fs::remove_dir_all(parts.join("usr")).unwrap();
    let edit = |inner: &str, change: &dyn Fn(String) -> String| {
        fs::write(path(inner), change(fs::read_to_string(path(inner)).unwrap())).unwrap();
    };
    // Of another program its service is restarted; bytes behind its end change nothing else.
    let program = parts.join(base).join(NEXT).join("bin/go-carbon");
    let mut bytes = fs::read(&program).unwrap();
    bytes.push(0);
    fs::write(program, &bytes).unwrap();
    let said = |text: String| {
        let mut manifest: Value = serde_json::from_str(&text).unwrap();
        manifest["version"] = NEXT.into();
        let files = manifest["files"].as_array_mut().unwrap();
        let file = files.iter_mut().find(|file| file["path"] == "bin/go-carbon").unwrap();
        (file["sha256"], file["size"]) = (common::sha256(&bytes).into(), bytes.len().into());
        manifest.to_string()
    };
    edit(&format!("{base}/{NEXT}/manifest.json"), &said);
    edit("DEBIAN/control", &|text| text.replace(VERSION, NEXT));
    edit("DEBIAN/prerm", &|text| text.replace(VERSION, NEXT));
    fs::remove_file(path("DEBIAN/md5sums")).unwrap();
    let made = folder.join("next.deb");
    run("dpkg-deb", &["--root-owner-group", "-Zgzip", "-z1", "-b", parts.to_str().unwrap(), made.to_str().unwrap()]).good();
    let script = |name: &str| fs::read_to_string(path(&format!("DEBIAN/{name}"))).unwrap();
    let spec = format!(
        "Name: dkumonitor-ministack-{NEXT}\nVersion: {NEXT}\nRelease: 1\nSummary: x\nLicense: x\nAutoReqProv: no\n%description\nx\n\
         %post\n{}\n%preun\n{}\n%postun\n{}\n%files\n%defattr(-,root,root)\n/{base}/{NEXT}\n",
        script("postinst"),
        script("prerm"),
        script("postrm")
    );
    fs::write(folder.join("next.spec"), spec).unwrap();
    fs::remove_dir_all(parts.join("DEBIAN")).unwrap();
    let mut command = Command::new("rpmbuild");
    command.args(["-bb", "--noclean", "--noprep", "--nocheck", "--define", "__spec_install_post %{nil}"]);
    command.args(["--define", "_build_id_links none", "--define", "_binary_payload w1.gzdio"]);
    command.arg("--define").arg(format!("_topdir {}", folder.join("top").display()));
    Outcome::of(&command.arg("--buildroot").arg(&parts).arg(folder.join("next.spec")).output().unwrap()).good();
    let arch = std::env::consts::ARCH;
    (made, folder.join(format!("top/RPMS/{arch}/dkumonitor-ministack-{NEXT}-{NEXT}-1.{arch}.rpm")))
}

/// Installs a version, uses it, installs the next one beside it, takes the monitor there, and removes both.
fn live(ways: &Ways) {
    let tried = |words: &[String]| run(ways.tool, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let go = |words: &[String]| tried(words).good();
    let base = Path::new("/opt/dkumonitor-ministack");
    let current = || fs::read_link(base.join("current")).unwrap().to_str().unwrap().to_owned();
    let (installer, shown) = (base.join("current/installer"), ways.data.to_str().unwrap());
    let (installer, dkm) = (installer.to_str().unwrap(), ways.data.join("bin/dkm"));
    let dkm = |words: &[&str]| run(dkm.to_str().unwrap(), words).good();
    // Left by a run that was killed.
    for words in &ways.remove {
        let _ = run(ways.tool, &words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let _ = fs::remove_dir_all(base);
    go(&ways.install[0]);
    assert_eq!(current(), VERSION, "{}", ways.tool);
    run(installer, &["--verify"]).good();
    run(installer, &["-d", shown, "-p", &xtask::free_ports::ten().unwrap().to_string(), "-t", "backend"]).good();
    dkm(&["start"]);
    // What would start it at boot names no version, so that it holds for the next one too.
    let system = ways.data.with_file_name(format!("system of {}", ways.tool));
    let admin = base.join("current/bin/dkmadmin");
    let words = ["install-boot", "-d", shown, "--init", "systemd", "--user", "root", "--root", system.to_str().unwrap()];
    fs::create_dir(&system).unwrap();
    run(admin.to_str().unwrap(), &words).good();
    let unit = fs::read_to_string(system.join("etc/systemd/system/dkumonitor.service")).unwrap();
    let started = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap_or_else(|| panic!("{unit}")).to_owned();
    assert!(started.contains("bin/dkm") && !started.contains(VERSION), "{}: {started}", ways.tool);
    let config = ways.data.join("conf/go-carbon.conf");
    let changed = fs::read_to_string(&config).unwrap() + "\n# a line of its owner's\n";
    fs::write(&config, &changed).unwrap();
    let process = || dkm(&["pid", "go-carbon"]).trim().to_owned();
    let before = process();
    let data = fs::canonicalize(&ways.data).unwrap();
    let quoted = data.to_str().unwrap().replace('\'', r"'\''");
    let moving = |version: &str| format!("{}/{version}/installer --update -d '{quoted}'", base.display());
    let stopping = format!("'{quoted}/bin/dkm' shutdown");
    // What is in use stays. The same version once more takes nothing away.
    let refused = tried(&ways.remove[0]);
    let said = &refused.text;
    assert!(refused.status != 0 && said.contains(&stopping) && !said.contains("--update"), "{}: {said}", ways.tool);
    let said = go(&ways.again);
    assert!(!said.contains("--update"), "{}: {said}", ways.tool);
    assert_eq!((current(), process()), (VERSION.to_owned(), before.clone()), "{}", ways.tool);
    run(installer, &["--verify"]).good();
    // Beside the old one, whose monitor goes on: how it comes to the new one is told, when that is installed and when the old one is
    // to go.
    let said = go(&ways.install[1]);
    assert!(said.contains(&moving(NEXT)), "{}: {said}", ways.tool);
    assert_eq!((current(), process()), (NEXT.to_owned(), before.clone()), "{}", ways.tool);
    let refused = tried(&ways.remove[0]);
    let said = &refused.text;
    assert!(refused.status != 0 && said.contains(&stopping) && said.contains(&moving(NEXT)), "{}: {said}", ways.tool);
    run(installer, &["--update", "--yes", "-d", shown]).good();
    dkm(&["status"]);
    assert_ne!(process(), before, "{}: its services were not restarted", ways.tool);
    assert_eq!(fs::read_to_string(&config).unwrap(), changed, "{}: what its owner changed is gone", ways.tool);
    // The old one is used by nobody any more.
    go(&ways.remove[0]);
    assert_eq!((current(), base.join(VERSION).exists()), (NEXT.to_owned(), false), "{}", ways.tool);
    dkm(&["restart"]);
    dkm(&["status"]);
    tried(&ways.remove[1]).bad(1, &[&stopping]);
    dkm(&["status"]);
    dkm(&["shutdown"]);
    go(&ways.remove[1]);
    assert!(!base.exists(), "{} leaves {} behind", ways.tool, base.display());
    assert!(config.exists(), "{} takes data away", ways.tool);
}

/// Where an image of the whole stack but collectd lies.
fn image() -> PathBuf {
    package(&["--only", "go-carbon,carbonapi,grafana", "--format", "gz,oci"], "dist image").good();
    ministack_place("dist image").join(format!("dkumonitor-ministack-partial-{VERSION}.oci.tar"))
}

#[test]
fn the_image_is_read_by_other_tools_and_is_refused_where_it_could_not_run() {
    // With a program that needs a system's libraries there is no image, unless a system lies below.
    package(&["--format", "oci"], "dist no image").bad(2, &["bin/collectd", "--only", "--base"]);
    let archive = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    package(&["--format", "oci", "--base", archive.to_str().unwrap()], "dist no image")
        .bad(2, &["no OCI image layout", "skopeo"]);
    let folder = tempfile::Builder::new().prefix("image").tempdir().unwrap();
    // (skopeo takes a colon for the tag's, and tests lie in folders with blanks.)
    let copy = folder.path().join("image.tar").to_str().unwrap().to_owned();
    fs::copy(image(), &copy).unwrap();
    let said = run("skopeo", &["inspect", "--config", &format!("oci-archive:{copy}")]).good();
    let config: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(config["config"]["User"], "65532:65532");
    run("skopeo", &["inspect", &format!("docker-archive:{copy}")]).good();
}

/// The same image as if it were of the next version: other layers, so that it is not known by them either.
fn newer(image: &Path, version: &str, folder: &Path) -> PathBuf {
    let path = |inner: &str| folder.join(inner).to_str().unwrap().to_owned();
    let shell = |script: &str| run("sh", &["-ec", script]).good();
    for inner in ["layout", "ground", "tree"] {
        fs::create_dir(path(inner)).unwrap();
    }
    run("tar", &["-xf", image.to_str().unwrap(), "-C", &path("layout")]).good();
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.join("layout").join(name)).unwrap()).unwrap() };
    let mut docker = read("manifest.json");
    let mut config = read(docker[0]["Config"].as_str().unwrap());
    let layer = |at: usize| path(&format!("layout/{}", docker[0]["Layers"][at].as_str().unwrap()));
    run("tar", &["-xf", &layer(0), "-C", &path("ground")]).good();
    run("tar", &["-xzf", &layer(1), "-C", &path("tree")]).good();
    let opt = "opt/dkumonitor-ministack-partial";
    shell(&format!(
        "cd '{}' && ln -sfn {version} {opt}/current && tar --numeric-owner -cf ../ground.tar data etc opt tmp",
        path("ground")
    ));
    let manifest = folder.join("tree").join(opt).join(VERSION).join("manifest.json");
    let mut said: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    said["version"] = version.into();
    fs::write(&manifest, said.to_string()).unwrap();
    shell(&format!(
        "cd '{}' && mv {opt}/{VERSION} {opt}/{version} && tar --owner=0 --group=0 -cf ../tree.tar opt",
        path("tree")
    ));
    let (mut names, mut ids) = (Vec::new(), Vec::new());
    for layer in ["ground.tar", "tree.tar"] {
        let hash = common::sha256(&fs::read(path(layer)).unwrap());
        names.push(layer);
        ids.push(format!("sha256:{hash}"));
    }
    config["rootfs"]["diff_ids"] = json!(ids);
    fs::write(path("config.json"), config.to_string()).unwrap();
    docker[0] =
        json!({"Config": "config.json", "RepoTags": [format!("dkumonitor-ministack-partial:{version}")], "Layers": names});
    fs::write(path("manifest.json"), docker.to_string()).unwrap();
    run("tar", &["-cf", &path("newer.tar"), "-C", &path(""), "manifest.json", "config.json", "ground.tar", "tree.tar"]).good();
    folder.join("newer.tar")
}

/// What no imitation of an engine can show: that a real one takes the image, and its volume to the next version.
#[test]
fn a_real_engine_runs_the_image_and_the_next_version_on_its_volume() {
    if !is_root() {
        return;
    }
    let folder = tempfile::Builder::new().prefix("engine").tempdir().unwrap();
    let (next, first) = ("0.99.0", image());
    let newer = newer(&first, next, folder.path());
    let script = folder.path().join("podman.sh");
    fs::write(&script, include_str!("podman.sh")).unwrap();
    // podman takes a colon and a blank for something else.
    let copy = folder.path().join("first.tar");
    fs::copy(first, &copy).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--ipc", "--uts", "--net", "--mount-proc", "bash"]);
    let child = command.arg(script).arg(folder.path()).args([&copy, &newer]).args([VERSION, next]);
    let child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let text = common::end_of(child, Duration::from_secs(600)).good();
    for line in [
        "process one: 1",
        "user: 65532",
        &format!("printed: Installed server {VERSION} in /data/monitor."),
        "in its log: supervisor and services",
        "one ended: 0",
        "well: [CMD /data/monitor/bin/dkm status]",
        &format!("printed: /data/monitor went from {VERSION} to {next}."),
        "of services in its log: 0",
        "two ended: 0",
        "done",
    ] {
        assert!(text.lines().any(|said| said == line), "\"{line}\" is not in:\n{text}");
    }
}

/// A system's image with nothing but a C library: what a program here is linked to.
fn base(folder: &Path, program: &Path, with_library: bool) -> PathBuf {
    let (root, layout) = (folder.join("root"), folder.join("layout"));
    for place in [&root, &layout] {
        let _ = fs::remove_dir_all(place);
    }
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    // "libc.so.6 => /lib/…/libc.so.6 (0x…)", and the loader by its path alone.
    let said = run("ldd", &[program.to_str().unwrap()]).good();
    let files = said.split_whitespace().filter(|word| word.starts_with('/') && word.contains(".so"));
    for file in files.filter(|file| with_library || !file.contains("libc.so")) {
        let place = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(file, place).unwrap();
    }
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/\nsomebody:x:7:7::/:/\n").unwrap();
    // What a system says of folders is its own affair.
    fs::write(root.join("etc/motd"), ministack_place("build").to_str().unwrap()).unwrap();
    let blob = |content: &[u8]| {
        let hash = common::sha256(content);
        fs::write(layout.join("blobs/sha256").join(&hash), content).unwrap();
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{hash}"), "size": content.len()})
    };
    let layer = folder.join("layer.tar");
    run("tar", &["--owner=0", "--group=0", "-cf", layer.to_str().unwrap(), "-C", root.to_str().unwrap(), "."]).good();
    let layer = blob(&fs::read(layer).unwrap());
    let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let config =
        json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = blob(config.to_string().as_bytes());
    let manifest = blob(json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string().as_bytes());
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string()).unwrap();
    fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\": \"1.0.0\"}").unwrap();
    let made = folder.join("base.tar");
    run("tar", &["-cf", made.to_str().unwrap(), "-C", layout.to_str().unwrap(), "."]).good();
    made
}

#[test]
fn an_image_on_a_systems_own_has_collectd_in_it_which_measures() {
    // The archive tells which programs need a library.
    package(&["--format", "gz"], "dist base").good();
    let tree = ministack_place("dist base").join(format!("dkumonitor-ministack-{VERSION}"));
    let program = tree.join("bin/collectd");
    let folder = tempfile::tempdir().unwrap();
    let made = base(folder.path(), &program, true);
    let words = ["--format", "gz,oci", "--base", made.to_str().unwrap()];
    package(&words, "dist base").good();
    let image = ministack_place("dist base").join(format!("dkumonitor-ministack-{VERSION}.oci.tar"));
    let copy = folder.path().join("image.tar").to_str().unwrap().to_owned();
    fs::copy(&image, &copy).unwrap();
    let said = run("skopeo", &["inspect", "--config", &format!("oci-archive:{copy}")]).good();
    let config: Value = serde_json::from_str(&said).unwrap();
    let entry = config["config"]["Entrypoint"].as_array().unwrap();
    assert!(entry.windows(2).any(|words| words == [json!("-t"), json!("all")]), "{entry:?}");
    let layers = config["rootfs"]["diff_ids"].as_array().unwrap().len();
    assert!(layers == 3 && config["history"].as_array().unwrap().len() == layers, "{config}");
    // Another base is another image; one without a C library is none that could run.
    let poor = base(folder.path(), &program, false);
    let words = ["--format", "gz,oci", "--base", poor.to_str().unwrap()];
    package(&words, "dist base").bad(10, &["bin/collectd: needs libc.so.6"]);
}
