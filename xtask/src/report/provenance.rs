//! Provenance: an in-toto statement with SLSA's predicate, on which archives were made from what, by which commands.
//!
//! Everything but `runDetails` follows from the inputs: two builds of the same archive, wherever, differ there alone, by who
//! built (and where commands say how many jobs ran at once). No time is told, so that the same release can be made again. It lies
//! beside the archive, since it names the archive's hash.

use crate::build::Session;
use crate::environment;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint;
use crate::stage::Piece;
use crate::store::Ran;
use dkumonitor_interface::manifest::{Component, Manifest, SourceId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What kind of build it was; docs/accounts.md says what the parameters mean.
const BUILD_TYPE: &str = "urn:dkumonitor:package:v1";

/// Who built, where nobody else says so.
const BUILDER: &str = "urn:dkumonitor:xtask";

/// An archive, or a file beside it.
pub struct Output {
    /// Its file name.
    pub name: String,
    /// Of its content.
    pub sha256: String,
}

/// What was made, and of what.
pub struct Making<'a> {
    /// The run's folders, stack and machine.
    pub session: &'a Session<'a>,
    /// The bundle's manifest, files not needed.
    pub manifest: &'a Manifest,
    /// The components with their results.
    pub pieces: &'a [Piece<'a>],
    /// The time that files carry, in seconds since 1970.
    pub epoch: u64,
    /// The policy of licences.
    pub policy: &'a Path,
    /// The archives.
    pub archives: Vec<Output>,
    /// What else was made.
    pub byproducts: Vec<Output>,
}

/// The statement as it is written down.
///
/// # Errors
/// When an input cannot be read again.
pub fn write(making: &Making<'_>) -> anyhow::Result<Vec<u8>> {
    let outputs = |outputs: &[Output]| -> Vec<Value> {
        outputs.iter().map(|one| json!({ "name": one.name, "digest": { "sha256": one.sha256 } })).collect()
    };
    let manifest = making.manifest;
    let components: Vec<&str> = manifest.components.iter().map(|one| one.name.as_str()).collect();
    let (builder, invocation) = builder(&|name| std::env::var(name).ok());
    let mut statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": outputs(&making.archives),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "stack": manifest.stack,
                    "version": manifest.version,
                    "components": components,
                    "sourceDateEpoch": making.epoch,
                },
                "internalParameters": {
                    "platform": format!("{}-{}", manifest.platform.os, manifest.platform.arch),
                    "environment": environment(making),
                    "commands": commands(making.pieces),
                },
                "resolvedDependencies": inputs(making)?,
            },
            "runDetails": {
                "builder": { "id": builder, "version": { "xtask": env!("CARGO_PKG_VERSION") } },
                "byproducts": outputs(&making.byproducts),
            },
        },
    });
    if let Some(invocation) = invocation {
        statement["predicate"]["runDetails"]["metadata"] = json!({ "invocationId": invocation });
    }
    let mut text = serde_json::to_vec_pretty(&statement)?;
    text.push(b'\n');
    Ok(text)
}

/// How the name of a statement ends.
pub const ENDING: &str = ".provenance.json";

/// A statement whose archives have become other ones since, by a signature that was put into them: `sha256` knows the archives as
/// they are now, by name.
///
/// # Errors
/// When it is no statement.
pub fn restated(text: &[u8], sha256: &dyn Fn(&str) -> anyhow::Result<Option<String>>) -> anyhow::Result<Vec<u8>> {
    let mut statement: Value = serde_json::from_slice(text)?;
    for subject in statement["subject"].as_array_mut().into_iter().flatten() {
        if let Some(found) = subject["name"].as_str().map(sha256).transpose()?.flatten() {
            subject["digest"]["sha256"] = json!(found);
        }
    }
    let mut text = serde_json::to_vec_pretty(&statement)?;
    text.push(b'\n');
    Ok(text)
}

/// Who builds, and which of its runs this is.
fn builder(variable: &dyn Fn(&str) -> Option<String>) -> (String, Option<String>) {
    let of_github = || {
        let (server, workflow) = (variable("GITHUB_SERVER_URL")?, variable("GITHUB_WORKFLOW_REF")?);
        let (repository, run) = (variable("GITHUB_REPOSITORY")?, variable("GITHUB_RUN_ID")?);
        let attempt = variable("GITHUB_RUN_ATTEMPT").unwrap_or_else(|| "1".to_owned());
        Some((format!("{server}/{workflow}"), Some(format!("{server}/{repository}/actions/runs/{run}/attempts/{attempt}"))))
    };
    of_github().unwrap_or_else(|| (BUILDER.to_owned(), None))
}

