//! `plan`: what `package` would do.

use super::Workshop;
use crate::archive::Format;
use crate::cli;
use crate::engine;
use crate::gate::Gate;
use crate::plan::{Component, Job, Node, Plan, Todo};
use crate::progress;
use crate::report::policy::Policy;
use crate::share::Found;
use crate::sharing::Sharing;
use crate::stage::{self, Bundle, Extent, Standing};
use crate::store::Store;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Prints the plan to standard output.
///
/// # Errors
/// When the stack cannot be read.
pub fn run(args: &cli::Plan) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, args.dist_dir.as_deref())?;
    let recipes = workshop.stack.select(&args.common.only)?;
    workshop.target.require(&recipes)?;
    let store = Store::at(workshop.dirs.store());
    let mut plan = workshop.planner(&store).plan(&recipes)?;
    let shared = Sharing::look_only(&args.cache, &workshop.ui)?.map(|sharing| sharing.look(&plan));
    let shared: Vec<_> = shared.unwrap_or_default().iter().map(|found| found.as_ref().map(Found::size)).collect();
    let name = stage::bundle_name(&workshop.stack, Extent::of(recipes.len(), &workshop.stack)) + &workshop.target.suffix();
    let epoch = super::package::bundle_epoch(&workshop)?;
    let bundle = Bundle {
        stack: &workshop.stack,
        name,
        target: workshop.target,
        epoch,
        formats: &[Format::Gz],
        base: None,
        signer: None,
        policy: Policy::read(&workshop.stack.root, &workshop.workspace)?,
        dirs: &workshop.dirs,
        store: &store,
    };
    let gate = Gate::of(&workshop.stack, &workshop.dirs, &workshop.workspace)?;
    add_bundle(&mut plan, &bundle, &gate)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json(&plan, &shared, &bundle))?);
    } else if args.dot {
        print!("{}", dot(&plan, &bundle));
    } else {
        print_tree(&plan, &shared, &bundle);
    }
    Ok(())
}

fn add_bundle(plan: &mut Plan<'_>, bundle: &Bundle<'_>, gate: &Gate) -> anyhow::Result<()> {
    let ready: BTreeMap<_, _> =
        plan.components.iter().filter_map(|one| Some((one.recipe.name.clone(), one.ready.clone()?))).collect();
    let standing = match plan.is_ready() {
        true => bundle.look_at_tree(&engine::pieces(plan, &ready)?)?,
        false => Standing::Changed("comes after what has to be built".to_owned()),
    };
    let (stage, archive) = match standing {
        Standing::Same => match bundle.look_at_archives() {
            Standing::Same => (Todo::Nothing, Todo::Nothing),
            Standing::Unsure => (Todo::Nothing, Todo::Run("was touched".to_owned())),
            Standing::Changed(why) => (Todo::Nothing, Todo::Run(why)),
        },
        Standing::Unsure => {
            (Todo::Run("its tree was touched; it is hashed first".to_owned()), Todo::Run("comes after stage".to_owned()))
        }
        Standing::Changed(why) => (Todo::Run(why), Todo::Run("comes after stage".to_owned())),
    };
    let gate = bundle.gate_todo(&archive, gate.seal());
    plan.add_bundle(stage, Some(archive), Some(gate));
    Ok(())
}

/// What a node will do, in words.
fn words(node: &Node) -> String {
    match &node.todo {
        Todo::Nothing if node.job == Job::Fetch => "not needed".to_owned(),
        Todo::Nothing => "cached".to_owned(),
        Todo::Reuse(None) => "in the build folder".to_owned(),
        Todo::Reuse(Some(_)) => "cached, laid out from the store".to_owned(),
        Todo::Run(why) => format!("to do: {why}"),
    }
}

