//! What a step has changed in its component's work folder, packed as one object.
//!
//! The object is a tar (GNU's form, readable by any tar): `tree/…` for everything that was made or changed, folders
//! included, and at the end `removed`, the names of what is gone, each ended by a zero byte. Modes and times are kept to
//! the nanosecond, because make decides by times what to make again: the fraction stands where GNU tar keeps the time of the
//! last access. Packing and laying out both stream: their memory does not grow with the folder.

use super::scan::{Kind as What, Reader, Seen, order, write};
use super::{Content, Damaged, ObjectRef, Record, Store};
use crate::dirs;
use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{self, Hashed};
use anyhow::Context as _;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// What everything that was made or changed has in front of its name.
const TREE: &str = "tree";

/// The entry that names what is gone.
const REMOVED: &str = "removed";

const SECOND: i64 = 1_000_000_000;

/// What was packed.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The object.
    pub pack: ObjectRef,
    /// Entries in it.
    pub entries: u64,
}

/// Packs what has changed in `root` since the scan `before` was written. What is there now is scanned into `after`.
///
/// # Errors
/// [`Kind::Stage`] when something cannot be read, or the store not be written; nothing is then left in it.
pub fn pack(store: &Store, root: &Path, before: &Path, after: &Path) -> anyhow::Result<Delta> {
    let pack = || -> anyhow::Result<Delta> {
        let out = io::BufWriter::with_capacity(256 * 1024, store.draft()?);
        let mut packer = Packer { root, tar: tar::Builder::new(out), removed: Vec::new(), last_removed: None, entries: 0 };
        let mut before = Reader::open(before)?;
        write(root, after, |seen| packer.merge(&mut before, seen))?;
        while let Some(gone) = before.take()? {
            packer.remove(gone.path);
        }
        packer.finish()
    };
    pack().kind(Kind::Stage, || format!("cannot keep what has changed in {}", root.display()))
}

struct Packer<'a, W: io::Write> {
    root: &'a Path,
    tar: tar::Builder<W>,
    removed: Vec<u8>,
    last_removed: Option<Vec<u8>>,
    entries: u64,
}

impl<'a> Packer<'a, io::BufWriter<super::object::Draft<'a>>> {
    fn finish(mut self) -> anyhow::Result<Delta> {
        if !self.removed.is_empty() {
            let mut header = header(tar::EntryType::Regular, 0o644, 0);
            header.set_size(self.removed.len() as u64);
            self.tar.append_data(&mut header, REMOVED, self.removed.as_slice())?;
        }
        let out = self.tar.into_inner()?;
        let draft = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Delta { pack: draft.finish()?, entries: self.entries })
    }
}

impl<W: io::Write> Packer<'_, W> {
    /// Takes the old scan up to where the new one is, and packs the new entry unless the old one is the same.
    fn merge(&mut self, before: &mut Reader, now: &Seen) -> anyhow::Result<()> {
        loop {
            let place = before.peek().map(|old| order(&old.path, &now.path));
            match place {
                Some(Ordering::Less) => {
                    if let Some(gone) = before.take()? {
                        self.remove(gone.path);
                    }
                }
                Some(Ordering::Equal) => {
                    let old = before.take()?;
                    return if old.is_some_and(|old| old.is_same(now)) { Ok(()) } else { self.add(now) };
                }
                Some(Ordering::Greater) | None => return self.add(now),
            }
        }
    }

    fn add(&mut self, seen: &Seen) -> anyhow::Result<()> {
        let path = self.root.join(OsStr::from_bytes(&seen.path));
        let name = Path::new(TREE).join(OsStr::from_bytes(&seen.path));
        let (mode, mtime) = (seen.stamp.mode & 0o7777, seen.stamp.mtime_ns);
        let packed = match seen.kind {
            What::Folder => self.tar.append_data(&mut header(tar::EntryType::Directory, mode, mtime), &name, io::empty()),
            What::Link => fs::read_link(&path)
                .and_then(|target| self.tar.append_link(&mut header(tar::EntryType::Symlink, mode, mtime), &name, target)),
            What::File => File::open(&path).and_then(|file| {
                let mut header = header(tar::EntryType::Regular, mode, mtime);
                header.set_size(seen.stamp.size);
                // Were the file growing, the packed one would still be whole by its header; that it changed shows below.
                self.tar.append_data(&mut header, &name, (&file).take(seen.stamp.size))?;
                let now = fingerprint::Stamp::of(&file.metadata()?);
                if now == seen.stamp { Ok(()) } else { Err(io::Error::other("it changed while it was read")) }
            }),
        };
        self.entries += 1;
        packed.with_context(|| format!("cannot pack {}", path.display()))
    }

    /// Notes what is gone; of a folder that is gone as a whole only the folder itself.
    fn remove(&mut self, path: Vec<u8>) {
        let inside = |folder: &Vec<u8>| path.strip_prefix(folder.as_slice()).is_some_and(|rest| rest.starts_with(b"/"));
        if !self.last_removed.as_ref().is_some_and(inside) {
            self.removed.extend_from_slice(&path);
            self.removed.push(0);
            self.last_removed = Some(path);
        }
    }
}

