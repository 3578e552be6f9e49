//! What lock files pin: those of npm, of Yarn 1, and of Yarn since 2.

use super::locator;
use crate::account::Origin;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Reads the text of a file.
type Reader = fn(&str, &mut Lock);

/// The files, and how each is read. What is published with a package counts before what is not.
const FILES: [(&str, Reader); 3] = [("npm-shrinkwrap.json", npm), ("package-lock.json", npm), ("yarn.lock", yarn)];

/// What is pinned of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Its version.
    pub version: String,
    /// The hash, in the package manager's own form.
    pub sum: Option<String>,
    /// Where it comes from, if not from a registry.
    pub origin: Option<Origin>,
    /// Whether it is for some platforms only.
    pub is_conditional: bool,
}

/// All that is pinned.
#[derive(Debug, Default)]
pub struct Lock {
    /// By name and version.
    by_name: BTreeMap<(String, String), Pinned>,
    /// By what Yarn calls it since 2: `name@reference`.
    by_locator: BTreeMap<String, Pinned>,
}

impl Lock {
    /// Reads the lock files in the nearest folder, upwards from `from` within `source`, that has any.
    pub fn near(from: &Path, source: &Path) -> Self {
        let mut lock = Self::default();
        let above = from.ancestors().take_while(|folder| folder.starts_with(source));
        let has_any = |folder: &&Path| FILES.iter().any(|(name, _)| folder.join(name).is_file());
        let Some(folder) = above.into_iter().find(has_any) else { return lock };
        for (name, read) in FILES {
            if let Ok(text) = std::fs::read_to_string(folder.join(name)) {
                read(&text, &mut lock);
            }
        }
        lock
    }

    /// What is pinned of the package of this name and version.
    pub fn named(&self, name: &str, version: &str) -> Option<&Pinned> {
        self.by_name.get(&(name.to_owned(), version.to_owned()))
    }

    /// What is pinned of what Yarn calls by this name.
    pub fn located(&self, locator: &str) -> Option<&Pinned> {
        self.by_locator.get(locator)
    }

    fn note(&mut self, name: &str, pinned: Pinned) {
        if pinned.sum.is_some() || pinned.origin.is_some() {
            self.by_name.insert((name.to_owned(), pinned.version.clone()), pinned);
        }
    }
}

fn npm(text: &str, lock: &mut Lock) {
    let all: Value = serde_json::from_str(text).unwrap_or_default();
    for (path, package) in all["packages"].as_object().into_iter().flatten() {
        let name = package["name"].as_str().or_else(|| path.rsplit_once("node_modules/").map(|(_, name)| name));
        let (Some(name), Some(version)) = (name, package["version"].as_str()) else { continue };
        let sum = package["integrity"].as_str().map(str::to_owned);
        let origin = package["resolved"].as_str().and_then(locator::git);
        lock.note(name, Pinned { version: version.to_owned(), sum, origin, is_conditional: false });
    }
}

/// Both forms of Yarn's lock: blocks of lines, of which the first names the package.
fn yarn(text: &str, lock: &mut Lock) {
    let mut block: Option<Block> = None;
    for line in text.lines() {
        if !line.starts_with([' ', '#']) && line.ends_with(':') {
            block.take().into_iter().for_each(|block| block.end(lock));
            block = Block::named(line);
        } else if let (Some(block), Some(field)) = (&mut block, field(line)) {
            block.take(field);
        }
    }
    block.into_iter().for_each(|block| block.end(lock));
}

/// A field of a block: `key value` in Yarn 1, `key: value` since 2.
fn field(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?;
    let (key, value) = line.split_once(' ')?;
    Some((key.trim_end_matches(':'), value.trim().trim_matches('"')))
}

#[derive(Default)]
struct Block {
    name: String,
    pinned: Pinned,
    locator: Option<String>,
}

impl Block {
    /// `"@scope/name@range, @scope/name@other":`, or the same with each in quotes of its own.
    fn named(line: &str) -> Option<Self> {
        let first = line.trim_end_matches(':').trim_matches('"').split(',').next()?.trim_matches('"');
        Some(Self { name: locator::split(first)?.0.to_owned(), ..Self::default() })
    }

