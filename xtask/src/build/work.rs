//! One component on its way: the nodes of its chain, done one after the other in one work folder.

use super::gather::{self, Gathered};
use super::{Build, Session, collect, prepare};
use crate::key::Chain;
use crate::plan::Component;
use crate::progress;
use crate::resources::Cost;
use crate::shell::Command;
use crate::source::lacks_configure;
use crate::stack::Material;
use crate::stack::recipe::{Action, Step};
use crate::store::{self, Content, Ran, Record, StepCost};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// One component on its way. Its nodes come one after the other, on whatever threads.
pub struct Work<'a> {
    session: &'a Session<'a>,
    component: &'a Component<'a>,
    state: Mutex<State>,
}

/// How far the work folder is.
#[derive(Default)]
struct State {
    /// Whether the folder is this run's.
    begun: bool,
    /// Newest time stamp in the source.
    epoch: Option<u64>,
    /// Whether what is in the folder was written down before the next step begins.
    scanned: bool,
    costs: Vec<StepCost>,
    commands: Vec<Ran>,
}

/// A step that was begun in a work folder and has not ended well; written down beside the folder.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// The step.
    pub step: String,
    /// The key of what it was to make.
    pub key: String,
    /// Newest time stamp in the source.
    pub epoch: u64,
}

/// What laying out a step's kept result is called.
pub fn reused(step: &str) -> String {
    format!("{step} from the store")
}

impl<'a> Work<'a> {
    /// A component that is about to be made. Nothing is touched yet.
    pub fn new(session: &'a Session<'a>, component: &'a Component<'a>) -> Self {
        Self { session, component, state: Mutex::new(State::default()) }
    }

    /// The component.
    pub fn component(&self) -> &'a Component<'a> {
        self.component
    }

