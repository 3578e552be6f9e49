//! Archives made by the `tar` crate, good and hostile, and what becomes of them.

use super::entry::leads_out;
use super::*;
use crate::error::{Kind, kind_of};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use tar::{EntryType, Header};

/// One entry of an archive under test: type, name, link target, content, mode.
#[derive(Clone, Debug)]
struct Entry {
    kind: EntryType,
    name: Vec<u8>,
    target: Vec<u8>,
    content: Vec<u8>,
    mode: u32,
}

fn entry(kind: EntryType, name: &str, target: &str) -> Entry {
    let content = if kind == EntryType::Regular { b"content\n".to_vec() } else { Vec::new() };
    Entry { kind, name: name.into(), target: target.into(), content, mode: 0o644 }
}

/// Writes names into the header as they are: the crate's own setters refuse the hostile ones.
fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_mtime(1_600_000_000);
        header.set_size(entry.content.len() as u64);
        let old = header.as_old_mut();
        let count = entry.name.len().min(old.name.len());
        old.name[..count].copy_from_slice(&entry.name[..count]);
        let count = entry.target.len().min(old.linkname.len());
        old.linkname[..count].copy_from_slice(&entry.target[..count]);
        header.set_cksum();
        builder.append(&header, entry.content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("un pack ").tempdir().unwrap();
        std::fs::write(folder.path().join("outside"), "untouched").unwrap();
        Self { folder }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("the tree")
    }

    fn unpack(&self, bytes: &[u8]) -> anyhow::Result<Unpacked> {
        let archive = self.folder.path().join("archive");
        std::fs::write(&archive, bytes).unwrap();
        unpack(&archive, &self.target())
    }

    /// What stands beside the target: nothing but what the test itself put there.
    fn beside(&self) -> Vec<String> {
        let entries = self.folder.path().read_dir().unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !["archive", "the tree"].contains(&name.as_str()));
        names.sort();
        names
    }

    fn refused(&self, entries: &[Entry], words: &str) {
        let error = self.unpack(&tar_of(entries)).expect_err(words);
        let text = format!("{error:#}");
        assert!(text.contains(words), "{text} does not say {words}");
        assert_eq!(kind_of(&error), Kind::Integrity, "{text}");
        assert!(!self.target().exists(), "{text}");
        assert_eq!(self.beside(), ["outside"], "{text}");
    }
}

#[test]
fn keeps_content_modes_times_and_links_and_strips_the_one_top_folder() {
    let place = Place::new();
    let mut script = entry(EntryType::Regular, "top-1/bin/run", "");
    script.mode = 0o7757;
    let bytes = tar_of(&[
        entry(EntryType::XGlobalHeader, "pax_global_header", ""),
        entry(EntryType::Directory, "top-1/", ""),
        entry(EntryType::Directory, "top-1/bin/", ""),
        script,
        entry(EntryType::Symlink, "top-1/same", "bin/../bin/run"),
        entry(EntryType::Link, "top-1/hard", "top-1/bin/run"),
        entry(EntryType::Regular, "./top-1//implied/deep/file", ""),
    ]);
    let unpacked = place.unpack(&bytes).unwrap();
    assert_eq!(unpacked, Unpacked { files: 3, bytes: 16 });
    let tree = place.target();
    let run = tree.join("bin/run").metadata().unwrap();
    assert_eq!((run.mode() & 0o7777, run.mtime(), run.nlink()), (0o755, 1_600_000_000, 2), "{:o}", run.mode());
    assert_eq!(std::fs::read(tree.join("implied/deep/file")).unwrap(), b"content\n");
    assert_eq!(std::fs::read_link(tree.join("same")).unwrap(), Path::new("bin/../bin/run"));
    assert_eq!(tree.join("same").symlink_metadata().unwrap().mtime(), 1_600_000_000);
    assert_eq!(tree.join("bin").metadata().unwrap().mtime(), 1_600_000_000);
    assert_eq!(tree.join("bin").metadata().unwrap().mode() & 0o7777, 0o744);
    assert_eq!(place.beside(), ["outside"]);
}

