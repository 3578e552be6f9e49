//! Which results are taken from the shared cache, and which are put there.
//!
//! Only a component's final result is shared. It is what goes into the bundle: it has no path of this machine in it and
//! runs wherever it lies. What a step has changed in its work folder is not: `configure` writes the folder's path into
//! makefiles, package managers into programs and links, and compilers into objects, so that it is worth something in this
//! folder only, and large besides.
//!
//! The cache is asked for everything that is missing at once, before anything is done, and what it has is brought into the
//! store of the build folder; from there on it is a result like any other. What is built is put there as soon as it is
//! collected, while others are still being built; so is what is in the build folder already and missing there.
//!
//! A result's key covers what the steps are told to use. A program in C besides depends on the C library that it is linked
//! with, which is the same on one machine but not on all: the name of a result in the shared cache therefore has the
//! [`family`] of the machine in it.

use crate::cli;
use crate::fingerprint;
use crate::interrupt;
use crate::plan::{Component, Plan};
use crate::progress::{self, Step, Ui};
use crate::share::{Choice, Found, Mode, Name, Share};
use crate::store::{self, Record, Store};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Results that are brought at a time; each has several transfers.
const AT_ONCE: usize = 2;

/// How long the end of a run may be put off by uploads.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The shared cache of a run.
pub struct Sharing {
    share: Share,
    ui: Ui,
    family: String,
    /// The uploads that were told of.
    told: Mutex<usize>,
}

impl Sharing {
    /// The shared cache that flags and environment ask for, if any.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] when they cannot be understood.
    pub fn open(flags: &cli::SharedCache, offline: bool, ui: &Ui) -> anyhow::Result<Option<Self>> {
        Self::open_as(flags, offline, None, ui)
    }

