//! Uses a bundle as a person would: installs, starts, asks, stops, updates, and looks what is left.
//!
//! Runs in the second process ([`super`]), as somebody without rights, and knows no service by heart but those that the installer
//! itself knows ([`super::asking`]). Every wait ends.

use super::asking::{METRIC, answers, listen};
use super::telling::{Outcome, cannot, did, doing, fault, tell, wait};
use super::{Fault, Line, Surroundings};
use crate::free_ports;
use dkumonitor_interface::manifest::Manifest;
use dkumonitor_interface::service::{InstallType, Protocol, Service};
use serde_json::Value;
use std::fs::{self, DirEntry, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// How long a metric may be under way, or a process take to be gone, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// No command of the launcher takes longer: a first start of Grafana makes a database.
const COMMAND_PATIENCE: Duration = Duration::from_secs(300);

/// How many lines of a log are told.
const TAIL: usize = 12;

/// Does everything; gives the exit status.
pub fn run(around: &Surroundings) -> i32 {
    around.lacks.iter().for_each(|what| tell(&Line::Lacks(what.clone())));
    let place = &around.place;
    let trial = Trial {
        around,
        bundle: around.bundle.clone(),
        data: place.join("somebody else/data"),
        home: place.join("somebody else/home"),
    };
    match trial.run() {
        Ok(()) => 0,
        Err(fault) => {
            tell(&Line::Failed(fault));
            // What still runs would go on for ever where there is no namespace that ends with this process.
            let _ = trial.dkm(&["shutdown"]);
            1
        }
    }
}

pub struct Trial<'a> {
    pub around: &'a Surroundings,
    pub bundle: PathBuf,
    pub data: PathBuf,
    pub home: PathBuf,
}

/// What is installed.
pub struct Installed {
    pub kind: InstallType,
    pub services: Vec<Service>,
    pub password: Option<String>,
    /// Of an agent: what stands in for the carbon that it sends to.
    pub listener: Option<Receiver<String>>,
}

impl Installed {
    /// Whether it has a service of this name.
    pub fn has(&self, name: &str) -> bool {
        self.services.iter().any(|service| service.name == name)
    }

    /// The number of a port by what it is for, if a service listens on it by this protocol.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.services.iter().flat_map(|service| &service.ports);
        ports.find(|port| port.name == name && port.protocols.contains(&protocol))?.number().ok()
    }
}

