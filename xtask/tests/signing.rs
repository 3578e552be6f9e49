//! Signatures: made by the real program, checked by it, by the launcher's library and by the real minisign; and every kind of
//! tampering, each of which must be seen.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Outcome, Place, flip_checksum, new_key, sha256};
use dkumonitor_interface::integrity;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A password for keys.
const PASSWORD: &str = "pass word";

/// A stack that needs neither network nor compiler, with two keys.
struct Signing {
    place: Place,
}

impl Signing {
    fn new() -> Self {
        let place = Place::new();
        place
            .write("stack/vendor.lock", "[[source]]\nname = \"thing\"\nversion = \"1\"\npath = \"thing\"\nlicense = \"MIT\"\n");
        let install = |name: &str| format!("[[install]]\nfrom = \"src/{name}\"\nto = \"share/{name}\"\n");
        place.write("stack/recipes/thing.toml", format!("summary = \"x\"\n{}{}", install("hello.txt"), install("zero.bin")));
        place.write("stack/thing/hello.txt", "hello\n");
        place.write("stack/thing/zero.bin", vec![0; 3_000_000]);
        new_key(&place.path("key"), None);
        new_key(&place.path("other"), None);
        Self { place }
    }

    fn path(&self, inner: &str) -> String {
        self.place.path(inner).to_str().unwrap().to_owned()
    }

    /// `package --offline` with these words.
    fn package(&self, words: &[&str]) -> Outcome {
        self.place.xtask(&[["package", "--offline"].as_slice(), words].concat())
    }

    fn signed(&self) -> PathBuf {
        self.package(&["--sign", &self.path("key")]).good();
        self.place.archive()
    }

    fn verify(&self, file: &Path, words: &[&str]) -> Outcome {
        xtask(&[["verify", file.to_str().unwrap()].as_slice(), words].concat())
    }

    fn verify_with_key(&self, file: &Path) -> Outcome {
        self.verify(file, &["--key", &self.path("key.pub")])
    }
}

fn xtask(words: &[&str]) -> Outcome {
    Outcome::of(&Command::new(env!("CARGO_BIN_EXE_xtask")).args(words).output().unwrap())
}

fn minisig(path: &Path) -> PathBuf {
    path.with_added_extension("minisig")
}

/// Unpacks an archive as users do.
fn unpack(archive: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    assert!(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).status().unwrap().success());
}

#[test]
fn a_signed_package_is_the_same_each_time_and_vouched_for_outside_and_inside() {
    let signing = Signing::new();
    let archive = signing.signed();
    let (bytes, signature) = (fs::read(&archive).unwrap(), fs::read(minisig(&archive)).unwrap());
    let text = signing.verify_with_key(&archive).good();
    assert!(!text.contains("! "), "what lies beside it is not vouched for: {text}");
    let bill = archive.with_file_name(archive.file_name().unwrap().to_str().unwrap().replace("tar.gz", "sbom.cdx.json"));
    assert!(minisig(&bill).is_file());
    let text = signing.verify(&archive, &["--key", &signing.path("key.pub"), "--contents"]).good();
    assert!(text.contains("all 6 files in it are as its manifest says"), "{text}");
    // Nothing but the archive and the key: then the signature inside vouches.
    let alone = signing.place.path("alone.tar.gz");
    fs::copy(&archive, &alone).unwrap();
    let text = signing.verify_with_key(&alone).good();
    assert!(text.contains("its manifest is signed by the given key"), "{text}");
    let copy = signing.place.path("alone.sbom.cdx.json");
    fs::copy(&bill, &copy).unwrap();
    let text = signing.verify_with_key(&alone).good();
    assert!(text.contains("alone.sbom.cdx.json beside it is the one in it"), "{text}");
    fs::write(&copy, "{}").unwrap();
    signing.verify_with_key(&alone).bad(5, &["alone.sbom.cdx.json beside it is another one than that in it"]);
    // A second run changes nothing; one from nothing makes the same bytes.
    let stamp = |path: &Path| path.metadata().unwrap().modified().unwrap();
    let before = (stamp(&archive), stamp(&minisig(&archive)));
    let text = signing.package(&["--sign", &signing.path("key")]).good();
    assert!(text.contains("unchanged"), "{text}");
    assert_eq!((stamp(&archive), stamp(&minisig(&archive))), before);
    fs::remove_dir_all(signing.place.path("build")).unwrap();
    fs::remove_dir_all(signing.place.path("dist")).unwrap();
    signing.signed();
    assert!(fs::read(&archive).unwrap() == bytes && fs::read(minisig(&archive)).unwrap() == signature);
    // Without the key it is another archive, and no old signature stands beside it.
    signing.package(&[]).good();
    assert!(
        !minisig(&archive).exists() && !minisig(&bill).exists() && !signing.place.tree().join("manifest.json.minisig").exists()
    );
    signing.verify_with_key(&archive).bad(5, &["not signed"]);
    signing.verify(&archive, &[]).good();
}

