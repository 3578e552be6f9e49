//! Runs a plan: every node that has something to do, side by side as far as what they come after, cores and memory allow.
//!
//! Downloads share one client, so they are one piece of work of their own ([`fetch::fetch_each`]); each archive's node ends
//! as soon as it has arrived, and its components go on while others are still under way. A node that fails takes those behind
//! it with it and no other.

use crate::archive::{self, Format};
use crate::build::{Session, Work};
use crate::ending;
use crate::error::{self, Kind, is_hopeless};
use crate::fetch;
use crate::gate::{Gate, Wishes};
use crate::packing;
use crate::plan::{self, Job, Node, Plan, Todo};
use crate::preflight;
use crate::resources::Resources;
use crate::schedule::{Crew, Task};
use crate::stack::lock::Source;
use crate::stage::{Bundle, Piece, Standing};
use crate::store::{Damaged, Record};
use crate::{interrupt, progress};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs one plan.
pub struct Engine<'a> {
    /// What all components share.
    pub session: &'a Session<'a>,
    /// What is to be done.
    pub plan: &'a Plan<'a>,
    /// What the results become.
    pub bundle: &'a Bundle<'a>,
    /// What its archives have to pass, if anything.
    pub gate: Option<&'a Gate>,
    /// Results that are there already, by component.
    pub results: Mutex<BTreeMap<String, Record>>,
    /// How to fetch.
    pub fetch: &'a fetch::Options,
    /// The machine.
    pub total: Resources,
    /// Whether nothing begins after a failure.
    pub fail_fast: bool,
    /// Told of each result that was made.
    pub made: &'a (dyn Fn(&Record) + Sync),
    /// Checks that a component whose source has no `configure` can be bootstrapped here.
    pub bootstrap: &'a (dyn Fn(&str) -> anyhow::Result<Vec<preflight::Finding>> + Sync),
}

/// How a run ended.
pub enum Ended {
    /// Everything was done.
    Well,
    /// A result from the store was damaged: it was thrown away, and the rest is to be planned anew.
    Damaged,
}

