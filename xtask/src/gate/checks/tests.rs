//! Each fault is planted in an otherwise good archive and has to be named.

mod macos;

use super::*;
use crate::elf::tests::library;
use crate::fingerprint;
use crate::gate::traces::Machine;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};

/// A member to be: a path, what is there, a mode.
#[derive(Clone)]
struct Part {
    path: String,
    content: Vec<u8>,
    link: Option<String>,
    mode: u32,
    owner: u64,
    owner_name: &'static str,
    kind: tar::EntryType,
}

fn file(path: &str, content: impl Into<Vec<u8>>) -> Part {
    let (owner, owner_name) = (0, "");
    Part {
        path: path.into(),
        content: content.into(),
        link: None,
        mode: 0o644,
        owner,
        owner_name,
        kind: tar::EntryType::Regular,
    }
}

fn link(path: &str, target: &str) -> Part {
    Part { link: Some(target.into()), mode: 0o777, kind: tar::EntryType::Symlink, ..file(path, "") }
}

/// A good bundle.
fn good() -> Vec<Part> {
    vec![
        Part {
            mode: 0o755,
            ..file("bin/thing", library(&["libc.so.6", "libown.so"], Some("$ORIGIN/../lib"), &["GLIBC_2.17"]))
        },
        link("installer", "bin/thing"),
        file("lib/libown.so", library(&["libm.so.6"], None, &[])),
        file("share/text", "some text"),
    ]
}

fn header(part: &Part) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(part.kind);
    header.set_size(part.content.len() as u64);
    header.set_mode(part.mode);
    header.set_uid(part.owner);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_username(part.owner_name).unwrap();
    header
}

/// The archive of these members, whose manifest says what `said` has.
fn archive(folder: &Path, said: &[Part], glibc: Option<&str>, members: &[Part]) -> PathBuf {
    let platform = serde_json::json!({"os": "linux", "arch": "x86_64", "glibc": glibc});
    archive_for(&platform, folder, said, members)
}

