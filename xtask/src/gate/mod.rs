//! The gate: whether an archive, a package or an image would run on somebody else's machine.
//!
//! First what can be seen ([`checks`]): every member of it ([`packed`]) against the manifest and against what a bundle must never have,
//! every program's needs ([`needs`]) against what all machines have ([`policy`]), every file for traces of the machine that built it
//! ([`traces`]), sizes against the last release ([`sizes`]); what a package or an image has beside the bundle ([`wrapping`]). Then the bundle is used ([`trial`]). All findings are told at once; a bundle
//! that has any does not pass.
//!
//! What has passed is remembered by the archive's hash and by all that the gate goes by ([`Gate::seal`]), so that nothing is looked at
//! twice.

mod checks;
mod needs;
pub mod packed;
mod policy;
mod sizes;
mod traces;
pub mod trial;
mod wrapping;

pub use checks::{Bundle, Finding};
pub use traces::{Machine, Mark, find_in as find_traces, unpacked};

use crate::archive::Format;
use crate::dirs::Dirs;
use crate::error::{self, Kind, WithKind as _};
use crate::fingerprint;
use crate::progress::{self, Step};
use crate::stack::Stack;
use dkumonitor_interface::manifest::{self, Manifest, Platform};
use packed::Form;
use policy::Policy;
use sizes::Sizes;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use trial::Trial;

/// No more findings are told.
const SHOWN: usize = 40;

/// All that archives are looked at with.
pub struct Gate {
    policy: Policy,
    machine: Machine,
    hide: Vec<PathBuf>,
    stack: PathBuf,
    logs: PathBuf,
}

/// What there is to say of an archive that has passed.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// In a few words.
    pub short: String,
    /// What was seen and done.
    pub notes: Vec<String>,
    /// What could not be had on this machine.
    pub lacks: Vec<String>,
}

/// What the person wants beside the usual.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Look at the archive only; do not run it.
    pub still: bool,
    /// The manifest of an earlier bundle, to compare sizes with.
    pub against: Option<PathBuf>,
    /// How much larger it may be, in percent, instead of what the stack says.
    pub growth: Option<u32>,
    /// The root of another system to run in.
    pub root: Option<PathBuf>,
    /// Note its sizes as those of the last release.
    pub record: bool,
}

impl Gate {
    /// The gate for bundles of a stack that are built in these folders from this checkout.
    ///
    /// # Errors
    /// When the stack's rules cannot be used.
    pub fn of(stack: &Stack, dirs: &Dirs, workspace: &Path) -> anyhow::Result<Self> {
        let mut machine = Machine::this();
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        machine.paths.extend(dirs.places().into_iter().map(|place| ("the build folder", PathBuf::from(place))));
        machine.paths.push(("the folder of archives", dirs.dist.clone()));
        machine.paths.push(("the checkout", workspace.to_owned()));
        machine.paths.push(("the stack's folder", absolute(&stack.root)));
        let mut hide: Vec<PathBuf> = machine.paths.iter().map(|(_, path)| path.clone()).collect();
        hide.extend(machine.home.clone());
        let logs = dirs.build.join("logs/gate");
        Ok(Self { policy: Policy::of(&stack.root)?, machine, hide, stack: stack.root.clone(), logs })
    }

    /// A hash over all that decides whether something passes.
    pub fn seal(&self) -> &str {
        self.policy.seal()
    }

    /// Lets an archive pass; what there is to say of it. The step is the caller's.
    ///
    /// # Errors
    /// [`Kind::Gate`] with everything that is wrong, [`Kind::Integrity`] when it cannot be read at all, [`Kind::Usage`] when it cannot be
    /// run in the system that is wished.
    pub fn pass(&self, archive: &Path, wishes: &Wishes, step: &Step) -> anyhow::Result<Passed> {
        let root = wishes.root.as_ref().map(|root| trial::root::usable(root, Form::of(archive)?)).transpose()?;
        let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
        step.message("looking at all files");
        let (bundle, notes) = self.look(archive, wishes)?;
        let mut passed = Passed { short: bundle.floor_in_short(), notes, lacks: Vec::new() };
        if let Some(why) = why_not_run(&bundle, wishes) {
            anyhow::ensure!(root.is_none(), Kind::Usage.error(format!("--root is to run it in, and it cannot be run: {why}")));
            passed.short += "; not run";
            passed.notes.push(format!("it was not run: {why}"));
            return Ok(passed);
        }
        let trial = Trial {
            archive,
            bundle: &bundle,
            hide: self.hide.clone(),
            root: root.as_deref(),
            logs: self.logs.join(&bundle.name),
        };
        let ran = trial.run(step).map_err(|error| match error::kind_of(&error) {
            Kind::Gate => Kind::Gate.error(format!("{name} does not pass: it does not run as it should: {error:#}")),
            // Nothing was found out about it.
            _ => error,
        })?;
        passed.short += "; it runs";
        passed.notes.extend(ran.did);
        passed.lacks = ran.lacks;
        Ok(passed)
    }

