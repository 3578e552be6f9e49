//! Finds traces of the machine that built a bundle in its files: paths of the build, of the checkout and of homes, and the names
//! of the user and of the machine.
//!
//! A name is looked for where names stand (`USER@HOST`, `/home/USER`), that of the machine also by itself if it is not a word that
//! anybody could have written. A home that is as short as `/root` counts where something follows that is there on this machine. Files
//! packed by gzip, bzip2 or xz are unpacked and looked into as well; pictures, fonts, zip and brotli are not.
//!
//! Promises: of large files and of what packed ones hold no more is in memory than a window ([`WINDOW`]), and what is found is what would be if it
//! were all of it.

use crate::archive::content::Content;
use memchr::memmem::Finder;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Of a packed file no more than this is looked into, in bytes.
const UNPACKED_AT_MOST: u64 = 1024 * 1024 * 1024;

/// So much is looked at at once, in bytes.
const WINDOW: usize = 256 * 1024;

/// So much before a mark belongs to its text, and the byte beside it decides whether it counts.
const BEFORE: usize = 24;

/// So much of it and behind it belongs to its text.
const SHOWN: usize = 120;

/// So much behind a mark decides whether it counts.
const AFTER: usize = 256;

/// A path that is no longer than this is not special enough to be a trace by itself, in bytes.
const SHORT: usize = 6;

/// Users of no particular name, whose homes are those of thousands of machines.
const ANYBODY: [&str; 12] =
    ["admin", "build", "builder", "debian", "docker", "nobody", "root", "runner", "ubuntu", "user", "vagrant", "worker"];

/// Something to look for.
pub struct Mark {
    what: &'static str,
    finder: Finder<'static>,
    kind: MarkKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MarkKind {
    /// A path: what stands before and after it must not be part of the same name.
    Path,
    /// A path that only counts where what follows it is there on this machine.
    ShortPath,
    /// A word: no letter, digit or hyphen stands beside it.
    Word,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it is a trace of.
    pub what: &'static str,
    /// It with what stands around it.
    pub text: String,
    /// Whether it stood in the packed content of the file.
    pub packed: bool,
}

/// The places and names of a machine that builds.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Paths, each with what it is.
    pub paths: Vec<(&'static str, PathBuf)>,
    /// The person's home.
    pub home: Option<PathBuf>,
    /// The person's name.
    pub user: Option<String>,
    /// The machine's name.
    pub host: Option<String>,
}

impl Machine {
    /// This one, and this person.
    pub fn this() -> Self {
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
        let user = user.or_else(|| Some(home.as_ref()?.file_name()?.to_str()?.to_owned()));
        let host = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
        let tool = |what, name| Some((what, PathBuf::from(std::env::var_os(name)?)));
        let tools = [tool("cargo's folder", "CARGO_HOME"), tool("rustup's folder", "RUSTUP_HOME")];
        Self { paths: tools.into_iter().flatten().collect(), home, user, host }
    }

