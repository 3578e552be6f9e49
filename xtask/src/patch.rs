//! Applies patches to an unpacked source: unified diffs and git's, of several files, with the first part of each name
//! stripped (`-p1`).
//!
//! Promises: exact or not at all. Every context and removed line of a hunk must be in the file byte for byte (no fuzz).
//! A hunk goes where it says; if its lines are not there, it may move as a whole, but only when they stand at exactly one
//! other place, and that is reported. A hunk without any old line never moves. Nothing is written before every hunk of
//! every file has found its place, and then every file is written beside and renamed. Files may be made, deleted, renamed,
//! copied and change their executable bit. What can't be checked is refused: binary patches, symbolic links,
//! submodules, names that lead out of the tree or go through a link, hunks that belong to no file.
//!
//! A diff without git's headers deletes a file only by `+++ /dev/null`.

use crate::error::Kind;
use anyhow::Context as _;
use diffy::patch_set::{FileMode, FileOperation, FilePatch, ParseOptions, PatchKind, PatchSet};
use diffy::{Hunk, Line};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// What a patch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Files that it changed, made or deleted; relative to the tree, sorted.
    pub files: Vec<PathBuf>,
    /// Hunks that were applied.
    pub hunks: usize,
    /// A sentence for each hunk that did not stand where it said. Such a patch is to be refreshed some time.
    pub moved: Vec<String>,
}

/// Applies the patch file `patch` to the folder `tree`, wholly or not at all.
///
/// # Errors
/// [`Kind::Patch`], naming the patch, the file and the hunk, when it does not apply exactly, cannot be understood or
/// would lead out of the tree; the tree is then as it was. Any other error is the disk's.
pub fn apply(patch: &Path, tree: &Path) -> anyhow::Result<Applied> {
    let bytes = std::fs::read(patch).with_context(|| format!("cannot read {}", patch.display()))?;
    let mut work = Work { tree, files: BTreeMap::new(), applied: Applied::default() };
    let refuse = |why: String| Kind::Patch.error(format!("cannot apply {}: {why}", patch.display()));
    for file in parse(&bytes).map_err(refuse)? {
        work.file(&file).map_err(refuse)?;
    }
    work.write().with_context(|| format!("cannot write what {} changes", patch.display()))
}

/// Splits a patch into its files, and refuses one of which anything would be overlooked.
fn parse(bytes: &[u8]) -> Result<Vec<FilePatch<'_, [u8]>>, String> {
    let lines_with = |start: &[u8]| bytes.split(|byte| *byte == b'\n').filter(|line| line.starts_with(start)).count();
    let git = lines_with(b"diff --git ");
    let options = if git > 0 { ParseOptions::gitdiff() } else { ParseOptions::unidiff() };
    let files: Vec<_> = PatchSet::parse_bytes(bytes, options)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is no unified diff that can be understood: {error}"))?;
    // The parser steps over what it doesn't know, as mails need it; a hunk lost that way would go unnoticed.
    let hunks: usize = files.iter().filter_map(|file| file.patch().as_text()).map(|text| text.hunks().len()).sum();
    let headers = lines_with(b"@@ -");
    if hunks != headers || (git > 0 && git != files.len()) {
        return Err(format!("it has {headers} hunk headers, but only {hunks} of them belong to a file; is it damaged?"));
    }
    Ok(files)
}

/// A file as the patch leaves it.
#[derive(Clone)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
}

/// The patched files, in memory until all is known to be well.
struct Work<'a> {
    tree: &'a Path,
    /// By name in the tree; nothing where the file is deleted.
    files: BTreeMap<PathBuf, Option<Content>>,
    applied: Applied,
}

