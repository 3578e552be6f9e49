//! What is to be made, and everything that speaks against it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::build::BUNDLE;
use super::collectd::Collectd;
use super::context::{Carbon, CollectdPaths, Context, environment};
use super::retention;
use crate::cli::Installer;
use crate::manifest::{Manifest, Platform};
use crate::ports;
use crate::service::{InstallType, Service};

/// How many ports from the first one on belong to an installation.
const PORTS: [&str; 4] = ["grafana", "carbon", "carbonapi", "carbonserver"];

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
    /// The password to show, where there is a Grafana.
    pub password: Option<String>,
    /// The other secret, likewise.
    pub secret_key: Option<String>,
}

/// The components that a type consists of. A bundle may lack some; it then is no bundle for that type.
#[must_use]
pub fn components(kind: InstallType) -> &'static [&'static str] {
    match kind {
        InstallType::All => &["go-carbon", "carbonapi", "grafana", "collectd"],
        InstallType::Server => &["go-carbon", "carbonapi", "grafana"],
        InstallType::Agent => &["collectd"],
        InstallType::Backend => &["go-carbon", "carbonapi"],
        InstallType::BackendAgent => &["go-carbon", "carbonapi", "collectd"],
    }
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A new data folder: its place has to be free, and its ports.
    New,
    /// Another version for a data folder that is there, and whose services may hold the ports.
    Update,
}

/// Looks at everything.
///
/// # Errors
/// All problems.
pub fn make(arguments: &Installer, bundle: &Path, manifest: &Manifest, purpose: Purpose) -> Result<Plan, Problems> {
    let mut problems = Problems::default();
    let here = Platform::current();
    if manifest.platform != here {
        problems.0.push(format!(
            "the bundle is for {} on {}, and this is {} on {}",
            manifest.platform.os, manifest.platform.arch, here.os, here.arch
        ));
    }
    let data = match purpose {
        Purpose::New => problems.note(data_folder(&arguments.data, bundle)).unwrap_or_default(),
        Purpose::Update => arguments.data.clone(),
    };
    let numbers = problems.note(port_numbers(arguments.port.unwrap_or(0)));
    let hostname = problems.note(hostname(arguments.hostname.as_deref())).unwrap_or_default();
    if !(1..=3_600).contains(&arguments.interval) {
        problems.0.push(format!("--interval {}: it has to be from 1 to 3600 seconds", arguments.interval));
    }
    let interval = arguments.interval.clamp(1, 3_600);
    let schema = arguments.retention.clone().unwrap_or_else(|| retention::default_for(interval));
    let bytes = problems.note(retention::check(&schema).with_context(|| format!("--retention {schema}"))).unwrap_or(0);
    let carbon_server = problems.note(carbon_server(arguments));
    let collectd = which_collectd(arguments, bundle, &mut problems);
    let definitions = definitions(arguments, manifest, &mut problems);
    let (Some(ports), Some(carbon_server)) = (numbers, carbon_server) else { return Err(problems) };

    let names = definitions.iter().map(|service| service.name.clone()).collect();
    let mut context = context(arguments, ports, carbon_server, hostname, names);
    context.version = manifest.version.clone();
    (context.retention, context.retention_kb) = (schema, bytes.div_ceil(1_000));
    context.interval = interval;
    context.bundle = utf8(&data.join(BUNDLE), &mut problems);
    context.data = utf8(&data, &mut problems);
    context.collectd = CollectdPaths {
        program: utf8(&collectd.program, &mut problems),
        plugins: utf8(&collectd.plugins, &mut problems),
        types: utf8(&collectd.types, &mut problems),
    };
    let services = rendered(&definitions, &context, bundle, &mut problems);
    if purpose == Purpose::New {
        ports_are_free(&services, &mut problems);
    }
    if !problems.0.is_empty() {
        return Err(problems);
    }
    let grafana = services.iter().any(|service| service.name == "grafana");
    let secrets = if grafana { problems.note(secret(20).and_then(|one| Ok((one, secret(40)?)))) } else { None };
    if !problems.0.is_empty() {
        return Err(problems);
    }
    let (password, secret_key) = secrets.unzip();
    Ok(Plan {
        arguments: arguments.clone(),
        bundle: bundle.to_owned(),
        components: manifest.components.iter().map(|part| (part.name.clone(), part.version.clone())).collect(),
        data,
        kind: arguments.kind,
        context,
        services,
        stack: manifest.stack.clone(),
        system_collectd: arguments.system_collectd,
        password,
        secret_key,
    })
}

