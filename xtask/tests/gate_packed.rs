//! The gate with packages and images: those of the miniature stack pass, and each fault that is planted in one is named.
//!
//! Faults are planted by the formats' own tools (dpkg-deb, rpmbuild), or by writing an image's documents anew.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::monitor::package;
use common::{Outcome, ministack_place, sha256, workspace};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the packages of the whole stack lie, with its archive beside them.
static PACKAGES: LazyLock<PathBuf> = LazyLock::new(|| {
    package(&["--format", "gz,deb,rpm"], "dist packages").good();
    ministack_place("dist packages")
});

/// The image, which has no collectd, with its archive beside it. What has passed it is seen in a test of its own.
static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    package(&["--only", "go-carbon,carbonapi,grafana", "--format", "gz,oci"], "dist image").good();
    ministack_place("dist image").join(format!("dkumonitor-ministack-partial-{VERSION}.oci.tar"))
});

fn run(program: &str, words: &[&str]) -> Outcome {
    Outcome::of(&Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}")))
}

fn gate(file: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("gate").arg(file).arg("--stack").arg(workspace().join("examples/ministack"));
    command.arg("--build-dir").arg(ministack_place("build")).args(args);
    Outcome::of(&command.output().unwrap())
}

fn is_root() -> bool {
    run("id", &["-u"]).text.trim() == "0"
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
}

#[test]
fn packages_pass_when_they_were_installed_used_and_removed_by_their_own_tools() {
    let folder = tempfile::tempdir().unwrap();
    for (ending, tool) in [("deb", "dpkg"), ("rpm", "rpm")] {
        let file = PACKAGES.join(format!("dkumonitor-ministack-{VERSION}.{ending}"));
        let text = gate(&file, &[]).good();
        says(
            &text,
            &[&format!("all files are those of dkumonitor-ministack-{VERSION}.tar.gz"), "installed as all, 4 services probed"],
        );
        says(&text, &["read back through carbonapi", "nothing left behind, and the bundle as it was"]);
        let way = if is_root() {
            format!("installed by {tool} to /opt/dkumonitor-ministack/{VERSION}, and removed by it with nothing left")
        } else {
            format!("it was not installed by {tool} (only root can)")
        };
        says(&text, &[&way]);
        // It is known by its content, whatever it is called, and says what it could not be compared with.
        let renamed = folder.path().join("x.tar.gz");
        fs::copy(&file, &renamed).unwrap();
        says(&gate(&renamed, &["--still"]).good(), &["no archive of the same release lies beside it", "not run: --still"]);
    }
}

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

#[test]
fn a_package_with_other_files_than_the_archive_beside_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let name = |ending: &str| format!("dkumonitor-ministack-{VERSION}.{ending}");
    fs::copy(PACKAGES.join(name("rpm")), folder.path().join(name("rpm"))).unwrap();
    // Another release under the same name: one file differs, with a manifest that fits.
    let tree = folder.path().join(format!("dkumonitor-ministack-{VERSION}"));
    run("tar", &["-xzf", PACKAGES.join(name("tar.gz")).to_str().unwrap(), "-C", folder.path().to_str().unwrap()]).good();
    fs::write(tree.join("LICENSE"), "another one").unwrap();
    let manifest = fs::read(tree.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["files"].as_array_mut().unwrap();
    let license = files.iter_mut().find(|file| file["path"] == "LICENSE").unwrap();
    (license["sha256"], license["size"]) = (sha256(b"another one").into(), 11.into());
    fs::write(tree.join("manifest.json"), manifest.to_string()).unwrap();
    let packed = folder.path().join(name("tar.gz"));
    let words = ["--owner=0", "--group=0", "-czf", packed.to_str().unwrap(), "-C", folder.path().to_str().unwrap()];
    run("tar", &[words.as_slice(), &[tree.file_name().unwrap().to_str().unwrap()]].concat()).good();
    let rpm = folder.path().join(name("rpm"));
    gate(&rpm, &["--still"]).bad(10, &["LICENSE: is another one in the archive beside it", "manifest.json: is another one"]);
}