#[test]
fn what_was_packed_without_a_key_is_signed_afterwards_to_the_same_bytes() {
    let signing = Signing::new();
    let archives = ["tar.gz", "tar.xz"].map(|ending| signing.place.archive().with_extension("").with_extension(ending));
    let formats = ["--format", "gz,xz"];
    signing.package(&[["--sign", &signing.path("key")].as_slice(), &formats].concat()).good();
    let whole = |archive: &PathBuf| (fs::read(archive).unwrap(), fs::read(minisig(archive)).unwrap());
    let wanted = archives.each_ref().map(whole);
    signing.package(&formats).good();
    for (archive, wanted) in archives.iter().zip(&wanted) {
        let mut words = vec!["sign", archive.to_str().unwrap(), "--key"];
        let (key, other) = (signing.path("key"), signing.path("other"));
        words.push(&key);
        xtask(&words).good();
        // (assert_eq would print the bytes.)
        assert!(whole(archive).0 == wanted.0, "{} differs", archive.display());
        signing.verify_with_key(archive).good();
        let again = whole(archive);
        xtask(&words).good();
        assert!(whole(archive) == again, "signed twice");
        words[3] = &other;
        xtask(&words).bad(5, &["not by the key"]);
    }
}

#[test]
fn a_flipped_bit_a_wrong_key_and_a_foreign_signature_are_seen() {
    let signing = Signing::new();
    let archive = signing.signed();
    signing.verify(&archive, &["--key", &signing.path("other.pub")]).bad(5, &["another key than the given one"]);
    signing.verify(&archive, &["--key", &signing.path("key")]).bad(2, &["is not a public key"]);
    let (whole, signature) = (fs::read(&archive).unwrap(), fs::read(minisig(&archive)).unwrap());
    flip_checksum(&archive);
    signing.verify_with_key(&archive).bad(5, &["was changed"]);
    // The checksum alone sees it too, and so does reading it through.
    signing.verify(&archive, &[]).bad(5, &["SHA-256"]);
    let alone = signing.place.path("alone.tar.gz");
    fs::copy(&archive, &alone).unwrap();
    signing.verify_with_key(&alone).bad(5, &[]);
    fs::write(&archive, &whole).unwrap();
    signing.verify_with_key(&archive).good();
    // Somebody who can change the archive can change its checksum as well, but not sign.
    let evil = [whole.as_slice(), &[0; 512]].concat();
    fs::write(&archive, &evil).unwrap();
    let name = archive.file_name().unwrap().to_str().unwrap();
    fs::write(archive.with_added_extension("sha256"), format!("{}  {name}\n", sha256(&evil))).unwrap();
    signing.verify(&archive, &[]).good();
    signing.verify_with_key(&archive).bad(5, &["was changed"]);
    // A signature of something else, and a comment that was changed.
    fs::write(&archive, &whole).unwrap();
    fs::remove_file(archive.with_added_extension("sha256")).unwrap();
    let inner = fs::read(signing.place.tree().join("manifest.json.minisig")).unwrap();
    fs::write(minisig(&archive), inner).unwrap();
    signing.verify_with_key(&archive).bad(5, &["was changed"]);
    let text = String::from_utf8(signature).unwrap().replace("timestamp:", "timestamp:9");
    fs::write(minisig(&archive), text).unwrap();
    signing.verify_with_key(&archive).bad(5, &["was changed"]);
    fs::write(minisig(&archive), "no signature").unwrap();
    signing.verify_with_key(&archive).bad(5, &["not a signature of minisign"]);
}