/// What follows from the arguments alone; the rest is left empty.
fn context(
    arguments: &Installer,
    ports: BTreeMap<&'static str, u16>,
    carbon_server: Option<Carbon>,
    hostname: String,
    services: Vec<String>,
) -> Context {
    let listen = listening(arguments);
    let endpoint = |name: &'static str, address: IpAddr| SocketAddr::new(address, ports[name]).to_string();
    let own_carbon = || Carbon { host: ports::reachable(listen["carbon"]).to_string(), port: ports["carbon"] };
    let (host_stem, host_leaf) = hostname.rfind('.').map_or(("", &*hostname), |dot| hostname.split_at(dot + 1));
    Context {
        kind: arguments.kind.to_string(),
        host_stem: host_stem.to_owned(),
        host_leaf: host_leaf.to_owned(),
        host_glob: vec!["*"; hostname.split('.').count()].join("."),
        hostname,
        carbon: carbon_server.unwrap_or_else(own_carbon),
        endpoints: listen.iter().map(|(&name, &address)| (name, endpoint(name, address))).collect(),
        reach: listen.iter().map(|(&name, &address)| (name, endpoint(name, ports::reachable(address)))).collect(),
        listen: listen.into_iter().map(|(name, address)| (name, address.to_string())).collect(),
        ports,
        services,
        ..Context::default()
    }
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

/// The absolute path of the folder to make, after everything about it has been looked at.
fn data_folder(asked: &Path, bundle: &Path) -> Result<PathBuf> {
    let name = asked.display();
    let absolute = std::path::absolute(asked).with_context(|| format!("cannot use the path {name}"))?;
    // Parents that exist are followed, the rest is taken as it is written.
    let mut existing = absolute.clone();
    let mut rest = Vec::new();
    let real = loop {
        match existing.canonicalize() {
            Ok(real) => break real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                match existing.components().next_back() {
                    Some(Component::Normal(part)) => rest.push(part.to_owned()),
                    _ => bail!("the path {name} leads through a folder that does not exist and back"),
                }
                existing.pop();
            }
            Err(error) => return Err(error).with_context(|| format!("cannot look at {}", existing.display())),
        }
    };
    if !real.is_dir() {
        bail!("{} is not a folder", real.display());
    }
    let data: PathBuf = std::iter::once(real.as_os_str().to_owned()).chain(rest.iter().rev().cloned()).collect();
    let text = data.to_string_lossy();
    if text.contains(|c: char| c.is_control()) {
        bail!("the path \"{}\" has a control character, which the services' configuration cannot hold", text.escape_debug());
    }
    if data.starts_with(bundle) || bundle.starts_with(&data) {
        bail!(
            "{} and the bundle {} lie in one another: the next version would take the data with it",
            data.display(),
            bundle.display()
        );
    }
    if rest.is_empty() {
        let mut entries = fs::read_dir(&data).with_context(|| format!("cannot look into {}", data.display()))?;
        if entries.next().is_some() {
            bail!("the folder {} is not empty: name a new one, or empty it first", data.display());
        }
    }
    let parent = if rest.is_empty() { real.parent().unwrap_or(&real).to_owned() } else { real };
    nix::unistd::access(&parent, nix::unistd::AccessFlags::W_OK)
        .with_context(|| format!("cannot make anything in {}", parent.display()))?;
    Ok(data)
}

fn port_numbers(first: u32) -> Result<BTreeMap<&'static str, u16>> {
    let count = u32::try_from(PORTS.len())?;
    let last = first.saturating_add(count - 1);
    if first == 0 || last > u32::from(u16::MAX) {
        bail!("--port {first}: the ports {first} to {last} have to be from 1 to 65535, so PORT from 1 to {}", 65_536 - count);
    }
    PORTS.into_iter().zip(first..).map(|(name, number)| Ok((name, u16::try_from(number)?))).collect()
}

/// Which address each part listens on.
fn listening(arguments: &Installer) -> BTreeMap<&'static str, IpAddr> {
    let (loopback, every) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let alone = arguments.kind == InstallType::All;
    let with_grafana = matches!(arguments.kind, InstallType::All | InstallType::Server);
    BTreeMap::from([
        ("grafana", arguments.grafana_listen),
        ("carbon", arguments.carbon_listen.unwrap_or(if alone { loopback } else { every })),
        ("carbonapi", arguments.carbonapi_listen.unwrap_or(if with_grafana { loopback } else { every })),
        ("carbonserver", loopback),
    ])
}

