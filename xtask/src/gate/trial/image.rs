//! Runs an image as an engine would: its file system as the root of its own, its first program as process 1, as its user, with its
//! environment and in its folder; asks its health check, sends a metric, stops it by its signal, and starts it again with what its
//! volumes keep.
//!
//! Stricter than engines are: the file system is read-only but for volumes, `/tmp` and `/run`, there are no files of the engine's own in
//! it (`/etc/hosts`, `/etc/resolv.conf`), and no network but loopback.

use super::asking::METRIC;
use super::drive::{self, Installed};
use super::telling::{self, Outcome, cannot, did, doing, fault};
use super::{Container, Fault, LAID_OUT, Line, Surroundings, VOLUMES, os};
use crate::sandbox::enter_namespaces;
use dkumonitor_interface::service::{InstallType, Protocol};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind, unmount};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a container may take to be well, or to stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Devices that every container has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Stands for the address by which others reach a container: what listens for itself alone does not answer there.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How many lines of its output are told.
const TAIL: usize = 15;

/// Does everything; gives the exit status.
pub fn run(place: &Path, container: &Container, was_root: bool) -> i32 {
    let bundle = PathBuf::new();
    let around = Surroundings { place: place.to_owned(), bundle, fresh: Vec::new(), alone: false, lacks: Vec::new() };
    let engine = Engine { around: &around, root: place.join(LAID_OUT), said: place.join("said"), container, was_root };
    match engine.run() {
        Ok(()) => 0,
        Err(fault) => {
            telling::tell(&Line::Failed(fault));
            1
        }
    }
}

struct Engine<'a> {
    around: &'a Surroundings,
    root: PathBuf,
    /// What the container prints.
    said: PathBuf,
    container: &'a Container,
    was_root: bool,
}

