//! Checks the machine before work begins, and tells everything that is missing at once.
//!
//! What a recipe needs follows from the kinds of its steps and from its `[needs]`. Each thing that is missing comes with
//! the command that installs it on this system; [`install`] runs those commands.

use crate::dirs::Dirs;
use crate::error::Kind;
use crate::host::{self, Host};
use crate::progress;
use crate::stack::recipe::{Action, Recipe};
use crate::target::Target;
use crate::text::write_stderr;
use crate::toolchain;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::AsFd as _;

/// The oldest go that obtains another by GOTOOLCHAIN.
const OLDEST_GO: &str = "1.21";

/// A tool, the oldest version that will do, and for whom.
type Needs<'a> = BTreeMap<String, (Option<&'static str>, Vec<&'a str>)>;

/// One thing that was checked.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked for, and for whom.
    pub what: String,
    /// What was found, or what is wrong.
    pub state: Result<String, String>,
    /// The command that mends it, in words of its own.
    pub mend: Vec<String>,
}

/// Looks at everything that building these recipes needs. `bootstrap` names those whose source has no `configure`.
pub fn check(recipes: &[&Recipe], bootstrap: &[&str], host: &Host, dirs: &Dirs, target: Target) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tools_of(recipes, bootstrap, host, target)
        .into_iter()
        .map(|(tool, (oldest, users))| look(&tool, oldest, &users, host))
        .collect();
    findings.extend(rust_targets(recipes, target));
    findings.extend(memory(recipes));
    findings.extend(disk(recipes, dirs));
    findings
}

/// Looks at what fetching the dependencies of these recipes needs.
pub fn check_fetching(recipes: &[&Recipe], host: &Host, target: Target) -> Vec<Finding> {
    let fetching = |tool: &str| ["go", "node", "npm", "cargo", "python3"].contains(&tool);
    tools_of(recipes, &[], host, target)
        .into_iter()
        .filter(|(tool, _)| fetching(tool))
        .map(|(tool, (oldest, users))| look(&tool, oldest, &users, host))
        .collect()
}

/// The tools that recipes need.
fn tools_of<'a>(recipes: &[&'a Recipe], bootstrap: &[&str], host: &Host, target: Target) -> Needs<'a> {
    let mut needs = Needs::new();
    for recipe in recipes {
        let mut need = |tool: &str, oldest: Option<&'static str>| {
            let entry = needs.entry(tool.to_owned()).or_insert((oldest, Vec::new()));
            if !entry.1.contains(&recipe.name.as_str()) {
                entry.1.push(&recipe.name);
            }
        };
        for step in &recipe.steps {
            if target.zig_of(recipe, step).is_some() {
                need("python3", None);
            }
            match step.action() {
                Action::Go(_) => {
                    need("go", Some(OLDEST_GO));
                    if step.env.get("CGO_ENABLED").is_some_and(|value| value == "1") {
                        need("cc", None);
                    }
                }
                Action::Node(_) => {
                    // Without a fitting node on the host it is npm that brings one.
                    need("npm", None);
                    if toolchain::host_node(recipe, host).is_none() && recipe.toolchain.node_package.is_none() {
                        need("node", None);
                    }
                }
                Action::Autotools(_) => {
                    // Programs of the build itself may still be made by the host's compiler.
                    need("cc", None);
                    need("make", None);
                    if bootstrap.contains(&recipe.name.as_str()) {
                        recipe.needs.bootstrap_tools.iter().for_each(|tool| need(tool, None));
                    }
                }
                Action::Cargo(_) => {
                    need("cargo", None);
                    need("cc", None);
                }
                Action::Manual => {}
            }
        }
        recipe.needs.tools.iter().for_each(|tool| need(tool, None));
    }
    needs
}