fn header(kind: tar::EntryType, mode: u32, mtime_ns: i64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    // Nothing that is built is older than 1970; were it so, its time would only be kept less well.
    header.set_mtime(u64::try_from(mtime_ns.div_euclid(SECOND)).unwrap_or(0));
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.atime.copy_from_slice(format!("{:011o}\0", mtime_ns.rem_euclid(SECOND)).as_bytes());
    }
    header
}

fn time_of(header: &tar::Header) -> anyhow::Result<Timespec> {
    let digits = header.as_gnu().map(|gnu| gnu.atime.split(|byte| *byte == 0).next().unwrap_or_default());
    let fraction = i64::from_str_radix(std::str::from_utf8(digits.unwrap_or(b"0"))?, 8)?;
    Ok(Timespec { tv_sec: i64::try_from(header.mtime()?)?, tv_nsec: fraction })
}

/// Lays a step's result out in the work folder `root`, which has to be as it was before the step.
///
/// # Errors
/// [`Damaged`] when the object is, else why it cannot be laid out. Either way the folder is then of no use any more.
pub fn apply(store: &Store, record: &Record, root: &Path) -> anyhow::Result<()> {
    let Content::Delta { pack, .. } = &record.content else { anyhow::bail!("it is no step's result") };
    let path = store.object(&pack.sha256);
    let file = File::open(&path).map_err(|error| Damaged(format!("{} cannot be read: {error}", path.display())))?;
    let mut reader = Hashed::new(BufReader::with_capacity(256 * 1024, file));
    let mut layer = Layer { root, folders: Vec::new(), open: None };
    let mut archive = tar::Archive::new(&mut reader);
    let laid = archive.entries().map_err(anyhow::Error::from).and_then(|mut entries| {
        entries.try_for_each(|entry| layer.lay(&mut entry?))?;
        layer.end()
    });
    // What follows the end mark belongs to the object too.
    let read = io::copy(&mut reader, &mut io::sink());
    if read.is_ok() && reader.finish() == pack.sha256 {
        return laid.with_context(|| format!("cannot lay out {}", path.display()));
    }
    Err(Damaged(format!("{} has other content than its name says", path.display())).into())
}

/// Lays entries out.
struct Layer<'a> {
    root: &'a Path,
    /// Folders whose mode and time are set at the end, when nothing is put into them any more.
    folders: Vec<(PathBuf, u32, Timespec)>,
    /// The folder that is worked in, which is known to be one with no link on the way to it, and the time that it had.
    open: Option<(PathBuf, Timespec)>,
}

