//! What each node depends on by itself.

use super::Planner;
use crate::account;
use crate::environment;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use crate::key::{Chain, Link, Parts};
use crate::source::source_files;
use crate::stack::Material;
use crate::stack::lock::Origin;
use crate::stack::recipe::{Action, Recipe, Step};
use crate::toolchain;
use crate::toolchain::go::go_toolchain;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Raised whenever this program makes something else from the same inputs.
const BUILDER: &str = "2";

/// Raised whenever more is noted of a result than before: it is collected anew from what its steps have made.
const COLLECTOR: &str = "2";

/// The last node of a chain.
pub(super) const COLLECT: &str = "collect";

/// The paths of the workspace that the programs made from it depend on.
const WORKSPACE_INPUTS: [&str; 5] = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "runtime", "LICENSE"];

/// The tools whose versions a bundle's manifest names.
const COMPILERS: [&str; 5] = ["cc", "go", "node", "rust", "zig"];

/// What a crossed step depends on beside the machine: the platform that it is made for.
const TARGET: &str = "target";

/// The platform that the result at the end of this chain was crossed to; none where it was not.
pub fn crossed_to(chain: &Chain) -> Option<&str> {
    chain.0.iter().find_map(|link| link.parts.0.get(TARGET)).map(String::as_str)
}

/// The name of a step's node in a chain.
pub(super) fn node_of_step(step: &Step) -> String {
    format!("step {}", step.name)
}

/// Computes what nodes depend on.
pub(super) struct Keys<'a> {
    planner: &'a Planner<'a>,
    /// A hash over the fixed environment of all build commands.
    environment: String,
}

impl<'a> Keys<'a> {
    pub(super) fn new(planner: &'a Planner<'a>) -> Self {
        Self { planner, environment: hash(&environment::fixed(planner.dirs)) }
    }

