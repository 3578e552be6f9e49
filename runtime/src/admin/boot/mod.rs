//! `dkmadmin install-boot` and `uninstall-boot`: the services of a data folder start with the machine.
//!
//! What is written is a template of the bundle (`conf/boot/`), filled in for one data folder; what it says and why is written there. A file
//! that this program has not made is neither replaced nor removed, and one data folder is started once.
//!
//! The supervisor runs as the data folder's owner. Paths may hold anything that the installer takes: each format has its own
//! quotes ([`quote`]).

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::User;
use crate::cli::admin::{Boot, Init, InstallBoot, UninstallBoot};
use crate::commands::exit;
use crate::home::{Home, write_renamed};
use crate::install::bundle_root;
use crate::service::Service;
use crate::supervise::child;

mod quote;

/// In every file that this program has made.
const MADE: &str = "Made by dkmadmin install-boot";

/// Seconds for the supervisor to end, beyond what its services may take.
const LAST_TIME: u32 = 30;

/// Where a system keeps what starts with it.
struct Place {
    /// The folder.
    folder: &'static str,
    /// What names end with there.
    ending: &'static str,
    /// The files' mode.
    mode: u32,
    /// Our template.
    template: &'static str,
    /// What a file says of its data folder, as a template: it tells whose it is.
    mark: &'static str,
}

fn place(init: Init) -> Place {
    let made_for = "Made by dkmadmin install-boot for the data folder {{ data | json }}\n";
    match init {
        Init::Systemd => Place {
            folder: "etc/systemd/system",
            ending: ".service",
            mode: 0o644,
            template: "systemd.service.j2",
            mark: made_for,
        },
        Init::Launchd => Place {
            folder: "Library/LaunchDaemons",
            ending: ".plist",
            mode: 0o644,
            template: "launchd.plist.j2",
            mark: "<key>DKM_HOME</key><string>{{ data | xml }}</string>\n",
        },
        Init::Sysvinit => Place { folder: "etc/init.d", ending: "", mode: 0o755, template: "sysvinit.sh.j2", mark: made_for },
    }
}

/// What this machine, or the one whose root that is, starts its services with.
fn init(options: &Boot) -> Result<Init> {
    if let Some(init) = options.init {
        return Ok(init);
    }
    if cfg!(target_os = "macos") {
        return Ok(Init::Launchd);
    }
    // The first is where a running systemd shows itself, the second where one is installed.
    let signs = ["run/systemd/system", "lib/systemd/systemd", "usr/lib/systemd/systemd"];
    let signs = if is_here(options) { &signs[..1] } else { &signs[..] };
    if signs.iter().any(|sign| options.root.join(sign).exists()) {
        return Ok(Init::Systemd);
    }
    if options.root.join("etc/init.d").is_dir() {
        return Ok(Init::Sysvinit);
    }
    bail!("cannot tell what starts services here: neither systemd nor /etc/init.d is there. Name it by --init, or see --print")
}

/// Whether it is about the running system.
fn is_here(options: &Boot) -> bool {
    options.root == Path::new("/")
}

