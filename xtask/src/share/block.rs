//! Blocks: pieces of a result's stream, compressed each by itself (zlib), named by the hash of what is stored.
//!
//! Pieces of a fixed size make everything else simple: an upload is one request on every kind of store, no unfinished
//! upload is left behind, a result is fetched and checked piece by piece with little memory, and what is there already is
//! not sent again.

use crate::fingerprint;
use libdeflater::{CompressionLvl, Compressor, Decompressor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Bytes of a result's stream in each block; the last one may be shorter.
pub const BLOCK: usize = 2 * 1024 * 1024;

/// Little work for most of the gain: results are sent while others are compiled.
const LEVEL: i32 = 3;

/// A block as a record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    /// Of what is stored, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Bytes that are stored.
    pub stored: u64,
    /// Bytes that they unpack to.
    pub size: u64,
}

impl BlockRef {
    /// Why this can be no block: what a record says decides what is asked for and how much memory is taken.
    pub fn fault(&self) -> Option<String> {
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Some("names a block by something that is no hash".to_owned());
        }
        if self.size == 0 || self.size > BLOCK as u64 {
            return Some(format!("has a block of {} bytes", self.size));
        }
        // What zlib adds to bytes that cannot be compressed is far less.
        if self.stored == 0 || self.stored > self.size + self.size / 1000 + 1024 {
            return Some(format!("has a block of {} bytes that takes {}", self.size, self.stored));
        }
        None
    }
}

/// Makes a block of some bytes of a stream.
///
/// # Errors
/// When the library's buffer does not suffice, which its own bound rules out.
pub fn pack(bytes: &[u8]) -> anyhow::Result<(BlockRef, Vec<u8>)> {
    // The level is one of those that exist.
    let level = CompressionLvl::new(LEVEL).unwrap_or_default();
    let mut compressor = Compressor::new(level);
    let mut stored = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let length = compressor.zlib_compress(bytes, &mut stored).map_err(|error| anyhow::anyhow!("cannot compress: {error}"))?;
    stored.truncate(length);
    let sha256 = fingerprint::hex(&Sha256::digest(&stored));
    Ok((BlockRef { sha256, stored: length as u64, size: bytes.len() as u64 }, stored))
}

/// Unpacks a block that was checked to be the one that was asked for.
///
/// # Errors
/// Why it cannot be, in words.
pub fn unpack(block: &BlockRef, stored: &[u8]) -> Result<Vec<u8>, String> {
    let size = usize::try_from(block.size).ok().filter(|size| *size <= BLOCK).ok_or("is too large")?;
    let mut bytes = vec![0; size];
    match Decompressor::new().zlib_decompress(stored, &mut bytes) {
        Ok(length) if length == size => Ok(bytes),
        Ok(length) => Err(format!("unpacks to {length} bytes instead of {size}")),
        Err(error) => Err(format!("cannot be unpacked: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_a_lie_about_their_number_is_seen() {
        for bytes in [b"x".to_vec(), vec![7; BLOCK], (0..BLOCK).map(|at| ((at * at) >> 7) as u8).collect()] {
            let (block, stored) = pack(&bytes).unwrap();
            assert_eq!(block.fault(), None);
            assert!(unpack(&block, &stored).unwrap() == bytes);
            for size in [block.size - 1, block.size + 1, u64::MAX] {
                assert!(unpack(&BlockRef { size, ..block.clone() }, &stored).is_err());
            }
        }
        let (block, _) = pack(b"x").unwrap();
        let lies = [
            BlockRef { sha256: "../../etc/passwd".into(), ..block.clone() },
            BlockRef { size: BLOCK as u64 + 1, ..block.clone() },
            BlockRef { stored: 1 << 40, ..block },
        ];
        assert!(lies.iter().all(|lie| lie.fault().is_some()));
    }
}
