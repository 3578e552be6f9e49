//! What a service is: how a component of the bundle is started, probed and stopped.
//!
//! [`Service`] is the one definition of three formats, so that nothing is said twice:
//!
//! - the `[service]` table of a recipe (`recipes/<component>.toml`),
//! - the entries of `services` in a bundle's `manifest.json`,
//! - the files `DATA/conf/services.d/<name>.toml` of an installed data folder.
//!
//! In the first two every string is a minijinja template (`{{ bundle }}`, `{{ data }}`, `{{ ports.carbon }}` …); the
//! installer renders them once with [`Service::map_strings`], and the supervisor reads plain values. Unknown keys are refused
//! everywhere, so a misspelt key is an error and not a default.
//!
//! This module promises that what it accepts is consistent ([`Service::validate`]); running services is left to the
//! launcher's supervisor.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize};

mod log;
mod password;
mod probe;
mod value;

pub use log::{LogPolicy, OnFull};
pub use password::PasswordReset;
pub use probe::{Health, HealthAction, Probe, Question, StatusRange};
pub use value::{Limit, Resource, Restart, Seconds, Umask};

/// How a component is started, probed and stopped. See the module's documentation for where this is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Service {
    /// The name by which `dkm` knows it. May be left out in a recipe, where it is the recipe's name; never empty elsewhere.
    #[serde(default)]
    pub name: String,

    /// One line for people: what the service does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,

    /// Other names that the commands accept (`grafana-server` for `grafana`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,

    /// The types of installation that include the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<InstallType>,

    /// The program (an absolute path once rendered) and its arguments. It has to stay in the foreground.
    pub command: Vec<String>,

    /// A command that validates the service's configuration and exits; `dkm check` runs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub check: Vec<String>,

    /// The folder the service runs in. Default: the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,

    /// Variables set on top of the supervisor's own environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,

    /// Files of `NAME=VALUE` lines, one or several, read at each start; `environment` wins over them. A relative path begins in the
    /// data folder; a file with a dash before its path may be missing.
    #[serde(default, deserialize_with = "one_or_more", skip_serializing_if = "Vec::is_empty")]
    pub environment_file: Vec<String>,

    /// The permissions that the service's new files do not get, in octal. Default: `"077"`, as the supervisor has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<Umask>,

    /// Limits by `setrlimit(2)`: `{ nofile = "1024:4096", core = "unlimited" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<Resource, Limit>,

    /// Services that must be ready before this one starts, and that stop after it. Names that are not installed are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,

    /// Services that this one cannot do without: as `after`, and a start of this one starts them, it is not started while one of
    /// them cannot be, and it stops and restarts with them. Their names have to be installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,

    /// The signal that asks the service's process group to end.
    #[serde(default = "default_stop_signal")]
    pub stop_signal: StopSignal,

    /// Seconds between the stop signal and KILL.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout_s: u32,

    /// Seconds that a stop may wait until the service has read what the system has already accepted on its `ports`. For services that
    /// close their sockets on the stop signal without reading what is in them. Default: no wait.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drain_timeout_s: u32,

    /// The signal that makes the service read its configuration again, if it knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload_signal: Option<StopSignal>,

    /// Whether the service is started again when it ends by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: Restart,

    /// The pause before the second restart in a row (the first is at once); each later one is twice as long.
    #[serde(default = "default_restart_pause", skip_serializing_if = "is_restart_pause")]
    pub restart_pause_s: Seconds,

    /// No pause is longer than this.
    #[serde(default = "default_longest_pause", skip_serializing_if = "is_longest_pause")]
    pub restart_longest_pause_s: Seconds,

    /// A service that was ready for this long has its earlier failures forgotten.
    #[serde(default = "default_good_run", skip_serializing_if = "is_good_run")]
    pub good_run_s: Seconds,

    /// Seconds that the service may take from its start until all probes pass; `dkm start` reports a failure after that.
    #[serde(default = "default_ready_timeout")]
    pub ready_timeout_s: u32,

    /// What the service listens on; checked to be free before each start and by the installer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,

    /// The service is ready when all of them pass. Without probes it is ready when it has lived for half a second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,

    /// Looks whether the service, once it is ready, is still well. Default: nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,

    /// How its administrator gets a new password. Default: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_password: Option<PasswordReset>,

    /// Files that the installer renders into the data folder. Not repeated in `services.d`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigFile>,

    /// Folders that the installer makes in the data folder. Not repeated in `services.d`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<String>,

    /// How much of the service's output is kept.
    #[serde(default, skip_serializing_if = "LogPolicy::is_default")]
    pub log: LogPolicy,

    /// Whether the service belongs to "all". One that is not enabled is started only by its name.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
}

