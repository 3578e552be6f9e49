//! What identifies a result: everything that it depends on, by name, so that two keys can be compared in words.
//!
//! Every node of the plan has [`Parts`] of its own. What it depends on besides is what the nodes before it depend on, so a
//! result's key is taken from the whole [`Chain`] from the source to its node. A chain is kept with its result: that is
//! what makes it possible to say, node by node, what differs.

use crate::fingerprint;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What one node depends on by itself, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts(pub BTreeMap<String, String>);

impl Parts {
    /// Adds a part.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// In words, what differs from earlier parts of the same node.
    pub fn difference(&self, earlier: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.0.keys().chain(earlier.0.keys()).collect();
        let mut words = Vec::new();
        for name in names {
            match (earlier.0.get(name), self.0.get(name)) {
                (Some(old), Some(new)) if old != new && old.len() < 24 && new.len() < 24 => {
                    words.push(format!("{name} {old} → {new}"));
                }
                (Some(old), Some(new)) if old != new => words.push(format!("{name} changed")),
                (Some(_), None) => words.push(format!("{name} is gone")),
                (None, Some(_)) => words.push(format!("{name} is new")),
                _ => {}
            }
        }
        words
    }
}

/// One node of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The node's name in its component, such as `unpack` or `step compile`.
    pub node: String,
    /// What it depends on by itself.
    pub parts: Parts,
}

/// Everything that a result depends on: the nodes from the source to its own, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain(pub Vec<Link>);

impl Chain {
    /// This chain and one node more.
    pub fn then(&self, node: impl Into<String>, parts: Parts) -> Self {
        let mut links = self.0.clone();
        links.push(Link { node: node.into(), parts });
        Self(links)
    }

    /// The key: a SHA-256 over all names and values, 64 lower-case hexadecimal digits.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        for link in &self.0 {
            // No name or value holds a zero byte; the doubled one ends a node, so that no two chains are written down alike.
            hash.update(format!("{}\0", link.node));
            for (name, value) in &link.parts.0 {
                hash.update(format!("{name}\0{value}\0"));
            }
            hash.update("\0");
        }
        fingerprint::hex(&hash.finalize())
    }

    /// What the node of this name depends on by itself, if it is part of the chain.
    pub fn parts(&self, node: &str) -> Option<&Parts> {
        self.0.iter().find(|link| link.node == node).map(|link| &link.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(parts: &[(&str, &str)]) -> Parts {
        Parts(parts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_difference_is_told_in_words() {
        let long = "0".repeat(64);
        let old = parts(&[("go", "1.26.7"), ("source", &long), ("patches/x/01.patch", &long)]);
        let new = parts(&[("go", "1.26.8"), ("source", &"1".repeat(64)), ("cc", "12")]);
        assert_eq!(new.difference(&old), ["cc is new", "go 1.26.7 → 1.26.8", "patches/x/01.patch is gone", "source changed"]);
        assert!(new.difference(&new).is_empty());
    }

    #[test]
    fn a_key_covers_every_node_and_where_one_ends() {
        let start = Chain::default().then("unpack", parts(&[("source", "1")]));
        let keys = [
            start.key(),
            start.then("patch", parts(&[])).key(),
            start.then("patch", parts(&[("x", "y")])).key(),
            Chain::default().then("unpack", parts(&[("source", "1"), ("x", "y")])).key(),
            Chain::default().then("unpack", parts(&[("source", "2")])).key(),
        ];
        let different: BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(start.then("patch", parts(&[])).parts("unpack"), Some(&parts(&[("source", "1")])));
    }
}
