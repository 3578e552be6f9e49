//! What runs: as whom, and where it really listens.

use std::net::IpAddr;
use std::path::Path;

use super::{Audit, Severity};
use crate::home::Home;
use crate::os::{self, Listener};
use crate::ports::parse_address;
use crate::service::{Port, Protocol, Service};
use crate::supervise::child;

/// Looks at the processes of all services; gives each one's PIDs.
pub fn look(audit: &mut Audit, home: &Home, services: &[Service]) -> Vec<(String, Vec<i32>)> {
    let data = home.root().to_string_lossy();
    let mut out = Vec::new();
    if let Some(pid) = child::holder(&home.supervisor_lock()) {
        user(audit, "the supervisor", pid);
    }
    for service in services {
        let pids = os::tagged(os::Tag { data: &data, service: &service.name }, None);
        pids.iter().for_each(|&pid| user(audit, &service.name, pid));
        listeners(audit, service, &pids);
        out.push((service.name.clone(), pids));
    }
    if cfg!(target_os = "macos") {
        audit.not_looked.push("what services listen on, and their environment: the system tells no program that".to_owned());
    } else if out.iter().all(|(_, pids)| pids.is_empty()) {
        audit.not_looked.push("what services listen on: none runs".to_owned());
    }
    strangers(audit, home.root());
    out
}

fn user(audit: &mut Audit, name: &str, pid: i32) {
    audit.looked += 1;
    let Some(uid) = os::user_of(pid) else { return };
    let (what, mend) = if uid == 0 && !cfg!(target_os = "macos") {
        ("it runs as root, process ", "give the data folder to a user of its own (chown -R), and start it as that one")
    } else if uid != audit.owner {
        ("it runs as another user than the data folder's owner, process ", "stop it, and start it as the owner")
    } else {
        return;
    };
    audit.find("user", Severity::Critical, name, what, &pid.to_string(), mend);
}

/// Processes of other users that are at work in the data folder; root alone can see them.
fn strangers(audit: &mut Audit, root: &Path) {
    if !nix::unistd::geteuid().is_root() {
        audit.not_looked.push("processes of other users in the data folder: only root sees them".to_owned());
        return;
    }
    for process in os::processes_in_use() {
        let pid = process.pid;
        let inside = os::folder_of(pid).is_some_and(|folder| folder.starts_with(root));
        if let Some(uid) = os::user_of(pid).filter(|&uid| inside && uid != 0 && uid != audit.owner) {
            let what = format!("{pid} of user {uid}");
            audit.find(
                "stranger",
                Severity::Critical,
                &root.display().to_string(),
                "somebody else is at work in it: process ",
                &what,
                "find out who that is",
            );
        }
    }
}

/// What a service really listens on, against what it says.
fn listeners(audit: &mut Audit, service: &Service, pids: &[i32]) {
    for port in &service.ports {
        let Ok(address) = parse_address(&port.address) else { continue };
        if !address.is_loopback() {
            open(audit, service, port, if pids.is_empty() { "it is to listen on " } else { "it listens on " });
        }
    }
    let mut found = os::listeners(pids);
    found.sort_by_key(|one| (one.port, one.address, one.protocol == Protocol::Udp));
    found.dedup();
    audit.looked += found.len();
    for one in found {
        let name = |protocol| if protocol == Protocol::Udp { "udp" } else { "tcp" };
        let place = format!("{} {}/{}", service.name, one.port, name(one.protocol));
        let known =
            service.ports.iter().find(|port| port.number().ok() == Some(one.port) && port.protocols.contains(&one.protocol));
        let shown = one.address.to_string();
        match known.map(|port| parse_address(&port.address)) {
            Some(Ok(address)) if !wider(one.address, address) => {}
            Some(_) => audit.find(
                "listener",
                Severity::Critical,
                &place,
                "it listens wider than its definition says, on ",
                &shown,
                &closing(&one),
            ),
            None => {
                let severity = if one.address.is_loopback() { Severity::Warning } else { Severity::Critical };
                audit.find(
                    "listener",
                    severity,
                    &place,
                    "it listens where its definition says nothing of, on ",
                    &shown,
                    &closing(&one),
                );
            }
        }
    }
}

/// Whether more get in by one address than by the other.
fn wider(one: IpAddr, than: IpAddr) -> bool {
    one != than && !one.is_loopback() && !than.is_unspecified()
}

fn closing(one: &Listener) -> String {
    format!("change its configuration, or {}", firewall(&[one.protocol], one.port))
}

fn firewall(protocols: &[Protocol], port: u16) -> String {
    let what = match protocols {
        [Protocol::Tcp] => "tcp",
        [Protocol::Udp] => "udp",
        _ => "meta l4proto { tcp, udp } th",
    };
    format!(
        "let only your network in (conf/firewall.txt): nft 'add rule inet dkumonitor input iif != lo ip saddr != NETWORK {what} dport {port} drop'"
    )
}

/// A port that others than this machine reach, as it is meant.
fn open(audit: &mut Audit, service: &Service, port: &Port, what: &str) {
    let Ok(number) = port.number() else { return };
    let mend = firewall(&port.protocols, number);
    audit.find("open", Severity::Warning, &format!("{} {number}", service.name), what, &port.address, &mend);
}