    /// Looks at an archive; the bundle that it is, and what else there is to say.
    fn look(&self, archive: &Path, wishes: &Wishes) -> anyhow::Result<(Bundle, Vec<String>)> {
        check_sum(archive)?;
        let marks = self.machine.marks();
        let bundle = Bundle::read(archive, &marks)?;
        let mut findings = bundle.check(&self.policy);
        findings.extend(bundle.named(&marks));
        let (grown, note) = self.sizes(archive, &bundle, wishes)?;
        findings.extend(grown);
        let mut notes = vec![note];
        notes.extend(bundle.wrapping_note());
        if bundle.form != Form::Archive {
            let (unlike, note) = compare(archive, &bundle)?;
            findings.extend(unlike);
            notes.push(note);
        }
        notes.extend(bundle.floor_in_full());
        if findings.is_empty() { Ok((bundle, notes)) } else { Err(refusal(archive, &findings)) }
    }

    /// What has grown too much, and how large it is in words.
    fn sizes(&self, archive: &Path, bundle: &Bundle, wishes: &Wishes) -> anyhow::Result<(Vec<Finding>, String)> {
        let size = archive.metadata().kind(Kind::Other, || format!("cannot read {}", archive.display()))?.len();
        let ending = Format::ALL.into_iter().find(|format| archive.to_string_lossy().ends_with(format.ending()));
        let ending = ending.map_or("tar", Format::ending);
        let name = bundle.name.strip_suffix(&format!("-{}", bundle.manifest.version)).unwrap_or(&bundle.name);
        let mut own = Sizes::of(&bundle.manifest);
        own.archives.insert(ending.to_owned(), size);
        let last = match &wishes.against {
            Some(path) => Some(Sizes::of(&read_manifest(path)?)),
            None => sizes::read(&self.stack)?.remove(name),
        };
        let percent = wishes.growth.unwrap_or(self.policy.growth_percent);
        let mut grown = last.as_ref().map(|last| own.growth(last, percent)).unwrap_or_default();
        if let Some(largest) = self.policy.largest.get(name).filter(|largest| size > **largest) {
            let (size, largest) = (progress::bytes(size), progress::bytes(*largest));
            grown.push(format!("the .{ending} has {size}; gate.toml allows {largest}"));
        }
        let mut note = format!("{} packed, {} unpacked", progress::bytes(size), progress::bytes(own.total()));
        match &last {
            Some(last) => write!(note, "; {} had {} unpacked", last.version, progress::bytes(last.total()))?,
            None => note.push_str("; no earlier release to compare with"),
        }
        if wishes.record && grown.is_empty() {
            sizes::record(&self.stack, name, &own)?;
        }
        Ok((grown.into_iter().map(|what| Finding { path: String::new(), what }).collect(), note))
    }
}

/// Why there is nothing to run, if there is not.
fn why_not_run(bundle: &Bundle, wishes: &Wishes) -> Option<String> {
    let (own, here) = (&bundle.manifest.platform, Platform::current());
    if wishes.still {
        return Some("--still".to_owned());
    }
    if (&own.os, &own.arch) != (&here.os, &here.arch) {
        let (theirs, ours) = (format!("{} on {}", own.os, own.arch), format!("{} on {}", here.os, here.arch));
        return Some(format!("it is for {theirs}, and this is {ours}; run the gate on such a machine too"));
    }
    let has_launcher = bundle.seen.iter().any(|seen| seen.path == "installer");
    (!has_launcher).then(|| "it has no launcher".to_owned())
}

/// How a package or an image differs from the archive that lies beside it, and with what it was compared in words.
fn compare(file: &Path, bundle: &Bundle) -> anyhow::Result<(Vec<Finding>, String)> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = Format::ALL.into_iter().find_map(|format| name.strip_suffix(format.ending())?.strip_suffix('.'));
    let archives = Format::ALL.into_iter().filter(|format| format.is_archive());
    let beside = archives.filter_map(|format| Some(file.with_file_name(format!("{}.{}", stem?, format.ending()))));
    let is_archive = |path: &PathBuf| path.is_file() && Form::of(path).is_ok_and(|form| form == Form::Archive);
    match beside.into_iter().find(is_archive) {
        None => Ok((Vec::new(), "no archive of the same release lies beside it to compare with".to_owned())),
        Some(path) => {
            let archive = Bundle::read(&path, &[])?;
            let shown = path.file_name().unwrap_or_default().to_string_lossy();
            Ok((bundle.unlike(&archive), format!("all files are those of {shown}")))
        }
    }
}

/// The checksum beside an archive, if there is one, has to be its own.
fn check_sum(archive: &Path) -> anyhow::Result<()> {
    let beside = archive.with_added_extension("sha256");
    let Ok(text) = std::fs::read_to_string(&beside) else { return Ok(()) };
    let sha256 = fingerprint::hash_file(archive).kind(Kind::Other, || format!("cannot read {}", archive.display()))?;
    if text.split_whitespace().next() == Some(sha256.as_str()) {
        return Ok(());
    }
    Err(Kind::Integrity.error(format!("{} is not what {} says: its hash is {sha256}", archive.display(), beside.display())))
}

fn read_manifest(path: &Path) -> anyhow::Result<Manifest> {
    let path = if path.is_dir() { path.join(manifest::FILE_NAME) } else { path.to_owned() };
    let read = || Manifest::parse(&std::fs::read_to_string(&path)?);
    read().kind(Kind::Usage, || format!("cannot use {} to compare sizes with", path.display()))
}

fn refusal(archive: &Path, findings: &[Finding]) -> anyhow::Error {
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!("{name} does not pass:");
    for finding in findings.iter().take(SHOWN) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  - {}", progress::printable(&finding.to_string()));
    }
    if findings.len() > SHOWN {
        let _ = write!(text, "\n  and {} more", findings.len() - SHOWN);
    }
    Kind::Gate.error(text)
}
