//! Archives of real trees, read back by others: the real tar, the tar crate, our own unpacker.

use super::blocks::{LARGE_FILE, LARGEST, Piece, SMALLEST, plan};
use super::tree::{Stamp, What, list};
use super::*;
use crate::error::kind_of;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// The time of the entries.
const TIME: u64 = 1_700_000_000;

/// The forms that this program can write, as it was compiled.
fn formats() -> impl Iterator<Item = Format> {
    ["gz", "xz", "zst"].into_iter().filter_map(|name| Format::parse(name).ok())
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("arch ive ").tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tree")).unwrap();
        Self { folder }
    }

    fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("dist/thing-0.1.0.tar.gz")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn file(&self, name: &str, content: &[u8], mode: u32) {
        let path = self.tree().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A tree with something of everything: about 8 MB in 300 files, of which two are large.
    fn varied(&self) {
        for n in 0..300_u32 {
            let text = format!("file {n} of a tree\n").repeat(n as usize * 2 + 1);
            self.file(&format!("share/{}/{n}.txt", n % 7), text.as_bytes(), 0o664);
        }
        self.file("bin/program", &noise(1, 5_000_001), 0o700);
        self.file("lib/large.so", &noise(2, 2 * LARGEST as usize), 0o644);
        self.file("empty", b"", 0o444);
        std::os::unix::fs::symlink("bin/program", self.tree().join("installer")).unwrap();
        std::fs::create_dir_all(self.tree().join("an empty/folder")).unwrap();
    }

    /// A tree of several blocks that even xz is soon done with.
    fn lines(&self) {
        for n in 0..3_u32 {
            let text: String = (0..100_000).map(|line| format!("line {} of file {n}\n", line / 50)).collect();
            self.file(&format!("share/{n}.txt"), text.as_bytes(), 0o644);
        }
        self.file("bin/program", &noise(1, 60_001), 0o755);
        self.file("empty", b"", 0o444);
        std::os::unix::fs::symlink("bin/program", self.tree().join("installer")).unwrap();
    }

    fn write_with(&self, jobs: usize, cache: Option<&Path>) -> anyhow::Result<Summary> {
        self.write_as(Format::Gz, jobs, cache)
    }

    /// Where an archive of this form stands.
    fn target_as(&self, format: Format) -> PathBuf {
        self.target().with_file_name(format!("thing-0.1.0.{}", format.ending()))
    }

    fn write_as(&self, format: Format, jobs: usize, cache: Option<&Path>) -> anyhow::Result<Summary> {
        write(&self.tree(), "thing-0.1.0", &self.target_as(format), &Options { format, mtime: TIME, jobs, cache })
    }

    fn write(&self) -> Vec<u8> {
        let summary = self.write_with(2, None).unwrap();
        let bytes = std::fs::read(self.target()).unwrap();
        assert_eq!(summary.bytes, bytes.len() as u64);
        bytes
    }
}

/// Bytes that compress by about half, and differ by `seed`.
fn noise(seed: u32, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state % 16) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Names, modes and content of everything in a folder.
fn listing(tree: &Path) -> Vec<(PathBuf, u32, Option<PathBuf>, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(tree).min_depth(1).sort_by_file_name().into_iter().map(Result::unwrap);
    let entry = |entry: walkdir::DirEntry| {
        let path = entry.path();
        let link = path.read_link().ok();
        let content = if entry.file_type().is_file() { std::fs::read(path).unwrap() } else { Vec::new() };
        let mode = if link.is_some() { 0 } else { path.metadata().unwrap().permissions().mode() & 0o7777 };
        (path.strip_prefix(tree).unwrap().to_owned(), mode, link, content)
    };
    entries.map(entry).collect()
}

