//! `package`: from the pins to the archive.

use super::{BuildLock, Workshop, ahead, bring, sources};
use crate::archive::Format;
use crate::cli;
use crate::engine::{self, Ended, Engine};
use crate::error::{Kind, WithKind as _};
use crate::gate::Gate;
use crate::packing::{Base, nfpm};
use crate::parallel;
use crate::plan::{self, Job, Plan, Todo};
use crate::preflight;
use crate::report::policy::Policy;
use crate::resources::Resources;
use crate::sharing::Sharing;
use crate::sign::Signer;
use crate::stack::Stack;
use crate::stack::recipe::Recipe;
use crate::stage::{self, Bundle, Extent, Standing};
use crate::store::{self, Record, Store};
use crate::supply::index::part;
use crate::supply::{Supply, stock};
use crate::{events, fetch, host};
use dkumonitor_interface::service::InstallType;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

/// How often a run is planned anew because something that it wanted to use was damaged. Each time that is thrown away, so
/// that one more than once is more than bad luck.
const ATTEMPTS: u32 = 5;

/// Makes the package.
///
/// # Errors
/// Whatever a node fails with; its kind gives the exit status.
pub fn run(args: &cli::Package) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, args.dist_dir.as_deref())?;
    let (recipes, extent) = chosen(&workshop.stack, args)?;
    workshop.target.require(&recipes)?;
    let gate = (!args.skip_gate).then(|| Gate::of(&workshop.stack, &workshop.dirs, &workshop.workspace)).transpose()?;
    let sharing = if args.skip_build { None } else { Sharing::open(&args.cache, args.network.offline, &workshop.ui)? };
    let base = args.base.as_deref().map(Base::open).transpose()?;
    // A key that cannot be used is told before hours of compiling.
    let signer = args.sign.as_deref().map(|key| Signer::open(key, &workshop.workspace)).transpose()?;
    let lock = workshop.lock(!args.wait.no_wait)?;
    let store = Store::at(workshop.dirs.store());
    look_back(&workshop, &store, args.paranoid)?;
    let (epoch, first) = std::thread::scope(|scope| {
        // Git takes about as long as the rest of the planning.
        let epoch = scope.spawn(|| bundle_epoch(&workshop));
        let first = workshop.planner(&store).plan(&recipes);
        (epoch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), first)
    });
    let name = stage::bundle_name(&workshop.stack, extent) + &workshop.target.suffix();
    let formats = &each_once(&args.formats);
    let dirs = &workshop.dirs;
    let signer = signer.as_ref();
    let (target, policy) = (workshop.target, Policy::read(&workshop.stack.root, &workshop.workspace)?);
    let bundle =
        Bundle { stack: &workshop.stack, name, target, epoch: epoch?, formats, base, signer, policy, dirs, store: &store };
    let (lock, store, sharing) = (&lock, &store, sharing.as_ref());
    let package = Package { workshop: &workshop, args, lock, store, bundle: &bundle, gate: gate.as_ref(), sharing };
    let outcome = package.make(&recipes, first?);
    if let Some(sharing) = &sharing {
        sharing.finish();
    }
    outcome?;
    let sources =
        args.sources.then(|| sources::write(&workshop, lock, &recipes, &args.network, &bundle, jobs(args))).transpose()?;
    workshop.dirs.remove_stand_in();
    if !args.skip_archive {
        bundle.sign_archives().kind(Kind::Archive, || "cannot sign the archive".to_owned())?;
    }
    if let (Some(signer), Some((path, sha256, _))) = (signer, &sources) {
        let signed = signer.sign_file(path, bundle.epoch, Some(sha256));
        signed.kind(Kind::Archive, || format!("cannot sign {}", path.display()))?;
    }
    package.tell_of_it();
    if let Some((path, sha256, size)) = sources {
        workshop.ui.artifact(&path, Some(&sha256), Some(size));
    }
    Ok(())
}

/// The forms in the order in which they are named, each once.
fn each_once(formats: &[Format]) -> Vec<Format> {
    let mut once = Vec::new();
    for format in formats {
        if !once.contains(format) {
            once.push(*format);
        }
    }
    once
}

/// What is to be packed, and how much of the stack that is.
fn chosen<'a>(stack: &'a Stack, args: &cli::Package) -> anyhow::Result<(Vec<&'a Recipe>, Extent)> {
    if let Some(kind) = args.profile {
        let recipes = stack.of_type(kind);
        return Ok((recipes, if kind == InstallType::All { Extent::Whole } else { Extent::Type(kind) }));
    }
    let recipes = stack.select(&args.common.only)?;
    let extent = Extent::of(recipes.len(), stack);
    Ok((recipes, extent))
}