    /// All that is to be looked for.
    pub fn marks(&self) -> Vec<Mark> {
        let mut marks = Vec::new();
        let mut add = |what, text: &str, kind| {
            if !text.is_empty() {
                marks.push(Mark { what, finder: Finder::new(text).into_owned(), kind });
            }
        };
        let path_kind = |path: &str| if path.len() <= SHORT { MarkKind::ShortPath } else { MarkKind::Path };
        for (what, path) in &self.paths {
            if let Some(path) = path.to_str().filter(|path| path.len() > 1) {
                add(what, path, path_kind(path));
            }
        }
        if let Some(home) = self.home.as_ref().and_then(|home| home.to_str()).filter(|home| home.len() > 1) {
            let anybodys = Path::new(home).file_name().is_some_and(|name| ANYBODY.iter().any(|anybody| name == *anybody));
            add("the home of who built it", home, if anybodys { MarkKind::ShortPath } else { path_kind(home) });
        }
        if let Some(user) = self.user.as_deref().filter(|user| !ANYBODY.contains(user)) {
            for folder in ["/home", "/Users"] {
                add("the home of who built it", &format!("{folder}/{user}"), MarkKind::Path);
            }
        }
        if let Some(host) = self.host.as_deref().filter(|host| *host != "localhost") {
            // Who built it where, as compilers and kernels like to write it.
            if let Some(user) = self.user.as_deref() {
                add("who built it", &format!("{user}@{host}"), MarkKind::Word);
            }
            let telling = host.len() >= 8 && host.bytes().any(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'.');
            if telling {
                add("the name of the machine that built it", host, MarkKind::Word);
            }
        }
        marks
    }
}

/// The first trace of each mark in a file's content.
pub fn find(content: &[u8], marks: &[Mark]) -> Vec<Trace> {
    let mut search = Search::new(marks);
    search.look(content, 0, true);
    let mut found = search.found();
    found.extend(find_packed(content, content, marks));
    found
}

/// The same of a content that may not be in memory.
///
/// # Errors
/// When it cannot be read.
pub fn find_in(content: &Content, marks: &[Mark]) -> io::Result<Vec<Trace>> {
    if let Some(bytes) = content.in_memory() {
        return Ok(find(bytes, marks));
    }
    let mut search = Search::new(marks);
    search.read(&mut content.reader(), WINDOW)?;
    let mut found = search.found();
    found.extend(find_packed(&content.head(8)?, content.reader(), marks));
    Ok(found)
}

/// The first trace of each mark in what a file holds that begins so, if it is packed.
fn find_packed<'a>(head: &[u8], packed: impl Read + 'a, marks: &[Mark]) -> Vec<Trace> {
    let Some((_, inner)) = unpacking(head, packed) else { return Vec::new() };
    let mut search = Search::new(marks);
    // What is damaged further on was still looked at up to there.
    let _ = search.read(&mut inner.take(UNPACKED_AT_MOST), WINDOW);
    search.found().into_iter().map(|trace| Trace { packed: true, ..trace }).collect()
}

/// A search for the first trace of each mark that counts, window by window.
struct Search<'m> {
    marks: &'m [Mark],
    /// Of each mark: what was found, or from where on it is to be looked for.
    found: Vec<Result<Trace, u64>>,
    /// So much of a window has to be seen with the next one: a mark that is cut by its end, or that too little is known about, with what
    /// stands around it.
    overlap: usize,
}

impl<'m> Search<'m> {
    fn new(marks: &'m [Mark]) -> Self {
        let longest = marks.iter().map(|mark| mark.finder.needle().len()).max().unwrap_or_default();
        Self { marks, found: marks.iter().map(|_| Err(0)).collect(), overlap: BEFORE + longest + AFTER.max(SHOWN) }
    }

    /// Looks at all that there is to be read.
    fn read(&mut self, from: &mut dyn Read, window: usize) -> io::Result<()> {
        let (mut bytes, mut base) = (Vec::new(), 0_u64);
        loop {
            let wanted = window + self.overlap - bytes.len();
            let read = from.take(wanted as u64).read_to_end(&mut bytes);
            let is_last = !matches!(read, Ok(count) if count == wanted);
            self.look(&bytes, base, is_last);
            if is_last || self.found.iter().all(Result::is_ok) {
                return read.map(drop);
            }
            base += window as u64;
            bytes.drain(..window);
        }
    }

    /// Looks at a window, which begins at this byte of all.
    fn look(&mut self, window: &[u8], base: u64, is_last: bool) {
        for (mark, found) in self.marks.iter().zip(&mut self.found) {
            let Err(from) = *found else { continue };
            // Behind the window where a mark ends that did not count.
            let from = usize::try_from(from - base).unwrap_or(usize::MAX).min(window.len());
            *found = mark.find(window, from, is_last).map_err(|next| base + next as u64);
        }
    }

    fn found(self) -> Vec<Trace> {
        self.found.into_iter().filter_map(Result::ok).collect()
    }
}

/// What a file holds that begins so, if it is packed, and by which program.
fn unpacking<'a>(head: &[u8], packed: impl Read + 'a) -> Option<(&'static str, Box<dyn Read + 'a>)> {
    Some(match head {
        [0x1f, 0x8b, 8, ..] => ("gzip", Box::new(flate2::read::MultiGzDecoder::new(packed))),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => ("bzip2", Box::new(bzip2::read::MultiBzDecoder::new(packed))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("xz", Box::new(xz2::read::XzDecoder::new_multi_decoder(packed))),
        _ => return None,
    })
}

/// What a packed file holds, as far as it can be unpacked, and by which program it was packed.
///
/// # Errors
/// When it cannot be read, or what it holds not be kept meanwhile.
pub fn unpacked(content: &Content) -> anyhow::Result<Option<(&'static str, Content)>> {
    let Some((tool, reader)) = unpacking(&content.head(8)?, content.reader()) else { return Ok(None) };
    Ok(Some((tool, Content::read(&mut UpToDamage(reader), UNPACKED_AT_MOST)?)))
}

/// What is damaged further on is read up to there.
struct UpToDamage<'a>(Box<dyn Read + 'a>);