/// A type of installation: which part of the monitor a machine carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum InstallType {
    /// Everything: storage, queries, pictures, and this machine's own metrics
    All,
    /// Storage, queries and pictures, for metrics that other machines send
    Server,
    /// Only this machine's metrics, sent to a server elsewhere
    Agent,
    /// Storage and queries, without pictures
    Backend,
    /// Queries and pictures, from the storage of other machines
    Frontend,
    /// Storage, queries and this machine's own metrics, without pictures
    BackendAgent,
}

impl InstallType {
    /// The components that a type consists of. A bundle may lack some; it then is no bundle for that type.
    #[must_use]
    pub fn components(self) -> &'static [&'static str] {
        match self {
            Self::All => &["go-carbon", "carbonapi", "grafana", "collectd"],
            Self::Server => &["go-carbon", "carbonapi", "grafana"],
            Self::Agent => &["collectd"],
            Self::Backend => &["go-carbon", "carbonapi"],
            Self::Frontend => &["carbonapi", "grafana"],
            Self::BackendAgent => &["go-carbon", "carbonapi", "collectd"],
        }
    }
}

impl fmt::Display for InstallType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Backend => "backend",
            Self::Frontend => "frontend",
            Self::BackendAgent => "backend-agent",
        })
    }
}

/// A port that a service listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Port {
    /// What it is for, in one word (`carbon`, `grafana` …).
    pub name: String,
    /// The address it listens on. Default: loopback.
    #[serde(default = "default_address")]
    pub address: String,
    /// The number, as a string because a template may give it. An integer is accepted too.
    #[serde(deserialize_with = "string_or_number")]
    pub port: String,
    /// `tcp`, `udp`, or both. Default: TCP alone.
    #[serde(default = "default_protocols")]
    pub protocols: Vec<Protocol>,
}

impl Port {
    /// The rendered number.
    ///
    /// # Errors
    /// When it is not a number from 1 to 65535.
    pub fn number(&self) -> Result<u16> {
        match self.port.trim().parse() {
            Ok(0) | Err(_) => bail!("port \"{}\" of \"{}\" is not a number from 1 to 65535", self.port, self.name),
            Ok(number) => Ok(number),
        }
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Stream sockets.
    Tcp,
    /// Datagram sockets.
    Udp,
}

/// A file that the installer makes in the data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigFile {
    /// Path in the bundle. A name that ends in `.j2` is rendered, any other file is copied byte by byte.
    pub template: String,
    /// Path in the data folder.
    pub to: String,
    /// Octal mode. Default: 0600, since configuration may hold secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// A signal by its name, as in `signal(7)`; written `SIGTERM`, read with or without `SIG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StopSignal(pub nix::sys::signal::Signal);

impl TryFrom<String> for StopSignal {
    type Error = anyhow::Error;

    fn try_from(name: String) -> Result<Self> {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
        full.parse().map(Self).map_err(|_| anyhow::anyhow!("\"{name}\" is not the name of a signal, such as SIGTERM"))
    }
}

impl FromStr for StopSignal {
    type Err = anyhow::Error;

