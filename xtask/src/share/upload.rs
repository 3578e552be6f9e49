//! Uploads: results are put there one after the other, beside other work; their blocks several at a time, the record last.

use super::block::{self, BLOCK, BlockRef};
use super::client::Shared;
use super::record::Record;
use super::remote::{AT_ONCE, Trouble};
use super::{Name, Uploads};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

/// How often whoever waits for the end is told how far it is.
const TICK: Duration = Duration::from_millis(200);

/// A result to be put there.
pub struct Job {
    /// What it is called there.
    pub name: Name,
    /// Writes its stream.
    pub write: Box<Writes>,
}

type Writes = dyn FnOnce(&mut dyn Write) -> anyhow::Result<()> + Send;

/// Results that wait to be put there. A waiting one takes no memory: its stream is written when its turn comes.
pub struct Queue {
    jobs: Sender<Job>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    uploads: Mutex<Uploads>,
    changed: Condvar,
}

impl Progress {
    fn change(&self, change: impl FnOnce(&mut Uploads)) {
        change(&mut self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

impl Queue {
    /// An empty queue, with a thread of its own that ends with it.
    pub fn new(shared: &Arc<Shared>, runtime: &Runtime) -> Self {
        let (jobs, todo) = channel();
        let progress = Arc::new(Progress::default());
        let worker = Worker { shared: Arc::clone(shared), handle: runtime.handle().clone(), progress: Arc::clone(&progress) };
        // Were there no thread to be had, the jobs would be dropped, and the end not waited for.
        let _ = std::thread::Builder::new().name("uploads".to_owned()).spawn(move || worker.run(&todo));
        Self { jobs, progress }
    }

    /// Adds a result.
    pub fn add(&self, job: Job) {
        self.progress.change(|uploads| uploads.waiting += 1);
        if self.jobs.send(job).is_err() {
            self.progress.change(|uploads| uploads.waiting -= 1);
        }
    }

    /// Whether nothing is waiting or under way.
    pub fn is_idle(&self) -> bool {
        self.progress.uploads.lock().unwrap_or_else(PoisonError::into_inner).waiting == 0
    }

    /// Waits until all are there, or there is no more patience.
    pub fn finish(&self, patience: Duration, mut tick: impl FnMut(Uploads) -> bool) -> Uploads {
        let end = Instant::now() + patience;
        let mut uploads = self.progress.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        while uploads.waiting > 0 && Instant::now() < end {
            let now = *uploads;
            drop(uploads);
            let go_on = tick(now);
            uploads = self.progress.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            if !go_on {
                break;
            }
            if uploads.waiting > 0 {
                let woken = self.progress.changed.wait_timeout(uploads, TICK);
                uploads = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        *uploads
    }
}

/// The thread's side of the queue.
struct Worker {
    shared: Arc<Shared>,
    handle: Handle,
    progress: Arc<Progress>,
}

impl Worker {
    fn run(&self, todo: &Receiver<Job>) {
        for job in todo {
            let name = job.name.clone();
            let sent = if self.shared.may_write() { self.put(job) } else { Ok(None) };
            if let Err(trouble) = &sent {
                self.shared.not_put(&name, trouble);
            }
            self.progress.change(|uploads| {
                uploads.waiting -= 1;
                if let Ok(Some(bytes)) = sent {
                    uploads.done += 1;
                    uploads.bytes += bytes;
                }
            });
        }
    }

    /// Puts one result there; gives how many bytes that took, or nothing where it was there already.
    fn put(&self, job: Job) -> Result<Option<u64>, Trouble> {
        let path = self.shared.record_path(&job.name);
        if !self.shared.is_wrong(&path) {
            match self.handle.block_on(self.shared.look_up(&job.name)) {
                // Somebody else was quicker.
                Ok(_) => return Ok(None),
                Err(Trouble::Missing | Trouble::Wrong(_)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        let mut cutter = Cutter::new(self);
        let written = (job.write)(&mut cutter);
        if let Some(trouble) = cutter.trouble.take() {
            return Err(trouble);
        }
        written.map_err(|error| Trouble::Failed(format!("{error:#}")))?;
        let (blocks, bytes) = cutter.finish()?;
        let record = Record::new(&job.name, blocks).bytes().map_err(|error| Trouble::Failed(format!("{error:#}")))?;
        let length = record.len() as u64;
        self.handle.block_on(self.shared.remote.put(&path, record.into()))?;
        Ok(Some(bytes + length))
    }
}

/// Cuts a stream into blocks and sends them while it is still being written.
struct Cutter<'a> {
    worker: &'a Worker,
    buffer: Vec<u8>,
    blocks: Vec<BlockRef>,
    under_way: VecDeque<JoinHandle<Result<u64, Trouble>>>,
    bytes: u64,
    trouble: Option<Trouble>,
}

impl<'a> Cutter<'a> {
    fn new(worker: &'a Worker) -> Self {
        let under_way = VecDeque::with_capacity(AT_ONCE);
        Self { worker, buffer: Vec::with_capacity(BLOCK), blocks: Vec::new(), under_way, bytes: 0, trouble: None }
    }

    /// Sends what was written so far as one block.
    fn send(&mut self) -> Result<(), Trouble> {
        if !self.worker.shared.may_write() {
            return Err(Trouble::Failed("was given up".to_owned()));
        }
        let (block, stored) = block::pack(&self.buffer).map_err(|error| Trouble::Failed(format!("{error:#}")))?;
        self.buffer.clear();
        while self.under_way.len() >= AT_ONCE {
            self.wait()?;
        }
        let shared = Arc::clone(&self.worker.shared);
        let (sent, stored) = (block.clone(), Bytes::from(stored));
        self.under_way.push_back(self.worker.handle.spawn(async move { send_block(&shared, &sent, stored).await }));
        self.blocks.push(block);
        Ok(())
    }

    /// Waits for the block that is under way longest.
    fn wait(&mut self) -> Result<(), Trouble> {
        let Some(task) = self.under_way.pop_front() else { return Ok(()) };
        let sent = self.worker.handle.block_on(task).map_err(|_| Trouble::Failed("was given up".to_owned()))?;
        self.bytes += sent?;
        Ok(())
    }

    /// Sends the rest, and waits until all blocks are there.
    fn finish(mut self) -> Result<(Vec<BlockRef>, u64), Trouble> {
        if !self.buffer.is_empty() {
            self.send()?;
        }
        while !self.under_way.is_empty() {
            self.wait()?;
        }
        Ok((std::mem::take(&mut self.blocks), self.bytes))
    }
}

impl Write for Cutter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == BLOCK {
            self.send().map_err(|trouble| {
                let error = io::Error::other(trouble.why().to_owned());
                self.trouble = Some(trouble);
                error
            })?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Cutter<'_> {
    fn drop(&mut self) {
        for task in &self.under_way {
            task.abort();
        }
    }
}

/// Sends one block, unless it is there; gives how many bytes that took.
async fn send_block(shared: &Shared, block: &BlockRef, stored: Bytes) -> Result<u64, Trouble> {
    let path = shared.block_path(block);
    if !shared.is_wrong(&path) {
        match shared.remote.size(&path).await {
            Ok(size) if size == block.stored => return Ok(0),
            Ok(_) | Err(Trouble::Missing) => {}
            Err(trouble) => return Err(trouble),
        }
    }
    shared.remote.put(&path, stored).await?;
    Ok(block.stored)
}
