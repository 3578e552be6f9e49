//! Compiles without network: what a build needs is fetched by steps of its own, and whatever else tries to reach out fails.
//!
//! On Linux a command without network runs in a network namespace of its own, which an unprivileged user can have too
//! (through a user namespace, in which he is still himself). It is entered by running this program again
//! ([`crate::attend`], [`enter`]), because between fork and exec next to nothing may be done. Only loopback is there, and it is a
//! fresh one: a daemon of the host cannot be reached either. Where there are no such namespaces (macOS, some containers), the tools' own
//! offline switches have to do; they are set in any case.

use crate::error::{Kind, WithKind as _};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

/// The hidden command that [`enter`] is.
pub const COMMAND: &str = "without-network";

/// This program, if it can take a command's network away on this machine.
pub static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    // In a unit test "this program" is the test program, which would take the words for names of tests and run itself
    // without end. The integration tests have the real one.
    if cfg!(test) {
        return None;
    }
    let program = std::env::current_exe().ok()?;
    let mut probe = std::process::Command::new(&program);
    probe.args([COMMAND, "true"]).stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    probe.status().is_ok_and(|status| status.success()).then_some(program)
});

/// What a command says whose network was taken away. The first such line of a tool's is shown: it should name what was wanted.
const COMPLAINTS: [&str; 24] = [
    "Network is unreachable",
    "network is unreachable",
    "Connection refused",
    "connection refused",
    "Could not resolve",
    "ould not resolve host",
    "unable to resolve host",
    "getaddrinfo",
    "EAI_AGAIN",
    "ENETUNREACH",
    "ECONNREFUSED",
    "Temporary failure in name resolution",
    "Name or service not known",
    "no such host",
    // npm.
    "cache mode is 'only-if-cached'",
    // Yarn: network disabled; what it says for a package of which no version at all is known; Yarn 1.
    "YN0080",
    "Expected an error to have been set",
    "Can't make a request in offline mode",
    // Go.
    "reading file:///",
    "toolchain not available",
    "module lookup disabled by GOPROXY=off",
    // cargo.
    "no matching package named",
    "--offline was specified",
    "using offline mode (--offline)",
];

/// The line, if it is the complaint of a tool that wanted the network.
pub fn complaint(line: &str) -> Option<&str> {
    COMPLAINTS.iter().any(|complaint| line.contains(complaint)).then_some(line.trim())
}

/// Becomes `words[0]` with the arguments that follow, without network. Returns only on failure.
///
/// # Errors
/// When there is no such namespace to be had here, or the command cannot be started.
pub fn enter(words: &[OsString]) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let (program, args) = words.split_first().ok_or_else(|| Kind::Usage.error(format!("{COMMAND} needs a command")))?;
    close()?;
    let error = std::process::Command::new(program).args(args).exec();
    Err(Kind::Compile.error(format!("cannot start {}: {error}", program.display())))
}

/// Moves this process, which must have one thread only, to where no network is.
///
/// # Errors
/// When there is no such namespace to be had here.
pub fn close() -> anyhow::Result<()> {
    os::close_network().kind(Kind::Compile, || "cannot take the network away".to_owned())
}

#[cfg(target_os = "linux")]
pub use os::{enter_namespaces, raise_loopback};

#[cfg(target_os = "linux")]
mod os {
    use rustix::process::{getegid, geteuid};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    /// Moves this process, which must have one thread only, into new namespaces. Where one of users is among them, this user and group
    /// have the numbers `inside` in it, and nobody else is there.
    pub fn enter_namespaces(kinds: UnshareFlags, inside: (u32, u32)) -> std::io::Result<()> {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        // SAFETY: the call is unsafe for CLONE_FILES, which would part this thread's descriptors from the others'.
        #[expect(unsafe_code, reason = "rustix has no safe form of it; no kind of namespace is harmful")]
        unsafe {
            unshare_unsafe(kinds)?;
        }
        if kinds.contains(UnshareFlags::NEWUSER) {
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", format!("{} {user} 1", inside.0))?;
            std::fs::write("/proc/self/gid_map", format!("{} {group} 1", inside.1))?;
        }
        Ok(())
    }

    /// Moves this process, which must have one thread only, into namespaces without network.
    pub fn close_network() -> anyhow::Result<()> {
        // Everybody stays who he is: programs that behave differently as root do so inside as outside.
        enter_namespaces(UnshareFlags::NEWUSER | UnshareFlags::NEWNET, (geteuid().as_raw(), getegid().as_raw()))?;
        // Were the run killed, its command should not go on for nobody. (Namespaces first: entering them resets it.)
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // Test servers and build daemons talk to themselves over loopback, which is down in a new namespace.
        raise_loopback()
    }

    /// Makes loopback usable in a new network namespace.
    pub fn raise_loopback() -> anyhow::Result<()> {
        use std::os::fd::AsRawFd as _;
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        #[expect(unsafe_code, reason = "no library in use has this ioctl")]
        // SAFETY: the request is a plain structure whose name is terminated by the zeros that it is filled with.
        let outcome = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_name[0] = b'l'.cast_signed();
            request.ifr_name[1] = b'o'.cast_signed();
            request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
            libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request)
        };
        if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    /// There is nothing of the kind here.
    pub fn close_network() -> anyhow::Result<()> {
        anyhow::bail!("this system has no network namespaces")
    }
}