    /// Reads a signal's name or number, as a person gives it.
    fn from_str(text: &str) -> Result<Self> {
        match text.parse::<i32>().map(nix::sys::signal::Signal::try_from) {
            Ok(Ok(signal)) => Ok(Self(signal)),
            Ok(Err(_)) => bail!("{text} is not the number of a signal"),
            Err(_) => text.to_owned().try_into(),
        }
    }
}

impl From<StopSignal> for String {
    fn from(signal: StopSignal) -> Self {
        signal.0.as_str().to_owned()
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

fn default_stop_signal() -> StopSignal {
    StopSignal(nix::sys::signal::Signal::SIGTERM)
}

/// Ten seconds, as supervisord and carbonapi's own graceful shutdown have it.
fn default_stop_timeout() -> u32 {
    10
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn default_ready_timeout() -> u32 {
    60
}

fn default_restart_pause() -> Seconds {
    Seconds(Duration::from_millis(500))
}

fn default_longest_pause() -> Seconds {
    Seconds(Duration::from_secs(30))
}

fn default_good_run() -> Seconds {
    Seconds(Duration::from_secs(30))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

fn yes() -> bool {
    true
}

fn is_restart_pause(value: &Seconds) -> bool {
    *value == default_restart_pause()
}

fn is_longest_pause(value: &Seconds) -> bool {
    *value == default_longest_pause()
}

fn is_good_run(value: &Seconds) -> bool {
    *value == default_good_run()
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    value::OneOrMore::deserialize(deserializer).map(Into::into)
}

fn default_address() -> String {
    "127.0.0.1".to_owned()
}

fn default_protocols() -> Vec<Protocol> {
    vec![Protocol::Tcp]
}

fn string_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    value::NumberOrText::deserialize(deserializer).map(Into::into)
}

impl Service {
    /// A service of which nothing is known but its name: it can be found and stopped, and cannot be started.
    #[must_use]
    pub fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            summary: String::new(),
            aliases: Vec::new(),
            types: Vec::new(),
            command: Vec::new(),
            check: Vec::new(),
            directory: None,
            environment: BTreeMap::new(),
            environment_file: Vec::new(),
            umask: None,
            limits: BTreeMap::new(),
            after: Vec::new(),
            requires: Vec::new(),
            stop_signal: default_stop_signal(),
            stop_timeout_s: default_stop_timeout(),
            drain_timeout_s: 0,
            reload_signal: None,
            restart: Restart::default(),
            restart_pause_s: default_restart_pause(),
            restart_longest_pause_s: default_longest_pause(),
            good_run_s: default_good_run(),
            ready_timeout_s: default_ready_timeout(),
            ports: Vec::new(),
            probes: Vec::new(),
            health: None,
            reset_password: None,
            config: Vec::new(),
            folders: Vec::new(),
            log: LogPolicy::default(),
            enabled: true,
        }
    }

    /// The texts that are waited for in its log, each with the number of its probe; that of the health check is
    /// [`Service::HEALTH`].
    pub fn awaited_texts(&self) -> impl Iterator<Item = (usize, String)> {
        let probes = self.probes.iter().enumerate();
        let health = self.health.iter().map(|health| (Self::HEALTH, &health.probe));
        probes.chain(health).filter_map(|(number, probe)| match &probe.question {
            Question::Log(text) => Some((number, text.clone())),
            _ => None,
        })
    }

    /// The number of the health check among the probes.
    pub const HEALTH: usize = usize::MAX;

    /// Whether it tells of itself on a socket.
    #[must_use]
    pub fn notifies(&self) -> bool {
        let health = self.health.iter().map(|health| &health.probe);
        self.probes.iter().chain(health).any(|probe| probe.question == Question::Notify)
    }

    /// The service with `render` applied to every string that may be a template: all values except the name, the aliases, the
    /// types and the names of environment variables.
    ///
    /// # Errors
    /// The first error of `render`, with the service's name and the place.
    pub fn map_strings(&self, mut render: impl FnMut(&str) -> Result<String>) -> Result<Self> {
        let mut one = |place: &str, text: &str| {
            render(text).with_context(|| format!("cannot render {place} of the service {}", self.name))
        };
        let mut out = self.clone();
        for text in &mut out.command {
            *text = one("command", text)?;
        }
        for text in &mut out.check {
            *text = one("check", text)?;
        }
        if let Some(text) = &mut out.directory {
            *text = one("directory", text)?;
        }
        for (key, text) in &mut out.environment {
            *text = one(&format!("environment.{key}"), text)?;
        }
        for port in &mut out.ports {
            port.address = one("ports", &port.address)?;
            port.port = one("ports", &port.port)?;
        }
        for text in &mut out.environment_file {
            *text = one("environment-file", text)?;
        }
        for text in out.probes.iter_mut().flat_map(Probe::strings) {
            *text = one("probes", text)?;
        }
        for text in out.health.iter_mut().flat_map(|health| health.probe.strings()) {
            *text = one("health", text)?;
        }
        for text in out.reset_password.iter_mut().flat_map(PasswordReset::strings) {
            *text = one("reset-password", text)?;
        }
        for file in &mut out.config {
            file.template = one("config", &file.template)?;
            file.to = one("config", &file.to)?;
        }
        for text in &mut out.folders {
            *text = one("folders", text)?;
        }
        Ok(out)
    }

    /// Whether `name` is the service's name or one of its aliases, or a pattern with `*` and `?` that one of these matches.
    #[must_use]
    pub fn answers_to(&self, name: &str) -> bool {
        std::iter::once(&self.name).chain(&self.aliases).any(|own| own == name || matches(name.as_bytes(), own.as_bytes()))
    }

    /// The services that have to be up before it, as far as they are installed.
    pub fn waits_for(&self) -> impl Iterator<Item = &str> {
        self.after.iter().chain(&self.requires).map(String::as_str)
    }

    /// Whether it belongs to what was asked for by no name, "all" or a pattern: these leave out what is not enabled. (A verb that
    /// stops or shows something asks [`Service::answers_to`] alone.)
    #[must_use]
    pub fn starts_by(&self, name: &str) -> bool {
        self.answers_to(name) && (self.enabled || !name.contains(['*', '?']))
    }

    fn validate_values(&self) -> Result<()> {
        let name = &self.name;
        if let Some(other) = self.after.iter().chain(&self.requires).find(|other| *other == name) {
            bail!("the service {name} waits for itself: it names {other} in `after` or `requires`");
        }
        for (variable, value) in &self.environment {
            if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
                bail!("the service {name} sets a variable that cannot be: \"{}\"", variable.escape_debug());
            }
        }
        if let Some(health) = &self.health
            && (health.period_s.0.is_zero() || health.threshold == 0)
        {
            bail!("the health check of the service {name} needs a period-s and a threshold above 0");
        }
        if self.restart_longest_pause_s < self.restart_pause_s {
            bail!("the service {name} has a restart-pause-s above its restart-longest-pause-s");
        }
        Ok(())
    }

