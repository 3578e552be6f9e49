//! One question, asked once, without waiting.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getpeername, getsockname, getsockopt,
    send, socket, sockopt,
};

use super::tls;
use crate::os;
use crate::ports::parse_address;
use crate::service::{Probe, Question, StatusRange};
use crate::supervise::child::{describe, forget_manager};

/// The status line of an HTTP answer is shorter.
const LINE: usize = 512;

/// A probe, looked at: what asking it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    way: Way,
    /// How long an answer may take.
    timeout: Duration,
    /// The pause between two tries, where the definition says one.
    pub period: Option<Duration>,
    /// The probe in words.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// Connect; then send the request, if there is one, and judge how the answer begins.
    Internet(SocketAddr, Option<(Vec<u8>, Answer)>),
    Local(String),
    Program(Vec<String>),
    /// Nothing is asked; the service says it.
    Heard,
}

/// What a good answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// HTTP with one of these statuses.
    Http(StatusRange),
    /// TLS. What would be said inside remains unsaid: we have no cryptography.
    Tls,
}

impl Target {
    /// Looks at a probe.
    ///
    /// # Errors
    /// When it cannot be asked at all.
    pub fn parse(probe: &Probe) -> Result<Self> {
        let way = match &probe.question {
            Question::Tcp(address) => Way::Internet(parse_endpoint(address)?, None),
            Question::Http { url, status } => {
                let (address, request) = parse_url(url)?;
                Way::Internet(
                    address,
                    Some(request.map_or_else(|| (tls::hello(), Answer::Tls), |bytes| (bytes, Answer::Http(*status)))),
                )
            }
            Question::Unix(path) => {
                if !Path::new(path).is_absolute() {
                    bail!("the socket \"{path}\" is not an absolute path");
                }
                UnixAddr::new(path.as_str())
                    .with_context(|| format!("the socket's path \"{path}\" is longer than the system takes"))?;
                Way::Local(path.clone())
            }
            Question::Exec(command) => Way::Program(command.clone()),
            Question::Log(_) | Question::Notify => Way::Heard,
        };
        Ok(Self { way, timeout: probe.timeout.0, period: probe.period.map(|period| period.0), text: probe.to_string() })
    }

    /// Whether the service says it by itself.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.way == Way::Heard
    }

    /// Whether asking makes a process.
    #[must_use]
    pub fn is_program(&self) -> bool {
        matches!(self.way, Way::Program(_))
    }

    /// Begins to ask. `prepare` gives a program what it needs to run.
    ///
    /// # Errors
    /// When that fails at once.
    pub fn ask(&self, prepare: &Surroundings, now: Instant) -> io::Result<Asking> {
        let mut own = None;
        let stage = match &self.way {
            Way::Internet(address, _) => {
                own = Some(connecting(*address)?);
                Stage::Connecting
            }
            Way::Local(path) => {
                let socket = quiet_socket(AddressFamily::Unix)?;
                connect(socket.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
                Stage::Connected
            }
            Way::Program(command) => Stage::Running(Program::start(command, prepare)?),
            Way::Heard => return Err(io::Error::other("nobody is asked")),
        };
        Ok(Asking { socket: own, stage, deadline: now + self.timeout })
    }
}

/// What a program that asks runs in: the service's folder and environment.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Its folder.
    pub folder: std::path::PathBuf,
    /// Variables on top of the supervisor's own.
    pub environment: Vec<(String, String)>,
}

/// A socket that begins to connect, and never waits.
///
/// # Errors
/// When that fails at once.
pub fn connecting(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = quiet_socket(family)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn quiet_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = socket(family, SockType::Stream, SockFlag::empty(), None)?;
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(socket)
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

/// The address and the request; no request for https.
fn parse_url(url: &str) -> Result<(SocketAddr, Option<Vec<u8>>)> {
    let secure = url.strip_prefix("https://");
    let rest =
        secure.or_else(|| url.strip_prefix("http://")).with_context(|| format!("\"{url}\" does not begin with http://"))?;
    let (host, path) = rest.split_once('/').map_or((rest, String::from("/")), |(host, path)| (host, format!("/{path}")));
    if path.contains(|c: char| c.is_ascii_control() || c == ' ') {
        bail!("\"{}\" has a space or a control character in its path", url.escape_debug());
    }
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dkm\r\nConnection: close\r\n\r\n");
    Ok((parse_endpoint(host)?, secure.is_none().then(|| request.into_bytes())))
}

/// A program that asks. When it is dropped, it and what it started end.
#[derive(Debug)]
struct Program {
    pid: i32,
    ended: Option<ExitStatus>,
}

impl Program {
    fn start(command: &[String], surroundings: &Surroundings) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&surroundings.folder).envs(surroundings.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        forget_manager(&mut command);
        os::end_with_parent(&mut command);
        let child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("cannot run {program}: {error}")))?;
        // Its end is told by SIGCHLD, as that of every child.
        Ok(Self { pid: i32::try_from(child.id()).map_err(io::Error::other)?, ended: None })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.ended.is_none() {
            os::signal_group(self.pid, Signal::SIGKILL);
        }
    }
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Sending { from: usize },
    Reading { line: Vec<u8> },
    Connected,
    Running(Program),
}

