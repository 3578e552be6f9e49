//! Kills at any instant of a download and of the writing of archives: the next run goes on to the right bytes, and nothing
//! that has its final name is ever less than whole.

#![allow(clippy::unwrap_used, reason = "to panic is how a test fails")]

mod common;

use common::{Kills, Outcome, Place, noise, pseudo_random, sha256, tar_gz, wait_for};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn kill(mut run: Child) -> bool {
    let _ = run.kill();
    !run.wait().unwrap().success()
}

/// A server of one file that honours ranges, gives no more than `allowed` bytes of it and then keeps silent until the client
/// is gone.
struct Slow {
    allowed: AtomicUsize,
    /// From where each request wanted the file.
    asked: Mutex<Vec<usize>>,
}

impl Slow {
    fn start(body: Vec<u8>) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/thing.tar.gz", listener.local_addr().unwrap());
        let slow = Arc::new(Self { allowed: AtomicUsize::new(0), asked: Mutex::default() });
        let (ours, body) = (Arc::clone(&slow), Arc::new(body));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (ours, body) = (Arc::clone(&ours), Arc::clone(&body));
                std::thread::spawn(move || ours.answer(stream.unwrap(), &body));
            }
        });
        (slow, url)
    }

    fn answer(&self, mut stream: std::net::TcpStream, body: &[u8]) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            // A probe connects and leaves.
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            request.push(byte[0]);
        }
        let request = String::from_utf8_lossy(&request).to_lowercase();
        let range = request.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
        let from = range.unwrap_or(0);
        self.asked.lock().unwrap().push(from);
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: \"one\"\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n\r\n",
            body.len() - from,
            body.len() - 1,
            body.len()
        );
        let until = self.allowed.load(Ordering::SeqCst).clamp(from, body.len());
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[from..until]));
        // Nothing comes: this ends when the client does.
        let _ = sent.and_then(|()| stream.read(&mut [0]));
    }
}

#[test]
fn a_download_that_is_killed_again_and_again_goes_on_to_the_right_bytes() {
    let place = Place::new();
    let archive = tar_gz(&[("thing-1.0/hello.txt", &noise(600_000))]);
    let (server, url) = Slow::start(archive.clone());
    place.one_component(&[url], &archive);
    let hash = sha256(&archive);
    let part = place.path("build/sources").join(format!("{hash}.part"));
    let whole = place.path("build/sources").join(format!("{hash}.tar.gz"));
    let length = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    let fetch = || place.command(&["fetch"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut random = pseudo_random(11);
    let mut reached = 0;
    for _ in 0..8 {
        let allowed = reached + 5_000 + usize::try_from(random() % 40_000).unwrap();
        server.allowed.store(allowed, Ordering::SeqCst);
        let run = fetch();
        // Somewhere on the way to what the server gives, the last byte included.
        let enough = reached as u64 + random() % (allowed - reached) as u64;
        wait_for("the download to get on", PATIENCE, || (length(&part) > enough).then_some(()));
        assert!(kill(run), "it ended before it was killed");
        reached = usize::try_from(length(&part)).unwrap();
        assert!(!whole.exists());
        assert!(fs::read(&part).unwrap() == archive[..reached], "the part is not the archive's beginning");
    }
    server.allowed.store(usize::MAX, Ordering::SeqCst);
    Outcome::of(&place.command(&["fetch"]).output().unwrap()).good();
    assert!(fs::read(&whole).unwrap() == archive);
    assert!(!part.exists());
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 9, "{asked:?}");
    assert!(asked[0] == 0 && asked[1..].iter().all(|from| *from > 0) && asked.is_sorted(), "not gone on with: {asked:?}");
    assert_eq!(asked[8], reached);
}

#[test]
fn killed_while_archives_are_written_what_stands_there_is_whole_and_the_next_run_gives_the_same() {
    let place = Place::new();
    // Of two large blocks, which takes xz about a second.
    let archive = tar_gz(&[("thing-1.0/hello.txt", &noise(2_600_000))]);
    let address = common::serve("200 OK", "application/gzip", archive.clone(), None);
    place.one_component(&[format!("http://{address}/thing.tar.gz")], &archive);
    let package = || {
        let mut command = place.command(&["package", "--format", "gz,xz"]);
        command.env("SOURCE_DATE_EPOCH", "1700000000").stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let targets = [place.archive(), place.archive().with_extension("xz")];
    let started = Instant::now();
    Outcome::of(&package().output().unwrap()).good();
    let whole = started.elapsed();
    let undisturbed = targets.each_ref().map(|path| fs::read(path).unwrap());
    let sums = |path: &PathBuf| PathBuf::from(format!("{}.sha256", path.display()));
    let mut kills = Kills::within(whole, 5);
    for round in 0.. {
        if round >= 9 && kills.killed >= 3 {
            break;
        }
        assert!(round < 60, "only {} of {round} runs were killed", kills.killed);
        // The cache helps in some rounds, and in some is itself what a kill left.
        match round % 3 {
            0 => drop(fs::remove_dir_all(place.path("build/cache/archive"))),
            1 => drop(fs::remove_dir_all(place.path("build/cache/archive/xz"))),
            _ => {}
        }
        drop(fs::remove_dir_all(place.path("dist")));
        kills.kill(package().stderr(Stdio::null()).spawn().unwrap());
        for (path, bytes) in targets.iter().zip(&undisturbed) {
            assert!(!path.exists() || fs::read(path).unwrap() == *bytes, "{} is not whole", path.display());
            let said = fs::read_to_string(sums(path)).unwrap_or_default();
            assert!(said.is_empty() || said.starts_with(&sha256(bytes)), "{said}");
            assert!(!sums(path).exists() || (path.exists() && !said.is_empty()), "a checksum without its archive");
        }
    }
    Outcome::of(&package().output().unwrap()).good();
    for (path, bytes) in targets.iter().zip(&undisturbed) {
        assert!(fs::read(path).unwrap() == *bytes);
        assert!(fs::read_to_string(sums(path)).unwrap().starts_with(&sha256(bytes)));
    }
    let left: Vec<_> = fs::read_dir(place.path("dist")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    // The tree, two archives with their sums, and the accounts of what is in them.
    assert_eq!(left.len(), 7, "{left:?}");
    // Damaged afterwards, an archive is found and made again; one that was not asked for and is of another tree is named.
    let mut bytes = undisturbed[1].clone();
    bytes[1000] ^= 1;
    fs::write(&targets[1], bytes).unwrap();
    Outcome::of(&package().output().unwrap()).good();
    assert!(fs::read(&targets[1]).unwrap() == undisturbed[1]);
    let mut later = place.command(&["package"]);
    let text = Outcome::of(&later.env("SOURCE_DATE_EPOCH", "1700000001").output().unwrap()).good();
    assert!(text.contains("tar.xz is of another tree"), "{text}");
}
