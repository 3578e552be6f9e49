//! The launcher's programs, driven as their users drive them: real processes, real signals, real ports, in temporary folders with a
//! space in their names.

// A test that cannot go on fails; the helpers beside the tests are tests too, which the lint's exception does not see.
#![allow(clippy::unwrap_used)]

mod audit;
mod backup;
mod bench;
mod boot;
#[cfg(target_os = "linux")]
mod boot_systemd;
#[cfg(target_os = "linux")]
mod chaos;
mod commands;
mod commands_asked;
mod commands_terminal;
mod control;
mod definitions;
mod faults;
mod forwarding;
#[path = "../../../xtask/src/free_ports.rs"]
mod free_ports;
mod hostile;
mod install;
mod install_ends;
mod install_shipped;
mod logs;
mod metrics;
mod password;
mod readiness;
mod reload;
#[cfg(target_os = "linux")]
mod resources;
#[cfg(target_os = "linux")]
mod soak;
mod survival;
mod systemd;
mod update;
mod verify;
