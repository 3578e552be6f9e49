//! Fetches the pinned source archives into the store below the build folder.
//!
//! Promises: an archive is in the store only when its size and sha256 are those of the lock; it gets there by one rename
//! of a file that is whole and synced. What is in the store needs no network, and no client is built then. Addresses are
//! tried in turn, mirrors first; whatever can pass by itself is tried again with growing pauses, a download that was cut
//! goes on where it stopped if the server vouches that the file is the same. All sources are tried before a failure is
//! reported, and the report has every address with its reason. A wrong file is kept as evidence, with a guess at what it is.
//!
//! The store holds, for a pin of sha256 `H`: `H.tar.gz` (or the archive's own ending), `H.tar.gz.ok` (a fingerprint that
//! saves hashing again, see [`store`]), while it is downloaded `H.part` with `H.part.json` (see [`http`]), and while it is
//! copied from this machine `H.copy`.
//!
//! Left to others: what is pinned ([`crate::stack::lock`]), and what is in an archive ([`crate::unpack`]). Two runs in
//! one build folder must be kept apart by the caller.

mod account;
mod address;
mod evidence;
pub mod http;
mod reach;
mod store;
mod unpinned;

pub use address::{Mirror, shown};
pub use unpinned::{Unhad, Unpinned};

#[cfg(test)]
pub(crate) mod tests;

use crate::progress::{Step, Ui, bytes};
use crate::stack::lock::{Origin, Source, archive_ending};
use account::{Failed, Failure, report};
use address::{Address, addresses};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use store::{State, Store};

/// How patient a fetch is. The defaults suit people; tests shorten them.
#[derive(Clone, Debug)]
pub struct Retry {
    /// How often one address is tried when nothing arrives. Tries that brought the file further do not count.
    pub attempts: u32,
    /// The pause after the first try; it doubles each time and varies by a quarter, so that many builders do not come
    /// back at the same instant.
    pub first_pause: Duration,
    /// No pause is longer. A server that asks (`Retry-After`) for more is left for the next address.
    pub longest_pause: Duration,
    /// Without a byte for so long, a try has failed.
    pub stall: Duration,
    /// A host that cannot be connected to for so long (name query included) is taken as unreachable.
    pub connect: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            stall: Duration::from_secs(20),
            connect: Duration::from_secs(8),
        }
    }
}

/// Where and how to fetch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store, usually `build/sources`. Made when missing.
    pub store: PathBuf,
    /// Where wrong downloads are kept, usually `build/rejected`.
    pub rejected: PathBuf,
    /// Asked first, in this order.
    pub mirrors: Vec<Mirror>,
    /// Use the store and mirror folders only.
    pub offline: bool,
    /// How many sources are fetched at a time.
    pub jobs: usize,
    /// How patient to be.
    pub retry: Retry,
}

/// The pinned archive of a source.
#[derive(Clone, Copy)]
struct Pin<'a> {
    source: &'a Source,
    sha256: &'a str,
}

impl<'a> Pin<'a> {
    fn of(source: &'a Source) -> Option<Self> {
        match source.origin() {
            Origin::Archive { sha256 } => Some(Self { source, sha256 }),
            Origin::Folder(_) => None,
        }
    }

    /// The name of the archive in the store.
    fn file_name(&self) -> String {
        let ending = self.source.urls.iter().map(|url| archive_ending(url)).find(|ending| !ending.is_empty()).unwrap_or("");
        format!("{}{ending}", self.sha256)
    }
}

/// The archive of a source, if the store has it whole and right. Cheap when the store was not touched since it was
/// fetched; else the archive is hashed. Nothing for sources that are folders.
pub fn stored(source: &Source, store: &Path) -> Option<PathBuf> {
    let pin = Pin::of(source)?;
    match Store::at(store).check(&pin) {
        State::Whole(path) => Some(path),
        State::Missing | State::Damaged(..) => None,
    }
}

/// Checks the archives in the store that these sources are pinned to. What is damaged is told and thrown away.
///
/// # Errors
/// When a damaged archive cannot be removed.
pub fn verify(sources: &[&Source], store: &Path, ui: &Ui) -> anyhow::Result<()> {
    let store = Store::at(store);
    for pin in sources.iter().filter_map(|source| Pin::of(source)) {
        if let State::Damaged(path, why) = store.check(&pin) {
            throw_away(&store, &pin, &path, &why, ui)?;
        }
    }
    Ok(())
}

fn throw_away(store: &Store, pin: &Pin<'_>, path: &Path, why: &str, ui: &Ui) -> anyhow::Result<()> {
    ui.line(&format!("  ! {} {}: {} {why}; thrown away", pin.source.name, pin.source.version, path.display()));
    store.throw_away(path)
}