#[test]
fn several_top_entries_are_all_kept() {
    let place = Place::new();
    place.unpack(&tar_of(&[entry(EntryType::Regular, "a/x", ""), entry(EntryType::Regular, "b", "")])).unwrap();
    assert!(place.target().join("a/x").is_file() && place.target().join("b").is_file());
    let place = Place::new();
    place.unpack(&tar_of(&[entry(EntryType::Regular, "only", "")])).unwrap();
    assert!(place.target().join("only").is_file());
}

#[test]
fn an_empty_target_is_filled_and_a_full_one_refused() {
    let place = Place::new();
    let bytes = tar_of(&[entry(EntryType::Regular, "top/file", "")]);
    std::fs::create_dir(place.target()).unwrap();
    // What a killed run left behind is no hindrance.
    std::fs::create_dir_all(place.folder.path().join("the tree.unpacking/half")).unwrap();
    place.unpack(&bytes).unwrap();
    let error = place.unpack(&bytes).unwrap_err();
    assert!(format!("{error:#}").contains("not empty"), "{error:#}");
}

#[test]
fn every_packing_is_seen_by_its_first_bytes() {
    let plain = tar_of(&[entry(EntryType::Regular, "top/file", "")]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&plain[..700]).unwrap();
    let mut members = gz.finish().unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&plain[700..]).unwrap();
    members.extend(gz.finish().unwrap());
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bz.write_all(&plain).unwrap();
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 3);
    xz.write_all(&plain).unwrap();
    for packed in [plain.clone(), members, bz.finish().unwrap(), xz.finish().unwrap()] {
        let place = Place::new();
        place.unpack(&packed).unwrap();
        assert_eq!(std::fs::read(place.target().join("file")).unwrap(), b"content\n");
        // Cut anywhere, it is an error, and nothing is left.
        for cut in [packed.len() / 3, packed.len() / 2, packed.len() - 1].into_iter().filter(|_| packed[0] != b't') {
            let place = Place::new();
            let error = place.unpack(&packed[..cut]).unwrap_err();
            assert!(format!("{error:#}").contains("cut short"), "{error:#}");
            assert_eq!(kind_of(&error), Kind::Integrity);
            assert!(!place.target().exists() && place.beside() == ["outside"]);
        }
    }
    // A plain tar is cut inside a header, inside a file, and exactly before its end mark.
    for cut in [600, 515, 300, 1024] {
        let place = Place::new();
        let error = place.unpack(&plain[..cut]).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Integrity, "{cut}: {error:#}");
    }
}

