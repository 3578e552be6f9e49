//! Real locks, recipes, archives and patches, changed in every way that a hand or a disk might: none makes the builder panic,
//! write where it must not, or take what it cannot use. See `fuzz/README.md`.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{sha256, tar_gz, workspace};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// What stands in such files or had better not.
const WORDS: [&str; 40] = [
    "\"\"",
    "\"..\"",
    "\"../../etc\"",
    "\"/\"",
    "\"a/b\"",
    "0",
    "-1",
    "18446744073709551615",
    "9223372036854775808",
    "1e400",
    "nan",
    "true",
    "[]",
    "[[]]",
    "{}",
    "\"\\u0000\"",
    "\"é\u{202e}\"",
    "'''",
    "\"\"\"",
    "\n[[source]]\n",
    "\n[[step]]\n",
    "\n[service]\n",
    "# ",
    "=",
    ".",
    ",",
    "\r",
    "\0",
    "\u{feff}",
    "2026-01-01",
    "\"https://h/..\"",
    "\"https://h/\"",
    "\"file:\"",
    "\n--- a/a.c\n+++ b/a.c\n",
    "\n@@ -1,3 +1,3 @@\n",
    "@@ -0,0 +99999999999,1 @@",
    "/dev/null",
    "\nrename from a.c\n",
    "old mode 100644\n",
    "diff --git a/a.c b/../x\n",
];

/// Numbers that look random and are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..start + self.below((length - start).min(200) + 1)
    }
}

/// The bounds of a random line, its end included.
fn line(bytes: &[u8], random: &mut Random) -> std::ops::Range<usize> {
    let at = random.below(bytes.len());
    let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| at + end + 1);
    start..end
}

/// One change, of a kind chosen at random.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let length = bytes.len();
    match random.below(11) {
        0 if length > 0 => bytes[random.below(length)] ^= 1 << random.below(8),
        1 if length > 0 => drop(bytes.drain(line(bytes, random))),
        2 if length > 0 => {
            let copy = bytes[line(bytes, random)].to_vec();
            let at = line(bytes, random).start;
            drop(bytes.splice(at..at, copy));
        }
        3 => bytes.truncate(random.below(length + 1)),
        4 => drop(bytes.drain(random.range(length))),
        5 => {
            let word = WORDS[random.below(WORDS.len())].bytes();
            drop(bytes.splice(random.range(length), word));
        }
        6 => {
            let at = random.below(length + 1);
            drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].bytes()));
        }
        // The value behind a key.
        7 if length > 0 => {
            let line = line(bytes, random);
            if let Some(at) = bytes[line.clone()].iter().position(|byte| *byte == b'=') {
                let value = [b" ", WORDS[random.below(WORDS.len())].as_bytes(), b"\n"].concat();
                drop(bytes.splice(line.start + at + 1..line.end, value));
            }
        }
        8 => {
            let at = random.below(length + 1);
            drop(bytes.splice(at..at, other[random.range(other.len())].iter().copied()));
        }
        9 if length > 0 => {
            let range = random.range(length);
            bytes[range].fill(b"\0 9\xff[\""[random.below(6)]);
        }
        _ => bytes.extend_from_slice(&other[random.range(other.len())]),
    }
}

/// Changes the seeds again and again; `times` times, or for the seconds that FUZZ_SECONDS gives.
fn fuzz(name: &str, seeds: &[Vec<u8>], times: usize, holds: fn(&[u8])) {
    assert!(!seeds.is_empty());
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().unwrap());
    let until = number("FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut random = Random(number("FUZZ_SEED").unwrap_or(1));
    for seed in seeds {
        holds(seed);
    }
    let mut done = 0;
    while until.map_or(done < times, |until| Instant::now() < until) {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        for _ in 0..1 + random.below(4) {
            change(&mut bytes, other, &mut random);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| holds(&bytes))) {
            let path = std::env::temp_dir().join(format!("fuzz-{name}-{}", &sha256(&bytes)[..12]));
            fs::write(&path, &bytes).unwrap();
            eprintln!("{name} does not bear {} (found after {done} others)", path.display());
            std::panic::resume_unwind(panic);
        }
        done += 1;
    }
    println!("{name}: {done} inputs");
}

/// All files below a folder of the repository whose names end like this.
fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let entries = walkdir::WalkDir::new(workspace().join(folder)).sort_by_file_name().into_iter().flatten();
    let wanted = |path: &Path| path.to_string_lossy().ends_with(ending);
    entries
        .filter(|entry| entry.file_type().is_file() && wanted(entry.path()))
        .map(|entry| fs::read(entry.path()).unwrap())
        .collect()
}

#[test]
fn locks() {
    let mut seeds = files("examples", "vendor.lock");
    seeds.push(fs::read(workspace().join("vendor.lock")).unwrap());
    fuzz("lock", &seeds, 1500, xtask::fuzzing::lock);
}

#[test]
fn recipes() {
    let seeds = [files("recipes", ".toml"), files("examples/ministack/recipes", ".toml")].concat();
    fuzz("recipe", &seeds, 2000, xtask::fuzzing::recipe);
}

#[test]
fn archives() {
    let tar = |files: &[(&str, &str)]| {
        let mut plain = Vec::new();
        let packed = tar_gz(files);
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut plain).unwrap();
        [packed, plain]
    };
    let mut seeds = tar(&[("thing-1.0/hello.txt", "hello\n"), ("thing-1.0/deep/er.txt", "x")]).to_vec();
    seeds.extend(tar(&[("a", ""), ("b/c/d/e", &"long ".repeat(300)), ("b/f", "1")]));
    fuzz("unpack", &seeds, 1000, xtask::fuzzing::unpack);
}

#[test]
fn patches() {
    let mut seeds = [files("patches", ".patch"), files("examples/ministack/patches", ".patch")].concat();
    seeds.push(b"--- a/a.c\n+++ b/a.c\n@@ -1,5 +1,5 @@\n one\n-two\n+zwei\n three\n four\n five\n--- a/dir/b.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-b\n".to_vec());
    seeds.push(b"diff --git a/a.c b/dir/a.c\nsimilarity index 90%\nrename from a.c\nrename to dir/a.c\n--- a/a.c\n+++ b/dir/a.c\n@@ -2,2 +2,3 @@ x\n two\n+more\n three\ndiff --git a/new b/new\nnew file mode 100755\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+new\n".to_vec());
    fuzz("patch", &seeds, 1000, xtask::fuzzing::patch);
}