/// After a run that was killed, and when told to be paranoid, nothing is believed any more that was not hashed.
fn look_back(workshop: &Workshop, store: &Store, paranoid: bool) -> anyhow::Result<()> {
    let forget = || {
        fetch::forget_fingerprints(&workshop.dirs.sources());
        stage::forget_stamps(&workshop.dirs.states());
    };
    if let Some(why) = store.look_back(forget)? {
        workshop.ui.line(&format!("  ! {why}: what is used is hashed first"));
    }
    if paranoid {
        store.forget_stamps();
        forget();
    }
    Ok(())
}

fn jobs(args: &cli::Package) -> usize {
    args.jobs.map_or_else(parallel::cores, usize::from)
}

/// What may be used of this machine.
fn machine(args: &cli::Package) -> Resources {
    Resources {
        cores: u32::try_from(jobs(args)).unwrap_or(u32::MAX),
        memory_mb: host::memory().map_or(u64::MAX, |bytes| bytes / 1_000_000),
    }
}

struct Package<'a> {
    workshop: &'a Workshop,
    args: &'a cli::Package,
    lock: &'a BuildLock,
    store: &'a Store,
    bundle: &'a Bundle<'a>,
    /// None with `--skip-gate`.
    gate: Option<&'a Gate>,
    sharing: Option<&'a Sharing>,
}

