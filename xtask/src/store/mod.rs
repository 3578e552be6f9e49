//! What was made: results by what they depend on, their content by its hash.
//!
//! ```text
//! build/store/objects/aa/<sha256>                      content; nothing but its hash names it
//! build/store/results/<component>/<slot>/<key>.json    a result: its key in words, and which objects it is
//! build/store/results/<component>/<slot>/<key>.seen    a hash over its objects' stamps, as they were when last hashed
//! build/store/drafts/                                  what is being written
//! build/store/working                                  there while a run works; see [`Store::begin`]
//! ```
//!
//! Promises: an object or record that has its final name is whole, since it was written beside and renamed. A record says
//! by a hash of its own that it is whole. Before a result is used its objects are checked ([`Store::check`]): cheaply by
//! their stamps, by hashing them where the stamps differ or none are known. What is damaged is thrown away, so that it is
//! made again, and the caller is told what it was. After a run that was killed, and after the machine was started anew, no
//! stamp is known any more: then everything is hashed before it is used again.
//!
//! Left to others: what a key covers ([`crate::plan`]), and that one run at a time works in a build folder.
//!
//! A result leaves and enters as one stream: [`Store::export`], [`Store::import`].

mod delta;
mod garbage;
mod object;
mod record;
mod scan;
mod transfer;
mod working;

pub use delta::{apply, pack};
pub use object::ObjectRef;
pub use record::{Content, Ran, Record, StepCost};
pub use scan::scan;

use crate::dirs;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{self, Entry, EntryKind};
use crate::parallel;
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far the clock of a file server may be ahead of this machine's.
const SKEW: Duration = Duration::from_secs(60);

/// The slot of a component's final result.
pub const FINAL: &str = "collect";

/// The slot of a step's result.
pub fn slot_of_step(step: &str) -> String {
    format!("step-{step}")
}

/// A result that was to be used is damaged. It can be made again.
#[derive(Debug)]
pub struct Damaged(pub String);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damaged {}

