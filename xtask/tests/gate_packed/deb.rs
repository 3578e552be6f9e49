//! Packages of Debian's kind, taken apart and packed again with a fault by dpkg-deb.

use super::{PACKAGES, VERSION, gate, is_root, ministack_place, run};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The parts of the miniature stack's package, to be changed and packed again.
struct Deb {
    folder: tempfile::TempDir,
}

impl Deb {
    fn unpack() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = PACKAGES.join(format!("dkumonitor-ministack-{VERSION}.deb"));
        run("dpkg-deb", &["-R", file.to_str().unwrap(), folder.path().join("parts").to_str().unwrap()]).good();
        Self { folder }
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.folder.path().join("parts").join(inner)
    }

    fn own(&self, inner: &str) -> PathBuf {
        self.path(&format!("opt/dkumonitor-ministack/{VERSION}/{inner}"))
    }

    /// Changes a text, packs, asks the gate, and puts the text back.
    #[track_caller]
    fn finds(&self, path: &Path, change: impl FnOnce(&str) -> String, args: &[&str], parts: &[&str]) {
        let before = fs::read_to_string(path).unwrap();
        fs::write(path, change(&before)).unwrap();
        self.is_refused(args, parts);
        fs::write(path, before).unwrap();
    }

    #[track_caller]
    fn is_refused(&self, args: &[&str], parts: &[&str]) {
        let made = self.folder.path().join("made.deb");
        let parts_folder = self.path("");
        run("dpkg-deb", &["--root-owner-group", "-Zgzip", "-z1", "-b", parts_folder.to_str().unwrap(), made.to_str().unwrap()])
            .good();
        gate(&made, args).bad(10, parts);
    }
}

#[test]
fn faults_of_a_package_are_named() {
    let deb = Deb::unpack();
    let (control, postinst) = (deb.path("DEBIAN/control"), deb.path("DEBIAN/postinst"));
    let still = ["--still"];
    let without = |text: &str| {
        text.lines().filter(|line| !line.starts_with("Depends")).fold(String::new(), |sum, line| sum + line + "\n")
    };
    deb.finds(&control, without, &still, &["the package requires no libc6, and its programs need 2."]);
    deb.finds(&control, |text| text.replace("amd64", "armhf").replace("arm64", "armhf"), &still, &["the package is for armhf"]);
    deb.finds(&control, |text| text.replace("Version: ", "Version: 9"), &still, &["and its bundle"]);
    deb.finds(&postinst, |text| text.replace("#!/bin/sh", "#!/bin/bash"), &still, &["postinst: is run by \"/bin/bash\""]);
    let path = ministack_place("build").to_str().unwrap().to_owned();
    deb.finds(&postinst, |text| format!("{text}# {path}\n"), &still, &["postinst: names the build folder"]);
    deb.finds(
        &deb.own("LICENSE"),
        |text| format!("{text}!"),
        &still,
        &["LICENSE: has another content, unlike the manifest says"],
    );
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(&deb.own("bin/carbonapi"), 0o4755);
    deb.is_refused(&still, &["bin/carbonapi: is set-uid (4755)"]);
    set(&deb.own("bin/carbonapi"), 0o755);
    fs::create_dir_all(deb.path("etc/cron.d")).unwrap();
    fs::write(deb.path("etc/cron.d/x"), "").unwrap();
    set(&deb.path("etc/cron.d/x"), 0o666);
    std::os::unix::fs::symlink("/nowhere/at/all", deb.path("opt/dkumonitor-ministack/else")).unwrap();
    deb.is_refused(
        &still,
        &[
            "/etc/cron.d/x: lies where this package has no business",
            "/etc/cron.d/x: can be written to by others than its owner (0666)",
            "/opt/dkumonitor-ministack/else: is a link to /nowhere/at/all, which is not there",
        ],
    );
}

#[test]
fn a_package_that_cannot_be_installed_or_leaves_something_is_named() {
    if !is_root() {
        println!("passed over: only root can install packages");
        return;
    }
    let deb = Deb::unpack();
    let (postinst, postrm) = (deb.path("DEBIAN/postinst"), deb.path("DEBIAN/postrm"));
    deb.finds(
        &postinst,
        |_| "#!/bin/sh\necho it is not to be >&2\nexit 1\n".to_owned(),
        &[],
        &["dpkg cannot install it", "it is not to be"],
    );
    deb.finds(
        &postinst,
        |_| "#!/bin/sh\n".to_owned(),
        &[],
        &["after its installation there is no /opt/dkumonitor-ministack/current"],
    );
    let keeps = |_: &str| "#!/bin/sh\n: > /opt/dkumonitor-ministack/kept\n".to_owned();
    deb.finds(&postrm, keeps, &[], &["after its removal there still is /opt/dkumonitor-ministack"]);
}
