//! Writing the archive.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{ABOUT, About, SCHEMA, SUMS, TOP, now};
use crate::home::Home;
use crate::install::{database, switch};
use crate::integrity::hex;

/// What is left out of a data folder: it belongs to what runs, or is no more than a way back.
const LEFT_OUT: [&str; 3] = ["run", switch::PREVIOUS, switch::DRAFT];
/// How a SQLite database begins.
const DATABASE: &[u8] = b"SQLite format 3\0";
/// What SQLite keeps beside a database.
const BESIDE_DATABASES: [&str; 3] = ["-wal", "-shm", "-journal"];
/// A file up to this size is read before its length is written down.
const WHOLE: u64 = 8 << 20;
/// How long a file that somebody has locked is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something in a data folder: its path there, where it really is, and what it is.
type Visit<'a> = dyn FnMut(&Path, &Path, &Metadata) -> Result<()> + 'a;

/// What is to be backed up.
pub fn about(home: &Home) -> Result<About> {
    let record = home.record()?;
    let meta = fs::metadata(home.root()).with_context(|| format!("cannot look at {}", home.root().display()))?;
    let (mut bytes, mut files) = (0, 0);
    walk(home.root(), Path::new(""), home.root(), &mut |_, _, meta| {
        (bytes, files) = (bytes + meta.blocks() * 512, files + u64::from(meta.is_file()));
        Ok(())
    })?;
    Ok(About {
        schema: SCHEMA,
        version: record.version,
        stack: record.stack,
        made: now(),
        data: home.root().to_owned(),
        hostname: record.hostname,
        uid: meta.uid(),
        gid: meta.gid(),
        bytes,
        files,
    })
}

/// Shows everything below a folder, folders before what is in them. Links that lead out of the data folder to another folder are followed in
/// `storage`: its owner has put it on another disk. Root does not follow them to what is not his, and he may not read.
fn walk(root: &Path, inside: &Path, real: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let cannot = || format!("cannot look into {}", real.display());
    let mut entries: Vec<_> = fs::read_dir(real).with_context(cannot)?.collect::<io::Result<_>>().with_context(cannot)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (inside.join(entry.file_name()), entry.path());
        if LEFT_OUT.iter().any(|left_out| path == Path::new(left_out)) {
            continue;
        }
        // What was listed may be gone.
        let Ok(mut meta) = fs::symlink_metadata(&name) else { continue };
        if meta.is_symlink() && path.starts_with("storage") {
            let leads_out = name.canonicalize().is_ok_and(|real| !real.starts_with(root));
            if let Ok(behind) = fs::metadata(&name)
                && leads_out
                && behind.is_dir()
            {
                if behind.uid() != meta.uid() && nix::unistd::geteuid().is_root() {
                    bail!(
                        "cannot back up {}: it leads to a folder of somebody else; do it as the data folder's owner",
                        name.display()
                    );
                }
                meta = behind;
            }
        }
        visit(&path, &name, &meta)?;
        if meta.is_dir() {
            walk(root, &path, &name, visit)?;
        }
    }
    Ok(())
}

/// What compresses it on its way.
pub type Packed<'a> = GzEncoder<Box<dyn Write + 'a>>;

/// The archive while it is written.
pub struct Archive<'a> {
    tar: Builder<Packed<'a>>,
    sums: Vec<u8>,
    buffer: Vec<u8>,
    files: u64,
    databases: u64,
    bytes: u64,
}

impl<'a> Archive<'a> {
    /// Begins it.
    pub fn begin(to: Packed<'a>, about: &About) -> Result<Self> {
        let mut tar = Builder::new(to);
        let text = serde_json::to_vec_pretty(about)?;
        add(&mut tar, &Path::new(TOP).join(ABOUT), None, &mut &*text, text.len() as u64)?;
        Ok(Self { tar, sums: Vec::new(), buffer: Vec::new(), files: 0, databases: 0, bytes: 0 })
    }

    /// Ends it; what it holds, in words.
    pub fn end(mut self) -> Result<String> {
        let sums = std::mem::take(&mut self.sums);
        add(&mut self.tar, &Path::new(TOP).join(SUMS), None, &mut &*sums, sums.len() as u64)?;
        let written = self.tar.into_inner().and_then(GzEncoder::finish).and_then(|mut to| to.flush());
        written.context("cannot write the backup")?;
        Ok(format!("{} files, {} kB, {} databases", self.files, self.bytes.div_ceil(1000), self.databases))
    }

    /// Adds all of a data folder.
    pub fn folder(&mut self, home: &Home, scratch: &Path) -> Result<()> {
        walk(home.root(), Path::new(""), home.root(), &mut |path, real, meta| {
            let kind = meta.file_type();
            let cannot = || format!("cannot back up {}", real.display());
            if kind.is_dir() {
                let mut header = header(Some(meta), EntryType::Directory, 0);
                self.tar.append_data(&mut header, inside(path), io::empty()).with_context(cannot)
            } else if kind.is_symlink() {
                let target = fs::read_link(real).with_context(cannot)?;
                let mut header = header(Some(meta), EntryType::Symlink, 0);
                self.tar.append_link(&mut header, inside(path), target).with_context(cannot)
            } else if kind.is_file() {
                self.file(path, real, scratch).with_context(cannot)
            } else {
                // Sockets and pipes belong to what runs.
                Ok(())
            }
        })
    }

