//! What is thrown away: old results, and objects that no result needs any more.

use super::{FINAL, Store, by_age, folders};
use crate::dirs;
use crate::error::{Kind, WithKind as _};
use std::collections::BTreeSet;
use std::fs;

/// How many final results of a component are kept, so that going back to an earlier state costs no compiling.
const KEPT_FINALS: usize = 3;

/// How many results of a step are kept. They can be large.
const KEPT_STEPS: usize = 2;

impl Store {
    /// Throws away the results that were used longest ago, those of components that are not among `components`, and every
    /// object that no remaining result needs.
    ///
    /// # Errors
    /// [`Kind::Stage`] when something cannot be removed.
    pub fn collect_garbage(&self, components: &BTreeSet<&str>) -> anyhow::Result<()> {
        for name in self.components() {
            if !components.contains(name.as_str()) {
                let folder = self.folder_of(&name);
                dirs::remove_all(&folder).kind(Kind::Stage, || format!("cannot remove {}", folder.display()))?;
            }
        }
        for slot in folders(&self.results()).into_iter().flat_map(|component| folders(&component)) {
            let kept = if slot.file_name().is_some_and(|name| name == FINAL) { KEPT_FINALS } else { KEPT_STEPS };
            for (_, path) in by_age(&slot).into_iter().skip(kept) {
                self.forget_files(&path);
            }
        }
        let mut needed = BTreeSet::new();
        for path in self.all_records() {
            let record = fs::read(&path).ok().and_then(|text| super::Record::parse(&text).ok());
            let objects = record.and_then(|record| self.objects_of(&record).ok());
            // A record without its list of files is of no use.
            match objects {
                Some(objects) => needed.extend(objects.into_iter().map(|object| object.sha256)),
                None => self.forget_files(&path),
            }
        }
        for folder in folders(&self.objects()) {
            for object in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if !object.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                    let path = object.path();
                    dirs::remove_all(&path).kind(Kind::Stage, || format!("cannot remove {}", path.display()))?;
                }
            }
        }
        Ok(())
    }
}
