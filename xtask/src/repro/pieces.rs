//! Where two contents differ, found piece by piece: neither of them is in memory for that.

use crate::archive::content::{Content, fill};
use std::io::{self, Read as _, Seek as _, SeekFrom};

/// So much of each is compared at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// A part of a content.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    content: &'a Content,
    from: u64,
    size: u64,
}

impl<'a> Part<'a> {
    /// All of it.
    pub fn all(content: &'a Content) -> Self {
        Self { content, from: 0, size: content.size() }
    }

    /// That from one byte on, of this size; an empty one where there is no such part.
    pub fn of(content: &'a Content, place: Option<(u64, u64)>) -> Self {
        let is_there = |(from, size): &(u64, u64)| from.checked_add(*size).is_some_and(|to| to <= content.size());
        let (from, size) = place.filter(is_there).unwrap_or_default();
        Self { content, from, size }
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its bytes between two places, as far as it has them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn bytes(&self, at: u64, to: u64) -> io::Result<Vec<u8>> {
        let (at, to) = (at.min(self.size), to.min(self.size));
        let (mut reader, mut bytes) = (self.content.reader(), Vec::new());
        reader.seek(SeekFrom::Start(self.from + at))?;
        reader.take(to - at).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// How many bytes at the beginning are those of another one.
    ///
    /// # Errors
    /// When either cannot be read.
    pub fn common(&self, other: &Self) -> io::Result<u64> {
        let reader = |part: &Self| {
            let mut reader = part.content.reader();
            reader.seek(SeekFrom::Start(part.from)).map(|_| reader.take(part.size))
        };
        let (mut one, mut two) = (reader(self)?, reader(other)?);
        let (mut a, mut b, mut common) = (vec![0; PIECE], vec![0; PIECE], 0);
        loop {
            let (a, b) = (&mut a[..], &mut b[..]);
            let (count, other_count) = (fill(&mut one, a)?, fill(&mut two, b)?);
            let (a, b) = (&a[..count], &b[..other_count]);
            if a != b {
                return Ok(common + a.iter().zip(b).take_while(|(a, b)| a == b).count() as u64);
            }
            common += count as u64;
            if count < PIECE {
                return Ok(common);
            }
        }
    }

    /// Whether it is the same as another one.
    ///
    /// # Errors
    /// When either cannot be read.
    pub fn is(&self, other: &Self) -> io::Result<bool> {
        Ok(self.size == other.size && self.common(other)? == self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_is_found_wherever_it_lies() {
        let one = vec![7; 3 * PIECE];
        for at in [0, 1, PIECE - 1, PIECE, 2 * PIECE + 5, 3 * PIECE - 1] {
            let mut other = one.clone();
            other[at] = 8;
            let (a, b) = (Content::from(one.clone()), Content::from(other));
            let (a, b) = (Part::all(&a), Part::all(&b));
            assert_eq!(a.common(&b).unwrap(), at as u64);
            assert!(!a.is(&b).unwrap() && a.is(&a).unwrap());
            assert_eq!(b.bytes(at as u64, at as u64 + 1).unwrap(), [8]);
        }
        let (a, b) = (Content::from(one.clone()), Content::from(one[..PIECE].to_vec()));
        assert_eq!(Part::all(&a).common(&Part::all(&b)).unwrap(), PIECE as u64);
        assert!(!Part::all(&a).is(&Part::all(&b)).unwrap());
        assert!(Part::of(&a, Some((PIECE as u64, PIECE as u64))).is(&Part::all(&b)).unwrap());
        assert_eq!(Part::of(&a, Some((PIECE as u64, u64::MAX))).size(), 0);
    }
}
