//! Ports, addresses, and the machines beside this one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, bail};

use super::{Problems, Purpose};
use crate::cli::Installer;
use crate::install::context::Carbon;
use crate::ports;
use crate::service::{InstallType, Service};

/// What the ports of an installation are for, from its first one on. From the fifth on nothing listens before somebody switches it on
/// in go-carbon.conf.
pub const PORTS: [&str; 10] =
    ["grafana", "carbon", "carbonapi", "carbonserver", "pickle", "protobuf", "http", "link", "grpc", "tags"];

/// The numbers, by name.
///
/// # Errors
/// When they are no ports, or none was given where one is needed.
pub fn port_numbers(arguments: &Installer) -> Result<BTreeMap<&'static str, u16>> {
    let first = match arguments.port {
        Some(first) => first,
        // Nothing of it is used, see [`peers`].
        None if arguments.kind() == InstallType::Agent => 1,
        None => bail!("--port PORT is missing: the first of {} ports in a row", PORTS.len()),
    };
    let count = u32::try_from(PORTS.len())?;
    let last = first.saturating_add(count - 1);
    if first == 0 || last > u32::from(u16::MAX) {
        bail!("--port {first}: the ports {first} to {last} have to be from 1 to 65535, so PORT from 1 to {}", 65_536 - count);
    }
    PORTS.into_iter().zip(first..).map(|(name, number)| Ok((name, u16::try_from(number)?))).collect()
}

/// Which address each part listens on, or would if it was switched on.
#[must_use]
pub fn listening(arguments: &Installer) -> BTreeMap<&'static str, IpAddr> {
    let (loopback, every) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let alone = arguments.kind() == InstallType::All;
    let has_grafana = arguments.kind().components().contains(&"grafana");
    let carbon = arguments.carbon_listen.unwrap_or(if alone { loopback } else { every });
    let proxied = arguments.behind_proxy.is_some();
    BTreeMap::from([
        ("grafana", arguments.grafana_listen.unwrap_or(if proxied { loopback } else { every })),
        ("carbon", carbon),
        ("carbonapi", arguments.carbonapi_listen.unwrap_or(if has_grafana { loopback } else { every })),
        ("carbonserver", arguments.carbonserver_listen.unwrap_or(loopback)),
        ("pickle", carbon),
        ("protobuf", carbon),
        ("http", carbon),
        ("link", loopback),
        ("grpc", loopback),
        ("tags", loopback),
    ])
}

/// The machines that this one works with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Where it sends to, if not to itself.
    pub carbon: Option<Carbon>,
    /// `HOST:PORT` of the carbonservers that it asks, if not its own.
    pub backends: Vec<String>,
}

/// The machines that this one works with.
///
/// # Errors
/// When one is missing, or named where there is no use for it.
pub fn peers(arguments: &Installer) -> Result<Peers> {
    let kind = arguments.kind();
    let port_after = |count: u32| arguments.port.and_then(|first| u16::try_from(first.saturating_add(count)).ok());
    let carbon = match (&arguments.carbon_server, kind) {
        (Some(server), InstallType::Agent | InstallType::Frontend) => Some(peer("--carbon-server", server, port_after(1))?),
        (Some(_), _) => {
            bail!("--carbon-server is for an agent or a frontend; a machine of type {kind} has a carbon of its own")
        }
        (None, InstallType::Agent) => bail!("an agent has to be told where to send to: --carbon-server HOST[:PORT]"),
        (None, _) => None,
    };
    let named = &arguments.carbon_backends;
    if kind != InstallType::Frontend {
        if !named.is_empty() {
            bail!("--carbon-backends is for a frontend; a machine of type {kind} asks its own carbonserver");
        }
        return Ok(Peers { carbon, backends: Vec::new() });
    }
    if named.is_empty() {
        bail!("a frontend has to be told which carbonservers to ask: --carbon-backends HOST[:PORT],…");
    }
    let mut backends = Vec::new();
    for name in named {
        let backend = peer("--carbon-backends", name, port_after(3))?.endpoint();
        if backends.contains(&backend) {
            bail!("--carbon-backends {backend}: it is named twice");
        }
        backends.push(backend);
    }
    Ok(Peers { carbon, backends })
}

