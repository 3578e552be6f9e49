//! Every command and every flag. The comments are the help.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};

use crate::service::InstallType;

/// Starts, stops and watches the services of one monitor.
///
/// Called as DATA_DIR/bin/dkm it knows its data folder. A supervisor is started when a command needs one; it starts no service by
/// itself, restarts what dies, and outlives the terminal.
#[derive(Debug, Parser)]
#[command(name = "dkm", version, disable_help_subcommand = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Dkm {
    /// The data folder; otherwise DKM_HOME, otherwise the folder that this dkm lies in
    #[arg(long, value_name = "DATA_DIR")]
    pub home: Option<PathBuf>,

    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs of `dkm`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start services, and wait until they are ready
    ///
    /// In the order that they need, those that were running already being left alone. Ends with 1 when one is not ready in its
    /// time or dies twice in a row, and shows its last lines; the supervisor goes on trying.
    Start(Act),
    /// Stop services, those that others feed on last, and wait until nothing is left of them
    Stop(Act),
    /// Stop services and start them again, and wait until they are ready
    Restart(Act),
    /// Stop every service, then the supervisor
    Shutdown(Shutdown),
    /// Show what runs
    ///
    /// Ends with 0 when every service asked for runs and is ready, 1 when one died and waits for its next try, 3 when one is
    /// stopped, 4 when the name is unknown, and 150 when one is on its way up or down. Of several the first of 4, 1, 3, 150
    /// counts. Starts no supervisor.
    Status(Status),
    /// Print process numbers
    ///
    /// Of the supervisor, of a service, or, with "all", of every service, one a line; 0 for what does not run, and then the end
    /// is 3. Starts no supervisor.
    Pid(Pid),
    /// Show the last lines that services printed
    Tail(Tail),
    /// Run the supervisor itself, in the foreground
    ///
    /// The other commands start it by themselves when they need it.
    Supervisor,
    /// Check the definitions of the services, and let each service check its own configuration
    Check(Names),
}

/// Which services.
#[derive(Args, Debug)]
pub struct Names {
    /// The services; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// What the verbs that change something have in common.
#[derive(Args, Debug)]
pub struct Act {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// Only ask for it, and do not wait for it to happen
    #[arg(long)]
    pub no_wait: bool,
}

/// `dkm shutdown`.
#[derive(Args, Debug)]
pub struct Shutdown {
    /// Only ask for it, and do not wait for it to happen
    #[arg(long)]
    pub no_wait: bool,
}

/// `dkm status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// Print an array of objects for programs
    #[arg(long)]
    pub json: bool,
}

/// `dkm pid`.
#[derive(Args, Debug)]
pub struct Pid {
    /// A service, or "all"; the supervisor when nothing is named
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,
}

/// `dkm tail`.
#[derive(Args, Debug)]
pub struct Tail {
    /// Which services
    #[command(flatten)]
    pub names: Names,
    /// Go on showing lines as they come
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    pub lines: usize,
}

/// Makes a data folder: configuration, storage and the `dkm` that runs it.
///
/// Everything is checked first, and everything that is wrong is said at once. The folder is made beside its place and then renamed:
/// it is there whole or not at all.
///
/// Ports, counted from PORT: Grafana on PORT, carbon on PORT+1 (TCP and UDP), carbonapi on PORT+2, carbonserver on PORT+3 (this
/// machine only).
///
/// With --update, from a newer bundle: moves a data folder to this version. What you changed in it stays as it is; where this version
/// would have something else, it is written beside as .new and listed.
#[derive(Clone, Debug, PartialEq, Eq, Parser, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[command(name = "installer", version)]
pub struct Installer {
    /// The folder to make; it may exist if it is empty
    #[arg(short, long = "data-dir", value_name = "DATA_DIR")]
    pub data: PathBuf,

    /// The first of four consecutive ports
    #[arg(short, long, value_name = "PORT", required_unless_present = "existing")]
    pub port: Option<u32>,

    /// What this machine carries
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "all")]
    pub kind: InstallType,

    /// Use the collectd that is installed on this machine instead of the bundle's
    #[arg(long)]
    pub system_collectd: bool,

    /// Where an agent sends to; the port is PORT+1 if it is left out
    #[arg(long, value_name = "HOST[:PORT]")]
    pub carbon_server: Option<String>,

    /// This machine's name in metrics; by default its full name reversed, example.domain.host
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,

    /// Seconds between two measurements of this machine
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub interval: u32,

    /// How long points are kept, as "STEP:LENGTH,…"; by default made from the interval (10s:6h,1m:7d,10m:1y)
    #[arg(long, value_name = "SCHEMA")]
    pub retention: Option<String>,

    /// The address that carbon takes points on; by default this machine only for the type "all", every address otherwise
    #[arg(short = 'l', long, value_name = "ADDRESS")]
    pub carbon_listen: Option<IpAddr>,

    /// The address that carbonapi answers on; by default this machine only where Grafana is beside it, every address otherwise
    #[arg(long, value_name = "ADDRESS")]
    pub carbonapi_listen: Option<IpAddr>,

    /// The address that Grafana answers on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub grafana_listen: IpAddr,

    /// What to do with a data folder that is there
    #[command(flatten)]
    #[serde(skip)]
    pub existing: Existing,

    /// With --update or --rollback: leave running services alone; they change with their next restart
    #[arg(long, requires = "existing")]
    #[serde(skip)]
    pub no_restart: bool,

    /// With --update or --rollback: do not ask before services are restarted
    #[arg(short, long, requires = "existing")]
    #[serde(skip)]
    pub yes: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,

    /// Print the outcome for programs
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
}

/// What the installer does with a data folder that is there.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[group(id = "existing", multiple = true)]
pub struct Existing {
    /// Move the data folder to this bundle's version, and restart what runs
    #[arg(short, long, conflicts_with = "rollback")]
    pub update: bool,

    /// Go back to what the last update replaced
    #[arg(long)]
    pub rollback: bool,
}

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
    /// Compare every file of the bundle with its manifest
    ///
    /// Prints each file that is missing, changed, of another mode, or not in the manifest. Ends with 1 when there is any.
    Verify,
}
