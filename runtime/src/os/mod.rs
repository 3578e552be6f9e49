//! What differs between operating systems, and everything that needs `unsafe`.
//!
//! The rest of the launcher calls the functions of this module; the twin files [`linux`] and `macos` hold those that have to
//! look into the system in its own way. Nothing here decides anything: it asks the system and says what it answered.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::Pid;

use crate::service::{Protocol, Resource};

mod rest;
pub mod terminal;

#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(target_os = "linux")]
pub use linux as platform;
#[cfg(target_os = "macos")]
pub mod macos;
#[cfg(target_os = "macos")]
pub use macos as platform;

pub use rest::rest;

pub use platform::{
    become_subreaper, boot_id, children, end_with_parent, enlarge_pipe, environment_of, folder_of, glibc_version,
    group_members, is_delegated, listeners, move_bytes, parent_of, peek, peer_uid, port_owner, processes_in_use, start_time,
    tagged, unread_bytes, user_of, watch,
};

/// Something that is listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// On which address.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// By which protocol.
    pub protocol: Protocol,
}

/// What one process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessUse {
    /// Its PID.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its group.
    pub group: i32,
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// Resident memory in bytes.
    pub rss: u64,
}

/// A process of ours, as far as the system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// The data folder, as the child has it in `DKM_DATA`.
    pub data: &'a str,
    /// The service, as the child has it in `DKM_SERVICE`.
    pub service: &'a str,
}

/// The environment variable with the data folder's path that every service gets.
pub const DATA_VARIABLE: &str = "DKM_DATA";
/// The environment variable with its own name that every service gets.
pub const SERVICE_VARIABLE: &str = "DKM_SERVICE";

static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note_signal(number: libc::c_int) {
    let byte = [u8::try_from(number).unwrap_or(0)];
    let errno = Errno::last_raw();
    // A full pipe means that the loop has been woken already; what was lost is only how often.
    // SAFETY: write(2) is async-signal-safe, the buffer lives on this stack, and the descriptor is never closed.
    unsafe { libc::write(SIGNAL_PIPE.load(Ordering::Relaxed), byte.as_ptr().cast(), 1) };
    Errno::set_raw(errno);
}

/// Signals as something to poll: the numbers of the caught ones can be read from the result, one byte each.
///
/// Handlers and not ignoring: what is ignored stays ignored in the services, what is handled goes back to its default.
///
/// # Errors
/// When the system gives no pipe.
pub fn catch_signals(signals: &[Signal]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    SIGNAL_PIPE.store(writer.as_raw_fd(), Ordering::Relaxed);
    // It has to live as long as the handlers, which is as long as the process.
    std::mem::forget(writer);
    let action = SigAction::new(SigHandler::Handler(note_signal), SaFlags::SA_RESTART, SigSet::empty());
    for &signal in signals {
        // SAFETY: the handler only stores to async-signal-safe places, see above.
        unsafe { signal::sigaction(signal, &action) }?;
    }
    // Whoever started us may have held signals back.
    SigSet::empty().thread_set_mask()?;
    Ok(reader)
}

/// Reads what [`catch_signals`] noted, each signal once.
pub fn noted_signals(mut reader: &UnixStream) -> Vec<Signal> {
    let mut out = Vec::new();
    let mut buffer = [0_u8; 256];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        for &byte in &buffer[..count] {
            if let Ok(signal) = Signal::try_from(i32::from(byte))
                && !out.contains(&signal)
            {
                out.push(signal);
            }
        }
    }
    out
}