/// The same, for a platform.
fn archive_for(platform: &serde_json::Value, folder: &Path, said: &[Part], members: &[Part]) -> PathBuf {
    let entries: Vec<_> = said
        .iter()
        .map(|part| match &part.link {
            Some(target) => serde_json::json!({"path": part.path, "type": "link", "target": target}),
            None => serde_json::json!({
                "path": part.path, "type": "file", "size": part.content.len(), "mode": format!("{:04o}", part.mode & 0o7777),
                "sha256": fingerprint::hex(&Sha256::digest(&part.content)),
            }),
        })
        .collect();
    let manifest = serde_json::json!({
        "schema": 1, "name": "dkumonitor", "version": "1.0.0", "platform": platform,
        "components": [{"name": "thing", "version": "1", "source": {"path": ".", "tree-sha256": "0"}, "glibc": platform["glibc"]}],
        "files": entries,
    });
    let path = folder.join("dkumonitor-1.0.0.tar.gz");
    let mut tar = tar::Builder::new(GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast()));
    let folder = Part { kind: tar::EntryType::Directory, mode: 0o755, ..file("", "") };
    for part in std::iter::once(&folder).chain(std::iter::once(&file("manifest.json", manifest.to_string()))).chain(members) {
        let mut header = header(part);
        // Written by hand: the library itself refuses the names that are wanted here.
        let name =
            if part.path.starts_with("//") { part.path[1..].to_owned() } else { format!("dkumonitor-1.0.0/{}", part.path) };
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(target) = &part.link {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        tar.append(&header, part.content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    path
}

fn machine() -> Machine {
    Machine { paths: vec![("the build folder", "/srv/ours/build".into())], ..Machine::default() }
}

/// What is found in a bundle whose members, and so its manifest, were changed like this.
fn found_with(rules: &str, change: impl FnOnce(&mut Vec<Part>)) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = good();
    change(&mut parts);
    let archive = archive(folder.path(), &parts, Some("2.17"), &parts);
    let bundle = Bundle::read(&archive, &machine().marks()).unwrap();
    bundle.check(&Policy::for_tests(rules)).iter().map(ToString::to_string).collect()
}

fn found(change: impl FnOnce(&mut Vec<Part>)) -> Vec<String> {
    found_with("", change)
}

#[track_caller]
fn one(findings: &[String], start: &str, part: &str) {
    assert!(findings.len() == 1 && findings[0].starts_with(start) && findings[0].contains(part), "{findings:#?}");
}

#[test]
fn a_good_bundle_has_no_findings() {
    assert_eq!(found(|_| {}), Vec::<String>::new());
}

#[test]
fn libraries_that_other_machines_lack_are_named() {
    let needing = |needed: &[&str], rpath| library(needed, rpath, &["GLIBC_2.17"]);
    one(
        &found(|parts| parts[0].content = needing(&["libfoo.so.1"], None)),
        "bin/thing: needs libfoo.so.1",
        "nor on every machine",
    );
    one(&found(|parts| parts[0].content = needing(&["libown.so"], None)), "bin/thing: needs libown.so", "lib/libown.so");
    let rules = "[[library]]\nname = \"libfoo.so.1\"\nwhy = \"said so\"\n";
    assert_eq!(found_with(rules, |parts| parts[0].content = needing(&["libfoo.so.1"], None)), Vec::<String>::new());
}

#[test]
fn rpaths_of_the_builders_machine_are_named() {
    for (rpath, why) in
        [("/opt/thing/lib", "not relative"), ("$ORIGIN/../../x", "outside"), ("", "wherever"), ("$ORIGINAL", "not rel")]
    {
        one(&found(|parts| parts[2].content = library(&[], Some(rpath), &[])), "lib/libown.so: looks for libraries", why);
    }
}

#[test]
fn a_newer_glibc_than_is_said_or_allowed_is_named() {
    let newer = |parts: &mut Vec<Part>| parts[2].content = library(&[], None, &["GLIBC_2.34"]);
    one(&found(newer), "the manifest says that glibc 2.17 is needed, and it is 2.34", "");
    let both = found_with("glibc = \"2.28\"\n", newer);
    assert!(
        both.iter().any(|text| text == "lib/libown.so: needs glibc 2.34; gate.toml allows no newer one than 2.28"),
        "{both:?}"
    );
}

#[test]
fn programs_for_other_machines_and_damaged_ones_are_named() {
    let mut other = library(&[], None, &[]);
    other[18] = 183;
    one(&found(|parts| parts[2].content = other), "lib/libown.so: is for aarch64", "x86_64");
    let cut = library(&[], None, &[])[..100].to_vec();
    one(&found(|parts| parts[2].content = cut), "lib/libown.so: it looks like an ELF file", "");
}

#[test]
fn paths_of_the_build_are_named_with_the_file() {
    let text = "configured with --prefix=/srv/ours/build/dest";
    one(&found(|parts| parts[3].content = text.into()), "share/text: names the build folder", "--prefix=/srv/ours/build/dest");
    let rules = "[[trace]]\nfiles = \"share/*\"\ntext = \"/srv/ours/build/dest\"\nwhy = \"an example\"\n";
    assert_eq!(found_with(rules, |parts| parts[3].content = text.into()), Vec::<String>::new());
}

#[test]
fn permissions_and_owners_that_are_not_for_others_are_named() {
    one(&found(|parts| parts[0].mode = 0o4755), "bin/thing: is set-uid", "4755");
    let both = found(|parts| parts[3].mode = 0o666);
    one(&both, "share/text: can be written to by others", "0666");
    one(&found(|parts| parts[3].owner = 1000), "share/text: belongs to user 1000", "");
    one(&found(|parts| parts[3].owner_name = "erika"), "share/text: carries the names", "erika");
}

#[test]
fn links_that_lead_out_or_nowhere_are_named() {
    one(
        &found(|parts| parts[1] = link("installer", "/usr/bin/env")),
        "installer: is a link to the absolute path",
        "/usr/bin/env",
    );
    one(&found(|parts| parts[1] = link("bin/x", "../../elsewhere")), "bin/x: is a link that leads out", "");
    one(&found(|parts| parts[1] = link("bin/x", "nothing")), "bin/x: is a link to nothing", "not in the bundle");
    assert_eq!(found(|parts| parts[1] = link("bin/x", "../share")), Vec::<String>::new());
}

#[test]
fn members_that_lie_outside_or_are_no_files_are_named() {
    let said = good();
    let folder = tempfile::tempdir().unwrap();
    let with = |part: Part| {
        let members: Vec<Part> = said.iter().cloned().chain([part]).collect();
        let bundle = Bundle::read(&archive(folder.path(), &said, Some("2.17"), &members), &[]).unwrap();
        bundle.check(&Policy::for_tests("")).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(with(file("//etc/passwd", "x")).contains("/etc/passwd: lies outside"));
    assert!(with(file("../up", "x")).contains("lies outside"));
    assert!(with(Part { kind: tar::EntryType::Fifo, ..file("run/pipe", "") }).contains("run/pipe: is a pipe"));
    assert!(with(file("share/text", "some text")).contains("share/text: is in the archive twice"));
    assert!(with(file("share/more", "x")).contains("share/more: is in the archive and not in the manifest"));
}

#[test]
fn what_is_not_as_the_manifest_says_is_named() {
    let said = good();
    let folder = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut Vec<Part>)| {
        let mut members = said.clone();
        change(&mut members);
        let bundle = Bundle::read(&archive(folder.path(), &said, Some("2.17"), &members), &[]).unwrap();
        bundle.check(&Policy::for_tests("")).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    one(&with(&|parts| parts[3].content[0] ^= 1), "share/text: has another content", "");
    one(&with(&|parts| parts[3].mode = 0o755), "share/text: has the mode 0755", "");
    one(&with(&|parts| drop(parts.remove(3))), "share/text: is in the manifest and not in the archive", "");
}

#[test]
fn a_flipped_bit_anywhere_in_the_archive_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let parts = good();
    let path = archive(folder.path(), &parts, Some("2.17"), &parts);
    let whole = std::fs::read(&path).unwrap();
    let content = |bundle: &Bundle| -> Vec<_> {
        bundle.seen.iter().map(|seen| (seen.path.clone(), seen.member.clone(), seen.sha256.clone())).collect()
    };
    let good = content(&Bundle::read(&path, &[]).unwrap());
    // In the header of gzip four bytes are a time that nothing depends on, and two tell how and where it was packed. Bits that only
    // fill a byte up mean nothing either: they are for the checksum beside the archive.
    for at in (10..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, damaged).unwrap();
        if let Ok(bundle) = Bundle::read(&path, &[]) {
            assert!(!bundle.check(&Policy::for_tests("")).is_empty() || content(&bundle) == good, "byte {at}");
        }
    }
}

#[test]
fn what_is_no_bundle_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar.gz");
    let mut tar = tar::Builder::new(GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast()));
    std::fs::write(folder.path().join("file"), "x").unwrap();
    tar.append_path_with_name(folder.path().join("file"), "a/file").unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let error = Bundle::read(&path, &[]).unwrap_err();
    assert!(format!("{error:#}").contains("x.tar.gz is no bundle"), "{error:#}");
    assert_eq!(crate::error::kind_of(&error), Kind::Integrity);
}
