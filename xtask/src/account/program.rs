//! What a Go program says about itself: the compiler, the modules, and from which of their folders code is in it.
//!
//! Go writes the modules of a program into it (what `go version -m` shows), and for stack traces the names of all
//! source files whose code is there. With `-trimpath` those are `MODULE@VERSION/FOLDER/FILE`, so that they tell exactly
//! which folders of a module went in, and with them which licence files count.
//!
//! Programs are read piece by piece: they have a hundred megabytes and more.

use memchr::{memmem, memrchr};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What stands before the information, which is aligned to 16 bytes.
const MAGIC: &[u8] = b"\xff Go buildinf:";

/// Where the texts begin, behind the magic's head.
const HEAD: usize = 32;

/// The flag for texts that follow inline, as all programs since Go 1.18 have them.
const INLINE: u8 = 2;

/// Stands before and behind the list of modules.
const SENTINEL: usize = 16;

/// No name of a source file is longer.
const LONGEST_NAME: usize = 512;

/// How much of a program is looked into at once, in bytes, and how much of that again with what follows.
const PIECE: usize = 1024 * 1024;
const OVERLAP: usize = 2 * LONGEST_NAME;

/// No list of modules is longer, in bytes.
const LONGEST_LIST: u64 = 4 * 1024 * 1024;

/// A Go program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The compiler's version, such as `1.26.8`.
    pub go: String,
    /// The modules that it depends on.
    pub modules: Vec<Module>,
}

/// A module of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Its path, as code imports it.
    pub path: String,
    /// Its version; empty where a folder stands in for it.
    pub version: String,
    /// The hash in go.sum.
    pub sum: Option<String>,
    /// What stands in for it: path, version, hash.
    pub replacement: Option<Box<Module>>,
}

impl Module {
    fn parse(words: &str) -> Self {
        let mut words = words.split('\t').map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        let (path, version, sum) = (next(), next(), next());
        Self { path, version, sum: Some(sum).filter(|sum| !sum.is_empty()), replacement: None }
    }

    /// The module whose code it is.
    pub fn actual(&self) -> &Self {
        self.replacement.as_deref().unwrap_or(self)
    }
}

