//! Makes one component: prepares its source, runs its steps, collects what goes into the bundle.
//!
//! The kinds of build are one file each; what they share is here. A component is made in a work folder of its own (`src/`
//! the patched source, `dest/` what an install step makes), node by node as the plan has it ([`Work`]). What a step has
//! changed there is kept in the store as soon as the step has ended well, and can be laid out again instead of running the
//! step. When all is collected the work folder is removed; when a step fails it stays, for `cargo xtask shell`.

mod account;
mod autotools;
mod cargo;
mod collect;
mod gather;
mod go;
mod manual;
mod node;
mod prepare;
mod work;
mod zig;

pub use work::{Work, reused};

use crate::dirs::Dirs;
use crate::environment::{self, Environment};
use crate::error::Kind;
use crate::failed::CommandFailed;
use crate::host::Host;
use crate::plan::Component;
use crate::progress::{self, Ui};
use crate::resources::Cost;
use crate::shell::{Command, Network};
use crate::stack::Stack;
use crate::stack::recipe::{Action, Step};
use crate::store::{Ran, Store};
use crate::supply::Supply;
use crate::target::Target;
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// What all components of a run share.
pub struct Session<'a> {
    /// The stack that is built.
    pub stack: &'a Stack,
    /// The repository's root.
    pub workspace: &'a Path,
    /// The build and the dist folder.
    pub dirs: &'a Dirs,
    /// What the person sees.
    pub ui: &'a Ui,
    /// The machine.
    pub host: &'a Host,
    /// The platform that is built for.
    pub target: Target,
    /// What was made before, and what this run makes.
    pub store: &'a Store,
    /// How many jobs a build tool may run at once.
    pub jobs: usize,
    /// The flags by which this program finds the same stack and build folder again, as one would type them.
    pub flags: &'a str,
    /// Where dependencies come from.
    pub supply: &'a Supply,
}

/// One component while a step of it runs.
struct Build<'a> {
    session: &'a Session<'a>,
    planned: &'a Component<'a>,
    /// `build/wip/<component>`.
    work: PathBuf,
    /// The source: `src/` in the work folder, or the workspace itself.
    src: PathBuf,
    /// Newest time stamp in the source, seconds since 1970.
    epoch: u64,
    /// Whether the run ends the later the later the step does.
    urgent: bool,
}