    /// Checks what the type alone cannot say: a usable name, a command, paths that stay inside.
    ///
    /// # Errors
    /// The first thing found wrong, in words.
    pub fn validate(&self) -> Result<()> {
        for name in std::iter::once(&self.name).chain(&self.aliases) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) || name.starts_with(['.', '-']) {
                bail!(
                    "the service name \"{}\" is not usable: 1 to 64 of A-Z a-z 0-9 - _ . and no leading dot or dash",
                    name.escape_debug()
                );
            }
            if name == "all" {
                bail!("a service cannot be named \"all\": the commands use that word for every service");
            }
            // Their locks lie beside those of the services.
            if matches!(name.as_str(), "supervisor" | "compress") {
                bail!("a service cannot be named \"{name}\": the supervisor has files of that name");
            }
        }
        if self.command.first().is_none_or(String::is_empty) {
            bail!("the service {} has no command", self.name);
        }
        self.log.validate().with_context(|| format!("cannot use the service {}", self.name))?;
        self.validate_values()?;
        for path in self.config.iter().flat_map(|file| [&file.template, &file.to]).chain(&self.folders) {
            let inside = !path.is_empty()
                && std::path::Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if !inside {
                bail!("the service {} names the path \"{path}\", which is not a plain relative path", self.name);
            }
        }
        for file in &self.config {
            if let Some(mode) = &file.mode
                && u32::from_str_radix(mode, 8).is_err()
            {
                bail!("the service {} gives {} the mode \"{mode}\", which is not octal", self.name, file.to);
            }
        }
        Ok(())
    }
}

/// Whether a text matches a pattern, in which `*` stands for anything and `?` for one character.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where to go on after the last star, should what follows not fit: one character later in the text.
    let mut again: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                again = Some((at, seen));
            }
            Some(&wanted) if wanted == b'?' || wanted == text[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((star, from)) = again else { return false };
                again = Some((star, from + 1));
                (at, seen) = (star, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests;
