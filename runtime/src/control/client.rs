//! The commands' side of the control socket: find the supervisor, start it if need be, ask, listen.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Reply, Request, SOCKET};
use crate::commands::interrupt::{self, Woken};
use crate::commands::{exit, root};
use crate::home::Home;
use crate::os;
use crate::supervise::{child, logs};

/// How long a supervisor that was just started may take to answer.
const START_TIME: Duration = Duration::from_secs(10);

/// Connects to the living supervisor; none when there is none.
///
/// # Errors
/// When a supervisor lives and cannot be reached.
pub fn connect(home: &Home) -> Result<Option<UnixStream>> {
    match dial(home) {
        Ok(stream) => return Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", home.run().join(SOCKET).display())),
    }
    let Some(pid) = child::holder(&home.supervisor_lock()) else { return Ok(None) };
    // It lives and has no socket: somebody removed it, or it is only beginning. It makes a new one when told so.
    let end = Instant::now() + START_TIME;
    let mut told = Instant::now();
    while Instant::now() < end {
        if let Ok(stream) = dial(home) {
            return Ok(Some(stream));
        }
        let Some(holder) = child::holder(&home.supervisor_lock()) else { return Ok(None) };
        // The first second is for one that is beginning: the signal would end it before it knows better.
        if holder > 0 && told.elapsed() > Duration::from_secs(1) {
            os::signal_process(holder, Signal::SIGUSR1);
            told = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!(
        "cannot reach the supervisor: process {pid} holds {} and answers on no socket. Look at {}",
        home.supervisor_lock().display(),
        home.supervisor_log().display()
    )
}

/// The socket is addressed from inside its folder, since its own path may be too long for the system.
fn dial(home: &Home) -> std::io::Result<UnixStream> {
    let before = std::env::current_dir();
    std::env::set_current_dir(home.run())?;
    let stream = UnixStream::connect(SOCKET);
    if let Ok(before) = before {
        let _ = std::env::set_current_dir(before);
    }
    stream
}

/// Connects to the supervisor, and starts one first when there is none.
///
/// # Errors
/// When it cannot be started or reached, with the end of its log.
pub fn connect_or_start(home: &Home) -> Result<UnixStream> {
    if let Some(stream) = connect(home)? {
        return Ok(stream);
    }
    let run = home.run();
    std::fs::create_dir_all(run.join("log")).with_context(|| format!("cannot make {}", run.display()))?;
    let mut child = spawn(home)?;
    let end = Instant::now() + START_TIME;
    // It takes a few milliseconds: looked at often at first, so that little is lost.
    let mut nap = Duration::from_micros(300);
    while Instant::now() < end {
        if let Ok(stream) = dial(home) {
            see_off(home, &mut child);
            return Ok(stream);
        }
        // One that ends in order found another one at work; that one's socket will come.
        match child.try_wait() {
            Ok(Some(status)) if !status.success() => {
                bail!("cannot start the supervisor: it {}\n{}", child::describe(status), tail(home));
            }
            // The other one has ended in the meantime.
            Ok(Some(_)) if child::holder(&home.supervisor_lock()).is_none() => child = spawn(home)?,
            _ => {}
        }
        std::thread::sleep(nap);
        nap = (nap * 5 / 4).min(Duration::from_millis(20));
    }
    bail!("cannot start the supervisor: it did not answer in {} s\n{}", START_TIME.as_secs(), tail(home))
}

/// Of several that were started at once one is at work, and the others end by themselves; we wait for that, so that ours does not
/// come to life when the one at work is told to shut down.
fn see_off(home: &Home, child: &mut std::process::Child) {
    let end = Instant::now() + START_TIME;
    let ours = i32::try_from(child.id()).ok();
    while child::holder(&home.supervisor_lock()) != ours && matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > end {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn tail(home: &Home) -> String {
    let lines = logs::last_lines(&home.supervisor_log(), 10);
    format!("The end of {}:\n{}", home.supervisor_log().display(), String::from_utf8_lossy(&lines))
}

/// Starts `dkm supervisor` away from the terminal, its own output in its log.
fn spawn(home: &Home) -> Result<std::process::Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let path = home.supervisor_log();
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let log = log.with_context(|| format!("cannot open {}", path.display()))?;
    let mut command = Command::new(program);
    command.arg0_dkm();
    if root::is_allowed() {
        command.arg("--allow-root");
    }
    command
        .arg("--home")
        .arg(home.root())
        .arg("supervisor")
        .current_dir(home.run())
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot open the log")?)
        .stderr(log);
    os::leave_terminal(&mut command);
    command.spawn().context("cannot start the supervisor")
}

/// The program decides by its name what it is.
trait Named {
    fn arg0_dkm(&mut self) -> &mut Self;
}

impl Named for Command {
    fn arg0_dkm(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::arg0(self, "dkm")
    }
}

/// A supervisor that died, or was dying already, while it was asked: nobody knows what it has done.
#[derive(Debug)]
pub struct WentAway;

impl fmt::Display for WentAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the supervisor went away before it had answered")
    }
}

impl std::error::Error for WentAway {}

/// How long the end of a dying supervisor is waited for, which takes a moment until then.
const DYING: Duration = Duration::from_secs(3);

/// Does something that asks a supervisor, and again when that died meanwhile.
///
/// # Errors
/// What `ask` fails with, if it is anything else, or for too long.
pub fn persist<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + DYING;
    loop {
        match ask() {
            Err(error) if error.is::<WentAway>() && Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            done => return done,
        }
    }
}

