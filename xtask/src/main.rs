//! Builds the dkumonitor package: `cargo xtask package`. Everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
