//! What a service finds around it: folder, variables, limits.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::probe::Surroundings;
use crate::home::Home;
use crate::os;
use crate::service::Service;

/// What tells a process about the manager above it. None of it is meant for ours.
const OF_THE_MANAGER: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Keeps from a process of ours what our own manager has told us.
pub fn forget_manager(command: &mut Command) {
    for variable in OF_THE_MANAGER {
        command.env_remove(variable);
    }
}

/// The service's folder and variables.
///
/// # Errors
/// When one of its environment files cannot be read, with its line.
pub fn surroundings(home: &Home, service: &Service) -> Result<Surroundings> {
    let folder = folder(home, service);
    let mut environment = Vec::new();
    for path in &service.environment_file {
        let (path, may_be_missing) = path.strip_prefix('-').map_or((path.as_str(), false), |path| (path, true));
        let path = home.root().join(path);
        match std::fs::read_to_string(&path) {
            Ok(text) => environment.append(&mut parse(&text).with_context(|| format!("cannot use {}", path.display()))?),
            Err(error) if may_be_missing && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read its environment from {}", path.display())),
        }
    }
    environment.extend(service.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
    environment.push((os::DATA_VARIABLE.to_owned(), home.root().to_string_lossy().into_owned()));
    Ok(Surroundings { folder, environment })
}

/// Lines of `NAME=VALUE`: the value as it stands, or in single quotes, or in double quotes with backslashes. Empty lines and those that
/// begin with `#` or `;` say nothing; `export` before a name is taken as said.
fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').with_context(|| format!("line {} is not NAME=VALUE", at + 1))?;
        let name = name.trim();
        let usable = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(usable) || name.starts_with(|c: char| c.is_ascii_digit()) {
            bail!("line {} sets \"{}\", which is no name of a variable", at + 1, name.escape_debug());
        }
        let value = unquoted(value.trim()).with_context(|| format!("line {} has a quote without an end", at + 1))?;
        if value.contains('\0') {
            bail!("line {} has a zero byte in it", at + 1);
        }
        out.push((name.to_owned(), value));
    }
    Ok(out)
}

fn unquoted(value: &str) -> Option<String> {
    if let Some(rest) = value.strip_prefix('\'') {
        return rest.strip_suffix('\'').map(str::to_owned);
    }
    let Some(rest) = value.strip_prefix('"') else { return Some(value.to_owned()) };
    let mut out = String::new();
    let mut letters = rest.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return letters.as_str().is_empty().then_some(out),
            '\\' => match letters.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    None
}

/// Has the process begin with the service's limits and umask.
///
/// # Errors
/// When a limit is above what this user may.
pub fn restrict(command: &mut Command, service: &Service) -> Result<()> {
    let mut limits = Vec::with_capacity(service.limits.len());
    for (&resource, limit) in &service.limits {
        let (_, most) = os::limit_of(resource);
        let soft = limit.soft.unwrap_or(os::NO_LIMIT);
        let hard = limit.hard.map_or(most, |hard| hard.unwrap_or(os::NO_LIMIT));
        let above = if soft > hard { Some(soft) } else { Some(hard).filter(|&hard| hard > most && !os::may_raise_limits()) };
        if let Some(value) = above {
            let word = |value: u64| if value == os::NO_LIMIT { "unlimited".to_owned() } else { value.to_string() };
            bail!("cannot set its limit {resource} to {}: this user may have {} at most", word(value), word(most));
        }
        limits.push((resource, soft, hard));
    }
    os::restrict(command, limits, service.umask.map(|mask| mask.0));
    Ok(())
}

/// What the system refuses said better than it does, where the folder is none.
#[must_use]
pub fn cannot_run(home: &Home, service: &Service) -> String {
    let (program, folder) = (&service.command[0], folder(home, service));
    if folder.is_dir() {
        format!("cannot run {program}")
    } else {
        format!("cannot run {program} in {}, which is not a folder", folder.display())
    }
}

fn folder(home: &Home, service: &Service) -> PathBuf {
    service.directory.as_ref().map_or_else(|| home.root().to_owned(), |folder| home.root().join(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_files() {
        let text = "# comment\n\nA=1\nexport B = two words \nC='it # is'\nD=\"say \\\"hi\\\"\\n\"\n; other\nE=\n";
        let read: Vec<(String, String)> = parse(text).unwrap();
        let wanted = [("A", "1"), ("B", "two words"), ("C", "it # is"), ("D", "say \"hi\"\n"), ("E", "")];
        assert_eq!(read, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for (bad, wanted) in [
            ("A=1\nnonsense", "line 2 is not"),
            ("1A=2", "no name"),
            ("A=\"x", "without an end"),
            ("A='x' y", "without an end"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(wanted), "{bad:?}: {error}");
        }
    }
}
