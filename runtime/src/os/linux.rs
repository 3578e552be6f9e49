//! Linux: /proc, pidfds, subreaper.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::socket::{getsockopt, sockopt};

use super::{DATA_VARIABLE, ProcessUse, SERVICE_VARIABLE, Tag};
use crate::service::Protocol;

mod listening;

pub use listening::{environment_of, folder_of, listeners, user_of};

/// Marks all descriptors from `first` on to be closed on exec.
pub(super) fn close_on_exec_from(first: RawFd) {
    // SAFETY: close_range(2) with plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done != 0 {
        super::mark_one_by_one(first);
    }
}

/// Makes orphans of our services our own children, so that their end is told to us.
pub fn become_subreaper() {
    // SAFETY: prctl(2) with plain numbers. Its failure only means that orphans go to process 1.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Prepares a command so that its process does not outlive us. (The system means the thread that made it; we have one.)
pub fn end_with_parent(command: &mut Command) {
    let prepare = || {
        // SAFETY: prctl(2) with plain numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        Ok(())
    };
    // SAFETY: a plain system call, which is async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

/// When a process started, in clock ticks since the machine did; with the PID it names a process for good. None when there is no
/// such process or it is dead and only not reaped.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = Stat::read(pid)?;
    (!stat.dead).then_some(stat.started)
}

/// What changes with every start of the machine.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A descriptor that becomes readable when the process, which need not be our child, ends.
///
/// # Errors
/// When there is no such process, or no descriptor is left.
pub fn watch(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) with plain numbers; the result is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(super::own(RawFd::try_from(fd).map_err(io::Error::other)?))
    }
}

/// The user at the other end of a socket.
///
/// # Errors
/// When the system does not tell.
pub fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, sockopt::PeerCredentials)?.uid())
}