impl Layer<'_> {
    fn lay(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> anyhow::Result<()> {
        let name = Path::new(OsStr::from_bytes(&entry.path_bytes())).to_owned();
        if name == Path::new(REMOVED) {
            let mut names = Vec::new();
            entry.read_to_end(&mut names)?;
            return names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).try_for_each(|name| self.remove(name));
        }
        let inner = name.strip_prefix(TREE).with_context(|| format!("{} has no place", name.display()))?;
        anyhow::ensure!(crate::stack::lock::stays_inside(inner), "{} leads out of the folder", name.display());
        self.enter_folder(inner)?;
        let path = self.root.join(inner);
        self.lay_at(entry, &path).with_context(|| format!("cannot make {}", path.display()))
    }

    fn lay_at(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> anyhow::Result<()> {
        let (mode, time) = (entry.header().mode()? & 0o7777, time_of(entry.header())?);
        let there = path.symlink_metadata().ok();
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                if there.as_ref().is_some_and(|there| !there.is_dir()) {
                    fs::remove_file(path)?;
                }
                if there.is_some_and(|there| there.is_dir()) {
                    fs::set_permissions(path, Permissions::from_mode(mode | 0o700))?;
                } else {
                    fs::DirBuilder::new().mode(mode | 0o700).create(path)?;
                }
                self.folders.push((path.to_owned(), mode, time));
                return Ok(());
            }
            tar::EntryType::Symlink => {
                if there.is_some() {
                    dirs::remove_all(path)?;
                }
                let target = entry.link_name_bytes().context("it is a link to nothing")?.into_owned();
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), path)?;
            }
            _ => {
                if there.is_some() {
                    dirs::remove_all(path)?;
                }
                let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
                io::copy(entry, &mut file)?;
                file.flush()?;
                file.set_permissions(Permissions::from_mode(mode))?;
            }
        }
        set_time(path, time)
    }

    /// Begins to work in the folder of `inner`, and ends in the one before. No link may stand on the way, or what is laid out
    /// could land anywhere. A folder keeps the time that it had: where the step has changed that too, it has an entry.
    fn enter_folder(&mut self, inner: &Path) -> anyhow::Result<()> {
        let parent = inner.parent().unwrap_or(Path::new(""));
        if self.open.as_ref().is_some_and(|(open, _)| open == parent) {
            return Ok(());
        }
        self.leave_folder()?;
        let mut folder = self.root.to_owned();
        for part in parent.components() {
            folder.push(part);
            let meta = folder.symlink_metadata().with_context(|| format!("cannot look at {}", folder.display()))?;
            anyhow::ensure!(meta.is_dir(), "{} is no folder", folder.display());
        }
        let meta = folder.symlink_metadata()?;
        self.open = Some((parent.to_owned(), Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() }));
        Ok(())
    }

    fn leave_folder(&mut self) -> anyhow::Result<()> {
        match self.open.take() {
            Some((folder, time)) => set_time(&self.root.join(folder), time),
            None => Ok(()),
        }
    }

    fn remove(&mut self, name: &[u8]) -> anyhow::Result<()> {
        let inner = Path::new(OsStr::from_bytes(name));
        anyhow::ensure!(crate::stack::lock::stays_inside(inner), "{} leads out of the folder", inner.display());
        let path = self.root.join(inner);
        // Where a file has taken a folder's place, what was in it is gone already.
        if self.enter_folder(inner).is_err() {
            return Ok(());
        }
        dirs::remove_all(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.leave_folder()?;
        for (path, mode, time) in self.folders.drain(..).rev() {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .with_context(|| format!("cannot change {}", path.display()))?;
            set_time(&path, time)?;
        }
        Ok(())
    }
}

