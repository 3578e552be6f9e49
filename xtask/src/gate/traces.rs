//! Finds traces of the machine that built a bundle in its files: paths of the build, of the checkout and of homes, and the names
//! of the user and of the machine.
//!
//! A name is looked for where names stand (`USER@HOST`, `/home/USER`), that of the machine also by itself if it is not a word that
//! anybody could have written. A home that is as short as `/root` counts where something follows that is there on this machine. Files
//! packed by gzip, bzip2 or xz are unpacked and looked into as well; pictures, fonts, zip and brotli are not.

use memchr::memmem::Finder;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Of a packed file no more than this is looked into, in bytes.
const UNPACKED_AT_MOST: u64 = 1024 * 1024 * 1024;

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
    let mut found: Vec<Trace> = marks.iter().filter_map(|mark| mark.find(content)).collect();
    if let Some((_, inner)) = unpacked(content) {
        found.extend(marks.iter().filter_map(|mark| mark.find(&inner)).map(|trace| Trace { packed: true, ..trace }));
    }
    found
}

/// What a packed file holds, as far as it can be unpacked, and by which program it was packed.
pub fn unpacked(content: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    let (tool, reader): (_, Box<dyn Read + '_>) = match content {
        [0x1f, 0x8b, 8, ..] => ("gzip", Box::new(flate2::read::MultiGzDecoder::new(content))),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => ("bzip2", Box::new(bzip2::read::MultiBzDecoder::new(content))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("xz", Box::new(xz2::read::XzDecoder::new_multi_decoder(content))),
        _ => return None,
    };
    let mut inner = Vec::new();
    // What is damaged further on was still read up to there.
    let _ = reader.take(UNPACKED_AT_MOST).read_to_end(&mut inner);
    Some((tool, inner))
}

/// Whether a byte may be part of a name in a path.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-+~".contains(&byte) || byte >= 0x80
}

impl Mark {
    fn find(&self, content: &[u8]) -> Option<Trace> {
        let length = self.finder.needle().len();
        let at = self.finder.find_iter(content).find(|&at| self.counts(content, at, at + length))?;
        let before = content[..at].iter().rev().take(24).take_while(|byte| byte.is_ascii_graphic()).count();
        let after = content[at..].iter().take(120).take_while(|byte| byte.is_ascii_graphic() || **byte == b' ').count();
        let text = String::from_utf8_lossy(&content[at - before..at + after.max(length)]).into_owned();
        Some(Trace { what: self.what, text, packed: false })
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
                let rest = &content[to..content.len().min(to + 256)];
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
