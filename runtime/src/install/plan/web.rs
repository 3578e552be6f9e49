//! How browsers reach Grafana: by plain http, by https of its own, or through a web server that stands before it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::network;
use crate::cli::Installer;
use crate::install::context::Web;
use crate::ports;

/// What follows from the arguments. `port`: Grafana's.
///
/// # Errors
/// When an option cannot be used.
pub fn look(arguments: &Installer, port: u16) -> Result<Web> {
    let kind = arguments.kind();
    let wanted = match (&arguments.behind_proxy, arguments.tls.as_slice()) {
        (Some(_), _) => "--behind-proxy",
        (None, []) => "",
        (None, _) => "--tls",
    };
    if !wanted.is_empty() && !kind.components().contains(&"grafana") {
        bail!("{wanted} is for Grafana, which the type {kind} does not have");
    }
    let here = SocketAddr::new(ports::reachable(network::listening(arguments)["grafana"]), port).to_string();
    if let Some(url) = &arguments.behind_proxy {
        return proxied(url, &here);
    }
    let mut web = Web { protocol: "http".to_owned(), local: format!("http://{here}"), ..Web::default() };
    if let [certificate, key] = arguments.tls.as_slice() {
        web.protocol = "https".to_owned();
        web.local = format!("https://{here}");
        web.secure = true;
        web.certificate = pem(certificate, &["CERTIFICATE"])?;
        web.key = pem(key, &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"])?;
    }
    Ok(web)
}

/// A web server stands before it, by this address.
fn proxied(url: &str, here: &str) -> Result<Web> {
    let wrong = || format!("--behind-proxy {}: it has to be as https://HOST/ or https://HOST:PORT/PATH/", url.escape_debug());
    let (scheme, rest) = url.split_once("://").with_context(wrong)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '~');
    let domain = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') && port.parse::<u16>().is_ok_and(|port| port != 0) => name,
        _ => host,
    };
    let bare = domain.trim_start_matches('[').trim_end_matches(']');
    let is_name = !bare.is_empty() && bare.chars().all(|c| plain(c) && c != '/' || (c == ':' && domain.starts_with('[')));
    if !matches!(scheme, "http" | "https") || !is_name || !path.chars().all(plain) || path.split('/').any(|part| part == "..") {
        bail!(wrong());
    }
    let folder = if path.is_empty() { String::new() } else { format!("/{path}") };
    Ok(Web {
        protocol: "http".to_owned(),
        root: format!("{scheme}://{host}{folder}/"),
        domain: domain.to_owned(),
        // It answers without that part of the path too, which is what is asked for here.
        local: format!("http://{here}"),
        folder,
        secure: scheme == "https",
        ..Web::default()
    })
}

/// The absolute path of a PEM file that has one of these parts.
fn pem(path: &Path, parts: &[&str]) -> Result<String> {
    let wrong = || format!("--tls: cannot use {}", path.display());
    let real = path.canonicalize().with_context(wrong)?;
    let text = fs::read(&real).with_context(wrong)?;
    let text = String::from_utf8_lossy(&text);
    if !parts.iter().any(|part| text.contains(&format!("-----BEGIN {part}-----"))) {
        let encrypted = text.contains("ENCRYPTED");
        let why =
            if encrypted { "it is encrypted, and Grafana has nobody to ask for the password" } else { "it has none in PEM" };
        bail!("{}: a {} is needed, and {why}", wrong(), parts[0].to_lowercase());
    }
    // As it was named, so that a link that is turned to a renewed certificate does its work.
    let absolute = std::path::absolute(path).unwrap_or(real);
    absolute.to_str().map(str::to_owned).with_context(|| format!("{}: its path is not UTF-8", wrong()))
}

/// The files that Grafana reads, relative paths made absolute, for the record.
#[must_use]
pub fn absolute(tls: &[PathBuf]) -> Vec<PathBuf> {
    tls.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_proxy() {
        let web = |url| proxied(url, "127.0.0.1:1");
        let plain = web("https://example.org").unwrap();
        assert_eq!((plain.root.as_str(), plain.domain.as_str(), plain.secure), ("https://example.org/", "example.org", true));
        let deep = web("http://h:8080/a/grafana").unwrap();
        assert_eq!((deep.root.as_str(), deep.folder.as_str(), deep.secure), ("http://h:8080/a/grafana/", "/a/grafana", false));
        assert_eq!(web("https://[::1]:8443/").unwrap().domain, "[::1]");
        for bad in [
            "example.org",
            "ftp://x/",
            "https://",
            "https:///x",
            "https://a b/",
            "https://x/?q",
            "https://x/../y",
            "https://u@x/",
        ] {
            assert!(web(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn only_certificates_and_keys_are_taken() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, part: &str| {
            let path = temp.path().join(name);
            fs::write(&path, format!("-----BEGIN {part}-----\nAA==\n-----END {part}-----\n")).unwrap();
            path
        };
        let (certificate, key) = (write("c", "CERTIFICATE"), write("k", "PRIVATE KEY"));
        let locked = write("l", "ENCRYPTED PRIVATE KEY");
        let with = |one: &Path, other: &Path| {
            look(&Installer { tls: vec![one.to_owned(), other.to_owned()], ..Installer::default() }, 1)
        };
        let web = with(&certificate, &key).unwrap();
        assert_eq!((web.protocol.as_str(), web.secure, web.key.as_str()), ("https", true, key.to_str().unwrap()));
        for (one, other) in [(&key, &certificate), (&certificate, &locked), (&certificate, &temp.path().join("none"))] {
            assert!(with(one, other).is_err());
        }
        assert!(with(&certificate, &locked).unwrap_err().to_string().contains("encrypted"));
    }
}
