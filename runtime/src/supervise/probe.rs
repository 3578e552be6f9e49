//! Is it ready? Questions asked without waiting.
//!
//! A [`Probing`] asks a service's probes one after the other, each until it passes, from inside the supervisor's loop: it says what
//! to poll and when to be called again, and never blocks. Tries begin right after the start and grow apart up to
//! [`LONGEST_GAP`]; after the service's time to become ready is over they go on slowly, every [`LATE_GAP`].
//!
//! A service without probes can only be asked whether it still runs: it is taken for ready after [`STEADY`].

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt};

use crate::ports::parse_address;
use crate::service::{Probe, Question};

/// The first gap between two tries.
const FIRST_GAP: Duration = Duration::from_millis(10);
/// The longest gap while the service is in its time.
pub const LONGEST_GAP: Duration = Duration::from_millis(200);
/// The gap after that.
pub const LATE_GAP: Duration = Duration::from_secs(5);
/// What a service without probes has to live for. One with a mistake in its configuration ends sooner.
pub const STEADY: Duration = Duration::from_millis(500);
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The status line of an HTTP answer is shorter.
const LINE: usize = 512;

/// A probe with its address looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    address: SocketAddr,
    /// The request to send; none for a mere connection.
    request: Option<Vec<u8>>,
    text: String,
}

impl Target {
    fn parse(probe: &Probe) -> Result<Self> {
        let text = probe.to_string();
        match &probe.question {
            Question::Tcp(address) => Ok(Self { address: parse_endpoint(address)?, request: None, text }),
            Question::Http { url, .. } => {
                let rest = url.strip_prefix("http://").with_context(|| format!("\"{url}\" does not begin with http://"))?;
                let (host, path) =
                    rest.split_once('/').map_or((rest, String::from("/")), |(host, path)| (host, format!("/{path}")));
                if path.contains(|c: char| c.is_ascii_control() || c == ' ') {
                    bail!("\"{}\" has a space or a control character in its path", url.escape_debug());
                }
                let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dkm\r\nConnection: close\r\n\r\n");
                Ok(Self { address: parse_endpoint(host)?, request: Some(request.into_bytes()), text })
            }
            _ => bail!("cannot ask for {text}"),
        }
    }
}

/// `ADDRESS:PORT`, the address as in [`parse_address`].
///
/// # Errors
/// When it is anything else.
pub fn parse_endpoint(text: &str) -> Result<SocketAddr> {
    let (host, port) = text.rsplit_once(':').with_context(|| format!("\"{text}\" is not ADDRESS:PORT"))?;
    let ip: IpAddr = parse_address(host)?;
    let port = port.parse().with_context(|| format!("\"{text}\" does not end in a port"))?;
    Ok(SocketAddr::new(ip, port))
}

/// Checks that probes can be asked at all.
///
/// # Errors
/// The first one that cannot.
pub fn check(probes: &[Probe]) -> Result<()> {
    probes.iter().try_for_each(|probe| Target::parse(probe).map(drop))
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Sending { from: usize },
    Reading { line: Vec<u8> },
}

#[derive(Debug)]
struct Try {
    stream: TcpStream,
    stage: Stage,
    deadline: Instant,
}

/// The probes of one service that is starting.
#[derive(Debug)]
pub struct Probing {
    targets: Vec<Target>,
    /// The one being asked; all before it passed.
    at: usize,
    current: Option<Try>,
    next: Instant,
    gap: Duration,
    last_answer: String,
    /// Until when a service without probes has to live; none once it has, and where there are probes.
    steady_at: Option<Instant>,
}

impl Probing {
    /// Begins to ask.
    ///
    /// # Errors
    /// When a probe has no usable address.
    pub fn new(probes: &[Probe], now: Instant) -> Result<Self> {
        let targets = probes.iter().map(Target::parse).collect::<Result<_>>()?;
        let steady_at = probes.is_empty().then(|| now + STEADY);
        Ok(Self { targets, at: 0, current: None, next: now, gap: FIRST_GAP, last_answer: String::new(), steady_at })
    }

