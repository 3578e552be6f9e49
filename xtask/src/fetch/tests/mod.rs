//! Fetching from real servers that misbehave, from folders, and through proxies.

mod environment;
#[cfg_attr(not(feature = "shared-cache"), allow(dead_code, reason = "some of it serves the tests of the shared cache only"))]
pub(crate) mod server;

use super::*;
use crate::error::{Kind, kind_of};
use crate::progress::Verbosity;
use server::{Answer, Request, Server};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::time::Instant;

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
    std::fs::write(&path, bytes).unwrap();
    // Even when its time is set back.
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(stored(&place.source("thing", &urls), &place.options().store).is_none());
    place.fetch(&urls).unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
    for status in ["500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests", "408 Request Timeout"] {
        let place = Place::new();
        let server = serve(&place, move |request, archive| match request.number {
            0 | 1 => Answer::new(status, b"later"),
            _ => Answer::ok(archive),
        });
        place.fetch(&[server.url("a.tar.gz")]).unwrap();
        assert_eq!(server.requests().len(), 3, "{status}");
        let server = serve(&place, move |_, _| Answer::new(status, b"later"));
        std::fs::remove_dir_all(place.options().store).unwrap();
        place.fails(&[server.url("a.tar.gz")], Kind::Fetch, &[status, "tried 3 times", &server.url("a.tar.gz")]);
    }
    for status in ["404 Not Found", "403 Forbidden", "401 Unauthorized", "410 Gone"] {
        let place = Place::new();
        let server = serve(&place, move |_, _| Answer::new(status, b"no"));
        place.fails(&[server.url("a.tar.gz")], Kind::Fetch, &[status, "thing 1.2"]);
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[test]
fn a_server_that_says_when_to_come_back_is_heard() {
    let place = Place::new();
    let server = serve(&place, |request, archive| match request.number {
        0 => Answer::new("429 Too Many Requests", b"").with("Retry-After", "1"),
        _ => Answer::ok(archive),
    });
    let start = Instant::now();
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    // But not for an hour: the next address is asked instead.
    let place = Place::new();
    let busy = serve(&place, |_, _| Answer::new("503 Busy", b"").with("Retry-After", "3600"));
    place.fetch(&[busy.url("a.tar.gz"), server.url("b.tar.gz")]).unwrap();
    assert_eq!(busy.requests().len(), 1);
    place.fetch_with(&[], &place.options()).unwrap();
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let place = Place::new();
    let server = serve(&place, |request, archive| match request.number {
        0 => Answer::ranged(request, archive, "\"one\"").cut(70_000),
        1 => Answer::ranged(request, archive, "\"one\"").cut(60_000),
        _ => Answer::ranged(request, archive, "\"one\""),
    });
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    let ranges: Vec<_> = server.requests().iter().map(|request| request.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=70000-".into()), Some("bytes=130000-".into())]);
}

#[test]
fn a_stalled_download_goes_on_too_and_in_the_next_run() {
    let place = Place { stall: Duration::from_millis(400), ..Place::new() };
    let server = serve(&place, |request, archive| match request.number {
        0..3 => Answer::ranged(request, archive, "\"one\"").cut(1000).stall(),
        _ => Answer::ranged(request, archive, "\"one\""),
    });
    let urls = [server.url("a.tar.gz")];
    place.fails(&urls, Kind::Fetch, &["stalled after 3000 of", "nothing for 0.4 s"]);
    place.fetch(&urls).unwrap();
    assert_eq!(server.requests()[3].header("range"), Some("bytes=3000-"));
    assert!(!place.in_store().iter().any(|name| name.contains("part")), "{:?}", place.in_store());
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let place = Place { stall: Duration::from_millis(400), ..Place::new() };
    let server = Server::start(|_| Answer::unmeasured(b"").stall());
    place.fails(&[server.url("a.tar.gz")], Kind::Fetch, &["tried 3 times"]);
}

#[test]
fn a_part_is_not_gone_on_with_when_the_file_has_changed() {
    // An honest server sends the whole of the new file.
    let place = Place::new();
    let server = serve(&place, |request, archive| match request.number {
        0 => Answer::ranged(request, &vec![9; 200_000], "\"old\"").cut(80_000),
        _ => Answer::ranged(request, archive, "\"new\""),
    });
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    assert_eq!(server.requests()[1].header("if-range"), Some("\"old\""));
    // One that ignores If-Range betrays itself by its tag.
    let place = Place::new();
    let server = serve(&place, |request, archive| match request.number {
        0 => Answer::ranged(request, &vec![9; 200_000], "\"old\"").cut(80_000),
        1 => Answer::new("206 Partial Content", &archive[80_000..])
            .with("ETag", "\"new\"")
            .with("Content-Range", &format!("bytes 80000-{}/{}", archive.len() - 1, archive.len())),
        _ => Answer::ranged(request, archive, "\"new\""),
    });
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    assert_eq!(server.requests().len(), 3);
    assert_eq!(server.requests()[2].header("range"), None);
}

#[test]
fn a_wrong_range_starts_anew() {
    for range in ["bytes 0-99/100", "bytes 80000-1/77", "nonsense", ""] {
        let place = Place::new();
        let server = serve(&place, move |request, archive| match request.number {
            0 => Answer::ranged(request, archive, "\"t\"").cut(80_000),
            1 => Answer::new("206 Partial Content", b"whatever").with("ETag", "\"t\"").with("Content-Range", range),
            _ => Answer::ranged(request, archive, "\"t\""),
        });
        place.fetch(&[server.url("a.tar.gz")]).unwrap();
        assert_eq!(server.requests()[2].header("range"), None, "{range}");
    }
    let place = Place::new();
    let server = serve(&place, |request, archive| match request.number {
        0 => Answer::ranged(request, archive, "\"t\"").cut(80_000),
        1 => Answer::new("416 Range Not Satisfiable", b""),
        _ => Answer::ok(archive),
    });
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
}

#[test]
fn without_a_strong_validator_nothing_is_gone_on_with() {
    for (name, value, goes_on) in
        [("ETag", "W/\"weak\"", false), ("X-None", "1", false), ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT", true)]
    {
        let place = Place::new();
        let server = serve(&place, move |request, archive| match request.number {
            0 => Answer::ok(archive).with(name, value).cut(80_000),
            _ if request.header("range").is_some() => Answer::new("206 Partial Content", &archive[80_000..])
                .with(name, value)
                .with("Content-Range", &format!("bytes 80000-{}/{}", archive.len() - 1, archive.len())),
            _ => Answer::ok(archive),
        });
        place.fetch(&[server.url("a.tar.gz")]).unwrap();
        assert_eq!(server.requests()[1].header("range").is_some(), goes_on, "{name}: {value}");
    }
}

#[test]
fn a_whole_part_of_a_killed_run_needs_no_network_and_a_foreign_one_is_dropped() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(archive));
    let store = place.options().store;
    let part = store.join(format!("{}.part", sha256(&place.archive)));
    let note = |url: &str| {
        std::fs::create_dir_all(&store).unwrap();
        std::fs::write(part.with_extension("part.json"), serde_json::json!({"url": url, "validator": "\"x\""}).to_string())
            .unwrap();
    };
    std::fs::create_dir_all(&store).unwrap();
    std::fs::write(&part, &place.archive).unwrap();
    note(&server.url("a.tar.gz"));
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    assert_eq!(server.requests().len(), 0);
    std::fs::remove_dir_all(&store).unwrap();
    note("https://elsewhere.invalid/a.tar.gz");
    std::fs::write(&part, "foreign bytes").unwrap();
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    assert_eq!(server.requests()[0].header("range"), None);
}

#[test]
fn lies_about_length_are_seen_through() {
    // Too much announced: all the right bytes came.
    let place = Place::new();
    let server =
        serve(&place, |_, archive| Answer::unmeasured(archive).with("Content-Length", &(archive.len() + 10).to_string()));
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    // Nothing announced.
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::unmeasured(archive));
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    // Nothing announced and cut: may pass.
    let place = Place::new();
    let server = serve(&place, |request, archive| match request.number {
        0 => Answer::unmeasured(&archive[..5000]),
        _ => Answer::ok(archive),
    });
    place.fetch(&[server.url("a.tar.gz")]).unwrap();
    // Too little announced.
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::unmeasured(archive).with("Content-Length", "5000"));
    let pinned = place.archive.len();
    place.fails(&[server.url("a.tar.gz")], Kind::Integrity, &[&format!("cut short: 5000 of {pinned} bytes")]);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn more_than_was_pinned_is_not_even_read() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(&[archive, vec![0; 50_000_000].as_slice()].concat()));
    let text = place.fails(
        &[server.url("a.tar.gz")],
        Kind::Integrity,
        &["wrong content", "a gzip file that holds \"thing-1.2/noise\""],
    );
    assert!(text.contains(&format!("{} bytes instead of {}", place.archive.len() + 1, place.archive.len())), "{text}");
}

