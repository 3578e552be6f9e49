//! A control group for each service, where the system lets us: nobody leaves one by forking, whatever he does to his group, session,
//! parents and variables.
//!
//! That is so on Linux when systemd has delegated our own control group to us (`Delegate=yes`; it marks the group by an attribute).
//! Then each service gets `dkm-NAME` below it, which its first process enters before it becomes the service's program. Controllers are
//! left alone: this is about who belongs together. Elsewhere there is none, and services are kept together by their process groups,
//! by being our children and by their variables.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::os;

/// Where our own control group is, if we may make others below it.
#[must_use]
pub fn delegated() -> Option<PathBuf> {
    let own = path_of("self")?;
    os::is_delegated(&own).then_some(own)
}

/// The control group of a service whose process this is; none if it has none of its own.
#[must_use]
pub fn of_process(pid: i32, service: &str) -> Option<PathBuf> {
    path_of(&pid.to_string()).filter(|path| path.file_name().is_some_and(|name| name.to_str() == Some(&name_of(service))))
}

fn name_of(service: &str) -> String {
    format!("dkm-{service}")
}

/// The folder of a process's control group of version 2.
fn path_of(process: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let below = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // Fields before the dash: number, parent, device, root, place, …; behind it the kind.
    let place = mounts.lines().find_map(|line| {
        let (before, behind) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (behind.starts_with("cgroup2 ") && root == "/").then_some(place)
    })?;
    Some(Path::new(place).join(below))
}

/// Makes a service's group below ours: its path, and the file by which a process enters it.
///
/// # Errors
/// When it cannot be made.
pub fn make(delegated: &Path, service: &str) -> io::Result<(PathBuf, File)> {
    let path = delegated.join(name_of(service));
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let procs = OpenOptions::new().write(true).open(path.join("cgroup.procs"))?;
    Ok((path, procs))
}

/// The processes in a group and in those below it.
#[must_use]
pub fn members(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut out: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect();
    for below in folders(group) {
        out.extend(members(&below));
    }
    out
}

/// Ends all of them at once.
pub fn kill(group: &Path) {
    // Where the kernel is too old for that, they get the signal one by one.
    let _ = fs::write(group.join("cgroup.kill"), "1");
}

/// Removes a group in which nobody is.
pub fn remove(group: &Path) {
    folders(group).iter().for_each(|below| remove(below));
    let _ = fs::remove_dir(group);
}

fn folders(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
