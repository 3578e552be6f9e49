//! As much of HTTP as it takes to ask a server on loopback, without looking up names, whatever system this runs in.

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// No single answer takes longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks: a name and a password.
pub type Person<'a> = Option<(&'a str, &'a str)>;

/// Status and body of a GET.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub fn get(port: u16, path: &str, person: Person<'_>) -> anyhow::Result<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("nobody answers on {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let login = person.map(|(name, password)| BASE64.encode(format!("{name}:{password}")));
    let login = login.map_or_else(String::new, |login| format!("Authorization: Basic {login}\r\n"));
    // By HTTP 1.0 the answer comes in one piece, and its end is that of the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n{login}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("{address} does not answer {path}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{address} does not answer in HTTP"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    ensure!(head.starts_with("HTTP/1."), "{address} does not answer in HTTP");
    Ok((status.with_context(|| format!("{address} answers without a status"))?, body.to_owned()))
}

/// A value as it is written into a query.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_server_is_asked_with_a_name_and_its_status_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut part = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut part).unwrap();
                assert!(count > 0, "the request ends in its midst");
                request.extend(&part[..count]);
            }
            stream.write_all(b"HTTP/1.0 404 Not Found\r\nX: y\r\n\r\nno such thing").unwrap();
            String::from_utf8(request).unwrap()
        });
        assert_eq!(get(port, "/x?y=1", Some(("admin", "a b"))).unwrap(), (404, "no such thing".to_owned()));
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /x?y=1 HTTP/1.0\r\n") && request.contains("Basic YWRtaW46YSBi\r\n"), "{request}");
        assert!(get(port, "/", None).is_err());
    }

    #[test]
    fn queries_keep_their_meaning() {
        assert_eq!(encoded("a.b_c-1"), "a.b_c-1");
        assert_eq!(encoded("f(a.*,'x y')&ü"), "f%28a.%2A%2C%27x%20y%27%29%26%C3%BC");
    }
}
