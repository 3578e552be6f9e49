//! `plan`: what `package` would do.

use super::Workshop;
use crate::plan::{self, Planned, State};
use crate::stack::Material;
use crate::stack::lock::Origin;
use crate::{cli, fetch, stage};

/// Prints the plan to standard output.
///
/// # Errors
/// When the stack cannot be read.
pub fn run(args: &cli::Plan) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipes = workshop.stack.select(&args.common.only)?;
    let planned = plan::plan(&workshop.stack, &recipes, &workshop.workspace, &workshop.host, &workshop.dirs)?;
    let bundle = stage::bundle_name(&workshop.stack, recipes.len() < workshop.stack.recipes.len());
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