fn carbon_server(arguments: &Installer) -> Result<Option<Carbon>> {
    let Some(server) = &arguments.carbon_server else {
        if arguments.kind == InstallType::Agent {
            bail!("an agent has to be told where to send to: --carbon-server HOST[:PORT]");
        }
        return Ok(None);
    };
    if arguments.kind != InstallType::Agent {
        bail!("--carbon-server is for an agent; a machine of type {} sends to its own carbon", arguments.kind);
    }
    let (host, port) = match server.rsplit_once(':') {
        // An IPv6 address has colons of its own, and takes brackets before a port.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (server.as_str(), None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port != 0),
        None => u16::try_from(arguments.port.unwrap_or(0).saturating_add(1)).ok(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    match port {
        Some(port) if !host.is_empty() && host.chars().all(plain) => Ok(Some(Carbon { host: host.to_owned(), port })),
        _ => bail!("--carbon-server {server}: it has to be HOST or HOST:PORT"),
    }
}

fn which_collectd(arguments: &Installer, bundle: &Path, problems: &mut Problems) -> Collectd {
    if arguments.system_collectd {
        if !components(arguments.kind).contains(&"collectd") {
            problems.0.push(format!("--system-collectd: the type {} has no collectd", arguments.kind));
        }
        match Collectd::of_host() {
            Ok(collectd) => return collectd,
            Err(missing) => problems.0.extend(missing),
        }
    }
    Collectd::of_bundle(bundle)
}

/// The definitions that the type includes; what it consists of and the bundle lacks is a problem.
fn definitions(arguments: &Installer, manifest: &Manifest, problems: &mut Problems) -> Vec<Service> {
    let kind = arguments.kind;
    let mut services: Vec<Service> = manifest.services.clone();
    if arguments.system_collectd && !services.iter().any(|service| service.name == "collectd") {
        services.extend(problems.note(Collectd::service(manifest)));
    }
    services.retain(|service| service.types.contains(&kind) || components(kind).contains(&service.name.as_str()));
    let lacks = |name: &str| !services.iter().any(|service| service.name == name);
    let missing: Vec<&str> = components(kind).iter().copied().filter(|name| lacks(name)).collect();
    if !missing.is_empty() {
        let possible: Vec<String> =
            [InstallType::All, InstallType::Server, InstallType::Backend, InstallType::BackendAgent, InstallType::Agent]
                .into_iter()
                .filter(|&other| {
                    components(other).iter().all(|name| manifest.services.iter().any(|service| service.name == *name))
                })
                .map(|other| other.to_string())
                .collect();
        problems.0.push(format!(
            "the type {kind} needs {}, and this bundle has no such component. It can be installed as: {}",
            missing.join(", "),
            if possible.is_empty() { "nothing".to_owned() } else { possible.join(", ") }
        ));
    }
    services
}

/// The services with their templates filled in, their programs and ports looked at.
fn rendered(definitions: &[Service], context: &Context, bundle: &Path, problems: &mut Problems) -> Vec<Service> {
    let environment = environment();
    let values = minijinja::Value::from(minijinja::value::Serde(context));
    let mut out = Vec::new();
    for definition in definitions {
        let service = definition.map_strings(|text| Ok(environment.render_str(text, values.clone())?));
        let Some(service) = problems.note(service.and_then(|service| service.validate().map(|()| service))) else { continue };
        // The link through which the services reach the bundle may not be there yet.
        let program = Path::new(&service.command[0]);
        let inside = program.strip_prefix(&context.bundle).map_or_else(|_| program.to_owned(), |rest| bundle.join(rest));
        let program = inside.as_path();
        let executable = fs::metadata(program).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if !executable {
            problems.0.push(format!("the bundle is not whole: {} is not a program", program.display()));
        }
        for file in &service.config {
            if !bundle.join(&file.template).is_file() {
                problems.0.push(format!("the bundle is not whole: it has no {}", file.template));
            }
        }
        out.push(service);
    }
    out
}

fn ports_are_free(services: &[Service], problems: &mut Problems) {
    for service in services {
        match ports::obstacles(&service.ports) {
            Ok(taken) => problems.0.extend(taken.into_iter().map(|taken| format!("{taken}: name another --port"))),
            Err(error) => problems.0.push(format!("{error:#}")),
        }
    }
}

/// The name given, or the machine's own, reversed: `host.domain.example` is `example.domain.host`.
fn hostname(given: Option<&str>) -> Result<String> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => {
            let own = nix::unistd::gethostname().context("cannot tell this machine's name; give one by --hostname")?;
            let own = own.to_string_lossy().into_owned();
            let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
            reversed(&full_name(&own, &hosts))
        }
    };
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if name.len() > 200 || !name.split('.').all(plain) {
        bail!("--hostname {}: parts of A-Z a-z 0-9 - _, with dots between them, and at most 200 in all", name.escape_debug());
    }
    Ok(name)
}

