//! The miniature stack as packages and as a container image: checked by the tools for whom they are, installed, started, removed.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::monitor::{free_ports, package};
use common::{Outcome, ministack_place, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    let name = format!("dkumonitor-ministack-{VERSION}");
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("rpm").to_str().unwrap().to_owned();
    let ways: [(&str, Vec<&str>, Vec<&str>); 2] = [
        ("dpkg", vec!["-i", deb], vec!["-P", &name]),
        ("rpm", vec!["-i", "--nodeps", "--dbpath", &database, rpm], vec!["-e", "--nodeps", "--dbpath", &database, &name]),
    ];
    for (tool, install, remove) in ways {
        run(tool, &install).good();
        let base = Path::new("/opt/dkumonitor-ministack");
        assert_eq!(fs::read_link(base.join("current")).unwrap(), Path::new(VERSION), "{tool}");
        use_it(&base.join("current/installer"), &folder.path().join(format!("data of {tool}")));
        run(tool, &remove).good();
        assert!(!base.exists(), "{tool} leaves {} behind", base.display());
    }
}

/// Installs, starts, asks and stops a monitor of one program.
fn use_it(installer: &Path, data: &Path) {
    let (installer, shown) = (installer.to_str().unwrap(), data.to_str().unwrap());
    run(installer, &["--verify"]).good();
    run(installer, &["-d", shown, "-p", &free_ports().to_string(), "-t", "backend"]).good();
    let dkm = data.join("bin/dkm");
    let dkm = |words: &[&str]| run(dkm.to_str().unwrap(), words);
    dkm(&["start"]).good();
    dkm(&["status"]).good();
    dkm(&["shutdown"]).good();
}

/// A container's processes, ended with it: process 1 takes all others with it.
struct Container(std::process::Child);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process of a container that is process 1 inside.
fn inside(container: &Container) -> Option<String> {
    let id = container.0.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().next().map(str::to_owned)
}

#[test]
fn the_image_runs_as_somebody_else_with_the_supervisor_as_process_one() {
    // With a program that needs a system's libraries there is no image.
    package(&["--format", "oci"], "dist image").bad(2, &["bin/collectd", "--only"]);
    package(&["--only", "go-carbon,carbonapi,grafana", "--format", "oci"], "dist image").good();
    let image = ministack_place("dist image").join(format!("dkumonitor-ministack-partial-{VERSION}.oci.tar"));
    let folder = tempfile::Builder::new().prefix("image").tempdir().unwrap();
    let path = |inner: &str| folder.path().join(inner).to_str().unwrap().to_owned();
    // (skopeo takes a colon for the tag's, and tests lie in folders with blanks.)
    fs::copy(&image, path("image.tar")).unwrap();
    let said = run("skopeo", &["inspect", "--config", &format!("oci-archive:{}", path("image.tar"))]).good();
    let config: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(config["config"]["User"], "65532:65532");
    run("skopeo", &["inspect", &format!("docker-archive:{}", path("image.tar"))]).good();
    fs::create_dir(path("layout")).unwrap();
    run("tar", &["-xf", &path("image.tar"), "-C", &path("layout")]).good();
    if !is_root() {
        return;
    }
    run("umoci", &["raw", "unpack", "--image", &format!("{}:{VERSION}", path("layout")), &path("root")]).good();
    let root = PathBuf::from(path("root"));
    let port = free_ports();
    // What an engine does: namespaces, /proc, /dev, the user, the entry point.
    let mut words: Vec<String> =
        config["config"]["Entrypoint"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    let at = words.iter().position(|word| word == "-p").unwrap() + 1;
    words[at] = port.to_string();
    let script = "mkdir -p \"$0/proc\" \"$0/dev\" && mount -t proc proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && exec chroot --userspec=65532:65532 \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]).arg(&root).args(&words);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdout(fs::File::create(path("said")).unwrap());
    let mut child = Container(command.spawn().unwrap());
    let health = wait_for("everything in the container to run", Duration::from_secs(60), || {
        let inside = inside(&child)?;
        let enter = ["--target", &inside, "--mount", "--pid", "chroot", "--userspec=65532:65532", root.to_str().unwrap()];
        let found = run("nsenter", &[enter.as_slice(), &["/data/monitor/bin/dkm", "status", "--json"]].concat());
        (found.status == 0).then_some(found.text)
    });
    assert!(health.contains("grafana"), "{health}");
    assert!(common::get(port, "/api/health").is_some());
    run("kill", &["-TERM", &inside(&child).unwrap()]).good();
    wait_for("the container's end", Duration::from_secs(60), || child.0.try_wait().unwrap());
    assert!(common::get(port, "/api/health").is_none());
}
