//! A stack: a folder that holds `vendor.lock`, `recipes/` and `patches/`, read and checked as a whole.
//!
//! The repository's root is the real stack; any other folder of that shape can be chosen by `--stack`. A stack other than
//! the root's has a name, its folder's, which its bundles carry so that nobody ships one by mistake.

pub mod lock;
pub mod recipe;

use crate::error::Kind;
use dkumonitor_interface::service::InstallType;
use lock::{Lock, Origin, Source};
use recipe::{Recipe, WORKSPACE};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A stack that was read: every recipe has its source and its patches.
#[derive(Debug)]
pub struct Stack {
    /// The folder, absolute.
    pub root: PathBuf,
    /// The name its bundles carry; none for the repository's root.
    pub name: Option<String>,
    /// The pins.
    pub lock: Lock,
    /// The components, sorted by name.
    pub recipes: Vec<Recipe>,
}

/// What a component is made from.
#[derive(Clone, Copy, Debug)]
pub enum Material<'a> {
    /// A source of the lock.
    Locked(&'a Source),
    /// The cargo workspace of xtask itself.
    Workspace,
}

impl Stack {
    /// Reads the stack in `root`; `workspace` is the repository's root.
    ///
    /// # Errors
    /// [`Kind::Usage`] with everything that is wrong in the lock and the recipes.
    pub fn read(root: &Path, workspace: &Path) -> anyhow::Result<Self> {
        let root = root
            .canonicalize()
            .map_err(|error| Kind::Usage.error(format!("cannot use the stack {}: {error} (--stack DIR)", root.display())))?;
        let name = (root != workspace).then(|| folder_name(&root));
        let lock = Lock::read(&root.join("vendor.lock"))?;
        let recipes = read_recipes(&root.join("recipes"))?;
        let stack = Self { root, name, lock, recipes };
        let problems = stack.problems();
        if problems.is_empty() {
            Ok(stack)
        } else {
            Err(Kind::Usage.error(format!("cannot use the stack {}: {}", stack.root.display(), problems.join("; "))))
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for recipe in &self.recipes {
            let name = &recipe.name;
            if recipe.source != WORKSPACE && self.lock.get(&recipe.source).is_none() {
                problems.push(format!(
                    "recipes/{name}.toml takes the source \"{}\", which vendor.lock does not have; add a [[source]] of that name",
                    recipe.source
                ));
            }
            for patch in &recipe.patches {
                if !self.patch_path(recipe, patch).is_file() {
                    problems.push(format!("recipes/{name}.toml wants patches/{name}/{patch}, which is not there"));
                }
            }
            problems.extend(self.unlisted_patches(recipe));
        }
        let used: BTreeSet<_> = self.recipes.iter().map(|recipe| recipe.source.as_str()).collect();
        for source in &self.lock.sources {
            if !used.contains(source.name.as_str()) {
                problems.push(format!("vendor.lock pins \"{}\", which no recipe uses; remove it", source.name));
            }
            if let Origin::Folder(path) = source.origin()
                && !self.root.join(path).is_dir()
            {
                problems.push(format!("vendor.lock: the folder {} of \"{}\" is not there", path.display(), source.name));
            }
        }
        problems
    }

    /// A patch that lies there but is not applied is a mistake that nobody would see in the package.
    fn unlisted_patches(&self, recipe: &Recipe) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.join("patches").join(&recipe.name)) else { return Vec::new() };
        let mut files: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        files.sort();
        files.retain(|file| file.ends_with(".patch") && !recipe.patches.contains(file));
        files.into_iter().map(|file| format!("patches/{}/{file} is not listed in recipes/{0}.toml", recipe.name)).collect()
    }

    /// Where a recipe's patch lies.
    pub fn patch_path(&self, recipe: &Recipe, patch: &str) -> PathBuf {
        self.root.join("patches").join(&recipe.name).join(patch)
    }

    /// What a recipe is made from.
    pub fn material(&self, recipe: &Recipe) -> Material<'_> {
        match self.lock.get(&recipe.source) {
            Some(source) if recipe.source != WORKSPACE => Material::Locked(source),
            _ => Material::Workspace,
        }
    }

    /// The recipes of these names, all when there are none; the launcher and whatever else is made from the workspace is
    /// always among them, since a bundle without it cannot be installed.
    ///
    /// # Errors
    /// [`Kind::Usage`] naming the names that are no recipe, and those that are.
    pub fn select(&self, only: &[String]) -> anyhow::Result<Vec<&Recipe>> {
        let is_unknown = |name: &&String| !self.recipes.iter().any(|recipe| recipe.name == **name);
        let unknown: Vec<_> = only.iter().filter(is_unknown).map(String::as_str).collect();
        if !unknown.is_empty() {
            let known: Vec<_> = self.recipes.iter().map(|recipe| recipe.name.as_str()).collect();
            return Err(Kind::Usage.error(format!(
                "--only: no recipe is named \"{}\"; there are {}",
                unknown.join("\", \""),
                known.join(", ")
            )));
        }
        let wanted = |recipe: &&Recipe| only.is_empty() || recipe.source == WORKSPACE || only.contains(&recipe.name);
        Ok(self.recipes.iter().filter(wanted).collect())
    }

    /// The recipes that a type of installation needs: those whose services it runs, what else is made from their sources (pages
    /// beside a server), and the launcher.
    pub fn of_type(&self, kind: InstallType) -> Vec<&Recipe> {
        let runs = |recipe: &&Recipe| recipe.service.as_ref().is_some_and(|service| service.types.contains(&kind));
        let sources: BTreeSet<&str> = self.recipes.iter().filter(runs).map(|recipe| recipe.source.as_str()).collect();
        let beside = |recipe: &&Recipe| recipe.service.is_none() && sources.contains(recipe.source.as_str());
        self.recipes.iter().filter(|recipe| recipe.source == WORKSPACE || runs(recipe) || beside(recipe)).collect()
    }
}

