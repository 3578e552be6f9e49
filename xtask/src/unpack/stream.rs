//! The plain tar inside an archive, decompressed by a thread of its own.

use crate::error::Kind;
use anyhow::Context as _;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How much travels at once between the thread that decompresses and the one that writes. Large enough that handing over
/// costs nothing, small enough to stay in a core's second-level cache.
pub(super) const PIECE: usize = 256 * 1024;

/// How many pieces may be under way: with [`PIECE`] this bounds the memory of an unpack.
const PIECES: usize = 8;

/// The stream inside an archive, by the decompressor that its first bytes ask for.
///
/// # Errors
/// [`Kind::Integrity`] when it is no archive that is known here; else when it cannot be read.
pub fn stream(archive: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    let shown = archive.display();
    let file = File::open(archive).with_context(|| format!("cannot read {shown}"))?;
    let mut file = BufReader::with_capacity(PIECE, file);
    let head = file.fill_buf().with_context(|| format!("cannot read {shown}"))?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(xz2::bufread::XzDecoder::new_multi_decoder(file)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            return Err(Kind::Integrity
                .error(format!("cannot unpack {shown}: packed by zstd, which is not supported; pin the .tar.gz or .tar.xz")));
        }
        head if looks_like_tar(head) => Box::new(file),
        head => {
            let begins = String::from_utf8_lossy(&head[..head.len().min(24)]).into_owned();
            return Err(Kind::Integrity
                .error(format!("cannot unpack {shown}: no archive that is known here; it begins with {begins:?}")));
        }
    })
}

/// Whether these are the first bytes of a tar: the header's own checksum fits.
fn looks_like_tar(head: &[u8]) -> bool {
    let Some(header) = head.get(..512) else { return false };
    let sum: u32 =
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    tar::Header::from_byte_slice(header).cksum().is_ok_and(|said| said == sum)
}

/// What the decompressing thread hands over: some bytes, or why there are no more.
pub(super) type Piece = io::Result<Vec<u8>>;

/// Reads everything and hands it over piece by piece; ends early when nobody listens any more.
pub(super) fn decompress(mut source: Box<dyn Read + Send>, full: &SyncSender<Piece>, emptied: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = emptied.try_recv().ok().filter(|piece| piece.len() == PIECE).unwrap_or_else(|| vec![0; PIECE]);
        let mut filled = 0;
        let failed = loop {
            match source.read(&mut piece[filled..]) {
                Ok(0) => break None,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
            if filled == piece.len() {
                break None;
            }
        };
        let ended = filled < piece.len();
        piece.truncate(filled);
        if filled > 0 && full.send(Ok(piece)).is_err() {
            return;
        }
        if let Some(error) = failed {
            // The listener may be gone already, then it does not matter.
            let _ = full.send(Err(error));
            return;
        }
        if ended {
            return;
        }
    }
}

/// The reading end: what the other thread decompressed, as one stream.
pub(super) struct Pieces {
    full: Receiver<Piece>,
    emptied: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    /// The stream has ended. A tar that ends before its end mark is seen by this.
    pub(super) ended: bool,
    /// How much may be read on; see [`Allowance`].
    allowance: Allowance,
}

/// How many bytes of the stream may be read until it is set anew: what describes an entry (long names, attributes) is held in
/// memory by the library that parses it, so that it must not be of any length.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowance(Rc<Cell<u64>>);

impl Allowance {
    pub(super) fn set(&self, bytes: u64) {
        self.0.set(bytes);
    }
}

impl Pieces {
    /// The two ends of the thread that decompresses, and this one, which at first may read nothing.
    pub(super) fn new(allowance: Allowance) -> (SyncSender<Piece>, Receiver<Vec<u8>>, Self) {
        let (send_full, full) = sync_channel(PIECES);
        let (emptied, take_emptied) = sync_channel(PIECES);
        (send_full, take_emptied, Self { full, emptied, piece: Vec::new(), at: 0, ended: false, allowance })
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !into.is_empty() {
            let Ok(next) = self.full.recv() else {
                self.ended = true;
                return Ok(0);
            };
            let old = std::mem::replace(&mut self.piece, next?);
            self.at = 0;
            // A full channel only means that the piece is not used again.
            let _ = self.emptied.try_send(old);
        }
        let left = self.allowance.0.get();
        let count = into.len().min(self.piece.len() - self.at).min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 && !into.is_empty() {
            return Err(io::Error::other("what describes an entry is longer than any name or attribute"));
        }
        self.allowance.set(left - count as u64);
        into[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
