//! A long wait that leaves the program's own code out of memory.
//!
//! A supervisor waits for days and needs none of its code and constants meanwhile, and what the system has mapped of them counts as
//! its memory. [`rest`] gives all of it back and then waits, in a function that needs nothing but itself: the one piece of the file
//! that it lies in is mapped again, and whatever comes later is when it is used. The pieces are as large as the system likes, which
//! is why no second one should be touched.

use std::time::Duration;

use nix::poll::PollFd;

/// Waits until something happens, for so long at most if there is a limit, see the module's documentation.
///
/// # Errors
/// Those of poll(2), an interruption by a signal among them.
pub fn rest(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> nix::Result<()> {
    platform::rest(fds, limit)
}

#[cfg(target_os = "linux")]
mod platform {
    use super::{Duration, PollFd};
    use nix::errno::Errno;
    use nix::sys::time::TimeSpec;
    use std::ffi::{c_int, c_void};

    /// More parts of the program are not looked at; it has three.
    const MOST: usize = 8;

    /// Where parts of the program lie, and how long they are.
    type Parts = [(usize, usize); MOST];

    pub fn rest(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> nix::Result<()> {
        // The system writes into it what is left in the end.
        let mut limit = limit.map(TimeSpec::from);
        let limit = limit.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut).cast();
        let mut parts: Parts = [(0, 0); MOST];
        // SAFETY: the function fits, and takes a pointer to what is passed.
        unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut parts).cast()) };
        // SAFETY: the parts are those of the running program that it does not change, and a `PollFd` is a `pollfd` by its
        // representation, as a `TimeSpec` is a `timespec`.
        let result = unsafe { drop_and_wait(&parts, fds.as_mut_ptr().cast(), fds.len(), limit) };
        match c_int::try_from(result) {
            Ok(error) if error < 0 => Err(Errno::from_raw(-error)),
            _ => Ok(()),
        }
    }

    /// Notes the parts of the program that are not writable: they are as they are in the file.
    unsafe extern "C" fn note(object: *mut libc::dl_phdr_info, _: libc::size_t, parts: *mut c_void) -> c_int {
        // SAFETY: the system gives a valid description, whose segments are mapped for as long as the program runs, and hands
        // through the pointer that it was given. The first object is the program itself.
        unsafe {
            let (object, parts) = (&*object, &mut *parts.cast::<Parts>());
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
            let headers = (0..usize::from(object.dlpi_phnum)).map(|number| &*object.dlpi_phdr.add(number));
            let fixed = headers.filter(|segment| segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_W == 0);
            for (part, segment) in parts.iter_mut().zip(fixed) {
                let start = object.dlpi_addr as usize + segment.p_vaddr as usize;
                let first = start / page * page;
                *part = (first, start + segment.p_memsz as usize - first);
            }
        }
        1
    }

    /// # Safety
    /// The parts have to be unchanged pieces of a file, there have to be `count` descriptions of files at `fds`, and nothing or a time
    /// at `limit`.
    #[inline(never)]
    unsafe fn drop_and_wait(parts: &Parts, fds: *mut c_void, count: usize, limit: *mut c_void) -> isize {
        // SAFETY: promised by the caller. Nothing is called from here, so that nothing else is mapped again.
        unsafe {
            for &(start, length) in parts {
                if length > 0 {
                    call(libc::SYS_madvise, [start, length, libc::MADV_DONTNEED as usize, 0, 0]);
                }
            }
            call(libc::SYS_ppoll, [fds as usize, count, limit as usize, 0, 0])
        }
    }

    /// A system call; what it gives, errors as negative numbers.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn call(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
        let result;
        // SAFETY: the caller's arguments fit the call; what the instruction changes is listed.
        unsafe {
            std::arch::asm!(
                "syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
                in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack)
            );
        }
        result
    }

    /// A system call; what it gives, errors as negative numbers.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    unsafe fn call(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
        let result;
        // SAFETY: the caller's arguments fit the call; what the instruction changes is listed.
        unsafe {
            std::arch::asm!(
                "svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
                options(nostack)
            );
        }
        result
    }

    /// A system call; what it gives, errors as negative numbers.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    unsafe fn call(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
        // SAFETY: the caller's arguments fit the call.
        let result = unsafe { libc::syscall(number, a, b, c, d, e) };
        if result < 0 { -(Errno::last_raw() as isize) } else { result as isize }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use nix::poll::PollFlags;
        use std::io::Write;
        use std::os::fd::AsFd;

        #[test]
        fn the_wait_ends_when_something_is_there_and_the_program_goes_on() {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let waker = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(500));
                writer.write_all(b"x").unwrap();
                writer
            });
            let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            let (second, begin) = (Duration::from_secs(1), std::time::Instant::now());
            rest(&mut fds, Some(second / 100)).unwrap();
            assert!(fds[0].revents() == Some(PollFlags::empty()) && begin.elapsed() >= second / 100);
            rest(&mut fds, None).unwrap();
            assert_eq!(fds[0].revents(), Some(PollFlags::POLLIN));
            drop(waker.join().unwrap());
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use super::{Duration, PollFd};
    use nix::poll::PollTimeout;

    /// The system takes back by itself what is not used.
    pub fn rest(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> nix::Result<()> {
        // It counts in whole milliseconds, and to wake early is to wake twice.
        let millis = limit.map(|limit| i32::try_from(limit.as_micros().div_ceil(1_000)).unwrap_or(i32::MAX));
        let limit = millis.map_or(PollTimeout::NONE, |millis| PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX));
        nix::poll::poll(fds, limit).map(drop)
    }
}
