//! What a run will do, computed whole before anything is done.
//!
//! Every component has a [`Key`]: all that its output depends on, by name, so that two keys can be compared in words.
//! Where an output of that key is there and whole, nothing is to be done; else the plan knows why.

use crate::build::go_toolchain;
use crate::dirs::Dirs;
use crate::error::WithKind as _;
use crate::fingerprint;
use crate::host::Host;
use crate::key::Key;
use crate::outputs::{self, Output};
use crate::stack::lock::Origin;
use crate::stack::recipe::{Action, Recipe};
use crate::stack::{Material, Stack};
use crate::{build, error::Kind, toolchain};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Raised whenever this program makes something else from the same inputs.
const BUILDER: &str = "1";

/// The paths of the workspace that the programs made from it depend on.
const WORKSPACE_INPUTS: [&str; 5] = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "runtime", "LICENSE"];

/// One component with what will happen to it.
pub struct Planned<'a> {
    /// How it is made.
    pub recipe: &'a Recipe,
    /// What it is made from.
    pub material: Material<'a>,
    /// All that its output depends on.
    pub key: Key,
    /// Compilers with versions, for the manifest.
    pub toolchain: BTreeMap<String, String>,
    /// Whether it has to be made.
    pub state: State,
}

/// Whether a component has to be made.
pub enum State {
    /// Its output is there and whole.
    Ready(Output),
    /// It has to be made, for this reason.
    Build(String),
}

impl Planned<'_> {
    /// The version of what is made.
    pub fn version(&self) -> &str {
        match self.material {
            Material::Locked(source) => &source.version,
            Material::Workspace => env!("CARGO_PKG_VERSION"),
        }
    }

    /// Whether it is made from the workspace itself.
    pub fn is_workspace(&self) -> bool {
        matches!(self.material, Material::Workspace)
    }

    /// Whether it has to be made.
    pub fn to_build(&self) -> bool {
        matches!(self.state, State::Build(_))
    }
}

/// Plans the recipes.
///
/// # Errors
/// When a source folder, patch or recipe cannot be read.
pub fn plan<'a>(
    stack: &'a Stack,
    recipes: &[&'a Recipe],
    workspace: &Path,
    host: &Host,
    dirs: &Dirs,
) -> anyhow::Result<Vec<Planned<'a>>> {
    recipes.iter().map(|recipe| plan_one(stack, recipe, workspace, host, dirs)).collect()
}

fn plan_one<'a>(
    stack: &'a Stack,
    recipe: &'a Recipe,
    workspace: &Path,
    host: &Host,
    dirs: &Dirs,
) -> anyhow::Result<Planned<'a>> {
    let material = stack.material(recipe);
    let toolchain = toolchain_of(recipe, material, host);
    let mut parts: BTreeMap<String, String> = toolchain.clone();
    parts.insert("builder".to_owned(), BUILDER.to_owned());
    parts.insert("platform".to_owned(), format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH));
    parts.insert("recipe".to_owned(), recipe_hash(stack, recipe)?);
    parts.insert("source".to_owned(), source_hash(stack, material, workspace)?);
    if let Material::Locked(source) = material {
        parts.insert("version".to_owned(), source.version.clone());
        parts.insert("license-files".to_owned(), format!("{:?}", source.license_files));
    }
    for patch in &recipe.patches {
        let path = stack.patch_path(recipe, patch);
        let hash = fingerprint::hash_file(&path).kind(Kind::Usage, || format!("cannot read {}", path.display()))?;
        parts.insert(format!("patches/{}/{patch}", recipe.name), hash);
    }
    let key = Key(parts);
    let state = state_of(recipe, &key, dirs);
    Ok(Planned { recipe, material, key, toolchain, state })
}

/// What identifies the source: an archive's hash, or one over a folder's content.
fn source_hash(stack: &Stack, material: Material<'_>, workspace: &Path) -> anyhow::Result<String> {
    match material {
        Material::Workspace => hash_workspace(workspace),
        Material::Locked(source) => match source.origin() {
            Origin::Archive { sha256 } => Ok(sha256.to_owned()),
            Origin::Folder(path) => {
                let root = stack.root.join(path);
                fingerprint::hash_source(&root, build::source_files(&root))
            }
        },
    }
}

fn state_of(recipe: &Recipe, key: &Key, dirs: &Dirs) -> State {
    let folder = dirs.outputs(&recipe.name);
    match outputs::find(&folder, key) {
        Ok(Some(output)) => State::Ready(output),
        Err(damage) => State::Build(damage),
        Ok(None) => State::Build(match outputs::latest(&folder) {
            None => "was never built here".to_owned(),
            Some(latest) => match key.difference(&latest.record.key) {
                words if words.is_empty() => "its output is gone".to_owned(),
                words => words.join(", "),
            },
        }),
    }
}

/// The compilers that a recipe's steps use, with the versions that this machine gives them.
fn toolchain_of(recipe: &Recipe, material: Material<'_>, host: &Host) -> BTreeMap<String, String> {
    let mut toolchain = BTreeMap::new();
    let mut add = |name: &str, version: Option<String>| {
        toolchain.insert(name.to_owned(), version.unwrap_or_else(|| "missing".to_owned()));
    };
    let version_of = |name: &str| host.tool(name).map(|tool| tool.version);
    for step in &recipe.steps {
        match step.action() {
            Action::Go(_) => {
                add(
                    "go",
                    recipe.toolchain.go.as_deref().map(go_toolchain).map(|word| word.trim_start_matches("go").to_owned()),
                );
                if step.env.get("CGO_ENABLED").is_some_and(|value| value == "1") {
                    add("cc", version_of("cc"));
                }
            }
            Action::Node(_) => add("node", toolchain::node_version(recipe, host)),
            Action::Autotools(_) => add("cc", version_of("cc")),
            // The workspace's compiler is the one that rust-toolchain.toml pins, which is part of its source.
            Action::Cargo(_) if matches!(material, Material::Workspace) => {
                add("rust", Some(env!("CARGO_PKG_RUST_VERSION").to_owned()));
            }
            Action::Cargo(_) => add("rust", version_of("rustc")),
        }
    }
    toolchain
}

/// A hash over the parts of a recipe that decide what is made: not its summary, not its service, not what it needs.
fn recipe_hash(stack: &Stack, recipe: &Recipe) -> anyhow::Result<String> {
    let path = stack.root.join("recipes").join(format!("{}.toml", recipe.name));
    let text = std::fs::read_to_string(&path).kind(Kind::Usage, || format!("cannot read {}", path.display()))?;
    let mut table: toml::Table = text.parse().kind(Kind::Usage, || format!("cannot use {}", path.display()))?;
    for key in ["summary", "service", "needs", "toolchain", "patches"] {
        table.remove(key);
    }
    if let Some(toml::Value::Array(steps)) = table.get_mut("step") {
        for step in steps.iter_mut().filter_map(toml::Value::as_table_mut) {
            step.remove("memory-mb");
            step.remove("cores");
        }
    }
    let mut hash = Sha256::new();
    hash.update(table.to_string());
    let folder = path.with_extension("");
    if folder.is_dir() {
        hash.update(fingerprint::hash_source(&folder, build::source_files(&folder))?);
    }
    Ok(fingerprint::hex(&hash.finalize()))
}

fn hash_workspace(root: &Path) -> anyhow::Result<String> {
    let files = WORKSPACE_INPUTS.iter().map(|name| root.join(name)).filter(|path| path.exists());
    fingerprint::hash_source(root, files.flat_map(|path| build::source_files(&path).collect::<Vec<_>>()))
}
