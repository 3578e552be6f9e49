//! The environment of build commands: clean, fixed, and the same for everyone.
//!
//! Nothing of the caller's environment gets in but what says how to reach registries and which certificates to trust;
//! every folder that tools like to write to is below `build/`.

use crate::dirs::Dirs;
use crate::stack::recipe::Action;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// A whole environment.
pub type Environment = BTreeMap<String, OsString>;

/// Variables that pass through. They decide where packages come from and whom to trust; what comes is checked by each
/// ecosystem's own hashes (go.sum, lock files).
const PASSED: [&str; 24] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "GOPROXY",
    "GONOPROXY",
    "GOSUMDB",
    "GONOSUMDB",
    "GOPRIVATE",
    "GOINSECURE",
    "GOFIPS140",
    "NPM_CONFIG_REGISTRY",
    "npm_config_registry",
    "YARN_NPM_REGISTRY_SERVER",
];

/// Variables of [`base`] that are other ones for every user or source.
const PERSONAL: [&str; 5] = ["CARGO_HOME", "RUSTUP_HOME", "npm_config_userconfig", "GOENV", "SOURCE_DATE_EPOCH"];

/// The environment that every build command starts from; `epoch` becomes SOURCE_DATE_EPOCH (seconds since 1970).
pub fn base(dirs: &Dirs, epoch: u64) -> Environment {
    let mut env = Environment::new();
    for name in PASSED {
        if let Some(value) = std::env::var_os(name) {
            env.insert(name.to_owned(), value);
        }
    }
    let mut set = |name: &str, value: OsString| drop(env.insert(name.to_owned(), value));
    set("HOME", dirs.home().into());
    set("TMPDIR", dirs.tmp().into());
    // "C.UTF-8" is missing on macOS, where "C" handles UTF-8 well enough for compilers.
    set("LC_ALL", if cfg!(target_os = "macos") { "C" } else { "C.UTF-8" }.into());
    set("TZ", "UTC".into());
    set("SOURCE_DATE_EPOCH", epoch.to_string().into());
    // Tools that ask, colour or report home do none of it.
    set("CI", "true".into());
    set("NO_COLOR", "1".into());
    set("GIT_TERMINAL_PROMPT", "0".into());
    set("GOPATH", dirs.cache("go").into());
    set("GOCACHE", dirs.cache("go-build").into());
    set("GOTELEMETRY", "off".into());
    set("GOFLAGS", "".into());
    set("npm_config_cache", dirs.cache("npm").into());
    set("npm_config_update_notifier", "false".into());
    set("npm_config_audit", "false".into());
    set("npm_config_fund", "false".into());
    set("YARN_GLOBAL_FOLDER", dirs.cache("yarn").into());
    set("YARN_ENABLE_TELEMETRY", "0".into());
    set("YARN_ENABLE_PROGRESS_BARS", "false".into());
    // HOME is another one, but where packages come from is still what the user has set up.
    for (name, file) in [("npm_config_userconfig", ".npmrc"), ("GOENV", ".config/go/env")] {
        if let Some(path) = users_file(name, file) {
            set(name, path.into());
        }
    }
    for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        if let Some(path) = std::env::var_os(name).or_else(|| Some(home()?.join(folder).into())) {
            set(name, path);
        }
    }
    env
}

/// Whether a variable is this user's or this machine's: what is written down for others has none of those.
pub fn is_personal(name: &str) -> bool {
    PASSED.contains(&name) || PERSONAL.contains(&name) || name.to_ascii_lowercase().contains("registry")
}

/// The fixed part of the environment as text, the same wherever the build folder lies: what of it a result depends on.
pub fn fixed(dirs: &Dirs) -> String {
    use std::fmt::Write as _;
    let places = dirs.places();
    let mut text = String::new();
    for (name, value) in base(dirs, 0) {
        if PASSED.contains(&name.as_str()) || PERSONAL.contains(&name.as_str()) {
            continue;
        }
        let value = places.iter().fold(value.to_string_lossy().into_owned(), |value, place| value.replace(place, "{build}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

/// What the user has set up besides that could change what a step makes, by name: not where packages come from and how
/// they are reached, since what comes is pinned.
pub fn settings(action: &Action<'_>) -> Vec<(String, String)> {
    const NO_MATTER_GO: [&str; 15] = [
        "GOPROXY",
        "GONOPROXY",
        "GOSUMDB",
        "GONOSUMDB",
        "GOPRIVATE",
        "GOINSECURE",
        "GOAUTH",
        "GOVCS",
        "GOTELEMETRY",
        "GOPATH",
        "GOCACHE",
        "GOMODCACHE",
        "GOBIN",
        "GOTMPDIR",
        "GOTOOLCHAIN",
    ];
    const NO_MATTER_NPM: [&str; 10] =
        ["registry", "proxy", "_auth", "_password", "username", "email", "cafile", "cache", "strict-ssl", "loglevel"];
    let lines = |variable: &str, file: &str, no_matter: &dyn Fn(&str) -> bool| {
        let text = users_file(variable, file).and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let lines: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
            .filter(|line| !no_matter(line.split('=').next().unwrap_or(line).trim()))
            .map(str::to_owned)
            .collect();
        (!lines.is_empty()).then(|| (variable.to_owned(), lines.join("\n")))
    };
    match action {
        Action::Go(_) => {
            let file = lines("GOENV", ".config/go/env", &|name| NO_MATTER_GO.contains(&name));
            let fips = std::env::var("GOFIPS140").ok().map(|value| ("GOFIPS140".to_owned(), value));
            file.into_iter().chain(fips).collect()
        }
        Action::Node(_) => {
            let no_matter = |name: &str| NO_MATTER_NPM.iter().any(|word| name.contains(word));
            lines("npm_config_userconfig", ".npmrc", &no_matter).into_iter().collect()
        }
        Action::Cargo(_) => cargo_settings().into_iter().collect(),
        Action::Autotools(_) | Action::Manual => Vec::new(),
    }
}

/// What the user has told cargo about compiling: profiles, flags, linkers.
fn cargo_settings() -> Option<(String, String)> {
    const NO_MATTER: [&str; 11] = [
        "source",
        "registries",
        "registry",
        "net",
        "http",
        "credential-alias",
        "alias",
        "term",
        "cargo-new",
        "install",
        "cache",
    ];
    let folder = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cargo")))?;
    // Both names count, the old one first.
    let path = ["config", "config.toml"].map(|name| folder.join(name)).into_iter().find(|path| path.is_file())?;
    let text = std::fs::read_to_string(path).ok()?;
    let told = match text.parse::<toml::Table>() {
        Ok(mut table) => {
            table.retain(|name, _| !NO_MATTER.contains(&name));
            if table.is_empty() {
                return None;
            }
            table.to_string()
        }
        // Cargo will tell what is wrong with it.
        Err(_) => text,
    };
    Some(("cargo's config.toml".to_owned(), told))
}

fn users_file(variable: &str, file: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from).or_else(|| Some(home()?.join(file)))?;
    path.is_file().then_some(path)
}

fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

/// The environment with a folder put in front of PATH.
pub fn with_path(mut env: Environment, folder: &std::path::Path) -> Environment {
    let old = env.get("PATH").cloned().unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&old));
    // A folder whose name holds a ':' cannot be on a PATH at all; then the old one has to do.
    if let Ok(path) = std::env::join_paths(folders) {
        env.insert("PATH".to_owned(), path);
    }
    env
}
