//! The plan as those who watch a run need to know it.

use crate::build::reused;
use crate::plan::{Job, Node, Plan, Todo};
use crate::progress::{Ahead, Fate};
use crate::resources::{Cost, Resources};

/// The nodes that do something, and the steps that need not, by the names that they have while they run. With `skip_build`
/// nothing is done but the bundle.
pub fn ahead(plan: &Plan<'_>, total: Resources, skip_build: bool) -> Vec<Ahead> {
    let mut all: Vec<Ahead> = Vec::new();
    // Where in `all` each node is found, or what it comes after.
    let mut places: Vec<Vec<usize>> = Vec::new();
    for node in &plan.nodes {
        let after: Vec<usize> = node.after.iter().flat_map(|before| places[*before].clone()).collect();
        let fates = match node.job {
            Job::Step(_) if skip_build => vec![(node.name.clone(), Fate::Cached(None))],
            Job::Stage | Job::Archive | Job::Gate => fates(plan, node),
            _ if skip_build => Vec::new(),
            _ => fates(plan, node),
        };
        let mut own = after.clone();
        for (step, fate) in fates {
            let component = match node.component {
                Some(index) => plan.components[index].recipe.name.clone(),
                None => node.source.clone().unwrap_or_else(|| "bundle".to_owned()),
            };
            all.push(Ahead { component, step, after: own, need: plan.need(node, total), fate });
            own = vec![all.len() - 1];
        }
        places.push(own);
    }
    all
}

/// What becomes of a node: nothing that is worth a word, one thing, or two where a kept result is laid out.
fn fates(plan: &Plan<'_>, node: &Node) -> Vec<(String, Fate)> {
    let before = || -> Option<Cost> {
        let record = match (&node.todo, node.component) {
            (Todo::Reuse(record), _) => record.as_deref(),
            (_, Some(index)) => plan.components[index].ready.as_ref(),
            _ => None,
        };
        record?.costs.iter().find(|cost| cost.name == node.name).map(crate::store::StepCost::cost)
    };
    match (&node.todo, node.job) {
        (Todo::Run(why), _) => vec![(node.name.clone(), Fate::Run(why.clone()))],
        (Todo::Reuse(Some(_)), _) => vec![
            (node.name.clone(), Fate::Cached(before())),
            (reused(&node.name), Fate::Run("for what comes after it".to_owned())),
        ],
        (Todo::Nothing, Job::Step(_) | Job::Stage | Job::Archive | Job::Gate) => {
            vec![(node.name.clone(), Fate::Cached(before()))]
        }
        (Todo::Nothing | Todo::Reuse(None), _) => Vec::new(),
    }
}