#[test]
fn faults_of_an_rpm_that_another_tool_has_made_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("root/opt/thing/1.0.0");
    fs::create_dir_all(&base).unwrap();
    let arch = std::env::consts::ARCH;
    let content = b"some text";
    let manifest = json!({
        "schema": 1, "name": "thing", "version": "1.0.0", "platform": {"os": "linux", "arch": arch},
        "components": [{"name": "thing", "version": "1", "source": {"path": ".", "tree-sha256": "0"}}],
        "files": [{"path": "text", "type": "file", "size": content.len(), "mode": "0644", "sha256": sha256(content)}],
    });
    fs::write(base.join("manifest.json"), manifest.to_string()).unwrap();
    fs::write(base.join("text"), content).unwrap();
    let build = |attributes: &str, script: &str| -> PathBuf {
        let spec = format!(
            "Name: thing-1.0.0\nVersion: 1.0.0\nRelease: 1\nSummary: x\nLicense: x\nAutoReqProv: no\n%description\nx\n{script}\n%files\n\
             %attr(0755,root,root) %dir /opt/thing/1.0.0\n%attr(0644,root,root) /opt/thing/1.0.0/manifest.json\n{attributes} /opt/thing/1.0.0/text\n"
        );
        let (path, top) = (folder.path().join("x.spec"), folder.path().join("made"));
        fs::write(&path, spec).unwrap();
        let _ = fs::remove_dir_all(&top);
        let root = folder.path().join("root");
        let install = "__spec_install_post %{nil}";
        let defines = [format!("_topdir {}", top.display()), install.to_owned(), "_build_id_links none".to_owned()];
        let mut command = Command::new("rpmbuild");
        command.arg("-bb").arg("--define").arg(&defines[0]).arg("--define").arg(&defines[1]).arg("--define").arg(&defines[2]);
        // Packed by xz, unlike ours; the root that it takes files from is a copy, for it removes it.
        command.args(["--define", "_binary_payload w1.xzdio", "--noclean", "--noprep", "--nocheck"]);
        let copy = folder.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        run("cp", &["-r", root.to_str().unwrap(), copy.to_str().unwrap()]).good();
        Outcome::of(&command.arg("--buildroot").arg(&copy).arg(&path).output().unwrap()).good();
        let made = top.join("RPMS").join(arch).join(format!("thing-1.0.0-1.0.0-1.{arch}.rpm"));
        assert!(made.is_file(), "{}", run("find", &[top.to_str().unwrap()]).text);
        made
    };
    let still = ["--still"];
    gate(&build("%attr(0644,root,root)", ""), &still).good();
    gate(&build("%attr(4644,root,root)", ""), &still).bad(10, &["text: is set-uid (4644)", "text: has the mode 4644"]);
    gate(&build("%attr(0666,root,root)", ""), &still).bad(10, &["text: can be written to by others than its owner (0666)"]);
    gate(&build("%attr(0644,daemon,root)", ""), &still).bad(10, &["text: carries the names of its owner: daemon, root"]);
    let script = "%post -p /usr/bin/python3\nprint()\n";
    gate(&build("%attr(0644,root,root)", script), &still).bad(10, &["%post: is run by \"/usr/bin/python3\""]);
    // Damaged anywhere in its payload it is not let through.
    let good = build("%attr(0644,root,root)", "");
    let mut bytes = fs::read(&good).unwrap();
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    fs::write(&good, bytes).unwrap();
    gate(&good, &still).bad(5, &["cannot read", ".rpm"]);
}

/// An image's documents, to be changed; what names them by their hashes is written anew.
struct Image {
    folder: tempfile::TempDir,
    config: Value,
    manifest: Value,
    index: Value,
}