/// Forgets that the archives in the store were found right: each is hashed before it is used again.
pub fn forget_fingerprints(store: &Path) {
    for path in store.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|ending| ending == "ok") {
            // One that stays is believed as before.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Fetches the archives of all `sources` that are not in the store yet; sources that are folders are passed over. Gives
/// the archives by the sources' names.
///
/// # Errors
/// When any source could not be had, after all were tried: [`Kind::Integrity`] if one of them failed only because what
/// came was wrong, else [`Kind::Fetch`].
pub fn fetch_all(sources: &[&Source], options: &Options, ui: &Ui) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    fetch_each(sources, options, ui, &|_, _| ())
}

/// As [`fetch_all`], and tells of each archive as soon as it is there.
///
/// # Errors
/// Those of [`fetch_all`].
pub fn fetch_each(
    sources: &[&Source],
    options: &Options,
    ui: &Ui,
    arrived: &(dyn Fn(&Source, &Path) + Sync),
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let store = Store::at(&options.store);
    store.make()?;
    let pins: Vec<Pin<'_>> = sources.iter().filter_map(|source| Pin::of(source)).collect();
    // Several names may be pinned to the same bytes.
    let arrived = |sha256: &str, path: &Path| {
        pins.iter().filter(|pin| pin.sha256 == sha256).for_each(|pin| arrived(pin.source, path));
    };
    let mut have: BTreeMap<&str, PathBuf> = BTreeMap::new();
    let mut missing: VecDeque<Pin<'_>> = VecDeque::new();
    for pin in &pins {
        if have.contains_key(pin.sha256) || missing.iter().any(|known| known.sha256 == pin.sha256) {
            continue;
        }
        match store.check(pin) {
            State::Whole(path) => {
                arrived(pin.sha256, &path);
                have.insert(pin.sha256, path);
            }
            State::Missing => missing.push_back(*pin),
            State::Damaged(path, why) => {
                throw_away(&store, pin, &path, &why, ui)?;
                missing.push_back(*pin);
            }
        }
    }
    if !missing.is_empty() {
        have.extend(fetch_missing(missing, &store, options, ui, &arrived)?);
    }
    let path = |pin: &Pin<'_>| Some((pin.source.name.clone(), have.get(pin.sha256)?.clone()));
    Ok(pins.iter().filter_map(path).collect())
}

/// Fetches what the store lacks, several sources at a time.
fn fetch_missing<'a>(
    missing: VecDeque<Pin<'a>>,
    store: &Store,
    options: &Options,
    ui: &Ui,
    arrived: &(dyn Fn(&str, &Path) + Sync),
) -> anyhow::Result<BTreeMap<&'a str, PathBuf>> {
    let count = missing.len();
    let mut urls: Vec<reqwest::Url> = Vec::new();
    for pin in missing.iter().filter(|_| !options.offline) {
        urls.extend(addresses(pin.source, &options.mirrors).into_iter().filter_map(|address| match address {
            Address::Url(url) => Some(url),
            _ => None,
        }));
    }
    let network = http::Network::new(&options.retry, urls, http::refuse_downgrade);
    evidence::tidy(&options.rejected);
    let queue = Mutex::new(missing);
    let results = Mutex::new((BTreeMap::new(), Vec::new()));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, count) {
            scope.spawn(|| {
                while let Some(pin) = next() {
                    let step = ui.step(&pin.source.name, "fetch");
                    let result = Fetch { pin: &pin, store, options, network: &network, step: &step }.run();
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok((path, note)) => {
                            step.done(&note);
                            arrived(pin.sha256, &path);
                            results.0.insert(pin.sha256, path);
                        }
                        Err(tries) => {
                            let failed = Failed { source: pin.source, tries };
                            // Hosts that cannot be reached are said once, by the report.
                            if !failed.is_unreachable() {
                                step.fail(&failed.summary());
                            }
                            results.1.push(failed);
                        }
                    }
                }
            });
        }
    });
    let (have, mut failed) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() {
        return Ok(have);
    }
    failed.sort_by(|a, b| a.source.name.cmp(&b.source.name));
    let (kind, text) = report(&failed, count, options);
    // Without a way out of this machine no minute should go by before that is said.
    let hopeless = have.is_empty() && failed.iter().all(Failed::is_unreachable);
    Err(if hopeless { kind.hopeless(text) } else { kind.error(text) })
}

