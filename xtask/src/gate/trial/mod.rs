//! Whether a bundle runs: unpacked somewhere else, as somebody else, where nothing of the build is to be seen.
//!
//! There are two processes. The one that the person has started unpacks the bundle and tells what happens. It starts this program
//! again ([`enter`]); that one parts itself from the rest of the machine ([`os`]): no network but a fresh loopback, the build folder, the
//! checkout and homes hidden, everything else read-only, `/tmp` and its like empty, an unprivileged user of no name, and a `/proc` with
//! nothing but itself. Then it uses the bundle as a person would ([`drive`]), and tells the first process by lines of JSON.
//!
//! A package is installed by its own tool and used from where that puts it ([`installing`]). An image is run as it says itself, in
//! namespaces as an engine would make them ([`image`]).
//!
//! What cannot be had on a machine is done without, and said.

mod asking;
mod dashboards;
mod drive;
mod http;
#[cfg(target_os = "linux")]
mod image;
#[cfg(target_os = "linux")]
mod installing;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod os;
pub mod root;
mod telling;

use super::checks::Bundle;
use super::packed::{self, Config, Form, Wrapping};
use crate::dirs::remove_all;
use crate::error::Kind;
use crate::interrupt::Group;
use crate::progress::Step;
use crate::unpack;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::io::BufReader;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The hidden command that [`enter`] is.
pub const COMMAND: &str = "gate-inside";

/// The number of a user that no machine knows.
const STRANGER: u32 = 64_123;

/// Beginning of the name of the folder of a trial: what nobody's own folders are called, and all programs have to bear.
const PREFIX: &str = "dkumonitor gate é ☃ ";

/// Where a package or an image was laid out, below the trial's folder.
const LAID_OUT: &str = "laid out";

/// Where a container's volumes are, below the trial's folder.
const VOLUMES: &str = "volumes";

/// The name of the order in it.
const ORDER: &str = "order.json";

/// What the second process is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// The folder of the trial; the only one that is written to.
    place: PathBuf,
    /// The name of the bundle's folder below `place`.
    bundle: String,
    /// Folders that must not be seen.
    hide: Vec<PathBuf>,
    /// The root of another system to run in.
    root: Option<PathBuf>,
    /// What else there is to know of how it was packed.
    how: How,
}

/// In what a bundle comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum How {
    /// An archive, unpacked already.
    Archive,
    /// A package, laid out and as it is.
    Package(Package),
    /// An image, laid out.
    Image(Container),
}

/// A package that is to be tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Package {
    /// Whether it is Debian's; else Red Hat's.
    deb: bool,
    /// Its name.
    name: String,
    /// The file, below the trial's folder.
    file: String,
    /// Where its bundle is installed, without a slash at its beginning.
    root: String,
}

impl Package {
    /// What installs it.
    fn tool(&self) -> &'static str {
        if self.deb { "dpkg" } else { "rpm" }
    }
}

/// How an image wants to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Container {
    command: Vec<String>,
    env: Vec<String>,
    owner: (u32, u32),
    folder: String,
    volumes: Vec<String>,
    /// Ports that are exposed by TCP.
    ports: Vec<u16>,
    signal: String,
    health: Option<Vec<String>>,
}

impl Container {
    fn of(config: &Config) -> Self {
        let health = config.healthcheck.as_ref().and_then(|check| match check.test.split_first() {
            Some((kind, words)) if kind == "CMD" && !words.is_empty() => Some(words.to_vec()),
            _ => None,
        });
        let ports = config.exposed_ports.iter().flat_map(|ports| ports.keys());
        Self {
            command: config.command().into_iter().map(str::to_owned).collect(),
            env: config.env.clone(),
            owner: config.owner().unwrap_or((STRANGER, STRANGER)),
            folder: if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() },
            volumes: config.volumes().map(str::to_owned).collect(),
            ports: ports.filter_map(|port| port.trim_end_matches("/tcp").parse().ok()).collect(),
            signal: config.stop_signal.clone().unwrap_or_else(|| "SIGTERM".to_owned()),
            health,
        }
    }
}

