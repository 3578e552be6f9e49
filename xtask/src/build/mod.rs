//! Compiles one component: prepares its source, runs its steps, collects what goes into the bundle.
//!
//! The kinds of build are one file each; what they share is here. A component is compiled in a work folder of its own
//! (`src/` the patched source, `dest/` what an install step makes), and what its recipe takes from there is put beside
//! and renamed into [`crate::outputs`], so that only whole outputs are ever found there.

mod autotools;
mod cargo;
mod collect;
mod go;
mod node;
mod prepare;

pub(crate) use go::go_toolchain;
pub use prepare::{needs_bootstrap, newest_mtime, prepare, source_files};

use crate::dirs::Dirs;
use crate::environment::{self, Environment};
use crate::error::Kind;
use crate::host::Host;
use crate::outputs::{self, Output, StepCost};
use crate::plan::Planned;
use crate::progress::{self, Ui};
use crate::schedule::{Claim, Resources, Scheduler};
use crate::shell::{Command, Cost};
use crate::stack::recipe::{Action, Step};
use crate::stack::{Material, Stack};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// How many jobs a build tool may run at once.
    pub jobs: usize,
    /// Whether the network is off limits.
    pub offline: bool,
    /// Who may run when.
    pub scheduler: &'a Scheduler,
}

/// One component while it is compiled.
struct Build<'a> {
    session: &'a Session<'a>,
    planned: &'a Planned<'a>,
    /// `build/wip/<component>`.
    work: PathBuf,
    /// The source: `src/` in the work folder, or the workspace itself.
    src: PathBuf,
    /// Newest time stamp in the source, seconds since 1970.
    epoch: u64,
}

/// A component that is ready to begin.
pub struct Start<'a> {
    /// How long each of its steps will probably take.
    times: Vec<Duration>,
    /// Its place among those that wait to run their first step; none for one without steps.
    claim: Option<Claim<'a>>,
}

/// Announces a component's first step to the scheduler.
pub fn announce<'a>(session: &Session<'a>, planned: &Planned<'_>) -> Start<'a> {
    let times = remembered_times(session, planned);
    let first = planned.recipe.steps.first();
    let claim = first.map(|step| session.scheduler.announce(need(planned, step), times.iter().sum()));
    Start { times, claim }
}

/// What a step takes of the machine.
pub fn need(planned: &Planned<'_>, step: &Step) -> Resources {
    Resources { cores: step.cores.unwrap_or(1), memory_mb: step.memory_mb.unwrap_or(planned.recipe.needs.memory_mb) }
}

/// Runs the steps of a component whose source was prepared, and keeps what they made.
///
/// # Errors
/// Those of the steps ([`Kind::Compile`]), and [`Kind::Stage`] when something that the recipe takes was not made.
pub fn build(session: &Session<'_>, planned: &Planned<'_>, start: Start<'_>) -> anyhow::Result<Output> {
    let name = &planned.recipe.name;
    let work = session.dirs.work(name);
    let src = match planned.material {
        Material::Locked(_) => work.join("src"),
        Material::Workspace => session.workspace.to_owned(),
    };
    let epoch = match planned.material {
        Material::Locked(_) => newest_mtime(&src)?,
        Material::Workspace => prepare::FOLDER_EPOCH,
    };
    let build = Build { session, planned, work, src, epoch };
    std::fs::create_dir_all(build.dest()).with_context(|| format!("cannot make {}", build.dest().display()))?;
    let mut costs = Vec::new();
    let Start { times, mut claim } = start;
    for (at, step) in planned.recipe.steps.iter().enumerate() {
        let later = || session.scheduler.announce(need(planned, step), times[at..].iter().sum());
        let permit = claim.take().unwrap_or_else(later).wait()?;
        build.fetch_dependencies(step)?;
        let cost = build.run_step(step)?;
        drop(permit);
        costs.push(StepCost::new(&step.name, cost));
    }
    let output = collect::collect(&build, costs)?;
    outputs::keep_newest(&session.dirs.outputs(name))?;
    // The source is in the store and the outputs are kept: the work folder, the largest of all, has done its work.
    crate::dirs::remove_all(&build.work).with_context(|| format!("cannot remove {}", build.work.display()))?;
    Ok(output)
}

/// How long each step took when the component was built last; a guess by its kind for those that never ran.
fn remembered_times(session: &Session<'_>, planned: &Planned<'_>) -> Vec<Duration> {
    let guess = |step: &Step| {
        Duration::from_secs(match step.action() {
            Action::Node(_) => 120,
            Action::Cargo(_) => 60,
            Action::Go(_) => 40,
            Action::Autotools(_) => 30,
        })
    };
    let before =
        outputs::latest(&session.dirs.outputs(&planned.recipe.name)).map(|output| output.record.steps).unwrap_or_default();
    let remembered =
        |step: &Step| before.iter().find(|cost| cost.name == step.name).map_or_else(|| guess(step), StepCost::wall);
    planned.recipe.steps.iter().map(remembered).collect()
}

impl Build<'_> {
    fn dest(&self) -> PathBuf {
        self.work.join("dest")
    }

    /// What the step's lock files pin is fetched into the tools' caches before the step runs without network.
    fn fetch_dependencies(&self, step: &Step) -> anyhow::Result<()> {
        let commands = self
            .dependencies(step)
            .with_context(|| format!("cannot build {}, step {}", self.planned.recipe.name, step.name))?;
        if commands.is_empty() {
            return Ok(());
        }
        self.run_shown(&format!("{} needs", step.name), &commands).map(drop)
    }

    fn run_step(&self, step: &Step) -> anyhow::Result<Cost> {
        let commands =
            self.commands(step).with_context(|| format!("cannot build {}, step {}", self.planned.recipe.name, step.name))?;
        self.run_shown(&step.name, &commands)
    }

    /// Runs commands under one line on the terminal.
    fn run_shown(&self, what: &str, commands: &[Command]) -> anyhow::Result<Cost> {
        let name = &self.planned.recipe.name;
        let shown = self.session.ui.step(name, what);
        shown.announce();
        let outcome = commands.iter().try_for_each(|command| command.run(&shown));
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
            Action::Autotools(_) => Vec::new(),
            Action::Cargo(cargo) => cargo::dependencies(self, step, cargo, &dir),
        };
        Ok(commands.into_iter().map(Command::with_network).collect())
    }

    /// The commands of a step, in order.
    fn commands(&self, step: &Step) -> anyhow::Result<Vec<Command>> {
        let dir = self.dir(step)?;
        match step.action() {
            Action::Go(go) => go::commands(self, step, go, &dir),
            Action::Node(node) => node::commands(self, step, node, &dir),
            Action::Autotools(autotools) => Ok(autotools::commands(self, step, autotools, &dir)),
            Action::Cargo(cargo) => Ok(cargo::commands(self, step, cargo, &dir)),
        }
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
