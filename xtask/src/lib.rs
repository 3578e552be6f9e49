//! Builds the dkumonitor package: `cargo xtask package`.
//!
//! This file parses the command line and hands over; `cli` lists every command and flag, `commands` has a file for
//! each command. ARCHITECTURE.md in the repository's root shows the whole house. It is a library for the sake of the fuzzers,
//! which call [`fuzzing`], and of the tests, which ask [`free_ports`]; nothing else is for others.

mod account;
mod archive;
mod attend;
mod audit;
mod build;
mod cli;
mod commands;
mod dirs;
mod elf;
mod ending;
mod engine;
mod environment;
mod error;
mod events;
mod failed;
mod fetch;
mod fingerprint;
pub mod free_ports;
pub mod fuzzing;
mod gate;
mod history;
mod host;
mod interrupt;
mod key;
mod logs;
mod macho;
mod manual;
mod meter;
mod packing;
mod parallel;
mod patch;
mod plan;
mod preflight;
mod progress;
mod release;
mod report;
mod repro;
mod resources;
mod sandbox;
mod schedule;
mod share;
mod sharing;
mod shell;
mod sign;
mod source;
mod stack;
mod stage;
mod store;
mod supply;
mod target;
mod text;
mod toolchain;
mod unpack;
mod verify;
#[cfg(test)]
mod workflows;
mod zip;

use clap::Parser as _;
use cli::Command;
use std::process::ExitCode;

/// The whole program: does what the command line says, and gives its exit status.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    ending::admit_what_cannot_be_printed();
    // What is built must not depend on the caller's umask.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // It takes the place of this program, before there is a second thread.
    if let Command::WithoutNetwork { words } = &cli.command {
        return sandbox::enter(words).map_or_else(|error| ending::report(&error), |()| ExitCode::SUCCESS);
    }
    if let Command::Attended { parent, without_network, words } = &cli.command {
        return attend::run(*parent, *without_network, words).unwrap_or_else(|error| ending::report(&error));
    }
    if let Command::GateInside { order } = &cli.command {
        let status = gate::trial::enter(order);
        return status.map_or_else(|error| ending::report(&error), |status| ExitCode::from(u8::try_from(status).unwrap_or(1)));
    }
    if let Command::SomebodyElse { words } = &cli.command {
        return repro::second::enter(words).map_or_else(|error| ending::report(&error), |()| ExitCode::SUCCESS);
    }
    if let Some(command) = cli.command.tells_events() {
        events::open(command);
    }
    let outcome = interrupt::listen().and_then(|()| match &cli.command {
        Command::Package(args) => commands::package::run(args),
        Command::Release(args) => commands::release::run(args),
        Command::Fetch(args) => commands::fetch::run(args),
        Command::Gate(args) => commands::gate::run(args),
        Command::Repro(args) => commands::repro::run(args),
        Command::Plan(args) => commands::plan::run(args),
        Command::Explain(args) => commands::explain::run(args),
        Command::Shell(args) => commands::shell::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::VendorExport(args) => commands::vendor_export::run(args),
        Command::Clean(args) => commands::clean::run(args),
        Command::Ci(args) => commands::ci::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Sign(args) => commands::sign::run(args),
        Command::Verify(args) => commands::verify::run(args),
        Command::Manual(args) => commands::manual::run(args),
        Command::Audit(args) => commands::audit::run(args),
        Command::Lock(command) => commands::lock::run(command),
        Command::WithoutNetwork { .. }
        | Command::Attended { .. }
        | Command::GateInside { .. }
        | Command::SomebodyElse { .. } => Ok(()),
    });
    match outcome {
        Ok(()) => {
            events::close(0, "done");
            ExitCode::SUCCESS
        }
        Err(error) => ending::report(&error),
    }
}