#[test]
fn a_flipped_bit_in_the_packed_bytes_is_found_at_the_latest_by_the_checksum() {
    let mut big = entry(EntryType::Regular, "top/file", "");
    big.content = (0..100_000_u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gz.write_all(&tar_of(&[big])).unwrap();
    let mut packed = gz.finish().unwrap();
    let middle = packed.len() / 2;
    packed[middle] ^= 4;
    let place = Place::new();
    let error = place.unpack(&packed).unwrap_err();
    assert_eq!(kind_of(&error), Kind::Integrity, "{error:#}");
    assert!(!place.target().exists());
}

#[test]
fn what_is_no_archive_is_named_by_how_it_begins() {
    let place = Place::new();
    for (bytes, words) in [
        (b"<!DOCTYPE html><title>404</title>".as_slice(), "<!DOCTYPE html>"),
        (b"", "begins with \"\""),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        (&[0; 4096], "no archive that is known"),
    ] {
        let error = place.unpack(bytes).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#}");
        assert_eq!(kind_of(&error), Kind::Integrity);
    }
}

#[test]
fn a_bomb_is_refused_before_it_fills_the_disk_or_the_memory() {
    let place = Place::new();
    let archive = place.folder.path().join("archive");
    let within = |entries: &[Entry], limits: Limits| {
        std::fs::write(&archive, tar_of(entries)).unwrap();
        unpack_within(&archive, &place.target(), limits)
    };
    let mut large = entry(EntryType::Regular, "top/large", "");
    large.content = vec![0; 100_000];
    let entries = [entry(EntryType::Directory, "top/", ""), large.clone(), entry(EntryType::Symlink, "top/link", "large")];
    for limits in [Limits { bytes: 99_999, entries: 3 }, Limits { bytes: 100_000, entries: 2 }] {
        let error = within(&entries, limits).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Integrity);
        assert!(format!("{error:#}").contains("like a bomb"), "{error:#}");
        assert!(!place.target().exists() && place.beside() == ["outside"]);
    }
    within(&entries, Limits { bytes: 100_000, entries: 3 }).unwrap();
    // What is far larger than it says it is on disk: a sparse file of GNU's kind.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("sparse").unwrap();
    header.set_mode(0o644);
    header.set_size(512);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.sparse[0].set_offset(1 << 40);
    gnu.sparse[0].set_length(512);
    gnu.set_real_size((1 << 40) + 512);
    header.set_cksum();
    builder.append(&header, [1; 512].as_slice()).unwrap();
    let error = Place::new().unpack(&builder.into_inner().unwrap()).unwrap_err();
    assert!(format!("{error:#}").contains("like a bomb"), "{error:#}");
    // A name that would take all memory: the parser holds names in it.
    let mut name = entry(EntryType::GNULongName, "././@LongLink", "");
    name.content = vec![b'n'; 3 << 20];
    place_refuses_a_long_description(&[name, entry(EntryType::Regular, "x", "")]);
    // And so much content of what has none.
    let mut link = entry(EntryType::Symlink, "link", "x");
    link.content = vec![0; 3 << 20];
    place_refuses_a_long_description(&[link, entry(EntryType::Regular, "x", "")]);
    assert_eq!(Limits::of_archive(1000).bytes, 1 << 30);
    assert_eq!(Limits::of_archive(100_000_000).bytes, 10_000_000_000);
    assert_eq!(Limits::of_archive(u64::MAX).bytes, 64 << 30);
}

fn place_refuses_a_long_description(entries: &[Entry]) {
    let place = Place::new();
    let error = place.unpack(&tar_of(entries)).unwrap_err();
    assert!(format!("{error:#}").contains("longer than any name"), "{error:#}");
    assert_eq!(kind_of(&error), Kind::Integrity);
    assert!(!place.target().exists());
}

#[test]
fn what_has_no_business_in_a_source_archive_is_refused_by_name() {
    use EntryType as T;
    let refused = |entries: &[Entry], words: &str| Place::new().refused(entries, words);
    refused(&[entry(T::Regular, "/etc/evil", "")], "\"/etc/evil\" has an absolute name");
    refused(&[entry(T::Regular, "top/../../outside", "")], "climbs out");
    refused(&[entry(T::Symlink, "top/l", "/etc/passwd")], "leads out, to \"/etc/passwd\"");
    refused(&[entry(T::Symlink, "top/l", "../outside")], "\"top/l\" is a link that leads out");
    refused(&[entry(T::Symlink, "top/d", "."), entry(T::Regular, "top/d/x", "")], "goes through \"d\"");
    refused(&[entry(T::Regular, "top/f", ""), entry(T::Regular, "top/f/x", "")], "goes through \"f\"");
    refused(&[entry(T::Symlink, "top/d", ".."), entry(T::Regular, "top/d/x", "")], "goes through \"d\"");
    // The first link is harmless until the second exists: its `d/..` is then one folder higher.
    let chain = [entry(T::Symlink, "top/x/y/l", "d/../../.."), entry(T::Symlink, "top/x/y/d", "..")];
    refused(&chain, "\"top/x/y/l\" is a link that leads out");
    refused(&[entry(T::Link, "top/h", "/etc/passwd")], "hard link that leads out");
    refused(&[entry(T::Link, "top/h", "../outside")], "hard link that leads out");
    refused(&[entry(T::Link, "top/h", "top/none")], "not there");
    refused(&[entry(T::Symlink, "top/d", "sub"), entry(T::Link, "top/h", "top/d/f")], "goes through \"d\"");
    // A hard link to a link is a link at another place.
    let moved =
        [entry(T::Symlink, "top/a/b/l", "../../f"), entry(T::Regular, "top/f", ""), entry(T::Link, "top/l", "top/a/b/l")];
    refused(&moved, "\"top/l\" is a link that leads out");
    refused(&[entry(T::Block, "top/disk", "")], "\"top/disk\" is a device node");
    refused(&[entry(T::Char, "top/tty", "")], "device node");
    refused(&[entry(T::Fifo, "top/pipe", "")], "named pipe");
    refused(&[entry(T::new(b'M'), "top/more", "")], "unknown type 'M'");
    refused(&[entry(T::Regular, "top/f", ""), entry(T::Regular, "top/f", "")], "\"top/f\" stands there twice");
    refused(&[entry(T::Symlink, "top/f", "g"), entry(T::Regular, "top/f", "")], "stands there twice");
    refused(&[entry(T::XGlobalHeader, "pax_global_header", "")], "archive is empty");
}