/// Writes the file, and enables it.
///
/// # Errors
/// Whatever stands against it, in words; nothing has changed then.
pub fn install(options: &InstallBoot, home: &Home) -> Result<ExitCode> {
    let init = init(&options.boot)?;
    let place = place(init);
    let name = &options.name;
    let text = text(options, home, &place)?;
    if options.print {
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let mark = quote::fill(place.mark, &json!({ "data": home.root().to_str() }))?;
    let folder = options.boot.root.join(place.folder);
    let path = folder.join(format!("{name}{}", place.ending));
    if let Some(other) = named(&folder, &place, &mark)?.into_iter().find(|other| other != name) {
        bail!("{} is started by {other} already: `dkmadmin uninstall-boot -n {other}` ends that", home.root().display());
    }
    let there = read(&path)?;
    if there.as_ref().is_some_and(|there| !there.contains(&mark)) {
        bail!("cannot write {}: it belongs to something else. Choose another name by -n", path.display());
    }
    let holder = child::holder(&home.supervisor_lock()).filter(|_| there.is_none() && is_here(&options.boot));
    if let (Some(pid), true) = (holder, options.now) {
        bail!("a supervisor runs already, process {pid}, which {name} could not watch: end it by `dkm shutdown` first");
    }
    if there.as_ref() == Some(&text) {
        println!("{} is as it should be", path.display());
    } else {
        need_root(&options.boot)?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write_renamed(&path, text.as_bytes(), place.mode)?;
        // Whatever the umask is.
        fs::set_permissions(&path, fs::Permissions::from_mode(place.mode))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    enable(init, options, name, &path)?;
    if holder.is_some() {
        println!("A supervisor runs already. Hand over to {name} by `dkm shutdown`, then start it.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes the file, and what enabled it.
///
/// # Errors
/// When there is none, or it is not ours.
pub fn uninstall(options: &UninstallBoot, home: impl FnOnce() -> Result<Home>) -> Result<ExitCode> {
    let init = init(&options.boot)?;
    let place = place(init);
    let folder = options.boot.root.join(place.folder);
    let name = match &options.name {
        Some(name) => checked(name)?.to_owned(),
        None => {
            let home = home()?;
            let mark = quote::fill(place.mark, &json!({ "data": home.root().to_str() }))?;
            let found = named(&folder, &place, &mark)?.into_iter().next();
            found.with_context(|| format!("nothing in {} starts {}", folder.display(), home.root().display()))?
        }
    };
    let path = folder.join(format!("{name}{}", place.ending));
    let text = read(&path)?.with_context(|| format!("there is no {}", path.display()))?;
    if !text.contains(MADE) {
        bail!("cannot remove {}: dkmadmin has not made it", path.display());
    }
    need_root(&options.boot)?;
    let unit = format!("{name}.service");
    match init {
        Init::Systemd => systemctl(&options.boot, &["disable", &unit])?,
        // Whether it is loaded or not.
        Init::Launchd if is_here(&options.boot) => {
            let _ = run("launchctl", &["bootout", &format!("system/{name}")]);
        }
        _ => {}
    }
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    match init {
        Init::Systemd if is_here(&options.boot) => systemctl(&options.boot, &["daemon-reload"])?,
        Init::Sysvinit if is_here(&options.boot) && which("update-rc.d") => run("update-rc.d", &[&name, "remove"])?,
        _ => {}
    }
    println!("removed {}; what runs goes on until `dkm shutdown`", path.display());
    Ok(ExitCode::SUCCESS)
}

/// What the file says.
fn text(options: &InstallBoot, home: &Home, place: &Place) -> Result<String> {
    let (user, uid) = owner(home, options.user.as_deref())?;
    let definitions = home.definitions()?.services;
    let mut writable = outside(home);
    for folder in &options.writable {
        writable.push(folder.canonicalize().with_context(|| format!("cannot use --writable {}", folder.display()))?);
    }
    let bundle = home.root().join("bundle").canonicalize().context("cannot find the bundle of the data folder")?;
    let in_tmp = |path: &Path| ["/tmp", "/var/tmp"].iter().any(|tmp| path.starts_with(tmp));
    let values = json!({
        "in_tmp": in_tmp(home.root()) || in_tmp(&bundle) || writable.iter().any(|path| in_tmp(path)),
        "name": checked(&options.name)?,
        "data": utf8(home.root())?,
        "bundle": utf8(&bundle)?,
        "dkm": utf8(&home.root().join("bin/dkm"))?,
        "user": user,
        "uid": uid,
        "stop_s": definitions.iter().map(|one| one.stop_timeout_s + one.drain_timeout_s).sum::<u32>() + LAST_TIME,
        "capabilities": if definitions.iter().any(low_port) { "CAP_NET_BIND_SERVICE" } else { "" },
        "writable": writable.iter().map(|path| utf8(path)).collect::<Result<Vec<_>>>()?,
    });
    let path = bundle_root()?.join("conf/boot").join(place.template);
    let template = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    quote::fill(&template, &values).with_context(|| format!("cannot fill in {}", path.display()))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}

/// Whether a service has a port that not everybody may have.
fn low_port(service: &Service) -> bool {
    service.ports.iter().any(|port| port.number().is_ok_and(|number| number < 1024))
}

/// Folders beyond the data folder that links in it lead to: somebody has put the storage on another disk.
fn outside(home: &Home) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for folder in [home.root().to_owned(), home.root().join("storage"), home.run()] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let ours = ["bundle", "static"].iter().any(|name| entry.file_name() == *name);
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let Ok(real) = entry.path().canonicalize() else { continue };
            if is_link && !ours && real.is_dir() && !real.starts_with(home.root()) && !out.contains(&real) {
                out.push(real);
            }
        }
    }
    out
}

/// A name that every system takes.
fn checked(name: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 100 || !name.chars().all(plain) || name.starts_with(['.', '-']) {
        bail!("--name {}: 1 to 100 of A-Z a-z 0-9 - _ . and no leading dot or dash", name.escape_debug());
    }
    Ok(name)
}

/// The data folder's owner, by name and number; it has to be who was asked for.
fn owner(home: &Home, asked: Option<&str>) -> Result<(String, u32)> {
    let meta = fs::metadata(home.root()).with_context(|| format!("cannot look at {}", home.root().display()))?;
    let uid = meta.uid();
    let name = User::find(&uid.to_string()).map_or_else(|| uid.to_string(), |user| user.name);
    match asked {
        None if uid == 0 => bail!(
            "{} belongs to root, and its services would run as root. Give it to a user of its own (chown -R), or name root: --user root",
            home.root().display()
        ),
        Some(asked) if asked != name && asked != uid.to_string() => {
            bail!("--user {asked}: {} belongs to {name}, and {asked} could not write in it", home.root().display())
        }
        _ => Ok((name, uid)),
    }
}

/// The names of the files in a folder that say so of their data folder.
fn named(folder: &Path, place: &Place, mark: &str) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().and_then(|name| name.strip_suffix(place.ending)) else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_file()) && read(&entry.path())?.is_some_and(|text| text.contains(mark)) {
            out.push(name.to_owned());
        }
    }
    Ok(out)
}