/// The fixed environment of all commands.
fn environment(making: &Making<'_>) -> BTreeMap<String, String> {
    let text = environment::fixed(making.session.dirs);
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The commands by component, in order.
fn commands(pieces: &[Piece<'_>]) -> BTreeMap<String, Vec<Ran>> {
    pieces.iter().map(|piece| (piece.component.recipe.name.clone(), piece.record.commands.clone())).collect()
}

/// Everything that went in.
fn inputs(making: &Making<'_>) -> anyhow::Result<Vec<Value>> {
    let (stack, workspace) = (making.session.stack, making.session.workspace);
    let mut inputs: Vec<Value> = commit(workspace).into_iter().collect();
    let file = |path: PathBuf| -> anyhow::Result<Value> {
        let sha256 = fingerprint::hash_file(&path).kind(Kind::Archive, || format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(&stack.root).or_else(|_| path.strip_prefix(workspace)).unwrap_or(&path);
        Ok(json!({ "name": name, "digest": { "sha256": sha256 } }))
    };
    inputs.push(file(stack.root.join("vendor.lock"))?);
    inputs.push(file(making.policy.to_owned())?);
    for piece in making.pieces {
        let name = &piece.component.recipe.name;
        inputs.push(file(stack.root.join("recipes").join(format!("{name}.toml")))?);
    }
    let mut tools: BTreeMap<String, Value> = BTreeMap::new();
    for component in &making.manifest.components {
        inputs.extend(of_component(component));
        for (tool, version) in &component.toolchain {
            let uri = crate::account::purl("generic", tool, version);
            tools.insert(uri.clone(), json!({ "name": format!("toolchain {tool} {version}"), "uri": uri }));
        }
    }
    inputs.extend(tools.into_values());
    Ok(inputs)
}

/// A component's source and patches.
fn of_component(component: &Component) -> Vec<Value> {
    let source = match &component.source {
        SourceId::Archive { sha256, url, .. } => {
            json!({ "name": format!("source {}", component.name), "uri": url, "digest": { "sha256": sha256 } })
        }
        // Not the hash of a file: that of a folder, as the builder computes it.
        SourceId::Tree { path, tree_sha256 } => {
            json!({ "name": format!("source {} in {path}", component.name), "digest": { "dkumonitorTree": tree_sha256 } })
        }
    };
    let patches = component.patches.iter().map(
        |patch| json!({ "name": format!("patches/{}/{}", component.name, patch.name), "digest": { "sha256": patch.sha256 } }),
    );
    std::iter::once(source).chain(patches).collect()
}

/// The commit of the repository, where it is one, and whether files differ from it.
fn commit(workspace: &Path) -> Option<Value> {
    let shell = xshell::Shell::new().ok()?;
    let ask = |words: &[&str]| {
        let command = xshell::cmd!(shell, "git -C {workspace} {words...}").quiet().ignore_stderr();
        command.read().ok()
    };
    let commit = ask(&["rev-parse", "--verify", "HEAD"])?;
    let algorithm = if commit.len() == 40 { "gitCommit" } else { "gitCommitSha256" };
    let is_dirty = ask(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    Some(json!({ "name": "repository", "digest": { algorithm: commit }, "annotations": { "changed": is_dirty } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builder_is_named_by_who_runs_it() {
        assert_eq!(builder(&|_| None), (BUILDER.to_owned(), None));
        let (id, run) = builder(&|name| match name {
            "GITHUB_SERVER_URL" => Some("https://example.org".to_owned()),
            "GITHUB_WORKFLOW_REF" => Some("o/r/.github/workflows/release.yml@refs/tags/v1".to_owned()),
            "GITHUB_REPOSITORY" => Some("o/r".to_owned()),
            "GITHUB_RUN_ID" => Some("7".to_owned()),
            _ => None,
        });
        assert_eq!(id, "https://example.org/o/r/.github/workflows/release.yml@refs/tags/v1");
        assert_eq!(run.as_deref(), Some("https://example.org/o/r/actions/runs/7/attempts/1"));
    }
}
