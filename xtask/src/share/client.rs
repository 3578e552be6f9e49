//! The shared cache as the rest of the program sees it: find, get, put, and nothing that can fail.

use super::block::BlockRef;
use super::download::Download;
use super::record::{LONGEST, Record};
use super::remote::{Patience, Remote, Size, Trouble};
use super::upload::{Job, Queue};
use super::{Mode, Name, Place, Uploads};
use futures_util::StreamExt as _;
use object_store::path::Path;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Records that are asked for at a time.
const LOOK_UPS: usize = 16;

/// So many things that failed one after the other, each tried several times, are the end of all trust.
const FAILURES: u32 = 3;

/// A result that was found.
#[derive(Clone, Debug)]
pub struct Found {
    pub(super) name: Name,
    pub(super) record: Record,
}

impl Found {
    /// Bytes that taking it would bring over the line.
    pub fn size(&self) -> u64 {
        self.record.stored()
    }

    /// Bytes of its stream.
    pub fn bytes(&self) -> u64 {
        self.record.size
    }
}

/// A shared cache that is open.
pub struct Share {
    shared: Arc<Shared>,
    /// Runs what waits for the network; none only when it has been given up.
    runtime: Option<Runtime>,
    queue: Queue,
}

/// What looking, getting and the uploads share.
pub struct Shared {
    pub(super) remote: Remote,
    place: String,
    mode: Mode,
    reading: Gate,
    writing: Gate,
    /// What was found to be other than its name says: to be replaced, though it is there.
    wrong: Mutex<HashSet<Path>>,
    say: Box<dyn Fn(&str) + Send + Sync>,
}

/// Whether something is still tried in this run.
#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    failures: AtomicU32,
}

impl Share {
    /// Opens the shared cache at a place; warnings go to `say`. None when that is not possible, which was said.
    pub fn open(place: &Place, mode: Mode, say: impl Fn(&str) + Send + Sync + 'static) -> Option<Self> {
        Self::open_patiently(place, mode, &Patience::default(), say)
    }

    pub(super) fn open_patiently(
        place: &Place,
        mode: Mode,
        patience: &Patience,
        say: impl Fn(&str) + Send + Sync + 'static,
    ) -> Option<Self> {
        let shown = place.shown();
        let opened = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("shared cache")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())
            .and_then(|runtime| Ok((Remote::open(place, mode == Mode::ReadWrite, patience)?, runtime)));
        match opened {
            Err(why) => {
                say(&format!("the shared cache {shown} cannot be used: {why}"));
                None
            }
            Ok((remote, runtime)) => {
                let (reading, writing, wrong) = (Gate::default(), Gate::default(), Mutex::default());
                let shared = Shared { remote, place: shown, mode, reading, writing, wrong, say: Box::new(say) };
                let shared = Arc::new(shared);
                let queue = Queue::new(&shared, &runtime);
                Some(Self { shared, runtime: Some(runtime), queue })
            }
        }
    }

    /// The place, for people.
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// Whether results are put there.
    pub fn writes(&self) -> bool {
        self.shared.may_write()
    }

    /// Looks for results, for all at the same time.
    pub fn find(&self, names: &[Name]) -> Vec<Option<Found>> {
        let Some(runtime) = self.runtime.as_ref().filter(|_| self.shared.may_read()) else { return vec![None; names.len()] };
        let looks = futures_util::stream::iter(names).map(|name| self.shared.find(name)).buffered(LOOK_UPS);
        runtime.block_on(looks.collect())
    }

    /// Takes a result: `take` is given its stream, and has to read it to the end. What it gives counts only if all of the
    /// stream was right. None when that failed; why was said.
    pub fn get<T>(&self, found: &Found, take: impl FnOnce(&mut dyn Read) -> anyhow::Result<T>) -> Option<T> {
        let runtime = self.runtime.as_ref().filter(|_| self.shared.may_read())?;
        let mut download = Download::begin(&self.shared, runtime, &found.record);
        let outcome = take(&mut download);
        let name = &found.name;
        if let Some((block, trouble)) = download.trouble() {
            let what = block.map_or_else(String::new, |block| format!("block {} ", block.sha256));
            self.shared.ignore(name, &what, &trouble);
            // Without one of its blocks the whole result has to be put there anew.
            self.shared.set_wrong(self.shared.record_path(name));
            if let Some(block) = block {
                self.shared.set_wrong(self.shared.block_path(block));
            }
            return None;
        }
        match outcome {
            Ok(taken) => Some(taken),
            Err(error) => {
                self.shared.set_wrong(self.shared.record_path(name));
                self.shared.say(&format!("the shared cache's result for {name} is ignored: {error:#}"));
                None
            }
        }
    }

    /// Puts a result there, later and beside other work: `write` then writes its stream. A result that is there already
    /// and was not found wrong is left as it is.
    pub fn put(&self, name: Name, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()> + Send + 'static) {
        if self.writes() {
            self.queue.add(Job { name, write: Box::new(write) });
        }
    }

    /// Waits until everything is there that was to be put there, no longer than `patience`. `tick` is told now and then how
    /// far it is, and can end the waiting by saying `false`. Gives how far it came.
    pub fn finish(&self, patience: Duration, tick: impl FnMut(Uploads) -> bool) -> Uploads {
        let end = self.queue.finish(patience, tick);
        if end.waiting > 0 {
            self.shared.writing.closed.store(true, Ordering::SeqCst);
            self.shared.say(&format!(
                "the shared cache {} is too slow: {} of {} results did not get there",
                self.shared.place,
                end.waiting,
                end.waiting + end.done
            ));
        }
        end
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shared.writing.closed.store(true, Ordering::SeqCst);
        // What still hangs must not keep the program from ending, and the thread that waits for it must not lose its runtime.
        match self.runtime.take() {
            Some(runtime) if self.queue.is_idle() => runtime.shutdown_background(),
            hanging => std::mem::forget(hanging),
        }
    }
}