    fn name(&self) -> &'a str {
        &self.component.recipe.name
    }

    fn folder(&self) -> PathBuf {
        self.session.dirs.work(self.name())
    }

    fn step(&self, at: usize) -> &'a Step {
        &self.component.recipe.steps[at]
    }

    /// Puts the source into the work folder; `archive` is the fetched file of a locked archive.
    ///
    /// # Errors
    /// [`crate::error::Kind::Integrity`] for a harmful or broken archive.
    pub fn unpack(&self, archive: Option<&Path>) -> anyhow::Result<()> {
        let mut state = self.lock();
        self.begin(&mut state)?;
        let began = Instant::now();
        prepare::unpack(self.session, self.component, archive)?;
        state.epoch = Some(prepare::newest_mtime(&self.folder().join("src"))?);
        Self::note(&mut state, "unpack", Cost { wall: began.elapsed(), ..Cost::default() });
        Ok(())
    }

    /// Applies the recipe's patches.
    ///
    /// # Errors
    /// [`crate::error::Kind::Patch`] for one that does not apply.
    pub fn patch(&self) -> anyhow::Result<()> {
        let mut state = self.lock();
        let began = Instant::now();
        prepare::patch(self.session, self.component, state.epoch.unwrap_or_default())?;
        Self::note(&mut state, "patch", Cost { wall: began.elapsed(), ..Cost::default() });
        Ok(())
    }

    /// Whether the prepared source of kind autotools comes without `configure`.
    pub fn needs_bootstrap(&self) -> bool {
        let src = self.folder().join("src");
        let mut steps = self.component.recipe.steps.iter();
        steps.any(|step| matches!(step.action(), Action::Autotools(_)) && lacks_configure(&src.join(&step.dir)))
    }

    /// Fetches what a step needs; with a lower priority unless it is urgent.
    ///
    /// # Errors
    /// [`crate::error::Kind::Compile`] when that fails.
    pub fn needs(&self, at: usize, urgent: bool) -> anyhow::Result<()> {
        let mut state = self.lock();
        let build = self.before_step(at, urgent, &mut state)?;
        let cost = build.fetch_dependencies(self.step(at))?;
        Self::note(&mut state, &format!("{} needs", self.step(at).name), cost);
        Ok(())
    }

    /// Prepares the source, fetches what all steps need, and removes the work folder: for a later build, or for a mirror.
    ///
    /// # Errors
    /// Those of [`Self::unpack`], [`Self::patch`] and [`Self::needs`].
    pub fn gather(&self, archive: Option<&Path>) -> anyhow::Result<Gathered> {
        if !self.component.is_workspace() {
            self.unpack(archive)?;
            if !self.component.recipe.patches.is_empty() {
                self.patch()?;
            }
        }
        let mut state = self.lock();
        self.begin(&mut state)?;
        let gathered = gather::gather(&self.build(true, &state))?;
        self.session.dirs.remove_work(self.name())?;
        Ok(gathered)
    }

    /// Runs a step, with a lower priority unless it is urgent, and keeps what it has changed.
    ///
    /// # Errors
    /// [`crate::error::Kind::Compile`] when it fails, [`crate::error::Kind::Stage`] when its result cannot be kept.
    pub fn run(&self, at: usize, urgent: bool) -> anyhow::Result<()> {
        let mut state = self.lock();
        let build = self.before_step(at, urgent, &mut state)?;
        let step = self.step(at);
        let (cost, commands) = build.run_step(step)?;
        Self::note(&mut state, &step.name, cost);
        let (before, after) = self.scans();
        let delta = store::pack(self.session.store, &self.folder(), &before, &after)?;
        fs::rename(&after, &before).with_context(|| format!("cannot rename {}", after.display()))?;
        let mut record = Record::new(self.name(), store::slot_of_step(&step.name), self.chain_to(at));
        record.toolchain = self.component.toolchain.clone();
        record.costs = state.costs.iter().filter(|cost| cost.name.starts_with(&step.name)).cloned().collect();
        state.commands.extend(commands.iter().cloned());
        record.commands = commands;
        record.content = Content::Delta { pack: delta.pack, entries: delta.entries };
        self.session.store.seal(&record)?;
        self.forget_unfinished();
        Ok(())
    }

    /// Lays out what a step has made in an earlier run.
    ///
    /// # Errors
    /// When the result is damaged; it is then thrown away.
    pub fn reuse(&self, record: &Record) -> anyhow::Result<()> {
        let mut state = self.lock();
        self.begin(&mut state)?;
        state.scanned = false;
        let step = self.session.ui.step(self.name(), &reused(record.slot.trim_start_matches("step-")));
        let laid = store::apply(self.session.store, record, &self.folder()).inspect_err(|error| {
            if error.is::<store::Damaged>() {
                self.session.store.forget(record);
            }
        });
        step.close(laid, |()| String::new())?;
        self.session.store.touch(record);
        state.costs.extend(record.costs.iter().cloned());
        state.commands.extend(record.commands.iter().cloned());
        Ok(())
    }

    /// Takes what goes into the bundle, keeps it, and removes the work folder.
    ///
    /// # Errors
    /// [`crate::error::Kind::Stage`] when something that the recipe takes was not made, or cannot be kept.
    pub fn collect(&self) -> anyhow::Result<Record> {
        let mut state = self.lock();
        self.begin(&mut state)?;
        let build = self.build(true, &state);
        let step = self.session.ui.step(self.name(), "collect");
        let record = collect::collect(&build, std::mem::take(&mut state.costs), std::mem::take(&mut state.commands));
        let record = step.close(record, |record| match &record.content {
            Content::Tree { files, bytes, .. } => format!("{files} files, {}", progress::bytes(*bytes)),
            Content::Delta { .. } => String::new(),
        })?;
        // The source is in the store and the results are kept: the work folder, the largest of all, has done its work.
        self.session.dirs.remove_work(self.name())?;
        Ok(record)
    }

    /// The result of a step as it would be made now, if it is in the store and whole.
    ///
    /// # Errors
    /// When a damaged one cannot be removed.
    pub fn kept(&self, at: usize) -> anyhow::Result<Option<Record>> {
        let slot = store::slot_of_step(&self.step(at).name);
        let Ok(Some(record)) = self.session.store.find(self.name(), &slot, &self.chain_to(at).key()) else { return Ok(None) };
        Ok(self.session.store.check(&record)?.is_none().then_some(record))
    }

    /// The commands of a step, as they would run now.
    ///
    /// # Errors
    /// When the step's tools cannot be had.
    pub fn commands(&self, at: usize) -> anyhow::Result<Vec<Command>> {
        let mut state = self.lock();
        self.before_step(at, true, &mut state)?.commands(self.step(at))
    }

    /// Takes over the work folder that an earlier run has left in the midst of this step, if it is the right one.
    pub fn take_over(&self, at: usize) -> bool {
        let found = self.unfinished().filter(|found| {
            found.step == self.step(at).name && found.key == self.chain_to(at).key() && self.folder().join("dest").is_dir()
        });
        let mut state = self.lock();
        (state.begun, state.epoch) = (found.is_some(), found.as_ref().map(|found| found.epoch));
        found.is_some()
    }

    /// The step in whose midst an earlier run has left the work folder.
    pub fn unfinished(&self) -> Option<Unfinished> {
        serde_json::from_slice(&fs::read(self.session.dirs.work_state(self.name())).ok()?).ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the work folder anew, once.
    fn begin(&self, state: &mut State) -> anyhow::Result<()> {
        if state.begun {
            return Ok(());
        }
        self.session.dirs.remove_work(self.name())?;
        let dest = self.folder().join("dest");
        fs::create_dir_all(&dest).with_context(|| format!("cannot make {}", dest.display()))?;
        state.begun = true;
        Ok(())
    }

    /// Writes down what is in the folder, to know afterwards what the step has changed, and that it has begun.
    fn before_step(&self, at: usize, urgent: bool, state: &mut State) -> anyhow::Result<Build<'a>> {
        self.begin(state)?;
        let build = self.build(urgent, state);
        let unfinished = Unfinished { step: self.step(at).name.clone(), key: self.chain_to(at).key(), epoch: build.epoch };
        let path = self.session.dirs.work_state(self.name());
        fs::write(&path, serde_json::to_vec(&unfinished)?).with_context(|| format!("cannot write {}", path.display()))?;
        if !state.scanned {
            store::scan(&self.folder(), &self.scans().0)?;
            state.scanned = true;
        }
        Ok(build)
    }

    fn forget_unfinished(&self) {
        // One that stays names a result that is there by now.
        let _ = fs::remove_file(self.session.dirs.work_state(self.name()));
    }

    fn build(&self, urgent: bool, state: &State) -> Build<'a> {
        let work = self.folder();
        let src = match self.component.material {
            Material::Locked(_) => work.join("src"),
            Material::Workspace => self.session.workspace.to_owned(),
        };
        let epoch = state.epoch.unwrap_or(prepare::FOLDER_EPOCH);
        Build { session: self.session, planned: self.component, work, src, epoch, urgent }
    }

    fn note(state: &mut State, node: &str, cost: Cost) {
        state.costs.push(StepCost::new(node, cost));
    }

    /// The files that hold what is in the folder, before and after a step.
    fn scans(&self) -> (PathBuf, PathBuf) {
        self.session.dirs.work_scans(self.name())
    }

    /// All that the result of a step depends on.
    fn chain_to(&self, at: usize) -> Chain {
        let links = &self.component.chain.0;
        let steps = self.component.recipe.steps.len();
        // Behind the steps comes nothing but `collect`.
        Chain(links[..links.len() - steps + at].to_vec())
    }
}