/// What the second process finds around it.
#[derive(Debug)]
struct Surroundings {
    /// The folder of the trial, as it is seen from there.
    place: PathBuf,
    /// The bundle.
    bundle: PathBuf,
    /// Folders that were empty when it came, and should be again when it goes.
    fresh: Vec<PathBuf>,
    /// Whether all processes that are to be seen are this trial's.
    alone: bool,
    /// What could not be had, in words.
    lacks: Vec<String>,
}

/// On which side of a fork one is.
enum Part {
    /// The other side has done it, and ended with this status.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no other side"))]
    Ended(i32),
    /// This side is to do it.
    Inside(Surroundings),
}

/// What the second process tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// Something was done; what there is to say of it.
    Did(String),
    /// Something begins.
    Doing(String),
    /// Something could not be had.
    Lacks(String),
    /// It does not run.
    Failed(Fault),
}

/// Why it does not run.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Fault {
    /// What is wrong.
    what: String,
    /// The service that it is about.
    service: Option<String>,
    /// The log that tells more, relative to the trial's folder.
    log: Option<PathBuf>,
    /// The last lines of that.
    tail: Vec<String>,
}

/// A trial to be made.
pub struct Trial<'a> {
    /// The archive, package or image.
    pub archive: &'a Path,
    /// What was seen of it.
    pub bundle: &'a Bundle,
    /// Folders that must not be seen.
    pub hide: Vec<PathBuf>,
    /// The root of another system to run in, that [`root::usable`] has found.
    pub root: Option<&'a Path>,
    /// Where logs are kept of a bundle that does not run.
    pub logs: PathBuf,
}

/// What a trial has come to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was done.
    pub did: Vec<String>,
    /// What could not be had on this machine.
    pub lacks: Vec<String>,
}

