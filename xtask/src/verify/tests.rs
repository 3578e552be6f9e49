//! An archive with every bit of it flipped, cut short everywhere, and put together anew in every way that means something else.

use super::*;
use crate::archive::{self, Options};
use crate::commands::sign;
use crate::error::kind_of;
use crate::fingerprint;
use crate::sign::Signer;
use dkumonitor_interface::manifest::{FILE_NAME, FileEntry, FileKind, Manifest, Platform};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Tar's unit.
const RECORD: usize = 512;

/// A small signed bundle, and the key.
struct Bundle {
    folder: tempfile::TempDir,
    archive: PathBuf,
    key: PublicKey,
}

impl Bundle {
    fn new(format: Format) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        let mut files = Vec::new();
        // A size that leaves room in its last record, and one that does not.
        for (name, content, mode) in [("bin/program", "x".repeat(700), 0o755), ("share/text", "y".repeat(RECORD), 0o644)] {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let sha256 = fingerprint::hex(&Sha256::digest(&content));
            let kind = FileKind::File { size: content.len() as u64, mode: format!("{mode:04o}"), sha256 };
            files.push(FileEntry { path: name.to_owned(), kind });
        }
        std::os::unix::fs::symlink("bin/program", tree.join("installer")).unwrap();
        files.push(FileEntry { path: "installer".to_owned(), kind: FileKind::Link { target: "bin/program".to_owned() } });
        let manifest = Manifest {
            schema: 1,
            name: "dkumonitor".to_owned(),
            stack: None,
            version: "1.2.3".to_owned(),
            platform: Platform::current(),
            components: Vec::new(),
            services: Vec::new(),
            files,
        };
        fs::write(tree.join(FILE_NAME), serde_json::to_string(&manifest).unwrap()).unwrap();
        let archive = folder.path().join(format!("thing-1.2.3.{}", format.ending()));
        let options = Options { format, mtime: 1_700_000_000, jobs: 1, cache: None };
        archive::write(&tree, "thing-1.2.3", &archive, &options).unwrap();
        let secret = folder.path().join("key");
        let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        fs::write(&secret, pair.sk.to_box(None).unwrap().into_string()).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let signer = Signer::open(secret.to_str().unwrap(), Path::new("none")).unwrap();
        sign::sign(&archive, &signer, None).unwrap();
        Self { key: signer.public_key().unwrap(), archive, folder }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        self.archive.with_added_extension(ending)
    }

    fn verify(&self, with_key: bool) -> anyhow::Result<Vec<String>> {
        verify(&self.archive, With { key: with_key.then_some(&self.key), contents: false })
    }

    /// Leaves the archive alone, with these bytes.
    fn alone(&self, bytes: &[u8]) {
        fs::write(&self.archive, bytes).unwrap();
        for ending in [SIGNATURE, "sha256"] {
            // Gone already the second time.
            let _ = fs::remove_file(self.beside(ending));
        }
    }

    fn refused(&self, what: &str, bytes: &[u8], words: &str) {
        self.alone(bytes);
        let error = self.verify(true).expect_err(what);
        assert_eq!(kind_of(&error), Kind::Integrity, "{what}: {error:#}");
        assert!(format!("{error:#}").contains(words), "{what}: \"{words}\" is not in: {error:#}");
    }
}

/// The tar in a .tar.gz, and the other way round in the form that this program gives it.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::bufread::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// The tar in any archive.
fn unpacked(archive: &Path) -> Vec<u8> {
    let mut plain = Vec::new();
    crate::unpack::stream(archive).unwrap().read_to_end(&mut plain).unwrap();
    plain
}

fn packed(plain: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(6).unwrap());
    let mut packed = vec![0; compressor.gzip_compress_bound(plain.len())];
    let count = compressor.gzip_compress(plain, &mut packed).unwrap();
    packed.truncate(count);
    packed
}

/// The one place of a text in the tar.
fn find(tar: &[u8], text: &str) -> usize {
    memchr::memmem::find(tar, text.as_bytes()).unwrap()
}

/// Writes into the header of the entry of this name, and makes its checksum fit.
fn edit(tar: &[u8], name: &str, change: impl Fn(&mut tar::Header)) -> Vec<u8> {
    let mut tar = tar.to_vec();
    let at = find(&tar, name);
    let mut header = tar::Header::from_byte_slice(&tar[at..at + RECORD]).clone();
    change(&mut header);
    header.set_cksum();
    tar[at..at + RECORD].copy_from_slice(header.as_bytes());
    tar
}