/// Reads what a program says; none where it is no Go program.
///
/// # Errors
/// When it cannot be read.
pub fn read(input: &mut (impl Read + Seek)) -> io::Result<Option<Program>> {
    // A program that looks into others holds the magic as a word of its own.
    let mut places = BTreeSet::new();
    each_piece(input, |offset, bytes, _| {
        let found = memmem::find_iter(bytes, MAGIC).map(|at| offset + at as u64);
        places.extend(found.filter(|at| at.is_multiple_of(16)));
    })?;
    for at in places {
        let mut bytes = Vec::new();
        input.seek(SeekFrom::Start(at))?;
        input.take(LONGEST_LIST).read_to_end(&mut bytes)?;
        if let Some(program) = parse(&bytes) {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

/// Goes through a file piece by piece; `look` is given where one begins, its bytes, and whether it is the last. Each but the first begins
/// by the last [`OVERLAP`] bytes of the one before.
fn each_piece(input: &mut (impl Read + Seek), mut look: impl FnMut(u64, &[u8], bool)) -> io::Result<()> {
    input.rewind()?;
    let (mut bytes, mut offset) = (Vec::with_capacity(PIECE), 0_u64);
    loop {
        input.take((PIECE - bytes.len()) as u64).read_to_end(&mut bytes)?;
        let is_last = bytes.len() < PIECE;
        look(offset, &bytes, is_last);
        if is_last {
            return Ok(());
        }
        offset += (PIECE - OVERLAP) as u64;
        bytes.drain(..PIECE - OVERLAP);
    }
}

fn parse(bytes: &[u8]) -> Option<Program> {
    if bytes.get(15)? & INLINE == 0 {
        return None;
    }
    let (go, rest) = inline(bytes.get(HEAD..)?)?;
    let (list, _) = inline(rest)?;
    let go = std::str::from_utf8(go).ok()?.strip_prefix("go")?;
    // Experiments are named behind the version.
    let go = go.split_whitespace().next()?.to_owned();
    let list = list.get(SENTINEL..list.len().checked_sub(SENTINEL)?)?;
    let mut modules: Vec<Module> = Vec::new();
    for line in std::str::from_utf8(list).ok()?.lines() {
        match line.split_once('\t') {
            Some(("dep", words)) => modules.push(Module::parse(words)),
            Some(("=>", words)) => {
                if let Some(last) = modules.last_mut() {
                    last.replacement = Some(Box::new(Module::parse(words)));
                }
            }
            _ => {}
        }
    }
    Some(Program { go, modules })
}

/// A text with its length before it, seven bits a byte; and what follows.
fn inline(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes.get(at + 1..)?.split_at_checked(length);
        }
    }
    None
}

/// The folders of each module from which code is in the program, relative to the module's root, by the module's path. A
/// module that is not named has none, or the program was not compiled with `-trimpath`.
///
/// # Errors
/// When it cannot be read.
pub fn folders(input: &mut (impl Read + Seek), program: &Program) -> io::Result<BTreeMap<String, BTreeSet<PathBuf>>> {
    let known: BTreeMap<&str, &str> =
        program.modules.iter().map(|module| (module.path.as_str(), module.version.as_str())).collect();
    let mut found: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    each_piece(input, |_, bytes, is_last| {
        for at in memmem::find_iter(bytes, b"@v") {
            // What could be cut off here is whole in the next piece.
            if !is_last && at + LONGEST_NAME > bytes.len() {
                break;
            }
            if let Some((path, folder)) = named(bytes, at, &known) {
                found.entry(path.to_owned()).or_default().insert(folder.to_owned());
            }
        }
    })?;
    Ok(found)
}

/// The module, and the folder in it, of the source file in whose name there is an `@` at this place.
fn named<'a>(bytes: &'a [u8], at: usize, known: &BTreeMap<&'a str, &str>) -> Option<(&'a str, &'a Path)> {
    let begin = at.saturating_sub(LONGEST_NAME);
    let zero = memrchr(0, &bytes[begin..at])?;
    let path = std::str::from_utf8(&bytes[begin + zero + 1..at]).ok()?;
    let version = known.get(path)?;
    let rest = &bytes[at + 1..bytes.len().min(at + LONGEST_NAME)];
    let end = memchr::memchr(0, rest).unwrap_or(rest.len());
    let inner = std::str::from_utf8(&rest[..end]).ok()?.strip_prefix(*version)?.strip_prefix('/')?;
    Some((path, Path::new(inner).parent().unwrap_or(Path::new(""))))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::io::Cursor;

    /// A file that says what a Go program of these modules would.
    pub fn binary(go: &str, list: &str, files: &[&str]) -> Vec<u8> {
        let text = |text: &[u8]| {
            let mut bytes = Vec::new();
            let mut length = text.len();
            while length > 0x7f {
                bytes.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend_from_slice(text);
            bytes
        };
        let mut bytes = b"\x7fELF and more".to_vec();
        // As a word of its own: it must not be taken for the information.
        bytes.extend_from_slice(MAGIC);
        bytes.resize(64, b'x');
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[8, INLINE]);
        bytes.resize(64 + HEAD, 0);
        bytes.extend(text(go.as_bytes()));
        let framed = [&[b'<'; SENTINEL][..], list.as_bytes(), &[b'>'; SENTINEL]].concat();
        bytes.extend(text(&framed));
        bytes.push(0);
        for file in files {
            bytes.extend_from_slice(file.as_bytes());
            bytes.push(0);
        }
        bytes
    }

    #[test]
    fn modules_replacements_and_folders_are_read_from_a_program() {
        let list = "path\texample.org/main\nmod\texample.org/main\t(devel)\t\n\
                    dep\tgithub.com/a/b\tv1.2.3\th1:sum=\n\
                    dep\tgithub.com/old/c\tv0.1.0\n=>\tgithub.com/new/c\tv0.2.0\th1:other=\n\
                    build\t-trimpath=true\n";
        let files = [
            "github.com/a/b@v1.2.3/x.go",
            "github.com/a/b@v1.2.3/deep/er/y.go",
            "github.com/a/b@v1.2.30/no.go",
            "net/http/z.go",
        ];
        let bytes = binary("go1.26.8 X:some", list, &files);
        let program = read(&mut Cursor::new(&bytes)).unwrap().unwrap();
        assert_eq!(program.go, "1.26.8");
        assert_eq!(program.modules.len(), 2);
        assert_eq!(program.modules[0].sum.as_deref(), Some("h1:sum="));
        assert_eq!(program.modules[1].actual().path, "github.com/new/c");
        let wanted: BTreeSet<PathBuf> = ["".into(), "deep/er".into()].into();
        let wanted = BTreeMap::from([("github.com/a/b".to_owned(), wanted)]);
        assert_eq!(folders(&mut Cursor::new(&bytes), &program).unwrap(), wanted);
        assert_eq!(read(&mut Cursor::new(b"\x7fELF and nothing else")).unwrap(), None);
        for cut in 60..bytes.len() {
            // Whatever was cut off, it ends well.
            let _ = read(&mut Cursor::new(&bytes[..cut])).unwrap();
        }
        // Wherever the pieces end: between, before and behind everything that counts.
        let end = bytes.len();
        for before in (PIECE - OVERLAP - end..PIECE + 16).step_by(16) {
            let mut moved = vec![0; before.next_multiple_of(16)];
            moved.extend_from_slice(&bytes);
            let mut moved = Cursor::new(moved);
            assert_eq!(read(&mut moved).unwrap().as_ref(), Some(&program), "{before}");
            assert_eq!(folders(&mut moved, &program).unwrap(), wanted, "{before}");
        }
    }
}
