//! The supervisor's side of the control socket: connections, bounds, and nothing of what the requests mean.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::poll::PollFlags;

use super::{MAX_REQUEST, REQUEST_TIME, Reply, Request, SOCKET, VERSION};
use crate::os;

/// More clients at once are refused.
pub const MAX_CLIENTS: usize = 128;
/// A client that leaves more unread is dropped.
const MAX_UNREAD: usize = 4 << 20;

/// The listening socket. Its path is relative: the supervisor lives in `DATA/run`.
///
/// It is bound under another name, closed to others, and only then renamed into place: there is no moment at which somebody else
/// could connect, and a socket left by a dead supervisor is replaced at once.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen() -> Result<UnixListener> {
    let temporary = format!("{SOCKET}.{}", std::process::id());
    let _ = fs::remove_file(&temporary);
    let make = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        fs::rename(&temporary, SOCKET)?;
        Ok(listener)
    };
    make().with_context(|| format!("cannot make the control socket {SOCKET} in the data folder's run"))
}

/// One connected client.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Until when its request has to be here; none once it is.
    request_by: Option<Instant>,
    /// Whether it has closed its side; it may still listen.
    silent: bool,
    /// Whether nothing more will be said to it.
    finished: bool,
    /// Whether the connection is of no use any more.
    gone: bool,
}

/// Takes the connections that are there, and says whether no descriptor was left for one. Those of other users and those beyond
/// [`MAX_CLIENTS`] are closed at once.
pub fn accept(listener: &UnixListener, clients: usize, now: Instant) -> (Vec<Client>, bool) {
    let mut out: Vec<Client> = Vec::new();
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => return (out, true),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return (out, false),
        };
        let mine = nix::unistd::geteuid().as_raw();
        let allowed = os::peer_uid(&stream).is_ok_and(|uid| uid == mine || uid == 0);
        if !allowed || clients + out.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
            continue;
        }
        let mut client = Client::inherited(stream);
        client.request_by = Some(now + REQUEST_TIME);
        out.push(client);
    }
}

impl Client {
    /// A client that a supervisor before us in this process has promised an answer.
    #[must_use]
    pub fn inherited(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            output: VecDeque::new(),
            request_by: None,
            silent: false,
            finished: false,
            gone: false,
        }
    }

    /// The connection itself.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// How many bytes it has not taken yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.output.len()
    }

    /// What to poll, and for what.
    #[must_use]
    pub fn interest(&self) -> (RawFd, PollFlags) {
        let mut flags = if self.silent { PollFlags::empty() } else { PollFlags::POLLIN };
        if !self.output.is_empty() {
            flags |= PollFlags::POLLOUT;
        }
        (self.stream.as_raw_fd(), flags)
    }

    /// When it has to be looked at in any case.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.request_by
    }

    /// Takes note that the other end is closed altogether.
    pub fn hang_up(&mut self) {
        self.gone = true;
    }

    /// Whether the connection can be dropped.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.gone || self.request_by.is_some_and(|by| now >= by) || (self.finished && self.output.is_empty())
    }

    /// Reads what is there; the request, once it is whole.
    pub fn read(&mut self) -> Option<Request> {
        let mut buffer = [0_u8; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.silent = true;
                    self.gone |= self.request_by.is_some();
                    return None;
                }
                // What comes after the request is of no interest.
                Ok(_) if self.request_by.is_none() => {}
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.gone = true;
                    return None;
                }
            }
            if self.request_by.is_some() {
                if let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
                    self.request_by = None;
                    let line: Vec<u8> = std::mem::take(&mut self.input).into_iter().take(end).collect();
                    return self.understand(&line);
                }
                if self.input.len() > MAX_REQUEST {
                    self.refuse(&format!("the request is longer than {MAX_REQUEST} bytes"));
                    return None;
                }
            }
        }
    }

    fn understand(&mut self, line: &[u8]) -> Option<Request> {
        #[derive(serde::Deserialize)]
        struct Head {
            v: u32,
            #[serde(default)]
            verb: String,
        }
        // These two are the same in every version, so that a new program can always replace an old supervisor.
        let for_all = |verb: &str| matches!(verb, "upgrade-self" | "shutdown");
        match serde_json::from_slice::<Head>(line) {
            Ok(head) if head.v != VERSION && !for_all(&head.verb) => {
                self.refuse(&format!(
                    "this supervisor (version {}) speaks protocol {VERSION}, not {}: `dkm upgrade-self` replaces it by this program",
                    env!("CARGO_PKG_VERSION"),
                    head.v
                ));
                None
            }
            _ => match serde_json::from_slice(line) {
                Ok(request) => Some(request),
                Err(error) => {
                    self.refuse(&format!("cannot understand the request: {error}"));
                    None
                }
            },
        }
    }

    fn refuse(&mut self, message: &str) {
        self.request_by = None;
        self.input = Vec::new();
        self.send(&Reply::Error { message: message.to_owned() });
        self.finish();
    }

    /// Queues an answer and sends what goes.
    pub fn send(&mut self, reply: &Reply) {
        if let Ok(line) = serde_json::to_vec(reply) {
            self.output.extend(line);
            self.output.push_back(b'\n');
        }
        self.write();
        if self.output.len() > MAX_UNREAD {
            self.gone = true;
        }
    }

    /// Nothing more will be said: the connection ends when all is sent.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Sends what goes.
    pub fn write(&mut self) {
        while !self.output.is_empty() && !self.gone {
            let (head, _) = self.output.as_slices();
            match self.stream.write(head) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
    }
}
