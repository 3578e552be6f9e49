//! `dkmadmin restore`: a backup becomes a data folder, whole or not at all.
//!
//! It is unpacked beside its place, every hash is compared, and only then renamed. What was there is kept beside, under another name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::super::User;
use super::{About, now, unpack};
use crate::cli::admin;
use crate::home::{Home, RECORD, write_renamed};
use crate::install::build::make_folder;
use crate::install::record::Record;
use crate::install::{bundle_root, switch, update};
use crate::integrity::{hex, walk};
use crate::manifest::Manifest;
use crate::supervise::child;

/// Restores a backup, or only looks whether it is whole.
///
/// # Errors
/// When it is damaged, does not fit, or there is no place for it; what was there is as before.
pub fn run(options: &admin::Restore) -> Result<ExitCode> {
    let name = options.from.display();
    let from: Box<dyn Read> = if options.from == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&options.from).with_context(|| format!("cannot open {name}"))?)
    };
    if options.check {
        let (about, files) = unpack::read(from, |_| Ok(None)).with_context(|| format!("{name} is no good"))?;
        println!(
            "{name} is whole: {} of {}, version {}, {files} files, made {}",
            about.data.display(),
            about.hostname,
            about.version,
            about.made
        );
        return Ok(ExitCode::SUCCESS);
    }
    let bundle = bundle_root()?;
    let mut place = None;
    let unpacked = unpack::read(from, |about| {
        let made = Place::find(options, about, &bundle)?;
        let beside = made.beside.clone();
        place = Some(made);
        Ok(Some(beside))
    });
    let (about, files) = unpacked.with_context(|| format!("cannot restore {name}"))?;
    let place = place.context("cannot restore: the backup has no beginning")?;
    settle(&place, &about, &bundle, options)?;
    nix::unistd::sync();
    let kept = place.take()?;
    println!("restored {files} files of {}, made {}, in {}", about.hostname, about.made, place.target.display());
    if let Some(kept) = kept {
        println!("What was there is in {}; remove it when you do not need it.", kept.display());
    }
    println!("Start it:  {} start", crate::install::farewell::shell_quoted(&place.target.join("bin/dkm").to_string_lossy()));
    Ok(ExitCode::SUCCESS)
}

/// Where it goes.
struct Place {
    target: PathBuf,
    /// Where it is made. It goes when this does, unless it was taken.
    beside: PathBuf,
    /// Held as long as nothing may be started there.
    _lock: Option<File>,
    /// Whether there is a data folder already.
    replaces: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.beside);
    }
}

impl Place {
    /// Looks at everything that may stand against it.
    fn find(options: &admin::Restore, about: &About, bundle: &Path) -> Result<Self> {
        let manifest = Manifest::read(bundle)?;
        if (&manifest.version, &manifest.stack) != (&about.version, &about.stack) {
            bail!(
                "it is of version {}, and this dkmadmin is of {}: unpack that bundle and use its bin/dkmadmin; `installer --update` goes on from there",
                about.version,
                manifest.version
            );
        }
        let asked = options.data.as_ref().unwrap_or(&about.data);
        let target = std::path::absolute(asked).with_context(|| format!("cannot use the path {}", asked.display()))?;
        let parent = target.parent().with_context(|| format!("cannot use the path {}", target.display()))?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let parent = parent.canonicalize().with_context(|| format!("cannot use {}", parent.display()))?;
        let file_name = target.file_name().with_context(|| format!("cannot use the path {}", target.display()))?;
        let target = parent.join(file_name);
        if target != about.data {
            movable(&about.data)?;
            movable(&target)?;
        }
        let replaces = fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some());
        let lock = if replaces { Some(stopped(&Home::open(&target)?)?) } else { None };
        let room = room(&parent)?;
        if room < about.bytes {
            bail!("it needs {} MB, and {} has {} MB", about.bytes / 1_000_000, parent.display(), room / 1_000_000);
        }
        let beside = parent.join(format!(".{}.restore-{}", file_name.to_string_lossy(), std::process::id()));
        let _ = fs::remove_dir_all(&beside);
        let made = Self { target, beside, _lock: lock, replaces };
        make_folder(&made.beside)?;
        Ok(made)
    }

    /// Puts it into its place. Gives where the former folder is.
    fn take(&self) -> Result<Option<PathBuf>> {
        let cannot = || format!("cannot put the restored folder into its place {}", self.target.display());
        let mut name = self.target.clone().into_os_string();
        name.push(format!(".before-{}", now().replace([':', '-'], "")));
        let kept = self.replaces.then(|| PathBuf::from(name));
        if let Some(kept) = &kept {
            fs::rename(&self.target, kept).with_context(cannot)?;
        }
        if let Err(error) = fs::rename(&self.beside, &self.target) {
            if let Some(kept) = &kept {
                let _ = fs::rename(kept, &self.target);
            }
            return Err(error).with_context(cannot);
        }
        Ok(kept)
    }
}

