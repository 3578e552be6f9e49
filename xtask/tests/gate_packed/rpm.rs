//! Packages of Red Hat's kind: one that is not the archive's beside it, and those that rpmbuild has made with a fault.

use super::{Outcome, PACKAGES, VERSION, gate, run, sha256};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

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
