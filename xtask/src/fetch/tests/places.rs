//! Where archives come from: mirrors, folders, redirects, hosts that are not there, and how that is told.

use super::*;

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

#[test]
fn where_no_host_can_be_reached_it_is_said_once() {
    let place = Place::new();
    let dead = format!("http://127.0.0.1:{}/a.tar.gz", dead_port());
    let unknown = "https://no-such-host.invalid/a.tar.gz".to_owned();
    let mut other = place.source("other", &[dead.clone(), unknown.clone()]);
    other.sha256 = Some(sha256(b"other"));
    let error =
        place.fetch_with(&[place.source("thing", &[unknown.clone(), dead.clone()]), other], &place.options()).unwrap_err();
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
fn secrets_in_addresses_are_not_shown() {
    let place = Place::new();
    let server = serve(&place, |_, _| Answer::new("404 Not Found", b""));
    let url = server.url("a.tar.gz?token=secret").replace("http://", "http://user:password@");
    let text = place.fails(&[url], Kind::Fetch, &["/a.tar.gz?…: HTTP 404"]);
    assert!(!text.contains("secret") && !text.contains("password"), "{text}");
}

#[test]
fn a_probe_tells_the_living_from_the_dead() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let living: reqwest::Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let dead: reqwest::Url = format!("http://127.0.0.1:{}/", dead_port()).parse().unwrap();
    // Documentation addresses (RFC 5737) answer nobody: either unreachable at once, or silent until the end of patience.
    let silent: reqwest::Url = "http://192.0.2.1:9/".parse().unwrap();
    let found = reach::unreachable(&[living.clone(), dead.clone(), silent.clone()], Duration::from_secs(3));
    assert!(!found.contains_key(&reach::host_of(&living)) && found.contains_key(&reach::host_of(&dead)), "{found:?}");
    assert!(found.contains_key(&reach::host_of(&silent)), "{found:?}");
}
