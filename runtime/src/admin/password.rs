//! `dkmadmin reset-password`: a new password for the administrator of a service.
//!
//! How is data of the service ([`PasswordReset`]). The new password is beside its file before it is given to the service, and gets its name
//! after that: whatever dies in between, it is not lost.

use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::cli::admin;
use crate::home::{Home, write_renamed};
use crate::install::{plan::secret, update};
use crate::service::{PasswordReset, Service};
use crate::supervise::child;

/// Passwords that are given have at least so many characters.
const SHORTEST: usize = 8;

/// Sets a new password, and shows it.
///
/// # Errors
/// When no service has one, or its program refuses.
pub fn run(options: &admin::ResetPassword, home: &Home) -> Result<ExitCode> {
    // What root's programs leave beside a database, its service could not write to.
    update::refuse_others(home.root())?;
    let services = home.definitions()?.services;
    let name = options.service.as_deref();
    let fits = |service: &&Service| name.is_none_or(|name| service.answers_to(name));
    let mut able = services.iter().filter(fits).filter_map(|service| Some((service, service.reset_password.as_ref()?)));
    let (Some((service, how)), None) = (able.next(), able.next()) else {
        match name {
            Some(name) => bail!("{name} has no password that can be set: no reset-password in conf/services.d/{name}.toml"),
            None => bail!("cannot tell whose password is meant: none, or several of the services have one; name it"),
        }
    };
    let password = if options.stdin { given()? } else { secret::random(20)? };
    let file = inside(home, &how.secret)?;
    let beside = PathBuf::from([file.as_os_str(), ".next".as_ref()].into_iter().collect::<std::ffi::OsString>());
    write_renamed(&beside, password.as_bytes(), 0o600)?;
    let taken = match &how.once_there {
        Some(sign) if !home.root().join(sign).exists() => false,
        sign => {
            let before = sign.as_ref().map(|sign| stamps(home, sign));
            tell(home, service, how, &password)
                .and_then(|()| match sign {
                    // There are versions of Grafana whose command says so and does nothing.
                    Some(sign) if before == Some(stamps(home, sign)) => {
                        bail!("its command says that it is done, and nothing in {sign} has changed")
                    }
                    _ => Ok(()),
                })
                .inspect_err(|_| {
                    let _ = fs::remove_file(&beside);
                })
                .with_context(|| format!("cannot set the password of {}; it is as before", service.name))?;
            true
        }
    };
    fs::rename(&beside, &file)
        .with_context(|| format!("cannot write {}; the new password is in {}", file.display(), beside.display()))?;
    let shown = if options.stdin { "the one that was given" } else { &password };
    println!("{}: user {}, password {shown}", service.name, how.user);
    println!("(kept in {}{})", file.display(), if taken { "" } else { "; the service takes it when it first starts" });
    Ok(ExitCode::SUCCESS)
}

/// What tells that a database was written to, whether by a log beside it or not.
fn stamps(home: &Home, sign: &str) -> [Option<(i64, i64, u64)>; 2] {
    ["", "-wal"].map(|ending| {
        let meta = fs::metadata(home.root().join(format!("{sign}{ending}"))).ok()?;
        Some((meta.mtime(), meta.mtime_nsec(), meta.len()))
    })
}

/// The password from standard input.
fn given() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
    let password = line.trim_end_matches(['\n', '\r']);
    if password.chars().count() < SHORTEST || password.chars().any(char::is_control) {
        bail!("the password has to have at least {SHORTEST} characters, and no control characters");
    }
    Ok(password.to_owned())
}

/// A path of the data folder.
fn inside(home: &Home, path: &str) -> Result<PathBuf> {
    if path.is_empty() || !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        bail!("the file \"{path}\" of reset-password is not a plain relative path");
    }
    Ok(home.root().join(path))
}

/// Runs the service's command. What it prints is shown when it fails.
fn tell(home: &Home, service: &Service, how: &PasswordReset, password: &str) -> Result<()> {
    let as_command = Service { command: how.command.clone(), ..service.clone() };
    if how.command.is_empty() {
        bail!("its reset-password has no command");
    }
    let mut command = child::command(home, &as_command)?;
    child::restrict(&mut command, service)?;
    let program = &how.command[0];
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it fails by itself.
        let _ = stdin.write_all(format!("{password}\n").as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = crate::text::harmless(&said).replace(password, "…");
        bail!("{program} {}\n{}", child::describe(output.status), said.trim());
    }
    Ok(())
}