/// A question that has been asked and not yet answered.
#[derive(Debug)]
pub struct Asking {
    socket: Option<OwnedFd>,
    stage: Stage,
    deadline: Instant,
}

impl Asking {
    /// What to poll, and for what.
    #[must_use]
    pub fn interest(&self) -> Option<(RawFd, PollFlags)> {
        let socket = self.socket.as_ref()?;
        let flags = if matches!(self.stage, Stage::Reading { .. }) { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        Some((socket.as_raw_fd(), flags))
    }

    /// When there has to be an answer.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A child has ended; whether it was the one that asks.
    pub fn child_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        match &mut self.stage {
            Stage::Running(program) if program.pid == pid => {
                program.ended = Some(status);
                true
            }
            _ => false,
        }
    }

    /// Does what can be done now. `woken`: something happened. None: no answer yet.
    pub fn go_on(&mut self, target: &Target, woken: bool, now: Instant) -> Option<io::Result<()>> {
        let mut woken = woken;
        loop {
            match self.advance(target, woken) {
                Ok(Some(true)) => return Some(Ok(())),
                Ok(Some(false)) => woken = true,
                Ok(None) if now >= self.deadline => {
                    let text = format!("no answer in {} s", target.timeout.as_secs_f64());
                    return Some(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
                }
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// `Some(true)`: passed; `Some(false)`: a stage is done, go on; `None`: wait.
    fn advance(&mut self, target: &Target, woken: bool) -> io::Result<Option<bool>> {
        let request = if let Way::Internet(_, request) = &target.way { request.as_ref() } else { None };
        match &mut self.stage {
            Stage::Connected => return Ok(Some(true)),
            Stage::Running(program) => match program.ended {
                None => return Ok(None),
                Some(status) if status.success() => return Ok(Some(true)),
                Some(status) => return Err(io::Error::other(describe(status))),
            },
            _ => {}
        }
        let Some(socket) = self.socket.as_ref().filter(|_| woken) else { return Ok(None) };
        match &mut self.stage {
            Stage::Connecting => {
                if !is_connected(socket)? {
                    return Ok(None);
                }
                if request.is_none() {
                    return Ok(Some(true));
                }
                self.stage = Stage::Sending { from: 0 };
            }
            Stage::Sending { from } => {
                let bytes = request.map(|(bytes, _)| bytes.as_slice()).unwrap_or_default();
                match send(socket.as_raw_fd(), &bytes[*from..], MsgFlags::empty()) {
                    Ok(count) => *from += count,
                    Err(Errno::EAGAIN) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
                if *from == bytes.len() {
                    self.stage = Stage::Reading { line: Vec::new() };
                }
            }
            Stage::Reading { line } => {
                let mut buffer = [0_u8; LINE];
                match nix::unistd::read(socket, &mut buffer) {
                    Ok(0) => return Err(io::Error::other("the connection was closed without an answer")),
                    Ok(count) => line.extend_from_slice(&buffer[..count]),
                    Err(Errno::EAGAIN) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
                match request.map(|(_, answer)| *answer) {
                    Some(Answer::Tls) => {
                        if let Some(done) = tls::judge(line) {
                            return done.map(|()| Some(true));
                        }
                    }
                    Some(Answer::Http(good)) => {
                        if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
                            return judge(&line[..end], good).map(|()| Some(true));
                        }
                    }
                    None => {}
                }
                if line.len() >= LINE {
                    return Err(io::Error::other("the answer is not HTTP"));
                }
            }
            Stage::Connected | Stage::Running(_) => {}
        }
        Ok(Some(false))
    }
}

/// Whether a socket has come so far.
///
/// # Errors
/// Why it never will.
pub fn is_connected(socket: &OwnedFd) -> io::Result<bool> {
    let error = getsockopt(socket, sockopt::SocketError)?;
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let Ok(peer) = getpeername::<SockaddrStorage>(socket.as_raw_fd()) else { return Ok(false) };
    // Where nobody listens on a port that the system also gives out, a connection can meet itself.
    if getsockname::<SockaddrStorage>(socket.as_raw_fd())? == peer {
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(true)
}

/// Whether an HTTP status line is good.
fn judge(line: &[u8], good: StatusRange) -> io::Result<()> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let status: u16 = match (words.next(), words.next().map(str::parse)) {
        (Some(protocol), Some(Ok(status))) if protocol.starts_with("HTTP/") => status,
        _ => return Err(io::Error::other("the answer is not HTTP")),
    };
    if good.contains(status) { Ok(()) } else { Err(io::Error::other(format!("HTTP status {status}"))) }
}
