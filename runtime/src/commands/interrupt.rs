//! Ctrl-C while a verb waits or follows: it ends the waiting, and not what is waited for.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::os;

/// Where Ctrl-C arrives once somebody waits for it; none where the system gives no pipe: then it ends the program as ever.
fn signals() -> Option<&'static UnixStream> {
    static SIGNALS: OnceLock<Option<UnixStream>> = OnceLock::new();
    SIGNALS.get_or_init(|| os::catch_signals(&[Signal::SIGINT]).ok()).as_ref()
}

/// From now on Ctrl-C does not end the program, but the next [`wait`].
pub fn prepare() {
    let _ = signals();
}

/// Forgets a Ctrl-C that nobody waited for.
pub fn forget() {
    if let Some(signals) = signals() {
        os::noted_signals(signals);
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There is something to read.
    Ready,
    /// The time is over.
    Time,
    /// Ctrl-C.
    Interrupted,
}

/// Waits for bytes on `stream`, if one is given, but no longer than until then.
pub fn wait(stream: Option<&dyn AsRawFd>, until: Option<Instant>) -> Woken {
    let signals = signals();
    loop {
        let timeout = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                let millis = until.saturating_duration_since(Instant::now()).as_micros().div_ceil(1_000);
                PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = Vec::with_capacity(2);
        fds.extend(signals.map(|signals| PollFd::new(os::borrow(signals.as_raw_fd()), PollFlags::POLLIN)));
        fds.extend(stream.map(|stream| PollFd::new(os::borrow(stream.as_raw_fd()), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Err(_) | Ok(0) if until.is_some_and(|until| Instant::now() >= until) => return Woken::Time,
            Err(_) | Ok(0) => {}
            Ok(_) => {
                if signals.is_some_and(|signals| !os::noted_signals(signals).is_empty()) {
                    return Woken::Interrupted;
                }
                return Woken::Ready;
            }
        }
    }
}

/// Waits for so long; whether Ctrl-C came instead.
pub fn sleep(length: Duration) -> bool {
    wait(None, Some(Instant::now() + length)) == Woken::Interrupted
}