#[test]
fn folders_may_stand_there_twice_and_circles_lead_nowhere() {
    let place = Place::new();
    let entries = [
        entry(EntryType::Directory, "top/", ""),
        entry(EntryType::Symlink, "top/a", "b"),
        entry(EntryType::Symlink, "top/b", "a"),
        entry(EntryType::Directory, "top/", ""),
    ];
    place.unpack(&tar_of(&entries)).unwrap();
}

#[test]
fn long_names_odd_bytes_and_exact_times_survive_both_extensions() {
    use std::os::unix::ffi::OsStringExt as _;
    let place = Place::new();
    let long = format!("top/{}/{}", "d".repeat(120), "f".repeat(200));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o600);
    header.set_mtime(1_500_000_000);
    builder.append_data(&mut header.clone(), &long, b"ok".as_slice()).unwrap();
    let odd = std::ffi::OsString::from_vec(b"top/caf\xe9\\ \x01".to_vec());
    builder.append_data(&mut header.clone(), &odd, b"ok".as_slice()).unwrap();
    let pax = format!("top/{}", "p".repeat(180));
    builder.append_pax_extensions([("path", pax.as_bytes()), ("mtime", b"1500000000.25")]).unwrap();
    header.set_path("top/short").unwrap();
    header.set_cksum();
    builder.append(&header, b"ok".as_slice()).unwrap();
    place.unpack(&builder.into_inner().unwrap()).unwrap();
    let tree = place.target();
    assert!(tree.join("d".repeat(120)).join("f".repeat(200)).is_file());
    assert!(tree.join(OsStr::from_bytes(b"caf\xe9\\ \x01")).is_file());
    let exact = tree.join("p".repeat(180)).metadata().unwrap();
    assert_eq!((exact.mtime(), exact.mtime_nsec()), (1_500_000_000, 250_000_000));
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("GNU.sparse.major", b"1".as_slice())]).unwrap();
    builder.append(&header, b"ok".as_slice()).unwrap();
    let error = Place::new().unpack(&builder.into_inner().unwrap()).unwrap_err();
    assert!(format!("{error:#}").contains("sparse"), "{error:#}");
}