/// Looks for one tool, of at least some version, that is needed for `users`.
pub fn look(tool: &str, oldest: Option<&str>, users: &[&str], host: &Host) -> Finding {
    let what = format!("{tool} (for {})", users.join(", "));
    let mend = Manager::of_this_system().map(|manager| manager.install(tool)).unwrap_or_default();
    let state = match (host.tool(tool), oldest) {
        (None, _) => Err("is not on PATH".to_owned()),
        (Some(found), Some(oldest)) if !host::at_least(&found.version, oldest) => {
            // A distribution's own package may be just as old; then only the tool's makers have a newer one.
            let newer = if tool == "go" { "; if the package is too old as well, take one from https://go.dev/dl" } else { "" };
            Err(format!("is {} at {}, which is older than {oldest}{newer}", found.version, found.path.display()))
        }
        (Some(found), _) => Ok(format!("{} at {}", found.version, found.path.display())),
    };
    Finding { what, state, mend }
}

/// The Rust target that programs among these have to be compiled for by name.
fn rust_targets(recipes: &[&Recipe], target: Target) -> Option<Finding> {
    let wanted = |recipe: &Recipe| {
        recipe.steps.iter().find_map(|step| match step.action() {
            Action::Cargo(cargo) => target.rust(cargo.r#static),
            _ => None,
        })
    };
    let users: Vec<_> = recipes.iter().filter_map(|recipe| Some((wanted(recipe)?, recipe.name.as_str()))).collect();
    let (triple, _) = users.first()?;
    Some(rust_target(triple, &users.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")))
}

/// Looks for a target of the Rust toolchain, needed for `users`.
pub fn rust_target(target: &str, users: &str) -> Finding {
    let state = match toolchain::rust_target_installed(target) {
        Ok(true) => Ok("installed".to_owned()),
        Ok(false) => Err("is not installed".to_owned()),
        Err(error) => Err(format!("cannot be looked for: {error:#}")),
    };
    let mend = ["rustup", "target", "add", target].map(String::from).to_vec();
    Finding { what: format!("rust target {target} (for {users})"), state, mend }
}

fn memory(recipes: &[&Recipe]) -> Option<Finding> {
    let (need, user) = recipes.iter().map(|recipe| (recipe.memory_mb() * 1_000_000, &recipe.name)).max()?;
    let have = host::memory().filter(|_| need > 0)?;
    let text = progress::bytes(have);
    let state = if have < need { Err(format!("is only {text}; add swap, or build elsewhere")) } else { Ok(text) };
    Some(Finding { what: format!("memory of {} (for {user})", progress::bytes(need)), state, mend: Vec::new() })
}

fn disk(recipes: &[&Recipe], dirs: &Dirs) -> Option<Finding> {
    let need: u64 = recipes.iter().map(|recipe| recipe.needs.disk_mb * 1_000_000).sum();
    let have = host::free_disk(&dirs.build).filter(|_| need > 0)?;
    let text = progress::bytes(have);
    let state = if have < need {
        Err(format!("is only {text} in {}; make room, or choose another folder with --build-dir", dirs.build.display()))
    } else {
        Ok(text)
    };
    Some(Finding { what: format!("free disk of {}", progress::bytes(need)), state, mend: Vec::new() })
}

/// Fails with one report where anything is missing.
///
/// # Errors
/// [`Kind::Preflight`] with every finding that is bad, and the commands that mend them.
pub fn require(findings: &[Finding]) -> anyhow::Result<()> {
    let bad: Vec<_> = findings.iter().filter_map(|finding| finding.state.as_ref().err().map(|why| (finding, why))).collect();
    if bad.is_empty() {
        return Ok(());
    }
    let mut text = String::from("this machine cannot build that yet:");
    for (finding, why) in &bad {
        let _ = write!(text, "\n  {} {why}", finding.what);
    }
    let commands = commands(findings);
    if !commands.is_empty() {
        text.push_str("\ninstall what is missing with --install-missing, or by hand:");
        for command in commands {
            let _ = write!(text, "\n  {}", command.join(" "));
        }
    }
    Err(Kind::Preflight.error(text))
}

/// The commands that mend what is bad, packages of one manager in one command.
pub fn commands(findings: &[Finding]) -> Vec<Vec<String>> {
    let mut packages: Vec<String> = Vec::new();
    let mut others: Vec<Vec<String>> = Vec::new();
    let manager = Manager::of_this_system();
    let prefix = manager.map(Manager::command).unwrap_or_default();
    for finding in findings.iter().filter(|finding| finding.state.is_err() && !finding.mend.is_empty()) {
        if !prefix.is_empty() && finding.mend.starts_with(&prefix) {
            packages.extend(finding.mend[prefix.len()..].iter().cloned());
        } else if !others.contains(&finding.mend) {
            others.push(finding.mend.clone());
        }
    }
    packages.sort();
    packages.dedup();
    let mut all = Vec::new();
    if !packages.is_empty() {
        all.extend(manager.and_then(Manager::refresh));
        all.push([prefix, packages].concat());
    }
    all.extend(others);
    all
}

/// Runs the commands that install what is missing, showing them and their output.
///
/// # Errors
/// [`Kind::Preflight`] when one of them fails; the check that follows tells what is still missing.
pub fn install(findings: &[Finding]) -> anyhow::Result<()> {
    let fail = |why: String| Kind::Preflight.error(format!("cannot install what is missing: {why}"));
    for words in commands(findings) {
        write_stderr(&format!("$ {}", words.join(" ")));
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
        // Standard output is for what programs read.
        command.stdout(std::io::stderr().as_fd().try_clone_to_owned()?);
        let status = command.status().map_err(|error| fail(format!("{}: {error}", words[0])))?;
        if !status.success() {
            return Err(fail(format!("{} failed ({status})", words.join(" "))));
        }
    }
    Ok(())
}

/// A system's package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
    Brew,
}

impl Manager {
    fn of_this_system() -> Option<Self> {
        [("apt-get", Self::Apt), ("dnf", Self::Dnf), ("brew", Self::Brew)]
            .into_iter()
            .find(|(program, _)| which::which(program).is_ok())
            .map(|(_, manager)| manager)
    }

    /// The words in front of the packages' names.
    fn command(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Apt => &["apt-get", "install", "-y", "--no-install-recommends"],
            Self::Dnf => &["dnf", "install", "-y"],
            Self::Brew => return vec!["brew".to_owned(), "install".to_owned()],
        };
        sudo().into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    /// What has to run once before packages can be installed on a fresh machine.
    fn refresh(self) -> Option<Vec<String>> {
        let words = ["apt-get", "update"].map(String::from);
        (self == Self::Apt).then(|| sudo().into_iter().chain(words).collect())
    }

    fn install(self, tool: &str) -> Vec<String> {
        [self.command(), self.packages(tool)].concat()
    }

    fn packages(self, tool: &str) -> Vec<String> {
        let names: &[&str] = match (self, tool) {
            (Self::Apt, "cc") => &["gcc", "libc6-dev"],
            (Self::Apt, "go") => &["golang-go"],
            (Self::Apt, "node") => &["nodejs"],
            (Self::Apt, "collectd") => &["collectd-core"],
            (Self::Apt, "man") => &["man-db", "groff-base"],
            (Self::Apt, "ss") => &["iproute2"],
            (Self::Apt | Self::Dnf, "pip3") => &["python3-pip"],
            // It brings no font, and a page without any is no page.
            (Self::Apt, "chromium") => &["chromium", "fonts-dejavu-core"],
            (Self::Apt, "chromedriver") => &["chromium-driver"],
            (Self::Apt, "rpmbuild") => &["rpm"],
            (Self::Dnf, "rpmbuild") => &["rpm-build"],
            (Self::Apt, "xz") => &["xz-utils"],
            (Self::Apt | Self::Dnf, "systemd-analyze") => &["systemd"],
            (Self::Apt | Self::Dnf, "cargo") => &["cargo"],
            (Self::Dnf, "cc") => &["gcc"],
            (Self::Dnf, "go") => &["golang"],
            (Self::Dnf, "node") => &["nodejs"],
            (Self::Dnf, "npm") => &["nodejs-npm"],
            (Self::Dnf, "pkg-config") => &["pkgconf-pkg-config"],
            (Self::Brew, "cc") => &["gcc"],
            (Self::Brew, "npm") => &["node"],
            (Self::Brew, "pkg-config") => &["pkgconf"],
            (_, other) => return vec![other.to_owned()],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}

fn sudo() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "sudo".to_owned())
}