fn folder_name(root: &Path) -> String {
    let name = root.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' }).collect();
    if plain.is_empty() { "stack".to_owned() } else { plain }
}

fn read_recipes(folder: &Path) -> anyhow::Result<Vec<Recipe>> {
    let entries = std::fs::read_dir(folder).map_err(|error| {
        Kind::Usage.error(format!("cannot read {}: {error}; a stack keeps its recipes there", folder.display()))
    })?;
    let mut recipes = Vec::new();
    let mut problems = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            match Recipe::read(&path) {
                Ok(recipe) => recipes.push(recipe),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
    }
    problems.sort();
    recipes.sort_by(|a, b| a.name.cmp(&b.name));
    match (problems.is_empty(), recipes.is_empty()) {
        (false, _) => Err(Kind::Usage.error(problems.join("\n"))),
        (true, true) => Err(Kind::Usage.error(format!("{} holds no recipe (NAME.toml)", folder.display()))),
        (true, false) => Ok(recipes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_of_installation_takes_what_it_runs_and_what_belongs_to_that() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap();
        let real = Stack::read(&workspace, &workspace).unwrap();
        let names = |kind| real.of_type(kind).into_iter().map(|recipe| recipe.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names(InstallType::Agent), ["collectd", "launcher"]);
        assert_eq!(names(InstallType::Server), ["carbonapi", "go-carbon", "grafana", "grafana-frontend", "launcher"]);
        assert_eq!(names(InstallType::All).len(), real.recipes.len());
    }

    /// The miniature programs stand in for the real ones only as long as the launcher runs both in the same way.
    #[test]
    fn the_miniature_stack_runs_its_programs_as_the_real_one_does() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap();
        let real = Stack::read(&workspace, &workspace).unwrap();
        let miniature = Stack::read(&workspace.join("examples/ministack"), &workspace).unwrap();
        assert_eq!((&real.name, miniature.name.as_deref()), (&None, Some("ministack")));
        let mut compared = 0;
        for recipe in &miniature.recipes {
            let other = real.recipes.iter().find(|other| other.name == recipe.name).unwrap();
            // What they are in one line may differ, and where they keep their users.
            let plain = |recipe: &Recipe| {
                recipe.service.clone().map(|mut service| {
                    service.summary.clear();
                    if let Some(reset) = &mut service.reset_password {
                        reset.once_there = None;
                    }
                    service
                })
            };
            assert_eq!(plain(recipe), plain(other), "{}", recipe.name);
            compared += usize::from(recipe.service.is_some());
        }
        assert_eq!(compared, 4);
    }
}
