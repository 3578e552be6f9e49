//! `plan`: what `package` would do.

use super::Workshop;
use crate::plan::{self, Planned, State};
use crate::stack::Material;
use crate::stack::lock::Origin;
use crate::stack::recipe::Step;
use crate::{cli, fetch, stage};
use std::fmt::Write as _;

/// Prints the plan to standard output.
///
/// # Errors
/// When the stack cannot be read.
pub fn run(args: &cli::Plan) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipes = workshop.stack.select(&args.common.only)?;
    let planned = plan::plan(&workshop.stack, &recipes, &workshop.workspace, &workshop.host, &workshop.dirs)?;
    let bundle = stage::bundle_name(&workshop.stack, recipes.len() < workshop.stack.recipes.len());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&json(&workshop, &planned, &bundle))?);
        return Ok(());
    }
    if args.dot {
        print!("{}", dot(&planned, &bundle));
        return Ok(());
    }
    println!("{bundle}");
    for planned in &planned {
        print_component(&workshop, planned);
    }
    println!("├─ stage {}", workshop.dirs.tree(&bundle).display());
    println!("└─ archive {}", workshop.dirs.dist.join(format!("{bundle}.tar.gz")).display());
    Ok(())
}

fn print_component(workshop: &Workshop, planned: &Planned<'_>) {
    let recipe = planned.recipe;
    let state = match &planned.state {
        State::Ready(output) => format!("ready, from {}", output.folder.display()),
        State::Build(why) => format!("to be built: {why}"),
    };
    println!("├─ {} {}, {}", recipe.name, planned.version(), recipe.summary);
    println!("│  {state}");
    if !planned.to_build() {
        return;
    }
    for line in steps(workshop, planned) {
        println!("│  ├─ {line}");
    }
    let pieces: Vec<_> = recipe.installs.iter().map(|install| install.to.as_str()).collect();
    println!("│  └─ take {}", pieces.join(", "));
}

/// What happens to a component before its pieces are taken, a line each.
fn steps(workshop: &Workshop, planned: &Planned<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    match planned.material {
        Material::Workspace => lines.push("use the workspace".to_owned()),
        Material::Locked(source) => match source.origin() {
            Origin::Folder(path) => lines.push(format!("copy {}", workshop.stack.root.join(path).display())),
            Origin::Archive { .. } => {
                lines.push(match fetch::stored(source, &workshop.dirs.sources()) {
                    Some(path) => format!("fetch: in the store, {}", path.display()),
                    None => format!("fetch {}", source.urls.join(", or ")),
                });
                lines.push("unpack".to_owned());
            }
        },
    }
    lines.extend(planned.recipe.patches.iter().map(|patch| format!("patch {patch}")));
    let versions: Vec<_> = planned.toolchain.iter().map(|(name, version)| format!("{name} {version}")).collect();
    lines.extend(planned.recipe.steps.iter().map(|step| {
        let memory = step.memory_mb.map(|mb| format!(", up to {mb} MB")).unwrap_or_default();
        let cores = step.cores.map(|cores| format!(", {cores} cores")).unwrap_or_default();
        format!("run {} ({}{memory}{cores})", step.name, versions.join(", "))
    }));
    lines
}

/// The plan for programs. `format` is raised when a reader of the old form would misunderstand the new one.
fn json(workshop: &Workshop, planned: &[Planned<'_>], bundle: &str) -> serde_json::Value {
    let component = |planned: &Planned<'_>| {
        let why = match &planned.state {
            State::Ready(_) => None,
            State::Build(why) => Some(why),
        };
        let step = |step: &Step| serde_json::json!({ "name": step.name, "memory-mb": step.memory_mb, "cores": step.cores.unwrap_or(1) });
        serde_json::json!({
            "name": planned.recipe.name,
            "version": planned.version(),
            "source": planned.recipe.source,
            "patches": planned.recipe.patches,
            "ready": why.is_none(),
            "why": why,
            "key": planned.key.0,
            "output": workshop.dirs.outputs(&planned.recipe.name).join(planned.key.short()),
            "steps": planned.recipe.steps.iter().map(step).collect::<Vec<_>>(),
        })
    };
    serde_json::json!({
        "format": 1,
        "bundle": bundle,
        "components": planned.iter().map(component).collect::<Vec<_>>(),
        "tree": workshop.dirs.tree(bundle),
        "archive": workshop.dirs.dist.join(format!("{bundle}.tar.gz")),
    })
}

/// The plan as a graph for Graphviz: what is ready is grey, what has to be built is not.
fn dot(planned: &[Planned<'_>], bundle: &str) -> String {
    let mut text = String::from("digraph plan {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for planned in planned {
        let name = &planned.recipe.name;
        let style = if planned.to_build() { "solid" } else { "filled" };
        let mut before = format!("{}\\n{}", planned.recipe.source, planned.version());
        let _ = writeln!(text, "  {before:?} [shape=folder];");
        for step in &planned.recipe.steps {
            let node = format!("{name}\\n{}", step.name);
            let _ = writeln!(text, "  {node:?} [style={style}];\n  {before:?} -> {node:?};");
            before = node;
        }
        let _ = writeln!(text, "  {before:?} -> \"stage\";");
    }
    let _ = writeln!(text, "  \"stage\" -> \"archive\";\n  \"archive\" -> {bundle:?};\n}}");
    // What Debug has escaped for Rust is what Graphviz wants, but for its own line break.
    text.replace("\\\\n", "\\n")
}
