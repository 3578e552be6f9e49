//! What a run will do, computed whole before anything is done: a graph of nodes, each with what it depends on, whether its
//! result is there, and if not, why.
//!
//! A component is a chain: `fetch` (one for each source, shared by the components that are made from it), `unpack`,
//! `patch`, for each step of its recipe `<step> needs` (what its lock files pin is fetched; only for the kinds that have
//! such) and the step itself, `collect`. `stage` and `archive` join the chains to a bundle.
//!
//! Each node's key covers that node and all before it ([`crate::key::Chain`]), and nothing behind it: a change of
//! `[[install]]` compiles nothing, a change of the second step does not run the first again, a neighbour's change does
//! nothing at all. Where a component's final result is in the store, nothing of its chain runs. Else it begins behind the last
//! step whose result is there: the source is unpacked and patched, and what the steps up to there have changed is laid
//! out from the store.
//!
//! A plan trusts the store's records; what they name is checked when it is used ([`crate::store::Store::check`]).

mod keys;
mod why;

use crate::dirs::Dirs;
use crate::fetch;
use crate::host::Host;
use crate::key::{Chain, Link};
use crate::resources::Resources;
use crate::source::lacks_configure;
use crate::stack::lock::{Origin, Source};
use crate::stack::recipe::{Action, Recipe, Step};
use crate::stack::{Material, Stack};
use crate::store::{self, Record, Store};
use crate::target::Target;
use crate::toolchain;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

pub use keys::crossed_to;
pub use why::{Why, damaged, damaged_result};

/// One component.
#[derive(Clone)]
pub struct Component<'a> {
    /// How it is made.
    pub recipe: &'a Recipe,
    /// What it is made from.
    pub material: Material<'a>,
    /// Compilers with versions, for the manifest.
    pub toolchain: BTreeMap<String, String>,
    /// All that its final result depends on.
    pub chain: Chain,
    /// Its final result, if it is there.
    pub ready: Option<Record>,
    /// Where there is none, why.
    pub why: Option<String>,
}

impl Component<'_> {
    /// The version of what is made.
    pub fn version(&self) -> &str {
        match self.material {
            Material::Locked(source) => &source.version,
            Material::Workspace => env!("CARGO_PKG_VERSION"),
        }
    }

    /// Whether it is made from the workspace itself.
    pub fn is_workspace(&self) -> bool {
        matches!(self.material, Material::Workspace)
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Brings a source's archive into the build folder.
    Fetch,
    /// Puts the source into the work folder.
    Unpack,
    /// Applies the recipe's patches.
    Patch,
    /// Fetches what the step of this number needs.
    Needs(usize),
    /// Runs the step of this number.
    Step(usize),
    /// Takes what goes into the bundle.
    Collect,
    /// Lays the components' results over each other.
    Stage,
    /// Packs the staged tree.
    Archive,
    /// Checks that the archive would run elsewhere.
    Gate,
}

/// Whether a node has work to do.
#[derive(Clone, Debug)]
pub enum Todo {
    /// None: its result is there, or nobody needs it.
    Nothing,
    /// Its result is there and is taken from the store; of a fetch it is the archive.
    Reuse(Option<Box<Record>>),
    /// It runs, for this reason.
    Run(String),
}

/// One node of the graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its component's place in [`Plan::components`]; none for a fetch and for the bundle.
    pub component: Option<usize>,
    /// The source that a fetch brings.
    pub source: Option<String>,
    /// Its name in its component, such as `unpack`, `compile needs`, `compile`.
    pub name: String,
    /// What it does.
    pub job: Job,
    /// The nodes that have to come before, by place in [`Plan::nodes`].
    pub after: Vec<usize>,
    /// Whether there is something to do.
    pub todo: Todo,
    /// How long it will probably take.
    pub time: Duration,
}

impl Node {
    /// Whether it does anything at all in this run.
    pub fn acts(&self) -> bool {
        !matches!(self.todo, Todo::Nothing)
    }
}

