//! Ports for monitors that are only tried: by tests, the gate and the benchmark.
//!
//! Promises: no two that ask get the same ones, whatever processes they are, and the system gives them to nobody meanwhile. One that is
//! asked for by number 0 does not do: until it is listened on, any connection that goes out may get it or one of its neighbours.

use std::io::{Error, Result};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

/// Below what Linux (from 32768 on) and macOS (from 49152 on) give out by themselves, and below what installations have by default.
const RANGE: std::ops::Range<u16> = 10_000..27_500;

/// The ports that an installation counts.
const WANTED: u16 = 10;

/// From those of one to those of the next. The last one is listened on for as long as the others are given away.
const STEP: u16 = 20;

/// What this process was given.
static GIVEN: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());

/// The first of ten ports in a row that nobody has, TCP and UDP, and that are this process's until it ends.
///
/// # Errors
/// When none are left.
pub fn ten() -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for first in RANGE.step_by(usize::from(STEP)) {
        let Ok(mark) = TcpListener::bind((Ipv4Addr::LOCALHOST, first + STEP - 1)) else { continue };
        let all = Ipv4Addr::UNSPECIFIED;
        let free = |port| TcpListener::bind((all, port)).is_ok() && UdpSocket::bind((all, port)).is_ok();
        if (first..first + WANTED).all(free) {
            given.push(mark);
            return Ok(first);
        }
    }
    Err(Error::other("there are no ten free ports in a row"))
}