/// A container that runs; its end is that of all its processes.
struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Engine<'_> {
    fn run(&self) -> Outcome<()> {
        self.prepare().map_err(|error| fault(format!("cannot lay out the container: {error:#}")))?;
        let own = cannot(
            rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Into::into),
            "open this process's namespace",
        )?;
        doing("starting the image");
        let mut running = self.start(&own)?;
        self.well(&mut running)?;
        let installed = self.installed()?;
        self.reachable()?;
        let user = self.container.owner.0;
        did(format!(
            "started as user {user} with its first program as process 1, well by its health check, its ports reachable"
        ));
        let trial = self.trial();
        trial.measure(&installed)?;
        trial.dashboards(&installed)?;
        self.stop(running)?;
        doing("starting a container with the same volumes");
        let mut running = self.start(&own)?;
        self.well(&mut running)?;
        let port = |name| installed.port(name, Protocol::Tcp);
        if let (Some(carbonapi), Some(_)) = (port("carbonapi"), port("carbon")) {
            trial.wait_for_value(carbonapi, &format!("{METRIC}.tcp"), 41.5)?;
        }
        self.stop(running)?;
        did(format!("stopped by {} with status 0, and started again with what its volumes kept", self.container.signal));
        Ok(())
    }

    /// Makes the file system what engines make of it.
    fn prepare(&self) -> anyhow::Result<()> {
        let root = &self.root;
        for folder in ["proc", "dev", "tmp", "run"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let volumes = self.around.place.join(VOLUMES);
        fs::create_dir(&volumes)?;
        for volume in &self.container.volumes {
            fs::create_dir_all(root.join(volume.trim_start_matches('/')))?;
        }
        mount_bind(root, root)?;
        os::read_only(root, true, false)?;
        for (at, volume) in self.container.volumes.iter().enumerate() {
            let own = volumes.join(at.to_string());
            fs::create_dir(&own)?;
            fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
            if self.was_root {
                chown(&own, Some(self.container.owner.0), Some(self.container.owner.1))?;
            }
            mount_bind(&own, root.join(volume.trim_start_matches('/')))?;
        }
        os::empty(&root.join("tmp"), "mode=1777")?;
        os::empty(&root.join("run"), "mode=0755")?;
        let dev = root.join("dev");
        mount("tmpfs", &dev, "tmpfs", MountFlags::NOSUID, c"mode=0755,size=64k")?;
        for name in DEVICES {
            File::create(dev.join(name))?;
            mount_bind(Path::new("/dev").join(name), dev.join(name))?;
        }
        Ok(())
    }

    /// Starts it, in a process namespace of its own.
    fn start(&self, own: &OwnedFd) -> Outcome<Running> {
        let part = || -> io::Result<()> {
            move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
            enter_namespaces(UnshareFlags::NEWPID, (0, 0))
        };
        cannot(part(), "make a process namespace")?;
        let proc = self.root.join("proc");
        // That of the container before.
        let _ = unmount(&proc, rustix::mount::UnmountFlags::DETACH);
        let said = cannot(File::create(&self.said).and_then(|file| Ok((file.try_clone()?, file))), "keep its output")?;
        let mut command = self.command(&self.container.command, Some(proc));
        let child = command.stdout(said.0).stderr(said.1).spawn();
        let shown = self.container.command.join(" ");
        Ok(Running { child: child.map_err(|error| fault(format!("{shown} cannot be started in it: {error}")))? })
    }

    /// A command in the container, by its user; the first one mounts `/proc`.
    fn command(&self, words: &[String], proc: Option<PathBuf>) -> Command {
        let mut command = Command::new(words.first().map_or("", String::as_str));
        command.args(words.get(1..).unwrap_or_default()).env_clear().stdin(Stdio::null());
        command.envs(self.container.env.iter().filter_map(|pair| pair.split_once('=')));
        let (root, folder) = (self.root.clone(), self.container.folder.clone());
        let ((user, group), was_root) = (self.container.owner, self.was_root);
        let enter = move || -> io::Result<()> {
            if let Some(proc) = &proc {
                mount("proc", proc, "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
            }
            rustix::process::chroot(&root)?;
            rustix::process::chdir(&folder)?;
            if was_root {
                os::become_user(user, group)?;
            }
            rustix::thread::set_no_new_privs(true)?;
            set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        };
        #[expect(unsafe_code, reason = "the standard library calls nothing between fork and exec by safe means")]
        // SAFETY: system calls alone; this process has one thread.
        unsafe {
            command.pre_exec(enter);
        }
        command
    }

    /// Waits until its health check says that it is well.
    fn well(&self, running: &mut Running) -> Outcome<()> {
        doing("waiting for it to be well");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = cannot(running.child.try_wait(), "wait for it")? {
                return Err(self.about(format!("the container ends by itself, with {status}")));
            }
            let status = match &self.container.health {
                Some(words) => self
                    .command(words, None)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|end| end.success()),
                None => self.container.ports.iter().all(|port| answers(Ipv4Addr::LOCALHOST, *port)),
            };
            if status {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.about(format!("the container is not well after {} s", PATIENCE.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Each port that it exposes answers others too.
    fn reachable(&self) -> Outcome<()> {
        for port in &self.container.ports {
            if telling::wait(Duration::from_secs(20), || answers(ELSEWHERE, *port).then_some(())).is_none() {
                return Err(
                    self.about(format!("the image exposes port {port}, and nobody can reach it from outside of the container"))
                );
            }
        }
        Ok(())
    }

    /// The data folder, as it is seen from here.
    fn data(&self) -> PathBuf {
        let words = &self.container.command;
        let at = words.iter().position(|word| ["-d", "--data-dir"].contains(&word.as_str()));
        let folder = at.and_then(|at| words.get(at + 1)).map_or("", String::as_str);
        self.root.join(folder.trim_start_matches('/'))
    }

    fn installed(&self) -> Outcome<Installed> {
        let data = self.data();
        let services = drive::definitions(&data.join("conf/services.d"))?;
        let password = fs::read_to_string(data.join("conf/secrets/grafana-admin-password")).ok();
        let password = password.map(|text| text.trim().to_owned());
        Ok(Installed { kind: InstallType::Server, services, password, listener: None })
    }

    fn trial(&self) -> drive::Trial<'_> {
        drive::Trial { around: self.around, bundle: PathBuf::new(), data: self.data(), home: PathBuf::new() }
    }

    /// Stops it as an engine does, and sees it end well.
    fn stop(&self, mut running: Running) -> Outcome<()> {
        doing("stopping it");
        let signal = signal(&self.container.signal)?;
        let pid = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw);
        cannot(pid.map_or(Ok(()), |pid| kill_process(pid, signal)).map_err(Into::into), "send it a signal")?;
        let mut end: Option<ExitStatus> = None;
        telling::wait(PATIENCE, || {
            end = running.child.try_wait().ok().flatten();
            end.map(drop)
        });
        match end {
            Some(status) if status.success() => {}
            Some(status) => return Err(self.about(format!("the container ends with {status} after {}", self.container.signal))),
            None => {
                let after = PATIENCE.as_secs();
                return Err(self.about(format!("the container still runs {after} s after {}", self.container.signal)));
            }
        }
        let left: Vec<String> = fs::read_dir(self.root.join("tmp"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|one| one.path().display().to_string())
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(fault(format!("files were left outside of its volumes: {}", left.join(", "))))
        }
    }

    /// A failure of the container, with the end of its output.
    fn about(&self, what: String) -> Fault {
        let text = fs::read(&self.said).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect();
        Fault { what, tail, ..Fault::default() }
    }
}

fn answers(address: Ipv4Addr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(5)).is_ok()
}

/// A signal by its name or its number.
fn signal(name: &str) -> Outcome<Signal> {
    match name.trim_start_matches("SIG") {
        "TERM" | "15" => Ok(Signal::TERM),
        "INT" | "2" => Ok(Signal::INT),
        "QUIT" | "3" => Ok(Signal::QUIT),
        _ => Err(fault(format!("the image wants to be stopped by {name}, which is no signal for that"))),
    }
}
