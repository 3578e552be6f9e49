//! The threads that make the blocks, and the order in which they come out.
//!
//! Memory is bounded: each thread has one plain block and its compressor, and there are no more compressed blocks, waiting
//! or in work, than [`AHEAD`] for each thread; their buffers go round. There are no more threads than [`BUDGET`] is enough for.

use super::blocks::{LARGEST, Piece};
use super::cache::Cache;
use super::format::{Format, Packer};
use super::output::Output;
use super::tree::{Entry, RECORD, What, read_part};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};

/// A block with the header and the padding of a file that has it alone.
const LONGEST: usize = LARGEST as usize + 4 * RECORD;

/// How many blocks for each thread may be ahead of the one that is written next.
const AHEAD: usize = 2;

/// What all threads together may hold, in bytes. The rest of the program takes some 36 MB, nearly all of it the program's own code as it
/// lies in the file, and it promises to do with 64.
pub(super) const BUDGET: usize = 27 * 1024 * 1024;

/// How many threads make blocks of this form where there are so many cores.
pub(super) fn threads(format: Format, cores: usize) -> usize {
    cores.min(BUDGET / format.memory()).max(1)
}

/// All that the threads share.
pub(super) struct Work<'a> {
    pub(super) entries: &'a [Entry],
    pub(super) blocks: &'a [Vec<Piece>],
    pub(super) cache: Option<&'a Cache>,
    pub(super) format: Format,
    pub(super) mtime: u64,
}

/// How far the writing thread has come, for those that run ahead, and the buffers that it is done with.
#[derive(Default)]
struct Pace {
    /// Blocks written; or more than there are, when no more are wanted.
    written: Mutex<usize>,
    moved: Condvar,
    emptied: Mutex<Vec<Vec<u8>>>,
}

impl Pace {
    fn set(&self, written: usize) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = written;
        self.moved.notify_all();
    }

    /// Waits until block `index` may be worked on; says whether it is wanted at all.
    fn wait(&self, index: usize, ahead: usize) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        while index >= written.saturating_add(ahead) {
            written = self.moved.wait(written).unwrap_or_else(PoisonError::into_inner);
        }
        *written != usize::MAX
    }

    fn buffer(&self) -> Vec<u8> {
        self.emptied.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn done_with(&self, buffer: Vec<u8>) {
        self.emptied.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// A compressed block, and whether the cache had it.
type Member = anyhow::Result<(Vec<u8>, bool)>;

impl Work<'_> {
    /// Makes all blocks on so many cores and writes them in order; gives how many the cache had.
    pub(super) fn run(&self, cores: usize, output: &mut Output) -> anyhow::Result<usize> {
        let jobs = threads(self.format, cores);
        let (next, pace) = (AtomicUsize::new(0), Pace::default());
        std::thread::scope(|scope| {
            let (send, members) = channel();
            for _ in 0..jobs.clamp(1, self.blocks.len()) {
                let (send, next, pace) = (send.clone(), &next, &pace);
                scope.spawn(move || self.make_blocks(next, pace, jobs * AHEAD, &send));
            }
            drop(send);
            let mut waiting: BTreeMap<usize, Member> = BTreeMap::new();
            let (mut written, mut reused) = (0, 0);
            let result = members.into_iter().try_for_each(|(index, member)| {
                waiting.insert(index, member);
                while let Some(member) = waiting.remove(&written) {
                    let (bytes, cached) = member?;
                    output.add(&bytes)?;
                    reused += usize::from(cached);
                    written += 1;
                    pace.done_with(bytes);
                    pace.set(written);
                }
                Ok(())
            });
            // Wakes and ends those that still wait.
            pace.set(usize::MAX);
            result.map(|()| reused)
        })
    }

    /// One thread's work: whatever block is next, until there is none.
    fn make_blocks(&self, next: &AtomicUsize, pace: &Pace, ahead: usize, send: &Sender<(usize, Member)>) {
        let mut packer = None;
        // Of its final size at once: growing it would leave it twice as large.
        let mut plain = Vec::with_capacity(LONGEST);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.blocks.len() || !pace.wait(index, ahead) {
                return;
            }
            let member = self.member(index, &mut plain, pace.buffer(), &mut packer);
            if send.send((index, member)).is_err() {
                return;
            }
        }
    }

    fn member(&self, index: usize, plain: &mut Vec<u8>, mut packed: Vec<u8>, packer: &mut Option<Packer>) -> Member {
        plain.clear();
        for piece in &self.blocks[index] {
            self.add_piece(piece, plain)?;
        }
        if index + 1 == self.blocks.len() {
            // Two empty records end a tar.
            plain.resize(plain.len() + 2 * RECORD, 0);
        }
        let key = self.cache.map(|cache| cache.key(plain));
        if let (Some(cache), Some(key)) = (self.cache, &key)
            && cache.get(key, &mut packed)
        {
            return Ok((packed, true));
        }
        // Set up when it is needed first: where nothing has changed, it never is.
        let packer = match packer {
            Some(packer) => packer,
            None => packer.insert(Packer::new(self.format)?),
        };
        packer.pack(plain, &mut packed)?;
        if let (Some(cache), Some(key)) = (self.cache, &key) {
            cache.put(key, &packed);
        }
        Ok((packed, false))
    }

    /// Adds a piece of an entry to the plain block.
    fn add_piece(&self, piece: &Piece, plain: &mut Vec<u8>) -> anyhow::Result<()> {
        let entry = &self.entries[piece.entry];
        if piece.from == 0 {
            plain.extend(entry.header(self.mtime));
        }
        let What::File { stamp, .. } = &entry.what else { return Ok(()) };
        let start = plain.len();
        read_part(&entry.path, stamp, piece.from, piece.length, plain)
            .with_context(|| format!("cannot read {}", entry.path.display()))?;
        if piece.from + piece.length == stamp.size {
            let content = plain.len() - start;
            plain.resize(start + content.next_multiple_of(RECORD), 0);
        }
        Ok(())
    }
}