#[test]
fn a_wrong_download_is_told_apart_kept_and_the_next_address_tried() {
    let cases: [(&[u8], &str); 7] = [
        (b"<!DOCTYPE html>\n<html><head><TITLE>\n Sign  in \x1b[31m</TITLE>", "an HTML page titled \"Sign in"),
        (b"<html>no title", "an HTML page,"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\nnot here\nsorry", "text that begins \"not here\""),
        (b"", "is empty"),
        (&[0xff, 0xfe, 0, 1, 2], "is other content, cut short: 5 of"),
        (&archive("1.3"), "a gzip file of another version, it holds \"thing-1.3/noise\""),
    ];
    for (wrong, words) in cases {
        let place = Place::new();
        let wrong_body = wrong.to_vec();
        let server = serve(&place, move |request, archive| match request.path.as_str() {
            "/bad.tar.gz" => Answer::ok(&wrong_body),
            _ => Answer::ok(archive),
        });
        place.fails(&[server.url("bad.tar.gz")], Kind::Integrity, &[words, "vendor.lock", "rejected"]);
        let kept = names(&place.options().rejected);
        assert_eq!(kept.len(), 2, "{kept:?}");
        let evidence = place.options().rejected.join(&kept[0]);
        assert!(std::fs::read(&evidence).unwrap().starts_with(&wrong[..wrong.len().min(place.archive.len())]));
        assert!(std::fs::read_to_string(evidence.with_added_extension("txt")).unwrap().contains(&server.url("bad.tar.gz")));
        place.fetch(&[server.url("bad.tar.gz"), server.url("good.tar.gz")]).unwrap();
    }
}

