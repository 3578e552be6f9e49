//! The daemons without the launcher: started one after the other by hand, and go-carbon as its makers show it.

use super::wait_for_port;
use crate::commands::bench::measure::{kill, wait_for};
use crate::free_ports;
use anyhow::Context as _;
use dkumonitor_interface::service::{Question, Service};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the daemons of a data folder take to be ready when each is started as soon as those before it are, by nobody who
/// supervises them. They are ended again.
pub(super) fn by_hand(data: &Path) -> anyhow::Result<Duration> {
    let mut took = Duration::ZERO;
    let mut running = Vec::new();
    let outcome = ["go-carbon", "carbonapi", "grafana"].iter().try_for_each(|name| -> anyhow::Result<()> {
        let path = data.join("conf/services.d").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let service: Service = toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        let begin = Instant::now();
        running.push(start(&service, data)?);
        wait_for(&format!("{name} to be ready"), || service.probes.iter().all(|probe| passes(&probe.question)))?;
        took += begin.elapsed();
        Ok(())
    });
    // Those that others feed on last.
    running.iter_mut().rev().for_each(end);
    outcome.map(|()| took)
}

fn start(service: &Service, data: &Path) -> anyhow::Result<Child> {
    let (program, words) = service.command.split_first().context("a service without a command")?;
    let mut command = Command::new(program);
    command.args(words).current_dir(service.directory.as_deref().map_or(data, Path::new)).envs(&service.environment);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot start {program}"))
}

/// Whether a probe passes now; of the kinds that the shipped services have.
fn passes(question: &Question) -> bool {
    match question {
        Question::Tcp(address) => TcpStream::connect(address).is_ok(),
        Question::Http { url, status } => {
            let rest = url.trim_start_matches("http://");
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let ask = || -> std::io::Result<String> {
                let mut stream = TcpStream::connect(host)?;
                write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
                let mut answer = String::new();
                stream.take(64).read_to_string(&mut answer)?;
                Ok(answer)
            };
            let answer = ask().unwrap_or_default();
            answer.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok()).is_some_and(|code| status.contains(code))
        }
        _ => true,
    }
}

fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        kill(pid, libc::SIGTERM);
    }
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// go-carbon with the configuration that it prints itself, changed only where it could not run here: folders, a schema by which
/// points can be counted, ports, no change of user, and carbonserver on.
pub(super) struct Plain {
    child: Child,
    pub carbon: u16,
    pub server: u16,
    pub storage: PathBuf,
}

impl Plain {
    pub fn start(bundle: &Path, folder: &Path, schema: &str) -> anyhow::Result<Self> {
        let program = bundle.join("bin/go-carbon");
        let storage = folder.join("whisper");
        std::fs::create_dir_all(&storage)?;
        let output = Command::new(&program).arg("-config-print-default").output().context("cannot run go-carbon")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut settings: toml::Table = printed.parse().context("cannot understand what go-carbon prints as its example")?;
        let schemas = folder.join("schemas.conf");
        std::fs::write(&schemas, format!("[all]\npattern = .*\nretentions = {schema}\n"))?;
        let first = free_ports::ten()?;
        for (at, section) in (0_u16..).zip(["tcp", "carbonserver", "udp", "pickle", "carbonlink", "grpc", "pprof"]) {
            set(&mut settings, section, "listen", format!("127.0.0.1:{}", first + at));
        }
        set(&mut settings, "carbonserver", "enabled", true);
        set(&mut settings, "common", "user", "");
        set(&mut settings, "whisper", "data-dir", storage.to_string_lossy().into_owned());
        set(&mut settings, "whisper", "schemas-file", schemas.to_string_lossy().into_owned());
        set(&mut settings, "whisper", "aggregation-file", "");
        let config = folder.join("go-carbon.conf");
        std::fs::write(&config, toml::to_string(&settings)?)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = Command::new(program);
        command.arg("-config").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start go-carbon")?;
        let plain = Self { child, carbon: first, server: first + 1, storage };
        let ready = wait_for_port(plain.carbon).and_then(|()| wait_for_port(plain.server));
        ready.with_context(|| std::fs::read_to_string(folder.join("log")).unwrap_or_default()).map(|()| plain)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    pub fn stop(&mut self) -> anyhow::Result<()> {
        end(&mut self.child);
        Ok(())
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn set(settings: &mut toml::Table, section: &str, key: &str, value: impl Into<toml::Value>) {
    let table = settings.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let Some(table) = table.as_table_mut() {
        table.insert(key.to_owned(), value.into());
    }
}
