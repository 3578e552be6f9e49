//! The kind `node`: npm or Yarn, whichever the source uses and in the version that it names.

use super::Build;
use crate::environment::{self, Environment};
use crate::error::{Kind, WithKind as _};
use crate::shell::{Command, Network};
use crate::stack::recipe::{Node, Step};
use crate::toolchain::{self, Integrity, Package, Registry};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The part of package.json that names the package manager.
#[derive(Default, Deserialize)]
struct PackageJson {
    #[serde(rename = "packageManager")]
    package_manager: Option<String>,
}

/// A package manager of a certain version.
#[derive(Debug, PartialEq, Eq)]
enum Manager {
    /// The host's npm.
    HostNpm,
    /// A script to be run by node, under the name that other scripts call it by.
    Script { name: &'static str, path: PathBuf, classic: bool },
}

/// A package manager, ready to be given words.
struct Tool {
    manager: Manager,
    command: Command,
}

impl Tool {
    /// Gets node and the package manager, where they are not there yet, and puts them in the step's environment.
    fn new(build: &Build<'_>, step: &Step, node: &Node, dir: &Path, offline: bool) -> anyhow::Result<Self> {
        let session = build.session;
        let plain = environment::base(session.dirs, build.epoch);
        let registry = Registry { dirs: session.dirs, env: &plain, supply: session.supply };
        let bin = toolchain::node(build.planned.recipe, session.host, &registry)?;
        let manager = manager(dir, &registry)?;
        let mut env = environment::with_path(build.env(step, &[]), &bin);
        if let Some(options) = &node.node_options {
            env.insert("NODE_OPTIONS".to_owned(), options.into());
        }
        env.extend(supplied(build, step, offline, matches!(manager, Manager::Script { classic: true, .. }))?);
        let command = match &manager {
            Manager::HostNpm => Command::new("npm", dir, &env),
            Manager::Script { name, path, .. } => {
                let env = environment::with_path(env, &shim(&build.work, name, path)?);
                Command::new(bin.join("node"), dir, &env).arg(path)
            }
        };
        Ok(Self { manager, command })
    }

    fn run(&self, words: &[&str]) -> Command {
        self.command.clone().args(words.iter().copied())
    }
}

/// Where the package managers have their caches, and whether they may ask for more.
fn supplied(build: &Build<'_>, step: &Step, offline: bool, classic: bool) -> anyhow::Result<Environment> {
    let (supply, dirs) = (build.session.supply, build.session.dirs);
    let mut env = Environment::new();
    let mut set = |name: &str, value: &OsStr| drop(env.insert(name.to_owned(), value.to_owned()));
    set("npm_config_cache", supply.npm(dirs).as_os_str());
    if supply.gathered().is_some() {
        set("npm_config_prefer_offline", "true".as_ref());
    }
    if offline {
        set("npm_config_offline", "true".as_ref());
        set("YARN_ENABLE_NETWORK", "0".as_ref());
        for (name, value) in supply.npm_registries(&build.planned.recipe.name).into_iter().flatten() {
            set(&format!("npm_config_{name}"), value.as_ref());
        }
    }
    if classic {
        set("YARN_CACHE_FOLDER", dirs.cache("yarn-classic").as_os_str());
        if let Some(mirror) = supply.yarn_classic(dirs) {
            // It does not make the folder itself.
            std::fs::create_dir_all(&mirror).kind(Kind::Stage, || format!("cannot make {}", mirror.display()))?;
            set("YARN_YARN_OFFLINE_MIRROR", mirror.as_os_str());
        }
    } else if let Some(own) = supply.yarn(&build.planned.recipe.name, &step.name) {
        // A cache of its own that is filled from the one all projects share: what is in it is what this one uses.
        set("YARN_ENABLE_GLOBAL_CACHE", "0".as_ref());
        set("YARN_ENABLE_MIRROR", "1".as_ref());
        set("YARN_CACHE_FOLDER", own.as_os_str());
    }
    Ok(env)
}

/// Fetches the packages of the lock file into the manager's cache, without running anything of theirs.
pub(super) fn dependencies(build: &Build<'_>, step: &Step, node: &Node, dir: &Path) -> anyhow::Result<Vec<Command>> {
    let supply = build.session.supply;
    let tool = Tool::new(build, step, node, dir, supply.offline)?;
    if !node.install {
        return Ok(Vec::new());
    }
    let is_yarn = matches!(tool.manager, Manager::Script { name: "yarn", .. });
    let mut commands = vec![tool.run(match &tool.manager {
        Manager::Script { name: "yarn", classic: true, .. } if supply.offline => {
            &["install", "--frozen-lockfile", "--non-interactive", "--ignore-scripts", "--offline"]
        }
        Manager::Script { name: "yarn", classic: true, .. } => {
            &["install", "--frozen-lockfile", "--non-interactive", "--ignore-scripts"]
        }
        Manager::Script { name: "yarn", .. } => &["install", "--immutable", "--mode=skip-build"],
        _ => &["ci", "--ignore-scripts"],
    })];
    if supply.gathered().is_some() && !is_yarn {
        supply.note_registries(&build.planned.recipe.name, npm_registries(&tool)?);
        if has_git_dependencies(dir) {
            // npm clones repositories each time anew: whether it can do without shows when it has to.
            commands.push(tool.run(&["ci", "--ignore-scripts", "--offline"]).with_network(Network::Offline));
        }
    }
    Ok(commands)
}

/// Whether npm's lock file names packages in git repositories.
fn has_git_dependencies(dir: &Path) -> bool {
    let locks = ["npm-shrinkwrap.json", "package-lock.json"].map(|name| std::fs::read_to_string(dir.join(name)));
    locks.into_iter().flatten().any(|text| text.contains("\"git+") || text.contains("\"git:"))
}

/// From which registries npm takes packages: its cache knows them by their addresses.
fn npm_registries(tool: &Tool) -> anyhow::Result<BTreeMap<String, String>> {
    let Command { program, args, env, dir, .. } = &tool.command;
    let shell = xshell::Shell::new()?;
    let _dir = shell.push_dir(dir);
    let command = xshell::cmd!(shell, "{program} {args...} config ls --json").quiet().env_clear().ignore_stderr();
    let command = env.iter().fold(command, |command, (name, value)| command.env(name, value));
    let text = command.read().kind(Kind::Fetch, || "cannot ask npm for its registries".to_owned())?;
    let all: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).kind(Kind::Fetch, || "cannot read npm's configuration".to_owned())?;
    let registries = all.into_iter().filter(|(name, _)| name == "registry" || name.ends_with(":registry"));
    Ok(registries.filter_map(|(name, value)| Some((name, without_secrets(value.as_str()?)?))).collect())
}