/// Prepares a command so that its process leads a session (and so a group) of its own, and holds `lock` and its own PID written
/// in it.
///
/// The lock is taken by the caller. It is inherited across exec on purpose: it stays held as long as any process of the service
/// that has not closed it lives, whatever becomes of the supervisor. The child writes the PID itself, before exec, so that there
/// is no moment at which a service runs and its PID is unknown.
pub fn lead_session(command: &mut Command, lock: &File) {
    let fd = lock.as_raw_fd();
    let prepare = move || {
        nix::unistd::setsid()?;
        lower_open_files();
        let mut digits = [0_u8; 12];
        let text = decimal(&mut digits, std::process::id());
        // SAFETY: plain system calls on a descriptor that the caller keeps open until the child has executed.
        unsafe {
            // Over what is there: on a full disk nothing could be written to an empty file.
            if libc::fcntl(fd, libc::F_SETFD, 0) < 0
                || libc::pwrite(fd, text.as_ptr().cast(), text.len(), 0) < 0
                || libc::ftruncate(fd, text.len() as libc::off_t) < 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are made, and nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

/// No limit.
pub const NO_LIMIT: u64 = libc::RLIM_INFINITY;

fn number_of(resource: Resource) -> libc::c_int {
    let number = match resource {
        Resource::As => libc::RLIMIT_AS,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Cpu => libc::RLIMIT_CPU,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Rss => libc::RLIMIT_RSS,
        Resource::Stack => libc::RLIMIT_STACK,
    };
    // The libraries do not agree on the type; the numbers are small everywhere.
    number as libc::c_int
}

/// Our own limit, soft and hard.
#[must_use]
pub fn limit_of(resource: Resource) -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: getrlimit(2) writes into the given structure.
    unsafe { libc::getrlimit(number_of(resource) as _, &raw mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

/// Whether hard limits are no obstacle to us.
#[must_use]
pub fn may_raise_limits() -> bool {
    nix::unistd::geteuid().is_root()
}

/// How many files we might have open before [`raise_open_files`]; 0: it was not called.
static OPEN_FILES: AtomicU64 = AtomicU64::new(0);

/// Raises the number of files that we may have open as far as it goes. Services begin with what it was before.
pub fn raise_open_files() {
    let (soft, hard) = limit_of(Resource::Nofile);
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: setrlimit(2) reads the given structure. Its failure leaves what was.
    if soft < hard && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0 {
        OPEN_FILES.store(soft, Ordering::Relaxed);
    }
}

/// Undoes [`raise_open_files`] for a process between fork and exec.
fn lower_open_files() {
    let soft = OPEN_FILES.load(Ordering::Relaxed);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) and setrlimit(2) with a structure on this stack; both are async-signal-safe.
    unsafe {
        if soft > 0 && libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = soft.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// A descriptor that whoever ran this program before us in this process has left open for us; none when there is none of that number.
/// It is closed on exec from now on.
#[must_use]
pub fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl(2) with plain numbers. What is open by that number and was not closed on exec belongs to nobody in a program that
    // has only just begun.
    unsafe { (fd > 2 && libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) >= 0).then(|| own(fd)) }
}

/// Whether a descriptor stays open across exec.
pub fn keep_on_exec(fd: &impl AsRawFd, keep: bool) {
    let flags = if keep { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: fcntl(2) with plain numbers on a descriptor that is open.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) };
}

/// Prepares a command so that its process has these limits, soft and hard, and this umask.
pub fn restrict(command: &mut Command, limits: Vec<(Resource, u64, u64)>, umask: Option<u32>) {
    if limits.is_empty() && umask.is_none() {
        return;
    }
    let prepare = move || {
        for &(resource, soft, hard) in &limits {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: setrlimit(2) reads the given structure; it is async-signal-safe.
            if unsafe { libc::setrlimit(number_of(resource) as _, &raw const limit) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if let Some(mask) = umask {
            // SAFETY: umask(2) with a plain number cannot fail.
            unsafe { libc::umask(mask as libc::mode_t) };
        }
        Ok(())
    };
    // SAFETY: plain system calls, which are async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

/// Prepares a command so that its process enters a control group, by the file that lists who is in it.
pub fn enter_group(command: &mut Command, procs: File) {
    let prepare = move || {
        // SAFETY: write(2) of a constant to a descriptor that the closure owns; it is async-signal-safe.
        if unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: a plain system call, which is async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

/// Prepares a command so that its process leaves the terminal's session, and everything that is open but its standard streams:
/// whoever waits for the end of an inherited pipe should not wait for a supervisor.
pub fn leave_terminal(command: &mut Command) {
    let prepare = || {
        nix::unistd::setsid()?;
        platform::close_on_exec_from(3);
        Ok(())
    };
    // SAFETY: plain system calls, which are async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

/// Marks descriptors from `first` on to be closed on exec, one by one, up to a number that a program like ours does not pass.
fn mark_one_by_one(first: RawFd) {
    for fd in first..1024 {
        // SAFETY: fcntl(2) with plain numbers; on what is not open it does nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// `number` in decimal and a line end, without allocating.
fn decimal(buffer: &mut [u8; 12], mut number: u32) -> &[u8] {
    let mut at = buffer.len() - 1;
    buffer[at] = b'\n';
    loop {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

/// A child that has ended, and how; none when none has (any more).
#[must_use]
pub fn reap() -> Option<(i32, ExitStatus)> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes the status into the given integer. (nix has no value for real-time signals, and would lose those.)
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| (pid, std::os::unix::process::ExitStatusExt::from_raw(status)))
}

/// Sends a signal to a whole process group. Whether any process was there.
pub fn signal_group(group: i32, signal: Signal) -> bool {
    group > 1 && signal::killpg(Pid::from_raw(group), signal).is_ok()
}

/// Sends a signal to one process. Whether it was there.
pub fn signal_process(pid: i32, signal: Signal) -> bool {
    pid > 1 && signal::kill(Pid::from_raw(pid), signal).is_ok()
}

/// Whether a process group has any member, dead ones that nobody reaped included.
#[must_use]
pub fn group_exists(group: i32) -> bool {
    group > 1 && !matches!(signal::killpg(Pid::from_raw(group), None), Err(Errno::ESRCH))
}

/// The group of a process; none when there is no such process.
#[must_use]
pub fn group_of(pid: i32) -> Option<i32> {
    nix::unistd::getpgid(Some(Pid::from_raw(pid))).ok().map(Pid::as_raw)
}

/// Gives an inherited descriptor's number an owner.
///
/// # Safety
/// `fd` has to be open and owned by nobody else.
#[must_use]
pub(crate) unsafe fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: promised by the caller.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

/// How many bytes wait in a pipe.
#[must_use]
pub fn waiting_bytes(pipe: &File) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: ioctl(2) with FIONREAD writes one integer.
    let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// Lets everybody else go first.
pub fn be_nice() {
    // SAFETY: nice(3) with a plain number. Its failure only means that we are as before.
    unsafe { libc::nice(19) };
}

/// Where a byte is first: the C library looks at several at once.
#[must_use]
pub fn find_byte(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: memchr(3) reads within the slice, and its result points into it or is null.
    unsafe {
        let found = libc::memchr(bytes.as_ptr().cast(), i32::from(byte), bytes.len());
        (!found.is_null()).then(|| found.cast::<u8>().offset_from_unsigned(bytes.as_ptr()))
    }
}

/// A descriptor as something to poll.
///
/// The poll list is rebuilt for every call of poll(2) from descriptors that the supervisor owns, which a borrow checker cannot see
/// through a list that also owns the buffers; a stale number would at worst wake the loop once.
#[must_use]
pub fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the callers pass numbers of descriptors that outlive the call of poll(2) they are used for.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn decimals_without_allocation() {
        for number in [0, 7, 10, 65_535, u32::MAX] {
            assert_eq!(super::decimal(&mut [0; 12], number), format!("{number}\n").as_bytes());
        }
    }

    #[test]
    fn our_own_start_time_is_stable() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(super::start_time(pid), super::start_time(pid));
        assert!(super::start_time(pid).is_some());
        assert!(super::start_time(i32::MAX - 1).is_none());
    }
}
