//! `dkm tail` and `dkm maintail`: from the log files, so that they work without a supervisor.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::follow::{Followed, LOOK, print};
use super::names::Known;
use super::{exit, interrupt};
use crate::cli::dkm::{Bytes, Maintail, Tail};
use crate::home::Home;
use crate::supervise::logs;

/// How much of each log, and how.
#[derive(Clone, Copy, Debug)]
struct How {
    follow: bool,
    lines: usize,
    bytes: Option<usize>,
    shown: Bytes,
}

/// `dkm tail`.
///
/// # Errors
/// When a name is unknown, or the output cannot be written.
pub fn run(home: &Home, options: &Tail) -> Result<ExitCode> {
    let names = Known::at_least(home).need(&options.names.services)?;
    let logs = names.into_iter().map(|name| (home.log(&name), name)).collect();
    let Tail { follow, lines, bytes, shown, .. } = *options;
    show(logs, How { follow, lines, bytes, shown })
}

/// `dkm maintail`.
///
/// # Errors
/// When the output cannot be written.
pub fn main(home: &Home, options: &Maintail) -> Result<ExitCode> {
    let Maintail { follow, lines, bytes, shown } = *options;
    show(vec![(home.supervisor_log(), "supervisor".to_owned())], How { follow, lines, bytes, shown })
}

/// Shows the last lines of logs, and goes on if it should.
fn show(logs: Vec<(PathBuf, String)>, how: How) -> Result<ExitCode> {
    let headers = logs.len() > 1;
    if how.follow {
        interrupt::prepare();
    }
    let mut followed: Vec<Followed> = Vec::new();
    for (path, name) in logs {
        if headers {
            println!("==> {name} <==");
        }
        let (mut last, end) = logs::last_lines_and_end(&path, how.bytes.map_or(how.lines, |count| count + 1));
        if let Some(count) = how.bytes {
            last.drain(..last.len().saturating_sub(count));
        }
        print(&last, how.shown.raw)?;
        followed.push(Followed::from(&name, &path, end, Vec::new()));
    }
    if !how.follow {
        return Ok(ExitCode::SUCCESS);
    }
    let mut last = String::new();
    loop {
        for log in &mut followed {
            let mut news = Vec::new();
            while log.news(&mut news) {
                header(headers, &mut last, &log.name);
                print(&std::mem::take(&mut news), how.shown.raw)?;
            }
            if !news.is_empty() {
                header(headers, &mut last, &log.name);
                print(&news, how.shown.raw)?;
            }
        }
        if interrupt::sleep(LOOK) {
            return Ok(ExitCode::from(exit::INTERRUPTED));
        }
    }
}

fn header(wanted: bool, last: &mut String, name: &str) {
    if wanted && last != name {
        println!("==> {name} <==");
        name.clone_into(last);
    }
}