    /// The same, for somebody who wants to know what is there, and no more.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn look_only(flags: &cli::SharedCache, ui: &Ui) -> anyhow::Result<Option<Self>> {
        Self::open_as(flags, false, Some(Mode::ReadOnly), ui)
    }

    fn open_as(flags: &cli::SharedCache, offline: bool, only: Option<Mode>, ui: &Ui) -> anyhow::Result<Option<Self>> {
        let (place, mode) = match Choice::make(flags.cache.as_deref(), flags.cache_mode, |name| std::env::var_os(name))? {
            Choice::Off => return Ok(None),
            Choice::Ignored(why) => {
                ui.line(&format!("  ! {why}"));
                return Ok(None);
            }
            Choice::On(place, mode) => (place, only.unwrap_or(mode)),
        };
        if offline && place.is_remote() {
            ui.line("  · the shared cache is not asked: --offline");
            return Ok(None);
        }
        let warnings = ui.clone();
        let share = Share::open(&place, mode, move |text| warnings.line(&format!("  ! {text}")));
        Ok(share.map(|share| Self { share, ui: ui.clone(), family: family(), told: Mutex::new(0) }))
    }

    /// The place, for people.
    pub fn place(&self) -> &str {
        self.share.place()
    }

    fn name(&self, component: &str, key: &str) -> Name {
        let key = fingerprint::hex(&Sha256::digest(format!("{key}\n{}\n", self.family)));
        Name { component: component.to_owned(), slot: store::FINAL.to_owned(), key }
    }

    /// What is there of the components that a plan has to make, in the plan's order.
    pub fn look(&self, plan: &Plan<'_>) -> Vec<Option<Found>> {
        let missing: Vec<_> = plan.to_build().map(|one| self.name(&one.recipe.name, &one.chain.key())).collect();
        let mut found = self.share.find(&missing).into_iter();
        let of = |one: &Component<'_>| if one.ready.is_some() { None } else { found.next().flatten() };
        plan.components.iter().map(of).collect()
    }

    /// Brings what the plan misses into the store; says whether anything came, so that the plan is another now.
    pub fn bring(&self, plan: &Plan<'_>, store: &Store) -> anyhow::Result<bool> {
        let found = self.look(plan);
        let wanted: Vec<_> = plan.components.iter().zip(found).filter_map(|(one, found)| Some((one, found?))).collect();
        if wanted.is_empty() {
            return Ok(false);
        }
        let working = store.begin()?;
        let queue = Mutex::new(wanted.iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let mut came = false;
            while let (Some((component, found)), Ok(())) = (next(), interrupt::check()) {
                came |= self.bring_one(component, found, store);
            }
            came
        };
        let came = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..AT_ONCE.min(wanted.len())).map(|_| scope.spawn(work)).collect();
            let came = work();
            threads.into_iter().fold(came, |came, thread| came | thread.join().unwrap_or_default())
        });
        working.end();
        interrupt::check()?;
        Ok(came)
    }

    fn bring_one(&self, component: &Component<'_>, found: &Found, store: &Store) -> bool {
        let (name, key) = (&component.recipe.name, component.chain.key());
        let step = self.ui.step(name, "from the shared cache");
        step.length(Some(found.bytes()));
        let taken = self.share.get(found, |stream| {
            let mut counted = Counted { stream, step: &step, count: 0 };
            let record = store.import(name, store::FINAL, &key, &mut counted, found.bytes())?;
            // The stream's end says nothing new, but only what came to its end is known to be whole.
            io::copy(&mut counted, &mut io::sink())?;
            Ok(record)
        });
        match taken {
            Some(_) => step.reused(&progress::bytes(found.size())),
            // Why was said; it is built instead.
            None => drop(step),
        }
        taken.is_some()
    }

    /// Puts those results there that are in the store and were not found there.
    pub fn offer_all(&self, plan: &Plan<'_>, store: &Store) {
        if !self.share.writes() {
            return;
        }
        let ready: Vec<_> = plan.components.iter().filter_map(|one| one.ready.as_ref()).collect();
        let names: Vec<_> = ready.iter().map(|record| self.name(&record.component, &record.chain.key())).collect();
        for (record, found) in ready.iter().zip(self.share.find(&names)) {
            if found.is_none() {
                self.offer(record, store);
            }
        }
    }

    /// Puts a result there, beside other work.
    pub fn offer(&self, record: &Record, store: &Store) {
        let name = self.name(&record.component, &record.chain.key());
        let (record, store) = (record.clone(), store.clone());
        self.share.put(name, move |out| store.export(&record, out).map(drop));
    }

    /// Waits for what is still on its way there, with patience, but not without end. May be called again when more was put.
    pub fn finish(&self) {
        let mut shown: Option<Step> = None;
        let end = self.share.finish(LONGEST_WAIT, |uploads| {
            let step = shown.get_or_insert_with(|| {
                let step = self.ui.step("shared cache", "upload");
                step.announce();
                step
            });
            step.message(&format!("{} still to go, {} sent", results(uploads.waiting), progress::bytes(uploads.bytes)));
            interrupt::check().is_ok()
        });
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if end.done > std::mem::replace(&mut *told, end.done) {
            let step = shown.take().unwrap_or_else(|| self.ui.step("shared cache", "upload"));
            step.done(&format!("{}, {}", results(end.done), progress::bytes(end.bytes)));
        }
    }
}

fn results(count: usize) -> String {
    if count == 1 { "1 result".to_owned() } else { format!("{count} results") }
}

/// Shows how much of a result has come.
struct Counted<'a> {
    stream: &'a mut dyn Read,
    step: &'a Step,
    count: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)?;
        self.count += count as u64;
        self.step.position(self.count);
        Ok(count)
    }
}

/// The kind of machine as far as compiled programs care: processor, system and its release, C library.
fn family() -> String {
    let say = |program: &str, word: &str| {
        let output = xshell::Shell::new()
            .and_then(|shell| xshell::cmd!(shell, "{program} {word}").quiet().ignore_status().ignore_stderr().read());
        output.unwrap_or_default().trim().to_owned()
    };
    let system = if cfg!(target_os = "macos") {
        say("sw_vers", "-productVersion").split('.').next().unwrap_or_default().to_owned()
    } else {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        format!("{} {}", os_release(&release), say("getconf", "GNU_LIBC_VERSION"))
    };
    format!("{}-{} {system}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Name and version of a distribution, as its os-release file has them.
fn os_release(text: &str) -> String {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    format!("{} {}", field("ID"), field("VERSION_ID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_names_system_release_and_c_library() {
        assert_eq!(os_release("PRETTY_NAME=\"X\"\nID=debian\nVERSION_ID=\"12\"\nID_LIKE=y\n"), "debian 12");
        assert_eq!(os_release(""), " ");
        let family = family();
        assert!(family.starts_with(&format!("{}-{} ", std::env::consts::OS, std::env::consts::ARCH)), "{family}");
        assert!(family.len() > 16 && family.chars().any(|c| c.is_ascii_digit()), "{family}");
    }
}