#[test]
fn the_same_tree_packed_anew_is_recognised_when_the_right_one_comes() {
    let place = Place::new();
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(place.archive.as_slice()), &mut plain).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(&plain).unwrap();
    let mut repacked = gz.finish().unwrap();
    // The header's time differs, as when a server packs anew.
    repacked[4] = 77;
    let evidence = place.folder.path().join("evidence");
    std::fs::write(&evidence, repacked).unwrap();
    let good = place.folder.path().join("good");
    std::fs::write(&good, &place.archive).unwrap();
    let wrong = |path: &Path| Failure::Wrong { what: String::new(), evidence: path.to_owned() };
    let other = place.folder.path().join("other");
    std::fs::write(&other, archive("1.3")).unwrap();
    let tries = [("a".to_owned(), wrong(&evidence)), ("b".to_owned(), wrong(&other)), ("c".to_owned(), Failure::Offline)];
    assert_eq!(evidence::repacked(&tries, &good), ["a"]);
}

#[test]
fn the_same_tree_packed_anew_is_recognised_by_the_lock_when_no_right_one_comes() {
    let place = Place::new();
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(place.archive.as_slice()), &mut plain).unwrap();
    let repacked = {
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(&plain).unwrap();
        xz.finish().unwrap()
    };
    let server = serve(&place, move |request, _| match request.path.as_str() {
        "/same.tar.gz" => Answer::ok(&repacked),
        _ => Answer::ok(&archive("1.3")),
    });
    let good = place.folder.path().join("good");
    std::fs::write(&good, &place.archive).unwrap();
    crate::unpack::unpack(&good, &place.folder.path().join("tree")).unwrap();
    let mut source = place.source("thing", &[server.url("same.tar.gz"), server.url("other.tar.gz")]);
    source.size = None;
    let tree = crate::fingerprint::scan(&place.folder.path().join("tree")).unwrap();
    source.tree_sha256 = Some(crate::stack::lock::tree_hash(&tree));
    let text = format!("{:#}", place.fetch_with(&[source], &place.options()).unwrap_err());
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("127.0.0.1")).collect();
    assert!(lines[0].contains("has the same tree, but packs it differently") && lines[0].contains("an xz file"), "{text}");
    assert!(lines[1].contains("a gzip file of another version, it holds \"thing-1.3/noise\""), "{text}");
    assert!(!lines[1].contains("same tree"), "{text}");
    let left = names(&place.options().rejected);
    assert_eq!(left.len(), 4, "nothing unpacked is left: {left:?}");
}

