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
//! This module promises that what it accepts is consistent ([`Service::validate`]); running services is left to
//! [`supervise`](crate::supervise).

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize};

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

    /// Services that must be ready before this one starts, and that stop after it. Names that are not installed are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,

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

    /// Seconds that the service may take from its start until all probes pass; `dkm start` reports a failure after that.
    #[serde(default = "default_ready_timeout")]
    pub ready_timeout_s: u32,

    /// What the service listens on; checked to be free before each start and by the installer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,

    /// The service is ready when all of them pass. Without probes it is ready when it has lived for half a second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,

    /// Files that the installer renders into the data folder. Not repeated in `services.d`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigFile>,

    /// Folders that the installer makes in the data folder. Not repeated in `services.d`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<String>,

    /// How much of the service's output is kept.
    #[serde(default, skip_serializing_if = "LogPolicy::is_default")]
    pub log: LogPolicy,
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
    /// Storage, queries and this machine's own metrics, without pictures
    BackendAgent,
}

impl fmt::Display for InstallType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Backend => "backend",
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

/// One question whose answer tells whether a service is ready. Exactly one key is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Probe {
    /// `HOST:PORT`; passes when a connection is accepted.
    Tcp(String),
    /// `http://HOST:PORT/PATH`; passes when the answer's status is from 200 to 399.
    Http(String),
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Http(url) => f.write_str(url),
        }
    }
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

/// What is kept of a service's output, and how; for ages and sizes 0 means without bound. `max-` is about the file that is being
/// written, `keep` about the rotated ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LogPolicy {
    /// A file that would grow beyond this many bytes is rotated.
    pub max_bytes: u64,
    /// A file whose first line is older than this many seconds is rotated when the next line comes.
    pub max_age_s: u64,
    /// How many rotated files are kept beside the current one.
    pub keep: u32,
    /// Rotated files are removed when they are older than this many seconds.
    pub keep_age_s: u64,
    /// The most bytes that all files of the log may have together; the oldest go first.
    pub keep_bytes: u64,
    /// Whether rotated files are compressed.
    pub compress: bool,
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// What happens to output when the disk is full.
    pub on_full: OnFull,
    /// How many last lines are kept with a crash; 0: no report is written.
    pub crash_lines: u32,
    /// How many reports of crashes are kept.
    pub crash_keep: u32,
}

/// What happens to a service's output when it cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// It is dropped and counted, and the service goes on.
    Drop,
    /// It waits in the FIFO, and when that is full the service waits too: nothing is lost.
    Block,
}

impl LogPolicy {
    /// 10 MB, five compressed old files: at most about 20 MB a service; the last 50 lines of the last 5 crashes.
    pub const DEFAULT: Self = Self {
        max_bytes: 10_000_000,
        max_age_s: 0,
        keep: 5,
        keep_age_s: 0,
        keep_bytes: 0,
        compress: true,
        timestamps: false,
        on_full: OnFull::Drop,
        crash_lines: 50,
        crash_keep: 5,
    };

    fn is_default(&self) -> bool {
        *self == Self::DEFAULT
    }

    /// Checks what the type alone cannot say.
    ///
    /// # Errors
    /// The first thing found wrong, in words.
    pub fn validate(&self) -> Result<()> {
        let Self { max_bytes, keep_bytes, .. } = *self;
        if keep_bytes > 0 && (max_bytes == 0 || keep_bytes < max_bytes) {
            bail!("its log may have {keep_bytes} bytes in all (keep-bytes), and one file of it more (max-bytes {max_bytes})");
        }
        Ok(())
    }
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
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

fn default_address() -> String {
    "127.0.0.1".to_owned()
}

fn default_protocols() -> Vec<Protocol> {
    vec![Protocol::Tcp]
}

fn string_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
        Text(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    })
}

impl Service {
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
        for probe in &mut out.probes {
            let (Probe::Tcp(text) | Probe::Http(text)) = probe;
            *text = one("probes", text)?;
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

    /// Whether `name` is the service's name or one of its aliases.
    #[must_use]
    pub fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
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
        }
        if self.command.first().is_none_or(String::is_empty) {
            bail!("the service {} has no command", self.name);
        }
        self.log.validate().with_context(|| format!("cannot use the service {}", self.name))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const CARBON: &str = r#"
        name = "go-carbon"
        types = ["all", "backend-agent"]
        command = ["{{ bundle }}/bin/go-carbon", "-daemon=false"]
        stop-signal = "USR2"
        stop-timeout-s = 60
        ports = [{ name = "carbon", port = "{{ ports.carbon }}", protocols = ["tcp", "udp"] }, { name = "x", port = 7 }]
        probes = [{ tcp = "127.0.0.1:{{ ports.carbon }}" }, { http = "http://127.0.0.1:1/robots.txt" }]
        config = [{ template = "conf/go-carbon.conf.j2", to = "conf/go-carbon.conf" }]
        folders = ["storage/whisper"]
    "#;

    #[test]
    fn reads_the_recipe_form_and_round_trips_in_both_formats() {
        let service: Service = toml::from_str(CARBON).unwrap();
        service.validate().unwrap();
        assert_eq!(service.stop_signal.to_string(), "SIGUSR2");
        assert_eq!(service.ports[1].number().unwrap(), 7);
        assert_eq!(toml::from_str::<Service>(&toml::to_string(&service).unwrap()).unwrap(), service);
        assert_eq!(serde_json::from_str::<Service>(&serde_json::to_string(&service).unwrap()).unwrap(), service);
    }

    #[test]
    fn every_template_is_rendered() {
        let service: Service = toml::from_str(CARBON).unwrap();
        let rendered = service.map_strings(|text| Ok(text.replace("{{ ports.carbon }}", "2003"))).unwrap();
        assert_eq!(rendered.ports[0].number().unwrap(), 2003);
        assert_eq!(rendered.probes[0], Probe::Tcp("127.0.0.1:2003".into()));
        assert!(service.ports[0].number().is_err(), "an unrendered port is not a number");
    }

    #[test]
    fn unknown_keys_types_and_signals_are_refused() {
        for bad in ["comand = []", "types = [\"everything\"]", "stop-signal = \"SIGNAL\"", "probes = [{ ftp = \"x\" }]"] {
            let text = format!("name = \"x\"\ncommand = [\"/bin/x\"]\n{bad}\n");
            assert!(toml::from_str::<Service>(&text).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn paths_that_climb_out_and_odd_names_are_refused() {
        for bad in
            ["name = \"a/b\"", "name = \"all\"", "name = \"x\"\nfolders = [\"../x\"]", "name = \"x\"\nfolders = [\"/x\"]"]
        {
            let service: Service = toml::from_str(&format!("command = [\"/bin/x\"]\n{bad}\n")).unwrap();
            assert!(service.validate().is_err(), "{bad} was accepted");
        }
    }
}
