//! A signature for an archive that is whole: put before its end, with nothing else packed again.

use super::format::{Format, Packer};
use super::output::Output;
use super::tree::{Entry, RECORD, Stamp, What, pad};
use crate::error::{Kind, WithKind as _};
use anyhow::Context as _;
use dkumonitor_interface::manifest::SIGNATURE_NAME;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// How much is copied at once.
const PIECE: usize = 1024 * 1024;

/// Writes `archive`, whose names are below `prefix/`, as `target`, with the signature of its manifest as the last entry; gives size
/// and checksum.
///
/// # Errors
/// [`Kind::Archive`] when `archive` was not written by this program in this form, or `target` cannot be written.
pub fn add_signature(
    archive: &Path,
    target: &Path,
    format: Format,
    (prefix, mtime): (&str, u64),
    signature: &[u8],
) -> anyhow::Result<(u64, String)> {
    add(archive, target, format, (prefix, mtime), signature)
        .kind(Kind::Archive, || format!("cannot put a signature into {}", archive.display()))
}

fn add(
    archive: &Path,
    target: &Path,
    format: Format,
    (prefix, mtime): (&str, u64),
    signature: &[u8],
) -> anyhow::Result<(u64, String)> {
    let mut packer = Packer::new(format)?;
    let (mut end, mut last) = (Vec::new(), Vec::new());
    packer.pack(&[0; 2 * RECORD], &mut end)?;
    packer.pack(&entry(prefix, mtime, signature), &mut last)?;
    let mut file = File::open(archive)?;
    let length = file.metadata()?.len();
    let body = length.checked_sub(end.len() as u64).context("it is too short for an archive")?;
    file.seek(SeekFrom::Start(body))?;
    let mut found = Vec::new();
    file.read_to_end(&mut found)?;
    anyhow::ensure!(found == end, "it does not end as this program ends archives; make it again with `package`");
    file.rewind()?;
    let mut output = Output::new(target)?;
    let mut piece = vec![0; PIECE];
    let mut left = body;
    while left > 0 {
        let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        file.read_exact(&mut piece[..wanted])?;
        output.add(&piece[..wanted])?;
        left -= wanted as u64;
    }
    output.add(&last)?;
    output.add(&end)?;
    output.finish(target)
}

/// The signature as an entry of the tar.
fn entry(prefix: &str, mtime: u64, content: &[u8]) -> Vec<u8> {
    let stamp = Stamp { inode: 0, size: content.len() as u64, modified: (0, 0) };
    let name = format!("{prefix}/{SIGNATURE_NAME}").into_bytes();
    let entry = Entry { name, path: PathBuf::new(), what: What::File { stamp, executable: false } };
    let mut bytes = entry.header(mtime);
    bytes.extend_from_slice(content);
    pad(&mut bytes);
    bytes
}
