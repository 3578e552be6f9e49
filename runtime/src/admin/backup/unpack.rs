//! Reading the archive: into a folder, or only to see whether it is whole.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

use super::{ABOUT, About, SCHEMA, SUMS, TOP};
use crate::install::build::make_folder;
use crate::integrity::hex;

/// Zeros of this length are not written: whisper files consist of them mostly.
const BLOCK: usize = 4096;
/// The description and a link may have this many bytes.
const SMALL: u64 = 1 << 20;

/// Reads a backup. `begin` is told what it is of, and says which folder to make of it; none: it is only looked at. Gives that and how many
/// files it has.
pub fn read(from: impl Read, begin: impl FnOnce(&About) -> Result<Option<PathBuf>>) -> Result<(About, u64)> {
    let from: Box<dyn Read + '_> = Box::new(GzDecoder::new(from));
    let mut tar = Archive::new(from);
    let mut entries = tar.entries()?;
    let mut hashes: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut links = Vec::new();
    let mut folders = Vec::new();
    let mut first = entries.next().context("it is empty")?.context("it is no backup")?;
    if first.path()? != Path::new(TOP).join(ABOUT) {
        bail!("it is no backup of a data folder");
    }
    let mut text = Vec::new();
    (&mut first).take(SMALL).read_to_end(&mut text)?;
    drop(first);
    let about: About = serde_json::from_slice(&text).context("its description cannot be understood")?;
    if about.schema != SCHEMA {
        bail!("its format is {}, and this version knows {SCHEMA}: use dkmadmin of version {}", about.schema, about.version);
    }
    let to = begin(&about)?;
    let mut compared = false;
    for entry in entries {
        let mut entry = entry.context("it is damaged or cut off")?;
        let path = entry.path()?.into_owned();
        if compared {
            bail!("it goes on behind its end, with {}", path.display());
        }
        if path == Path::new(TOP).join(SUMS) {
            let mut sums = Vec::new();
            entry.read_to_end(&mut sums).context("it is damaged or cut off")?;
            compare(&sums, &hashes)?;
            compared = true;
            continue;
        }
        let inside = path.strip_prefix(Path::new(TOP).join("data")).ok().filter(|inside| is_plain(inside));
        let inside = inside.with_context(|| format!("it holds {}, which no backup does", path.display()))?;
        let place = to.as_ref().map(|to| to.join(inside));
        let mode = entry.header().mode()? & 0o777;
        match entry.header().entry_type() {
            EntryType::Directory => {
                if let Some(place) = place {
                    make_folder(&place)?;
                    folders.push((place, mode));
                }
            }
            // Made last, so that nothing is written through one.
            EntryType::Symlink => {
                let target = entry.link_name()?.context("it holds a link to nowhere")?.into_owned();
                links.extend(place.map(|place| (place, target)));
            }
            EntryType::Regular => {
                let time = UNIX_EPOCH + Duration::from_secs(entry.header().mtime()?);
                let mut out = place.as_ref().map(|place| Out::make(place, mode)).transpose()?;
                let hash = copy(&mut entry, out.as_mut()).with_context(|| format!("cannot restore {}", inside.display()))?;
                if let Some(out) = out {
                    out.end(time).with_context(|| format!("cannot restore {}", inside.display()))?;
                }
                hashes.insert(Path::new("data").join(inside), hash);
            }
            _ => bail!("it holds {}, which is neither file nor folder nor link", path.display()),
        }
    }
    if !compared {
        bail!("it is cut off: its end, {SUMS}, is missing");
    }
    // The compression has a sum of its own at the very end.
    io::copy(&mut tar.into_inner(), &mut io::sink()).context("it is damaged or cut off")?;
    if let Some(to) = &to {
        finish(to, &links, &folders)?;
    }
    Ok((about, hashes.len() as u64))
}

/// A path that stays where it is put.
fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_))) && path.components().next().is_some()
}

/// A file that is made.
struct Out {
    file: File,
    length: u64,
}

impl Out {
    fn make(path: &Path, mode: u32) -> Result<Self> {
        make_folder(path.parent().unwrap_or(path))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let file = file.and_then(|file| file.set_permissions(Permissions::from_mode(mode)).map(|()| file));
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { file, length: 0 })
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for block in bytes.chunks(BLOCK) {
            self.length += block.len() as u64;
            if block.iter().all(|&byte| byte == 0) {
                self.file.seek(SeekFrom::Start(self.length))?;
            } else {
                self.file.write_all(block)?;
            }
        }
        Ok(())
    }

    fn end(self, time: std::time::SystemTime) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.set_modified(time)
    }
}

/// Copies a file's content; its hash.
fn copy(from: &mut impl Read, mut to: Option<&mut Out>) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * BLOCK];
    loop {
        // Filled as far as it goes, so that blocks of zeros are found.
        let mut count = 0;
        while count < buffer.len() {
            match from.read(&mut buffer[count..])? {
                0 => break,
                more => count += more,
            }
        }
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        if let Some(to) = to.as_deref_mut() {
            to.take(&buffer[..count])?;
        }
    }
}

/// Holds what was read against SHA256SUMS.
fn compare(sums: &[u8], found: &BTreeMap<PathBuf, String>) -> Result<()> {
    let mut left: BTreeMap<&Path, &str> = found.iter().map(|(path, hash)| (path.as_path(), hash.as_str())).collect();
    for line in sums.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let (line, escaped) = line.strip_prefix(b"\\").map_or((line, false), |line| (line, true));
        let (hash, name) = line.split_at_checked(64).context("its SHA256SUMS cannot be understood")?;
        let name = name.strip_prefix(b"  ").context("its SHA256SUMS cannot be understood")?;
        let name = if escaped { unescaped(name) } else { name.to_vec() };
        let path = Path::new(OsStr::from_bytes(&name));
        match left.remove(path) {
            Some(found) if found.as_bytes() == hash => {}
            Some(_) => bail!("it is damaged: {} is not what was backed up", path.display()),
            None => bail!("it is damaged: {} is missing", path.display()),
        }
    }
    if let Some((path, _)) = left.first_key_value() {
        bail!("it is damaged: {} was not backed up", path.display());
    }
    Ok(())
}

fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                _ => b'\\',
            },
            other => other,
        });
    }
    out
}

/// Makes the links, and gives the folders their modes, those inside first.
fn finish(to: &Path, links: &[(PathBuf, PathBuf)], folders: &[(PathBuf, u32)]) -> Result<()> {
    for (place, target) in links {
        symlink(target, place).with_context(|| format!("cannot make the link {}", place.display()))?;
    }
    for (place, mode) in folders.iter().rev() {
        fs::set_permissions(place, Permissions::from_mode(*mode))
            .with_context(|| format!("cannot set the mode of {}", place.display()))?;
    }
    fs::set_permissions(to, Permissions::from_mode(0o700)).with_context(|| format!("cannot set the mode of {}", to.display()))
}