#[test]
fn an_archive_that_was_put_together_anew_is_seen_by_the_signature_inside() {
    let signing = Signing::new();
    let archive = signing.signed();
    let folder = signing.place.path("unpacked");
    unpack(&archive, &folder);
    let name = signing.place.tree().file_name().unwrap().to_owned();
    let tree = folder.join(&name);
    signing.verify_with_key(&tree).good();
    let manifest = fs::read_to_string(tree.join("manifest.json")).unwrap();
    let repack = |said: &[&str]| {
        let evil = signing.place.path("evil.tar.gz");
        let tar = Command::new("tar").arg("-C").arg(&folder).arg("-czf").arg(&evil).arg(&name).status().unwrap();
        assert!(tar.success());
        signing.verify_with_key(&evil).bad(5, said);
        signing.verify_with_key(&tree).bad(5, said);
    };
    fs::write(tree.join("share/hello.txt"), "jello\n").unwrap();
    repack(&["share/hello.txt: changed"]);
    // With the manifest made to fit, its signature does not.
    let fitting = manifest.replace(&sha256(b"hello\n"), &sha256(b"jello\n"));
    assert_ne!(fitting, manifest);
    fs::write(tree.join("manifest.json"), fitting).unwrap();
    repack(&["manifest.json.minisig is wrong", "was changed"]);
    fs::remove_file(tree.join("manifest.json.minisig")).unwrap();
    repack(&["manifest.json is not signed"]);
    // Without a key only the manifest speaks.
    signing.verify(&tree, &[]).good();
    fs::write(tree.join("more"), "").unwrap();
    repack(&["more: not in the manifest"]);
}

#[test]
fn keys_are_taken_from_variables_with_passwords_and_refused_where_they_are_open() {
    let signing = Signing::new();
    new_key(&signing.place.path("locked"), Some(PASSWORD));
    let archive = signing.place.archive();
    let with = |password: Option<&str>| {
        let mut command = signing.place.command(&["package", "--offline", "--sign", "env:A_KEY"]);
        command.env("A_KEY", fs::read_to_string(signing.path("locked")).unwrap()).env_remove("DKUMONITOR_SIGN_PASSWORD");
        command.stdin(std::process::Stdio::null());
        password.map(|password| command.env("DKUMONITOR_SIGN_PASSWORD", password));
        Outcome::of(&command.output().unwrap())
    };
    with(None).bad(2, &["DKUMONITOR_SIGN_PASSWORD is not set"]);
    with(Some("wrong")).bad(2, &["Wrong password"]);
    assert!(!signing.place.path("dist").exists(), "it is refused before anything is made");
    with(Some(PASSWORD)).good();
    signing.verify(&archive, &["--key", &signing.path("locked.pub")]).good();
    signing.package(&["--sign", "env:NO_SUCH_KEY"]).bad(2, &["NO_SUCH_KEY"]);
    fs::set_permissions(signing.path("key"), fs::Permissions::from_mode(0o640)).unwrap();
    signing.package(&["--sign", &signing.path("key")]).bad(2, &["mode 0640", "chmod 600"]);
}

#[test]
fn minisign_itself_accepts_ours_and_makes_the_same() {
    let signing = Signing::new();
    let minisign = |words: &[&str]| {
        Outcome::of(&Command::new("minisign").args(words).output().expect("minisign (apt-get install minisign)"))
    };
    let (public, secret) = (signing.path("tool.pub"), signing.path("tool"));
    minisign(&["-G", "-W", "-p", &public, "-s", &secret]).good();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    signing.package(&["--sign", &secret]).good();
    let archive = signing.place.archive();
    let (shown, manifest) = (archive.to_str().unwrap(), signing.place.tree().join("manifest.json"));
    // Theirs takes ours.
    let text = minisign(&["-V", "-p", &public, "-m", shown]).good();
    assert!(text.contains("file:dkumonitor-stack"), "{text}");
    minisign(&["-V", "-p", &public, "-m", manifest.to_str().unwrap()]).good();
    // Ours takes theirs, and they are the same but for the comment that nobody signs.
    let ours = fs::read_to_string(minisig(&archive)).unwrap();
    let comment = ours.lines().nth(2).unwrap().strip_prefix("trusted comment: ").unwrap();
    minisign(&["-S", "-W", "-s", &secret, "-m", shown, "-t", comment]).good();
    let theirs = fs::read_to_string(minisig(&archive)).unwrap();
    assert_eq!(theirs.lines().skip(1).collect::<Vec<_>>(), ours.lines().skip(1).collect::<Vec<_>>());
    signing.verify(&archive, &["--key", &public]).good();
    // The key as one word.
    let line = fs::read_to_string(&public).unwrap().lines().nth(1).unwrap().to_owned();
    assert!(integrity::public_key(&line).is_ok());
    signing.verify(&archive, &["--key", &line]).good();
    // Others' files, too.
    let file = signing.place.write("some file", "content");
    xtask(&["sign", file.to_str().unwrap(), "--key", &secret]).good();
    minisign(&["-V", "-p", &public, "-m", file.to_str().unwrap()]).good();
    signing.verify(&file, &["--key", &public]).good();
    fs::write(&file, "Content").unwrap();
    minisign(&["-V", "-p", &public, "-m", file.to_str().unwrap()]).bad(1, &[]);
    signing.verify(&file, &["--key", &public]).bad(5, &["was changed"]);
}