/// A file's text; none when there is no such file, nothing when it is not text.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8(bytes).unwrap_or_default())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn need_root(options: &Boot) -> Result<()> {
    if is_here(options) && !nix::unistd::geteuid().is_root() {
        return Err(exit::ending(
            exit::NOT_ALLOWED,
            "only root can change what starts with the machine; --print shows it to everybody",
        ));
    }
    Ok(())
}

/// Has the system start it at boot, and now if that is wanted.
fn enable(init: Init, options: &InstallBoot, name: &str, path: &Path) -> Result<()> {
    let here = is_here(&options.boot);
    let path = path.to_string_lossy();
    let start: [&str; 3] = match init {
        Init::Systemd => ["systemctl", "start", name],
        Init::Launchd => ["launchctl", "bootstrap system", &path],
        Init::Sysvinit => [&path, "start", ""],
    };
    match init {
        Init::Systemd => {
            if here {
                systemctl(&options.boot, &["daemon-reload"])?;
            }
            systemctl(&options.boot, &["enable", &format!("{name}.service")])?;
        }
        Init::Launchd => {}
        Init::Sysvinit if here && which("update-rc.d") => run("update-rc.d", &[name, "defaults"])?,
        Init::Sysvinit if here && which("chkconfig") => run("chkconfig", &["--add", name])?,
        Init::Sysvinit => println!("Enable it there by what that system has: update-rc.d {name} defaults, or the like"),
    }
    if here && options.now {
        let words: Vec<&str> = start[1..].iter().flat_map(|words| words.split(' ')).filter(|word| !word.is_empty()).collect();
        let words = if init == Init::Launchd { vec!["bootstrap", "system", &*path] } else { words };
        return run(start[0], &words);
    }
    println!(
        "It starts at the next boot{}",
        if here { format!("; now: {}", start.join(" ").trim_end()) } else { String::new() }
    );
    Ok(())
}

fn systemctl(options: &Boot, words: &[&str]) -> Result<()> {
    let root = format!("--root={}", options.root.display());
    let mut all: Vec<&str> = if is_here(options) { Vec::new() } else { vec![&root] };
    all.extend(words);
    run("systemctl", &all)
}

/// Runs a program of the system, and says so.
fn run(program: &str, words: &[&str]) -> Result<()> {
    println!("$ {program} {}", words.join(" "));
    let status = Command::new(program).args(words).status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} {} {}", words.join(" "), child::describe(status));
    }
    Ok(())
}

fn which(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(program).is_file())
}