#[test]
fn the_same_bytes_whatever_the_cores_times_and_owners() {
    let place = Place::new();
    place.varied();
    let first = place.write();
    for jobs in [1, 3, 16] {
        place.write_with(jobs, None).unwrap();
        assert_eq!(std::fs::read(place.target()).unwrap(), first, "{jobs} jobs");
    }
    // The same tree made at another time, in another order, under another umask.
    let other = Place::new();
    other.file("empty", b"", 0o640);
    other.varied();
    std::fs::set_permissions(other.tree().join("lib"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(other.write(), first);
}

#[test]
fn the_real_tar_and_our_own_unpacker_read_it() {
    let place = Place::new();
    place.varied();
    let long = format!("{}/{}", "d".repeat(130), "f".repeat(140));
    place.file(&long, b"deep", 0o755);
    for length in [98, 99, 100, 101] {
        let name = "n".repeat(length - "thing-0.1.0/".len());
        place.file(&name, b"edge", 0o644);
        std::os::unix::fs::symlink("t".repeat(length), place.tree().join(format!("link{length}"))).unwrap();
    }
    place.write();
    let out = place.folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let tar = Command::new("tar").arg("-C").arg(&out).arg("-xzpf").arg(place.target()).output().unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{}", String::from_utf8_lossy(&tar.stderr));
    let theirs = listing(&out.join("thing-0.1.0"));
    let ours = listing(&place.tree());
    assert_eq!(theirs.len(), ours.len());
    for ((name, mode, link, content), mine) in theirs.iter().zip(&ours) {
        assert_eq!((name, link, content), (&mine.0, &mine.2, &mine.3), "{}", name.display());
        let wanted = if link.is_some() {
            0
        } else if mine.1 & 0o111 == 0 {
            0o644
        } else {
            0o755
        };
        assert_eq!(*mode, wanted, "{}", name.display());
    }
    let unpacked = place.folder.path().join("unpacked");
    crate::unpack::unpack(&place.target(), &unpacked).unwrap();
    assert_eq!(listing(&unpacked), theirs);
}

/// Runs a tool that must succeed and say nothing on standard error.
fn tool(program: &str, args: &[&std::ffi::OsStr]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success() && output.stderr.is_empty(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_form_is_read_by_its_real_tool_and_does_not_depend_on_cores_or_cache() {
    let place = Place::new();
    place.lines();
    for (format, program) in formats().zip(["gzip", "xz", "zstd"]) {
        let target = place.target_as(format);
        let first = place.write_as(format, 1, None).unwrap();
        let out = place.folder.path().join(format!("out {format}"));
        std::fs::create_dir(&out).unwrap();
        tool(program, &["-t".as_ref(), "-q".as_ref(), target.as_os_str()]);
        tool("tar", &["-C".as_ref(), out.as_os_str(), "-xaf".as_ref(), target.as_os_str()]);
        let content = |tree: &Path| listing(tree).into_iter().map(|(name, _, link, content)| (name, link, content));
        assert!(content(&out.join("thing-0.1.0")).eq(content(&place.tree())), "{format}");
        let sums = std::fs::read_to_string(target.with_added_extension("sha256")).unwrap();
        assert_eq!(sums, format!("{}  thing-0.1.0.tar.{format}\n", first.sha256));
        for jobs in [2, 5] {
            let cached = place.write_as(format, jobs, Some(&place.cache())).unwrap();
            assert_eq!(cached.sha256, first.sha256, "{format} with {jobs} cores");
        }
        let cached = place.write_as(format, 3, Some(&place.cache())).unwrap();
        assert_eq!((cached.reused, &cached.sha256), (cached.blocks, &first.sha256), "{format}");
    }
    assert!(Format::parse("zip").is_err_and(|why| why.contains("gz, xz, zst")));
    let zst = Format::parse("zst");
    assert!(zst.is_ok() || zst.is_err_and(|why| why.contains("--features zstd")));
}

#[test]
fn entries_are_sorted_nameless_and_of_one_time() {
    let place = Place::new();
    for name in ["b", "a/x", "a-b", "a.c", "B"] {
        place.file(name, b"x", 0o600);
    }
    let bytes = place.write();
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(bytes.as_slice()));
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 1_700_000_000));
        assert_eq!((header.username().unwrap(), header.groupname().unwrap()), (Some(""), Some("")));
        names.push(String::from_utf8(entry.path_bytes().into_owned()).unwrap());
    }
    let wanted = ["", "B", "a-b", "a.c", "a/", "a/x", "b"].map(|name| format!("thing-0.1.0/{name}"));
    assert_eq!(names, wanted);
}

#[test]
fn the_checksum_beside_it_is_right() {
    let place = Place::new();
    place.varied();
    let summary = place.write_with(2, None).unwrap();
    let dist = place.target().parent().unwrap().to_owned();
    let check = Command::new("sha256sum").args(["-c", "thing-0.1.0.tar.gz.sha256"]).current_dir(&dist).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&check.stdout), "thing-0.1.0.tar.gz: OK\n");
    assert!(std::fs::read_to_string(dist.join("thing-0.1.0.tar.gz.sha256")).unwrap().starts_with(&summary.sha256));
    assert_eq!(dist.read_dir().unwrap().count(), 2);
    assert_eq!((summary.files, summary.content), (303, listing(&place.tree()).iter().map(|entry| entry.3.len() as u64).sum()));
}