    /// Adds a file.
    fn file(&mut self, path: &Path, real: &Path, scratch: &Path) -> Result<()> {
        if beside_database(real) {
            return Ok(());
        }
        // It may have become something else since it was looked at.
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(real);
        let mut file = match open {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        if path.starts_with("storage") {
            if is_database(&mut file)? {
                drop(file);
                return self.database(path, real, scratch);
            }
            share(&file)?;
        }
        self.opened(path, file)
    }

    /// Adds a database, and what belongs to it.
    fn database(&mut self, path: &Path, real: &Path, scratch: &Path) -> Result<()> {
        let copy = scratch.join("database");
        database::copy(real, &copy)?;
        self.databases += 1;
        for ending in ["", "-wal", "-journal"] {
            let with =
                |path: &Path| PathBuf::from([path.as_os_str(), ending.as_ref()].into_iter().collect::<std::ffi::OsString>());
            let copy = with(&copy);
            if copy.exists() {
                self.opened(&with(path), File::open(&copy)?)?;
                fs::remove_file(&copy)?;
            }
        }
        Ok(())
    }

    fn opened(&mut self, path: &Path, mut file: File) -> Result<()> {
        let meta = file.metadata()?;
        let name = inside(path);
        let hash = if meta.len() <= WHOLE {
            self.buffer.clear();
            file.read_to_end(&mut self.buffer)?;
            self.bytes += self.buffer.len() as u64;
            add(&mut self.tar, &name, Some(&meta), &mut &*self.buffer, self.buffer.len() as u64)?;
            Sha256::digest(&self.buffer)
        } else {
            let mut hashing = Hashing { inner: file.take(meta.len()), hasher: Sha256::new(), count: 0 };
            add(&mut self.tar, &name, Some(&meta), &mut hashing, meta.len())?;
            if hashing.count != meta.len() {
                bail!("it became shorter while it was read; try again");
            }
            self.bytes += meta.len();
            hashing.hasher.finalize()
        };
        self.files += 1;
        self.sums.extend(sum_line(&hex(&hash), &Path::new("data").join(path)));
        Ok(())
    }
}

/// Where something of the data folder is in the archive.
fn inside(path: &Path) -> PathBuf {
    Path::new(TOP).join("data").join(path)
}

/// A line of SHA256SUMS: names with a line end or a backslash are escaped, and the line says so by its first byte.
fn sum_line(hash: &str, path: &Path) -> Vec<u8> {
    let (mut name, mut escaped) = (Vec::new(), false);
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'\\' => name.extend(b"\\\\"),
            b'\n' => name.extend(b"\\n"),
            b'\r' => name.extend(b"\\r"),
            _ => {
                name.push(byte);
                continue;
            }
        }
        escaped = true;
    }
    [if escaped { &b"\\"[..] } else { b"" }, hash.as_bytes(), b"  ", &name, b"\n"].concat()
}

fn header(meta: Option<&Metadata>, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(meta.map_or(0o600, |meta| meta.mode() & 0o7777));
    header.set_mtime(meta.map_or(0, |meta| u64::try_from(meta.mtime()).unwrap_or(0)));
    header.set_uid(meta.map_or(0, |meta| meta.uid().into()));
    header.set_gid(meta.map_or(0, |meta| meta.gid().into()));
    header
}

fn add(
    tar: &mut Builder<Packed<'_>>,
    path: &Path,
    meta: Option<&Metadata>,
    content: &mut dyn Read,
    size: u64,
) -> io::Result<()> {
    tar.append_data(&mut header(meta, EntryType::Regular, size), path, content)
}

/// What is read, hashed.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

/// Whether a file is one of those that SQLite keeps beside a database, which is copied with them.
fn beside_database(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    BESIDE_DATABASES.iter().any(|ending| {
        let base = name.strip_suffix(ending.as_bytes()).map(|base| Path::new(std::ffi::OsStr::from_bytes(base)));
        base.and_then(|base| File::open(base).ok()).is_some_and(|mut base| is_database(&mut base).unwrap_or(false))
    })
}

fn is_database(file: &mut File) -> io::Result<bool> {
    let mut begin = [0; DATABASE.len()];
    match std::os::unix::fs::FileExt::read_exact_at(file, &mut begin, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        done => done.map(|()| begin == DATABASE),
    }
}

/// Waits until nobody is writing to it: go-carbon locks each whisper file for the time of an update.
fn share(file: &File) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::WouldBlock) => bail!("somebody has had it locked for {} s", PATIENCE.as_secs()),
            // Some network file systems have no such locks; go-carbon cannot lock there either.
            Err(TryLockError::Error(_)) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_sha256sum() {
        let line = |name: &str| String::from_utf8(sum_line("aa", Path::new(name))).unwrap();
        assert_eq!(line("data/a b"), "aa  data/a b\n");
        assert_eq!(line("data/a\\\nb"), "\\aa  data/a\\\\\\nb\n");
    }
}