/// The full name of a machine whose own name has no dot, as far as /etc/hosts knows it. Name servers are not asked: an installation
/// should not hang on one.
fn full_name(own: &str, hosts: &str) -> String {
    if own.contains('.') {
        return own.trim_end_matches('.').to_owned();
    }
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or(""));
    let names = lines.map(|line| line.split_ascii_whitespace().skip(1).collect::<Vec<_>>());
    let full = names.filter(|names| names.contains(&own)).find_map(|names| {
        names.into_iter().find(|name| name.strip_prefix(own).is_some_and(|rest| rest.starts_with('.'))).map(str::to_owned)
    });
    full.unwrap_or_else(|| own.to_owned())
}

fn reversed(name: &str) -> String {
    name.split('.').rev().collect::<Vec<_>>().join(".")
}

/// Random letters and digits: 62 to the power of the length.
fn secret(length: usize) -> Result<String> {
    use std::io::Read;
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut source = fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    let mut out = String::with_capacity(length);
    let mut bytes = [0_u8; 64];
    while out.len() < length {
        source.read_exact(&mut bytes).context("cannot read /dev/urandom")?;
        // 248 is the largest multiple of 62 in a byte; the rest would favour some letters.
        let fair = bytes.iter().filter(|&&byte| byte < 248);
        out.extend(fair.take(length - out.len()).map(|byte| char::from(LETTERS[usize::from(byte % 62)])));
    }
    Ok(out)
}

impl Plan {
    /// What the user is told in the end.
    #[must_use]
    pub fn farewell(&self) -> String {
        let context = &self.context;
        let mut out = format!("Installed {} {} in {}.\n\n", self.kind, context.version, self.data.display());
        let has = |name: &str| context.services.iter().any(|service| service == name);
        if let (true, Some(password)) = (has("grafana"), &self.password) {
            out += &format!(
                "  Grafana    http://{}/ user admin, password {password}\n\
                 {:13}(shown this once; kept in conf/secrets/grafana-admin-password)\n",
                context.reach["grafana"], ""
            );
        }
        if has("go-carbon") {
            out += &format!("  carbon     {} (TCP and UDP, plain text)\n", context.endpoints["carbon"]);
        }
        if has("carbonapi") {
            out += &format!("  carbonapi  http://{}/\n", context.endpoints["carbonapi"]);
        }
        if has("collectd") {
            let Carbon { host, port } = &context.carbon;
            let every = context.interval;
            out += &format!("  collectd   sends collectd.{}.* to {host} port {port} every {every} s\n", context.hostname);
        }
        let open: Vec<&str> = [("go-carbon", "carbon"), ("carbonapi", "carbonapi")]
            .into_iter()
            .filter(|(service, name)| has(service) && !is_loopback(&context.listen[name]))
            .map(|(_, name)| name)
            .collect();
        if !open.is_empty() {
            out += &format!(
                "\nAnyone who can reach this machine can use {}, which know no passwords: let a firewall decide who.\n",
                open.join(" and ")
            );
        }
        out + &format!("\nStart it:  {}\n", shell_quoted(&format!("{}/bin/dkm", context.data)) + " start")
    }
}

fn is_loopback(address: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A path as it can be pasted into a shell.
fn shell_quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_reversed() {
        assert_eq!(reversed(&full_name("host.example.domain", "")), "domain.example.host");
        assert_eq!(full_name("web", "127.0.0.1 localhost\n10.0.0.7 web.example.org web # x\n"), "web.example.org");
        assert_eq!(full_name("web", "10.0.0.7 website.example.org web\n"), "web");
        assert_eq!(hostname(Some("local.test")).unwrap(), "local.test");
        for bad in ["", ".a", "a..b", "a b", "a;b", "ä"] {
            assert!(hostname(Some(bad)).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn ports_stay_in_range() {
        assert_eq!(port_numbers(65_532).unwrap()["carbonserver"], 65_535);
        for bad in [0, 65_533, 65_536, u32::MAX] {
            assert!(port_numbers(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn secrets_differ_and_have_their_length() {
        let (one, other) = (secret(40).unwrap(), secret(40).unwrap());
        assert_eq!((one.len(), other.len()), (40, 40));
        assert_ne!(one, other);
    }

    #[test]
    fn paths_can_be_pasted() {
        assert_eq!(shell_quoted("/a/b"), "/a/b");
        assert_eq!(shell_quoted("/a b'c"), r"'/a b'\''c'");
    }
}