    /// The nodes of a component's chain with what each depends on, and the compilers among that.
    pub(super) fn links(
        &self,
        recipe: &Recipe,
        material: Material<'_>,
    ) -> anyhow::Result<(Vec<Link>, BTreeMap<String, String>)> {
        let link = |node: String, parts| Link { node, parts };
        let mut links = vec![link("unpack".to_owned(), self.source(material)?)];
        if !recipe.patches.is_empty() {
            links.push(link("patch".to_owned(), self.patches(recipe)?));
        }
        let mut toolchain = BTreeMap::new();
        for step in &recipe.steps {
            let tools = self.tools(recipe, step, material);
            toolchain.extend(
                tools.iter().filter(|(name, _)| COMPILERS.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())),
            );
            links.push(link(node_of_step(step), self.step(step, material, tools)));
        }
        links.push(link(COLLECT.to_owned(), self.collect(recipe, material)?));
        Ok((links, toolchain))
    }

    /// What identifies the source: an archive's hash, or one over a folder's content.
    fn source(&self, material: Material<'_>) -> anyhow::Result<Parts> {
        let hash = match material {
            Material::Workspace => hash_workspace(self.planner.workspace)?,
            Material::Locked(source) => match source.origin() {
                Origin::Archive { sha256 } => sha256.to_owned(),
                Origin::Folder(path) => hash_folder(&self.planner.stack.root.join(path))?,
            },
        };
        let mut parts = Parts::default();
        parts.add("source", hash);
        parts.add("builder", BUILDER);
        Ok(parts)
    }

    fn patches(&self, recipe: &Recipe) -> anyhow::Result<Parts> {
        let mut parts = Parts::default();
        for patch in &recipe.patches {
            let path = self.planner.stack.patch_path(recipe, patch);
            let hash = fingerprint::hash_file(&path).kind(Kind::Usage, || format!("cannot read {}", path.display()))?;
            parts.add(format!("patches/{}/{patch}", recipe.name), hash);
        }
        parts.add("order of patches", hash(&recipe.patches.join("\n")));
        Ok(parts)
    }

    fn step(&self, step: &Step, material: Material<'_>, tools: BTreeMap<String, String>) -> Parts {
        let mut parts = Parts(tools);
        // What a step takes of the machine changes nothing of what it makes.
        let mut plain = step.clone();
        (plain.memory_mb, plain.cores) = (None, None);
        parts.add("recipe", hash(&format!("{plain:?}")));
        parts.add("environment", &*self.environment);
        parts.add("platform", format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH));
        if let Some(target) = self.planner.target.part(step) {
            parts.add(TARGET, target);
        }
        if let Material::Locked(source) = material {
            parts.add("version", &*source.version);
        }
        for (name, value) in environment::settings(&step.action()) {
            parts.add(name, if value.len() < 24 { value } else { hash(&value) });
        }
        parts
    }

    fn collect(&self, recipe: &Recipe, material: Material<'_>) -> anyhow::Result<Parts> {
        let mut parts = Parts::default();
        parts.add("collector", COLLECTOR);
        parts.add("[[install]]", hash(&format!("{:?}", recipe.installs)));
        parts.add("account", account::VERSION);
        if recipe.steps.iter().any(|step| matches!(step.action(), Action::Node(_))) {
            parts.add("account of npm packages", account::npm::VERSION);
        }
        let folder = self.planner.stack.root.join("recipes").join(&recipe.name);
        if folder.is_dir() {
            parts.add(format!("recipes/{}/", recipe.name), hash_folder(&folder)?);
        }
        if let Material::Locked(source) = material {
            parts.add("license-files", hash(&format!("{:?}", source.license_files)));
        }
        Ok(parts)
    }

    /// The tools that a step uses, with the versions that this machine gives them.
    fn tools(&self, recipe: &Recipe, step: &Step, material: Material<'_>) -> BTreeMap<String, String> {
        let host = self.planner.host;
        let mut tools = BTreeMap::new();
        let mut add = |name: &str, version: Option<String>| {
            tools.insert(name.to_owned(), version.unwrap_or_else(|| "missing".to_owned()));
        };
        let version_of = |name: &str| host.tool(name).map(|tool| tool.version);
        match step.action() {
            Action::Go(_) => {
                let pinned = recipe.toolchain.go.as_deref().map(go_toolchain);
                add("go", pinned.map(|word| word.trim_start_matches("go").to_owned()));
                if step.env.get("CGO_ENABLED").is_some_and(|value| value == "1") {
                    add("cc", version_of("cc"));
                }
            }
            Action::Node(_) => {
                add("node", toolchain::node_version(recipe, host));
                // Whether the source brings a package manager of its own shows only when it is unpacked.
                add("npm", host.npm_version());
            }
            Action::Autotools(_) => {
                match toolchain::zig(recipe) {
                    Some(zig) => {
                        let glibc = zig.glibc.as_deref().unwrap_or_default();
                        add("zig", Some(format!("{} for glibc {glibc}", zig.version)));
                    }
                    None => add("cc", version_of("cc")),
                }
                add("make", version_of("make"));
                if super::may_need_bootstrap(self.planner.stack, recipe) {
                    for tool in &recipe.needs.bootstrap_tools {
                        add(tool, host.identity(tool));
                    }
                }
            }
            // The workspace's compiler is the one that rust-toolchain.toml pins, which is part of its source; only another
            // one by the environment is worth a word.
            Action::Cargo(_) if matches!(material, Material::Workspace) => add("rust", Some(workspace_rust())),
            Action::Cargo(_) => add("rust", version_of("rustc")),
            // It is this program that writes it.
            Action::Manual => add("manual", Some(crate::manual::identity())),
        }
        if let (Action::Cargo(_), Some(zig)) = (step.action(), self.planner.target.zig_of(recipe, step)) {
            add("zig", Some(zig.version.clone()));
        }
        for tool in &recipe.needs.tools {
            add(tool, version_of(tool));
        }
        tools
    }
}

fn workspace_rust() -> String {
    let pinned = env!("CARGO_PKG_RUST_VERSION");
    match std::env::var("RUSTUP_TOOLCHAIN") {
        Ok(other) if !other.starts_with(pinned) => other,
        _ => pinned.to_owned(),
    }
}

fn hash(text: &str) -> String {
    fingerprint::hex(&Sha256::digest(text))
}

fn hash_folder(folder: &Path) -> anyhow::Result<String> {
    fingerprint::hash_source(folder, source_files(folder))
}

fn hash_workspace(root: &Path) -> anyhow::Result<String> {
    let files = WORKSPACE_INPUTS.iter().map(|name| root.join(name)).filter(|path| path.exists());
    fingerprint::hash_source(root, files.flat_map(|path| source_files(&path).collect::<Vec<_>>()))
}