/// What the failure of a conversation means.
fn broken(error: std::io::Error, what: &'static str) -> anyhow::Error {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => WentAway.into(),
        _ => anyhow::Error::new(error).context(what),
    }
}

/// How long a living supervisor may take to answer what it need not wait for.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// A question that is being answered.
#[derive(Debug)]
pub struct Conversation {
    stream: UnixStream,
    heard: Vec<u8>,
}

/// What came of listening.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, for a moment")]
pub enum Heard {
    /// An answer.
    Reply(Reply),
    /// Nothing, until the time was over.
    Nothing,
    /// Ctrl-C.
    Interrupted,
}

impl Conversation {
    /// Asks.
    ///
    /// # Errors
    /// When the supervisor cannot be asked.
    pub fn begin(mut stream: UnixStream, request: &Request) -> Result<Self> {
        let mut line = serde_json::to_vec(request).context("cannot write the request")?;
        line.push(b'\n');
        stream.set_write_timeout(Some(ANSWER_TIME)).context("cannot ask the supervisor")?;
        stream.write_all(&line).map_err(|error| broken(error, "cannot ask the supervisor"))?;
        stream.set_nonblocking(true).context("cannot listen to the supervisor")?;
        Ok(Self { stream, heard: Vec::new() })
    }

    /// Waits for the next answer, but no longer than until then.
    ///
    /// # Errors
    /// When the supervisor refuses, or goes away.
    pub fn listen(&mut self, until: Option<Instant>) -> Result<Heard> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return match serde_json::from_slice(&line) {
                    Ok(Reply::Error { message }) => bail!("{message}"),
                    Ok(reply) => Ok(Heard::Reply(reply)),
                    Err(error) => {
                        let line = String::from_utf8_lossy(&line);
                        Err(error).with_context(|| format!("cannot understand the supervisor: {}", line.escape_debug()))
                    }
                };
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(WentAway.into()),
                Ok(count) => self.heard.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => match interrupt::wait(Some(&self.stream), until) {
                    Woken::Ready => {}
                    Woken::Time => return Ok(Heard::Nothing),
                    Woken::Interrupted => return Ok(Heard::Interrupted),
                },
                Err(error) => return Err(broken(error, "cannot hear the supervisor")),
            }
        }
    }
}

/// Asks what is answered at once, and gives the answer.
///
/// # Errors
/// When the supervisor refuses, goes away, or does not answer.
pub fn ask(home: &Home, stream: UnixStream, request: &Request) -> Result<Reply> {
    let mut conversation = Conversation::begin(stream, request)?;
    match conversation.listen(Some(Instant::now() + ANSWER_TIME))? {
        Heard::Reply(reply) => Ok(reply),
        Heard::Interrupted => Err(exit::ending(exit::INTERRUPTED, "interrupted")),
        Heard::Nothing => bail!(
            "the supervisor does not answer: process {} took longer than {} s. Look at {}",
            child::holder(&home.supervisor_lock()).unwrap_or(0),
            ANSWER_TIME.as_secs(),
            home.supervisor_log().display()
        ),
    }
}