/// The fetching of one source.
struct Fetch<'a> {
    pin: &'a Pin<'a>,
    store: &'a Store,
    options: &'a Options,
    network: &'a http::Network,
    step: &'a Step,
}

impl Fetch<'_> {
    /// Tries each address in turn. Gives the archive and a note on where it came from, or what each address said.
    fn run(&self) -> Result<(PathBuf, String), Vec<(String, Failure)>> {
        self.step.length(self.pin.source.size);
        let mut tries: Vec<(String, Failure)> = Vec::new();
        for address in addresses(self.pin.source, &self.options.mirrors) {
            let shown = address.shown();
            self.step.message(&shown);
            match self.address(&address) {
                Ok(path) => {
                    let note = self.note(&shown, &tries, &path);
                    return Ok((path, note));
                }
                Err(failure) => {
                    let local = matches!(failure, Failure::Local(_));
                    tries.push((shown, failure));
                    if local {
                        break;
                    }
                }
            }
        }
        Err(tries)
    }

    /// What is said when the archive came: from where, and what went wrong before.
    fn note(&self, from: &str, tries: &[(String, Failure)], path: &Path) -> String {
        let size = path.metadata().map_or(0, |data| data.len());
        let mut note = format!("{}, {} from {from}", self.pin.source.version, bytes(size));
        let repacked = evidence::repacked(tries, path);
        for (address, failure) in tries {
            if let Failure::Wrong { what, .. } = failure {
                let same = repacked.contains(&address.as_str());
                let what = if same { "has the same tree, but packs it differently" } else { what };
                note += &format!("; {address} {what}");
            }
        }
        note
    }

    fn address(&self, address: &Address) -> Result<PathBuf, Failure> {
        match address {
            Address::Folder(folder) => self.folder(folder),
            Address::File(path) => self.file(path),
            Address::Url(_) if self.options.offline => Err(Failure::Offline),
            Address::Url(url) => self.url(url),
            Address::Bad(_, why) => Err(Failure::Refused(why.clone())),
        }
    }

    /// Downloads the archive, and checks what has come in full.
    fn url(&self, url: &reqwest::Url) -> Result<PathBuf, Failure> {
        let download = http::Download::new(self.network, url, self.step)?.pinned(self.pin);
        let mut part = self.store.part(self.pin).map_err(Failure::local)?;
        download.run(&mut part)?;
        if self.pin.source.size.is_none_or(|size| size == part.length()) && part.sha256() == self.pin.sha256 {
            return self.store.accept(self.pin, &part).map_err(Failure::local);
        }
        Err(evidence::keep(part, url, &self.options.rejected, self.pin))
    }

    /// Looks the archive up in a mirror folder, by its names and by its hash.
    fn folder(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let entries = folder.read_dir().map_err(|error| Failure::Absent(format!("cannot be read: {error}")))?;
        let mut names = self.pin.source.file_names();
        let by_hash = format!("{}.", self.pin.sha256);
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name == self.pin.sha256
                || (name.starts_with(&by_hash)
                    && ![".ok", ".part", ".part.json", ".copy"].iter().any(|ending| name.ends_with(ending)));
            if ours && !names.contains(&name) {
                names.insert(0, name);
            }
        }
        let mut wrong = None;
        for path in names.iter().map(|name| folder.join(name)).filter(|path| path.is_file()) {
            match self.file(&path) {
                Err(failure @ Failure::Wrong { .. }) => wrong = wrong.or(Some(failure)),
                other => return other,
            }
        }
        Err(wrong.unwrap_or_else(|| Failure::Absent(format!("has none of {}, {}.*", names.join(", "), self.pin.sha256))))
    }

    /// Takes an archive from this machine.
    fn file(&self, path: &Path) -> Result<PathBuf, Failure> {
        let mut from = std::fs::File::open(path).map_err(|error| Failure::Absent(format!("cannot be read: {error}")))?;
        let size = from.metadata().map_err(|error| Failure::Absent(format!("cannot be read: {error}")))?.len();
        if self.pin.source.size.is_none_or(|pinned| pinned == size) {
            let mut copy = self.store.copy(self.pin).map_err(Failure::local)?;
            let copied = copy.copy_all(&mut from, |count| self.step.position(count));
            if copied.is_ok() && copy.sha256() == self.pin.sha256 {
                return self.store.accept(self.pin, &copy).map_err(Failure::local);
            }
            copy.discard();
            copied.map_err(Failure::local)?;
        }
        let what = format!("{} {}", path.display(), evidence::diagnose(path, size, self.pin, &self.options.rejected));
        Err(Failure::Wrong { what, evidence: path.to_owned() })
    }
}
