//! Which hosts cannot be reached at all: found out at once and for all hosts together, so that a machine without network
//! is told so within seconds instead of after a long series of tries.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The variables by which proxies are given; those with small letters are the older ones.
const PROXY_VARIABLES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// The name of the environment variable that gives a proxy, if any does.
pub(super) fn proxy_variable() -> Option<&'static str> {
    PROXY_VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// `host:port` of an address.
pub(super) fn host_of(url: &reqwest::Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443))
}

/// The hosts of these addresses that cannot be connected to, each with the reason. Takes no longer than `patience`, for
/// all of them together. Where a proxy may stand between, nothing is found out, as it alone knows.
pub(super) fn unreachable(urls: &[reqwest::Url], patience: Duration) -> HashMap<String, String> {
    // On macOS the system's settings may give a proxy, too.
    if proxy_variable().is_some() || cfg!(target_os = "macos") {
        return HashMap::new();
    }
    let hosts: BTreeMap<String, &reqwest::Url> = urls.iter().map(|url| (host_of(url), url)).collect();
    let (send, answers) = channel();
    for (host, url) in &hosts {
        let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let (host, send) = (host.clone(), send.clone());
        // Not joined: a name query cannot be called off, and may take much longer than anyone wants to wait.
        std::thread::spawn(move || send.send((host, connect(&name, port, patience))));
    }
    drop(send);
    let until = Instant::now() + patience;
    let mut silent: HashMap<String, String> =
        hosts.into_keys().map(|host| (host, format!("no answer within {} s", patience.as_secs_f32()))).collect();
    while let Ok((host, answer)) = answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
        match answer {
            Ok(()) => silent.remove(&host),
            Err(why) => silent.insert(host, why),
        };
        if silent.is_empty() {
            break;
        }
    }
    silent
}

/// Connects to any of a host's addresses, all tried at once: one family that leads nowhere must not hold up the other.
fn connect(name: &str, port: u16, patience: Duration) -> Result<(), String> {
    let found: Vec<SocketAddr> =
        (name, port).to_socket_addrs().map_err(|error| format!("its name cannot be resolved: {error}"))?.collect();
    let (send, answers) = channel();
    for address in found {
        let send = send.clone();
        std::thread::spawn(move || send.send(TcpStream::connect_timeout(&address, patience)));
    }
    drop(send);
    let mut why = "its name has no address".to_owned();
    for answer in answers {
        match answer {
            Ok(_) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}