fn print_tree(plan: &Plan<'_>, shared: &[Option<u64>], bundle: &Bundle<'_>) {
    println!("{}", bundle.name);
    for (index, component) in plan.components.iter().enumerate() {
        println!("├─ {} {}, {}", component.recipe.name, component.version(), component.recipe.summary);
        match &component.why {
            None => println!("│  ready, from the store"),
            Some(why) => println!("│  to be built: {why}"),
        }
        if let Some(Some(size)) = shared.get(index) {
            println!("│  └─ in the shared cache ({}): nothing of it is built", progress::bytes(*size));
            continue;
        }
        if component.ready.is_some() {
            continue;
        }
        let fetch = plan.nodes.iter().filter(|node| node.source.as_deref() == Some(&component.recipe.source));
        let nodes: Vec<_> = fetch.chain(plan.nodes_of(index)).collect();
        for (at, node) in nodes.iter().enumerate() {
            let branch = if at + 1 == nodes.len() { "└─" } else { "├─" };
            println!("│  {branch} {}{}: {}", node.name, about(component, node), words(node));
        }
    }
    let archive = bundle.archive(Format::Gz);
    for (branch, job, path) in [("├─", Job::Stage, &bundle.tree()), ("├─", Job::Archive, &archive), ("└─", Job::Gate, &archive)]
    {
        for node in plan.nodes.iter().filter(|node| node.job == job) {
            println!("{branch} {} {}: {}", node.name, path.display(), words(node));
        }
    }
}

/// What a node works with.
fn about(component: &Component<'_>, node: &Node) -> String {
    match node.job {
        Job::Fetch => format!(" {} {}", component.recipe.source, component.version()),
        Job::Patch => format!(" {}", component.recipe.patches.join(", ")),
        Job::Step(at) => {
            let step = &component.recipe.steps[at];
            let parts = component.chain.parts(&format!("step {}", step.name));
            let uses = |name: &String| parts.is_none_or(|parts| parts.0.contains_key(name));
            let versions = component.toolchain.iter().filter(|(name, _)| uses(name));
            let versions: Vec<_> = versions.map(|(name, version)| format!("{name} {version}")).collect();
            let memory = step.memory_mb.map(|mb| format!(", up to {mb} MB")).unwrap_or_default();
            let cores = step.cores.map(|cores| format!(", {cores} cores")).unwrap_or_default();
            format!(" ({}{memory}{cores})", versions.join(", "))
        }
        _ => String::new(),
    }
}

/// The plan for programs, see docs/plan.md. `format` is raised when a reader of the old form would misunderstand the new one.
fn json(plan: &Plan<'_>, shared: &[Option<u64>], bundle: &Bundle<'_>) -> serde_json::Value {
    let component = |(at, component): (usize, &Component<'_>)| {
        serde_json::json!({
            "name": component.recipe.name,
            "version": component.version(),
            "source": component.recipe.source,
            "ready": component.ready.is_some(),
            "why": component.why,
            "in-shared-cache": shared.get(at).copied().flatten(),
            "key": component.chain.key(),
            "depends": component.chain.0.iter().map(|link| serde_json::json!({ "node": link.node, "on": link.parts.0 })).collect::<Vec<_>>(),
        })
    };
    let node = |(at, node): (usize, &Node)| {
        let (state, why) = match &node.todo {
            Todo::Nothing => ("cached", None),
            Todo::Reuse(_) => ("reuse", None),
            Todo::Run(why) => ("run", Some(why)),
        };
        serde_json::json!({
            "id": at,
            "name": node.name,
            "component": node.component.map(|index| &plan.components[index].recipe.name),
            "source": node.source,
            "after": node.after,
            "state": state,
            "why": why,
            "estimate-s": node.time.as_secs_f64(),
        })
    };
    serde_json::json!({
        "format": 2,
        "bundle": bundle.name,
        "components": plan.components.iter().enumerate().map(component).collect::<Vec<_>>(),
        "nodes": plan.nodes.iter().enumerate().map(node).collect::<Vec<_>>(),
        "tree": bundle.tree(),
        "archive": bundle.archive(Format::Gz),
    })
}

/// The plan as a graph for Graphviz: what is there is grey, what has to be done is not.
fn dot(plan: &Plan<'_>, bundle: &Bundle<'_>) -> String {
    let mut text = String::from("digraph plan {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for (at, node) in plan.nodes.iter().enumerate() {
        let owner = node.component.map(|index| plan.components[index].recipe.name.as_str()).or(node.source.as_deref());
        let title = format!("{}\n{}", owner.unwrap_or(&bundle.name), node.name);
        let style = if matches!(node.todo, Todo::Run(_)) { "solid" } else { "filled" };
        // Debug escapes a line break as Graphviz wants it.
        let _ = writeln!(text, "  n{at} [label={title:?}, tooltip={:?}, style={style}];", words(node));
        for before in &node.after {
            let _ = writeln!(text, "  n{before} -> n{at};");
        }
    }
    text.push_str("}\n");
    text
}
