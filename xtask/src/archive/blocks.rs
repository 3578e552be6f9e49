//! Where the tar stream is cut into blocks: decided from names and sizes alone, so that a change somewhere leaves the blocks
//! elsewhere as they were.

use super::tree::{Entry, RECORD};

/// No block is longer, in bytes. Blocks start without what a compressor may look back on (32 KiB for deflate), so they
/// should be many times that; and each core holds one.
pub(super) const LARGEST: u64 = 2 * 1024 * 1024;

/// A block is not ended by a name before it is so long, in bytes.
pub(super) const SMALLEST: u64 = 256 * 1024;

/// The mean distance of names that may end a block, in bytes. Well above [`SMALLEST`], so that two runs that cut
/// differently because of a change soon meet at the same name again.
const TARGET: u64 = 1024 * 1024;

/// A file of this size or more has blocks of its own.
pub(super) const LARGE_FILE: u64 = LARGEST / 2;

/// A part of an entry: its header if it begins at 0, so many bytes of its content, and the padding if it ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) entry: usize,
    pub(super) from: u64,
    pub(super) length: u64,
}

/// Cuts the tar stream into blocks.
pub(super) fn plan(entries: &[Entry]) -> Vec<Vec<Piece>> {
    let mut blocks = Vec::new();
    let mut block: Vec<Piece> = Vec::new();
    let mut length = 0;
    for (index, entry) in entries.iter().enumerate() {
        let size = entry.size().unwrap_or(0);
        let whole = size + 2 * RECORD as u64;
        let ends = (length >= SMALLEST && may_end_before(&entry.name, whole)) || entry.is_signature();
        if !block.is_empty() && (size >= LARGE_FILE || length + whole > LARGEST || ends) {
            blocks.push(std::mem::take(&mut block));
            length = 0;
        }
        if size < LARGE_FILE {
            block.push(Piece { entry: index, from: 0, length: size });
            length += whole;
            continue;
        }
        let starts = (0..size).step_by(LARGEST as usize);
        blocks.extend(starts.map(|from| vec![Piece { entry: index, from, length: LARGEST.min(size - from) }]));
    }
    if !block.is_empty() {
        blocks.push(block);
    }
    // The last one has the end mark alone, so that a signature can be put before it.
    blocks.push(Vec::new());
    blocks
}

/// Whether a block may end before this entry of `whole` bytes: its name's hash (FNV-1a) decides, and the larger the entry,
/// the likelier, so that the distance does not depend on how large the files are.
fn may_end_before(name: &[u8], whole: u64) -> bool {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    // The hash's last bytes mix poorly into its upper bits; one more turn mends that.
    let mixed = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    u64::from(mixed ^ (mixed >> 13)) * TARGET < whole << 32
}