impl<'a> Package<'a> {
    /// Plans and works until all is done.
    fn make(&self, recipes: &[&'a Recipe], first: Plan<'a>) -> anyhow::Result<()> {
        let mut plan = first;
        if self.args.paranoid && self.verify(recipes)? {
            plan = self.workshop.planner(self.store).plan(recipes)?;
        }
        plan = self.bring(recipes, plan)?;
        if let Some(sharing) = self.sharing {
            sharing.offer_all(&plan, self.store);
        }
        for _ in 0..ATTEMPTS {
            if self.attempt(plan)? {
                return Ok(());
            }
            plan = self.bring(recipes, self.workshop.planner(self.store).plan(recipes)?)?;
        }
        Err(Kind::Integrity.error(format!(
            "what was just made in {} is found damaged again and again; is its disk broken?",
            self.store.root().display()
        )))
    }

    /// Brings what the shared cache has of what is to be made.
    fn bring(&self, recipes: &[&'a Recipe], plan: Plan<'a>) -> anyhow::Result<Plan<'a>> {
        match self.sharing {
            Some(sharing) if sharing.bring(&plan, self.store)? => self.workshop.planner(self.store).plan(recipes),
            _ => Ok(plan),
        }
    }

    /// Tells of what was made.
    fn tell_of_it(&self) {
        let (ui, bundle) = (&self.workshop.ui, self.bundle);
        if self.args.skip_archive {
            return ui.artifact(&bundle.tree(), None, None);
        }
        let state = bundle.state();
        for format in bundle.formats {
            let archive = bundle.archive(*format);
            let sha256 = state.archives.get(format).map(|archived| archived.sha256.as_str());
            if self.gate.is_none() {
                ui.line(&format!("  ! {} has not passed the gate (--skip-gate)", archive.display()));
            }
            ui.artifact(&archive, sha256, archive.metadata().ok().map(|meta| meta.len()));
            if let Some(signer) = bundle.signer {
                ui.line(&format!("  signed by the key {} ({})", signer.id(), signer.public_line()));
            }
        }
        for stray in bundle.strays() {
            ui.line(&format!("  ! {} is of another tree; write it anew with --format, or remove it", stray.display()));
        }
    }

    /// Hashes all that is kept of these recipes, and of their sources. Says whether anything was damaged and thrown away.
    fn verify(&self, recipes: &[&Recipe]) -> anyhow::Result<bool> {
        let mut found = false;
        for recipe in recipes {
            for (slot, why) in self.store.verify(&recipe.name)? {
                found = true;
                let what = plan::damaged(&recipe.name, &slot, &why);
                self.workshop.ui.line(&format!("  ! {what}; it is thrown away"));
            }
        }
        fetch::verify(&bring::sources(self.workshop, recipes), &self.workshop.dirs.sources(), &self.workshop.ui)?;
        Ok(found)
    }

    /// The plan for those who watch.
    fn tell_plan(&self, plan: &Plan<'_>) {
        let workshop = self.workshop;
        let total = machine(self.args);
        let ahead = ahead::ahead(plan, total, self.args.skip_build);
        workshop.ui.plan(workshop.stack.name.as_deref(), &self.bundle.name, ahead, total, &workshop.dirs.build);
    }

    /// Does what the plan has to do. Says whether that was all: if not, something was damaged and has to be planned anew.
    fn attempt(&self, mut plan: Plan<'_>) -> anyhow::Result<bool> {
        let ui = &self.workshop.ui;
        plan.damage.iter().for_each(|why| ui.line(&format!("  ! {why}; it is made again")));
        let ready = if self.args.skip_build { self.made_before(&plan)? } else { ready(&plan) };
        let pieces = (ready.len() == plan.components.len()).then(|| engine::pieces(&plan, &ready)).transpose()?;
        let standing = match &pieces {
            Some(pieces) => self.bundle.look_at_tree(pieces)?,
            None => Standing::Changed("comes after what has to be built".to_owned()),
        };
        if standing != Standing::Same && self.has_damage(&plan, &ready)? {
            return Ok(false);
        }
        let standing = match (standing, &pieces) {
            (Standing::Unsure, Some(pieces)) => self.bundle.verify_tree(pieces)?,
            (standing, _) => standing,
        };
        let (stage, archive) = self.bundle_todo(standing);
        let gate = archive.as_ref().and_then(|archive| self.gate_todo(archive));
        drop(pieces);
        ready.values().for_each(|record| self.store.touch(record));
        let unchanged =
            [Some(&stage), archive.as_ref(), gate.as_ref()].into_iter().flatten().all(|todo| matches!(todo, Todo::Nothing));
        plan.add_bundle(stage, archive, gate);
        if !unchanged {
            return self.execute(&plan, ready);
        }
        if events::wanted() {
            self.tell_plan(&plan);
        }
        ui.line(&format!("  ✓ {}: unchanged, {} components, their tree and archive", self.bundle.name, plan.components.len()));
        Ok(true)
    }

    /// Whether anything that is to be used is damaged. It is then thrown away.
    fn has_damage(&self, plan: &Plan<'_>, ready: &BTreeMap<String, Record>) -> anyhow::Result<bool> {
        let mut found = false;
        for record in ready.values().chain(plan.used()) {
            if let Some(why) = self.store.check(record)? {
                found = true;
                let what = plan::damaged(&record.component, &record.slot, &why);
                self.workshop.ui.line(&format!("  ! {what}; it is made again"));
            }
        }
        Ok(found)
    }

    /// What is to be done for the bundle, its tree standing so.
    fn bundle_todo(&self, standing: Standing) -> (Todo, Option<Todo>) {
        let todo = |standing: Standing| match standing {
            Standing::Same => Todo::Nothing,
            Standing::Unsure => Todo::Run("was touched".to_owned()),
            Standing::Changed(why) => Todo::Run(why),
        };
        let stage = todo(standing);
        let archive = (!self.args.skip_archive).then(|| match &stage {
            Todo::Nothing => todo(self.bundle.look_at_archives()),
            _ => Todo::Run("comes after stage".to_owned()),
        });
        (stage, archive)
    }

    /// What is to be done at the gate, the archive standing so; nothing at all with `--skip-gate`.
    fn gate_todo(&self, archive: &Todo) -> Option<Todo> {
        Some(self.bundle.gate_todo(archive, self.gate?.seal()))
    }

    /// `--skip-build`: what was made before, whether or not it still is what the recipes say.
    fn made_before(&self, plan: &Plan<'_>) -> anyhow::Result<BTreeMap<String, Record>> {
        let mut found = ready(plan);
        let mut missing = Vec::new();
        for component in plan.to_build() {
            let name = &component.recipe.name;
            let crossed = plan::crossed_to(&component.chain);
            let fits = |record: &Record| record.slot == store::FINAL && plan::crossed_to(&record.chain) == crossed;
            let latest = self.store.records(name).into_iter().find(fits);
            let why = component.why.as_deref().unwrap_or_default();
            match latest {
                Some(record) => {
                    self.workshop.ui.line(&format!("  ! {name} is staged as it was compiled before, though: {why}"));
                    found.insert(name.clone(), record);
                }
                None => missing.push(name.as_str()),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        Err(Kind::Stage.error(format!(
            "--skip-build: {} was never compiled in {}; run without --skip-build, or leave it out with --only",
            missing.join(", "),
            self.workshop.dirs.build.display()
        )))
    }

    /// Runs the plan; says whether that was all.
    fn execute(&self, plan: &Plan<'_>, ready: BTreeMap<String, Record>) -> anyhow::Result<bool> {
        let (workshop, args) = (self.workshop, self.args);
        let building: Vec<&Recipe> = if args.skip_build { Vec::new() } else { plan.to_build().map(|c| c.recipe).collect() };
        workshop.dirs.make_dist()?;
        workshop.ui.keep_logs(&workshop.dirs.build)?;
        self.tell_plan(plan);
        for component in plan.to_build().filter(|_| !args.skip_build) {
            workshop.ui.line(&format!("  · {}: {}", component.recipe.name, component.why.as_deref().unwrap_or_default()));
        }
        for node in plan.nodes.iter().filter(|node| matches!(node.job, Job::Stage | Job::Archive | Job::Gate)) {
            match &node.todo {
                Todo::Run(why) if building.is_empty() => workshop.ui.line(&format!("  · {}: {why}", node.name)),
                Todo::Run(_) => {}
                _ => workshop.ui.line(&format!("  ✓ {}: unchanged", node.name)),
            }
        }
        if !building.is_empty() {
            preflight::require(&workshop.preflight(&building, &[], args.install_missing)?)?;
        }
        self.lock.share()?;
        let working = self.store.begin()?;
        let outcome = self.execute_plan(plan, ready, &building);
        let history = workshop.ui.end(&workshop.dirs.build, &self.bundle.name, outcome.is_ok());
        let kept = match building.is_empty() {
            true => Ok(()),
            false => {
                self.store.collect_garbage(&workshop.stack.recipes.iter().map(|r| r.name.as_str()).collect::<BTreeSet<_>>())
            }
        };
        working.end();
        // What made the run fail matters more than what could not be written for the same reason.
        let ended = outcome?;
        kept.and(history)?;
        Ok(matches!(ended, Ended::Well))
    }

    fn execute_plan(&self, plan: &Plan<'_>, ready: BTreeMap<String, Record>, building: &[&Recipe]) -> anyhow::Result<Ended> {
        let (workshop, args) = (self.workshop, self.args);
        // What packs is made from Go's modules.
        let also: &[_] = if nfpm::is_wanted(&args.formats) { &[part::GO] } else { &[] };
        let stock = stock::take(&args.network.mirrors, &workshop.stack, building, also, &workshop.dirs, &workshop.ui)?;
        let supply = Supply::usual(args.network.offline, stock);
        let session = workshop.session(self.store, &supply, jobs(args));
        let skipped;
        let plan = if args.skip_build {
            skipped = plan.bundle_only();
            &skipped
        } else {
            plan
        };
        let engine = Engine {
            session: &session,
            plan,
            bundle: self.bundle,
            gate: self.gate,
            results: Mutex::new(ready),
            fetch: &bring::fetch_options(workshop, &args.network),
            total: machine(args),
            fail_fast: args.fail_fast,
            made: &|record| {
                if let Some(sharing) = self.sharing {
                    sharing.offer(record, self.store);
                }
            },
            bootstrap: &|name| {
                let check = || workshop.preflight(building, &[name], args.install_missing);
                if args.install_missing { self.lock.privately(check) } else { check() }
            },
        };
        let outcome = engine.run();
        if let Some(sharing) = self.sharing {
            sharing.finish();
        }
        outcome
    }
}

/// The results that the plan has found, by component.
fn ready(plan: &Plan<'_>) -> BTreeMap<String, Record> {
    let found = plan.components.iter().filter_map(|one| Some((one.recipe.name.clone(), one.ready.clone()?)));
    found.collect()
}

/// The time that a bundle's files carry: SOURCE_DATE_EPOCH, or the stack's newest commit, or its lock's time. Where the stack is the
/// whole repository that is its commit itself: git's search by path passes over merges where it knows what came before, and a clone of one
/// commit alone, as CI has it, does not know.
pub(super) fn bundle_epoch(workshop: &Workshop) -> anyhow::Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.parse().kind(Kind::Usage, || format!("SOURCE_DATE_EPOCH is \"{text}\", not seconds since 1970"));
    }
    let root = &workshop.stack.root;
    match last_commit(root) {
        Ok(Some(time)) => return Ok(time),
        Ok(None) => {}
        // Nobody would see that the archive bears a time that another checkout does not have.
        Err(why) if root.ancestors().any(|folder| folder.join(".git").exists()) => workshop.ui.line(&format!(
            "  ! git does not tell when the stack was committed ({why}): the bundle bears the time of vendor.lock, unless \
             SOURCE_DATE_EPOCH sets another"
        )),
        Err(_) => {}
    }
    let modified = root.join("vendor.lock").metadata()?.modified()?;
    Ok(modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs()))
}

/// The time of the last commit in a folder; none where nothing of it was committed.
///
/// # Errors
/// What git says where it cannot tell, in one line.
fn last_commit(root: &Path) -> Result<Option<u64>, String> {
    let shell = xshell::Shell::new().map_err(|error| error.to_string())?;
    let git = |words: &[&str]| -> Result<String, String> {
        let command = xshell::cmd!(shell, "git -C {root} {words...}").quiet().ignore_status();
        let output = command.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
        let said = said.trim().lines().next().unwrap_or_default().to_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    };
    let is_whole = git(&["rev-parse", "--show-prefix"])?.is_empty();
    let time = git(if is_whole { &["log", "-1", "--format=%ct"] } else { &["log", "-1", "--format=%ct", "--", "."] })?;
    Ok(time.parse().ok())
}