/// Lets a pipe hold more before its writer has to wait.
pub fn enlarge_pipe(pipe: &impl AsRawFd, bytes: i32) {
    // SAFETY: fcntl(2) with a number. Its failure leaves the pipe as it was.
    unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// Moves bytes from a pipe into a file inside the kernel; how many.
///
/// # Errors
/// When it moves none: nothing is there, the disk is full, or the file is of a kind that cannot take them like this.
pub fn move_bytes(pipe: &File, file: &File, offset: u64, count: usize) -> io::Result<usize> {
    let mut offset = i64::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: splice(2) between two descriptors that are open, with an offset that lives on this stack.
    let moved = unsafe {
        let flags = libc::SPLICE_F_NONBLOCK;
        libc::splice(pipe.as_raw_fd(), std::ptr::null_mut(), file.as_raw_fd(), &raw mut offset, count, flags)
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Reads the first bytes of a pipe and leaves them in it.
///
/// # Errors
/// When nothing is there, or no descriptor is left.
pub fn peek(pipe: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: tee(2) between two pipes that are open.
    let copied = unsafe { libc::tee(pipe.as_raw_fd(), writer.as_raw_fd(), buffer.len(), libc::SPLICE_F_NONBLOCK) };
    let copied = usize::try_from(copied).map_err(|_| io::Error::last_os_error())?;
    reader.read_exact(&mut buffer[..copied])?;
    Ok(copied)
}

/// The fields of `/proc/PID/stat` that are of use here.
struct Stat {
    dead: bool,
    parent: i32,
    group: i32,
    started: u64,
    /// Processor time, that of its children that have ended included.
    ticks: u64,
    /// Resident memory.
    pages: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, parentheses included.
        let rest = &text[text.rfind(')')? + 2..];
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        // Fields 14 to 17, 22 and 24 of proc(5); state was field 3, and group field 5.
        let mut number = |skip: usize| fields.nth(skip)?.parse::<u64>().ok();
        let ticks = number(8)? + number(0)? + number(0)? + number(0)?;
        let started = number(4)?;
        let pages = number(1)?;
        Some(Self { dead: matches!(state, "Z" | "X"), parent, group, started, ticks, pages })
    }
}

/// Whether a control group was given to us by systemd.
#[must_use]
pub fn is_delegated(group: &Path) -> bool {
    let Ok(path) = CString::new(group.as_os_str().as_bytes()) else { return false };
    [c"user.delegate", c"trusted.delegate"].into_iter().any(|name| {
        let mut value = [0_u8; 2];
        // SAFETY: getxattr(2) with two strings that end, and a buffer of the size that is passed.
        let size = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        size == 1 && value[0] == b'1'
    })
}

/// The parent of a process; none when there is no such process.
#[must_use]
pub fn parent_of(pid: i32) -> Option<i32> {
    Stat::read(pid).map(|stat| stat.parent)
}

/// What every process that we may look at uses.
#[must_use]
pub fn processes_in_use() -> Vec<ProcessUse> {
    // SAFETY: sysconf(3) with plain numbers.
    let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    let (ticks, page) = (u64::try_from(ticks).unwrap_or(100).max(1), u64::try_from(page).unwrap_or(4096));
    let all = processes().filter_map(|pid| {
        let stat = Stat::read(pid).filter(|stat| !stat.dead)?;
        let (parent, group) = (stat.parent, stat.group);
        Some(ProcessUse { pid, parent, group, cpu_ms: stat.ticks * 1_000 / ticks, rss: stat.pages * page })
    });
    all.collect()
}

/// Every process that /proc lists.
fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The living processes of a group.
#[must_use]
pub fn group_members(group: i32) -> Vec<i32> {
    processes().filter(|&pid| Stat::read(pid).is_some_and(|stat| stat.group == group && !stat.dead)).collect()
}

/// Our own children, orphans that came to us included; none when the system does not tell.
#[must_use]
pub fn children() -> Vec<i32> {
    let me = std::process::id();
    match fs::read_to_string(format!("/proc/{me}/task/{me}/children")) {
        Ok(list) => list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        Err(_) => {
            let mine = i32::try_from(me).unwrap_or(-1);
            processes().filter(|&pid| Stat::read(pid).is_some_and(|stat| stat.parent == mine)).collect()
        }
    }
}

/// Those of some processes (none: of all) that live and carry a service's tag in their environment, wherever they went.
#[must_use]
pub fn tagged(tag: Tag<'_>, among: Option<Vec<i32>>) -> Vec<i32> {
    let candidates = among.unwrap_or_else(|| processes().collect());
    candidates.into_iter().filter(|&pid| has_tag(pid, tag) && Stat::read(pid).is_some_and(|stat| !stat.dead)).collect()
}

fn has_tag(pid: i32, tag: Tag<'_>) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let data = format!("{DATA_VARIABLE}={}", tag.data);
    let service = format!("{SERVICE_VARIABLE}={}", tag.service);
    let has = |wanted: &str| environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes());
    has(&data) && has(&service)
}

/// Where distributions put the C library.
const C_LIBRARIES: [&str; 7] = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/aarch64-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
    "/usr/lib64/libc.so.6",
    "/usr/lib/libc.so.6",
    "/lib/libc.so.6",
    "/run/current-system/sw/lib/libc.so.6",
];

/// The version of the system's glibc, as `2.36`; none where there is none. We are linked with none, so it is looked for in its file.
#[must_use]
pub fn glibc_version() -> Option<String> {
    C_LIBRARIES.iter().find_map(|path| glibc_version_in(&fs::read(path).ok()?))
}

/// The library says of itself: "GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36."
fn glibc_version_in(library: &[u8]) -> Option<String> {
    let after = |text: &[u8], wanted: &[u8]| {
        let at = text.windows(wanted.len()).position(|part| part == wanted)?;
        Some(at + wanted.len())
    };
    let name = &library[after(library, b"GNU C Library ")?..];
    let line = &name[..name.len().min(200)];
    let number = &line[after(line, b"release version ")?..];
    let end = number.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.').unwrap_or(number.len());
    let number = std::str::from_utf8(&number[..end]).ok()?.trim_end_matches('.');
    (!number.is_empty()).then(|| number.to_owned())
}

/// Who listens on a port, as "process 12 (name)", as far as we may know.
#[must_use]
pub fn port_owner(address: IpAddr, port: u16, protocol: Protocol) -> Option<String> {
    let inodes = socket_inodes(address, port, protocol);
    if inodes.is_empty() {
        return None;
    }
    processes().find_map(|pid| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let holds = links.flatten().any(|link| {
            let target = fs::read_link(link.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')).map(str::to_owned);
            inode.is_some_and(|inode| inodes.contains(&inode))
        });
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        holds.then(|| format!("process {pid} ({})", name.trim().escape_debug()))
    })
}

