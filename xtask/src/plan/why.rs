//! Why something has to be made, in words: what its key and that of the last success differ in.

use crate::key::{Chain, Link};
use crate::stack::recipe::Recipe;
use crate::store::{Record, Store};
use std::time::Duration;

/// What is known of a component's earlier results.
pub struct Why {
    /// Those made or used last first; none where nobody has to ask.
    records: Vec<Record>,
    chain: Chain,
}

/// A reason, and whether it is the node's own.
struct Reason {
    words: String,
    own: bool,
}

impl Why {
    /// `ready` says that nothing has to be made, so that nothing has to be known.
    pub(super) fn new(store: &Store, recipe: &Recipe, ready: bool, chain: &Chain) -> Self {
        let records = if ready { Vec::new() } else { store.records(&recipe.name) };
        Self { records, chain: chain.clone() }
    }

    /// As [`Self::new`], for somebody who wants to know in any case.
    pub fn asked(store: &Store, recipe: &Recipe, chain: &Chain) -> Self {
        Self::new(store, recipe, false, chain)
    }

    /// What of a node's own parts differs from the last success that it had part in. Nothing where nothing differs.
    pub fn difference(&self, link: &Link) -> Vec<String> {
        match self.records.iter().find_map(|record| record.chain.parts(&link.node)) {
            None => vec!["was never built here".to_owned()],
            Some(before) => link.parts.difference(before),
        }
    }

    /// The parts that a node had in its last success.
    pub fn before(&self, node: &str) -> Option<&crate::key::Parts> {
        self.records.iter().find_map(|record| record.chain.parts(node))
    }

    /// The first node up to `node` that differs, in words.
    fn reason(&self, node: &str) -> Option<Reason> {
        for link in &self.chain.0 {
            let words = self.difference(link);
            if !words.is_empty() {
                let own = link.node == node;
                let words = if own { words.join(", ") } else { format!("comes after {}", link.node) };
                return Some(Reason { words, own });
            }
            if link.node == node {
                return None;
            }
        }
        None
    }

    /// Why a node has to run.
    pub(super) fn of(&self, node: &str) -> String {
        let preparation = matches!(node, "unpack" | "patch");
        match self.reason(node) {
            Some(reason) if reason.own || !preparation => reason.words,
            _ if preparation => "for what comes after it".to_owned(),
            _ => "its result is gone".to_owned(),
        }
    }

    /// Why a component has to be made: everything of it that differs.
    pub(super) fn of_component(&self) -> String {
        if self.records.is_empty() {
            return "was never built here".to_owned();
        }
        let mut words = Vec::new();
        for link in &self.chain.0 {
            let of_step = link.node.starts_with("step ");
            words.extend(
                self.difference(link).into_iter().map(|word| if of_step { format!("{}: {word}", link.node) } else { word }),
            );
        }
        if words.is_empty() { "its result is gone".to_owned() } else { words.join(", ") }
    }

    /// How long a node took when it ran last.
    pub(super) fn remembered(&self, node: &str) -> Option<Duration> {
        let costs = self.records.iter().flat_map(|record| &record.costs);
        costs.into_iter().find(|cost| cost.name == node).map(crate::store::StepCost::wall)
    }
}

/// What the store has lost, for people.
pub fn damaged(component: &str, slot: &str, why: &str) -> String {
    match slot.strip_prefix("step-") {
        Some(step) => format!("{}: {why}", damaged_result(component, step)),
        None => format!("the kept result of {component} is damaged: {why}"),
    }
}

/// That the store has lost a step's result, for people.
pub fn damaged_result(component: &str, step: &str) -> String {
    format!("the kept result of {component}, step {step}, is damaged")
}
