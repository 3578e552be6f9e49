//! What the commands ask of the terminal and of the system's manners with pipes.

use nix::sys::signal::{SigHandler, Signal, signal};

/// From now on a reader that went away ends this process, as it does others: `dkm tail | head` is no error. (Sockets are written
/// to in ways that do not signal.) Rust's own start has programs ignore that signal.
pub fn end_with_the_reader() {
    // SAFETY: sets a default; no handler of ours is involved.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

/// How many columns the terminal behind the standard error has; none if it is none.
#[must_use]
pub fn columns() -> Option<u16> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: ioctl(2) with TIOCGWINSZ writes one such structure.
    let result = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col)
}