#[test]
fn evidence_does_not_grow_for_ever() {
    let place = Place::new();
    for n in 0..14 {
        let server = serve(&place, move |_, _| Answer::ok(format!("wrong {n}").as_bytes()));
        place.fails(&[server.url("a.tar.gz")], Kind::Integrity, &["wrong"]);
    }
    let kept = names(&place.options().rejected);
    assert_eq!(kept.len(), 20, "{kept:?}");
}

#[test]
fn redirects_are_followed_five_times() {
    let place = Place::new();
    let script = |request: &Request, archive: &[u8]| match request.path.strip_prefix('/').unwrap().parse::<u32>() {
        Ok(0) => Answer::ok(archive),
        Ok(left) => Answer::redirect(&format!("/{}", left - 1)),
        Err(_) => Answer::redirect(&request.path),
    };
    let server = serve(&place, script);
    place.fails(&[server.url("6")], Kind::Fetch, &["redirected more than 5 times"]);
    place.fails(&[server.url("loop")], Kind::Fetch, &["redirected more than 5 times"]);
    place.fetch(&[server.url("5")]).unwrap();
}

#[test]
fn mirrors_come_first_by_every_name() {
    let place = Place::new();
    let upstream = serve(&place, |_, _| Answer::new("500 Broken", b""));
    let urls = [upstream.url("archive/v1.2.tar.gz")];
    let mirror = serve(&place, |request, archive| match request.path.as_str() {
        "/m%20m/v1.2.tar.gz" => Answer::ok(archive),
        _ => Answer::new("404 Not Found", b""),
    });
    let mut options = place.options();
    options.mirrors = vec![mirror.url("m m/").parse().unwrap()];
    place.fetch_with(&[place.source("thing", &urls)], &options).unwrap();
    assert_eq!(upstream.requests().len(), 0);
    let asked: Vec<String> = mirror.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/m%20m/thing-1.2.tar.gz", "/m%20m/v1.2.tar.gz"]);
    let hash = sha256(&place.archive);
    for name in ["thing-1.2.tar.gz".to_owned(), "v1.2.tar.gz".to_owned(), hash.clone(), format!("{hash}.anything")] {
        let folder = place.folder.path().join("mirror folder");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(&name), &place.archive).unwrap();
        std::fs::remove_dir_all(&options.store).unwrap();
        options.mirrors = vec![Mirror::Folder(folder.clone())];
        options.offline = true;
        place.fetch_with(&[place.source("thing", &urls)], &options).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn a_wrong_file_in_a_mirror_folder_is_told_and_passed_over() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(archive));
    let folder = place.folder.path().join("mirror");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("thing-1.2.tar.gz"), "short").unwrap();
    let mut options = place.options();
    options.mirrors = vec![Mirror::Folder(folder.clone())];
    place.fetch_with(&[place.source("thing", &[server.url("v1.2.tar.gz")])], &options).unwrap();
    std::fs::remove_dir_all(&options.store).unwrap();
    // Of the right size, but other content; given as a file: address.
    let mut bytes = place.archive.clone();
    bytes[9] ^= 1;
    std::fs::write(folder.join("thing-1.2.tar.gz"), bytes).unwrap();
    let url = format!("file://{}/thing-1.2.tar.gz", folder.display());
    place.fails(&[url.replace(' ', "%20")], Kind::Integrity, &["thing-1.2.tar.gz is a gzip file", "wrong content"]);
    std::fs::write(folder.join("thing-1.2.tar.gz"), &place.archive).unwrap();
    place.fetch(&[url.replace(' ', "%20")]).unwrap();
}