impl Image {
    fn unpack() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        fs::create_dir(&layout).unwrap();
        run("tar", &["-xf", IMAGE.to_str().unwrap(), "-C", layout.to_str().unwrap()]).good();
        let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let blob = |descriptor: &Value| layout.join("blobs/sha256").join(&descriptor["digest"].as_str().unwrap()[7..]);
        let index = read(layout.join("index.json"));
        let manifest = read(blob(&index["manifests"][0]));
        let config = read(blob(&manifest["config"]));
        for document in [&index["manifests"][0], &manifest["config"]] {
            fs::remove_file(blob(document)).unwrap();
        }
        // Docker's is left out: a layout need not have it.
        fs::remove_file(layout.join("manifest.json")).unwrap();
        Self { folder, config, manifest, index }
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.folder.path().join(inner)
    }

    /// Packs it with these documents.
    fn pack(&self, config: &Value, manifest: &Value) -> PathBuf {
        let blob = |value: &Value| -> Value {
            let text = value.to_string();
            let hash = sha256(text.as_bytes());
            fs::write(self.path("layout/blobs/sha256").join(&hash), &text).unwrap();
            json!({"digest": format!("sha256:{hash}"), "size": text.len()})
        };
        let (mut manifest, mut index) = (manifest.clone(), self.index.clone());
        let config = blob(config);
        manifest["config"]["digest"] = config["digest"].clone();
        manifest["config"]["size"] = config["size"].clone();
        let manifest = blob(&manifest);
        index["manifests"][0]["digest"] = manifest["digest"].clone();
        index["manifests"][0]["size"] = manifest["size"].clone();
        fs::write(self.path("layout/index.json"), index.to_string()).unwrap();
        let made = self.path("made.tar");
        // In no order of ours: what marks it stands where it may.
        run(
            "tar",
            &["-cf", made.to_str().unwrap(), "-C", self.path("layout").to_str().unwrap(), "blobs", "index.json", "oci-layout"],
        )
        .good();
        for document in [&manifest, &config] {
            fs::remove_file(self.path("layout/blobs/sha256").join(&document["digest"].as_str().unwrap()[7..])).unwrap();
        }
        made
    }

    /// What the gate says of it when its configuration was changed like this.
    #[track_caller]
    fn finds(&self, change: impl FnOnce(&mut Value), args: &[&str], parts: &[&str]) {
        let mut config = self.config.clone();
        change(&mut config["config"]);
        gate(&self.pack(&config, &self.manifest), args).bad(10, parts);
    }
}

#[test]
fn an_image_passes_when_it_ran_as_it_says_itself() {
    let text = gate(&IMAGE, &[]).good();
    says(&text, &[&format!("all files are those of dkumonitor-ministack-partial-{VERSION}.tar.gz")]);
    if text.contains("the image was not run") {
        println!("passed over: no namespaces here");
        return;
    }
    says(
        &text,
        &[
            "started as user 65532 with its first program as process 1, well by its health check, its ports reachable",
            "a metric sent by tcp and udp and read back through carbonapi",
            "queries asked through Grafana",
            "stopped by SIGTERM with status 0, and started again with what its volumes kept",
        ],
    );
    // Written by another hand, without Docker's manifest, it is the same.
    let image = Image::unpack();
    gate(&image.pack(&image.config, &image.manifest), &["--still"]).good();
}

#[test]
fn what_an_image_says_wrong_of_itself_is_named() {
    let image = Image::unpack();
    let still = ["--still"];
    image.finds(|config| config["User"] = "".into(), &still, &["the image is run by \"\", which is no number"]);
    image.finds(|config| config["User"] = "0:0".into(), &still, &["the image is run by root"]);
    image.finds(
        |config| config["Entrypoint"] = json!(["/opt/nothing"]),
        &still,
        &["the image runs /opt/nothing, which is no program in it"],
    );
    image.finds(|config| config["WorkingDir"] = "/srv".into(), &still, &["names the folder /srv, which is not in it"]);
    image.finds(|config| config["User"] = "1000:1000".into(), &still, &["/data: is a volume that belongs to 65532:65532"]);
    let path = ministack_place("build").to_str().unwrap().to_owned();
    image.finds(|config| config["Env"] = json!([format!("X={path}")]), &still, &["names the build folder"]);
    let mut config = image.config.clone();
    config["architecture"] = "s390x".into();
    gate(&image.pack(&config, &image.manifest), &still).bad(10, &["the image is for linux on s390x"]);
    fs::write(image.path("layout/blobs/sha256/0123"), "x").unwrap();
    gate(&image.pack(&image.config, &image.manifest), &still).bad(10, &["blobs/sha256/0123 lies in it and belongs to nothing"]);
    fs::remove_file(image.path("layout/blobs/sha256/0123")).unwrap();
    // A layer that is not what its name says.
    let digest = image.manifest["layers"][1]["digest"].as_str().unwrap()[7..].to_owned();
    let layer = image.path("layout/blobs/sha256").join(&digest);
    let mut bytes = fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).unwrap();
    gate(&image.pack(&image.config, &image.manifest), &still).bad(5, &[&digest, "is not what its name says"]);
}