    /// Whether all have passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.at >= self.targets.len() && self.steady_at.is_none()
    }

    /// What it waits for, in words.
    #[must_use]
    pub fn waits_for(&self) -> String {
        match self.targets.get(self.at) {
            Some(target) if self.last_answer.is_empty() => target.text.clone(),
            Some(target) => format!("{} ({})", target.text, self.last_answer),
            None => "its first half second".to_owned(),
        }
    }

    /// What to poll, and for what.
    #[must_use]
    pub fn interest(&self) -> Option<(RawFd, PollFlags)> {
        let current = self.current.as_ref()?;
        let flags = if matches!(current.stage, Stage::Reading { .. }) { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        Some((current.stream.as_raw_fd(), flags))
    }

    /// When to call [`Probing::go_on`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.steady_at.unwrap_or_else(|| self.current.as_ref().map_or(self.next, |current| current.deadline))
    }

    /// Does what can be done now. `woken`: poll reported the descriptor. `late`: the time to become ready is over.
    pub fn go_on(&mut self, woken: bool, late: bool, now: Instant) {
        if self.steady_at.is_some_and(|at| now >= at) {
            self.steady_at = None;
        }
        let mut woken = woken;
        while self.at < self.targets.len() {
            if self.current.is_none() {
                if now < self.next {
                    return;
                }
                match self.begin(now) {
                    Ok(current) => self.current = Some(current),
                    Err(error) => {
                        self.failed(&error, late, now);
                        return;
                    }
                }
                // A connection to this machine is mostly there at once.
                woken = true;
            }
            match self.advance(woken, now) {
                Ok(Some(true)) => {
                    self.at += 1;
                    self.current = None;
                    self.next = now;
                    self.gap = FIRST_GAP;
                    self.last_answer.clear();
                }
                Ok(Some(false)) => {}
                Ok(None) => return,
                Err(error) => {
                    self.failed(&error, late, now);
                    return;
                }
            }
        }
    }

    fn failed(&mut self, error: &io::Error, late: bool, now: Instant) {
        self.current = None;
        self.last_answer = error.to_string();
        self.next = now + if late { LATE_GAP } else { self.gap };
        self.gap = (self.gap * 3 / 2).min(LONGEST_GAP);
    }

    fn begin(&self, now: Instant) -> io::Result<Try> {
        let address = self.targets[self.at].address;
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::empty(), None)?;
        let stream = TcpStream::from(fd);
        nix::fcntl::fcntl(&stream, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        stream.set_nonblocking(true)?;
        match connect(stream.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(Try { stream, stage: Stage::Connecting, deadline: now + PATIENCE }),
            Err(error) => Err(error.into()),
        }
    }

    /// `Some(true)`: passed; `Some(false)`: a stage done, go on; `None`: wait for the descriptor.
    fn advance(&mut self, woken: bool, now: Instant) -> io::Result<Option<bool>> {
        let request = &self.targets[self.at].request;
        let Some(current) = &mut self.current else { return Ok(None) };
        if !woken {
            return if now >= current.deadline { Err(io::Error::other("no answer in time")) } else { Ok(None) };
        }
        match &mut current.stage {
            Stage::Connecting => {
                let error = getsockopt(&current.stream, sockopt::SocketError)?;
                if error != 0 {
                    return Err(io::Error::from_raw_os_error(error));
                }
                if current.stream.peer_addr().is_err() {
                    return Ok(None);
                }
                if request.is_none() {
                    return Ok(Some(true));
                }
                current.stage = Stage::Sending { from: 0 };
            }
            Stage::Sending { from } => {
                let bytes = request.as_deref().unwrap_or_default();
                match current.stream.write(&bytes[*from..]) {
                    Ok(count) => *from += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(error),
                }
                if *from == bytes.len() {
                    current.stage = Stage::Reading { line: Vec::new() };
                }
            }
            Stage::Reading { line } => {
                let mut buffer = [0_u8; LINE];
                match current.stream.read(&mut buffer) {
                    Ok(0) => return Err(io::Error::other("the connection was closed without an answer")),
                    Ok(count) => line.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(error),
                }
                if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
                    return judge(&line[..end]).map(|()| Some(true));
                }
                if line.len() >= LINE {
                    return Err(io::Error::other("the answer is not HTTP"));
                }
            }
        }
        Ok(Some(false))
    }
}

/// Whether an HTTP status line means ready.
fn judge(line: &[u8]) -> io::Result<()> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let status: u16 = match (words.next(), words.next().map(str::parse)) {
        (Some(protocol), Some(Ok(status))) if protocol.starts_with("HTTP/") => status,
        _ => return Err(io::Error::other("the answer is not HTTP")),
    };
    if (200..400).contains(&status) { Ok(()) } else { Err(io::Error::other(format!("HTTP status {status}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::StatusRange;
    use std::net::TcpListener;

    fn http(url: String) -> Probe {
        Question::Http { url, status: StatusRange::default() }.into()
    }

    fn tcp(address: &str) -> Probe {
        Question::Tcp(address.to_owned()).into()
    }

    /// Drives a probing to its end as the supervisor's loop would.
    fn drive(probing: &mut Probing) -> bool {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && !probing.passed() {
            let fds = probing.interest();
            let wait = probing.deadline().min(end).saturating_duration_since(Instant::now());
            let mut polled: Vec<_> =
                fds.iter().map(|&(fd, flags)| nix::poll::PollFd::new(crate::os::borrow(fd), flags)).collect();
            let count = nix::poll::poll(&mut polled, u16::try_from(wait.as_millis() + 1).unwrap()).unwrap();
            probing.go_on(count > 0, false, Instant::now());
        }
        probing.passed()
    }

    fn serve(listener: TcpListener, answers: &'static [&'static str]) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        })
    }

    #[test]
    fn asks_until_the_answer_is_good() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = serve(listener, &["HTTP/1.1 503 Not yet\r\n\r\n", "nonsense\n", "", "HTTP/1.0 204 Fine\r\n\r\n"]);
        let mut probing = Probing::new(&[http(format!("http://{address}/x"))], Instant::now()).unwrap();
        assert!(drive(&mut probing), "{}", probing.waits_for());
        server.join().unwrap();
    }

    #[test]
    fn a_closed_port_is_not_ready_and_says_so() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut probing = Probing::new(&[tcp(&address.to_string())], Instant::now()).unwrap();
        probing.go_on(false, false, Instant::now());
        assert!(!probing.passed());
        assert!(probing.waits_for().contains("refused"), "{}", probing.waits_for());
        let _listener = TcpListener::bind(address).unwrap();
        assert!(drive(&mut probing));
    }

    #[test]
    fn odd_addresses_are_refused() {
        for bad in ["http://example.org/", "https://127.0.0.1:1/", "http://127.0.0.1/", "http://127.0.0.1:1/a b"] {
            assert!(check(&[http(bad.into())]).is_err(), "{bad} was accepted");
        }
        assert!(check(&[http("http://[::1]:80/".into()), tcp("localhost:80")]).is_ok());
    }
}
