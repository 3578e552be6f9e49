//! The bundle's manifest, from the plan and the results.

use super::{Bundle, Piece};
use crate::elf::Version;
use crate::error::Kind;
use crate::fingerprint::{Entry, EntryKind};
use crate::report::papers::Sequence;
use crate::stack::Material;
use crate::stack::lock::Origin;
use dkumonitor_interface::manifest::{self, Component, FileEntry, FileKind, Manifest, Platform, SourceId};
use dkumonitor_interface::service::Service;
use serde::Serialize;
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

/// A manifest as it is written, its files made while they are.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Written<'a, F> {
    schema: u32,
    name: &'a str,
    stack: &'a Option<String>,
    version: &'a str,
    platform: &'a Platform,
    components: &'a [Component],
    services: &'a [Service],
    files: F,
}

/// The manifest of this head with these entries, which [`check`] has looked at, as its files.
pub(super) fn whole<'a>(head: &'a Manifest, entries: &'a [Entry]) -> impl Serialize + 'a {
    // All of them by name: one that is new has to be written too.
    let Manifest { schema, name, stack, version, platform, components, services, files: _ } = head;
    let files = Sequence(move || entries.iter().map(file_entry));
    Written { schema: *schema, name, stack, version, platform, components, services, files }
}

/// Sorts the entries of a bundle by path, as text, and checks that a manifest can have them. Each comes with the number of the one that brings it:
/// 0 for the builder itself, or that of a piece, counted from 1.
///
/// # Errors
/// [`Kind::Stage`] when two components bring the same path, or a name is not UTF-8.
pub(super) fn check(pieces: &[Piece<'_>], mut entries: Vec<(Entry, usize)>) -> anyhow::Result<Vec<Entry>> {
    entries.sort_by(|(a, whose), (b, others)| a.path.as_os_str().cmp(b.path.as_os_str()).then(whose.cmp(others)));
    if let Some([(entry, one), (_, other)]) = entries.array_windows().find(|[(a, _), (b, _)]| a.path == b.path) {
        let name = |at: usize| match at {
            0 => "the builder itself",
            at => pieces[at - 1].component.recipe.name.as_str(),
        };
        return Err(Kind::Stage.error(format!(
            "{} comes from both {} and {}; mend [[install]] in one of their recipes",
            entry.path.display(),
            name(*one),
            name(*other)
        )));
    }
    entries.iter().try_for_each(|(entry, _)| file_entry(entry).map(drop))?;
    Ok(entries.into_iter().map(|(entry, _)| entry).collect())
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