impl Trial<'_> {
    fn run(&self) -> Outcome<()> {
        cannot(fs::create_dir(&self.home), "make a home")?;
        let manifest = Manifest::read(&self.bundle).map_err(|error| fault(format!("{error:#}")))?;
        if !self.bundle.join("installer").exists() {
            did("nothing of it can be installed: it has no launcher");
            return Ok(());
        }
        let Some(kind) = widest(&manifest) else {
            self.launcher(&self.bundle.join("installer"), &["--version"])?;
            did("its launcher starts; nothing of it can be installed, since every type of installation lacks a component");
            return self.nothing_is_left();
        };
        let installed = self.install(kind)?;
        self.start(&installed)?;
        self.measure(&installed)?;
        self.dashboards(&installed)?;
        self.stop(&installed)?;
        self.update()?;
        self.start_again(&installed)?;
        self.launcher(&self.data.join("bin/dkm"), &["shutdown"]).map_err(|why| self.about_services(why))?;
        self.nothing_is_left()
    }

    fn install(&self, kind: InstallType) -> Outcome<Installed> {
        doing(&format!("installing it as {kind}"));
        let port = cannot(free_ports::ten(), "find ports")?;
        let listener = if kind == InstallType::Agent { Some(listen(port + 1)?) } else { None };
        let (port_text, kind_text, data) = (port.to_string(), kind.to_string(), self.data.to_string_lossy().into_owned());
        let mut words = vec!["--data-dir", &data, "--port", &port_text, "--type", &kind_text, "--interval", "1", "--json"];
        if kind == InstallType::Agent {
            words.extend(["--carbon-server", "127.0.0.1"]);
        }
        let text = self.launcher(&self.bundle.join("installer"), &words)?;
        let said: Value = serde_json::from_str(&text).map_err(|error| fault(format!("`installer --json`: {error}: {text}")))?;
        let services = definitions(&self.data.join("conf/services.d"))?;
        let password = said["grafana-password"].as_str().map(str::to_owned);
        Ok(Installed { kind, services, password, listener })
    }

    fn start(&self, installed: &Installed) -> Outcome<()> {
        doing("starting the services");
        self.launcher(&self.data.join("bin/dkm"), &["start"]).map_err(|why| self.about_services(why))?;
        self.probe(installed)?;
        let names: Vec<&str> = installed.services.iter().map(|service| service.name.as_str()).collect();
        did(format!("installed as {}, {} services probed: {}", installed.kind, names.len(), names.join(", ")));
        Ok(())
    }

    /// Every service says that it is ready, and listens where it should.
    fn probe(&self, installed: &Installed) -> Outcome<()> {
        let text = self.dkm(&["status", "--json"])?.1;
        let states: Vec<Value> =
            serde_json::from_str(&text).map_err(|error| fault(format!("`dkm status`: {error}: {text}")))?;
        for service in &installed.services {
            let state = states.iter().find(|state| state["name"] == *service.name).map(|state| &state["state"]);
            if state.and_then(Value::as_str) != Some("running") {
                return Err(self.about(&service.name, format!("is not running: {}", state.unwrap_or(&Value::Null))));
            }
            for port in service.ports.iter().filter(|port| port.protocols.contains(&Protocol::Tcp)) {
                let number = port.number().map_err(|error| fault(format!("{error:#}")))?;
                if !answers(number) {
                    return Err(self.about(&service.name, format!("does not listen on its port {number} ({})", port.name)));
                }
            }
        }
        Ok(())
    }

    fn stop(&self, installed: &Installed) -> Outcome<()> {
        doing("stopping the services");
        self.launcher(&self.data.join("bin/dkm"), &["stop"]).map_err(|why| self.about_services(why))?;
        for service in &installed.services {
            for port in service.ports.iter().filter(|port| port.protocols.contains(&Protocol::Tcp)) {
                if port.number().is_ok_and(answers) {
                    return Err(self.about(&service.name, format!("was stopped, and still answers on port {}", port.port)));
                }
            }
        }
        Ok(())
    }

    fn update(&self) -> Outcome<()> {
        doing("updating it over itself");
        let data = self.data.to_string_lossy().into_owned();
        self.launcher(&self.bundle.join("installer"), &["--update", "--yes", "--data-dir", &data]).map(drop)
    }

    fn start_again(&self, installed: &Installed) -> Outcome<()> {
        doing("starting the services again");
        self.launcher(&self.data.join("bin/dkm"), &["start"]).map_err(|why| self.about_services(why))?;
        self.probe(installed)?;
        if let (Some(carbonapi), Some(_)) =
            (installed.port("carbonapi", Protocol::Tcp), installed.port("carbon", Protocol::Tcp))
        {
            self.wait_for_value(carbonapi, &format!("{METRIC}.tcp"), 41.5)?;
        }
        did("stopped, updated over itself, started again with what it knew");
        Ok(())
    }

    /// No process, no file outside of the data folder, and the bundle as it was.
    fn nothing_is_left(&self) -> Outcome<()> {
        doing("looking for what was left behind");
        let gone = wait(Duration::from_secs(10), || self.processes().is_empty().then_some(()));
        if gone.is_none() {
            return Err(fault(format!("processes were left behind: {}", self.processes().join("; "))));
        }
        let own = self.around.place.file_name();
        let mut left = Vec::new();
        for folder in self.around.fresh.iter().chain([&self.home]) {
            let entries = folder.read_dir().into_iter().flatten().flatten();
            left.extend(
                entries.filter(|entry| Some(&*entry.file_name()) != own).map(|entry| entry.path().display().to_string()),
            );
        }
        if !left.is_empty() {
            return Err(fault(format!("files were left outside of the data folder: {}", left.join(", "))));
        }
        self.launcher(&self.bundle.join("bin/dkmadmin"), &["verify"])?;
        did("nothing left behind, and the bundle as it was");
        Ok(())
    }

    /// What runs beside this process: everything in a namespace of its own, else what names the trial's folder.
    fn processes(&self) -> Vec<String> {
        let own = std::process::id();
        let place = self.around.place.to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            // Without words it has ended, and waits to be taken by the first process.
            if id == own || id == 1 || words.is_empty() {
                continue;
            }
            let folder = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if self.around.alone || words.contains(&place) || folder.starts_with(&self.around.place) {
                found.push(format!("{id} {}", words.trim()));
            }
        }
        found
    }

    /// Runs a program of the launcher that has to end well; what it printed.
    fn launcher(&self, program: &Path, words: &[&str]) -> Outcome<String> {
        let (good, text) = self.command(program, words)?;
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        if good { Ok(text) } else { Err(fault(format!("`{name} {}` fails: {}", words.join(" "), text.trim()))) }
    }

    fn dkm(&self, words: &[&str]) -> Outcome<(bool, String)> {
        self.command(&self.data.join("bin/dkm"), words)
    }

    /// Runs a program to its end: whether that was good, and what it printed.
    fn command(&self, program: &Path, words: &[&str]) -> Outcome<(bool, String)> {
        let said = self.data.with_file_name("said");
        let name = program.display();
        let start = || -> std::io::Result<_> {
            // A file, because a daemon that keeps a pipe open would never let it end.
            let file = File::create(&said)?;
            let mut command = Command::new(program);
            command.args(words).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", &self.home);
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
            command.current_dir(&self.home).spawn()
        };
        let mut child = start().map_err(|error| fault(format!("{name} cannot be started: {error}")))?;
        let deadline = Instant::now() + COMMAND_PATIENCE;
        let status = loop {
            if let Some(status) = cannot(child.try_wait(), "wait for a program")? {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                return Err(fault(format!("{name} {} does not end", words.join(" "))));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ok((status.success(), String::from_utf8_lossy(&fs::read(&said).unwrap_or_default()).into_owned()))
    }

    /// A failure of a service, with its log.
    pub fn about(&self, service: &str, what: String) -> Fault {
        let log = self.data.join("run/log").join(format!("{service}.log"));
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect();
        let log = log.is_file().then(|| log.strip_prefix(&self.around.place).unwrap_or(&log).to_owned());
        Fault { what, service: Some(service.to_owned()), log, tail }
    }

    /// A failure of `dkm`, blamed on the service that it is about: the first one that should run and does not.
    fn about_services(&self, why: Fault) -> Fault {
        let states = self.dkm(&["status", "--json"]).map(|(_, text)| text).unwrap_or_default();
        let states: Vec<Value> = serde_json::from_str(&states).unwrap_or_default();
        // One that only waits is not to blame.
        let is_ill = |state: &&Value| !["running", "waiting", "stopped"].iter().any(|good| state["state"] == *good);
        let Some(ill) = states.iter().find(is_ill) else { return why };
        let reason = ill["reason"].as_str().map_or_else(String::new, |reason| format!(" ({reason})"));
        let state = ill["state"].as_str().unwrap_or_default();
        let first = why.what.lines().next().unwrap_or_default();
        let command = first.split(" fails: ").next().unwrap_or_default();
        self.about(ill["name"].as_str().unwrap_or_default(), format!("is {state}{reason} after {command}"))
    }
}

/// The services that the installer has defined; the supervisor, which reads the same files, puts them in order.
pub fn definitions(folder: &Path) -> Outcome<Vec<Service>> {
    let all = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> =
        all.map_err(|error| fault(format!("{}: {error}", folder.display())))?.iter().map(DirEntry::path).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).map_err(|error| fault(format!("{}: {error}", path.display())))?;
        toml::from_str(&text).map_err(|error| fault(format!("{}: {error}", path.display())))
    };
    paths.iter().map(read).collect()
}

/// The type of installation that uses most of what the bundle has; none where none has all its components.
fn widest(manifest: &Manifest) -> Option<InstallType> {
    use InstallType::{Agent, All, Backend, BackendAgent, Server};
    let has = |name: &&str| manifest.services.iter().any(|service| service.name == **name);
    [All, Server, BackendAgent, Backend, Agent].into_iter().find(|kind| kind.components().iter().all(has))
}
