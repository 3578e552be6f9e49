//! An archive whose hash nobody knows yet, from every address that has it.
//!
//! [`crate::fetch`] takes only what is pinned; here the pin is about to be made. What the first address gives is trusted
//! for that (on first use), unless another one gives something else: then nothing is. No archive counts that cannot be
//! unpacked, so an error page is never pinned. Plain http counts from this very machine only.

use crate::error::{Kind, kind_of};
use crate::fetch::{Mirror, Retry, Unhad, Unpinned, shown};
use crate::progress::{Step, Ui, bytes};
use crate::stack::lock::{Source, tree_hash};
use crate::{cli, fingerprint, unpack};
use reqwest::Url;
use std::fs::File;
use std::path::{Path, PathBuf};

/// An archive that is now known.
pub(super) struct Archive {
    /// SHA-256 of the file.
    pub(super) sha256: String,
    /// Bytes.
    pub(super) size: u64,
    /// The file.
    pub(super) path: PathBuf,
    /// What it holds.
    pub(super) tree: PathBuf,
    /// [`tree_hash`] of that.
    pub(super) tree_sha256: String,
    /// The addresses that gave it.
    pub(super) from: Vec<String>,
}

/// Asks every address of `source` and every mirror; gives the archive that all who answered agree on, and what kept the
/// others from answering.
///
/// # Errors
/// [`Kind::Fetch`] when no address has it, [`Kind::Integrity`] when what came is no archive, or not everywhere the same.
pub(super) fn get(
    source: &Source,
    network: &cli::Network,
    scratch: &Path,
    ui: &Ui,
) -> anyhow::Result<(Archive, Vec<(String, String)>)> {
    let step = ui.step(&source.name, "fetch");
    step.announce();
    let places = places(source, network);
    let getter = Getter::new(network, &places);
    let mut archives: Vec<Archive> = Vec::new();
    let mut failed = Vec::new();
    let mut wrong = 0;
    for (at, place) in places.iter().enumerate() {
        let shown = place.shown();
        step.message(&shown);
        let path = scratch.join(format!("archive-{at}"));
        let (size, sha256) = match getter.copy(place, &path, &step) {
            Ok(came) => came,
            Err(Trouble::Disk(error)) => return Err(error),
            Err(Trouble::Address(why)) => {
                failed.push((shown, why));
                continue;
            }
        };
        if let Some(known) = archives.iter_mut().find(|known| known.sha256 == sha256) {
            known.from.push(shown);
            continue;
        }
        let tree = scratch.join(format!("tree-{at}"));
        match unpack::unpack(&path, &tree) {
            Ok(_) => {
                let tree_sha256 = tree_hash(&fingerprint::scan(&tree)?);
                archives.push(Archive { sha256, size, path, tree, tree_sha256, from: vec![shown] });
            }
            Err(error) if kind_of(&error) == Kind::Integrity => {
                wrong += 1;
                failed.push((shown, format!("gave no usable archive: {error:#}")));
            }
            Err(error) => return Err(error),
        }
    }
    match archives.len() {
        0 => Err(none(source, &failed, wrong, network.offline)),
        1 => {
            let archive = archives.remove(0);
            step.done(&format!("{}, {} from {}", source.version, bytes(archive.size), archive.from.join(", ")));
            Ok((archive, failed))
        }
        _ => Err(disagreement(source, &archives)),
    }
}

fn none(source: &Source, failed: &[(String, String)], wrong: usize, offline: bool) -> anyhow::Error {
    let kind = if wrong > 0 { Kind::Integrity } else { Kind::Fetch };
    let list: String = failed.iter().map(|(address, why)| format!("\n  {address}: {why}")).collect();
    let file = source.file_names().into_iter().next().unwrap_or_default();
    kind.error(format!(
        "cannot get {} {} from any address:{list}\nif the version is right, change the addresses in vendor.lock by hand \
         first, or give a folder that has {file} with --mirror FOLDER; {}",
        source.name,
        source.version,
        if offline { "or leave out --offline" } else { "behind a proxy set HTTPS_PROXY=http://HOST:PORT" }
    ))
}