impl Trial<'_> {
    /// Makes the trial.
    ///
    /// # Errors
    /// [`Kind::Gate`] when the bundle does not run, with the service and its log; else when the trial cannot be made.
    pub fn run(&self, step: &Step) -> anyhow::Result<Outcome> {
        step.message("unpacking");
        let place = tempfile::Builder::new().prefix(PREFIX).tempdir().context("cannot make a folder for the trial")?;
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
        let (bundle, how) = self.unpack(place.path())?;
        // The one folder that the stranger may write to.
        let own = place.path().join("somebody else");
        std::fs::create_dir(&own)?;
        if os::can_be_stranger() {
            chown(&own, Some(STRANGER), Some(STRANGER))?;
        }
        let order =
            Order { place: place.path().to_owned(), bundle, hide: self.hide.clone(), how, root: self.root.map(Path::to_owned) };
        std::fs::write(place.path().join(ORDER), serde_json::to_vec(&order)?)?;
        let outcome = self.start(place.path(), step);
        let removed = remove_all(place.path()).with_context(|| format!("cannot remove {}", place.path().display()));
        let outcome = outcome?;
        removed?;
        Ok(outcome)
    }

    /// Brings what is to be tried into the trial's folder: where its bundle is there, and in what it comes.
    fn unpack(&self, place: &Path) -> anyhow::Result<(String, How)> {
        if let Wrapping::None = self.bundle.wrapping {
            let bundle = format!("bundle é/{}", self.bundle.name);
            std::fs::create_dir(place.join("bundle é"))?;
            unpack::unpack(self.archive, &place.join(&bundle))?;
            return Ok((bundle, How::Archive));
        }
        let laid = place.join(LAID_OUT);
        std::fs::create_dir(&laid)?;
        packed::lay_out(self.archive, self.bundle.form, &laid)?;
        let bundle = format!("{}/{}", LAID_OUT, self.bundle.root);
        let how = match &self.bundle.wrapping {
            Wrapping::Image(image) => How::Image(Container::of(&image.config)),
            Wrapping::Package(package) => {
                let (deb, root) = (self.bundle.form == Form::Deb, self.bundle.root.clone());
                let file = format!("package.{}", if deb { "deb" } else { "rpm" });
                std::fs::copy(self.archive, place.join(&file))?;
                How::Package(Package { deb, name: package.name.clone(), file, root })
            }
            Wrapping::None => How::Archive,
        };
        Ok((bundle, how))
    }

    /// Starts the second process, and listens to it.
    fn start(&self, place: &Path, step: &Step) -> anyhow::Result<Outcome> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.arg(COMMAND).arg(place.join(ORDER)).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the trial")?;
        let group = Group::enter(child.id(), false);
        let stderr = child.stderr.take();
        let complaints =
            std::thread::spawn(move || stderr.and_then(|stderr| std::io::read_to_string(stderr).ok()).unwrap_or_default());
        let (mut outcome, mut fault) = (Outcome::default(), None);
        for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(std::io::BufRead::lines) {
            match serde_json::from_str(&line?) {
                Ok(Line::Doing(what)) => step.message(&what),
                Ok(Line::Did(what)) => outcome.did.push(what),
                Ok(Line::Lacks(what)) => outcome.lacks.push(what),
                Ok(Line::Failed(why)) => fault = fault.or(Some(why)),
                Err(error) => anyhow::bail!("the trial says what cannot be understood: {error}"),
            }
        }
        let status = child.wait()?;
        group.end();
        crate::interrupt::check()?;
        let complaints = complaints.join().unwrap_or_default();
        match fault {
            Some(fault) => Err(self.failure(place, fault)),
            None if status.success() => Ok(outcome),
            None => {
                let kind = status.code().map_or(Kind::Other, Kind::of_status);
                let why = complaints.trim().trim_start_matches("error: ").to_owned();
                let why = if why.is_empty() { format!("it ended with {status}") } else { why };
                Err(kind.error(format!("the trial cannot be made: {why}")))
            }
        }
    }

    /// Keeps the logs of what does not run, and tells.
    fn failure(&self, place: &Path, fault: Fault) -> anyhow::Error {
        let runs =
            [place.join("somebody else/data/run")].into_iter().chain(volumes(place).map(|volume| volume.join("monitor/run")));
        let run = runs.into_iter().find(|run| run.is_dir()).unwrap_or_default();
        let kept = keep_logs(&run, &self.logs);
        let mut text = fault.what;
        if let Some(log) = &fault.log {
            let name = log.file_name().unwrap_or_default();
            let place = if kept { self.logs.join(name) } else { PathBuf::from(name) };
            text += &format!("\n  its log: {}", place.display());
        }
        for line in &fault.tail {
            text += &format!("\n  | {line}");
        }
        if fault.log.is_none() && kept {
            text += &format!("\n  logs: {}", self.logs.display());
        }
        let service = fault.service.map_or_else(String::new, |service| format!("{service}: "));
        Kind::Gate.error(format!("{service}{text}"))
    }
}

/// The folders of a container's volumes.
fn volumes(place: &Path) -> impl Iterator<Item = PathBuf> {
    place.join(VOLUMES).read_dir().into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Copies the logs of a data folder's `run` to a folder of their own; whether there are any.
fn keep_logs(run: &Path, to: &Path) -> bool {
    let mut kept = false;
    // What an earlier run has left would only mislead.
    let _ = remove_all(to);
    for from in [run.to_owned(), run.join("log"), run.join("crash")] {
        for entry in from.read_dir().into_iter().flatten().flatten() {
            let is_log = [".log", ".txt"].iter().any(|ending| entry.file_name().to_string_lossy().ends_with(ending));
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_log && is_file && std::fs::create_dir_all(to).is_ok() {
                kept |= std::fs::copy(entry.path(), to.join(entry.file_name())).is_ok();
            }
        }
    }
    kept
}

/// Is the second process; gives its exit status. To be called before there is a second thread.
///
/// # Errors
/// When the order cannot be read, or this process not be parted.
pub fn enter(order: &Path) -> anyhow::Result<i32> {
    let text = std::fs::read(order).with_context(|| format!("cannot read {}", order.display()))?;
    let order: Order = serde_json::from_slice(&text)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if let How::Image(container) = &order.how {
        return os::contain(&order, container);
    }
    match os::part(&order)? {
        Part::Ended(status) => Ok(status),
        Part::Inside(around) => Ok(drive::run(&around)),
    }
}
