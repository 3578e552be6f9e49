//! What is to be made, and everything that speaks against it.
//!
//! It is looked at part by part: the [`place`], the [`machine`], the [`network`], Grafana's side of the [`web`], and the [`parts`] of the
//! bundle. Each notes what is wrong and goes on, so that everything is said at once. Nothing is changed here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::build::BUNDLE;
use super::context::{Carbon, CollectdPaths, Context};
use super::retention;
use crate::cli::Installer;
use crate::manifest::Manifest;
use crate::ports;
use crate::service::{InstallType, Service};

pub mod machine;
pub mod network;
pub mod parts;
pub mod place;
pub mod secret;
pub mod web;

/// Everything that speaks against an installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl Problems {
    /// Notes a failure, and gives a success back.
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(format!("{error:#}"))).ok()
    }
}

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was asked for.
    pub arguments: Installer,
    /// The bundle.
    pub bundle: PathBuf,
    /// The bundle's components with their versions.
    pub components: BTreeMap<String, String>,
    /// The folder to make: absolute, its parents free of links as far as they exist.
    pub data: PathBuf,
    /// The type of installation.
    pub kind: InstallType,
    /// What the templates can say.
    pub context: Context,
    /// The services, rendered.
    pub services: Vec<Service>,
    /// The bundle's manifest's stack.
    pub stack: Option<String>,
    /// Whether the host's collectd is used.
    pub system_collectd: bool,
    /// What is no obstacle and should be known.
    pub notes: Vec<String>,
    /// The password to show, where there is a Grafana.
    pub password: Option<String>,
    /// The other secret, likewise.
    pub secret_key: Option<String>,
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// A new data folder: its place has to be free, and its ports.
    New,
    /// Another version for a data folder that is there and had these ports, which its services may hold.
    Update(&'a BTreeMap<String, u16>),
}

/// The longest time between two measurements.
const MOST_SECONDS: u32 = 3_600;

/// The whisper schema.
#[must_use]
pub fn schema(arguments: &Installer) -> String {
    arguments.retention.clone().unwrap_or_else(|| retention::default_for(arguments.interval().clamp(1, MOST_SECONDS)))
}

/// Looks at everything.
///
/// # Errors
/// All problems.
pub fn make(arguments: &Installer, bundle: &Path, manifest: &Manifest, purpose: Purpose<'_>) -> Result<Plan, Problems> {
    let mut problems = Problems::default();
    machine::look(arguments, manifest, &mut problems);
    let data = match purpose {
        Purpose::New => problems.note(place::data_folder(&arguments.data, bundle)).unwrap_or_default(),
        Purpose::Update(_) => arguments.data.clone(),
    };
    if purpose == Purpose::New {
        problems.note(place::space(&data, arguments.kind()));
    }
    let numbers = problems.note(network::port_numbers(arguments));
    let hostname = problems.note(machine::hostname(arguments.hostname.as_deref())).unwrap_or_default();
    if !(1..=MOST_SECONDS).contains(&arguments.interval()) {
        problems.0.push(format!("--interval {}: it has to be from 1 to {MOST_SECONDS} seconds", arguments.interval()));
    }
    let schema = schema(arguments);
    let schema = problems.note(retention::check(&schema).with_context(|| format!("--retention {schema}")));
    let peers = problems.note(network::peers(arguments));
    // Through the link, so that another version changes no file by that alone.
    let collectd = parts::which_collectd(arguments, &data.join(BUNDLE), &mut problems);
    let definitions = parts::definitions(arguments, manifest, &mut problems);
    let web = problems.note(web::look(arguments, numbers.as_ref().map_or(0, |ports| ports["grafana"])));
    let (Some(ports), Some(peers), Some(web)) = (numbers, peers, web) else { return Err(problems) };

    let mut context = context(arguments, ports, peers, hostname);
    context.services = definitions.iter().map(|service| service.name.clone()).collect();
    context.version = manifest.version.clone();
    context.retention_kb = schema.as_ref().map_or(0, |schema| schema.bytes.div_ceil(1_000));
    context.web = web;
    context.bundle = utf8(&data.join(BUNDLE), &mut problems);
    context.data = utf8(&data, &mut problems);
    context.collectd = CollectdPaths {
        program: utf8(&collectd.program, &mut problems),
        plugins: utf8(&collectd.plugins, &mut problems),
        types: utf8(&collectd.types, &mut problems),
    };
    let services = parts::rendered(&definitions, &context, bundle, &mut problems);
    place::sockets(&data, &services, &mut problems);
    network::ports_are_free(&services, purpose, &mut problems);
    let secrets = if context.has("grafana") { problems.note(secret::pair()) } else { None };
    if !problems.0.is_empty() {
        return Err(problems);
    }
    let (password, secret_key) = secrets.unzip();
    Ok(Plan {
        arguments: arguments.clone(),
        bundle: bundle.to_owned(),
        components: manifest.components.iter().map(|part| (part.name.clone(), part.version.clone())).collect(),
        data,
        kind: arguments.kind(),
        notes: notes(&context, schema.map_or(0, |schema| schema.finest)),
        context,
        services,
        stack: manifest.stack.clone(),
        system_collectd: arguments.system_collectd,
        password,
        secret_key,
    })
}

