//! What identifies an output: everything it depends on, by name, so that two keys can be compared in words.

use crate::fingerprint;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that a component's output depends on, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(pub BTreeMap<String, String>);

impl Key {
    /// The key as a folder's name: enough of its hash to be unique in a build folder.
    pub fn short(&self) -> String {
        let mut hash = Sha256::new();
        for (name, value) in &self.0 {
            hash.update(format!("{name}\0{value}\0"));
        }
        fingerprint::hex(&hash.finalize())[..20].to_owned()
    }

    /// In words, what differs from an earlier key.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[(&str, &str)]) -> Key {
        Key(parts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_difference_is_told_in_words() {
        let long = "0".repeat(64);
        let old = key(&[("go", "1.26.7"), ("source", &long), ("patches/x/01.patch", &long)]);
        let new = key(&[("go", "1.26.8"), ("source", &"1".repeat(64)), ("cc", "12")]);
        assert_eq!(new.difference(&old), ["cc is new", "go 1.26.7 → 1.26.8", "patches/x/01.patch is gone", "source changed"]);
        assert_ne!(new.short(), old.short());
        assert!(new.difference(&new).is_empty());
    }
}
