//! One program under three names: `dkm`, `installer` and `dkmadmin`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dkumonitor_runtime::run(&std::env::args_os().collect::<Vec<_>>())
}