/// What the nodes of a run share.
struct Shared<'a> {
    works: Vec<Work<'a>>,
    archives: Mutex<BTreeMap<String, PathBuf>>,
    failures: Mutex<Vec<anyhow::Error>>,
    /// One check of the machine at a time: it may install things.
    checking: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Engine<'a> {
    /// Runs the plan to its end, as far as it can be gone.
    ///
    /// # Errors
    /// What nodes failed with; of several failures all are told, and the first gives the kind.
    pub fn run(&self) -> anyhow::Result<Ended> {
        let shared = Shared {
            works: self.plan.components.iter().map(|component| Work::new(self.session, component)).collect(),
            archives: Mutex::default(),
            failures: Mutex::default(),
            checking: Mutex::default(),
        };
        let crew = Crew::new(self.total, self.plan.nodes.iter().map(|node| self.task(node)).collect());
        let fetching = AtomicBool::new(self.plan.nodes.iter().any(is_fetched));
        std::thread::scope(|scope| {
            if fetching.load(Ordering::SeqCst) {
                scope.spawn(|| {
                    self.fetch_all(&crew, &shared);
                    fetching.store(false, Ordering::SeqCst);
                });
            }
            crew.run(|at, urgent| self.work(&crew, &shared, at, urgent));
            if let (Err(error), true) = (interrupt::check(), fetching.load(Ordering::SeqCst)) {
                // A download may take long to notice; there is nothing of it to tidy up.
                ending::leave(&error);
            }
        });
        interrupt::check()?;
        let (damaged, failures): (Vec<_>, Vec<_>) = shared
            .failures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_iter()
            .partition(anyhow::Error::is::<Damaged>);
        for error in &damaged {
            self.session.ui.line(&format!("  ! {error:#}; it is made again"));
        }
        error::conclude(failures, "components failed")?;
        Ok(if damaged.is_empty() { Ended::Well } else { Ended::Damaged })
    }

    fn task(&self, node: &Node) -> Task {
        let need = self.plan.need(node, self.total);
        Task { need, time: node.time, after: node.after.clone(), external: is_fetched(node) }
    }

    /// Fetches all archives that are wanted. What failed is told once, by one report.
    fn fetch_all(&self, crew: &Crew, shared: &Shared<'_>) {
        let nodes: Vec<_> = self.plan.nodes.iter().enumerate().filter(|(_, node)| is_fetched(node)).collect();
        let wanted = nodes.iter().filter_map(|(_, node)| self.session.stack.lock.get(node.source.as_deref()?));
        let wanted: Vec<&Source> = wanted.collect();
        let arrived = |source: &Source, path: &std::path::Path| {
            lock(&shared.archives).insert(source.name.clone(), path.to_owned());
            let ended = nodes.iter().filter(|(_, node)| node.source.as_deref() == Some(&source.name));
            ended.for_each(|(at, _)| crew.end(*at, true));
        };
        if let Err(error) = fetch::fetch_each(&wanted, self.fetch, self.session.ui, &arrived) {
            self.fail(crew, shared, error);
        }
        nodes.iter().for_each(|(at, _)| crew.end(*at, false));
    }

    fn fail(&self, crew: &Crew, shared: &Shared<'_>, error: anyhow::Error) {
        let hopeless = is_hopeless(&error);
        lock(&shared.failures).push(error);
        if self.fail_fast || hopeless {
            crew.give_up();
        }
    }

    /// Does a node; says whether it ended well.
    fn work(&self, crew: &Crew, shared: &Shared<'_>, at: usize, urgent: bool) -> bool {
        let node = &self.plan.nodes[at];
        let outcome = match (&node.todo, node.component) {
            (Todo::Nothing, _) => Ok(()),
            (_, None) => self.bundle(node),
            (_, Some(index)) => self.component(shared, &shared.works[index], node, urgent),
        };
        let good = outcome.is_ok();
        if let Err(error) = outcome {
            self.fail(crew, shared, error);
        }
        good
    }

    fn component(&self, shared: &Shared<'_>, work: &Work<'_>, node: &Node, urgent: bool) -> anyhow::Result<()> {
        let recipe = work.component().recipe;
        let last_of_preparation = if recipe.patches.is_empty() { Job::Unpack } else { Job::Patch };
        match (node.job, &node.todo) {
            (Job::Unpack, _) => {
                let archive = lock(&shared.archives).get(&recipe.source).cloned();
                work.unpack(archive.as_deref())?;
            }
            (Job::Patch, _) => work.patch()?,
            (Job::Needs(at), _) => work.needs(at, urgent)?,
            (Job::Step(at), Todo::Reuse(Some(record))) => {
                work.reuse(record).map_err(|error| match error.is::<Damaged>() {
                    true => error.context(plan::damaged_result(&recipe.name, &recipe.steps[at].name)),
                    false => error,
                })?;
            }
            (Job::Step(at), _) => work.run(at, urgent)?,
            (Job::Collect, _) => {
                let record = work.collect()?;
                (self.made)(&record);
                lock(&self.results).insert(recipe.name.clone(), record);
            }
            (Job::Fetch | Job::Stage | Job::Archive | Job::Gate, _) => {}
        }
        if node.job == last_of_preparation && work.needs_bootstrap() {
            let _one = lock(&shared.checking);
            preflight::require(&(self.bootstrap)(&recipe.name)?)?;
        }
        Ok(())
    }

    fn bundle(&self, node: &Node) -> anyhow::Result<()> {
        match node.job {
            Job::Stage => {
                let results = lock(&self.results);
                let pieces: Vec<_> = pieces(self.plan, &results)?;
                self.bundle.stage(&pieces, self.session.ui)
            }
            Job::Archive => self.archive(),
            Job::Gate => self.gate(),
            _ => Ok(()),
        }
    }

    /// Writes the archives that do not stand.
    fn archive(&self) -> anyhow::Result<()> {
        let (bundle, ui) = (self.bundle, self.session.ui);
        let step = ui.step("bundle", "archive");
        let write = || {
            let notes = bundle.formats.iter().map(|format| self.archive_as(*format)).collect::<anyhow::Result<Vec<_>>>()?;
            bundle.write_papers(self.session, &pieces(self.plan, &lock(&self.results))?)?;
            anyhow::Ok(notes)
        };
        step.close(write(), |notes| notes.join("; ")).map(drop)
    }

    /// Looks at what has not passed yet. What is in archives is the same, so that only one of them is run; packages and images are
    /// installed in ways of their own.
    fn gate(&self) -> anyhow::Result<()> {
        let Some(gate) = self.gate else { return Ok(()) };
        let (bundle, ui) = (self.bundle, self.session.ui);
        let step = ui.step("bundle", "gate");
        step.announce();
        let (mut notes, mut lacks, mut ran) = (Vec::new(), std::collections::BTreeSet::new(), false);
        let all = bundle.formats.iter().filter(|format| !bundle.has_passed(**format, gate.seal())).try_for_each(|format| {
            let wishes = Wishes { still: format.is_archive() && ran, ..Wishes::default() };
            let passed = gate.pass(&bundle.archive(*format), &wishes, &step)?;
            ran |= format.is_archive();
            notes.push(passed.short);
            lacks.extend(passed.lacks);
            bundle.remember_passed(*format, gate.seal())
        });
        step.close(all, |()| notes.first().cloned().unwrap_or_default())?;
        lacks.iter().for_each(|lack| ui.line(&format!("  ! {lack}")));
        Ok(())
    }

    fn archive_as(&self, format: Format) -> anyhow::Result<String> {
        let (bundle, ui) = (self.bundle, self.session.ui);
        if bundle.look_at_archive(format) == Standing::Same {
            return Ok(format!("{format} unchanged"));
        }
        if !format.is_archive() {
            let (supply, jobs) = (self.session.supply, self.session.jobs);
            let with = packing::With { dirs: bundle.dirs, supply, jobs, base: bundle.base.as_ref() };
            let target = bundle.archive(format);
            let (bytes, sha256) = packing::write(&bundle.tree(), &bundle.name, format, &target, bundle.epoch, &with)?;
            bundle.remember_archive(format, sha256)?;
            return Ok(format!("{} as {format}", progress::bytes(bytes)));
        }
        let cache = bundle.dirs.archive_cache();
        let options = archive::Options { format, mtime: bundle.epoch, jobs: self.session.jobs, cache: Some(&cache) };
        let summary = archive::write(&bundle.tree(), &bundle.name, &bundle.archive(format), &options)?;
        for path in &summary.damaged {
            ui.line(&format!("  ! {} was damaged; it is thrown away and made again", path.display()));
        }
        bundle.remember_archive(format, summary.sha256)?;
        Ok(format!(
            "{} of {} files with {}, {} of {} blocks as before",
            progress::bytes(summary.bytes),
            summary.files,
            progress::bytes(summary.content),
            summary.reused,
            summary.blocks
        ))
    }
}

/// Whether a node is an archive that has to be brought or looked up.
fn is_fetched(node: &Node) -> bool {
    node.job == Job::Fetch && node.acts()
}

/// The results in the plan's order.
///
/// # Errors
/// [`Kind::Stage`] when one is missing.
pub fn pieces<'p>(plan: &'p Plan<'_>, results: &BTreeMap<String, Record>) -> anyhow::Result<Vec<Piece<'p>>> {
    let piece = |component: &'p plan::Component<'_>| {
        let record = results.get(&component.recipe.name).cloned()?;
        Some(Piece { component, record })
    };
    plan.components
        .iter()
        .map(piece)
        .collect::<Option<_>>()
        .ok_or_else(|| Kind::Stage.error("a component was not built, and nobody said why"))
}