#[test]
fn a_mirror_folder_of_no_use_does_not_cost_the_part_of_a_download() {
    let place = Place::new();
    let server = serve(&place, |request, archive| match request.number {
        0..3 => Answer::ranged(request, archive, "\"one\"").cut(1000),
        _ => Answer::ranged(request, archive, "\"one\""),
    });
    let source = place.source("thing", &[server.url("v1.2.tar.gz")]);
    place.fetch(&source.urls).unwrap_err();
    let mut options = place.options();
    let mut wrong = place.archive.clone();
    wrong[77] ^= 1;
    std::fs::create_dir_all(place.folder.path().join("mirror")).unwrap();
    std::fs::write(place.folder.path().join("mirror/v1.2.tar.gz"), wrong).unwrap();
    options.mirrors = vec![Mirror::Folder(place.folder.path().join("mirror"))];
    place.fetch_with(&[source], &options).unwrap();
    assert_eq!(server.requests()[3].header("range"), Some("bytes=3000-"));
    assert_eq!(place.in_store().len(), 2, "{:?}", place.in_store());
}

#[test]
fn mirrors_are_understood_or_refused() {
    let parse = |text: &str| text.parse::<Mirror>();
    assert_eq!(parse("/srv/a b"), Ok(Mirror::Folder("/srv/a b".into())));
    assert_eq!(parse("rel/dir"), Ok(Mirror::Folder("rel/dir".into())));
    assert_eq!(parse("file:rel/dir"), Ok(Mirror::Folder("rel/dir".into())));
    assert_eq!(parse("file:///srv/a%20b"), Ok(Mirror::Folder("/srv/a b".into())));
    assert_eq!(parse("https://host/x"), Ok(Mirror::Url("https://host/x".into())));
    for wrong in ["", "ftp://host/x", "file:", "file://host/x", "http://", "https://[", "s3://bucket"] {
        let error = parse(wrong).unwrap_err();
        assert!(error.contains("give a folder"), "{wrong}: {error}");
    }
}

#[test]
fn offline_says_what_is_missing_and_how_to_call_it() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(archive));
    let mut options = place.options();
    options.offline = true;
    let source = place.source("thing", &[server.url("v1.2.tar.gz")]);
    let error = place.fetch_with(std::slice::from_ref(&source), &options).unwrap_err();
    let text = format!("{error:#}");
    for words in ["offline", "thing-1.2.tar.gz or v1.2.tar.gz", &sha256(&place.archive), "--mirror FOLDER"] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(kind_of(&error), Kind::Fetch);
    assert_eq!(server.requests().len(), 0);
    place.fetch(&source.urls).unwrap();
    place.fetch_with(&[source], &options).unwrap();
}

