//! The launcher of dkumonitor: what makes a running monitor of an unpacked bundle.
//!
//! One small static program with three names (it looks at the one it was called by):
//!
//! - `installer` ([`install`]) makes a data folder from the bundle's templates. It checks everything first, and makes the folder
//!   beside its place;
//! - `dkm` ([`commands`]) is called as `DATA/bin/dkm` and controls the services of that folder through a supervisor ([`supervise`])
//!   that it starts when needed, over a socket ([`control`]);
//! - `dkmadmin` ([`admin`]) looks after the bundle and after data folders.
//!
//! # Theory of operation
//!
//! The launcher knows no program by heart. How a component is started, probed and stopped is data ([`service`]): written in its
//! recipe, carried by the bundle's manifest ([`manifest`]), rendered for one data folder by the installer, read by the supervisor.
//!
//! A supervisor is one process with one thread. For each service it keeps a state that carries its data; a pure function leads from
//! state, event and time to the next state and to actions ([`supervise::state`]). The loop around it carries the actions out.
//!
//! Three things make it safe against its own death: services hold locks that they inherited, so that there is never a second copy;
//! their output goes through FIFOs that do not break and that somebody else reads then ([`supervise::logs::keeper`]); and what they are is
//! in a file that is replaced whole ([`home`] has the map).
//!
//! # Promises
//!
//! - Nothing is started twice, whatever dies when.
//! - No command waits for ever: services have times for getting ready and for stopping.
//! - With nothing to do the supervisor does not wake up. (Where it sends metrics, that is something to do, once each interval.)
//! - Nobody but the data folder's owner (and root) gets in.
//!
//! `unsafe` is confined to [`os`].

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub mod admin;
pub mod clock;
pub mod commands;
pub mod control;
pub mod definitions;
pub mod home;
pub mod install;
pub mod os;
pub mod ports;
pub mod supervise;

// What the builder knows too.
pub use dkumonitor_interface::{cli, integrity, manifest, service, text};

use clap::Parser;

/// Does what the arguments say, the first being the name the program was called by.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    if let Some(done) = supervise::help(arguments).or_else(|| install::tidy::help(arguments)) {
        return done;
    }
    let called_as = arguments.first().cloned().unwrap_or_else(|| "dkm".into());
    let name = Path::new(&called_as).file_name().and_then(|name| name.to_str()).unwrap_or("dkm").to_owned();
    admit_what_cannot_be_printed(name.clone());
    let result = match name.as_str() {
        "installer" if arguments.iter().any(|word| word == "--verify") => {
            match cli::InstallerVerify::try_parse_from(arguments) {
                Ok(parsed) => admin::verify::run(&parsed.what),
                Err(error) => return show(&error),
            }
        }
        "installer" => match cli::Installer::try_parse_from(arguments) {
            Ok(parsed) => install::run(&parsed),
            Err(error) => return show(&error),
        },
        "dkmadmin" => match cli::Admin::try_parse_from(arguments) {
            Ok(parsed) => admin::run(&parsed, &called_as),
            Err(error) => return show(&error),
        },
        _ => match cli::Dkm::try_parse_from(cli::dkm::as_of_old(arguments)) {
            Ok(parsed) => commands::run(&parsed, &called_as),
            Err(error) => return show(&error),
        },
    };
    result.unwrap_or_else(|error| {
        // Names of files are in it, which may have been written for terminals to obey.
        eprintln!("{name}: {}", text::harmless(format!("{error:#}").as_bytes()));
        ExitCode::from(commands::exit::of(&error))
    })
}

/// A standard output that takes nothing (a full disk behind it) is said in words: Rust's own way is to panic.
fn admit_what_cannot_be_printed(name: String) {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(why) = info.payload_as_str().and_then(|text| text.strip_prefix("failed printing to stdout: ")) {
            eprintln!("{name}: cannot write to the standard output: {why}");
            std::process::exit(1);
        }
        otherwise(info);
    }));
}

/// Help goes out with 0, misuse with 2.
fn show(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
