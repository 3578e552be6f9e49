//! The verbs and flags of `dkmadmin`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What `audit` ends with.
const AUDITED: &str = "Ends with 0 when nothing was found, 1 with warnings, 2 with something critical, 3 when it could not look: what monitoring \
takes from a plugin.";

/// Looks after a bundle and the data folders made from it.
#[derive(Debug, Parser)]
#[command(name = "dkmadmin", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Admin {
    /// What to do
    #[command(subcommand)]
    pub verb: AdminVerb,
}

/// The verbs of `dkmadmin`.
#[derive(Debug, Subcommand)]
pub enum AdminVerb {
    /// Show the bundle's version, platform and components
    Version,
    /// Compare every file of a bundle with its manifest, and the manifest with its signature
    ///
    /// Prints each file that is missing, changed, not in the manifest, or of a mode that allows more (or, of a program, less) than the
    /// manifest's, and each folder that others may write to. Ends with 1 when there is any, or when the signature is not by the given key.
    Verify(Verify),
    /// Check a data folder for whatever makes it unsafe
    ///
    /// Modes and owners, secrets, what services listen on, risky settings, environment variables that go before them, folders above
    /// that others may change, what runs as root. Changes nothing. docs/admin.md has all checks and why.
    #[command(after_help = AUDITED)]
    Audit(Audit),
    /// Back up a data folder into one file, while its services run
    ///
    /// Configuration, secrets, metrics and databases, with their hashes, as a compressed tar that only its owner may read. For that
    /// one, or for root. What is left out: what belongs to running services (run/, logs among it) and what the last update replaced.
    Backup(Backup),
    /// Make a data folder of a backup
    ///
    /// With the dkmadmin of a bundle of the same version: BUNDLE/bin/dkmadmin restore FILE. Every hash is compared before anything
    /// is put in its place; a folder that is there has to be stopped, and is kept under another name.
    Restore(Restore),
    /// Give the administrator of Grafana a new password, whether it runs or not
    ///
    /// A random one, shown once and kept in the file that the first one was in. For the data folder's owner.
    ResetPassword(ResetPassword),
    /// Have the system start the services of a data folder, now and at every boot
    ///
    /// For root. Writes a systemd unit, a launchd job or an init script, whichever the system takes, for the user who owns the data
    /// folder, and enables it. The unit gives the services no more than they need (docs/admin.md).
    InstallBoot(InstallBoot),
    /// Undo install-boot; what runs goes on until it is stopped
    UninstallBoot(UninstallBoot),
}

/// What to verify a bundle with.
#[derive(Args, Debug)]
pub struct Verify {
    /// The bundle, such as a new one before its programs are run [default: the one that this program lies in]
    #[arg(value_name = "BUNDLE")]
    pub bundle: Option<PathBuf>,

    /// The public key that the bundle has to be signed with: a file of minisign, or the key itself (RW…)
    #[arg(short, long, value_name = "PUB")]
    pub key: Option<String>,
}

/// Which data folder is meant.
#[derive(Args, Debug)]
pub struct Folder {
    /// The data folder; otherwise DKM_HOME, otherwise the one that this program was called from, as DATA_DIR/bin/dkmadmin
    #[arg(short, long = "data-dir", value_name = "DATA_DIR")]
    pub data: Option<PathBuf>,
}

/// `dkmadmin audit`.
#[derive(Args, Debug)]
pub struct Audit {
    /// Which folder
    #[command(flatten)]
    pub folder: Folder,

    /// Pass over findings that are meant so: "CHECK PLACE", with * and ? in it, such as 'open carbonapi *'
    #[arg(long, value_name = "PATTERN")]
    pub ignore: Vec<String>,

    /// Print the outcome for programs
    #[arg(long)]
    pub json: bool,
}

/// `dkmadmin reset-password`.
#[derive(Args, Debug)]
pub struct ResetPassword {
    /// Which folder
    #[command(flatten)]
    pub folder: Folder,

    /// Of which service, where several have passwords
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    /// Read the password, one line, from standard input instead of making one
    #[arg(long)]
    pub stdin: bool,
}

/// `dkmadmin backup`.
#[derive(Args, Debug)]
pub struct Backup {
    /// Which folder
    #[command(flatten)]
    pub folder: Folder,

    /// The file to make, a folder to make one in that is named after machine and time, or - for standard output
    #[arg(value_name = "FILE|DIR|-")]
    pub to: PathBuf,

    /// With a folder: keep so many backups of this machine in it, and remove older ones
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
}

/// `dkmadmin restore`.
#[derive(Args, Debug)]
pub struct Restore {
    /// The backup, or - for standard input
    #[arg(value_name = "FILE|-")]
    pub from: PathBuf,

    /// Where to; by default where it was
    #[arg(short, long = "data-dir", value_name = "DATA_DIR")]
    pub data: Option<PathBuf>,

    /// Who shall own it, where root restores; by default the number that owned it
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,

    /// Only look whether the backup is whole
    #[arg(long, conflicts_with_all = ["data", "user"])]
    pub check: bool,
}

/// What starts programs with the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Init {
    /// A unit in /etc/systemd/system
    Systemd,
    /// A job in /Library/LaunchDaemons
    Launchd,
    /// A script in /etc/init.d
    Sysvinit,
}

/// Flags of both boot verbs.
#[derive(Args, Debug)]
pub struct Boot {
    /// For which of them; by default what this machine runs
    #[arg(long, value_name = "INIT")]
    pub init: Option<Init>,

    /// The root of another system, such as an image that is being made; nothing is started or loaded then
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,
}

/// `dkmadmin install-boot`.
#[derive(Args, Debug)]
pub struct InstallBoot {
    /// Which folder
    #[command(flatten)]
    pub folder: Folder,

    /// The service's name; a second data folder on this machine needs another one
    #[arg(short, long, value_name = "NAME", default_value = "dkumonitor")]
    pub name: String,

    /// Who runs the services: the data folder's owner, which is the default. Root has to be named
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,

    /// A further folder that services write to; those that links in DATA_DIR/storage lead to are found
    #[arg(long, value_name = "DIR")]
    pub writable: Vec<PathBuf>,

    /// Start it, too
    #[arg(long)]
    pub now: bool,

    /// Print what would be written, and change nothing; for everybody
    #[arg(long)]
    pub print: bool,

    /// Where to
    #[command(flatten)]
    pub boot: Boot,
}

/// `dkmadmin uninstall-boot`.
#[derive(Args, Debug)]
pub struct UninstallBoot {
    /// Which folder
    #[command(flatten)]
    pub folder: Folder,

    /// The service's name; by default the one that starts the data folder
    #[arg(short, long, value_name = "NAME")]
    pub name: Option<String>,

    /// Where from
    #[command(flatten)]
    pub boot: Boot,
}
