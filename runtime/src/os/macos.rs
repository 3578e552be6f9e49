//! macOS: kqueue, libproc. There is no subreaper and no way to read another process's environment, so that what leaves its group
//! on purpose is not found here.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::{Listener, ProcessUse, Tag};
use crate::service::Protocol;

/// `PROC_PGRP_ONLY` of <sys/proc_info.h>, which the libc crate does not have.
const PROC_PGRP_ONLY: u32 = 2;
/// `PROC_UID_ONLY` of the same.
const PROC_UID_ONLY: u32 = 4;

/// Marks all descriptors from `first` on to be closed on exec.
pub(super) fn close_on_exec_from(first: RawFd) {
    super::mark_one_by_one(first);
}

/// There is none; orphans go to process 1.
pub fn become_subreaper() {}

/// There is no such thing here.
pub fn end_with_parent(_command: &mut Command) {}

/// When a process started, in microseconds since the epoch; with the PID it names a process for good. None when there is no such
/// process.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let info = info(pid)?;
    (info.pbi_status != libc::SZOMB).then(|| info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec)
}

fn info(pid: i32) -> Option<libc::proc_bsdinfo> {
    // SAFETY: proc_pidinfo(3) writes at most the given size into the zeroed structure.
    unsafe {
        let mut info: libc::proc_bsdinfo = std::mem::zeroed();
        let size = i32::try_from(size_of::<libc::proc_bsdinfo>()).ok()?;
        let got = libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, (&raw mut info).cast(), size);
        (got == size).then_some(info)
    }
}

/// There are none here.
#[must_use]
pub fn is_delegated(_group: &Path) -> bool {
    false
}

/// The parent of a process; none when there is no such process.
#[must_use]
pub fn parent_of(pid: i32) -> Option<i32> {
    info(pid).and_then(|info| i32::try_from(info.pbi_ppid).ok())
}

/// The system tells no program that.
#[must_use]
pub fn listeners(_pids: &[i32]) -> Vec<Listener> {
    Vec::new()
}

/// The user that a process acts as.
#[must_use]
pub fn user_of(pid: i32) -> Option<u32> {
    info(pid).map(|info| info.pbi_uid)
}

/// Not looked for here.
#[must_use]
pub fn folder_of(_pid: i32) -> Option<std::path::PathBuf> {
    None
}

/// The system tells no program that.
#[must_use]
pub fn environment_of(_pid: i32) -> Vec<(String, String)> {
    Vec::new()
}

/// What every process of this user uses.
#[must_use]
pub fn processes_in_use() -> Vec<ProcessUse> {
    let pids = list(PROC_UID_ONLY, nix::unistd::geteuid().as_raw());
    pids.into_iter().filter_map(usage).collect()
}

fn usage(pid: i32) -> Option<ProcessUse> {
    let about = info(pid)?;
    // SAFETY: proc_pidinfo(3) writes at most the given size into the zeroed structure.
    let task = unsafe {
        let mut task: libc::proc_taskinfo = std::mem::zeroed();
        let size = i32::try_from(size_of::<libc::proc_taskinfo>()).ok()?;
        (libc::proc_pidinfo(pid, libc::PROC_PIDTASKINFO, 0, (&raw mut task).cast(), size) == size).then_some(task)?
    };
    let id = |number: u32| i32::try_from(number).unwrap_or(0);
    let cpu_ms = (task.pti_total_user + task.pti_total_system) / 1_000_000;
    let rss = task.pti_resident_size;
    Some(ProcessUse { pid, parent: id(about.pbi_ppid), group: id(about.pbi_pgid), cpu_ms, rss })
}

/// What changes with every start of the machine: the time of it.
#[must_use]
pub fn boot_id() -> String {
    // SAFETY: sysctlbyname(3) with a buffer of the size that is passed.
    unsafe {
        let mut time: libc::timeval = std::mem::zeroed();
        let mut size = size_of::<libc::timeval>();
        let name = c"kern.boottime";
        if libc::sysctlbyname(name.as_ptr(), (&raw mut time).cast(), &raw mut size, std::ptr::null_mut(), 0) == 0 {
            time.tv_sec.to_string()
        } else {
            String::new()
        }
    }
}

/// A descriptor that becomes readable when the process, which need not be our child, ends.
///
/// # Errors
/// When there is no such process, or no descriptor is left.
pub fn watch(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: kqueue(2) gives a new descriptor that nobody else owns; kevent(2) reads one event and writes none.
    unsafe {
        let fd = libc::kqueue();
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let queue = super::own(fd);
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        let event = libc::kevent {
            ident: usize::try_from(pid).map_err(io::Error::other)?,
            filter: libc::EVFILT_PROC,
            flags: libc::EV_ADD,
            fflags: libc::NOTE_EXIT,
            data: 0,
            udata: std::ptr::null_mut(),
        };
        if libc::kevent(queue.as_raw_fd(), &raw const event, 1, std::ptr::null_mut(), 0, std::ptr::null()) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(queue)
    }
}

/// The user at the other end of a socket.
///
/// # Errors
/// When the system does not tell.
pub fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(nix::unistd::getpeereid(stream)?.0.as_raw())
}

/// Pipes grow by themselves here.
pub fn enlarge_pipe(_pipe: &impl AsRawFd, _bytes: i32) {}

/// There is no such thing here.
///
/// # Errors
/// Always.
pub fn move_bytes(_pipe: &File, _file: &File, _offset: u64, _count: usize) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// There is no such thing here.
///
/// # Errors
/// Always.
pub fn peek(_pipe: &File, _buffer: &mut [u8]) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// The living processes of a group.
#[must_use]
pub fn group_members(group: i32) -> Vec<i32> {
    u32::try_from(group).map_or_else(|_| Vec::new(), |group| list(PROC_PGRP_ONLY, group))
}

/// The living processes of one kind.
fn list(kind: u32, of: u32) -> Vec<i32> {
    let mut pids = vec![0_i32; 4096];
    // SAFETY: proc_listpids(3) writes at most the given size.
    let bytes = unsafe {
        let size = i32::try_from(size_of_val(pids.as_slice())).unwrap_or(i32::MAX);
        libc::proc_listpids(kind, of, pids.as_mut_ptr().cast(), size)
    };
    pids.truncate(usize::try_from(bytes).unwrap_or(0) / size_of::<i32>());
    pids.retain(|&pid| pid > 0 && start_time(pid).is_some());
    pids
}

/// Orphans do not come to us here, so there is nothing to learn from the list.
#[must_use]
pub fn children() -> Vec<i32> {
    Vec::new()
}

/// Not to be known here.
#[must_use]
pub fn tagged(_tag: Tag<'_>, _among: Option<Vec<i32>>) -> Vec<i32> {
    Vec::new()
}

/// Not to be known here.
#[must_use]
pub fn unread_bytes(_port: u16, _protocols: &[Protocol]) -> Option<u64> {
    None
}

/// There is none here.
#[must_use]
pub fn glibc_version() -> Option<String> {
    None
}

/// Not to be known here without the rights of root.
#[must_use]
pub fn port_owner(_address: IpAddr, _port: u16, _protocol: Protocol) -> Option<String> {
    None
}
