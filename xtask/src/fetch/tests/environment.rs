//! Proxies and root certificates come by environment variables, which only a process of its own may change: these tests
//! start this very test program again, with the variables set, to run the one test that is otherwise passed over.

use super::*;
use std::process::{Command, Output};

/// Not a test by itself: fetches `DKU_TEST_URL` into `DKU_TEST_FOLDER`.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn fetches_what_the_environment_says() {
    let Ok(url) = std::env::var("DKU_TEST_URL") else { return };
    let folder = tempfile::tempdir_in(std::env::var("DKU_TEST_FOLDER").unwrap()).unwrap();
    let place = Place { folder, ..Place::new() };
    let error = place.fetch(&[url]).map_or_else(|error| format!("{error:#}"), |_| "all is well".to_owned());
    println!("the child says: {error}");
}

fn child(place: &Place, url: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(concat!(module_path!(), "::fetches_what_the_environment_says").split_once("::").unwrap().1);
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
    ] {
        command.env_remove(name);
    }
    command.env("DKU_TEST_URL", url).env("DKU_TEST_FOLDER", place.folder.path()).envs(variables.iter().copied());
    let Output { stdout, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(text.contains("the child says: "), "{text}");
    text
}

#[test]
fn a_proxy_from_the_environment_is_used_and_its_exceptions_kept() {
    let place = Place::new();
    let proxy = serve(&place, |request, archive| match request.path.as_str() {
        "http://mirror.invalid/v1.2.tar.gz" => Answer::ok(archive),
        _ => Answer::new("502 Bad Gateway", b""),
    });
    let address = proxy.url("");
    let text = child(&place, "http://mirror.invalid/v1.2.tar.gz", &[("HTTP_PROXY", &address)]);
    assert!(text.contains("all is well"), "{text}");
    let text = child(&place, "http://mirror.invalid/v1.2.tar.gz", &[("http_proxy", &address)]);
    assert!(text.contains("all is well"), "{text}");
    let asked = proxy.requests().len();
    let text = child(&place, "http://mirror.invalid/v1.2.tar.gz", &[("HTTP_PROXY", &address), ("NO_PROXY", "mirror.invalid")]);
    assert!(text.contains("cannot reach any address"), "{text}");
    assert_eq!(proxy.requests().len(), asked);
}

#[test]
fn for_https_the_proxy_is_asked_for_a_tunnel() {
    let place = Place::new();
    let proxy = Server::start(|_| Answer::new("403 Forbidden", b""));
    let text = child(&place, "https://archive.invalid/v1.2.tar.gz", &[("HTTPS_PROXY", &proxy.url(""))]);
    let asked = proxy.requests();
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("CONNECT", "archive.invalid:443"), "{text}");
    assert!(text.contains("check the proxy that HTTPS_PROXY gives"), "{text}");
}

#[test]
fn a_dead_proxy_is_told_as_such() {
    let place = Place::new();
    let proxy = format!("http://127.0.0.1:{}", dead_port());
    let text = child(&place, "https://archive.invalid/v1.2.tar.gz", &[("ALL_PROXY", &proxy)]);
    assert!(text.contains("cannot reach any address") && text.contains("check the proxy that ALL_PROXY gives"), "{text}");
}

#[test]
fn root_certificates_from_the_environment_are_trusted_and_https_stays_https() {
    let place = Place::new();
    let plain = serve(&place, |_, archive| Answer::ok(archive));
    let (body, elsewhere) = (place.archive.clone(), plain.url("v1.2.tar.gz"));
    let (server, certificate) = Server::start_tls(move |request| match request.path.as_str() {
        "/v1.2.tar.gz" => Answer::ok(&body),
        _ => Answer::redirect(&elsewhere),
    });
    let roots = place.folder.path().join("roots of trust.pem");
    std::fs::write(&roots, certificate).unwrap();
    let url = |path: &str| format!("https://localhost:{}/{path}", server.port());
    let trusted = [("SSL_CERT_FILE", roots.to_str().unwrap())];
    let text = child(&place, &url("v1.2.tar.gz"), &trusted);
    assert!(text.contains("all is well"), "{text}");
    let text = child(&place, &url("v1.2.tar.gz"), &[]);
    assert!(text.contains("TLS failed") && text.contains("SSL_CERT_FILE"), "{text}");
    let text = child(&place, &url("elsewhere"), &trusted);
    assert!(text.contains("redirected from https to http://127.0.0.1"), "{text}");
    assert_eq!(plain.requests().len(), 0);
}
