//! A result's stream, as it comes block by block: some are fetched ahead, each is checked before a byte of it is handed out.

use super::block::{self, BlockRef};
use super::client::Shared;
use super::record::Record;
use super::remote::{AT_ONCE, Size, Trouble};
use crate::fingerprint;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;

type Arrived = (BlockRef, Result<Vec<u8>, Trouble>);

/// A result on its way. Dropped early, the rest is not fetched.
pub struct Download {
    arrivals: Receiver<Arrived>,
    task: JoinHandle<()>,
    bytes: Vec<u8>,
    position: usize,
    /// Bytes of the stream that are still to come.
    left: u64,
    trouble: Option<(Option<BlockRef>, Trouble)>,
}

impl Download {
    /// Begins to fetch the blocks of a record.
    pub fn begin(shared: &Arc<Shared>, runtime: &Runtime, record: &Record) -> Self {
        let (send, arrivals) = channel(1);
        let (shared, blocks) = (Arc::clone(shared), record.blocks.clone());
        let task = runtime.spawn(async move {
            let fetch = |block: BlockRef| {
                let shared = Arc::clone(&shared);
                async move {
                    let outcome = fetch(&shared, &block).await;
                    (block, outcome)
                }
            };
            let mut fetched = futures_util::stream::iter(blocks).map(fetch).buffered(AT_ONCE);
            while let Some(arrived) = fetched.next().await {
                let failed = arrived.1.is_err();
                if send.send(arrived).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { arrivals, task, bytes: Vec::new(), position: 0, left: record.size, trouble: None }
    }

    /// What went wrong, and with which block; also when not everything was taken.
    pub fn trouble(&self) -> Option<(Option<&BlockRef>, Trouble)> {
        self.trouble.as_ref().map(|(block, trouble)| (block.as_ref(), trouble.clone()))
    }

    fn fail(&mut self, block: Option<BlockRef>, trouble: Trouble) -> io::Error {
        let error = io::Error::new(io::ErrorKind::InvalidData, trouble.why().to_owned());
        self.trouble = Some((block, trouble));
        error
    }
}

impl Read for Download {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.position == self.bytes.len() && self.left > 0 {
            if let Some((_, trouble)) = &self.trouble {
                return Err(io::Error::new(io::ErrorKind::InvalidData, trouble.why().to_owned()));
            }
            let Some((block, outcome)) = self.arrivals.blocking_recv() else {
                return Err(self.fail(None, Trouble::Failed("was given up".to_owned())));
            };
            let stored = match outcome {
                Ok(stored) => stored,
                Err(trouble) => return Err(self.fail(Some(block), trouble)),
            };
            match block::unpack(&block, &stored) {
                Ok(bytes) => (self.bytes, self.position) = (bytes, 0),
                Err(why) => return Err(self.fail(Some(block), Trouble::Wrong(why))),
            }
            self.left -= self.bytes.len() as u64;
        }
        let count = into.len().min(self.bytes.len() - self.position);
        into[..count].copy_from_slice(&self.bytes[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One block, checked.
async fn fetch(shared: &Shared, block: &BlockRef) -> Result<Vec<u8>, Trouble> {
    let right = |bytes: &[u8]| {
        let same = fingerprint::hex(&Sha256::digest(bytes)) == block.sha256;
        if same { Ok(()) } else { Err("has other content than its name says".to_owned()) }
    };
    shared.remote.get(&shared.block_path(block), Size::Exactly(block.stored), right).await
}
