//! Fetching from real servers that misbehave, from folders, and through proxies.

mod environment;
mod places;
mod resuming;
#[cfg_attr(not(feature = "shared-cache"), allow(dead_code, reason = "some of it serves the tests of the shared cache only"))]
pub(crate) mod server;
mod wrong;

use super::*;
use crate::error::{Kind, kind_of};
use crate::progress::Verbosity;
use server::{Answer, Request, Server};
use sha2::{Digest as _, Sha256};

/// A build folder, and the archive that is pinned.
struct Place {
    folder: tempfile::TempDir,
    archive: Vec<u8>,
    /// How long a silent server is waited for. Long, so that a busy machine is not taken for one.
    stall: Duration,
}

/// A real archive of about 200 kB that does not compress, so that cuts fall where they are wanted.
fn archive(version: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let noise: Vec<u8> = (0..6000_u32).flat_map(|n| Sha256::digest(format!("{version} {n}")).to_vec()).collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(noise.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, format!("thing-{version}/noise"), noise.as_slice()).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    crate::fingerprint::hex(&Sha256::digest(bytes))
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("fet ch ").tempdir().unwrap();
        Self { folder, archive: archive("1.2"), stall: Duration::from_secs(20) }
    }

    /// The pin of the archive, at these addresses.
    fn source(&self, name: &str, urls: &[String]) -> Source {
        Source {
            name: name.to_owned(),
            version: "1.2".to_owned(),
            urls: urls.to_vec(),
            path: None,
            sha256: Some(sha256(&self.archive)),
            size: Some(self.archive.len() as u64),
            license: "MIT".to_owned(),
            license_files: Vec::new(),
            license_sha256: None,
            tree_sha256: None,
            purl: None,
        }
    }

    /// Options of short patience.
    fn options(&self) -> Options {
        Options {
            store: self.folder.path().join("build/sources"),
            rejected: self.folder.path().join("build/rejected"),
            mirrors: Vec::new(),
            offline: false,
            jobs: 2,
            retry: Retry {
                attempts: 3,
                first_pause: Duration::from_millis(10),
                longest_pause: Duration::from_secs(2),
                stall: self.stall,
                connect: Duration::from_secs(2),
            },
        }
    }

    fn fetch_with(&self, sources: &[Source], options: &Options) -> anyhow::Result<BTreeMap<String, PathBuf>> {
        let sources: Vec<&Source> = sources.iter().collect();
        let result = fetch_all(&sources, options, &Ui::new(Verbosity::Quiet));
        for path in result.iter().flat_map(BTreeMap::values) {
            assert_eq!(std::fs::read(path).unwrap(), self.archive);
        }
        result
    }

    /// Fetches the one source `thing` from these addresses.
    fn fetch(&self, urls: &[String]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
        self.fetch_with(&[self.source("thing", urls)], &self.options())
    }

    /// The fetch fails with this kind and all these words.
    fn fails(&self, urls: &[String], kind: Kind, words: &[&str]) -> String {
        let error = self.fetch(urls).expect_err("must fail");
        let text = format!("{error:#}");
        for word in words {
            assert!(text.contains(word), "{text}\ndoes not say: {word}");
        }
        assert_eq!(kind_of(&error), kind, "{text}");
        assert!(stored(&self.source("thing", urls), &self.options().store).is_none());
        text
    }

    /// The names in the store.
    fn in_store(&self) -> Vec<String> {
        names(&self.options().store)
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A server that answers as the script says, which is given the right archive.
fn serve(place: &Place, script: impl Fn(&Request, &[u8]) -> Answer + Send + Sync + 'static) -> Server {
    let archive = place.archive.clone();
    Server::start(move |request| script(request, &archive))
}

/// A port of this machine on which nobody listens: unlike one that was free just now it is given to nobody else.
fn dead_port() -> u16 {
    1
}

#[test]
fn a_right_archive_is_taken_once_and_then_needs_no_network() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(archive));
    let urls = [server.url("v1.2.tar.gz")];
    let have = place.fetch(&urls).unwrap();
    let name = format!("{}.tar.gz", sha256(&place.archive));
    assert_eq!(have["thing"], place.options().store.join(&name));
    assert_eq!(place.in_store(), [name.clone(), format!("{name}.ok")]);
    let asked = server.requests();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].header("user-agent").unwrap().starts_with("dkumonitor-xtask/"));
    place.fetch(&urls).unwrap();
    assert_eq!(server.requests().len(), 1);
    assert!(stored(&place.source("thing", &urls), &place.options().store).is_some());
    // Copied, its fingerprint does not fit any more, but its content does.
    let path = &have["thing"];
    std::fs::copy(path, path.with_extension("copy")).unwrap();
    std::fs::rename(path.with_extension("copy"), path).unwrap();
    place.fetch(&urls).unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_damaged_archive_in_the_store_is_thrown_away_and_fetched_again() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(archive));
    let urls = [server.url("v1.2.tar.gz")];
    let path = place.fetch(&urls).unwrap()["thing"].clone();
    let mut bytes = place.archive.clone();
    bytes[1000] ^= 1;
    let modified = path.metadata().unwrap().modified().unwrap();
    // Times have steps, of several milliseconds on some systems; what is damaged within one cannot be told by them.
    use std::os::unix::fs::MetadataExt as _;
    let changed = |path: &Path| path.metadata().map(|meta| (meta.ctime(), meta.ctime_nsec())).unwrap();
    let (tick, fetched) = (place.folder.path().join("tick"), changed(&path));
    std::fs::write(&tick, "").unwrap();
    while changed(&tick) <= fetched {
        std::fs::write(&tick, "tick").unwrap();
    }
    std::fs::write(&path, bytes).unwrap();
    // Even when its time is set back.
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(stored(&place.source("thing", &urls), &place.options().store).is_none());
    place.fetch(&urls).unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn every_source_is_tried_before_any_failure_is_told_several_at_a_time() {
    let place = Place::new();
    let slow = serve(&place, |request, archive| {
        // Both downloads must be under way before either is answered.
        let both = std::sync::LazyLock::force(&BARRIER);
        if request.path.starts_with("/slow") {
            both.wait();
        }
        if request.path.contains("bad") { Answer::new("404 Not Found", b"") } else { Answer::ok(archive) }
    });
    static BARRIER: std::sync::LazyLock<std::sync::Barrier> = std::sync::LazyLock::new(|| std::sync::Barrier::new(2));
    let mut sources: Vec<Source> =
        ["slow-bad", "slow-worse", "good"].map(|name| place.source(name, &[slow.url(&format!("{name}-bad"))])).to_vec();
    sources[0].sha256 = Some(sha256(b"0"));
    sources[1].sha256 = Some(sha256(b"1"));
    sources[2].urls = vec![slow.url("good")];
    let error = place.fetch_with(&sources, &place.options()).unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("cannot fetch 2 of the 3") && text.contains("slow-bad 1.2") && text.contains("slow-worse 1.2"),
        "{text}"
    );
    assert!(stored(&sources[2], &place.options().store).is_some());
    assert!(slow.most_at_once() >= 2);
}

#[test]
fn one_archive_under_two_names_is_fetched_once_and_folders_are_passed_over() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(archive));
    let mut folder = place.source("folder", &[]);
    (folder.path, folder.sha256, folder.size) = (Some("sources/folder".into()), None, None);
    let sources =
        [place.source("one", &[server.url("a.tar.gz")]), place.source("two", &[server.url("a.tar.gz")]), folder.clone()];
    let have = place.fetch_with(&sources, &place.options()).unwrap();
    assert_eq!(have.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(server.requests().len(), 1);
    assert!(stored(&folder, &place.options().store).is_none());
}

#[test]
fn a_store_that_cannot_be_written_is_told_at_once() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(archive));
    let store = place.options().store;
    // A folder in the part's place: even root cannot write to it.
    std::fs::create_dir_all(store.join(format!("{}.part", sha256(&place.archive)))).unwrap();
    place.fails(&[server.url("a.tar.gz"), server.url("b.tar.gz")], Kind::Fetch, &["cannot write to the store"]);
    assert!(server.requests().len() <= 1);
}
