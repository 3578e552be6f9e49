//! A tree for `bench` where no staged bundle is at hand: as many files and bytes as a real bundle (Grafana 9.3.2, go-carbon,
//! carbonapi, collectd: 6,643 files, 367 MB), of the same kinds, and the same in every run.

use anyhow::Context as _;
use std::path::Path;

/// What it is made from; another seed gives another tree of the same kind.
pub(super) const SEED: u64 = 20_260_101;

/// Programs as Go's linker makes them, in bytes: the sizes of the real bundle's.
const PROGRAMS: [(&str, usize); 5] = [
    ("bin/grafana-server", 106_000_000),
    ("bin/grafana-cli", 50_000_000),
    ("bin/go-carbon", 26_000_000),
    ("bin/carbonapi", 20_000_000),
    ("bin/collectd", 900_000),
];

/// How many files of each other kind there are, and how large they are on the average, in bytes.
const SCRIPTS: (usize, usize) = (601, 190_000);
const PICTURES: (usize, usize) = (937, 14_000);
const TEXTS: (usize, usize) = (5100, 7200);

/// Numbers that look random (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(((self.next() >> 32) * end as u64) >> 32).unwrap_or(0)
    }

    /// Below `end`, small ones far more often than large ones, as words are used.
    fn often_small(&mut self, end: usize) -> usize {
        let (a, b) = (self.below(end), self.below(end));
        a * b / end
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// Around `mean`, from a tenth of it to almost twice as much.
    fn size(&mut self, mean: usize) -> usize {
        mean / 10 + self.below(mean * 9 / 5)
    }
}

/// Content of one kind, put together from a stock of parts.
struct Kind {
    parts: Vec<Vec<u8>>,
    /// One part in so many is followed by bytes that stand nowhere else.
    noise: usize,
}

impl Kind {
    /// Machine code: short instructions, operands, and a table of names.
    fn program(random: &mut Random) -> Self {
        let code = (0..30_000).map(|_| {
            let count = 2 + random.below(9);
            random.bytes(count)
        });
        Self { parts: code.collect(), noise: 4 }
    }

    /// Words between marks.
    fn text(random: &mut Random, marks: &[&str], noise: usize) -> Self {
        let mut parts = Vec::new();
        for _ in 0..12_000 {
            let count = 2 + random.below(9);
            let word = (0..count).map(|_| b'a' + u8::try_from(random.often_small(26)).unwrap_or(0));
            let mut part: Vec<u8> = word.collect();
            part.extend_from_slice(marks[random.below(marks.len())].as_bytes());
            parts.push(part);
        }
        Self { parts, noise }
    }

    fn fill(&self, random: &mut Random, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 64);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.parts[random.often_small(self.parts.len())]);
            if random.below(self.noise) == 0 {
                bytes.extend_from_slice(&random.next().to_le_bytes()[..4]);
            }
        }
        bytes.truncate(count);
        bytes
    }
}

/// Makes the tree in the folder `root`, which must be empty.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn make(root: &Path) -> anyhow::Result<()> {
    let mut random = Random(SEED);
    let write = |name: &str, bytes: &[u8]| -> anyhow::Result<()> {
        let path = root.join(name);
        let folder = path.parent().unwrap_or(root);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, bytes))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    let program = Kind::program(&mut random);
    for (name, size) in PROGRAMS {
        write(name, &program.fill(&mut random, size))?;
    }
    let script = Kind::text(&mut random, &["(", ");", ".", "=>{", "},", ",", "&&", "return "], 60);
    for n in 0..SCRIPTS.0 {
        let size = random.size(SCRIPTS.1);
        write(&format!("static/build/{n}.{:016x}.js", random.next()), &script.fill(&mut random, size))?;
    }
    let text = Kind::text(&mut random, &["\": \"", "\",\n  \"", " ", "</g><path d=\"", " 12.5 ", "\n"], 40);
    for n in 0..TEXTS.0 {
        let size = random.size(TEXTS.1);
        let ending = ["json", "svg", "md", "txt"][n % 4];
        write(&format!("static/data/{}/{n}.{ending}", n % 97), &text.fill(&mut random, size))?;
    }
    for n in 0..PICTURES.0 {
        let size = random.size(PICTURES.1);
        write(&format!("static/img/{}/{n}.png", n % 13), &random.bytes(size))?;
    }
    Ok(())
}

/// Replaces a file by another of the same kind, as another version of its component would be.
///
/// # Errors
/// When it cannot be read or written.
pub(super) fn change(file: &Path, run: u64) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut random = Random(SEED ^ (run + 1));
    // A few bytes in each page differ: no block of it is as it was, and it packs as well as before.
    for page in bytes.chunks_mut(4096) {
        let at = random.below(page.len());
        page[at] = page[at].wrapping_add(1 + (random.next() % 255) as u8);
    }
    std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}