impl Read for UpToDamage<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read(into).unwrap_or(0))
    }
}

/// Whether a byte may be part of a name in a path.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-+~".contains(&byte) || byte >= 0x80
}

impl Mark {
    /// Its first trace from one place on; or from where on it is to be looked for where more is seen than this.
    fn find(&self, content: &[u8], mut from: usize, is_last: bool) -> Result<Trace, usize> {
        let length = self.finder.needle().len();
        loop {
            let Some(at) = self.finder.find(&content[from..]).map(|at| from + at) else {
                return Err(from.max((content.len() + 1).saturating_sub(length)));
            };
            let needed = (at + length + AFTER).max(at + SHOWN);
            if needed > content.len() && !is_last {
                return Err(at);
            }
            if self.counts(content, at, at + length) {
                return Ok(self.trace(content, at));
            }
            from = at + length;
        }
    }

    fn trace(&self, content: &[u8], at: usize) -> Trace {
        let length = self.finder.needle().len();
        let before = content[..at].iter().rev().take(BEFORE).take_while(|byte| byte.is_ascii_graphic()).count();
        let after = content[at..].iter().take(SHOWN).take_while(|byte| byte.is_ascii_graphic() || **byte == b' ').count();
        let text = String::from_utf8_lossy(&content[at - before..at + after.max(length)]).into_owned();
        Trace { what: self.what, text, packed: false }
    }

    fn counts(&self, content: &[u8], from: usize, to: usize) -> bool {
        let before = from.checked_sub(1).map(|at| content[at]);
        let after = content.get(to).copied();
        match self.kind {
            MarkKind::Word => {
                let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
                !before.is_some_and(part) && !after.is_some_and(part)
            }
            MarkKind::Path => !before.is_some_and(is_name) && !after.is_some_and(is_name),
            MarkKind::ShortPath => {
                let rest = &content[to..content.len().min(to + AFTER)];
                let name: Vec<u8> = rest.iter().skip(1).copied().take_while(|byte| is_name(*byte)).collect();
                let path = [&content[from..to], b"/", &name].concat();
                let is_there = || Path::new(&*String::from_utf8_lossy(&path)).symlink_metadata().is_ok();
                !before.is_some_and(is_name) && after == Some(b'/') && !name.iter().all(|byte| *byte == b'.') && is_there()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn machine() -> Machine {
        Machine {
            paths: vec![("the build folder", "/srv/ours/build".into())],
            home: Some("/home/erika".into()),
            user: Some("erika".to_owned()),
            host: Some("build-7.example.org".to_owned()),
        }
    }

    fn found(content: &[u8]) -> Vec<&'static str> {
        find(content, &machine().marks()).into_iter().map(|trace| trace.what).collect()
    }

    #[test]
    fn paths_of_the_build_and_names_of_its_machine_are_found() {
        assert_eq!(found(b"x\0/srv/ours/build/wip/src/main.c\0"), ["the build folder"]);
        assert!(found(b"(/home/erika/.cargo/x.rs)").contains(&"the home of who built it"));
        assert!(found(b"built by erika@build-7.example.org today").contains(&"who built it"));
        assert_eq!(found(b"on build-7.example.org"), ["the name of the machine that built it"]);
        let trace = find(b"aa --prefix=/srv/ours/build/dest rest", &machine().marks()).remove(0);
        assert_eq!(trace.text, "--prefix=/srv/ours/build/dest rest");
    }

    #[test]
    fn what_only_looks_like_it_is_none() {
        for innocent in [
            &b"/srv/ours/builder/x"[..],
            b"https://x.org/srv/ours/building",
            b"by Erika erika",
            b"rebuild-7.example.orgs",
            b"x/home/erikas",
        ] {
            assert_eq!(found(innocent), Vec::<&str>::new(), "{}", String::from_utf8_lossy(innocent));
        }
    }

    #[test]
    fn the_content_of_packed_files_is_looked_into() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"made in /srv/ours/build").unwrap();
        let packed = gz.finish().unwrap();
        let traces = find(&packed, &machine().marks());
        assert_eq!((traces.len(), traces[0].packed), (1, true));
        assert_eq!(found(b"\x1f\x8b\x08 and then nothing of the kind"), Vec::<&str>::new());
    }