#[test]
fn what_did_not_change_is_taken_from_the_cache() {
    let place = Place::new();
    place.varied();
    let cache = place.cache();
    let first = place.write_with(2, Some(&cache)).unwrap();
    assert_eq!(first.reused, 0);
    let again = place.write_with(3, Some(&cache)).unwrap();
    assert_eq!((again.reused, &again.sha256), (first.blocks, &first.sha256));
    assert_eq!(place.write_with(2, None).unwrap().sha256, first.sha256);
    // A change makes the blocks around it anew, and none else, though all that follows has moved.
    place.file("share/0/000 new.txt", b"new", 0o644);
    place.file("bin/program", &[b"one more byte".as_slice(), &noise(3, 5_000_001)].concat(), 0o755);
    let changed = place.write_with(2, Some(&cache)).unwrap();
    assert!(changed.blocks - changed.reused <= 4, "{changed:?}");
    assert!(changed.reused >= 5, "{changed:?}");
    assert_eq!(place.write_with(2, None).unwrap().sha256, changed.sha256);
}

#[test]
fn a_damaged_cache_is_named_thrown_away_and_made_again_in_every_form() {
    let place = Place::new();
    place.lines();
    let cache = place.cache();
    for format in formats() {
        let first = place.write_as(format, 2, Some(&cache)).unwrap();
        let entries = || cache.join(format.to_string()).read_dir().unwrap().map(|entry| entry.unwrap().path());
        for (number, path) in entries().enumerate() {
            let mut bytes = std::fs::read(&path).unwrap();
            match number % 5 {
                0 => bytes.truncate(bytes.len() / 2),
                1 => bytes.clear(),
                2 => *bytes.last_mut().unwrap() ^= 1,
                3 => bytes[0] ^= 1,
                _ => bytes.push(0),
            }
            std::fs::write(path, bytes).unwrap();
        }
        let mut wrong: Vec<PathBuf> = entries().collect();
        let mut again = place.write_as(format, 2, Some(&cache)).unwrap();
        assert_eq!((again.reused, &again.sha256), (0, &first.sha256));
        wrong.sort();
        again.damaged.sort();
        assert_eq!(again.damaged, wrong);
        let third = place.write_as(format, 2, Some(&cache)).unwrap();
        assert_eq!((third.reused, third.damaged.len()), (first.blocks, 0));
        // One that cannot be read nor written is no hindrance either.
        for path in entries().collect::<Vec<_>>() {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(path).unwrap();
        }
        assert_eq!(place.write_as(format, 2, Some(&cache)).unwrap().sha256, first.sha256);
    }
}

#[test]
fn the_cache_is_bounded() {
    let place = Place::new();
    place.file("noise", &noise(9, 3_000_000), 0o644);
    let folder = place.cache().join("gz");
    std::fs::create_dir_all(&folder).unwrap();
    for n in 0..50 {
        std::fs::write(folder.join(format!("old{n}")), vec![0; 4 << 20]).unwrap();
    }
    std::fs::write(folder.join("killed.part"), "half").unwrap();
    let written = place.write_with(2, Some(&place.cache())).unwrap();
    let total: u64 = folder.read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(total <= 64 << 20, "{total}");
    assert!(!folder.join("killed.part").exists());
    assert_eq!(place.write_with(2, Some(&place.cache())).unwrap().reused, written.blocks);
}

#[test]
fn what_an_archive_cannot_hold_is_named_and_nothing_is_left() {
    let place = Place::new();
    place.file("a", b"x", 0o644);
    place.write();
    let old = std::fs::read(place.target()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.tree().join("sock et")).unwrap();
    let error = place.write_with(2, None).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("thing-0.1.0.tar.gz") && text.contains("sock et is neither"), "{text}");
    assert_eq!(kind_of(&error), Kind::Archive);
    assert_eq!(std::fs::read(place.target()).unwrap(), old);
    assert_eq!(place.target().parent().unwrap().read_dir().unwrap().count(), 2);
    let plain = Options { format: Format::Gz, mtime: 0, jobs: 1, cache: None };
    let missing = write(&place.folder.path().join("none"), "x", &place.target(), &plain);
    assert!(format!("{:#}", missing.unwrap_err()).contains("none"));
    // A file in the way of the folder that is to hold the archive.
    let blocked = place.tree().join("a/thing.tar.gz");
    let error = write(&place.tree(), "x", &blocked, &plain).unwrap_err();
    assert_eq!(kind_of(&error), Kind::Archive);
}

