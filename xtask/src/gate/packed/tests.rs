//! Images and packages made on the spot, of layers and members that nobody would make by chance.

use super::*;
use crate::archive::read::MemberKind;
use crate::fingerprint::hex;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A member to be: its name, and its content, a link's target, or nothing for a folder.
enum Part {
    File(&'static str, &'static str),
    Link(&'static str, &'static str),
    Hard(&'static str, &'static str),
    Folder(&'static str),
}

fn tar_of(parts: &[Part]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for part in parts {
        let (name, content, kind, target) = match part {
            Part::File(name, content) => (name, *content, tar::EntryType::Regular, ""),
            Part::Link(name, target) => (name, "", tar::EntryType::Symlink, *target),
            Part::Hard(name, target) => (name, "", tar::EntryType::Link, *target),
            Part::Folder(name) => (name, "", tar::EntryType::Directory, ""),
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header.set_mtime(1);
        // Byte by byte: the library refuses the names that hostile layers have.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An image of these layers.
fn image(folder: &Path, layers: &[Vec<u8>]) -> PathBuf {
    let mut tar = tar::Builder::new(File::create(folder.join("image.tar")).unwrap());
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    };
    let mut blob = |content: &[u8]| {
        let digest = hex(&Sha256::digest(content));
        add(&format!("blobs/sha256/{digest}"), content);
        serde_json::json!({"digest": format!("sha256:{digest}"), "size": content.len(), "mediaType": "x"})
    };
    let blobs: Vec<_> = layers.iter().map(|layer| blob(layer)).collect();
    let ids: Vec<_> = blobs.iter().map(|blob| blob["digest"].clone()).collect();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": ids}});
    let config = blob(config.to_string().as_bytes());
    let manifest = blob(serde_json::json!({"config": config, "layers": blobs}).to_string().as_bytes());
    add("index.json", serde_json::json!({"manifests": [manifest]}).to_string().as_bytes());
    add("oci-layout", b"{}");
    tar.into_inner().unwrap();
    folder.join("image.tar")
}

/// What an image holds in the end by reading it, and by laying it out: the same.
fn holds(layers: &[Vec<u8>]) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), layers);
    assert_eq!(Form::of(&path).unwrap(), Form::Oci);
    let text = |_: &Member, content: &Content| Ok(String::from_utf8_lossy(&content.whole()?).into_owned());
    let (members, _) = each(&path, Form::Oci, text).unwrap();
    let mut read = BTreeMap::new();
    for (member, content) in members {
        match member.kind {
            MemberKind::File(_) => drop(read.insert(member.name, content)),
            MemberKind::Link(target) => drop(read.insert(member.name, format!("-> {target}"))),
            _ => {}
        }
    }
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    lay_out(&path, Form::Oci, &root).unwrap();
    let mut laid = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&root).into_iter().map(Result::unwrap) {
        let name = entry.path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        if entry.file_type().is_file() {
            laid.insert(name, std::fs::read_to_string(entry.path()).unwrap());
        } else if entry.file_type().is_symlink() {
            laid.insert(name, format!("-> {}", std::fs::read_link(entry.path()).unwrap().display()));
        }
    }
    assert_eq!(read, laid, "reading and laying out do not agree");
    read
}

fn names(held: &BTreeMap<String, String>) -> Vec<&str> {
    held.keys().map(String::as_str).collect()
}

#[test]
fn layers_lie_on_each_other_and_what_one_removes_is_gone() {
    use Part::{File, Folder, Link};
    let lower = || tar_of(&[Folder("./"), File("./a/one", "1"), File("a/two", "2"), File("b/c/three", "3"), Link("l", "a")]);
    let with = |parts: &[Part]| holds(&[lower(), tar_of(parts)]);
    assert_eq!(names(&with(&[])), ["a/one", "a/two", "b/c/three", "l"]);
    assert_eq!(with(&[File("a/one", "new")])["a/one"], "new");
    assert_eq!(names(&with(&[File("a/.wh.one", "")])), ["a/two", "b/c/three", "l"]);
    assert_eq!(names(&with(&[File(".wh.b", ""), File(".wh.l", "")])), ["a/one", "a/two"]);
    // What hides all of a folder may stand behind what the same layer puts there.
    assert_eq!(names(&with(&[File("a/new", "n"), File("a/.wh..wh..opq", "")])), ["a/new", "b/c/three", "l"]);
    assert_eq!(names(&with(&[File("a/.wh.one", ""), File("a/one", "again")])), ["a/one", "a/two", "b/c/three", "l"]);
    // A link in the place of a folder takes its content away.
    assert_eq!(names(&with(&[Link("b", "a")])), ["a/one", "a/two", "b", "l"]);
}

#[test]
fn nothing_is_laid_out_elsewhere() {
    use Part::{File, Hard, Link};
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let target: &'static str = Box::leak(outside.to_str().unwrap().to_owned().into_boxed_str());
    for parts in [
        vec![Link("out", target), File("out/planted", "x")],
        vec![File("../planted", "x")],
        vec![File("a/../../planted", "x")],
        vec![Link("out", target), Hard("planted", "out/planted")],
        vec![Hard("planted", "../outside/planted")],
    ] {
        let path = image(folder.path(), &[tar_of(&parts)]);
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let error = format!("{:#}", lay_out(&path, Form::Oci, &root).unwrap_err());
        assert!(error.contains("no folder") || error.contains("elsewhere"), "{error}");
        assert_eq!(outside.read_dir().unwrap().count() + folder.path().join("planted").exists() as usize, 0);
        std::fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn whatever_bytes_a_package_has_reading_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let mut deb = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", b"2.0\n".to_vec()), ("control.tar", tar_of(&[])), ("data.tar", tar_of(&[]))] {
        deb.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).bytes());
        deb.extend(content);
    }
    let mut rpm = vec![0xed, 0xab, 0xee, 0xdb];
    rpm.resize(96, 0);
    for _ in 0..2 {
        rpm.extend([
            0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 3, 0xe8, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 1,
        ]);
        rpm.extend(b"thing\0\0\0");
    }
    for whole in [deb, rpm] {
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x81;
            for bytes in [damaged.as_slice(), &whole[..at]] {
                std::fs::write(&path, bytes).unwrap();
                let form = Form::of(&path).unwrap();
                // An answer or an error, but no panic and no end of memory.
                let _ = each(&path, form, |_, _| Ok(()));
            }
        }
    }
}