/// The whole graph. A node stands behind those that it comes after.
pub struct Plan<'a> {
    /// The components, in the recipes' order.
    pub components: Vec<Component<'a>>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Records that could not be used and were thrown away, in words.
    pub damage: Vec<String>,
}

/// What is planned with.
pub struct Planner<'a> {
    /// The stack.
    pub stack: &'a Stack,
    /// The repository's root.
    pub workspace: &'a Path,
    /// The machine.
    pub host: &'a Host,
    /// The platform that is built for.
    pub target: Target,
    /// The build's folders.
    pub dirs: &'a Dirs,
    /// What was made before.
    pub store: &'a Store,
}

impl<'a> Plan<'a> {
    /// The nodes of a component, in order, its fetch not among them.
    pub fn nodes_of(&self, component: usize) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.component == Some(component))
    }

    /// Whether any component has to be made.
    pub fn is_ready(&self) -> bool {
        self.components.iter().all(|component| component.ready.is_some())
    }

    /// The components that have to be made.
    pub fn to_build(&self) -> impl Iterator<Item = &Component<'a>> {
        self.components.iter().filter(|component| component.ready.is_none())
    }

    /// What a node takes of a machine of which there is so much in `total`.
    pub fn need(&self, node: &Node, total: Resources) -> Resources {
        let recipe = node.component.map(|index| self.components[index].recipe);
        let step = |at: usize| recipe.map(|recipe| &recipe.steps[at]);
        let memory =
            |at: usize| step(at).and_then(|step| step.memory_mb).or(recipe.map(|recipe| recipe.needs.memory_mb)).unwrap_or(0);
        let need = |cores, memory_mb| Resources { cores, memory_mb };
        match (node.job, &node.todo) {
            (_, Todo::Nothing) | (Job::Fetch, _) => need(0, 0),
            (Job::Step(at), Todo::Run(_)) => need(step(at).and_then(|step| step.cores).unwrap_or(1), memory(at)),
            // Installing packages keeps a core busy; what only downloads does not.
            (Job::Needs(at), _) if step(at).is_some_and(|step| matches!(step.action(), Action::Node(_))) => need(1, memory(at)),
            (Job::Needs(_), _) => need(0, 0),
            (Job::Archive | Job::Gate, _) => total,
            _ => need(1, 0),
        }
    }

    /// The results that this plan takes from the store.
    pub fn used(&self) -> impl Iterator<Item = &Record> {
        let steps = self.nodes.iter().filter_map(|node| match &node.todo {
            Todo::Reuse(record) => record.as_deref(),
            _ => None,
        });
        self.components.iter().filter_map(|component| component.ready.as_ref()).chain(steps)
    }
}