/// What follows from the arguments alone; the rest is left empty.
fn context(arguments: &Installer, ports: BTreeMap<&'static str, u16>, peers: network::Peers, hostname: String) -> Context {
    let listen = network::listening(arguments);
    let endpoint = |name: &'static str, address: IpAddr| SocketAddr::new(address, ports[name]).to_string();
    let reach: BTreeMap<_, _> =
        listen.iter().map(|(&name, &address)| (name, endpoint(name, ports::reachable(address)))).collect();
    let own_carbon = || Carbon { host: ports::reachable(listen["carbon"]).to_string(), port: ports["carbon"] };
    let (host_stem, host_leaf) = hostname.rfind('.').map_or(("", &*hostname), |dot| hostname.split_at(dot + 1));
    let stores = arguments.kind().components().contains(&"go-carbon");
    Context {
        kind: arguments.kind().to_string(),
        host_stem: host_stem.to_owned(),
        host_leaf: host_leaf.to_owned(),
        host_glob: vec!["*"; hostname.split('.').count()].join("."),
        hostname,
        interval: arguments.interval().clamp(1, MOST_SECONDS),
        retention: schema(arguments),
        // A frontend that was not told of a carbon has nowhere to send its own figures to.
        figures: if stores {
            reach["carbon"].clone()
        } else {
            peers.carbon.as_ref().map_or_else(String::new, Carbon::endpoint)
        },
        backends: if stores { vec![reach["carbonserver"].clone()] } else { peers.backends },
        carbon: peers.carbon.unwrap_or_else(own_carbon),
        endpoints: listen.iter().map(|(&name, &address)| (name, endpoint(name, address))).collect(),
        reach,
        listen: listen.into_iter().map(|(name, address)| (name, address.to_string())).collect(),
        ports,
        ..Context::default()
    }
}

/// What is no obstacle and should be known. `finest`: the step of the schema's first part.
fn notes(context: &Context, finest: u64) -> Vec<String> {
    let mut out = Vec::new();
    if context.has("go-carbon") && context.has("collectd") && finest > u64::from(context.interval) {
        out.push(format!(
            "points come every {} s and are kept every {finest} s: of those between the last one counts (--interval {finest} sends no more \
             than is kept)",
            context.interval
        ));
    }
    out
}

/// Paths go into configuration, which is text.
fn utf8(path: &Path, problems: &mut Problems) -> String {
    path.to_str().map_or_else(
        || {
            problems.0.push(format!("the path {} is not UTF-8, which the services' configuration has to be", path.display()));
            String::new()
        },
        str::to_owned,
    )
}
