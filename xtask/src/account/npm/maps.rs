//! Source maps: which files a bundler has put into the pages.

use super::{MODULES, Place};
use crate::error::{Kind, WithKind as _};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Component, Path, PathBuf};
use walkdir::WalkDir;

/// How much of a map is read at once.
const PIECE: usize = 64 * 1024;

/// A source map, as far as it matters.
#[derive(Deserialize)]
struct Map {
    #[serde(default)]
    sources: Vec<Option<String>>,
}

/// The packages that the source maps of the pages name; `package` tells which one a source belongs to, given the folder of the map.
///
/// # Errors
/// When a map cannot be read.
pub fn named<T: Ord + Send>(place: &Place, package: impl Fn(&str, &Path) -> Option<T> + Sync) -> anyhow::Result<BTreeSet<T>> {
    let mut maps = BTreeSet::new();
    for entry in place.built.iter().flat_map(WalkDir::new).flatten() {
        let inside = entry.path().components().any(|part| part == Component::Normal(MODULES.as_ref()));
        if entry.file_type().is_file() && entry.path().extension().is_some_and(|ending| ending == "map") && !inside {
            maps.insert(entry.into_path());
        }
    }
    let maps: Vec<PathBuf> = maps.into_iter().collect();
    let named = crate::parallel::each_on(crate::parallel::cores(), &maps, |path| {
        let Some(map) = read(path).kind(Kind::Stage, || format!("cannot read {}", path.display()))? else {
            return Ok(BTreeSet::new());
        };
        let base = path.parent().unwrap_or(&place.root);
        let packages = map.sources.iter().flatten().filter_map(|source| {
            // What stands behind these are loaders' words and hashes.
            package(source.split(['?', '|']).next().unwrap_or(source), base)
        });
        Ok(packages.collect::<BTreeSet<_>>())
    })?;
    Ok(named.into_iter().flatten().collect())
}

/// Reads a map, without what is of no use here in memory: maps hold the sources themselves. None where it is no source map: not
/// everything that is called so is one.
fn read(path: &Path) -> io::Result<Option<Map>> {
    match serde_json::from_reader(BufReader::with_capacity(PIECE, File::open(path)?)) {
        Ok(map) => Ok(Some(map)),
        Err(error) if error.is_io() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// A source's path, and whether it was given as an address: `webpack://name/./node_modules/x` counts from the folder that the
/// bundler works in, others from the map itself.
pub fn path_of(source: &str) -> (&str, bool) {
    match source.split_once("://") {
        Some((_, rest)) => (rest.split_once('/').map_or(rest, |(_, path)| path), true),
        None => (source, false),
    }
}
