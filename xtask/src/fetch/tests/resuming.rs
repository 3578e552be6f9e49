//! What is cut, stalled or refused for now: it is tried again, and gone on with where that is right.

use super::*;
use std::time::Instant;

/// For servers that fall silent; long enough for what a busy machine sends before that.
const SHORT: Duration = Duration::from_millis(1_500);

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
    let place = Place { stall: SHORT, ..Place::new() };
    let server = serve(&place, |request, archive| match request.number {
        0..3 => Answer::ranged(request, archive, "\"one\"").cut(1000).stall(),
        _ => Answer::ranged(request, archive, "\"one\""),
    });
    let urls = [server.url("a.tar.gz")];
    place.fails(&urls, Kind::Fetch, &["stalled after 3000 of", "nothing for 1.5 s"]);
    place.fetch(&urls).unwrap();
    assert_eq!(server.requests()[3].header("range"), Some("bytes=3000-"));
    assert!(!place.in_store().iter().any(|name| name.contains("part")), "{:?}", place.in_store());
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let place = Place { stall: SHORT, ..Place::new() };
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
