//! How `dkm` ends: the numbers, in one place. They are the LSB's where it has one for the case.

use std::fmt;

/// Of `status`: every service asked for runs and is ready. Of every other verb: done.
pub const GOOD: u8 = 0;
/// Of `status`: a service died and waits for its next try. (LSB: dead.) Of others: it could not be done.
pub const FAILED: u8 = 1;
/// Of `status`, `pid` and `wait`: a service is stopped. (LSB: not running.)
pub const STOPPED: u8 = 3;
/// Of `status` and `wait`: a name is unknown. (LSB: unknown.)
pub const UNKNOWN: u8 = 4;
/// Of others: not for root. (LSB: insufficient privilege; for what is not `status` it is the same number.)
pub const NOT_ALLOWED: u8 = 4;
/// What was to be done with a running service cannot be done with one that does not run. (LSB: not running.)
pub const NOT_RUNNING: u8 = 7;
/// The time for waiting was over, as timeout(1) has it.
pub const TIME_OVER: u8 = 124;
/// Ctrl-C, as shells have it: 128 and the signal's number.
pub const INTERRUPTED: u8 = 130;
/// Of `status` and `wait`: a service is on its way up or down. (LSB: 150 to 199 are for applications.)
pub const UNDERWAY: u8 = 150;

/// An error that ends the program with a number of its own.
#[derive(Debug)]
pub struct Ending {
    /// The number.
    pub status: u8,
    /// What happened, in words.
    pub message: String,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Ending {}

/// An error with a number.
#[must_use]
pub fn ending(status: u8, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Ending { status, message: message.into() })
}

/// The number that an error ends the program with.
#[must_use]
pub fn of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Ending>().map_or(FAILED, |ending| ending.status)
}