/// The inodes of the sockets that are in the way of listening there.
fn socket_inodes(address: IpAddr, port: u16, protocol: Protocol) -> Vec<String> {
    // 0A is LISTEN, 07 an unconnected datagram socket.
    let (name, state) = match protocol {
        Protocol::Tcp => ("tcp", "0A"),
        Protocol::Udp => ("udp", "07"),
    };
    let mut out = Vec::new();
    for table in [format!("/proc/net/{name}"), format!("/proc/net/{name}6")] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (Some(local), Some(&line_state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else { continue };
            let Some((host, hex)) = local.split_once(':') else { continue };
            let same_port = u16::from_str_radix(hex, 16) == Ok(port);
            if same_port && line_state == state && parse_host(host).is_none_or(|host| clashes(host, address)) {
                out.push((*inode).to_owned());
            }
        }
    }
    out
}

/// How many bytes the system has accepted on a local port and its owner has not read; none when the system does not tell.
#[must_use]
pub fn unread_bytes(port: u16, protocols: &[Protocol]) -> Option<u64> {
    let mut sum = 0;
    for protocol in protocols {
        let name = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        for table in [format!("/proc/net/{name}"), format!("/proc/net/{name}6")] {
            let Ok(text) = fs::read_to_string(table) else { continue };
            sum += text.lines().skip(1).filter_map(|line| unread_of(line, port)).sum::<u64>();
        }
    }
    Some(sum)
}

/// The unread bytes of one line of those tables, if it is about this port.
fn unread_of(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    // A listener's number is that of connections to accept, each of which has a line of its own.
    if state == "0A" || u16::from_str_radix(local.rsplit_once(':')?.1, 16) != Ok(port) {
        return None;
    }
    u64::from_str_radix(queues.split_once(':')?.1, 16).ok()
}

fn parse_host(hex: &str) -> Option<IpAddr> {
    // The kernel prints each 32-bit word in the machine's byte order.
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|word| u32::from_str_radix(hex.get(word * 8..word * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    let bytes = words?.concat();
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|four| Ipv4Addr::from(four).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).to_canonical()),
        _ => None,
    }
}

/// Whether two listening addresses of one port exclude each other.
fn clashes(one: IpAddr, other: IpAddr) -> bool {
    one.is_unspecified() || other.is_unspecified() || one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_bytes_are_counted_until_they_are_read() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sender = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        sender.write_all(&[b'x'; 1000]).unwrap();
        // Counted even before the connection is accepted, as soon as they are there.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while unread_bytes(port, &[Protocol::Tcp, Protocol::Udp]) != Some(1000) {
            assert!(std::time::Instant::now() < end, "{:?}", unread_bytes(port, &[Protocol::Tcp, Protocol::Udp]));
        }
        drop(sender);
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(unread_bytes(port, &[Protocol::Tcp]), Some(0));
    }

    #[test]
    fn the_c_library_tells_its_version() {
        let library = b"\x7fELF\0GNU C Library (Debian GLIBC 2.36-9+deb12u9) stable release version 2.36.\nCopyright (C)\0";
        assert_eq!(glibc_version_in(library).as_deref(), Some("2.36"));
        assert_eq!(glibc_version_in(b"musl libc (x86_64)"), None);
        if let Ok(output) = Command::new("getconf").arg("GNU_LIBC_VERSION").output()
            && output.status.success()
        {
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(glibc_version().as_deref(), said.trim().strip_prefix("glibc "), "{said}");
        }
    }

    #[test]
    fn a_listener_is_traced_to_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owner = port_owner(Ipv4Addr::LOCALHOST.into(), port, Protocol::Tcp).unwrap();
        assert!(owner.starts_with(&format!("process {} (", std::process::id())), "{owner}");
        assert_eq!(port_owner(Ipv4Addr::new(127, 0, 0, 2).into(), port, Protocol::Tcp), None);
        assert_eq!(port_owner(Ipv4Addr::LOCALHOST.into(), port, Protocol::Udp), None);
    }
}
