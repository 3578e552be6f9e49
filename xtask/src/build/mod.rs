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
use crate::logs::{ComponentLog, Logs};
use crate::outputs::{self, Output, StepCost};
use crate::plan::Planned;
use crate::progress::{self, Ui};
use crate::shell::{Command, Cost};
use crate::stack::recipe::{Action, Step};
use crate::stack::{Material, Stack};
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
    /// What the disk keeps.
    pub logs: &'a Logs,
    /// The machine.
    pub host: &'a Host,
    /// How many jobs a build tool may run at once.
    pub jobs: usize,
    /// Whether the network is off limits.
    pub offline: bool,
}

/// One component while it is compiled.
struct Build<'a> {
    session: &'a Session<'a>,
    planned: &'a Planned<'a>,
    /// `build/work/<component>`.
    work: PathBuf,
    /// The source: `src/` in the work folder, or the workspace itself.
    src: PathBuf,
    /// Newest time stamp in the source, seconds since 1970.
    epoch: u64,
}

/// Runs the steps of a component whose source was prepared, and keeps what they made.
///
/// # Errors
/// Those of the steps ([`Kind::Compile`]), and [`Kind::Stage`] when something that the recipe takes was not made.
pub fn build(session: &Session<'_>, planned: &Planned<'_>) -> anyhow::Result<Output> {
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
    let mut log = session.logs.component(name)?;
    let mut costs = Vec::new();
    for step in &planned.recipe.steps {
        let cost = build.run_step(step, &mut log)?;
        costs.push(StepCost::new(&step.name, cost));
    }
    let output = collect::collect(&build, costs)?;
    outputs::keep_newest(&session.dirs.outputs(name))?;
    // The source is in the store and the outputs are kept: the work folder, the largest of all, has done its work.
    crate::dirs::remove_all(&build.work).with_context(|| format!("cannot remove {}", build.work.display()))?;
    Ok(output)
}

impl Build<'_> {
    fn dest(&self) -> PathBuf {
        self.work.join("dest")
    }

    fn run_step(&self, step: &Step, log: &mut ComponentLog) -> anyhow::Result<Cost> {
        let shown = self.session.ui.step(&self.planned.recipe.name, &step.name);
        shown.announce();
        let outcome = self.commands(step).and_then(|commands| {
            let mut total = Cost::default();
            for command in commands {
                let cost = command.run(&shown, log)?;
                total = total.then(cost);
            }
            Ok(total)
        });
        match outcome {
            Ok(cost) => {
                shown.done(&format!("cpu {}, peak {}", progress::seconds(cost.cpu), progress::bytes(cost.peak)));
                Ok(cost)
            }
            Err(error) => {
                shown.fail("");
                Err(error.context(format!("cannot build {}, step {}", self.planned.recipe.name, step.name)))
            }
        }
    }

    /// The commands of a step, in order.
    fn commands(&self, step: &Step) -> anyhow::Result<Vec<Command>> {
        let dir = self.src.join(&step.dir);
        if !dir.is_dir() {
            return Err(Kind::Compile.error(format!("the source has no folder {}; mend dir of the step", step.dir.display())));
        }
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
