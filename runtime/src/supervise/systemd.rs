//! What the supervisor tells the manager above it, as `sd_notify(3)` has it: that it is ready, what its services do, that it lives.
//!
//! Where nobody asks (`NOTIFY_SOCKET` is not set) nothing is said. The watchdog alone wakes an idle supervisor up, twice in the time
//! that `WATCHDOG_USEC` gives it. `LISTEN_PID` and what belongs to it is ignored: the control socket is our own.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    next: Option<Instant>,
    status: String,
}

impl Manager {
    /// The manager that our environment tells of.
    #[must_use]
    pub fn find(now: Instant) -> Self {
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address(&name)?))
        });
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&time| ours && time > 0 && to.is_some()).map(Duration::from_micros);
        Self { to, watchdog, next: watchdog.map(|_| now), status: String::new() }
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.to.is_some()
    }

    /// When a sign of life is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Gives the sign of life that is due.
    pub fn live(&mut self, now: Instant) {
        if self.next.is_some_and(|at| at <= now) {
            self.say("WATCHDOG=1");
            self.next = self.watchdog.map(|time| now + time / 2);
        }
    }

    /// Tells what the services do, if that is news.
    pub fn tell(&mut self, status: String) {
        if self.listens() && self.status != status {
            self.say(&format!("STATUS={status}"));
            self.status = status;
        }
    }

    /// Says something. That nobody takes it is no reason to stop working.
    pub fn say(&self, message: &str) {
        if let Some((socket, to)) = &self.to {
            let _ = socket.send_to_addr(message.as_bytes(), to);
        }
    }

    /// Says that definitions are being read again; `READY=1` ends it.
    pub fn reloading(&self) {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        let micros = time.map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }
}

fn address(name: &OsString) -> Option<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(hidden) = name.as_bytes().strip_prefix(b"@") {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(hidden).ok();
    }
    name.as_bytes().starts_with(b"/").then(|| SocketAddr::from_pathname(name).ok())?
}
