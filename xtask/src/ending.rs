//! How a run that failed ends: what is said of it, to people and to programs, and its exit status.

use crate::error::{is_full_disk, kind_of};
use crate::text::write_stderr;
use crate::{events, progress};
use std::process::ExitCode;

/// Prints the error with all its causes to standard error and gives the exit status of its kind.
pub fn report(error: &anyhow::Error) -> ExitCode {
    write_stderr(&format!("error: {error:#}{}", way_out(error)));
    progress::annotate_run(error);
    let kind = kind_of(error);
    events::end(error, kind);
    ExitCode::from(kind as u8)
}

/// As [`report`], and leaves the program there and then.
pub fn leave(error: &anyhow::Error) -> ! {
    let _ = report(error);
    std::process::exit(kind_of(error) as i32)
}

/// What is to be done about a full disk, where the text does not say it yet.
fn way_out(error: &anyhow::Error) -> &'static str {
    if is_full_disk(error) && !format!("{error:#}").contains("make room") {
        "; make room there, or choose another disk with --build-dir and --dist-dir"
    } else {
        ""
    }
}
