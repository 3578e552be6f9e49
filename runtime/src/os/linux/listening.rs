//! Where processes listen, and what else /proc tells of them.

use std::fs;
use std::path::PathBuf;

use super::parse_host;
use crate::os::Listener;
use crate::service::Protocol;

/// What processes listen on by TCP and UDP. Of datagram sockets those count that take from everybody, on a port that somebody chose.
#[must_use]
pub fn listeners(pids: &[i32]) -> Vec<Listener> {
    let mut inodes: Vec<String> = Vec::new();
    for pid in pids {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        inodes.extend(links.filter_map(|link| {
            let target = fs::read_link(link.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)
        }));
    }
    let mut out = Vec::new();
    if inodes.is_empty() {
        return out;
    }
    let passing = ephemeral();
    for (table, protocol, wanted) in [
        ("tcp", Protocol::Tcp, "0A"),
        ("tcp6", Protocol::Tcp, "0A"),
        ("udp", Protocol::Udp, "07"),
        ("udp6", Protocol::Udp, "07"),
    ] {
        for line in fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (Some(local), Some(&state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else { continue };
            let Some((host, port)) = local.split_once(':') else { continue };
            let (Some(address), Ok(port)) = (parse_host(host), u16::from_str_radix(port, 16)) else { continue };
            let asks_only = protocol == Protocol::Udp && port >= passing.0 && port <= passing.1;
            if state == wanted && !asks_only && inodes.iter().any(|own| own == inode) {
                out.push(Listener { address, port, protocol });
            }
        }
    }
    out
}

/// The ports that the system gives to those who do not choose one.
fn ephemeral() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().unwrap_or(32_768), numbers.next().unwrap_or(60_999))
}

/// The user that a process acts as.
#[must_use]
pub fn user_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // Real, effective, saved, of files.
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The folder that a process works in, if we may know.
#[must_use]
pub fn folder_of(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The variables that a process was started with, as far as we may know and they are text.
#[must_use]
pub fn environment_of(pid: i32) -> Vec<(String, String)> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split('\0')
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
