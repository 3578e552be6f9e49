//! Downloads that are not what was pinned: each kind is told from the others, and kept.

use super::*;
use std::io::Write as _;

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