/// With this in the place of that in every name of an entry, with checksums that fit. Both are of one length.
fn moved(tar: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (mut tar, mut at) = (tar.to_vec(), 0);
    while tar[at] != 0 {
        let mut header = tar::Header::from_byte_slice(&tar[at..at + RECORD]).clone();
        let name = &mut header.as_old_mut().name;
        if name.starts_with(from.as_bytes()) {
            name[..to.len()].copy_from_slice(to.as_bytes());
        }
        header.set_cksum();
        tar[at..at + RECORD].copy_from_slice(header.as_bytes());
        let size = usize::try_from(header.entry_size().unwrap()).unwrap();
        at += RECORD + size.next_multiple_of(RECORD);
    }
    tar
}

#[test]
fn every_flipped_bit_is_seen_and_where_nothing_covers_it_that_is_said() {
    for format in [Format::Gz, Format::Xz] {
        let bundle = Bundle::new(format);
        let whole = fs::read(&bundle.archive).unwrap();
        let (signature, sum) = (bundle.beside(SIGNATURE), bundle.beside("sha256"));
        let (signature, sum) = [&signature, &sum].map(|path| (path, fs::read(path).unwrap())).into();
        bundle.verify(true).unwrap();
        bundle.verify(false).unwrap();
        bundle.alone(&whole);
        let said = bundle.verify(true).unwrap().join("\n");
        assert!(said.contains("not checked") && said.contains("signed by the given key"), "{said}");
        let (tar, mut unseen) = (unpacked(&bundle.archive), 0);
        for (at, bit) in (0..whole.len()).flat_map(|at| [(at, at % 8), (at, (at + 5) % 8)]) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            bundle.alone(&flipped);
            if let Ok(said) = bundle.verify(true) {
                // A few bits mean nothing (those behind the end of deflate, say), and nothing vouches for them.
                assert!(unpacked(&bundle.archive) == tar, "bit {bit} of byte {at}");
                assert!(said.iter().any(|line| line.contains("not checked")), "{said:?}");
                unseen += 1;
            }
            if bit != at % 8 {
                continue;
            }
            fs::write(sum.0, &sum.1).unwrap();
            assert!(bundle.verify(false).is_err(), "the checksum: bit {bit} of byte {at}");
            fs::remove_file(sum.0).unwrap();
            fs::write(signature.0, &signature.1).unwrap();
            assert!(bundle.verify(true).is_err(), "the signature: bit {bit} of byte {at}");
        }
        assert!(unseen * 100 < whole.len() * 2, "{unseen} of {} bits", whole.len() * 2);
    }
}

#[test]
fn an_archive_that_was_cut_short_or_goes_on_is_seen() {
    for format in [Format::Gz, Format::Xz] {
        let bundle = Bundle::new(format);
        let whole = fs::read(&bundle.archive).unwrap();
        for length in 0..whole.len() {
            bundle.refused(&format!("{length} bytes of it"), &whole[..length], "");
        }
        if format == Format::Gz {
            bundle.refused("nothing", b"", "it is empty");
            bundle.refused("a page", b"<html>not found</html>", "it begins with \"<html>not found</html>\"");
        }
        for more in [b"\0\0\0\0".as_slice(), b"garbage", &whole, &[0; 512]] {
            bundle.refused("more behind it", &[&whole, more].concat(), "");
        }
    }
}

