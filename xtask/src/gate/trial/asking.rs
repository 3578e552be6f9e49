//! Asks the services of a running bundle over their ports, as those would who use it: metrics go in and come back, what an agent measures
//! arrives, the dashboards' queries are answered.

use super::dashboards::Dashboard;
use super::drive::{Installed, PATIENCE, Trial};
use super::http;
use super::telling::{Outcome, cannot, did, doing, fault, wait};
use dkumonitor_interface::service::Protocol;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The metric that goes in and comes back.
pub const METRIC: &str = "dkumonitor.gate.value";

impl Trial<'_> {
    /// A metric goes in by carbon and comes back by carbonapi; an agent's goes to whom it was told to send to.
    pub fn measure(&self, installed: &Installed) -> Outcome<()> {
        if let Some(listener) = &installed.listener {
            doing("waiting for what the agent measures");
            let deadline = Instant::now() + PATIENCE;
            while let Ok(line) = listener.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                if line.starts_with("collectd.") {
                    did(format!("the agent sends what it measures, such as {}", line.split(' ').next().unwrap_or_default()));
                    return Ok(());
                }
            }
            return Err(self.about("collectd", "sends nothing to the server that it was told".to_owned()));
        }
        let Some(carbonapi) = installed.port("carbonapi", Protocol::Tcp) else { return Ok(()) };
        let mut sent = Vec::new();
        for (protocol, name, value) in [(Protocol::Tcp, "tcp", 41.5), (Protocol::Udp, "udp", 42.5)] {
            let Some(carbon) = installed.port("carbon", protocol) else { continue };
            doing(&format!("sending a metric by {name}"));
            let line = format!("{METRIC}.{name} {value} {}\n", now());
            send(protocol, carbon, &line)
                .map_err(|error| self.about("go-carbon", format!("takes no metric by {name}: {error}")))?;
            self.wait_for_value(carbonapi, &format!("{METRIC}.{name}"), value)?;
            sent.push(name);
        }
        if installed.has("collectd") {
            doing("waiting for what collectd measures");
            let target = "collectd.*.load.load.shortterm";
            let found = wait(PATIENCE, || (!values(carbonapi, target).is_empty()).then_some(()));
            found.ok_or_else(|| self.about("collectd", format!("{target} has no values after {} s", PATIENCE.as_secs())))?;
        }
        did(format!("a metric sent by {} and read back through carbonapi", sent.join(" and ")));
        Ok(())
    }

    pub fn wait_for_value(&self, carbonapi: u16, target: &str, value: f64) -> Outcome<()> {
        let found = wait(PATIENCE, || values(carbonapi, target).contains(&value).then_some(()));
        found.ok_or_else(|| {
            self.about(
                "carbonapi",
                format!("{target} was sent to carbon, and after {} s is not to be read", PATIENCE.as_secs()),
            )
        })
    }

    /// Each query of each dashboard is answered; through Grafana where there is one, as its pages would ask.
    pub fn dashboards(&self, installed: &Installed) -> Outcome<()> {
        let Some(carbonapi) = installed.port("carbonapi", Protocol::Tcp) else { return Ok(()) };
        let folder = self.data.join("conf/dashboards");
        let mut files: Vec<PathBuf> = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
        files.sort();
        if files.is_empty() {
            return Ok(());
        }
        let (port, prefix, person) = match (installed.port("grafana", Protocol::Tcp), &installed.password) {
            (Some(port), Some(password)) => (port, "/api/datasources/proxy/uid/dkumonitor", Some(("admin", password.as_str()))),
            _ => (carbonapi, "", None),
        };
        let (mut asked, mut with_data) = (0, 0);
        for file in &files {
            let shown = file.file_name().unwrap_or_default().to_string_lossy();
            let text = cannot(fs::read_to_string(file), &format!("read {shown}"))?;
            let dashboard = Dashboard::parse(&text).map_err(|why| fault(format!("the dashboard {shown}: {why}")))?;
            doing(&format!("asking what the dashboard \"{}\" asks", dashboard.title));
            for target in &dashboard.targets {
                let path = format!("{prefix}/render?format=json&from=-5min&until=now&target={}", http::encoded(target));
                let answer = http::get(port, &path, person);
                let wrong = |why: String| {
                    let service = if prefix.is_empty() { "carbonapi" } else { "grafana" };
                    self.about(
                        service,
                        format!("does not answer a query of the dashboard \"{}\": {target}: {why}", dashboard.title),
                    )
                };
                let series = match answer {
                    Ok((200, body)) => serde_json::from_str::<Vec<Value>>(&body).map_err(|_| wrong(short(&body)))?,
                    Ok((status, body)) => return Err(wrong(format!("{status} {}", short(&body)))),
                    Err(error) => return Err(wrong(format!("{error:#}"))),
                };
                asked += 1;
                with_data += usize::from(series.iter().any(has_values));
            }
        }
        if with_data == 0 && asked > 0 && installed.has("collectd") {
            return Err(self.about("carbonapi", format!("none of the {asked} queries of the dashboards is answered with data")));
        }
        let way = if prefix.is_empty() { "" } else { " through Grafana" };
        did(format!("{} dashboards, {asked} queries asked{way}, {with_data} of them with data so far", files.len()));
        Ok(())
    }
}

/// Listens as a carbon would; the lines that come.
pub fn listen(port: u16) -> Outcome<Receiver<String>> {
    let listener = cannot(TcpListener::bind((Ipv4Addr::LOCALHOST, port)), "listen")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                // The trial may be over before the agent is.
                let _ = BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
            });
        }
    });
    Ok(lines)
}

/// Whether somebody listens on a port of this machine.
pub fn answers(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Duration::from_secs(5)).is_ok()
}

fn send(protocol: Protocol, port: u16, line: &str) -> std::io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match protocol {
        Protocol::Tcp => TcpStream::connect(address)?.write_all(line.as_bytes()),
        Protocol::Udp => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.send_to(line.as_bytes(), address).map(drop),
    }
}

/// The values that carbonapi has for a target, missing ones left out.
fn values(carbonapi: u16, target: &str) -> Vec<f64> {
    let path = format!("/render?format=json&from=-10min&until=now&target={}", http::encoded(target));
    let Ok((200, body)) = http::get(carbonapi, &path, None) else { return Vec::new() };
    let series: Vec<Value> = serde_json::from_str(&body).unwrap_or_default();
    let points = series.iter().flat_map(|one| one["datapoints"].as_array().into_iter().flatten());
    points.filter_map(|point| point[0].as_f64()).collect()
}

fn has_values(series: &Value) -> bool {
    series["datapoints"].as_array().into_iter().flatten().any(|point| point[0].is_number())
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