impl Work<'_> {
    /// Works one file's part of the patch into memory.
    fn file(&mut self, file: &FilePatch<'_, [u8]>) -> Result<(), String> {
        let (from, to) = self.names(file.operation())?;
        let name = to.as_ref().or(from.as_ref()).map_or_else(String::new, |path| path.display().to_string());
        let about = |why: String| format!("{name}: {why}");
        if [file.old_mode(), file.new_mode()]
            .into_iter()
            .flatten()
            .any(|mode| matches!(mode, FileMode::Symlink | FileMode::Gitlink))
        {
            return Err(about("it is a symbolic link or a submodule, which patches here may not touch".into()));
        }
        let PatchKind::Text(text) = file.patch() else {
            return Err(about("the change is binary, which cannot be reviewed; add the file by the recipe instead".into()));
        };
        let old = match &from {
            Some(from) => self.read(from).map_err(about)?,
            None => None,
        };
        let fresh = text.hunks().first().is_none_or(|hunk| hunk.old_range().is_empty());
        let old = match (old, &from) {
            (Some(old), _) => Some(old),
            (None, Some(_)) if !fresh || file.operation().is_delete() || text.hunks().is_empty() => {
                return Err(about("there is no such file".into()));
            }
            (None, _) => None,
        };
        if old.is_none() || (from != to && to.is_some()) {
            let target = to.as_deref().unwrap_or(Path::new(""));
            if self.read(target).map_err(about)?.is_some() {
                return Err(about("it is to be made, but is there already".into()));
            }
        }
        let mut content = old.unwrap_or(Content { bytes: Vec::new(), mode: 0o644 });
        content.bytes = self.hunks(&name, &content.bytes, text.hunks()).map_err(about)?;
        match file.new_mode() {
            Some(FileMode::Executable) => content.mode |= 0o111,
            Some(FileMode::Regular) => content.mode &= !0o111,
            _ => {}
        }
        if let (Some(from), false) = (from, file.operation().is_copy()) {
            if file.operation().is_delete() && !content.bytes.is_empty() {
                return Err(about("it is to be deleted, but holds more than the patch knows".into()));
            }
            self.files.insert(from, None);
        }
        if let Some(to) = to {
            self.files.insert(to, Some(content));
        }
        Ok(())
    }

    /// The names, relative to the tree, of the file that is read and of the one that is left.
    fn names(&self, operation: &FileOperation<'_, [u8]>) -> Result<(Option<PathBuf>, Option<PathBuf>), String> {
        Ok(match operation {
            FileOperation::Create(name) => (None, Some(stripped(name)?)),
            FileOperation::Delete(name) => (Some(stripped(name)?), None),
            FileOperation::Modify { original, modified } => {
                let (old, new) = (stripped(original)?, stripped(modified)?);
                // `diff file.orig file`: the one that is there is meant.
                let name = if self.read(&new)?.is_none() && self.read(&old)?.is_some() { old } else { new };
                (Some(name.clone()), Some(name))
            }
            // Git writes these names without its a/ and b/.
            FileOperation::Rename { from, to } | FileOperation::Copy { from, to } => (Some(inside(from)?), Some(inside(to)?)),
        })
    }

    /// The file as it is by now; nothing where there is none.
    fn read(&self, name: &Path) -> Result<Option<Content>, String> {
        if let Some(known) = self.files.get(name) {
            return Ok(known.clone());
        }
        let mut path = self.tree.to_owned();
        for part in name {
            path.push(part);
            match path.symlink_metadata() {
                Ok(data) if data.is_symlink() => {
                    return Err(format!("{} is a link; patches do not go through links", path.display()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
            }
        }
        let cannot = |error: io::Error| format!("cannot read {}: {error}", path.display());
        let data = path.metadata().map_err(cannot)?;
        if !data.is_file() {
            return Err(format!("{} is no file", path.display()));
        }
        let bytes = std::fs::read(&path).map_err(cannot)?;
        Ok(Some(Content { bytes, mode: data.permissions().mode() & 0o7777 }))
    }

    /// Applies the hunks of one file to its content.
    fn hunks(&mut self, name: &str, old: &[u8], hunks: &[Hunk<'_, [u8]>]) -> Result<Vec<u8>, String> {
        let lines: Vec<&[u8]> = old.split_inclusive(|byte| *byte == b'\n').collect();
        let mut new = Vec::with_capacity(old.len() + 4096);
        let mut done = 0;
        let mut drift = 0;
        for (number, hunk) in hunks.iter().enumerate() {
            let at = place(&lines, done, hunk, drift == 0).map_err(|why| {
                let (old, new) = (hunk.old_range(), hunk.new_range());
                format!("hunk {} of {} (@@ -{old} +{new} @@) {why}", number + 1, hunks.len())
            })?;
            drift = at as i64 - stated(hunk) as i64;
            if drift != 0 {
                let way = if drift > 0 { "further down" } else { "further up" };
                self.applied.moved.push(format!("{name}: hunk {} stands {} lines {way} than it says", number + 1, drift.abs()));
            }
            lines[done..at].iter().copied().chain(side(hunk, false)).try_for_each(|line| add(&mut new, line))?;
            done = at + hunk.old_range().len();
            self.applied.hunks += 1;
        }
        lines[done..].iter().try_for_each(|line| add(&mut new, line))?;
        Ok(new)
    }

    /// Writes everything: all new content beside its place first, so that a full disk is met before anything changed.
    fn write(mut self) -> anyhow::Result<Applied> {
        let mut ready = Vec::new();
        for (name, content) in &self.files {
            let path = self.tree.join(name);
            let Some(content) = content else { continue };
            let folder = path.parent().unwrap_or(self.tree);
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let cannot = || format!("cannot write {}", path.display());
            let mut beside = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
            beside.write_all(&content.bytes).with_context(cannot)?;
            beside.as_file().set_permissions(Permissions::from_mode(content.mode)).with_context(cannot)?;
            ready.push((beside, path));
        }
        for (beside, path) in ready {
            beside.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        for (name, _) in self.files.iter().filter(|(_, content)| content.is_none()) {
            let path = self.tree.join(name);
            match std::fs::remove_file(&path) {
                // Made and deleted again by one patch.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.with_context(|| format!("cannot delete {}", path.display()))?,
            }
        }
        self.applied.files = self.files.into_keys().collect();
        Ok(self.applied)
    }
}

/// Adds a line. Only a file's last line may lack its end, else two lines would become one.
fn add(new: &mut Vec<u8>, line: &[u8]) -> Result<(), String> {
    if !new.is_empty() && !new.ends_with(b"\n") {
        return Err(format!("{} would be glued to a line without an end", quoted(line)));
    }
    new.extend_from_slice(line);
    Ok(())
}

/// The index of the line at which a hunk says it begins. Hunks without old lines name the line before.
fn stated(hunk: &Hunk<'_, [u8]>) -> usize {
    let range = hunk.old_range();
    if range.is_empty() { range.start() } else { range.start().saturating_sub(1) }
}

/// Finds the one place for a hunk at or after line `from`; `trusted` says that the line numbers have been right so far.
fn place(lines: &[&[u8]], from: usize, hunk: &Hunk<'_, [u8]>, trusted: bool) -> Result<usize, String> {
    let old: Vec<&[u8]> = side(hunk, true);
    let said = stated(hunk);
    let fits = |at: usize, block: &[&[u8]]| lines.get(at..at + block.len()).is_some_and(|found| found == block);
    if trusted && said >= from && fits(said, &old) {
        return Ok(said);
    }
    if old.is_empty() {
        return Err("only adds lines, so nothing says where they belong now".into());
    }
    let places: Vec<usize> = (from..lines.len()).filter(|at| fits(*at, &old)).collect();
    match places.as_slice() {
        [only] => Ok(*only),
        [] => Err(why_nowhere(lines, said, hunk, &old, fits(said, &side(hunk, false)))),
        several => {
            let shown: Vec<String> = several.iter().take(4).map(|at| (at + 1).to_string()).collect();
            Err(format!(
                "is not where it says and fits at {} places (lines {}…); refresh the patch",
                several.len(),
                shown.join(", ")
            ))
        }
    }
}

/// The lines that a hunk wants to find (or to leave).
fn side<'a>(hunk: &Hunk<'a, [u8]>, old: bool) -> Vec<&'a [u8]> {
    let lines = hunk.lines().iter();
    lines
        .filter_map(|line| match line {
            Line::Context(line) => Some(*line),
            Line::Delete(line) => old.then_some(*line),
            Line::Insert(line) => (!old).then_some(*line),
        })
        .collect()
}

/// Says what is different at the place that the hunk names.
fn why_nowhere(lines: &[&[u8]], said: usize, hunk: &Hunk<'_, [u8]>, old: &[&[u8]], done: bool) -> String {
    let changes = hunk.lines().iter().any(|line| !matches!(line, Line::Context(_)));
    if done && changes {
        return "does not fit; the file looks as if it were applied already".into();
    }
    let differs = old.iter().enumerate().find(|(index, line)| lines.get(said + index) != Some(line));
    let Some((index, wanted)) = differs else { return "does not fit after the hunk before it".into() };
    let found = match lines.get(said + index) {
        Some(found) if found.trim_ascii_end() == wanted.trim_ascii_end() => "differs only in its blanks or line end".to_owned(),
        Some(found) => format!("is {}", quoted(found)),
        None => format!("does not exist (the file has {})", lines.len()),
    };
    format!("does not fit: line {} {found}, the patch wants {}", said + index + 1, quoted(wanted))
}

fn quoted(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.trim_ascii_end());
    let short: String = text.chars().take(120).collect();
    format!("{short:?}")
}

/// A name from a diff without its first part.
fn stripped(name: &[u8]) -> Result<PathBuf, String> {
    let Some(slash) = name.iter().position(|byte| *byte == b'/') else {
        return Err(format!("the name {} has no folder to strip; patches are applied with -p1 (a/NAME, b/NAME)", quoted(name)));
    };
    inside(&name[slash + 1..])
}

/// A name that stays inside the tree.
fn inside(name: &[u8]) -> Result<PathBuf, String> {
    let path = Path::new(OsStr::from_bytes(name));
    if crate::stack::lock::stays_inside(path) && !name.contains(&0) {
        return Ok(path.to_owned());
    }
    Err(format!("the name {} leads out of the tree", quoted(name)))
}