fn set_time(path: &Path, time: Timespec) -> anyhow::Result<()> {
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("cannot set the time of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::scan::scan;
    use super::*;
    use crate::key::Chain;
    use std::os::unix::fs::symlink;

    /// Everything that counts of a tree.
    fn all(root: &Path) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
        let mut found: Vec<_> = walkdir::WalkDir::new(root)
            .min_depth(1)
            .into_iter()
            .map(|entry| {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                let content = match entry.path().read_link() {
                    Ok(target) => target.as_os_str().as_bytes().to_vec(),
                    Err(_) => fs::read(entry.path()).unwrap_or_default(),
                };
                (entry.path().strip_prefix(root).unwrap().to_owned(), meta.mode(), meta.mtime(), meta.mtime_nsec(), content)
            })
            .collect();
        found.sort();
        found
    }

    fn before(root: &Path) {
        for folder in ["src/keep/deep", "src/gone/deep", "src/becomes-file/deep", "dest"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in
            ["src/keep/same", "src/keep/changed", "src/keep/mode", "src/gone/deep/x", "src/becomes-folder", "src/gone-2"]
        {
            fs::write(root.join(file), file).unwrap();
        }
        fs::write(root.join("src/becomes-file/deep/x"), "x").unwrap();
        symlink("keep", root.join("src/link")).unwrap();
    }

    fn step(root: &Path) {
        let src = root.join("src");
        fs::write(src.join("keep/changed"), "other words").unwrap();
        fs::set_permissions(src.join("keep/mode"), Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir_all(src.join("gone")).unwrap();
        fs::remove_file(src.join("gone-2")).unwrap();
        fs::remove_dir_all(src.join("becomes-file")).unwrap();
        fs::write(src.join("becomes-file"), "now").unwrap();
        fs::remove_file(src.join("becomes-folder")).unwrap();
        fs::create_dir_all(src.join("becomes-folder/empty")).unwrap();
        fs::remove_file(src.join("link")).unwrap();
        symlink("keep/deep", src.join("link")).unwrap();
        let long = "long ".repeat(40);
        fs::create_dir_all(root.join("dest").join(&long)).unwrap();
        fs::write(root.join("dest").join(&long).join("a file"), "x").unwrap();
        symlink(&long, root.join("dest/to long")).unwrap();
        fs::create_dir(root.join("dest/closed")).unwrap();
        fs::write(root.join("dest/closed/file"), "y").unwrap();
        fs::set_permissions(root.join("dest/closed"), Permissions::from_mode(0o555)).unwrap();
    }

    #[test]
    fn a_step_laid_out_from_the_store_is_the_step_itself_down_to_the_times() {
        let place = tempfile::Builder::new().prefix("a place ").tempdir().unwrap();
        let store = Store::at(place.path().join("store"));
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        before(&one);
        assert!(std::process::Command::new("cp").arg("-a").args([&one, &two]).status().unwrap().success());
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        scan(&one, &old).unwrap();
        step(&one);
        let delta = pack(&store, &one, &old, &new).unwrap();
        let mut record = Record::new("thing", "step-x", Chain::default());
        record.content = Content::Delta { pack: delta.pack, entries: delta.entries };
        apply(&store, &record, &two).unwrap();
        assert_eq!(all(&two), all(&one));
        // What has not changed is not packed again.
        let again = pack(&store, &one, &new, &old).unwrap();
        assert!(again.entries < delta.entries, "{} of {}", again.entries, delta.entries);
        let Content::Delta { pack, .. } = &record.content else { panic!("{record:?}") };
        let object = store.object(&pack.sha256);
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::set_permissions(&object, Permissions::from_mode(0o644)).unwrap();
        fs::write(&object, bytes).unwrap();
        let error = apply(&store, &record, &two).unwrap_err();
        assert!(error.to_string().contains("other content"), "{error:#}");
        fs::set_permissions(one.join("dest/closed"), Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_result_from_elsewhere_cannot_write_outside_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::at(place.path().join("store"));
        let root = place.path().join("root");
        fs::create_dir_all(root.join("src")).unwrap();
        symlink(place.path(), root.join("src/out")).unwrap();
        for name in ["tree/src/out/evil", "tree/../evil", "other/evil"] {
            let mut tar = tar::Builder::new(store.draft().unwrap());
            let mut header = header(tar::EntryType::Regular, 0o644, 0);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, io::empty()).unwrap();
            let pack = tar.into_inner().unwrap().finish().unwrap();
            let mut record = Record::new("thing", "step-x", Chain::default());
            record.content = Content::Delta { pack, entries: 1 };
            assert!(apply(&store, &record, &root).is_err(), "{name}");
        }
        assert!(!place.path().join("evil").exists());
    }
}
