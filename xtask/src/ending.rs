//! How a run that failed ends: what is said of it, to people and to programs, and its exit status.

use crate::error::{Kind, is_full_disk, kind_of};
use crate::text::write_stderr;
use crate::{events, progress};
use dkumonitor_interface::text::harmless;
use std::process::ExitCode;

/// Prints the error with all its causes to standard error and gives the exit status of its kind.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // Names in archives and words of servers are in it, which may have been written for terminals to obey.
    write_stderr(&format!("error: {}{}", harmless(format!("{error:#}").as_bytes()), way_out(error)));
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

/// From here on a standard output that takes nothing ends the program, where Rust's own way is to panic: in words, unless whoever has
/// read it wanted no more (`… | head -1`).
pub fn admit_what_cannot_be_printed() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let Some(why) = info.payload_as_str().and_then(|text| text.strip_prefix("failed printing to stdout: ")) else {
            return otherwise(info);
        };
        if !why.starts_with("Broken pipe") {
            write_stderr(&format!("error: cannot write to the standard output: {why}"));
        }
        std::process::exit(Kind::Other as i32);
    }));
}

/// What is to be done about a full disk, where the text does not say it yet.
fn way_out(error: &anyhow::Error) -> &'static str {
    if is_full_disk(error) && !format!("{error:#}").contains("make room") {
        "; make room there, or choose another disk with --build-dir and --dist-dir"
    } else {
        ""
    }
}