impl Shared {
    pub(super) fn may_read(&self) -> bool {
        !self.reading.closed.load(Ordering::SeqCst)
    }

    pub(super) fn may_write(&self) -> bool {
        self.mode == Mode::ReadWrite && !self.writing.closed.load(Ordering::SeqCst)
    }

    pub(super) fn say(&self, text: &str) {
        (self.say)(text);
    }

    pub(super) fn record_path(&self, name: &Name) -> Path {
        self.remote.path(&["results", &name.component, &name.slot, &name.key])
    }

    pub(super) fn block_path(&self, block: &BlockRef) -> Path {
        self.remote.path(&["blocks", block.sha256.get(..2).unwrap_or_default(), &block.sha256])
    }

    pub(super) fn is_wrong(&self, path: &Path) -> bool {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    fn set_wrong(&self, path: Path) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
    }

    /// The record of a result, if there is a good one.
    pub(super) async fn look_up(&self, name: &Name) -> Result<Record, Trouble> {
        let right = |bytes: &[u8]| Record::parse(bytes, name).map(drop);
        let bytes = self.remote.get(&self.record_path(name), Size::AtMost(LONGEST), right).await?;
        Record::parse(&bytes, name).map_err(Trouble::Wrong)
    }

    async fn find(&self, name: &Name) -> Option<Found> {
        if !self.may_read() {
            return None;
        }
        match self.look_up(name).await {
            Ok(record) => {
                self.reading.failures.store(0, Ordering::SeqCst);
                Some(Found { name: name.clone(), record })
            }
            Err(Trouble::Missing) => None,
            Err(trouble) => {
                if matches!(trouble, Trouble::Wrong(_)) {
                    self.set_wrong(self.record_path(name));
                }
                self.ignore(name, "its record ", &trouble);
                None
            }
        }
    }

    /// Says why a result is ignored, and stops asking where that makes no sense any more.
    fn ignore(&self, name: &Name, what: &str, trouble: &Trouble) {
        let failures = match trouble {
            Trouble::Failed(_) => self.reading.failures.fetch_add(1, Ordering::SeqCst) + 1,
            _ => 0,
        };
        if matches!(trouble, Trouble::Hopeless(_)) || failures >= FAILURES {
            // Whoever cannot be read from is not written to either.
            self.writing.closed.store(true, Ordering::SeqCst);
            if !self.reading.closed.swap(true, Ordering::SeqCst) {
                self.say(&format!("the shared cache {} is not used any more in this run: {}", self.place, trouble.why()));
            }
        } else {
            self.say(&format!("the shared cache's result for {name} is ignored: {what}{}", trouble.why()));
        }
    }

    /// Says why a result was not put there, and stops trying where that makes no sense any more.
    pub(super) fn not_put(&self, name: &Name, trouble: &Trouble) {
        let failures = match trouble {
            Trouble::Failed(_) => self.writing.failures.fetch_add(1, Ordering::SeqCst) + 1,
            _ => 0,
        };
        if !matches!(trouble, Trouble::Hopeless(_)) && failures < FAILURES {
            self.say(&format!("the result for {name} did not get to the shared cache: {}", trouble.why()));
        } else if !self.writing.closed.swap(true, Ordering::SeqCst) {
            self.say(&format!("nothing more is put into the shared cache {} in this run: {}", self.place, trouble.why()));
        }
    }
}
