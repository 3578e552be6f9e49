//! Every command and flag, in one place; the doc comments are the help.

use crate::archive::Format;
use crate::audit::severity::Severity;
use crate::fetch::Mirror;
use crate::progress::Verbosity;
use crate::target::Target;
use clap::{Args, Parser, Subcommand};
use dkumonitor_interface::service::InstallType;
use std::ffi::OsString;
use std::path::PathBuf;

/// Builds the dkumonitor package from pinned sources.
///
/// Exit status: 0 done; 1 other failure; 2 usage, vendor.lock or a recipe is wrong; 3 the machine lacks something;
/// 4 a source or a dependency cannot be fetched; 5 a source, or what is verified, is not what it should be; 6 a patch does not apply; 7 a build command failed;
/// 8 the bundle cannot be staged; 9 the archive cannot be written; 10 it does not pass the gate; 11 what the bundle holds must not be
/// shipped; 12 two builds differ; 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. What each does is said where its flags are, so that `--help` says all of it.
#[derive(Debug, Subcommand)]
pub enum Command {
    Package(Package),
    Release(Release),
    Fetch(Fetch),
    Gate(Gate),
    Repro(Repro),
    VendorExport(VendorExport),
    Plan(Plan),
    Explain(Explain),
    Shell(Shell),
    Doctor(Doctor),
    Audit(Audit),
    Clean(Clean),
    Ci(Ci),
    Bench(Bench),
    Sign(Sign),
    Verify(Verify),
    Manual(Manual),
    /// Check the pins in vendor.lock, or pin another version
    #[command(subcommand)]
    Lock(Lock),
    /// Run a command and end whatever it leaves behind (what build commands are wrapped in)
    #[command(hide = true, name = crate::attend::COMMAND)]
    Attended {
        /// The process that the command belongs to: when it dies, the command does
        parent: u32,
        /// Take the network away
        #[arg(long)]
        without_network: bool,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        words: Vec<OsString>,
    },
    /// Run a bundle apart from the rest of the machine (what the gate starts)
    #[command(hide = true, name = crate::gate::trial::COMMAND)]
    GateInside {
        /// What is to be done
        order: PathBuf,
    },
    /// Run a command as another user on a machine of another name (what the second build of `repro` is run in)
    #[command(hide = true, name = crate::repro::second::COMMAND)]
    SomebodyElse {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Run a command without network (what the shell of a step is wrapped in)
    #[command(hide = true, name = crate::sandbox::COMMAND)]
    WithoutNetwork {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

impl Command {
    /// The command's name, if it is to tell its events on standard output.
    pub fn tells_events(&self) -> Option<&'static str> {
        match self {
            Self::Package(args) if args.events.json => Some("package"),
            Self::Release(args) if args.package.events.json => Some("release"),
            Self::Fetch(args) if args.events.json => Some("fetch"),
            Self::VendorExport(args) if args.events.json => Some("vendor-export"),
            _ => None,
        }
    }
}

/// Flags that every command on a stack takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Folder with vendor.lock, recipes/ and patches/ [default: the repository's root]
    #[arg(long, value_name = "DIR")]
    pub stack: Option<PathBuf>,
    /// Folder for everything in between [default: build/, or build/stack-NAME/ for another stack]
    #[arg(long, value_name = "DIR")]
    pub build_dir: Option<PathBuf>,
    /// Make it for this platform, such as aarch64-unknown-linux-musl, and name the bundle so; docs/release.md tells what can be crossed
    /// [default: this machine's]
    #[arg(long, value_name = "TRIPLE", value_parser = Target::parse)]
    pub target: Option<Target>,
    /// Work on these components (and the launcher) only; the bundle is then named `partial`
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub only: Vec<String>,
    #[command(flatten)]
    pub talk: Talk,
}

/// How much is said.
#[derive(Args, Clone, Copy, Debug)]
pub struct Talk {
    /// Show the tools' own output
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Say nothing but failures
    #[arg(short, long)]
    pub quiet: bool,
}

impl Talk {
    /// The two flags as one word.
    pub fn verbosity(self) -> Verbosity {
        match (self.verbose, self.quiet) {
            (true, _) => Verbosity::Verbose,
            (_, true) => Verbosity::Quiet,
            _ => Verbosity::Normal,
        }
    }
}

/// Whether programs are told.
#[derive(Args, Clone, Copy, Debug)]
pub struct Events {
    /// Tell programs on standard output what happens, a line of JSON each (docs/events.md); lines for people stay on standard error
    #[arg(long)]
    pub json: bool,
}

/// Flags of what may use the network.
#[derive(Args, Clone, Debug)]
pub struct Network {
    /// Look here first: a folder of archives or one that vendor-export wrote, or an address below which archives lie (may be
    /// given several times)
    #[arg(long = "mirror", value_name = "DIR|URL")]
    pub mirrors: Vec<Mirror>,
    /// Use no network; what is not in the build folder or in a mirror folder is an error
    #[arg(long)]
    pub offline: bool,
}

/// Flags of the cache that is shared with others.
#[derive(Args, Clone, Debug)]
pub struct SharedCache {
    /// Take results from here, and put there what is built: s3://BUCKET/PATH, gs://…, az://…, http(s)://… or a folder; `off`
    /// for none; docs/cache.md [env: DKUMONITOR_CACHE]
    #[arg(long, value_name = "URL|DIR")]
    pub cache: Option<String>,
    /// What may be done with it [env: DKUMONITOR_CACHE_MODE] [default: read-write]
    #[arg(long, value_name = "MODE")]
    pub cache_mode: Option<crate::share::Mode>,
}

/// Whether to wait.
#[derive(Args, Clone, Copy, Debug)]
pub struct Wait {
    /// If another run works in the build folder, leave instead of waiting for its end
    #[arg(long)]
    pub no_wait: bool,
}

/// Make the package: fetch, unpack, patch, compile, stage, archive.
#[derive(Args, Debug)]
pub struct Package {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub cache: SharedCache,
    #[command(flatten)]
    pub network: Network,
    /// Folder for the tree and the archive [default: dist/]
    #[arg(long, value_name = "DIR")]
    pub dist_dir: Option<PathBuf>,
    /// Compile nothing: stage what was compiled before
    #[arg(long)]
    pub skip_build: bool,
    /// Leave the tree in the dist folder, make no archive
    #[arg(long)]
    pub skip_archive: bool,
    /// Do not check that the archive would run elsewhere (`cargo xtask gate`)
    #[arg(long)]
    pub skip_gate: bool,
    /// Make a bundle for one type of installation, of the launcher and what that type needs; the bundle is then named so
    #[arg(long, value_name = "TYPE", conflicts_with = "only")]
    pub profile: Option<InstallType>,
    /// Write the bundle in this form, or in several with commas: gz, xz (smaller, slower) or zst (needs the feature `zstd`), deb, rpm, or
    /// oci (a container image; docs/release.md)
    #[arg(long = "format", value_name = "FORM", value_delimiter = ',', default_value = "gz", value_parser = Format::parse)]
    pub formats: Vec<Format>,
    /// With --format oci: an image (an OCI layout in a tar) whose layers lie below the bundle, for programs that need a C library
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    /// Sign the manifest in the bundle, each archive and what is beside it: with a secret key of minisign in a file, or `env:VARIABLE`; docs/verify.md
    #[arg(long, value_name = "KEY")]
    pub sign: Option<String>,
    /// Write also the archive of all sources that belong to the bundle, from which it can be built without internet
    #[arg(long)]
    pub sources: bool,
    /// How many jobs a build tool may run at once [default: the cores of this machine]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    #[command(flatten)]
    pub wait: Wait,
    /// Hash everything that is reused, instead of believing sizes and times
    #[arg(long)]
    pub paranoid: bool,
    /// When a component fails, begin no further step (otherwise the others are finished, to be there for the next run)
    #[arg(long)]
    pub fail_fast: bool,
    /// Install missing tools by the system's package manager first (apt, dnf, brew)
    #[arg(long)]
    pub install_missing: bool,
    #[command(flatten)]
    pub events: Events,
}

/// Make everything that is published of a version: package, signatures, checksums, notes; publishes nothing.
///
/// Refuses a work tree that is not as committed, a tag that is there already, and a version without an entry in CHANGELOG.md. Then
/// makes the package (all its flags are taken) and puts archives, signatures, SHA256SUMS and the notes into dist/release-VERSION/,
/// which is there whole or not at all. Publishes nothing; docs/release.md says what does.
#[derive(Args, Debug)]
pub struct Release {
    /// Do all but sign; the folder is named release-VERSION-dry-run
    #[arg(long, conflicts_with = "sign")]
    pub dry_run: bool,
    /// The tag that this is for, which is there already, and at this commit
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Make no package: take what `package` has written from this folder, as on other machines
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub package: Package,
}

/// Check that an archive, a package or an image would run on another machine: look at all of it, then run it apart from this one.
///
/// Every file of it is looked at: needed libraries, RPATHs, traces of the machine that built it, permissions, links, sizes. Then it
/// is unpacked elsewhere and used by another user, without network and with the build folder hidden: installed, started, probed, asked,
/// stopped, updated. A .deb or .rpm is installed by dpkg or rpm for that, an image run as it says itself. See docs/gate.md.
#[derive(Args, Debug)]
pub struct Gate {
    /// The archive, package or image, as `package` writes it; known by its content
    #[arg(value_name = "FILE")]
    pub archive: PathBuf,
    /// Folder of the stack that it was built from, with its gate.toml [default: the repository's root]
    #[arg(long, value_name = "DIR")]
    pub stack: Option<PathBuf>,
    /// The folder that it was built in, which must leave no trace [default: as for `package`]
    #[arg(long, value_name = "DIR")]
    pub build_dir: Option<PathBuf>,
    /// Look at it only; do not run it
    #[arg(long)]
    pub still: bool,
    /// Compare sizes with this manifest.json (or unpacked bundle) instead of the stack's sizes.json
    #[arg(long, value_name = "MANIFEST")]
    pub against: Option<PathBuf>,
    /// How much larger than the last release it may be [default: gate.toml's, or 10]
    #[arg(long, value_name = "PERCENT")]
    pub growth: Option<u32>,
    /// Run it in this folder as the root of another system, such as one that debootstrap has made; not for images
    #[arg(long, value_name = "DIR", conflicts_with = "still")]
    pub root: Option<PathBuf>,
    /// Note its sizes in the stack's sizes.json, as those of the last release
    #[arg(long)]
    pub record: bool,
    #[command(flatten)]
    pub talk: Talk,
}

/// Build twice under different conditions, and tell the first difference and its reason.
///
/// The first build is the usual one, with what was built before. The second one begins from sources alone, at another path, as another
/// user on a machine of another name, with another home, language, time zone and umask, more jobs and later. See docs/reproducible.md.
#[derive(Args, Debug)]
pub struct Repro {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub network: Network,
    /// Folder for the first build's tree and archive [default: dist/]
    #[arg(long, value_name = "DIR")]
    pub dist_dir: Option<PathBuf>,
    /// Build what one type of installation needs
    #[arg(long, value_name = "TYPE", conflicts_with = "only")]
    pub profile: Option<InstallType>,
    /// Make the second build's folder in this one [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    pub place: Option<PathBuf>,
    /// Leave the second build's folder there, to look into
    #[arg(long)]
    pub keep: bool,
}

/// Bring all sources into the build folder, and what they depend on if it is wanted.
#[derive(Args, Debug)]
pub struct Fetch {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub network: Network,
    /// Bring also what their lock files pin: Go toolchains and modules, npm packages, crates
    #[arg(long)]
    pub dependencies: bool,
    #[command(flatten)]
    pub wait: Wait,
    #[command(flatten)]
    pub events: Events,
}

/// Write a folder with everything that a build fetches: a --mirror for a machine without internet.
///
/// Source archives, Go toolchains and modules, npm's and Yarn's packages, node, crates: `package --mirror DIR --offline` then
/// builds on a machine of this platform that has no internet, from an empty build folder. Writing to a folder of an earlier
/// export adds what it lacks.
#[derive(Args, Debug)]
pub struct VendorExport {
    /// The folder: a new or empty one, or one that was written so before
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    #[command(flatten)]
    pub common: Common,
    /// Look here first: a folder of archives or one that vendor-export wrote, or an address below which archives lie (may be
    /// given several times)
    #[arg(long = "mirror", value_name = "DIR|URL")]
    pub mirrors: Vec<Mirror>,
    /// The forms that the other machine is to write the bundle in, as `package` takes them: deb and rpm need nfpm, which is then in the
    /// folder too (about 100 MB)
    #[arg(long = "format", value_name = "FORM", value_delimiter = ',', default_value = "gz", value_parser = Format::parse)]
    pub formats: Vec<Format>,
    #[command(flatten)]
    pub wait: Wait,
    #[command(flatten)]
    pub events: Events,
}

/// Print what `package` would do, in order, and why.
#[derive(Args, Debug)]
pub struct Plan {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub cache: SharedCache,
    /// Folder of the tree and the archive [default: dist/]
    #[arg(long, value_name = "DIR")]
    pub dist_dir: Option<PathBuf>,
    /// Print the plan for programs
    #[arg(long, conflicts_with = "dot")]
    pub json: bool,
    /// Print the plan as a graph for Graphviz
    #[arg(long)]
    pub dot: bool,
}

/// Tell what a component depends on, and what of it changed since it was built last.
#[derive(Args, Debug)]
pub struct Explain {
    /// The component
    pub name: String,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub cache: SharedCache,
}

/// Open a shell (or run a command) in a component's work folder, just as one of its steps would run.
#[derive(Args, Debug)]
pub struct Shell {
    /// The component
    pub name: String,
    /// The step [default: the one that failed last, else the first]
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
    /// A command to run there instead of your shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub network: Network,
    #[command(flatten)]
    pub wait: Wait,
}

/// Check this machine for everything that a build needs, and print all findings.
#[derive(Args, Debug)]
pub struct Doctor {
    #[command(flatten)]
    pub common: Common,
    /// Install missing tools by the system's package manager (apt, dnf, brew)
    #[arg(long)]
    pub install_missing: bool,
}

/// Check what a bundle holds against a database of known vulnerabilities, offline.
///
/// The database is what OSV publishes for each ecosystem (`all.zip`), unpacked or not: nothing is fetched. Exceptions stand in
/// audit.toml, each with a reason and a last day (docs/accounts.md).
#[derive(Args, Debug)]
pub struct Audit {
    /// The database: a JSON file, a zip, or a folder of such
    #[arg(long, value_name = "FILE|DIR")]
    pub db: PathBuf,
    /// Fail on a vulnerability as severe as this, and on one of unknown severity
    #[arg(long, value_name = "SEVERITY", default_value = "high")]
    pub fail_on: Severity,
    /// The bill of materials [default: that of the stack's bundle in dist/]
    #[arg(long, value_name = "FILE")]
    pub sbom: Option<PathBuf>,
    /// Folder with vendor.lock and recipes/ [default: the repository's root]
    #[arg(long, value_name = "DIR")]
    pub stack: Option<PathBuf>,
    /// Folder of the bundle's tree [default: dist/]
    #[arg(long, value_name = "DIR")]
    pub dist_dir: Option<PathBuf>,
    /// Tell programs, on standard output
    #[arg(long)]
    pub json: bool,
}

/// Remove what earlier runs have made.
#[derive(Args, Debug)]
pub struct Clean {
    #[command(flatten)]
    pub common: Common,
    /// Folder of trees and archives, cleaned by --all [default: dist/]
    #[arg(long, value_name = "DIR")]
    pub dist_dir: Option<PathBuf>,
    /// Remove fetched sources, toolchains, caches and the dist folder too
    #[arg(long, conflicts_with = "only")]
    pub all: bool,
}

/// Run all checks and tests, as CI does.
#[derive(Args, Debug)]
pub struct Ci {
    /// Install missing tools by the system's package manager first (apt, dnf, brew)
    #[arg(long)]
    pub install_missing: bool,
    #[command(flatten)]
    pub talk: Talk,
}

/// Measure archive, unpack, fetch and rebuild against common tools, as ratios, and peak memory.
#[derive(Args, Debug)]
pub struct Bench {
    /// What to measure
    #[arg(value_enum, default_value_t)]
    pub subject: Subject,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub network: Network,
    /// Folder for the tree and the archive [default: dist/]
    #[arg(long, value_name = "DIR")]
    pub dist_dir: Option<PathBuf>,
    /// Measure with this folder instead of the staged bundle [default without a bundle: a synthetic one as large]
    #[arg(long, value_name = "DIR")]
    pub tree: Option<PathBuf>,
    /// Write this archive of --tree and nothing else
    #[arg(long, hide = true, value_name = "FILE")]
    pub only_archive: Option<PathBuf>,
    /// The form of that archive
    #[arg(long, hide = true, default_value = "gz", value_parser = Format::parse)]
    pub only_form: Format,
    /// How often each command is run
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub runs: u8,
    /// Run this command, and print the most memory that it held, instead
    #[arg(last = true, hide = true, value_name = "COMMAND")]
    pub peak_of: Vec<OsString>,
    /// Of the launcher: measure this program instead of compiling it
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Of the launcher and the monitor: how long to watch it do nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub idle: u64,
    /// Of the monitor: how many series are sent
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub series: u32,
    /// Of the monitor: how many points are sent in a second, of all series; 0 for as fast as they are taken
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub rate: u32,
    /// Of the monitor: for how long they are sent at that rate
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// Of the monitor: only send points, measure nothing else
    #[arg(long)]
    pub only_points: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// The builder, against tar, gzip and other common tools
    #[default]
    Build,
    /// The launcher, against supervisord and s6
    Launcher,
    /// What a bundle makes of a machine: points taken and kept, times to start, the cost of doing nothing
    Monitor,
}

/// Write docs/flags.md anew, or manual pages and completions to a folder.
///
/// Without a folder docs/flags.md is written anew, which a test compares with the definitions. With one, the manual pages
/// and completions that the bundle ships.
#[derive(Args, Debug)]
pub struct Manual {
    /// The folder to write man/ and completions/ to
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Those of `cargo xtask` instead, which the bundle does not ship
    #[arg(long, requires = "folder")]
    pub builder: bool,
}

/// Sign what was made without a key: archives (inside too), checksums, any file.
///
/// An archive becomes, byte for byte, what `package --sign` would have made: its manifest's signature is put into it, all else stays,
/// and FILE.minisig is written beside it. Any other file gets that alone. A key with a password takes it from
/// DKUMONITOR_SIGN_PASSWORD, or asks.
#[derive(Args, Debug)]
pub struct Sign {
    /// What to sign
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// A secret key of minisign: a file that only you can read, outside the repository, or `env:VARIABLE`
    #[arg(long, value_name = "KEY")]
    pub key: String,
    /// The time that the signature of a file names, in seconds since 1970; archives have their own [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub epoch: Option<u64>,
}

/// Check an archive, an unpacked bundle or a release: checksums, signatures, every file against the manifest.
///
/// FILE.minisig and FILE.sha256 beside it are used where they are. An archive without them is read through: the manifest's signature in
/// it vouches for the manifest, the manifest for every file, and all else has to be as `package` writes it. Of a SHA256SUMS, all files that
/// it names are checked. Ends with 5 when anything is not as it should be, could not be checked at all, or is not signed by the given
/// key.
#[derive(Args, Debug)]
pub struct Verify {
    /// An archive, the folder of an unpacked bundle, a SHA256SUMS, or any file with a signature beside it
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The public key that it has to be signed with: a file of minisign, or the key itself (RW…)
    #[arg(short, long, value_name = "PUB")]
    pub key: Option<String>,
    /// Read archives through, even where a signature beside them vouches for all
    #[arg(long)]
    pub contents: bool,
}

/// What can be done with the pins.
#[derive(Debug, Subcommand)]
pub enum Lock {
    /// Find what cannot be right in vendor.lock, and what was changed by half since the last commit
    Check(LockCheck),
    /// Pin another version of a source: fetch it, hash it, show what changed, rewrite its entry
    Bump(LockBump),
}

/// Find what cannot be right in the lock.
#[derive(Args, Debug)]
pub struct LockCheck {
    /// Folder with vendor.lock [default: the repository's root]
    #[arg(long, value_name = "DIR")]
    pub stack: Option<PathBuf>,
    /// The commit whose vendor.lock is taken for comparison [default: HEAD, where git knows the file]
    #[arg(long, value_name = "COMMIT")]
    pub against: Option<String>,
}

/// Pin another version.
#[derive(Args, Debug)]
#[command(mut_arg("only", |arg| arg.hide(true)))]
pub struct LockBump {
    /// The source, as vendor.lock names it
    pub name: String,
    /// Its new version, as vendor.lock writes it. The present one again checks the pin and adds what the entry lacks
    pub version: String,
    /// Fetch, hash and show, but leave vendor.lock as it is
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub network: Network,
    #[command(flatten)]
    pub wait: Wait,
}