/// An address without user and password: what is written down must not hold any.
fn without_secrets(address: &str) -> Option<String> {
    let mut url = reqwest::Url::parse(address).ok()?;
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(url.into())
}

pub(super) fn commands(build: &Build<'_>, step: &Step, node: &Node, dir: &Path) -> anyhow::Result<Vec<Command>> {
    let tool = Tool::new(build, step, node, dir, true)?;
    let mut commands = Vec::new();
    if node.install {
        commands.push(tool.run(match &tool.manager {
            Manager::Script { name: "yarn", classic: true, .. } => {
                &["install", "--frozen-lockfile", "--non-interactive", "--offline"]
            }
            Manager::Script { name: "yarn", .. } => &["install", "--immutable"],
            _ => &["ci"],
        }));
    }
    commands.extend(node.run.iter().map(|script| tool.run(&["run", &build.fill(script)])));
    Ok(commands)
}

/// Which package manager a source wants: the one in its own `.yarnrc.yml`, that of `packageManager`, or the one whose
/// lock file it has.
fn manager(dir: &Path, registry: &Registry<'_>) -> anyhow::Result<Manager> {
    if let Some(path) = yarn_path(dir) {
        return Ok(Manager::Script { name: "yarn", path, classic: false });
    }
    let path = dir.join("package.json");
    let text = std::fs::read_to_string(&path).kind(Kind::Compile, || format!("cannot read {}", path.display()))?;
    let package: PackageJson = serde_json::from_str(&text).kind(Kind::Compile, || format!("cannot use {}", path.display()))?;
    match package.package_manager.as_deref() {
        Some(spec) => named_manager(spec, registry),
        None if dir.join("yarn.lock").is_file() => Err(Kind::Compile.error(format!(
            "{} has a yarn.lock, but names no Yarn: neither yarnPath in .yarnrc.yml nor packageManager in package.json",
            dir.display()
        ))),
        None => Ok(Manager::HostNpm),
    }
}

/// `yarnPath` of the nearest `.yarnrc.yml`, which names a Yarn that the source brings along.
fn yarn_path(dir: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(dir.join(".yarnrc.yml")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("yarnPath:"))?.trim().trim_matches(['"', '\'']);
    let path = dir.join(value);
    path.is_file().then_some(path)
}

/// `npm@10.8.2`, `yarn@4.9.2+sha512.<hex>`.
fn named_manager(spec: &str, registry: &Registry<'_>) -> anyhow::Result<Manager> {
    let unusable = || Kind::Compile.error(format!("packageManager \"{spec}\" is not npm@VERSION or yarn@VERSION"));
    let (name, rest) = spec.split_once('@').ok_or_else(unusable)?;
    let (version, integrity) = match rest.split_once('+') {
        Some((version, hash)) => (version, Integrity::parse(hash)),
        None => (rest, None),
    };
    let classic = version.starts_with("1.");
    // Yarn's hash in packageManager is that of the plain script and not of the package, so it cannot be used here.
    let (name, package, script, integrity) = match (name, classic) {
        ("npm", _) => ("npm", "npm", "bin/npm-cli.js", integrity),
        ("yarn", true) => ("yarn", "yarn", "bin/yarn.js", integrity),
        ("yarn", false) => ("yarn", "@yarnpkg/cli-dist", "bin/yarn.js", None),
        _ => return Err(unusable()),
    };
    let root = registry.package(&Package { name: package, version, integrity })?;
    Ok(Manager::Script { name, path: root.join(script), classic })
}

/// A folder with a program of the manager's name: scripts of package.json call it by that.
fn shim(work: &Path, name: &str, script: &Path) -> anyhow::Result<PathBuf> {
    let folder = work.join("shims");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\nexec node {} \"$@\"\n", crate::shell::quote(script.as_os_str())))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}