#[test]
fn what_an_upper_layer_removes_or_lets_others_write_is_named() {
    let image = Image::unpack();
    let root = format!("opt/dkumonitor-ministack-partial/{VERSION}");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode) in [(format!("{root}/bin/.wh.carbonapi"), 0o644), ("etc/open".to_owned(), 0o666)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let layer = tar.into_inner().unwrap();
    let hash = format!("sha256:{}", sha256(&layer));
    fs::write(image.path("layout/blobs/sha256").join(&hash[7..]), &layer).unwrap();
    let (mut config, mut manifest) = (image.config.clone(), image.manifest.clone());
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(hash.clone().into());
    let kind = "application/vnd.oci.image.layer.v1.tar";
    manifest["layers"].as_array_mut().unwrap().push(json!({"mediaType": kind, "digest": hash, "size": layer.len()}));
    gate(&image.pack(&config, &manifest), &["--still"])
        .bad(10, &["bin/carbonapi: is in the manifest and not in the image", "/etc/open: can be written to by anybody (0666)"]);
    // A layer that holds something else than the configuration says.
    config["rootfs"]["diff_ids"][2] = image.config["rootfs"]["diff_ids"][0].clone();
    gate(&image.pack(&config, &manifest), &["--still"]).bad(5, &["its layer 3 holds something else"]);
}

#[test]
fn an_image_that_does_not_run_as_it_says_is_named() {
    if gate(&IMAGE, &[]).good().contains("the image was not run") {
        println!("passed over: no namespaces here");
        return;
    }
    let image = Image::unpack();
    // Where it listens for itself alone nobody reaches it.
    let own = |config: &mut Value| {
        let words = config["Entrypoint"].as_array_mut().unwrap();
        let at = words.iter().position(|word| word == "--carbonapi-listen").unwrap();
        words[at + 1] = "127.0.0.1".into();
    };
    image.finds(own, &[], &["the image exposes port 27602, and nobody can reach it from outside of the container"]);
    // What it prints is told.
    let wrong = |config: &mut Value| config["Entrypoint"].as_array_mut().unwrap().push("--nonsense".into());
    image.finds(wrong, &[], &["the container ends by itself", "--nonsense"]);
}

#[test]
fn the_root_of_another_system_is_refused_where_it_is_none_or_nothing_would_run_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let deb = PACKAGES.join(format!("dkumonitor-ministack-{VERSION}.deb"));
    gate(&IMAGE, &["--root", root]).bad(2, &["--root is for archives and packages: an image brings its own system"]);
    gate(&deb, &["--root", root]).bad(2, &["cannot use --root", "it has no /dev, /proc, /tmp, /opt", "debootstrap makes one"]);
    gate(&deb, &["--root", root, "--still"]).bad(2, &["--root", "cannot be used with", "--still"]);
    for name in ["dev", "proc", "tmp"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    gate(&deb, &["--root", root]).bad(2, &["it has no /opt, where packages are installed; mkdir", root]);
}

#[test]
fn a_package_that_is_larger_than_its_stack_allows_or_has_grown_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let stack = folder.path().join("stack");
    run("cp", &["-R", workspace().join("examples/ministack").to_str().unwrap(), stack.to_str().unwrap()]).good();
    let deb = PACKAGES.join(format!("dkumonitor-ministack-{VERSION}.deb"));
    let with = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .arg("gate")
            .arg(&deb)
            .arg("--still")
            .arg("--stack")
            .arg(&stack)
            .arg("--build-dir")
            .arg(ministack_place("build"));
        Outcome::of(&command.args(args).output().unwrap())
    };
    fs::write(stack.join("gate.toml"), "[largest-mb]\ndkumonitor-ministack = 1\n").unwrap();
    with(&[]).bad(10, &["the .deb has ", "gate.toml allows 1"]);
    fs::write(stack.join("gate.toml"), "").unwrap();
    // The last release had half of it.
    with(&["--record"]).good();
    let path = stack.join("sizes.json");
    let mut sizes: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let size = &mut sizes["dkumonitor-ministack"]["archives"]["deb"];
    *size = (size.as_u64().unwrap() / 2).into();
    fs::write(&path, sizes.to_string()).unwrap();
    with(&[]).bad(10, &["the .deb has ", &format!("in {VERSION}: more than 10 % more")]);
    with(&["--growth", "200"]).good();
}
