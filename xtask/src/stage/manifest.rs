//! The bundle's manifest, from the plan and the results.

use super::{Bundle, Piece};
use crate::elf::Version;
use crate::error::Kind;
use crate::fingerprint::{Entry, EntryKind};
use crate::stack::Material;
use crate::stack::lock::Origin;
use dkumonitor_interface::manifest::{self, Component, FileEntry, FileKind, Manifest, Platform, SourceId};
use std::collections::BTreeMap;
use std::path::Path;

/// The manifest without its files.
///
/// # Errors
/// None that can come about with a plan that was made.
pub(super) fn head(bundle: &Bundle<'_>, pieces: &[Piece<'_>]) -> Manifest {
    let floors = pieces.iter().filter_map(|piece| piece.record.glibc.as_ref()?.parse::<Version>().ok());
    let glibc = floors.max().map(|floor| floor.to_string());
    Manifest {
        schema: manifest::SCHEMA,
        name: "dkumonitor".to_owned(),
        stack: bundle.stack.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        platform: Platform { glibc, ..bundle.target.platform() },
        components: pieces.iter().map(component).collect(),
        services: pieces.iter().filter_map(|piece| piece.component.recipe.service.clone()).collect(),
        files: Vec::new(),
    }
}

/// The files of a manifest, sorted. `entries` has those of each piece, `own` what no component brings.
///
/// # Errors
/// [`Kind::Stage`] when two components bring the same path, or a name is not UTF-8.
pub(super) fn files(pieces: &[Piece<'_>], entries: &[Vec<Entry>], own: &[Entry]) -> anyhow::Result<Vec<FileEntry>> {
    let mut owners: BTreeMap<&Path, &str> = BTreeMap::new();
    let mut files = Vec::new();
    let names = pieces.iter().map(|piece| piece.component.recipe.name.as_str());
    let of_components = names.zip(entries.iter().map(Vec::as_slice));
    for (name, entries) in std::iter::once(("the builder itself", own)).chain(of_components) {
        for entry in entries {
            if let Some(other) = owners.insert(&entry.path, name) {
                return Err(Kind::Stage.error(format!(
                    "{} comes from both {other} and {name}; mend [[install]] in one of their recipes",
                    entry.path.display()
                )));
            }
            files.push(file_entry(entry)?);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn file_entry(entry: &Entry) -> anyhow::Result<FileEntry> {
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Kind::Stage.error(format!("the name {} is not UTF-8 and cannot be in a bundle", path.display())))
    };
    let kind = match &entry.kind {
        EntryKind::File { size, mode, sha256 } => {
            FileKind::File { size: *size, mode: format!("{mode:04o}"), sha256: sha256.clone() }
        }
        EntryKind::Link { target } => FileKind::Link { target: text(target)? },
    };
    Ok(FileEntry { path: text(&entry.path)?, kind })
}

fn component(piece: &Piece<'_>) -> Component {
    let (planned, recipe, chain) = (piece.component, piece.component.recipe, &piece.record.chain);
    let part = |node: &str, name: &str| chain.parts(node).and_then(|parts| parts.0.get(name)).cloned().unwrap_or_default();
    let tree = |path: String| SourceId::Tree { path, tree_sha256: part("unpack", "source") };
    let (license, purl, source) = match planned.material {
        Material::Workspace => (env!("CARGO_PKG_LICENSE").to_owned(), None, tree(".".to_owned())),
        Material::Locked(source) => {
            let id = match source.origin() {
                Origin::Archive { sha256 } => SourceId::Archive {
                    sha256: sha256.to_owned(),
                    size: source.size,
                    url: source.urls.first().cloned().unwrap_or_default(),
                },
                Origin::Folder(path) => tree(path.display().to_string()),
            };
            (source.license.clone(), source.purl.clone(), id)
        }
    };
    let patch = |name: &String| manifest::Patch {
        name: name.clone(),
        sha256: part("patch", &format!("patches/{}/{name}", recipe.name)),
    };
    Component {
        name: recipe.name.clone(),
        version: planned.version().to_owned(),
        license,
        purl,
        source,
        patches: recipe.patches.iter().map(patch).collect(),
        toolchain: piece.record.toolchain.clone(),
        glibc: piece.record.glibc.clone(),
    }
}