    fn take(&mut self, (key, value): (&str, &str)) {
        match key {
            "version" => value.clone_into(&mut self.pinned.version),
            "checksum" | "integrity" => self.pinned.sum = Some(value.to_owned()),
            "resolved" => self.pinned.origin = locator::git(value),
            "conditions" => self.pinned.is_conditional = true,
            "resolution" => self.locator = Some(value.to_owned()),
            _ => {}
        }
    }

    fn end(self, lock: &mut Lock) {
        let Some(locator) = self.locator else { return lock.note(&self.name, self.pinned) };
        let Some((name, reference)) = locator::split(&locator) else { return };
        let reference = locator::read(reference);
        let pinned = Pinned { origin: reference.origin, ..self.pinned };
        // The package itself counts before what was made of it by a patch.
        if reference.patches.is_empty() || lock.named(name, &pinned.version).is_none() {
            lock.note(name, pinned.clone());
        }
        lock.by_locator.insert(locator, pinned);
    }
}

/// The folders of packages that Yarn has installed, by the names that it has for them: from the state that it keeps beside
/// them since 2.
pub fn installed(modules: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let Ok(text) = std::fs::read_to_string(modules.join(".yarn-state.yml")) else { return all };
    let root = modules.parent().unwrap_or(modules);
    let mut locator = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            locator = Some(name.trim_matches('"').to_owned());
        } else if let (Some(place), Some(locator)) = (line.strip_prefix("    - "), &locator) {
            all.insert(root.join(place.trim_matches('"')), locator.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_origins_are_read_from_all_forms_of_locks() {
        let mut lock = Lock::default();
        let berry = "# c\n__metadata:\n  version: 6\n\n\"@babel/core@npm:^7.0.0, @babel/core@npm:^7.1.0\":\n  version: 7.20.5\n  \
                     resolution: \"@babel/core@npm:7.20.5\"\n  dependencies:\n    version: 9\n  checksum: 8/abc\n  \
                     languageName: node\n\n\"fsevents@npm:2\":\n  version: 2.0.0\n  resolution: \"fsevents@npm:2.0.0\"\n  \
                     checksum: 8/def\n  conditions: os=darwin\n\n\"drop@https://github.com/x/drop\":\n  version: 1.4.2\n  \
                     resolution: \"drop@https://github.com/x/drop.git#commit=9a3\"\n  checksum: 8/eee\n";
        yarn(berry, &mut lock);
        assert_eq!(lock.named("@babel/core", "7.20.5").unwrap().sum.as_deref(), Some("8/abc"));
        assert!(lock.located("fsevents@npm:2.0.0").unwrap().is_conditional);
        let git = |url: &str, commit: &str| Some(Origin::Git { url: url.to_owned(), commit: commit.to_owned() });
        assert_eq!(lock.named("drop", "1.4.2").unwrap().origin, git("https://github.com/x/drop.git", "9a3"));
        let classic = "left-pad@^1.0.0, left-pad@1:\n  version \"1.3.0\"\n  resolved \"https://r/left-pad/-/left-pad-1.3.0.tgz#5b\"\n  \
                       integrity sha512-xyz==\n\n\"@s/y@https://github.com/x/y\":\n  version \"2.0.0\"\n  \
                       resolved \"https://codeload.github.com/x/y/tar.gz/77aa\"\n";
        yarn(classic, &mut lock);
        let left_pad = Pinned { version: "1.3.0".to_owned(), sum: Some("sha512-xyz==".to_owned()), ..Pinned::default() };
        assert_eq!(lock.named("left-pad", "1.3.0"), Some(&left_pad));
        assert_eq!(lock.named("@s/y", "2.0.0").unwrap().origin, git("https://github.com/x/y", "77aa"));
        let json = r#"{"packages":{"node_modules/a/node_modules/@s/z":{"version":"3.0.0","resolved":"git+ssh://git@github.com/x/z.git#88bb"}}}"#;
        npm(json, &mut lock);
        assert_eq!(lock.named("@s/z", "3.0.0").unwrap().origin, git("ssh://git@github.com/x/z.git", "88bb"));
    }
}
