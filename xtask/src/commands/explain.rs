//! `explain`: what a component depends on, and what of it has changed since it was built last.

use super::Workshop;
use crate::error::Kind;
use crate::plan::{self, State};
use crate::{cli, outputs};

/// Prints the explanation to standard output.
///
/// # Errors
/// [`Kind::Usage`] when there is no recipe of that name.
pub fn run(args: &cli::Explain) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipe = workshop.stack.recipes.iter().find(|recipe| recipe.name == args.name).ok_or_else(|| {
        let known: Vec<_> = workshop.stack.recipes.iter().map(|recipe| recipe.name.as_str()).collect();
        Kind::Usage.error(format!("no recipe is named \"{}\"; there are {}", args.name, known.join(", ")))
    })?;
    let planned = plan::plan(&workshop.stack, &[recipe], &workshop.workspace, &workshop.host, &workshop.dirs)?.remove(0);
    match &planned.state {
        State::Ready(output) => println!("{} is built, from exactly this, in {}", args.name, output.folder.display()),
        State::Build(why) => println!("{} has to be built: {why}", args.name),
    }
    let before = outputs::latest(&workshop.dirs.outputs(&args.name)).map(|output| output.record.key.0).unwrap_or_default();
    for (part, value) in &planned.key.0 {
        let then = match before.get(part) {
            Some(old) if old == value => String::new(),
            Some(old) => format!("   (last built with {old})"),
            None if before.is_empty() => String::new(),
            None => "   (new since it was built last)".to_owned(),
        };
        println!("  {part:<24} {value}{then}");
    }
    Ok(())
}
