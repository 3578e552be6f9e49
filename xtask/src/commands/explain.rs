//! `explain`: what a component depends on, node by node, and what of it has changed since it was built last.

use super::Workshop;
use crate::cli;
use crate::error::Kind;
use crate::plan::{Todo, Why};
use crate::progress;
use crate::sharing::Sharing;
use crate::store::Store;

/// Prints the explanation to standard output.
///
/// # Errors
/// [`Kind::Usage`] when there is no recipe of that name.
pub fn run(args: &cli::Explain) -> anyhow::Result<()> {
    let workshop = Workshop::open(&args.common, None)?;
    let recipe = workshop.recipe(&args.name)?;
    let store = Store::at(workshop.dirs.store());
    let plan = workshop.planner(&store).plan(&[recipe])?;
    let component = plan.components.first().ok_or_else(|| Kind::Other.error("nothing was planned"))?;
    plan.damage.iter().for_each(|why| println!("! {why}"));
    match (&component.ready, &component.why) {
        (Some(record), _) => println!("{} is built, from exactly this: {}", args.name, store.path_of(record).display()),
        (None, why) => println!("{} has to be built: {}", args.name, why.as_deref().unwrap_or_default()),
    }
    if let Some(sharing) = Sharing::look_only(&args.cache, &workshop.ui)?
        && let Some(found) = sharing.look(&plan).into_iter().flatten().next()
    {
        let size = progress::bytes(found.size());
        println!("it is in the shared cache {} ({size}), from where the next run takes it", sharing.place());
    }
    // The first node that differs: what comes after it is made anew for that alone.
    let mut changed: Option<&str> = None;
    let why = Why::asked(&store, recipe, &component.chain);
    for link in &component.chain.0 {
        let words = why.difference(link);
        let node = plan.nodes_of(0).find(|node| node.name == link.node.trim_start_matches("step "));
        let kept = node.is_some_and(|node| matches!(node.todo, Todo::Reuse(Some(_))));
        let prepares = matches!(link.node.as_str(), "unpack" | "patch");
        let stand = match (words.is_empty(), changed) {
            (false, _) => words.join(", "),
            (true, Some(before)) => format!("as it was, but comes after {before}"),
            (true, None) if component.ready.is_some() || kept || prepares => "as it was".to_owned(),
            (true, None) => "as it was, but its result is gone".to_owned(),
        };
        changed = changed.or((!words.is_empty()).then_some(&link.node));
        println!("{}: {stand}", link.node);
        let before = why.before(&link.node);
        for (name, value) in &link.parts.0 {
            let then = match before.and_then(|before| before.0.get(name)) {
                Some(old) if old != value => format!("   (last built with {old})"),
                None if before.is_some() => "   (new since it was built last)".to_owned(),
                _ => String::new(),
            };
            println!("  {name:<24} {value}{then}");
        }
        for (name, old) in before.iter().flat_map(|before| &before.0).filter(|(name, _)| !link.parts.0.contains_key(*name)) {
            println!("  {name:<24} is gone   (last built with {old})");
        }
    }
    Ok(())
}
