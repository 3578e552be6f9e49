//! Every command and every flag of the launcher. The comments are the help. Those of `dkm` are in [`dkm`], those of `dkmadmin` in [`admin`].

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser};
use serde::{Deserialize, Serialize};

use crate::service::InstallType;

pub mod admin;
pub mod completions;
pub mod dkm;
pub mod when;

pub use admin::{Admin, AdminVerb, Verify};
pub use dkm::Dkm;

/// Makes a data folder: configuration, storage and the `dkm` that runs it.
///
/// Everything is checked first, and everything that is wrong is said at once. The folder is made beside its place and then renamed:
/// it is there whole or not at all. The same call again says that there is nothing to do.
///
/// Ports, counted from PORT: Grafana on PORT, carbon on PORT+1 (TCP and UDP), carbonapi on PORT+2, carbonserver on PORT+3. Kept free for
/// what you may switch on in conf/go-carbon.conf: PORT+4 pickle, +5 protobuf, +6 HTTP, +7 carbonlink, +8 gRPC, +9 tags.
///
/// With --update, from a newer bundle: moves a data folder to this version. What you changed in it stays as it is; where this version
/// would have something else, it is written beside as .new and listed. Options that are given with it replace those of the installation.
///
/// With --verify [--key PUB] and nothing else: rechecks every file of this bundle against its manifest, and the manifest against its
/// signature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Parser, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[command(name = "installer", version)]
pub struct Installer {
    /// The folder to make; it may exist if it is empty
    #[arg(short, long = "data-dir", value_name = "DATA_DIR")]
    pub data: PathBuf,

    /// The first of ten consecutive ports. An agent needs none if --carbon-server has one
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u32>,

    /// What this machine carries [default: all]
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    #[serde(rename = "type")]
    pub kind: Option<InstallType>,

    /// Use the collectd that is installed on this machine instead of the bundle's
    #[arg(long)]
    pub system_collectd: bool,

    /// Where an agent sends to, and a frontend its own figures; the port is PORT+1 if it is left out
    #[arg(long, value_name = "HOST[:PORT]")]
    pub carbon_server: Option<String>,

    /// The carbonservers that a frontend asks, with commas between them; the port is PORT+3 if it is left out
    #[arg(long, value_name = "HOST[:PORT],…", value_delimiter = ',')]
    pub carbon_backends: Vec<String>,

    /// This machine's name in metrics; by default its full name reversed, example.domain.host
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,

    /// Seconds between two measurements of this machine [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub interval: Option<u32>,

    /// How long points are kept, as "STEP:LENGTH,…"; by default made from the interval (10s:6h,1m:7d,10m:1y)
    #[arg(long, value_name = "SCHEMA")]
    pub retention: Option<String>,

    /// The address that carbon takes points on; by default this machine only for the type "all", every address otherwise
    #[arg(short = 'l', long, value_name = "ADDRESS")]
    pub carbon_listen: Option<IpAddr>,

    /// The address that carbonapi answers on; by default this machine only where Grafana is beside it, every address otherwise
    #[arg(long, value_name = "ADDRESS")]
    pub carbonapi_listen: Option<IpAddr>,

    /// The address that carbonserver answers frontends on; by default this machine only
    #[arg(long, value_name = "ADDRESS")]
    pub carbonserver_listen: Option<IpAddr>,

    /// The address that Grafana answers on; by default every address, with --behind-proxy this machine only
    #[arg(long, value_name = "ADDRESS")]
    pub grafana_listen: Option<IpAddr>,

    /// Let Grafana speak https with this certificate (its chain behind it) and this key, both PEM. They are used where they are
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"], conflicts_with = "behind_proxy")]
    pub tls: Vec<PathBuf>,

    /// The address that Grafana has for browsers, where a web server stands before it: <https://example.org/grafana/>
    #[arg(long, value_name = "URL")]
    pub behind_proxy: Option<String>,

    /// What to do with a data folder that is there
    #[command(flatten)]
    #[serde(skip)]
    pub existing: Existing,

    /// With --uninstall: remove the data and the configuration too
    #[arg(long, requires = "uninstall")]
    #[serde(skip)]
    pub purge: bool,

    /// With --update or --rollback: leave running services alone; they change with their next restart
    #[arg(long, requires = "existing", conflicts_with = "uninstall")]
    #[serde(skip)]
    pub no_restart: bool,

    /// Do not ask before services are restarted or stopped, or something is removed
    #[arg(short, long)]
    #[serde(skip)]
    pub yes: bool,

    /// Let root own the monitor and run its services; DKM_ALLOW_ROOT=1 does the same
    #[arg(long)]
    #[serde(skip)]
    pub allow_root: bool,

    /// Make the folder, or bring it to this version, and then be its supervisor, with all services: what containers start
    #[arg(long, conflicts_with_all = ["existing", "dry_run", "json"])]
    #[serde(skip)]
    pub run: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,

    /// Print the outcome for programs
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
}

impl Installer {
    /// The type of installation.
    #[must_use]
    pub fn kind(&self) -> InstallType {
        self.kind.unwrap_or(InstallType::All)
    }

    /// Seconds between two measurements.
    #[must_use]
    pub fn interval(&self) -> u32 {
        self.interval.unwrap_or(10)
    }
}

/// What the installer does with a data folder that is there.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[group(id = "existing", multiple = false)]
pub struct Existing {
    /// Move the data folder to this bundle's version, and restart what runs
    #[arg(short, long)]
    pub update: bool,

    /// Go back to what the last update replaced
    #[arg(long)]
    pub rollback: bool,

    /// Stop the services and remove the programs from the data folder; data and configuration stay
    #[arg(long)]
    pub uninstall: bool,
}

/// Recheck the bundle: every file against its manifest, and the manifest against its signature.
///
/// The same as `dkmadmin verify`.
#[derive(Debug, Parser)]
#[command(name = "installer", version)]
pub struct InstallerVerify {
    /// Recheck the bundle, and do nothing else
    #[arg(long, required = true)]
    pub verify: bool,

    /// What to verify with
    #[command(flatten)]
    pub what: Verify,
}
