//! The files that account for a bundle, written piece by piece: none of them is ever whole in memory, however much there is to tell.

use crate::error::{Kind, WithKind as _};
use crate::fingerprint::{Entry, EntryKind, hex};
use serde::Serialize;
use serde::ser::{Error as _, SerializeSeq as _, Serializer};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Files of a bundle that come from no component, by their paths in it.
pub struct Papers {
    folder: Option<PathBuf>,
    made: BTreeMap<PathBuf, Made>,
    /// How many were written, those that others have replaced included.
    count: usize,
}

/// A file that was written.
struct Made {
    size: u64,
    sha256: String,
    /// Where it lies until it has its place; none where only its hash is wanted.
    file: Option<PathBuf>,
}

impl Papers {
    /// Papers that are kept in this folder, under names of their own, until they are taken from there.
    pub fn below(folder: PathBuf) -> Self {
        Self { folder: Some(folder), made: BTreeMap::new(), count: 0 }
    }

    /// Papers that are written nowhere: only what they would be is wanted.
    pub fn nowhere() -> Self {
        Self { folder: None, made: BTreeMap::new(), count: 0 }
    }

    /// Writes one of them; one of the same path is replaced.
    ///
    /// # Errors
    /// When it cannot be written, or what `content` fails with.
    pub fn write(
        &mut self,
        path: impl Into<PathBuf>,
        content: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let path = path.into();
        let file = self.folder.as_ref().map(|folder| folder.join(self.count.to_string()));
        self.count += 1;
        let made = written(file, content).kind(Kind::Stage, || format!("cannot write {}", path.display()))?;
        self.made.insert(path, made);
        Ok(())
    }

    /// Writes one of them as JSON, as [`serde_json::to_vec_pretty`] would.
    ///
    /// # Errors
    /// When it cannot be written, or the value not be read.
    pub fn json(&mut self, path: impl Into<PathBuf>, value: &impl Serialize) -> anyhow::Result<()> {
        self.write(path, |out| {
            // As what it was: a full disk is known by that.
            serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
            Ok(out.write_all(b"\n")?)
        })
    }

    /// All of them as a tree has them.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.made.iter().map(|(path, made)| Entry {
            path: path.clone(),
            kind: EntryKind::File { size: made.size, mode: 0o644, sha256: made.sha256.clone() },
        })
    }

    /// Where the one of this path lies.
    pub fn file(&self, path: &Path) -> Option<&Path> {
        self.made.get(path)?.file.as_deref()
    }
}

/// Writes a file, or only finds out what it would be.
fn written(file: Option<PathBuf>, content: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<Made> {
    let target = file.as_ref().map(File::create).transpose()?;
    let mut pen = BufWriter::new(Pen { target, hash: Sha256::new(), size: 0 });
    content(&mut pen)?;
    let pen = pen.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(Made { size: pen.size, sha256: hex(&pen.hash.finalize()), file })
}

/// Hashes what goes through it.
struct Pen {
    target: Option<File>,
    hash: Sha256,
    size: u64,
}

impl Write for Pen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(target) = &mut self.target {
            target.write_all(bytes)?;
        }
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A hash over what is written.
#[derive(Default)]
pub struct Hashing(pub Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A list whose members are made one by one while it is written, each time anew.
pub struct Sequence<F>(pub F);

impl<F, I, T> Serialize for Sequence<F>
where
    F: Fn() -> I,
    I: Iterator<Item = anyhow::Result<T>>,
    T: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for member in (self.0)() {
            list.serialize_element(&member.map_err(|error| S::Error::custom(format!("{error:#}")))?)?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paper_is_the_same_whether_it_is_kept_or_only_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let list = Sequence(|| (0..3).map(|at| anyhow::Ok(serde_json::json!({ "at": at }))));
        let (mut kept, mut hashed) = (Papers::below(folder.path().to_owned()), Papers::nowhere());
        for papers in [&mut kept, &mut hashed] {
            papers.json("a", &list).unwrap();
            papers.write("b", |out| Ok(out.write_all(b"old")?)).unwrap();
            papers.write("b", |out| Ok(out.write_all(b"new")?)).unwrap();
            papers.json("none", &Sequence(std::iter::empty::<anyhow::Result<u8>>)).unwrap();
        }
        assert_eq!(kept.entries().collect::<Vec<_>>(), hashed.entries().collect::<Vec<_>>());
        let read = |path: &str| std::fs::read_to_string(kept.file(Path::new(path)).unwrap()).unwrap();
        let whole = serde_json::json!([{ "at": 0 }, { "at": 1 }, { "at": 2 }]);
        assert_eq!(read("a"), serde_json::to_string_pretty(&whole).unwrap() + "\n");
        assert_eq!((read("b"), read("none")), ("new".to_owned(), "[]\n".to_owned()));
        assert!(hashed.file(Path::new("a")).is_none());
        let failing = Sequence(|| std::iter::once(Err::<u8, _>(anyhow::anyhow!("it is gone"))));
        let error = kept.json("c", &failing).unwrap_err();
        assert!(format!("{error:#}").contains("it is gone"), "{error:#}");
    }
}
