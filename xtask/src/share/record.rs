//! Records: which blocks a result is. A record is text, its own hash first:
//!
//! ```text
//! <sha256 of the rest, 64 hexadecimal digits>
//! {"format":1,"component":"…","slot":"…","key":"…","size":…,"blocks":[{"sha256":"…","stored":…,"size":…},…]}
//! ```

use super::Name;
use super::block::{BLOCK, BlockRef};
use crate::fingerprint;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Raised when a record of the old form cannot be used any more; then `v1` becomes `v2`, too.
const FORMAT: u32 = 1;

/// No result is larger, in bytes: ten times what any component of a monitoring bundle has been seen to have.
pub const LARGEST: u64 = 8 * 1024 * 1024 * 1024;

/// No record is longer, in bytes: enough for the blocks of [`LARGEST`].
pub const LONGEST: u64 = 1024 * 1024;

/// Which blocks a result is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    component: String,
    slot: String,
    key: String,
    /// Bytes of the result's stream.
    pub size: u64,
    /// Its pieces, in order.
    pub blocks: Vec<BlockRef>,
}

impl Record {
    /// The record of a result that was cut into these blocks.
    pub fn new(name: &Name, blocks: Vec<BlockRef>) -> Self {
        let size = blocks.iter().map(|block| block.size).sum();
        let (component, slot, key) = (name.component.clone(), name.slot.clone(), name.key.clone());
        Self { format: FORMAT, component, slot, key, size, blocks }
    }

    /// Bytes that are stored for it.
    pub fn stored(&self) -> u64 {
        self.blocks.iter().map(|block| block.stored).sum()
    }

    /// The record as it is written down.
    ///
    /// # Errors
    /// None that can come about with these types.
    pub fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        let text = serde_json::to_string(self)?;
        Ok(format!("{}\n{text}\n", fingerprint::hex(&Sha256::digest(format!("{text}\n")))).into_bytes())
    }

    /// Reads a record that is to be the one of `name`.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn parse(bytes: &[u8], name: &Name) -> Result<Self, String> {
        let (head, text) = bytes.split_at_checked(65).ok_or("is cut short")?;
        if head != format!("{}\n", fingerprint::hex(&Sha256::digest(text))).as_bytes() {
            return Err("does not have the hash that it begins with".to_owned());
        }
        let record: Self = serde_json::from_slice(text).map_err(|error| format!("cannot be understood: {error}"))?;
        if record.format != FORMAT {
            return Err(format!("is of form {}, not {FORMAT}", record.format));
        }
        if (&record.component, &record.slot, &record.key) != (&name.component, &name.slot, &name.key) {
            return Err("is that of another result".to_owned());
        }
        if let Some(fault) = record.blocks.iter().find_map(BlockRef::fault) {
            return Err(fault);
        }
        let full = record.blocks.iter().rev().skip(1).all(|block| block.size == BLOCK as u64);
        let size = record.blocks.iter().try_fold(0_u64, |sum, block| sum.checked_add(block.size));
        match size {
            Some(size) if size > LARGEST => Err(format!("claims {size} bytes, more than any result has")),
            Some(size) if size == record.size && full && size > 0 => Ok(record),
            _ => Err("does not add up".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(size: u64) -> BlockRef {
        BlockRef { sha256: "a".repeat(64), stored: size, size }
    }

    #[test]
    fn a_record_says_by_itself_whether_it_is_whole_and_absurd_ones_are_refused() {
        let name = Name { component: "thing".into(), slot: "collect".into(), key: "0".repeat(64) };
        let record = Record::new(&name, vec![block(BLOCK as u64), block(5)]);
        let bytes = record.bytes().unwrap();
        assert_eq!(Record::parse(&bytes, &name).unwrap(), record);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Record::parse(&damaged, &name).is_err(), "byte {at}");
            assert!(Record::parse(&bytes[..at], &name).is_err(), "cut at {at}");
        }
        let other = Name { key: "1".repeat(64), ..name.clone() };
        assert!(Record::parse(&bytes, &other).unwrap_err().contains("another result"));
        let many = usize::try_from(LARGEST / BLOCK as u64).unwrap();
        let largest = Record::new(&name, vec![block(BLOCK as u64); many]).bytes().unwrap();
        assert!(largest.len() as u64 <= LONGEST && Record::parse(&largest, &name).is_ok());
        let absurd = [
            Record::new(&name, vec![block(BLOCK as u64); many + 1]),
            Record::new(&name, vec![block(5), block(BLOCK as u64)]),
            Record::new(&name, vec![block(u64::MAX)]),
            Record::new(&name, Vec::new()),
            Record { size: 6, ..record.clone() },
            Record { format: 2, ..record },
        ];
        for record in absurd {
            assert!(Record::parse(&record.bytes().unwrap(), &name).is_err());
        }
    }
}