#[test]
fn whatever_a_tar_may_say_besides_is_seen() {
    let bundle = Bundle::new(Format::Gz);
    let tar = plain(&fs::read(&bundle.archive).unwrap());
    let refused = |what: &str, tar: &[u8], words: &str| bundle.refused(what, &packed(tar), words);
    bundle.alone(&packed(&tar));
    bundle.verify(true).unwrap();
    let program = "thing-1.2.3/bin/program";
    refused("an owner", &edit(&tar, program, |header| header.set_uid(1000)), "it belongs to 1000:0 instead of 0:0");
    refused("set-uid", &edit(&tar, program, |header| header.set_mode(0o4755)), "mode 4755");
    refused("a time", &edit(&tar, program, |header| header.set_mtime(1)), "of another time");
    let named = |header: &mut tar::Header| header.as_gnu_mut().unwrap().uname[..5].copy_from_slice(b"games");
    refused("a user's name", &edit(&tar, program, named), "its header is not as this program writes it");
    refused("a folder for all", &edit(&tar, "thing-1.2.3/bin/\0", |header| header.set_mode(0o777)), "mode 0777");
    let absolute = |header: &mut tar::Header| header.as_old_mut().name[..1].copy_from_slice(b"/");
    refused("an absolute name", &edit(&tar, program, absolute), "not a name inside the bundle's folder");
    refused("a pipe", &edit(&tar, program, |header| header.set_entry_type(tar::EntryType::Fifo)), "of the type '6'");
    let at = find(&tar, program);
    let mut hidden = tar.clone();
    hidden[at + RECORD + 700] = 1;
    refused("something in the padding", &hidden, "something is hidden behind it");
    // An attribute by which other programs would call the file something else.
    let record = b"34 GNU.sparse.name=../../etc/evil\n";
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(record.len() as u64);
    header.set_cksum();
    let mut renamed = [&tar[..at], header.as_bytes(), record.as_slice()].concat();
    renamed.resize(renamed.len().next_multiple_of(RECORD), 0);
    renamed.extend_from_slice(&tar[at..]);
    refused("an attribute", &renamed, "of the type 'x'");
    let entry = &tar[at..at + 3 * RECORD];
    refused("an entry twice", &[&tar[..at + 3 * RECORD], entry, &tar[at + 3 * RECORD..]].concat(), "there twice");
    refused(
        "another order",
        &[&tar[..at], &tar[at + 3 * RECORD..tar.len() - 2 * RECORD], entry, &[0; 2 * RECORD]].concat(),
        "not where",
    );
    // Folders, which the manifest does not name: the one that all is unpacked to, one more, one less.
    let words = "all of it lies in thing-9.2.3, and was signed as thing-1.2.3";
    refused("another folder for all", &moved(&tar, "thing-1.2.3", "thing-9.2.3"), words);
    let folder = |name: &str| {
        edit(&tar[find(&tar, "thing-1.2.3/bin/\0")..][..RECORD], "thing-1.2.3/bin/\0", |header| {
            header.as_old_mut().name[.."thing-1.2.3/".len() + name.len()]
                .copy_from_slice(format!("thing-1.2.3/{name}").as_bytes());
        })
    };
    let share = find(&tar, "thing-1.2.3/share/\0");
    let more = [&tar[..share], &folder("next/"), &tar[share..]].concat();
    refused("a folder with nothing in it", &more, "next/: a folder in which no file of the manifest lies");
    let less = [&tar[..share], &tar[share + RECORD..]].concat();
    refused("a folder without an entry", &less, "share/: the folder is missing");
    let spoken = [&tar[..share], &folder("n\x1b[2K\rall is well\n/"), &tar[share..]].concat();
    refused("words for a terminal", &spoken, "n\\x1b[2K\\rall is well\\n/");
    refused("no entry", &[&tar[..at], &tar[at + 3 * RECORD..]].concat(), "bin/program: missing");
    refused("more zeros", &[tar.as_slice(), &[0; RECORD]].concat(), "something behind its end");
    refused("half an end", &tar[..tar.len() - RECORD], "cut short");
}

#[test]
fn a_head_of_gzip_that_says_more_is_seen() {
    let bundle = Bundle::new(Format::Gz);
    let whole = fs::read(&bundle.archive).unwrap();
    // A file name, which programs show and some use.
    let named = [&whole[..3], &[8], &whole[4..10], b"evil\0", &whole[10..]].concat();
    bundle.refused("a file name", &named, "where a block should begin");
    for at in 4..10 {
        let mut other = whole.clone();
        other[at] ^= 0x41;
        bundle.refused("another time or system", &other, "not packed as this program packs");
    }
}

#[test]
fn nothing_checked_is_not_taken_for_well() {
    let bundle = Bundle::new(Format::Gz);
    let whole = fs::read(&bundle.archive).unwrap();
    // Its signature tells nothing without a key; so it is read through.
    fs::remove_file(bundle.beside("sha256")).unwrap();
    assert!(bundle.verify(false).unwrap().iter().any(|line| line.contains("all 3 files")));
    fs::write(&bundle.archive, &whole[..whole.len() - 1]).unwrap();
    bundle.verify(false).unwrap_err();
    let other = bundle.folder.path().join("notes");
    fs::write(&other, "notes").unwrap();
    let said = |path: &Path| format!("{:#}", verify(path, With::default()).unwrap_err());
    assert!(said(&other).contains("neither a .minisig nor a .sha256"));
    fs::copy(bundle.beside(SIGNATURE), other.with_added_extension(SIGNATURE)).unwrap();
    assert!(said(&other).contains("give --key"));
    fs::write(other.with_added_extension("sha256"), "").unwrap();
    assert!(said(&other).contains("its .sha256 is empty"));
    // Pipes, which keep whoever reads them waiting.
    let pipe = bundle.folder.path().join("pipe.tar.gz");
    mkfifo(&pipe);
    assert!(said(&pipe).contains("neither a file nor a folder"));
    fs::write(bundle.folder.path().join(SUMS), format!("{}  pipe.tar.gz\n", "0".repeat(64))).unwrap();
    assert!(said(&bundle.folder.path().join(SUMS)).contains("pipe.tar.gz: it is not a regular file"));
    for ending in ["sha256", SIGNATURE] {
        fs::remove_file(other.with_added_extension(ending)).unwrap();
        mkfifo(&other.with_added_extension(ending));
        assert!(said(&other).contains(&format!("notes.{ending}: it is not a regular file")), "{ending}");
        fs::remove_file(other.with_added_extension(ending)).unwrap();
        fs::write(other.with_added_extension(ending), "x".repeat(5_000_000)).unwrap();
        assert!(said(&other).contains("of absurd size"), "{ending}");
    }
}