    /// What is found window by window.
    fn in_windows(content: &[u8], marks: &[Mark], window: usize) -> Vec<Trace> {
        let mut search = Search::new(marks);
        search.read(&mut &*content, window).unwrap();
        search.found()
    }

    #[test]
    fn what_lies_across_the_end_of_a_window_is_found_as_if_there_were_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("there")).unwrap();
        let home = folder.path().to_str().unwrap();
        let mark = |text: &str, kind| Mark { what: "a mark", finder: Finder::new(text).into_owned(), kind };
        let marks = [
            mark("/srv/ours/build", MarkKind::Path),
            mark("erika@build-7", MarkKind::Word),
            mark(home, MarkKind::ShortPath),
            mark("--", MarkKind::Word),
        ];
        let long = format!("{home}/{}", "x".repeat(300));
        let (there, elsewhere) = (format!("{home}/there"), format!("{home}/elsewhere"));
        let texts = [
            "/srv/ours/build",
            "--prefix=/srv/ours/build/dest and so on",
            "/srv/ours/builder /srv/ours/build",
            "/srv/ours/build/srv/ours/build",
            "derika@build-7 erika@build-7",
            // Where one ends that does not count, the next one begins.
            "--- -- ---",
            there.as_str(),
            elsewhere.as_str(),
            long.as_str(),
        ];
        let mut traces = 0;
        for text in texts {
            for at in 0..70 {
                for (stuff, behind) in [(b'\0', 0), (b' ', 100), (b'a', 700)] {
                    let content = [&vec![stuff; at][..], b"\0", text.as_bytes(), b"\n", &vec![stuff; behind]].concat();
                    let whole: Vec<_> = marks.iter().filter_map(|mark| mark.find(&content, 0, true).ok()).collect();
                    traces += whole.len();
                    for window in [17, 64, 4096] {
                        assert_eq!(in_windows(&content, &marks, window), whole, "{text} at {at} by {window}");
                    }
                }
            }
        }
        assert!(traces > 4 * 3 * 70, "{traces}");
    }

    #[test]
    fn a_large_content_that_is_not_in_memory_is_looked_at_all_the_same() {
        let mut bytes = vec![0; 3 * WINDOW + 4 * 1024 * 1024];
        let at = 16 * WINDOW - 7;
        bytes[at..at + 17].copy_from_slice(b"/srv/ours/build/x");
        let content = Content::read(&mut bytes.as_slice(), bytes.len() as u64).unwrap();
        assert!(content.in_memory().is_none());
        let traces = find_in(&content, &machine().marks()).unwrap();
        assert_eq!((traces.len(), traces[0].text.as_str()), (1, "/srv/ours/build/x"));
        assert_eq!(traces, find(&bytes, &machine().marks()));
        // Packed so that neither it nor what it holds is small.
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gz.write_all(&bytes).unwrap();
        let packed = gz.finish().unwrap();
        let content = Content::read(&mut packed.as_slice(), packed.len() as u64).unwrap();
        let traces = find_in(&content, &machine().marks()).unwrap();
        assert!(content.in_memory().is_none() && traces.last().is_some_and(|trace| trace.packed), "{traces:?}");
        assert_eq!(traces, find(&packed, &machine().marks()));
    }

    #[test]
    fn a_home_of_thousands_of_machines_counts_where_it_names_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("there")).unwrap();
        let marks = |path: &Path| {
            vec![Mark { what: "home", finder: Finder::new(path.to_str().unwrap()).into_owned(), kind: MarkKind::ShortPath }]
        };
        let text = |inner: &str| format!("a {}/{inner} z", folder.path().display()).into_bytes();
        assert_eq!(find(&text("there/x"), &marks(folder.path())).len(), 1);
        assert_eq!(find(&text("elsewhere/x"), &marks(folder.path())), []);
        let root = Machine { home: Some("/root".into()), user: Some("root".into()), ..Machine::default() };
        assert_eq!(find(b"the folder /root/of-nobody is /root", &root.marks()), []);
    }
}