fn disagreement(source: &Source, archives: &[Archive]) -> anyhow::Error {
    let list: String =
        archives.iter().map(|one| format!("\n  sha256 {}, {} bytes: {}", one.sha256, one.size, one.from.join(", "))).collect();
    let same = archives.iter().all(|one| one.tree_sha256 == archives[0].tree_sha256);
    let what = if same { "though what they unpack to is the same" } else { "and they unpack to different trees" };
    Kind::Integrity.error(format!(
        "cannot pin {} {}: the addresses give different archives, {what}:{list}\nleave the address that is not to be \
         trusted out of vendor.lock (or the mirror off the command line), and run this again",
        source.name, source.version
    ))
}

/// Where the archive may be.
enum Place {
    /// A mirror's folder, and the names that may be the archive's there.
    Folder(PathBuf, Vec<String>),
    File(PathBuf),
    Url(Url),
    /// One that is not asked, and why.
    Refused(String, String),
}

impl Place {
    fn parse(address: &str) -> Self {
        let refused = |why: &str| Self::Refused(address.to_owned(), why.to_owned());
        match Url::parse(address) {
            Ok(url) if url.scheme() == "file" => url.to_file_path().map_or_else(|()| refused("names no file"), Self::File),
            Ok(url) if Unpinned::is_safe(&url) => Self::Url(url),
            Ok(_) => refused("is not https: what it gives cannot be trusted without a hash"),
            Err(error) => refused(&format!("is no address: {error}")),
        }
    }

    /// For people, without what may be secret.
    fn shown(&self) -> String {
        match self {
            Self::Folder(path, _) | Self::File(path) => path.display().to_string(),
            Self::Url(url) => shown(url),
            Self::Refused(address, _) => address.clone(),
        }
    }
}

/// All places, mirrors first.
fn places(source: &Source, network: &cli::Network) -> Vec<Place> {
    // A tag's archive is called only by its version, as is that of any other project: without a hash a mirror's file is
    // taken only when its name has the source's.
    let mut names = source.file_names();
    names.retain(|name| name.to_lowercase().contains(&source.name));
    let mut all = Vec::new();
    for mirror in &network.mirrors {
        match mirror {
            Mirror::Folder(folder) => all.push(Place::Folder(folder.clone(), names.clone())),
            Mirror::Url(base) => all.extend(names.iter().map(|name| match Place::parse(base) {
                Place::Url(mut url) => {
                    if let Ok(mut parts) = url.path_segments_mut() {
                        parts.pop_if_empty().push(name);
                    }
                    Place::Url(url)
                }
                other => other,
            })),
        }
    }
    all.extend(source.urls.iter().map(|url| Place::parse(url)));
    all
}

/// What kept an address from giving the archive.
enum Trouble {
    Address(String),
    Disk(anyhow::Error),
}

/// The way to the network; none when offline.
struct Getter {
    http: Option<Unpinned>,
}

impl Getter {
    fn new(network: &cli::Network, places: &[Place]) -> Self {
        let urls = places.iter().filter_map(|place| match place {
            Place::Url(url) => Some(url.clone()),
            _ => None,
        });
        Self { http: (!network.offline).then(|| Unpinned::new(&Retry::default(), urls.collect())) }
    }

    /// Copies what is at `place` to `path`; gives its size and hash.
    fn copy(&self, place: &Place, path: &Path, step: &Step) -> Result<(u64, String), Trouble> {
        match place {
            Place::Refused(_, why) => Err(Trouble::Address(why.clone())),
            Place::File(from) => local(from, path),
            Place::Folder(folder, names) => match names.iter().map(|name| folder.join(name)).find(|from| from.is_file()) {
                Some(from) => local(&from, path),
                None => Err(Trouble::Address(format!("has none of {}", names.join(", ")))),
            },
            Place::Url(url) => {
                let Some(http) = &self.http else { return Err(Trouble::Address("not tried (--offline)".to_owned())) };
                http.get(url, path, step).map_err(|unhad| match unhad {
                    Unhad::Address(why) => Trouble::Address(why),
                    Unhad::Machine(why) => Trouble::Disk(Kind::Fetch.error(why)),
                })
            }
        }
    }
}

/// Copies a file of this machine.
fn local(from: &Path, to: &Path) -> Result<(u64, String), Trouble> {
    let unreadable = |error: std::io::Error| Trouble::Address(format!("cannot be read: {error}"));
    File::open(from).map_err(unreadable)?;
    let size = std::fs::copy(from, to)
        .map_err(|error| Trouble::Disk(anyhow::anyhow!("cannot copy {} to {}: {error}", from.display(), to.display())))?;
    Ok((size, fingerprint::hash_file(to).map_err(unreadable)?))
}
