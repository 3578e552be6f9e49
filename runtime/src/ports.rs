//! Whether a port is free, and who has it.
//!
//! Asked before a service starts and by the installer. A service that finds its port taken says so in its own words at best, and
//! one that sets SO_REUSEPORT (carbonapi does) shares the port silently with a second copy; so the question is asked here, by
//! trying to listen without that option.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result};

use crate::os;
use crate::service::{Port, Protocol};

/// An address as it is written in configuration: an IP address, with or without brackets, or `localhost`.
///
/// # Errors
/// When it is a name: a listening address is a machine's own, and is not looked up.
pub fn parse_address(text: &str) -> Result<IpAddr> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    if bare == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    bare.parse().with_context(|| format!("\"{text}\" is not an IP address"))
}

/// Where something that listens on `address` can be reached from this machine: loopback for "every address".
#[must_use]
pub fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// What stands in the way of listening on `address`, in words; none when it is free.
#[must_use]
pub fn obstacle(address: SocketAddr, protocol: Protocol) -> Option<String> {
    let tried = match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    let name = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    match tried {
        Ok(()) => None,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let owner = os::port_owner(address.ip(), address.port(), protocol).unwrap_or_else(|| "another process".to_owned());
            Some(format!("{name} port {} is taken by {owner}", address.port()))
        }
        Err(error) => Some(format!("cannot listen on {name} {address}: {error}")),
    }
}

/// The obstacles to all of a service's ports.
///
/// # Errors
/// When an address or number is not usable at all.
pub fn obstacles(ports: &[Port]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for port in ports {
        let address = SocketAddr::new(parse_address(&port.address)?, port.number()?);
        out.extend(port.protocols.iter().filter_map(|&protocol| obstacle(address, protocol)));
    }
    Ok(out)
}

/// An address on which nobody listens yet, and that nobody else is given meanwhile; and who listens there when it is called.
#[cfg(test)]
pub(crate) fn reserved() -> (SocketAddr, impl FnOnce() -> TcpListener) {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
    use std::os::fd::AsRawFd;
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    socket::bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let socket = TcpListener::from(socket);
    let address = socket.local_addr().unwrap();
    (address, move || {
        socket::listen(&socket, socket::Backlog::new(8).unwrap()).unwrap();
        socket
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_an_obstacle_on_its_address_and_on_all() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(obstacle(address, Protocol::Tcp).unwrap().contains(&format!("TCP port {} is taken by", address.port())));
        assert!(obstacle(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()), Protocol::Tcp).is_some());
        drop(listener);
        assert_eq!(obstacle(address, Protocol::Tcp), None);
    }

    /// As carbonapi does it: a second one of its kind would get in without a word, and every other connection.
    #[test]
    fn one_that_shares_its_port_is_an_obstacle_too() {
        use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
        use std::os::fd::AsRawFd;
        let sharing = |port| {
            let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
            socket::setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
            socket::bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).unwrap();
            socket::listen(&socket, socket::Backlog::new(8).unwrap()).unwrap();
            TcpListener::from(socket)
        };
        let first = sharing(0);
        let address = first.local_addr().unwrap();
        let second = sharing(address.port());
        assert_eq!(second.local_addr().unwrap(), address, "this system does not let them share");
        for all in [address, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())] {
            assert!(obstacle(all, Protocol::Tcp).unwrap().contains("is taken by process"), "{all}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_address("[::1]").unwrap(), IpAddr::from(Ipv6Addr::LOCALHOST));
        assert!(parse_address("example.org").is_err());
        assert_eq!(reachable(parse_address("0.0.0.0").unwrap()), IpAddr::from(Ipv4Addr::LOCALHOST));
    }
}
