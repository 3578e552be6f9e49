//! The unit below a real systemd: the first process of a container of its own, where such a thing can be had.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::{Bench, PATIENCE, shell, text, until};

/// Whom the data folder belongs to: everybody has that user.
const USER: &str = "daemon";

/// What the services may do, told by one of them.
const TELL: &str = "echo began; id -un; cat /proc/self/status; cat /proc/self/cgroup; touch /etc/dkm-test && echo writes elsewhere; \
    touch storage/mine && echo writes here; test \"$(ls /proc | grep -c '^[0-9]')\" -gt 3 && echo sees processes; \
    unshare -U true || echo no namespace; exec sleep 1000";

/// Prepares the container and becomes systemd. $1: a folder of its own; $2: the program.
const BEGIN: &str = "mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs tmpfs /run || exit 1
sh \"$1/watch\" > \"$1/told\" 2>&1 &
export container=test SYSTEMD_UNIT_PATH=\"$1/units\"
exec \"$2\" --system --unit=mon.service --log-target=null --show-status=no";

/// What is done from inside, once systemd answers.
const WATCH: &str = "until systemctl show-environment > /dev/null 2>&1; do sleep 0.05; done
echo up
shown() { systemctl show mon -p \"$1\" --value; }
until test \"$(shown StatusText)\" = '2 of 2 services run'; do sleep 0.05; done
echo \"active: $(shown ActiveState)\"
echo \"watched: $(test -n \"$(shown WatchdogTimestamp)\" && echo yes)\"
systemctl reload mon && echo reloaded
first=$(shown MainPID)
kill -KILL \"$first\"
until test \"$(shown ActiveState) $(shown NRestarts) $(shown StatusText)\" = 'active 1 2 of 2 services run'; do sleep 0.05; done
test \"$(shown MainPID)\" != \"$first\" && echo again
systemctl stop mon && echo \"stopped: $(shown Result)\"
";

/// The container, which ends with this.
struct Container {
    group: PathBuf,
    process: Child,
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let end = Instant::now() + PATIENCE;
        while remove(&self.group).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes a control group and those below it.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path())?;
    }
    fs::remove_dir(group)
}

fn container(folder: &Path) -> Option<Container> {
    let systemd = ["/lib/systemd/systemd", "/usr/lib/systemd/systemd"].into_iter().find(|path| Path::new(path).exists())?;
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let group = mounts
        .into_iter()
        .find(|place| place.join("cgroup.procs").exists())?
        .join(format!("dkm-test-systemd-{}", std::process::id()));
    fs::create_dir(&group).ok()?;
    let enter = "echo 0 > \"$0/cgroup.procs\" && exec unshare --mount --pid --fork --kill-child --cgroup --ipc --uts --net --mount-proc sh -c \"$1\" begin \"$2\" \"$3\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", enter]).arg(&group).arg(BEGIN).arg(folder).arg(systemd).stdin(Stdio::null()).stdout(Stdio::null());
    let process = command.stderr(fs::File::create(folder.join("errors")).ok()?).spawn().ok()?;
    Some(Container { group, process })
}

#[test]
fn a_real_systemd_starts_watches_and_stops_it() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can make a container here: not tried");
        return;
    }
    let mut bench = Bench::bundle(&[shell("go-carbon", TELL), shell("carbonapi", "exec sleep 1000")]).with_assets();
    bench.place = PathBuf::from("the 100% $data");
    let output = bench.install(&[]);
    assert!(output.status.success(), "{}", text(&output));
    fs::set_permissions(bench.root(), fs::Permissions::from_mode(0o711)).unwrap();
    assert!(Command::new("chown").arg("-Rh").arg(USER).arg(bench.data()).status().unwrap().success());
    let output = Command::new(bench.data().join("bin/dkmadmin"))
        .args(["install-boot", "--print", "--init", "systemd", "-n", "mon"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let folder = bench.root().join("container");
    let units = folder.join("units");
    fs::create_dir_all(units.join("mon.service.d")).unwrap();
    fs::write(units.join("mon.service"), output.stdout).unwrap();
    fs::write(units.join("mon.service.d/soon.conf"), "[Service]\nRestartSec=0\n").unwrap();
    for target in ["sysinit", "basic", "shutdown", "network-online", "local-fs", "remote-fs", "multi-user"] {
        fs::write(units.join(format!("{target}.target")), "[Unit]\nDefaultDependencies=no\n").unwrap();
    }
    fs::write(folder.join("watch"), WATCH).unwrap();
    let told = || fs::read_to_string(folder.join("told")).unwrap_or_default();
    let Some(_container) = container(&folder) else {
        eprintln!("no container can be made here: not tried");
        return;
    };
    let end = Instant::now() + PATIENCE;
    while !told().starts_with("up") {
        if Instant::now() > end {
            let errors = fs::read_to_string(folder.join("errors")).unwrap_or_default();
            eprintln!("no systemd comes up in a container here: not tried ({}{errors})", told());
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    until("systemd to be done", || told().contains("stopped: "));
    assert_eq!(told(), "up\nactive: active\nwatched: yes\nreloaded\nagain\nstopped: success\n");
    let log = bench.supervisor_log();
    assert!(log.contains("go-carbon: adopted process") && log.contains("SIGTERM: stopping everything"), "{log}");
    let said = bench.log("go-carbon");
    assert_eq!(said.matches("began\n").count(), 1, "it did not live on:\n{said}");
    for wanted in [
        "\nNoNewPrivs:\t1\n",
        "\nCapBnd:\t0000000000000000\n",
        "\nSeccomp:\t2\n",
        "/dkm-go-carbon\n",
        "sees processes",
        "no namespace",
    ] {
        assert!(said.contains(wanted), "\"{wanted}\" is not in:\n{said}");
    }
    assert!(
        said.contains("writes here") && !said.contains("writes elsewhere") && said.contains(&format!("\n{USER}\n")),
        "{said}"
    );
}
