//! Go of exactly one version, which any go from 1.21 on obtains (GOTOOLCHAIN), and where it takes modules from.

use crate::dirs::Dirs;
use crate::environment;
use crate::error::{Kind, WithKind as _};
use crate::shell::Network;
use crate::supply::Supply;
use std::path::{Path, PathBuf};

/// What GOTOOLCHAIN wants for a version as recipes write it: `1.24.1` or `go1.24.1`.
pub fn go_toolchain(version: &str) -> String {
    if version.starts_with("go") { version.to_owned() } else { format!("go{version}") }
}

/// The variables by which go is exactly of that version, and takes modules from where it may.
///
/// # Errors
/// [`Kind::Fetch`] where go cannot be asked for its proxy.
pub fn variables(version: &str, network: Network, supply: &Supply, dirs: &Dirs) -> anyhow::Result<Vec<(&'static str, String)>> {
    let modules = supply.go(dirs);
    // Without cgo the programs need no library of the host at all. A step that needs it (SQLite in C) says so.
    let mut variables = vec![("GOTOOLCHAIN", go_toolchain(version)), ("CGO_ENABLED", "0".to_owned())];
    variables.push(("GOMODCACHE", modules.to_string_lossy().into_owned()));
    if network != Network::Open {
        // What is in the module cache was checked when it came there.
        variables.extend([("GOSUMDB", "off".to_owned()), ("GONOPROXY", "none".to_owned()), ("GOPRIVATE", String::new())]);
    }
    match network {
        Network::Open if supply.gathered().is_some() => {
            let usual = dirs.cache("go").join("pkg/mod");
            variables.push(("GOPROXY", format!("{},{}", proxy(&usual)?, usual_proxy(dirs)?)));
        }
        Network::Open => {}
        // Only with a proxy of files alone does go take a toolchain that no checksum database vouches for.
        Network::Offline => variables.push(("GOPROXY", proxy(&modules)?)),
        // Compiling must not find modules that nobody pinned, even if they are in the cache.
        Network::Closed => variables.push(("GOPROXY", "off".to_owned())),
    }
    Ok(variables)
}

/// The module that holds a go for this platform.
pub fn toolchain_module(version: &str) -> String {
    let os = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("golang.org/toolchain@v0.0.1-{}.{os}-{arch}", go_toolchain(version))
}

/// A module cache as a proxy: what go has downloaded lies there as a proxy would serve it.
fn proxy(modules: &Path) -> anyhow::Result<String> {
    let folder: PathBuf = modules.join("cache/download");
    let url = reqwest::Url::from_file_path(&folder);
    url.map(String::from).map_err(|()| Kind::Preflight.error(format!("{} is no path that go can use", folder.display())))
}

/// Where this user's go takes modules from.
fn usual_proxy(dirs: &Dirs) -> anyhow::Result<String> {
    let shell = xshell::Shell::new()?;
    let command = xshell::cmd!(shell, "go env GOPROXY").quiet().env_clear();
    let env = environment::base(dirs, 0);
    let command = env.iter().fold(command, |command, (name, value)| command.env(name, value)).env("GOTOOLCHAIN", "local");
    command.read().kind(Kind::Fetch, || "cannot ask go for its proxy".to_owned())
}