/// Refuses a folder in which anything runs. What this gives keeps a supervisor from starting.
fn stopped(home: &Home) -> Result<File> {
    let root = home.root().display();
    if !nix::unistd::geteuid().is_root() {
        update::refuse_others(home.root())?;
    }
    let locks = fs::read_dir(home.run()).into_iter().flatten().flatten().map(|entry| entry.path());
    let held =
        locks.filter(|path| path.extension().is_some_and(|ending| ending == "lock")).find(|path| child::holder(path).is_some());
    if let Some(held) = held {
        let what = held.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        bail!("something runs in {root} ({what}): `dkm shutdown` first");
    }
    make_folder(&home.run())?;
    child::lock(&home.supervisor_lock())?.with_context(|| format!("a supervisor has just started in {root}"))
}

/// The free bytes where a folder is.
fn room(folder: &Path) -> Result<u64> {
    let of = nix::sys::statvfs::statvfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    // The systems do not agree on the type of these.
    Ok(of.blocks_available() as u64 * of.fragment_size() as u64)
}

/// Makes what was unpacked fit its new place.
fn settle(place: &Place, about: &About, bundle: &Path, options: &admin::Restore) -> Result<()> {
    let root = &place.beside;
    for folder in ["run", "run/log"] {
        make_folder(&root.join(folder))?;
    }
    let mut record = Record::read(root)?;
    let before = record.clone();
    if place.target != about.data {
        relocate(root, &about.data, &place.target, &mut record.files)?;
        record.arguments.data.clone_from(&place.target);
    }
    record.bundle = bundle.to_owned();
    switch::relink(root, bundle)?;
    if record != before {
        record.write(root)?;
    }
    if nix::unistd::geteuid().is_root() {
        let owner = match &options.user {
            None => (about.uid, about.gid),
            Some(name) => {
                let user = User::find(name).with_context(|| format!("--user: there is no {name}"))?;
                (user.uid, user.gid)
            }
        };
        if owner.0 != 0 {
            own(root, owner)?;
        }
    } else if options.user.is_some() {
        bail!("--user is for root: what others restore is theirs");
    }
    Ok(())
}

/// Gives a folder and all in it to somebody.
fn own(path: &Path, owner: (u32, u32)) -> Result<()> {
    let cannot = || format!("cannot give {} to user {}", path.display(), owner.0);
    lchown(path, Some(owner.0), Some(owner.1)).with_context(cannot)?;
    if fs::symlink_metadata(path).with_context(cannot)?.is_dir() {
        for entry in fs::read_dir(path).with_context(cannot)? {
            own(&entry.with_context(cannot)?.path(), owner)?;
        }
    }
    Ok(())
}

/// Refuses paths that configuration writes otherwise than they are.
fn movable(path: &Path) -> Result<()> {
    let text = path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))?;
    if text.contains(|c: char| c.is_control() || "\"'`\\".contains(c)) {
        bail!("the path {text} has a quote or a backslash: such a folder can be restored in its old place alone");
    }
    Ok(())
}

/// Writes the new path into the configuration where the old one stands. What was as shipped is as shipped afterwards.
fn relocate(root: &Path, old: &Path, new: &Path, shipped: &mut BTreeMap<String, String>) -> Result<()> {
    let (old, new) = (old.to_string_lossy(), new.to_string_lossy());
    walk(&root.join("conf"), &mut |path, meta| {
        let is_record = path.ends_with(RECORD);
        let Some(text) = (meta.is_file() && !is_record).then(|| fs::read_to_string(path).ok()).flatten() else { return Ok(()) };
        let moved = replaced(&text, &old, &new);
        if moved == text {
            return Ok(());
        }
        write_renamed(path, moved.as_bytes(), meta.mode() & 0o777)?;
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
        if let Some(hash) = shipped.get_mut(&*name).filter(|hash| **hash == hex(&Sha256::digest(&text))) {
            *hash = hex(&Sha256::digest(&moved));
        }
        Ok(())
    })
}

/// The text with one path in place of another, where that stands as a whole or with something below it.
fn replaced(text: &str, old: &str, new: &str) -> String {
    let part_of_name = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(old) {
        let (before, behind) = (&rest[..at], &rest[at + old.len()..]);
        let whole = !before.ends_with(|c| part_of_name(c) || c == '/') && !behind.starts_with(part_of_name);
        out.push_str(before);
        out.push_str(if whole { new } else { old });
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_replaced_where_it_is_that_path() {
        let text = "a=\"/data/m\" b=/data/m/x c=/data/mm d=/data/m-2 e=/x/data/m /data/m";
        assert_eq!(replaced(text, "/data/m", "/n w"), "a=\"/n w\" b=/n w/x c=/data/mm d=/data/m-2 e=/x/data/m /n w");
    }
}