/// `HOST` or `HOST:PORT`.
fn peer(flag: &str, text: &str, default: Option<u16>) -> Result<Carbon> {
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address has colons of its own, and takes brackets before a port.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port != 0),
        None => Some(default.with_context(|| format!("{flag} {text}: without --port it has to be HOST:PORT"))?),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    match port {
        Some(port) if !host.is_empty() && host.chars().all(plain) => Ok(Carbon { host: host.to_owned(), port }),
        _ => bail!("{flag} {text}: it has to be HOST or HOST:PORT"),
    }
}

/// Notes the ports that somebody has, but those that the data folder's own services may hold.
pub fn ports_are_free(services: &[Service], purpose: Purpose<'_>, problems: &mut Problems) {
    for service in services {
        let asked: Vec<_> = match purpose {
            Purpose::New => service.ports.clone(),
            Purpose::Update(held) => {
                let is_new = |number: u16| !held.values().any(|&held| held == number);
                service.ports.iter().filter(|port| port.number().map_or(true, is_new)).cloned().collect()
            }
        };
        match ports::obstacles(&asked) {
            Ok(taken) => problems.0.extend(taken.into_iter().map(|taken| format!("{taken}: name another --port"))),
            Err(error) => problems.0.push(format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: InstallType) -> Installer {
        Installer { kind: Some(kind), port: Some(27_600), ..Installer::default() }
    }

    #[test]
    fn ports_stay_in_range() {
        let numbers = |port| port_numbers(&Installer { port, ..Installer::default() });
        assert_eq!(numbers(Some(65_526)).unwrap()["tags"], 65_535);
        for bad in [None, Some(0), Some(65_527), Some(65_536), Some(u32::MAX)] {
            assert!(numbers(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn peers_are_named_where_there_is_a_use_for_them() {
        let mut agent = of(InstallType::Agent);
        assert!(peers(&agent).is_err());
        for (text, endpoint) in [("a", "a:27601"), ("a.b:7", "a.b:7"), ("::1", "[::1]:27601"), ("[::1]:7", "[::1]:7")] {
            agent.carbon_server = Some(text.to_owned());
            assert_eq!(peers(&agent).unwrap().carbon.unwrap().endpoint(), endpoint);
        }
        for bad in ["", ":7", "a:", "a:0", "a:x", "a b", "a/b:7"] {
            agent.carbon_server = Some(bad.to_owned());
            assert!(peers(&agent).is_err(), "{bad:?} was accepted");
        }
        agent.carbon_server = Some("a".to_owned());
        agent.port = None;
        assert!(peers(&agent).unwrap_err().to_string().contains("HOST:PORT"));
        let mut frontend = of(InstallType::Frontend);
        assert!(peers(&frontend).is_err());
        frontend.carbon_backends = vec!["a".to_owned(), "[::1]:7".to_owned()];
        assert_eq!(peers(&frontend).unwrap().backends, ["a:27603", "[::1]:7"]);
        frontend.carbon_backends = vec!["a".to_owned(), "a:27603".to_owned()];
        assert!(peers(&frontend).unwrap_err().to_string().contains("twice"));
        let server = Installer { carbon_backends: vec!["a".to_owned()], ..of(InstallType::Server) };
        assert!(peers(&server).is_err());
    }

    #[test]
    fn nothing_listens_wider_than_it_has_to() {
        let wide = |kind, name: &str| !listening(&of(kind))[name].is_loopback();
        use InstallType::{All, Backend, Frontend, Server};
        let wide = |kind| ["grafana", "carbon", "carbonapi", "carbonserver", "link"].map(|name| wide(kind, name));
        assert_eq!(wide(All), [true, false, false, false, false]);
        assert_eq!(wide(Server), [true, true, false, false, false]);
        assert_eq!(wide(Frontend), [true, true, false, false, false]);
        assert_eq!(wide(Backend), [true, true, true, false, false]);
        let proxied = Installer { behind_proxy: Some("https://x/".to_owned()), ..of(All) };
        assert!(listening(&proxied)["grafana"].is_loopback());
    }
}