#[test]
fn a_file_that_changes_meanwhile_is_an_error() {
    let place = Place::new();
    place.file("a", &noise(1, 10_000), 0o644);
    let entries = list(&place.tree(), "p").unwrap();
    let blocks = plan(&entries);
    let work = Work { entries: &entries, blocks: &blocks, cache: None, format: Format::Gz, mtime: 0 };
    let run = || work.run(2, &mut Output::new(&place.target()).unwrap());
    run().unwrap();
    for content in [noise(1, 9_999), noise(1, 10_001), noise(2, 10_000)] {
        std::fs::write(place.tree().join("a"), content).unwrap();
        let error = run().unwrap_err();
        assert!(format!("{error:#}").contains("a: it changed while"), "{error:#}");
    }
    std::fs::remove_file(place.tree().join("a")).unwrap();
    assert!(format!("{:#}", run().unwrap_err()).contains("cannot read"));
    assert_eq!(place.target().parent().unwrap().read_dir().unwrap().count(), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_said_plainly_and_leaves_nothing() {
    let place = Place::new();
    place.varied();
    let entries = list(&place.tree(), "p").unwrap();
    let blocks = plan(&entries);
    let work = Work { entries: &entries, blocks: &blocks, cache: None, format: Format::Gz, mtime: 0 };
    let mut output = Output::new(&place.target()).unwrap();
    // Takes nothing, for lack of space.
    output.file = File::options().write(true).open("/dev/full").unwrap();
    let error = work.run(2, &mut output).unwrap_err();
    drop(output);
    assert!(format!("{error:#}").contains("--dist-dir"), "{error:#}");
    assert_eq!(place.target().parent().unwrap().read_dir().unwrap().count(), 0);
}

/// Sizes around all that matters: records, blocks, large files.
fn sizes() -> impl Strategy<Value = Vec<u64>> {
    let edges = [0, 1, 511, 512, 513, SMALLEST, LARGE_FILE - 1, LARGE_FILE, LARGEST, LARGEST + 1, 5 * LARGEST];
    prop::collection::vec(prop_oneof![0..40_000_u64, prop::sample::select(edges.to_vec())], 0..200)
}

fn entry_of(index: usize, size: u64) -> Entry {
    let stamp = Stamp { inode: 1, size, modified: (0, 0) };
    Entry { name: format!("p/{index:05}").into_bytes(), path: PathBuf::new(), what: What::File { stamp, executable: false } }
}

// The same cases in every run, so that none fails by luck.
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// Every byte of every file is in exactly one block, in order; no block is too large.
    #[test]
    fn blocks_hold_everything_once(sizes in sizes()) {
        let entries: Vec<Entry> = sizes.iter().enumerate().map(|(index, size)| entry_of(index, *size)).collect();
        let blocks = plan(&entries);
        for block in &blocks {
            prop_assert!(block.iter().map(|piece| piece.length).sum::<u64>() <= LARGEST);
        }
        let mut next = (0, 0);
        for piece in blocks.iter().flatten() {
            if piece.entry != next.0 {
                prop_assert_eq!(next.1, sizes[next.0], "file {} is not whole", next.0);
                next = (next.0 + 1, 0);
            }
            prop_assert_eq!((piece.entry, piece.from), next);
            next.1 += piece.length;
        }
        prop_assert_eq!(next, sizes.last().map_or((0, 0), |last| (sizes.len() - 1, *last)));
    }

    /// One more small file changes a few blocks around it, not all that follow.
    #[test]
    fn a_new_file_disturbs_its_neighbours_only(at in 0..20_000_usize, size in prop::sample::select(vec![100, 3000, 9000])) {
        let names = |extra: Option<usize>| {
            let extra = |index| (Some(index) == extra).then(|| Entry { name: format!("p/{index:05}x").into_bytes(), ..entry_of(index, 700) });
            let entries: Vec<Entry> = (0..20_000).flat_map(|index| std::iter::once(entry_of(index, size)).chain(extra(index))).collect();
            let named = |block: &Vec<Piece>| block.iter().map(|piece| entries[piece.entry].name.clone()).collect::<Vec<_>>();
            plan(&entries).iter().map(named).collect::<std::collections::BTreeSet<_>>()
        };
        let (before, after) = (names(None), names(Some(at)));
        let new = after.difference(&before).count();
        prop_assert!(new <= 8, "{} of {} blocks are new", new, after.len());
    }
}

#[test]
fn there_are_no_more_threads_than_memory_is_promised_for() {
    for format in [Format::Gz, Format::Xz, Format::Zst] {
        assert_eq!([0, 1, 2].map(|cores| work::threads(format, cores)), [1, 1, 2], "{format}");
        let many = work::threads(format, 256);
        assert!(many * format.memory() <= work::BUDGET && (many + 1) * format.memory() > work::BUDGET, "{format}: {many}");
    }
}
