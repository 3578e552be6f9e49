//! The place of the data folder: free, big enough, and with a path that everybody can use.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Problems;
use crate::service::{InstallType, Service};

/// How long the path of a Unix socket may be, its end included, where the system takes the least.
const SOCKET_PATH: usize = 104;

/// The absolute path of the folder to make, after everything about it has been looked at.
///
/// # Errors
/// When no data folder can be there.
pub fn data_folder(asked: &Path, bundle: &Path) -> Result<PathBuf> {
    let (real, rest) = follow(asked)?;
    if !real.is_dir() {
        bail!("{} is not a folder", real.display());
    }
    let data: PathBuf = std::iter::once(real.as_os_str()).chain(rest.iter().map(std::ffi::OsString::as_os_str)).collect();
    let text = data.to_string_lossy();
    if text.contains(|c: char| c.is_control()) {
        bail!("the path \"{}\" has a control character, which the services' configuration cannot hold", text.escape_debug());
    }
    if data.starts_with(bundle) || bundle.starts_with(&data) {
        bail!(
            "{} and the bundle {} lie in one another: the next version would take the data with it",
            data.display(),
            bundle.display()
        );
    }
    if rest.is_empty() {
        let mut entries = fs::read_dir(&data).with_context(|| format!("cannot look into {}", data.display()))?;
        if entries.next().is_some() {
            bail!("the folder {} is not empty: name a new one, or empty it first", data.display());
        }
    }
    // An empty folder is replaced, so that it is its parent that has to be writable.
    let parent = if rest.is_empty() { real.parent().unwrap_or(&real).to_owned() } else { real };
    nix::unistd::access(&parent, nix::unistd::AccessFlags::W_OK)
        .with_context(|| format!("cannot make anything in {}", parent.display()))?;
    Ok(data)
}

/// The part of a path that exists, free of links, and the rest as it is written.
fn follow(asked: &Path) -> Result<(PathBuf, Vec<std::ffi::OsString>)> {
    let name = asked.display();
    let mut existing = std::path::absolute(asked).with_context(|| format!("cannot use the path \"{name}\""))?;
    let mut rest = Vec::new();
    loop {
        match existing.canonicalize() {
            Ok(real) => {
                rest.reverse();
                return Ok((real, rest));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if existing.is_symlink() {
                    bail!("{} is a link that leads nowhere", existing.display());
                }
                match existing.components().next_back() {
                    Some(Component::Normal(part)) => rest.push(part.to_owned()),
                    _ => bail!("the path {name} leads through a folder that does not exist and back"),
                }
                existing.pop();
            }
            Err(error) => return Err(error).with_context(|| format!("cannot look at {}", existing.display())),
        }
    }
}

/// Whether there is room for the folder and for what comes first.
///
/// # Errors
/// When there is not, or the file system does not tell.
pub fn space(data: &Path, kind: InstallType) -> Result<()> {
    // One that is wrong altogether is told of elsewhere.
    let Some(place) = data.ancestors().find(|path| path.is_dir()) else { return Ok(()) };
    let stat =
        nix::sys::statvfs::statvfs(place).with_context(|| format!("cannot ask how much room is in {}", place.display()))?;
    // The systems do not agree on the types of these.
    let bytes = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    // Some file systems make inodes as they are needed, and say that they have none.
    let inodes = if stat.files() == 0 { u64::MAX } else { stat.files_available() as u64 };
    match too_little(bytes, inodes, kind) {
        Some(text) => bail!("{} {text}", place.display()),
        None => Ok(()),
    }
}

/// In words, that this is too little.
fn too_little(bytes: u64, inodes: u64, kind: InstallType) -> Option<String> {
    let has = |name: &str| kind.components().contains(&name);
    // Some hours of a few machines' series; Grafana's database; logs before they are rotated.
    let megabytes = if has("go-carbon") { 500 } else { 50 } + if has("grafana") { 100 } else { 0 };
    // Every series is a file.
    let files = if has("go-carbon") { 5_000 } else { 200 };
    if bytes < megabytes * 1_000_000 {
        Some(format!("has {} MB of room; {kind} needs {megabytes} MB to begin with", bytes / 1_000_000))
    } else if inodes < files {
        Some(format!("can take {inodes} more files; {kind} needs {files} to begin with"))
    } else {
        None
    }
}

/// Notes sockets whose paths are longer than the system takes. (The launcher's own is used from inside its folder.)
pub fn sockets(data: &Path, services: &[Service], problems: &mut Problems) {
    use crate::service::Question;
    for service in services {
        let mut paths = Vec::new();
        if service.notifies() {
            paths.push(data.join("run").join(format!("{}.notify", service.name)));
        }
        let health = service.health.iter().map(|health| &health.probe);
        paths.extend(service.probes.iter().chain(health).filter_map(|probe| match &probe.question {
            Question::Unix(path) => Some(PathBuf::from(path)),
            _ => None,
        }));
        for path in paths.iter().filter(|path| path.as_os_str().len() >= SOCKET_PATH) {
            problems.0.push(format!(
                "the path {} is too long for a Unix socket by {} bytes: name a shorter folder",
                path.display(),
                path.as_os_str().len() - SOCKET_PATH + 1
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_needed_by_what_is_kept() {
        assert_eq!(too_little(50_000_000, 200, InstallType::Agent), None);
        assert!(too_little(49_000_000, 200, InstallType::Agent).unwrap().starts_with("has 49 MB of room; agent needs 50 MB"));
        assert!(too_little(599_000_000, u64::MAX, InstallType::All).unwrap().contains("needs 600 MB"));
        assert!(too_little(u64::MAX, 4_999, InstallType::Backend).unwrap().contains("can take 4999 more files"));
    }

    #[test]
    fn a_socket_with_a_long_path_is_told() {
        let mut service = Service::unknown("a");
        service.probes = vec![Question::Notify.into()];
        let told = |length: usize| {
            let mut problems = Problems::default();
            sockets(Path::new(&format!("/{}", "x".repeat(length - 1))), std::slice::from_ref(&service), &mut problems);
            problems.0
        };
        use crate::service::Question;
        // "/run/a.notify" has 13 bytes.
        assert_eq!(told(90), Vec::<String>::new());
        assert!(told(92)[0].contains("too long for a Unix socket by 2 bytes"), "{:?}", told(92));
    }
}