impl<'a> Planner<'a> {
    /// Plans these recipes up to their final results; [`Plan::add_bundle`] adds the rest.
    ///
    /// # Errors
    /// When a source folder, patch or recipe cannot be read.
    pub fn plan(&self, recipes: &[&'a Recipe]) -> anyhow::Result<Plan<'a>> {
        let keys = keys::Keys::new(self);
        let mut plan = Plan { components: Vec::new(), nodes: Vec::new(), damage: Vec::new() };
        for recipe in recipes {
            let material = self.stack.material(recipe);
            let (links, toolchain) = keys.links(recipe, material)?;
            self.add(&mut plan, recipe, material, links, toolchain);
        }
        Ok(plan)
    }

    fn add(
        &self,
        plan: &mut Plan<'a>,
        recipe: &'a Recipe,
        material: Material<'a>,
        links: Vec<Link>,
        toolchain: BTreeMap<String, String>,
    ) {
        let mut chains = Vec::new();
        for link in links {
            let before: &Chain = chains.last().unwrap_or(const { &Chain(Vec::new()) });
            chains.push(before.then(link.node, link.parts));
        }
        let chain = chains.last().cloned().unwrap_or_default();
        let mut find = |slot: &str, chain: &Chain| match self.store.find(&recipe.name, slot, &chain.key()) {
            Ok(found) => found,
            Err(why) => {
                plan.damage.push(why);
                None
            }
        };
        let ready = find(store::FINAL, &chain);
        // The last link is that of `collect`, the ones before it are those of the steps.
        let first = chains.len() - 1 - recipe.steps.len();
        let mut kept = Vec::new();
        if ready.is_none() {
            let steps = recipe.steps.iter().zip(&chains[first..]);
            kept = steps.map_while(|(step, chain)| find(&store::slot_of_step(&step.name), chain)).collect();
        }
        let why = Why::new(self.store, recipe, ready.is_some(), &chain);
        let component =
            Component { recipe, material, toolchain, chain, why: ready.is_none().then(|| why.of_component()), ready };
        let index = plan.components.len();
        let ready = component.ready.is_some();
        plan.components.push(component);
        Nodes { planner: self, plan, recipe, material, index, ready, kept: &kept, why: &why }.add();
    }
}

/// Adds the nodes of one component.
struct Nodes<'n, 'a> {
    planner: &'n Planner<'a>,
    plan: &'n mut Plan<'a>,
    recipe: &'a Recipe,
    material: Material<'a>,
    index: usize,
    ready: bool,
    kept: &'n [Record],
    why: &'n Why,
}

impl Nodes<'_, '_> {
    fn add(mut self) {
        let mut last = None;
        if let Material::Locked(source) = self.material {
            if matches!(source.origin(), Origin::Archive { .. }) {
                last = Some(self.fetch(source));
            }
            let run = if self.ready { Todo::Nothing } else { Todo::Run(self.why.of("unpack")) };
            last = Some(self.push("unpack", Job::Unpack, last, run));
            if !self.recipe.patches.is_empty() {
                let run = if self.ready { Todo::Nothing } else { Todo::Run(self.why.of("patch")) };
                last = Some(self.push("patch", Job::Patch, last, run));
            }
        }
        for (at, step) in self.recipe.steps.iter().enumerate() {
            let kept = self.kept.get(at).cloned();
            let todo = match kept {
                _ if self.ready => Todo::Nothing,
                Some(record) => Todo::Reuse(Some(Box::new(record))),
                None => Todo::Run(self.why.of(&keys::node_of_step(step))),
            };
            if has_needs(self.recipe, step) {
                let run = match &todo {
                    Todo::Run(_) => Todo::Run(format!("for {}", step.name)),
                    _ => Todo::Nothing,
                };
                last = Some(self.push(&format!("{} needs", step.name), Job::Needs(at), last, run));
            }
            last = Some(self.push(&step.name, Job::Step(at), last, todo));
        }
        let run = if self.ready { Todo::Nothing } else { Todo::Run(self.why.of(keys::COLLECT)) };
        self.push(keys::COLLECT, Job::Collect, last, run);
    }

    /// The place of the source's fetch, which components may share.
    fn fetch(&mut self, source: &Source) -> usize {
        let known = self.plan.nodes.iter().position(|node| node.source.as_deref() == Some(&source.name));
        let at = known.unwrap_or_else(|| {
            let time = Duration::from_secs(2 + source.size.unwrap_or(20_000_000) / 5_000_000);
            self.plan.nodes.push(Node {
                component: None,
                source: Some(source.name.clone()),
                name: "fetch".to_owned(),
                job: Job::Fetch,
                after: Vec::new(),
                todo: Todo::Nothing,
                time,
            });
            self.plan.nodes.len() - 1
        });
        if !self.ready {
            let stored = fetch::stored(source, &self.planner.dirs.sources()).is_some();
            self.plan.nodes[at].todo =
                if stored { Todo::Reuse(None) } else { Todo::Run("is not in the build folder".to_owned()) };
        }
        at
    }

    fn push(&mut self, name: &str, job: Job, after: Option<usize>, todo: Todo) -> usize {
        let time = match &todo {
            Todo::Nothing => Duration::ZERO,
            Todo::Reuse(_) => Duration::from_secs(1),
            Todo::Run(_) => self.why.remembered(name).unwrap_or_else(|| guess(job, self.recipe)),
        };
        let after = after.into_iter().collect();
        let component = Some(self.index);
        self.plan.nodes.push(Node { component, source: None, name: name.to_owned(), job, after, todo, time });
        self.plan.nodes.len() - 1
    }
}

impl<'a> Plan<'a> {
    /// The nodes of the bundle alone, for results that are there.
    pub fn bundle_only(&self) -> Plan<'_> {
        let mut nodes = self.nodes.clone();
        for node in &mut nodes {
            if !matches!(node.job, Job::Stage | Job::Archive | Job::Gate) {
                node.todo = Todo::Nothing;
            }
        }
        Plan { components: self.components.clone(), nodes, damage: Vec::new() }
    }

    /// Adds the nodes that make a bundle of the results, as [`crate::stage::look`] has found them; without `archive` the tree
    /// is all, without `gate` nobody looks at the archive.
    pub fn add_bundle(&mut self, stage: Todo, archive: Option<Todo>, gate: Option<Todo>) {
        let collected = self.nodes.iter().enumerate().filter(|(_, node)| node.job == Job::Collect).map(|(at, _)| at).collect();
        let bundle = |name: &str, job, after, todo| Node {
            component: None,
            source: None,
            name: name.to_owned(),
            job,
            after,
            todo,
            time: guess_of_bundle(job),
        };
        self.nodes.push(bundle("stage", Job::Stage, collected, stage));
        let staged = self.nodes.len() - 1;
        if let Some(todo) = archive {
            self.nodes.push(bundle("archive", Job::Archive, vec![staged], todo));
        }
        if let Some(todo) = gate {
            self.nodes.push(bundle("gate", Job::Gate, vec![self.nodes.len() - 1], todo));
        }
    }
}

/// Whether a kind of step has something to be fetched before it.
fn has_needs(recipe: &Recipe, step: &Step) -> bool {
    match step.action() {
        // The compiler.
        Action::Autotools(_) => toolchain::zig(recipe).is_some(),
        Action::Manual => false,
        Action::Go(_) | Action::Node(_) | Action::Cargo(_) => true,
    }
}

/// How long a node of the bundle takes that never ran here.
fn guess_of_bundle(job: Job) -> Duration {
    Duration::from_secs(if job == Job::Gate { 15 } else { 1 })
}

/// How long a node takes that never ran here.
fn guess(job: Job, recipe: &Recipe) -> Duration {
    let secs = match job {
        Job::Needs(_) => 10,
        Job::Step(at) => match recipe.steps[at].action() {
            Action::Node(_) => 120,
            Action::Cargo(_) => 60,
            Action::Go(_) => 40,
            Action::Autotools(_) => 30,
            Action::Manual => 1,
        },
        Job::Fetch | Job::Unpack | Job::Patch | Job::Collect | Job::Stage | Job::Archive | Job::Gate => 1,
    };
    Duration::from_secs(secs)
}

/// Whether a recipe's source comes without the `configure` of its autotools steps, as far as that can be seen before it
/// is unpacked.
pub fn may_need_bootstrap(stack: &Stack, recipe: &Recipe) -> bool {
    let mut steps = recipe.steps.iter().filter(|step| matches!(step.action(), Action::Autotools(_)));
    match stack.material(recipe) {
        Material::Locked(source) => match source.origin() {
            Origin::Folder(path) => steps.any(|step| lacks_configure(&stack.root.join(path).join(&step.dir))),
            Origin::Archive { .. } => steps.next().is_some(),
        },
        Material::Workspace => false,
    }
}