/// The store of a build folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store in this folder; nothing is made yet.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn results(&self) -> PathBuf {
        self.root.join("results")
    }

    fn slot(&self, component: &str, slot: &str) -> PathBuf {
        self.results().join(component).join(slot)
    }

    fn record_path(&self, component: &str, slot: &str, key: &str) -> PathBuf {
        self.slot(component, slot).join(format!("{key}.json"))
    }

    /// The file of a result's record.
    pub fn path_of(&self, record: &Record) -> PathBuf {
        self.record_path(&record.component, &record.slot, &record.chain.key())
    }

    /// A folder for what is being written; on the same file system as the objects.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn drafts(&self) -> anyhow::Result<PathBuf> {
        let path = self.root.join("drafts");
        fs::create_dir_all(&path).kind(Kind::Stage, || format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// The result of this key, if there is one. Its objects are not looked at.
    ///
    /// # Errors
    /// The reason why a record that is there cannot be used. It is replaced when the result is made again.
    pub fn find(&self, component: &str, slot: &str, key: &str) -> Result<Option<Record>, String> {
        let path = self.record_path(component, slot, key);
        let found = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(format!("cannot be read: {error}")),
            Ok(text) => Record::parse(&text),
        };
        let found = found.and_then(|record| match record.chain.key() == key && record.component == component {
            true if record.slot == slot => Ok(record),
            _ => Err("is not the one of its name".to_owned()),
        });
        found.map(Some).map_err(|why| format!("{} is damaged ({why})", path.display()))
    }

    /// All records of a component that can be read, those made or used last first.
    pub fn records(&self, component: &str) -> Vec<Record> {
        let slots = folders(&self.results().join(component));
        let mut found: Vec<_> = slots.iter().flat_map(|slot| by_age(slot)).collect();
        found.sort_by(|a, b| b.cmp(a));
        found.iter().filter_map(|(_, path)| Record::parse(&fs::read(path).ok()?).ok()).collect()
    }

    /// Checks everything that is kept of a component, whatever its key. What is damaged is thrown away and told, with the slot
    /// that it was in.
    ///
    /// # Errors
    /// When what is damaged cannot be removed.
    pub fn verify(&self, component: &str) -> anyhow::Result<Vec<(String, String)>> {
        let mut damage = Vec::new();
        for slot in folders(&self.results().join(component)) {
            let name = slot.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for (_, path) in by_age(&slot) {
                let key = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let why = match self.find(component, &name, &key) {
                    Ok(Some(record)) => self.check(&record)?,
                    Ok(None) => None,
                    Err(why) => {
                        self.forget_files(&path);
                        Some(why)
                    }
                };
                damage.extend(why.map(|why| (name.clone(), why)));
            }
        }
        Ok(damage)
    }

    /// Checks that a result's objects are what they were, as cheaply as its stamps allow. Where one is not, the result is
    /// thrown away with it, and what was wrong is given.
    ///
    /// # Errors
    /// When what is damaged cannot be removed.
    pub fn check(&self, record: &Record) -> anyhow::Result<Option<String>> {
        let path = self.path_of(record);
        let seen = path.with_extension("seen");
        let known = fs::read_to_string(&seen).ok();
        let now = self.stamp(record).ok();
        if known.is_some() && known == now {
            return Ok(None);
        }
        match self.first_damage(record) {
            None => {
                // Right content under other stamps: it was copied, restored or touched.
                self.remember(record);
                Ok(None)
            }
            Some((sha256, why)) => {
                self.forget_files(&path);
                let object = self.object(&sha256);
                dirs::remove_all(&object).with_context(|| format!("cannot remove {}", object.display()))?;
                Ok(Some(why))
            }
        }
    }

    /// A hash over the stamps of a result's objects.
    fn stamp(&self, record: &Record) -> anyhow::Result<String> {
        let paths: Vec<_> = self.objects_of(record)?.iter().map(|object| self.object(&object.sha256)).collect();
        Ok(fingerprint::stamps(paths.iter().map(PathBuf::as_path))?)
    }

    /// Remembers that a result's objects are right as they are now. Failing costs only hashes the next time.
    fn remember(&self, record: &Record) {
        let path = self.path_of(record).with_extension("seen");
        if let Ok(stamp) = self.stamp(record) {
            let draft = path.with_extension("draft");
            let _ = fs::write(&draft, stamp).and_then(|()| fs::rename(&draft, &path));
        }
    }

    /// The first object of a result that is not what its name says, in words.
    fn first_damage(&self, record: &Record) -> Option<(String, String)> {
        let named = |object: &ObjectRef, what: &str, why: String| (object.sha256.clone(), format!("{what} {why}"));
        match &record.content {
            Content::Delta { pack, .. } => self.damage(pack).map(|why| named(pack, "its packed files", why)),
            Content::Tree { list, .. } => {
                if let Some(why) = self.damage(list) {
                    return Some(named(list, "its list of files", why));
                }
                let Ok(entries) = self.entries(record) else {
                    return Some(named(list, "its list of files", "cannot be understood".to_owned()));
                };
                let files: Vec<_> = entries.iter().filter_map(|entry| Some((entry, ObjectRef::of(entry)?))).collect();
                let damage = parallel::first_on_all_cores(&files, |(_, object)| self.damage(object));
                damage.map(|(at, why)| {
                    let (entry, object) = &files[at];
                    named(object, &entry.path.display().to_string(), why)
                })
            }
        }
    }

    /// All objects of a result, the list of its files included.
    ///
    /// # Errors
    /// When that list cannot be read.
    fn objects_of(&self, record: &Record) -> anyhow::Result<Vec<ObjectRef>> {
        Ok(match &record.content {
            Content::Delta { pack, .. } => vec![pack.clone()],
            Content::Tree { list, .. } => {
                let entries = self.entries(record)?;
                std::iter::once(list.clone()).chain(entries.iter().filter_map(ObjectRef::of)).collect()
            }
        })
    }

    /// The files and links of a final result, sorted by path; none for another one.
    ///
    /// # Errors
    /// When their list is missing or damaged.
    pub fn entries(&self, record: &Record) -> anyhow::Result<Vec<Entry>> {
        let Content::Tree { list, .. } = &record.content else { return Ok(Vec::new()) };
        let path = self.object(&list.sha256);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        record::parse_list(&bytes).with_context(|| format!("{} is no list of files", path.display()))
    }

    /// Keeps a finished tree as a final result: its files become objects, `draft` is empty afterwards. Gives the record.
    ///
    /// # Errors
    /// [`Kind::Stage`] when the disk does not play along; nothing is then kept that could be taken for whole.
    pub fn put_tree(&self, draft: &Path, mut record: Record) -> anyhow::Result<Record> {
        let entries = fingerprint::scan(draft)?;
        let (mut files, mut bytes) = (0, 0);
        for entry in &entries {
            if let EntryKind::File { size, sha256, .. } = &entry.kind {
                self.take_in(&draft.join(&entry.path), sha256)?;
                files += 1;
                bytes += size;
            }
        }
        let list = self.put_bytes(&record::list(&entries))?;
        record.content = Content::Tree { list, files, bytes };
        self.seal(&record)?;
        Ok(record)
    }

    /// Writes the record of a result whose objects are all there.
    ///
    /// # Errors
    /// [`Kind::Stage`] when it cannot be written.
    pub fn seal(&self, record: &Record) -> anyhow::Result<()> {
        let path = self.path_of(record);
        let folder = self.slot(&record.component, &record.slot);
        fs::create_dir_all(&folder).kind(Kind::Stage, || format!("cannot make {}", folder.display()))?;
        let write = || -> anyhow::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(self.drafts()?)?;
            std::io::Write::write_all(&mut file, &record.bytes()?)?;
            file.persist(&path)?;
            Ok(())
        };
        write().kind(Kind::Stage, || format!("cannot write {}", path.display()))?;
        self.remember(record);
        Ok(())
    }

    /// Marks a result as used now; those used last are kept longest.
    pub fn touch(&self, record: &Record) {
        if let Ok(file) = fs::File::open(self.path_of(record)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Throws a result away, so that it is made again.
    pub fn forget(&self, record: &Record) {
        self.forget_files(&self.path_of(record));
        if let Content::Delta { pack, .. } = &record.content {
            let _ = fs::remove_file(self.object(&pack.sha256));
        }
    }

    fn forget_files(&self, record: &Path) {
        // What cannot be removed is found wrong again the next time.
        let _ = fs::remove_file(record);
        let _ = fs::remove_file(record.with_extension("seen"));
    }

    /// The folder of all results of a component. Without it their objects go with the next [`Self::collect_garbage`].
    pub fn folder_of(&self, component: &str) -> PathBuf {
        self.results().join(component)
    }

    /// Forgets all stamps: whatever is used next is hashed first.
    pub fn forget_stamps(&self) {
        for path in self.all_records() {
            let _ = fs::remove_file(path.with_extension("seen"));
        }
    }

    /// The paths of all records.
    fn all_records(&self) -> Vec<PathBuf> {
        let slots = folders(&self.results()).into_iter().flat_map(|component| folders(&component));
        slots.flat_map(|slot| by_age(&slot)).map(|(_, path)| path).collect()
    }

    /// The names of all components that have results.
    fn components(&self) -> BTreeSet<String> {
        let names = folders(&self.results()).into_iter();
        names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }
}

/// The folders in a folder.
fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The records in a slot with the time of their last use, those used last first.
///
/// A time that is yet to come was written before the clock was set back: those records count as older than all others, or
/// what is made from then on would be thrown away first, each time anew.
fn by_age(slot: &Path) -> Vec<(SystemTime, PathBuf)> {
    let Ok(entries) = fs::read_dir(slot) else { return Vec::new() };
    let records = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
    let latest = SystemTime::now() + SKEW;
    let used = |path: &Path| {
        let used = path.metadata().and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
        used.duration_since(latest).map_or(used, |ahead| UNIX_EPOCH + ahead)
    };
    let mut paths: Vec<_> = records.map(|path| (used(&path), path)).collect();
    paths.sort_by(|a, b| b.cmp(a));
    paths
}