/// A port of this machine on which nobody listens.
fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn where_no_host_can_be_reached_it_is_said_once_and_soon() {
    let place = Place::new();
    let dead = format!("http://127.0.0.1:{}/a.tar.gz", dead_port());
    let unknown = "https://no-such-host.invalid/a.tar.gz".to_owned();
    let mut other = place.source("other", &[dead.clone(), unknown.clone()]);
    other.sha256 = Some(sha256(b"other"));
    let start = Instant::now();
    let error =
        place.fetch_with(&[place.source("thing", &[unknown.clone(), dead.clone()]), other], &place.options()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let text = format!("{error:#}");
    assert_eq!(kind_of(&error), Kind::Fetch);
    for words in [
        "cannot reach any address of other 1.2, thing 1.2",
        "HTTPS_PROXY",
        "--mirror FOLDER",
        "examples/ministack",
        "thing-1.2.tar.gz",
    ] {
        assert!(text.contains(words), "{text}\ndoes not say: {words}");
    }
    assert_eq!(text.matches("no-such-host.invalid:443").count(), 1, "{text}");
}

#[test]
fn a_dead_host_does_not_hold_up_a_living_one() {
    let place = Place::new();
    let server = serve(&place, |_, archive| Answer::ok(archive));
    let dead = format!("http://127.0.0.1:{}/a.tar.gz", dead_port());
    place.fetch(&[dead.clone(), server.url("a.tar.gz")]).unwrap();
    let place = Place::new();
    let gone = serve(&place, |_, _| Answer::new("404 Not Found", b""));
    let text = place.fails(&[dead, gone.url("a.tar.gz")], Kind::Fetch, &["cannot connect to 127.0.0.1:", "404 Not Found"]);
    assert!(!text.contains("cannot reach any"), "{text}");
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
fn without_a_pinned_size_the_hash_decides() {
    let place = Place::new();
    let server = serve(&place, |request, archive| match request.number {
        0 => Answer::ranged(request, archive, "\"t\"").cut(100_000),
        _ => Answer::ranged(request, archive, "\"t\""),
    });
    let mut source = place.source("thing", &[server.url("a.tar.gz")]);
    source.size = None;
    place.fetch_with(&[source], &place.options()).unwrap();
    assert_eq!(server.requests()[1].header("range"), Some("bytes=100000-"));
}

#[test]
fn secrets_in_addresses_are_not_shown() {
    let place = Place::new();
    let server = serve(&place, |_, _| Answer::new("404 Not Found", b""));
    let url = server.url("a.tar.gz?token=secret").replace("http://", "http://user:password@");
    let text = place.fails(&[url], Kind::Fetch, &["/a.tar.gz?…: HTTP 404"]);
    assert!(!text.contains("secret") && !text.contains("password"), "{text}");
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

#[test]
fn a_server_may_name_seconds_or_a_date() {
    let now = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let asks = |text: &str| {
        let value = reqwest::header::HeaderValue::from_str(text).unwrap();
        http::retry_after(&[(reqwest::header::RETRY_AFTER, value)].into_iter().collect(), now)
    };
    assert_eq!(asks("7"), Some(Duration::from_secs(7)));
    assert_eq!(asks("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
    assert_eq!(asks("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
    assert_eq!(asks("soon"), None);
}

#[test]
fn pauses_grow_vary_and_end() {
    let retry = Retry::default();
    for (failures, plain) in [(1, 1.0), (2, 2.0), (3, 4.0), (30, 60.0)] {
        let pauses: Vec<f64> = (0..20).map(|_| http::pause(&retry, failures).as_secs_f64()).collect();
        assert!(pauses.iter().all(|pause| (plain * 0.75..=plain * 1.25).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}

#[test]
fn a_probe_tells_the_living_from_the_dead() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let living: reqwest::Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let dead: reqwest::Url = format!("http://127.0.0.1:{}/", dead_port()).parse().unwrap();
    // Documentation addresses (RFC 5737) answer nobody: either unreachable at once, or silent until the end of patience.
    let silent: reqwest::Url = "http://192.0.2.1:9/".parse().unwrap();
    let start = Instant::now();
    let found = reach::unreachable(&[living.clone(), dead.clone(), silent.clone()], Duration::from_secs(1));
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(!found.contains_key(&reach::host_of(&living)) && found.contains_key(&reach::host_of(&dead)), "{found:?}");
    assert!(found.contains_key(&reach::host_of(&silent)), "{found:?}");
}
