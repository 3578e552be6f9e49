//! A process apart, on Linux: by namespaces, as root or as anybody who may have a user namespace of his own.

use super::installing::Way;
use super::{Container, Fault, How, Line, Order, Package, Part, STRANGER, Surroundings, image, telling};
use crate::error::Kind;
use crate::sandbox::enter_namespaces;
use anyhow::Context as _;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change};
use rustix::process::{DumpableBehavior, Signal, geteuid, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The folders that are empty and of this trial alone.
const FRESH: [&str; 4] = ["tmp", "var/tmp", "run", "dev/shm"];

/// Without these nothing runs: what holds them is not hidden.
const NEEDED: [&str; 8] = ["/usr", "/etc", "/bin", "/lib", "/proc", "/dev", "/sys", "/var"];

/// What can be had of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spaces {
    /// Through a user namespace, in which this user is the stranger; else as root.
    own_users: bool,
    /// A process namespace, with a `/proc` of its own.
    processes: bool,
}

impl Spaces {
    /// From the best to the least.
    const ALL: [Self; 4] = [
        Self { own_users: false, processes: true },
        Self { own_users: true, processes: true },
        Self { own_users: false, processes: false },
        Self { own_users: true, processes: false },
    ];

    fn flags(self) -> UnshareFlags {
        let all = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
        let users = if self.own_users { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
        let processes = if self.processes { UnshareFlags::NEWPID } else { UnshareFlags::empty() };
        all | users | processes
    }

    /// Moves this process, which has one thread only, there.
    fn enter(self) -> anyhow::Result<()> {
        self.enter_as((STRANGER, STRANGER))
    }

    /// The same; where that takes a user namespace, this user is that one in it.
    fn enter_as(self, inside: (u32, u32)) -> anyhow::Result<()> {
        enter_namespaces(self.flags(), inside)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("/ cannot be made private")?;
        Ok(())
    }

    /// The best that this machine gives.
    fn best() -> Option<Self> {
        Self::ALL.into_iter().find(|spaces| (spaces.own_users || can_be_stranger()) && spaces.works())
    }

    /// Tries it out in a process of its own.
    fn works(self) -> bool {
        let tried = in_child(|| {
            self.enter()?;
            match self.processes {
                true => in_child(|| Ok(mount("proc", "/proc", "proc", MountFlags::empty(), None)?)),
                false => Ok(()),
            }
        });
        tried.is_ok()
    }
}

/// Parts this process from the rest of the machine.
pub fn part(order: &Order) -> anyhow::Result<Part> {
    let (place, bundle) = (order.place.clone(), order.place.join(&order.bundle));
    let mut around = Surroundings { place, bundle, fresh: Vec::new(), alone: false, lacks: Vec::new() };
    let Some(spaces) = Spaces::best() else {
        if order.root.is_some() {
            return Err(Kind::Preflight.error("--root needs namespaces, and this machine gives none"));
        }
        around.lacks.push("no namespaces are to be had here: the build folder is visible, and the network is open".to_owned());
        become_stranger(can_be_stranger())?;
        return Ok(Part::Inside(around));
    };
    spaces.enter()?;
    // Opened in the new namespace, or it could not be mounted there; before anything is put over it.
    let place = rustix::fs::open(&order.place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    crate::sandbox::raise_loopback().context("cannot raise loopback")?;
    let root = order.root.as_deref().unwrap_or(Path::new("/"));
    match &order.root {
        Some(root) => {
            mount_bind_recursive(root, root).with_context(|| format!("cannot mount {}", root.display()))?;
            mount_bind_recursive("/dev", root.join("dev")).context("cannot bring /dev")?;
            if !spaces.processes {
                mount_bind_recursive("/proc", root.join("proc")).context("cannot bring /proc")?;
            }
        }
        None => hide(&order.hide)?,
    }
    if let Err(error) = read_only(root, true, true) {
        around.lacks.push(format!("the file system stays writable ({error})"));
    }
    around.fresh = fresh(root)?;
    let inside = Path::new("/tmp").join(order.place.file_name().unwrap_or(OsStr::new("trial")));
    let outside = root.join(inside.strip_prefix("/")?);
    std::fs::create_dir(&outside).with_context(|| format!("cannot make {}", outside.display()))?;
    mount_bind(format!("/proc/self/fd/{}", place.as_raw_fd()), &outside).context("cannot bring the trial's folder")?;
    // It is as read-only as what it lies on was made.
    let _ = read_only(&outside, false, false);
    around.bundle = inside.join(&order.bundle);
    let mut package = None;
    if let How::Package(one) = &order.how {
        let as_root = !spaces.own_users && spaces.processes;
        let (way, lack) = one.make_room(root, &outside, as_root)?;
        around.bundle = Path::new("/").join(&one.root);
        around.lacks.extend(lack);
        package = (way == Way::Tool).then_some(one);
    }
    if order.root.is_some() {
        rustix::process::chroot(root).with_context(|| format!("cannot enter {}", root.display()))?;
    }
    std::env::set_current_dir("/")?;
    around.place = inside;
    if !spaces.processes {
        around
            .lacks
            .push("no process namespace is to be had here: what is left behind is known by its folder alone".to_owned());
        become_stranger(!spaces.own_users)?;
        return Ok(Part::Inside(around));
    }
    first_process(spaces, around, package)
}

/// From here on in two more processes: the first of the namespace, whose end is that of all, and the one that goes on.
fn first_process(spaces: Spaces, mut around: Surroundings, package: Option<&Package>) -> anyhow::Result<Part> {
    if let Some(first) = fork()? {
        return Ok(Part::Ended(wait(first)));
    }
    set_parent_process_death_signal(Some(Signal::KILL))?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None).context("cannot mount /proc")?;
    if let Some(package) = package {
        match package.install(&around.place) {
            Ok(bundle) => around.bundle = bundle,
            Err(error) => return Ok(Part::Ended(failed(&error))),
        }
    }
    if let Some(inside) = fork()? {
        // What daemons leave behind comes to the first process, which has to take it.
        let status = wait(inside);
        return Ok(Part::Ended(match package.filter(|_| status == 0) {
            Some(package) => removed(package, &around.place),
            None => status,
        }));
    }
    become_stranger(!spaces.own_users)?;
    Ok(Part::Inside(Surroundings { alone: true, ..around }))
}

/// Removes a package that was used; an exit status.
fn removed(package: &Package, place: &Path) -> i32 {
    match package.remove(place) {
        Err(error) => failed(&error),
        Ok(()) => {
            let tool = package.tool();
            telling::did(format!("installed by {tool} to /{}, and removed by it with nothing left", package.root));
            0
        }
    }
}

/// Tells what went wrong; an exit status.
fn failed(error: &anyhow::Error) -> i32 {
    telling::tell(&Line::Failed(Fault { what: format!("{error:#}"), ..Fault::default() }));
    1
}

/// Runs an image as it says itself; gives an exit status.
pub fn contain(order: &Order, container: &Container) -> anyhow::Result<i32> {
    let own = |own_users| Spaces { own_users, processes: true };
    let Some(spaces) =
        [own(false), own(true)].into_iter().find(|spaces| (spaces.own_users || can_be_stranger()) && spaces.works())
    else {
        telling::tell(&Line::Lacks("no namespaces are to be had here: the image was not run".to_owned()));
        return Ok(0);
    };
    // The namespace of processes is made anew for each start.
    let around = Spaces { processes: false, ..spaces };
    around.enter_as(container.owner)?;
    crate::sandbox::raise_loopback().context("cannot raise loopback")?;
    Ok(image::run(&order.place, container, !spaces.own_users))
}

/// Whether this process can give files to the stranger and become it: as root, unless it is root of a user namespace that does
/// not know the stranger.
pub fn can_be_stranger() -> bool {
    let knows = |map: &str| {
        std::fs::read_to_string(map).is_ok_and(|map| {
            map.lines().any(|line| {
                let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
                matches!(numbers[..], [first, _, count] if (first..first.saturating_add(count)).contains(&u64::from(STRANGER)))
            })
        })
    };
    geteuid().is_root() && knows("/proc/self/uid_map") && knows("/proc/self/gid_map")
}

/// Gives this process, of root, another user and group, and no groups beside.
pub(super) fn become_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: all three take numbers, and a list of none.
    #[expect(unsafe_code, reason = "the standard library and rustix change the identity of a thread only")]
    let outcome = unsafe {
        [libc::setgroups(0, std::ptr::null()), libc::setresgid(group, group, group), libc::setresuid(user, user, user)]
    };
    if outcome == [0; 3] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whoever this process is, it is somebody without rights from here on.
fn become_stranger(was_root: bool) -> anyhow::Result<()> {
    if was_root {
        become_user(STRANGER, STRANGER).context("cannot become another user")?;
    }
    // A process that changed its user is a secret to itself, in /proc.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Puts empty folders over what must not be seen.
fn hide(folders: &[PathBuf]) -> anyhow::Result<()> {
    let mut hidden: Vec<PathBuf> = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().filter_map(|path| path.canonicalize().ok()).collect();
    folders.sort();
    for folder in folders {
        let is_needed = NEEDED.iter().any(|needed| Path::new(needed).starts_with(&folder));
        if is_needed || !folder.is_dir() || hidden.iter().any(|other| folder.starts_with(other)) {
            continue;
        }
        empty(&folder, "size=64k,mode=0755")?;
        hidden.push(folder);
    }
    Ok(())
}

/// Puts an empty folder over one.
pub fn empty(folder: &Path, options: &str) -> anyhow::Result<()> {
    let options = CString::new(options)?;
    mount("tmpfs", folder, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .with_context(|| format!("cannot hide {}", folder.display()))
}

/// Gives the folders that programs write to beside their own, empty; as they are seen from inside.
fn fresh(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for name in FRESH {
        let folder = root.join(name);
        // Where it is a link it leads to one of the others.
        if folder.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            empty(&folder, "mode=1777")?;
            made.push(Path::new("/").join(name));
        }
    }
    Ok(made)
}

#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Makes a mount, and with `all` those below it too, read-only or writable again.
pub fn read_only(path: &Path, read_only: bool, all: bool) -> io::Result<()> {
    const RDONLY: u64 = 1;
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes {
        set: if read_only { RDONLY } else { 0 },
        clear: if read_only { 0 } else { RDONLY },
        propagation: 0,
        user_namespace: 0,
    };
    let flags = if all { AT_RECURSIVE } else { 0 };
    #[expect(unsafe_code, reason = "no library in use has this system call")]
    // SAFETY: path and attributes live as long as the call, and the size is that of the attributes.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A second process; none in it, its number in the first. This process must have one thread only.
fn fork() -> io::Result<Option<libc::pid_t>> {
    #[expect(unsafe_code, reason = "to go on in a namespace of processes takes a fork without exec")]
    // SAFETY: with one thread alone nothing is half done when the second process begins.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child)),
    }
}

/// Waits for the end of a child, and takes what else ends meanwhile; its status as an exit status.
fn wait(child: libc::pid_t) -> i32 {
    loop {
        let mut status = 0;
        #[expect(unsafe_code, reason = "the standard library waits only for what it started itself")]
        // SAFETY: the status lives as long as the call.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended == child {
            return if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
        }
        if ended == -1 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return 1;
        }
    }
}

/// Does something in a process of its own, which then ends.
fn in_child(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    match fork()? {
        Some(child) => {
            let status = wait(child);
            anyhow::ensure!(status == 0, "it ended with {status}");
            Ok(())
        }
        None => std::process::exit(i32::from(work().is_err())),
    }
}