fn mkfifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn an_old_release_in_a_new_ones_clothes_is_seen() {
    let bundle = Bundle::new(Format::Gz);
    let newer = bundle.folder.path().join("thing-1.3.0.tar.gz");
    fs::copy(&bundle.archive, &newer).unwrap();
    fs::copy(bundle.beside(SIGNATURE), newer.with_added_extension(SIGNATURE)).unwrap();
    let with = With { key: Some(&bundle.key), contents: false };
    let error = format!("{:#}", verify(&newer, with).unwrap_err());
    assert!(error.contains("it was signed under the name thing-1.2.3.tar.gz"), "{error}");
    fs::copy(bundle.beside("sha256"), newer.with_added_extension("sha256")).unwrap();
    let error = format!("{:#}", verify(&newer, With::default()).unwrap_err());
    assert!(error.contains("its .sha256 is about thing-1.2.3.tar.gz"), "{error}");
    // Alone, a name that somebody's browser gave it is no fault, but is told.
    for ending in ["sha256", SIGNATURE] {
        fs::remove_file(newer.with_added_extension(ending)).unwrap();
    }
    let said = verify(&newer, with).unwrap().join("\n");
    assert!(said.contains("! it holds thing-1.2.3, whatever it is called"), "{said}");
    bundle.alone(&fs::read(&bundle.archive).unwrap());
    let said = bundle.verify(true).unwrap().join("\n");
    assert!(!said.contains("! it holds"), "{said}");
    // Checksums that are another file's.
    let sums = bundle.folder.path().join(SUMS);
    let sum = fingerprint::hash_file(&newer).unwrap();
    let other = bundle.folder.path().join("other");
    fs::write(&other, format!("{sum}  thing-1.3.0.tar.gz\n")).unwrap();
    let signer = Signer::open(bundle.folder.path().join("key").to_str().unwrap(), Path::new("none")).unwrap();
    signer.sign_file(&other, 1, None).unwrap();
    fs::rename(&other, &sums).unwrap();
    fs::rename(other.with_added_extension(SIGNATURE), sums.with_added_extension(SIGNATURE)).unwrap();
    let error = format!("{:#}", verify(&sums, with).unwrap_err());
    assert!(error.contains("SHA256SUMS was signed as other"), "{error}");
}

#[test]
fn what_lies_beside_an_archive_or_in_a_release_is_told_apart() {
    let bundle = Bundle::new(Format::Gz);
    let paper = bundle.folder.path().join("thing-1.2.3.sbom.cdx.json");
    fs::write(&paper, "{}").unwrap();
    let said = bundle.verify(true).unwrap().join("\n");
    assert!(said.contains("! ") && said.contains("thing-1.2.3.sbom.cdx.json beside it was not checked"), "{said}");
    fs::copy(bundle.beside(SIGNATURE), paper.with_added_extension(SIGNATURE)).unwrap();
    let error = format!("{:#}", bundle.verify(true).unwrap_err());
    assert!(error.contains("sbom.cdx.json.minisig is wrong"), "{error}");
    // In a folder with checksums, what they do not name.
    let sums = bundle.folder.path().join(SUMS);
    let name = bundle.archive.file_name().unwrap().to_str().unwrap();
    let sum = fingerprint::hash_file(&bundle.archive).unwrap();
    fs::write(&sums, format!("{sum}  {name}\n")).unwrap();
    let said = verify(&sums, With::default()).unwrap().join("\n");
    assert!(said.contains("! thing-1.2.3.sbom.cdx.json lies there too"), "{said}");
    assert!(!said.contains(&format!("! {name}")), "{said}");
    fs::write(bundle.beside("sha256"), format!("{}  {name}\n", "0".repeat(64))).unwrap();
    let error = format!("{:#}", verify(&sums, With::default()).unwrap_err());
    assert!(error.contains("its .sha256 says 0000"), "{error}");
}
