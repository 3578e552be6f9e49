//! `installer --verify`: a bundle against its manifest, and the manifest against its signature.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bench::{Bench, text};

/// A bundle whose manifest names its files, signed by a key; and the public key.
fn signed() -> (Bench, String) {
    let bench = Bench::bundle(&Bench::two());
    let bundle = bench.bundle_path();
    let path = bundle.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut files = BTreeMap::new();
    for name in ["bin/dkm", "conf/a.conf.j2"] {
        let content = fs::read(bundle.join(name)).unwrap();
        let sha256: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        let mode = if name == "bin/dkm" { "0755" } else { "0644" };
        files.insert(name, json!({"path": name, "type": "file", "size": content.len(), "mode": mode, "sha256": sha256}));
    }
    for name in ["installer", "bin/dkmadmin", "bin/helper"] {
        let target = fs::read_link(bundle.join(name)).unwrap();
        files.insert(name, json!({"path": name, "type": "link", "target": target}));
    }
    manifest["files"] = files.into_values().collect();
    fs::write(&path, manifest.to_string()).unwrap();
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let signature = minisign::sign(None, &pair.sk, fs::File::open(&path).unwrap(), Some("test"), None).unwrap();
    fs::write(bundle.join("manifest.json.minisig"), signature.into_string()).unwrap();
    (bench, pair.pk.to_base64())
}

/// Runs the bundle's own check: its exit status, and what it said.
fn verify(bundle: &Path, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(bundle.join("installer")).arg("--verify").args(words).output().unwrap();
    (output.status.code(), text(&output))
}

#[test]
fn a_bundle_that_was_signed_is_vouched_for_and_each_tampering_is_named() {
    let (bench, key) = signed();
    let bundle = bench.bundle_path();
    let (status, said) = verify(&bundle, &[]);
    assert!(status == Some(0) && said.contains("was not checked") && said.contains("all 5 files"), "{said}");
    let file = bench.root().join("key.pub");
    fs::write(&file, format!("untrusted comment: a key\n{key}\n")).unwrap();
    for key in [key.as_str(), file.to_str().unwrap()] {
        let (status, said) = verify(&bundle, &["--key", key]);
        assert!(status == Some(0) && said.contains("signed by the given key"), "{said}");
    }
    let refused = |wanted: &str| {
        let (status, said) = verify(&bundle, &["--key", &key]);
        assert!(status == Some(1) && said.contains(wanted), "\"{wanted}\" is not in:\n{said}");
    };
    let other = minisign::KeyPair::generate_unencrypted_keypair().unwrap().pk.to_base64();
    let (status, said) = verify(&bundle, &["--key", &other]);
    assert!(status == Some(1) && said.contains("another key"), "{said}");
    let template = bundle.join("conf/a.conf.j2");
    let right = fs::read(&template).unwrap();
    let mut flipped = right.clone();
    flipped[3] ^= 1;
    fs::write(&template, &flipped).unwrap();
    refused("conf/a.conf.j2: changed");
    fs::write(&template, &right).unwrap();
    fs::write(bundle.join("conf/evil"), "").unwrap();
    refused("conf/evil: not in the manifest");
    fs::remove_file(bundle.join("conf/evil")).unwrap();
    let target = fs::read_link(bundle.join("bin/helper")).unwrap();
    fs::remove_file(bundle.join("bin/helper")).unwrap();
    refused("bin/helper: missing");
    std::os::unix::fs::symlink("dkm", bundle.join("bin/helper")).unwrap();
    refused("bin/helper: not a link to ");
    fs::remove_file(bundle.join("bin/helper")).unwrap();
    std::os::unix::fs::symlink(target, bundle.join("bin/helper")).unwrap();
    let mode = |name: &str, mode: u32| fs::set_permissions(bundle.join(name), fs::Permissions::from_mode(mode)).unwrap();
    for (name, usual, open, said) in [
        ("bin/dkm", 0o755, 0o4755, "bin/dkm: mode 4755 instead of 0755"),
        ("conf/a.conf.j2", 0o644, 0o666, "conf/a.conf.j2: mode 0666 instead of 0644"),
        ("manifest.json", 0o644, 0o664, "manifest.json: mode 0664 instead of 0644"),
        ("conf", 0o755, 0o777, "mode 0777 lets others change what is in it"),
    ] {
        mode(name, open);
        refused(said);
        mode(name, usual);
    }
    // What a umask takes away is no difference.
    mode("conf/a.conf.j2", 0o600);
    mode("conf", 0o700);
    let (status, said) = verify(&bundle, &["--key", &key]);
    assert!(status == Some(0), "{said}");
    let path = bundle.join("manifest.json");
    let manifest = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    refused("it is not a regular file");
    fs::remove_file(&path).unwrap();
    fs::write(&path, manifest.replace("9.9.9", "9.9.8")).unwrap();
    refused("what it signs, or the signature itself, was changed");
    fs::remove_file(bundle.join("manifest.json.minisig")).unwrap();
    refused("manifest.json.minisig is missing");
    let (status, said) = verify(&bundle, &["--key", "nonsense"]);
    assert!(status == Some(1) && said.contains("cannot read the public key nonsense"), "{said}");
}

#[test]
fn a_launcher_that_is_trusted_checks_a_new_bundle_before_anything_of_it_is_run() {
    let (trusted, _) = signed();
    let (new, key) = signed();
    fs::write(new.bundle_path().join("bin/more"), "").unwrap();
    let mut command = Command::new(trusted.bundle_path().join("bin/dkmadmin"));
    let output = command.arg("verify").arg(new.bundle_path()).args(["--key", &key]).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("bin/more: not in the manifest"), "{}", text(&output));
}
