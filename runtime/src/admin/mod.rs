//! `dkmadmin`: what concerns a bundle, or a data folder beyond its services.

use std::ffi::OsStr;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use crate::cli::admin::{Admin, AdminVerb, Folder};
use crate::home::Home;

pub mod audit;
mod backup;
mod boot;
mod password;
pub mod verify;
mod version;

/// Runs a verb. `called_as`: the name that the program was called by, which may tell the data folder.
///
/// # Errors
/// Whatever the verb could not do, in words.
pub fn run(arguments: &Admin, called_as: &OsStr) -> Result<ExitCode> {
    // What is made here is nobody else's business, but for what the system reads.
    if !matches!(arguments.verb, AdminVerb::InstallBoot(_)) {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    }
    let find = |folder: &Folder| Home::find(folder.data.as_deref(), called_as);
    match &arguments.verb {
        AdminVerb::Version => version::run(),
        AdminVerb::Verify(options) => verify::run(options),
        AdminVerb::Audit(options) => audit::run(options, find(&options.folder)),
        AdminVerb::Backup(options) => backup::run(options, &find(&options.folder)?),
        AdminVerb::Restore(options) => backup::restore::run(options),
        AdminVerb::ResetPassword(options) => password::run(options, &find(&options.folder)?),
        AdminVerb::InstallBoot(options) => boot::install(options, &find(&options.folder)?),
        AdminVerb::UninstallBoot(options) => boot::uninstall(options, || find(&options.folder)),
    }
}

/// A user, by name or number.
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// Looks one up. This program, which is static, knows those of /etc/passwd by itself; others are asked for.
    fn find(key: &str) -> Option<Self> {
        let known = match key.parse::<u32>() {
            Ok(uid) => nix::unistd::User::from_uid(uid.into()),
            Err(_) => nix::unistd::User::from_name(key),
        };
        if let Ok(Some(user)) = known {
            return Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() });
        }
        let asked = Command::new("getent").args(["passwd", key]).stderr(Stdio::null()).output().ok()?;
        let line = String::from_utf8(asked.stdout).ok()?;
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        let mut number = |skip| fields.nth(skip)?.parse().ok();
        Some(Self { name, uid: number(1)?, gid: number(0)? })
    }
}