#[test]
fn the_real_tars_archive_gives_the_real_tars_tree() {
    let place = Place::new();
    let source = place.folder.path().join("src 1/inner");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("n\u{e4}me with space"), vec![7; 700_000]).unwrap();
    std::os::unix::fs::symlink("n\u{e4}me with space", source.join("link")).unwrap();
    for (format, packing) in [("gnu", "-z"), ("pax", "-J"), ("ustar", "-j"), ("v7", "-z")] {
        let archive = place.folder.path().join("real");
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C")
            .arg(place.folder.path())
            .arg(format!("--format={format}"))
            .arg(packing)
            .arg("-cf")
            .arg(&archive)
            .arg("src 1");
        assert!(tar.status().unwrap().success());
        unpack(&archive, &place.target()).unwrap();
        let made = place.target().join("inner/link");
        assert_eq!(std::fs::read(&made).unwrap(), vec![7; 700_000], "{format}");
        let (old, new) = (source.join("link").metadata().unwrap(), made.metadata().unwrap());
        assert_eq!((old.mtime(), old.mode()), (new.mtime(), new.mode()), "{format}");
        std::fs::remove_dir_all(place.target()).unwrap();
    }
}

#[test]
fn links_are_followed_by_words() {
    let none = |_: &[u8]| None;
    for (link, target, out) in [
        ("a", "b", false),
        ("a", "..", true),
        ("d/a", "..", false),
        ("d/a", "../..", true),
        ("d/a", "x/../../y/./z", false),
        ("d/a", "//etc", true),
    ] {
        assert_eq!(leads_out(link.as_bytes(), target.as_bytes(), none), out, "{link} -> {target}");
    }
}

fn hostile_name() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec!["a", "b", "c", "..", ".", "", "top", "l"]);
    (any::<bool>(), prop::collection::vec(part, 1..6), 0..8_u8).prop_map(|(inside, parts, absolute)| {
        let start = if absolute == 0 {
            "/"
        } else if inside {
            "top/"
        } else {
            ""
        };
        format!("{start}{}", parts.join("/")).into_bytes()
    })
}

fn hostile_entry() -> impl Strategy<Value = Entry> {
    let kinds = vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
    ];
    (prop::sample::select(kinds), hostile_name(), hostile_name(), 0..0o10000_u32).prop_map(|(kind, name, target, mode)| {
        let content = if kind == EntryType::Regular { b"evil".to_vec() } else { Vec::new() };
        Entry { kind, name, target, content, mode }
    })
}

/// Every link below `tree`, with where the file system really leads it.
fn real_links(tree: &Path) -> Vec<(PathBuf, PathBuf)> {
    let links = walkdir::WalkDir::new(tree).into_iter().map(Result::unwrap).filter(walkdir::DirEntry::path_is_symlink);
    links.filter_map(|link| Some((link.path().to_owned(), link.path().canonicalize().ok()?))).collect()
}

// The same cases in every run, so that none fails by luck.
proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// Whatever the entries are: the archive is refused and nothing is left, or nothing in the tree leads out of it.
    #[test]
    fn nothing_leads_out(entries in prop::collection::vec(hostile_entry(), 1..8)) {
        let place = Place::new();
        let result = place.unpack(&tar_of(&entries));
        prop_assert_eq!(place.beside(), vec!["outside".to_owned()]);
        prop_assert_eq!(std::fs::read(place.folder.path().join("outside")).unwrap(), b"untouched");
        match result {
            Err(_) => prop_assert!(!place.target().exists()),
            Ok(_) => {
                let tree = place.target().canonicalize().unwrap();
                for (link, leads_to) in real_links(&tree) {
                    prop_assert!(leads_to.starts_with(&tree), "{} leads to {}", link.display(), leads_to.display());
                }
            }
        }
    }

    /// Whatever the bytes are: an error or a tree, no panic, nothing outside.
    #[test]
    fn damaged_archives_do_no_harm(at in 0..2048_usize, byte: u8, cut in 0..4096_usize) {
        let mut bytes = tar_of(&[entry(EntryType::Regular, "top/f", ""), entry(EntryType::Symlink, "top/l", "f")]);
        bytes[at] = byte;
        bytes.truncate(cut.max(1));
        let place = Place::new();
        if place.unpack(&bytes).is_err() {
            prop_assert!(!place.target().exists());
        }
        prop_assert_eq!(place.beside(), vec!["outside".to_owned()]);
    }
}