impl Build<'_> {
    fn dest(&self) -> PathBuf {
        self.work.join("dest")
    }

    /// What the step's lock files pin is fetched into the tools' caches before the step runs without network.
    fn fetch_dependencies(&self, step: &Step) -> anyhow::Result<Cost> {
        let fetch = || -> anyhow::Result<Cost> {
            let commands = self.dependencies(step)?;
            if commands.is_empty() {
                return Ok(Cost::default());
            }
            self.run_shown(step, &format!("{} needs", step.name), &commands)
        };
        fetch().map_err(|error| self.session.supply.failed(error, &self.planned.recipe.name, &step.name))
    }

    /// Runs a step; gives what that cost, and its commands for whoever wants to know later.
    fn run_step(&self, step: &Step) -> anyhow::Result<(Cost, Vec<Ran>)> {
        let commands = self.commands(step).with_context(|| self.cannot(step))?;
        let cost = self.run_shown(step, &step.name, &commands)?;
        Ok((cost, commands.iter().map(|command| self.ran(step, command)).collect()))
    }

    /// A command in words that hold nothing of this machine: folders by what they are for, and of the environment what the
    /// step has added to the fixed one.
    fn ran(&self, step: &Step, command: &Command) -> Ran {
        let session = self.session;
        let mut places: Vec<(String, &str)> = session.dirs.places().into_iter().map(|place| (place, "{build}")).collect();
        let others = [(&session.stack.root, "{stack}"), (&session.workspace.to_owned(), "{workspace}")];
        places.extend(others.into_iter().map(|(path, word)| (path.to_string_lossy().into_owned(), word)));
        let base = environment::base(session.dirs, self.epoch);
        let homes = [("CARGO_HOME", "{cargo}"), ("RUSTUP_HOME", "{rustup}"), ("GOENV", "{goenv}")];
        places
            .extend(homes.into_iter().filter_map(|(name, word)| Some((base.get(name)?.to_string_lossy().into_owned(), word))));
        // The longest first: the build folder usually lies in the workspace.
        places.sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
        let plain = |text: &std::ffi::OsStr| {
            let text = text.to_string_lossy().into_owned();
            places.iter().fold(text, |text, (place, word)| text.replace(place, word))
        };
        let words = std::iter::once(command.program.as_os_str()).chain(command.args.iter().map(std::ffi::OsString::as_os_str));
        let added =
            command.env.iter().filter(|(name, value)| base.get(*name) != Some(value) && !environment::is_personal(name));
        Ran {
            step: step.name.clone(),
            words: words.map(plain).collect(),
            dir: plain(command.dir.as_os_str()),
            env: added.map(|(name, value)| (name.clone(), plain(value))).collect(),
        }
    }

    fn cannot(&self, step: &Step) -> String {
        format!("cannot build {}, step {}", self.planned.recipe.name, step.name)
    }

    /// Runs commands under one line on the terminal.
    fn run_shown(&self, step: &Step, what: &str, commands: &[Command]) -> anyhow::Result<Cost> {
        let name = &self.planned.recipe.name;
        let shown = self.session.ui.step(name, what);
        shown.announce();
        let outcome = commands.iter().try_for_each(|command| command.run(&shown)).map_err(|mut error| {
            if let Some(failed) = error.downcast_mut::<CommandFailed>() {
                failed.shell = Some(format!("cargo xtask shell {name} --step {}{}", step.name, self.session.flags));
            }
            error
        });
        let cost = shown.cost();
        let outcome = outcome.map(|()| cost).with_context(|| format!("cannot build {name}, step {what}"));
        shown.close(outcome, |cost| format!("cpu {}, peak {}", progress::seconds(cost.cpu), progress::bytes(cost.peak)))
    }

    /// The folder that a step runs in.
    fn dir(&self, step: &Step) -> anyhow::Result<PathBuf> {
        let dir = self.src.join(&step.dir);
        if dir.is_dir() {
            return Ok(dir);
        }
        Err(Kind::Compile.error(format!("the source has no folder {}; mend dir of the step", step.dir.display())))
    }

    /// The commands that fetch what a step needs; only they may use the network.
    fn dependencies(&self, step: &Step) -> anyhow::Result<Vec<Command>> {
        let dir = self.dir(step)?;
        let commands = match step.action() {
            Action::Go(go) => go::dependencies(self, step, go, &dir)?,
            Action::Node(node) => node::dependencies(self, step, node, &dir)?,
            Action::Autotools(_) => {
                zig::fetch(self, step)?;
                Vec::new()
            }
            Action::Manual => Vec::new(),
            Action::Cargo(cargo) => cargo::dependencies(self, step, cargo, &dir)?,
        };
        // One that says itself that it has no network keeps its word.
        let network = |command: Command| match command.network {
            Network::Closed => command.with_network(self.session.supply.network()),
            Network::Open | Network::Offline => command,
        };
        Ok(self.in_their_turn(commands.into_iter().map(network).collect()))
    }

    /// The commands of a step, in order.
    fn commands(&self, step: &Step) -> anyhow::Result<Vec<Command>> {
        let dir = self.dir(step)?;
        let commands = match step.action() {
            Action::Go(go) => go::commands(self, step, go, &dir)?,
            Action::Node(node) => node::commands(self, step, node, &dir)?,
            Action::Autotools(autotools) => autotools::commands(self, step, autotools, &dir)?,
            Action::Cargo(cargo) => cargo::commands(self, step, cargo, &dir)?,
            Action::Manual => manual::commands(self, step, &dir)?,
        };
        Ok(self.in_their_turn(commands))
    }

    /// The commands with the priority that the step has.
    fn in_their_turn(&self, commands: Vec<Command>) -> Vec<Command> {
        if self.urgent { commands } else { commands.into_iter().map(Command::patient).collect() }
    }

    /// The fixed environment, the kind's additions, and on top the step's own.
    fn env(&self, step: &Step, additions: &[(&str, String)]) -> Environment {
        let mut env = environment::base(self.session.dirs, self.epoch);
        for (name, value) in additions {
            env.insert((*name).to_owned(), value.into());
        }
        for (name, value) in &step.env {
            env.insert(name.clone(), self.fill(value).into());
        }
        env
    }

    /// Replaces the placeholders that a recipe may use.
    fn fill(&self, text: &str) -> String {
        let version = self.planned.version();
        text.replace("{version}", version)
            .replace("{src}", &self.src.to_string_lossy())
            .replace("{dest}", &self.dest().to_string_lossy())
            .replace("{jobs}", &self.session.jobs.to_string())
            .replace("{epoch}", &self.epoch.to_string())
    }

    fn fill_all(&self, texts: &[String]) -> Vec<String> {
        texts.iter().map(|text| self.fill(text)).collect()
    }
}
