//! Lines on their way to carbon, without ever waiting for it.
//!
//! One connection is kept for as long as it lasts. One that is lost or cannot be made is tried again with the next round. What carbon
//! does not take meanwhile is kept up to a bound, then the oldest lines are dropped and counted. A line of which only a part went out is
//! dropped too: on the next connection its rest would be another name.
//!
//! Carbon's plaintext protocol has no answers: lines that the system has accepted for a connection that then breaks are lost uncounted.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::supervise::probe::{connecting, is_connected, parse_endpoint};

/// So many bytes are kept for a carbon that does not take them, or four rounds if those are more.
const MOST: usize = 64 * 1024;

/// The way to carbon.
#[derive(Debug)]
enum Link {
    Down,
    /// Its name is being looked up, which can take long, by a thread: nothing else here may wait.
    Naming(JoinHandle<io::Result<SocketAddr>>),
    Connecting(OwnedFd),
    Up(OwnedFd),
}

/// What takes the lines.
#[derive(Debug)]
pub struct Sender {
    /// `HOST:PORT`.
    to: String,
    link: Link,
    unsent: Vec<u8>,
    /// Whether the beginning of the first unsent line went out already.
    torn: bool,
    dropped: u64,
    /// Why carbon cannot be reached, once that has failed.
    trouble: Option<String>,
    /// Whether somebody was told of the trouble.
    told: bool,
}

impl Sender {
    /// To `HOST:PORT`. It connects with the first round.
    #[must_use]
    pub fn new(to: &str) -> Self {
        let to = to.to_owned();
        Self { to, link: Link::Down, unsent: Vec::new(), torn: false, dropped: 0, trouble: None, told: false }
    }

    /// How many lines could not be kept.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What to poll, and for what, while there is something to send.
    #[must_use]
    pub fn interest(&self) -> Option<(RawFd, PollFlags)> {
        match &self.link {
            Link::Connecting(socket) => Some((socket.as_raw_fd(), PollFlags::POLLOUT)),
            Link::Up(socket) if !self.unsent.is_empty() => Some((socket.as_raw_fd(), PollFlags::POLLOUT)),
            _ => None,
        }
    }

    /// Takes the lines of a round, connects if there is no connection, and sends what the other side takes at once.
    pub fn round(&mut self, lines: &[u8]) {
        self.keep(lines);
        if let Link::Up(socket) = &self.link
            && is_closed(socket)
        {
            self.hang_up();
        }
        if matches!(self.link, Link::Down | Link::Naming(_))
            && let Err(error) = self.reach()
        {
            self.fail(&error);
        }
        self.go_on();
    }

    /// Sends what can be sent now.
    pub fn go_on(&mut self) {
        if let Err(error) = self.send() {
            self.fail(&error);
        }
    }

    /// What has happened to the connection since somebody was told last.
    pub fn news(&mut self) -> Option<String> {
        let text = match (&self.trouble, self.told) {
            (Some(why), false) => format!("cannot send metrics to {}: {why}; trying again with each round", self.to),
            (None, true) => format!("metrics reach {} again; {} lines were dropped so far", self.to, self.dropped),
            _ => return None,
        };
        self.told = self.trouble.is_some();
        Some(text)
    }

    /// Keeps lines, and drops the oldest if they are too many.
    fn keep(&mut self, lines: &[u8]) {
        let most = MOST.max(lines.len().saturating_mul(4));
        let surplus = (self.unsent.len() + lines.len()).saturating_sub(most);
        if surplus > 0 {
            // Whoever has not read for so long is not there.
            self.hang_up();
            self.forget(surplus);
        }
        self.unsent.extend_from_slice(lines);
    }

    /// Drops so many bytes, up to the end of a line.
    fn forget(&mut self, count: usize) {
        let count = count.min(self.unsent.len());
        let rest = self.unsent[count..].iter().position(|&byte| byte == b'\n').map_or(self.unsent.len(), |at| count + at + 1);
        self.dropped += self.unsent[..rest].iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.unsent.drain(..rest);
    }

    fn reach(&mut self) -> io::Result<()> {
        let address = match std::mem::replace(&mut self.link, Link::Down) {
            Link::Naming(thread) if !thread.is_finished() => {
                self.link = Link::Naming(thread);
                return Ok(());
            }
            Link::Naming(thread) => thread.join().map_err(|_| io::ErrorKind::Other)??,
            _ => match parse_endpoint(&self.to) {
                Ok(address) => address,
                Err(_) => {
                    let name = self.to.clone();
                    self.link = Link::Naming(std::thread::Builder::new().spawn(move || look_up(&name))?);
                    return Ok(());
                }
            },
        };
        self.link = Link::Connecting(connecting(address)?);
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        if let Link::Connecting(socket) = &self.link {
            if !is_connected(socket)? {
                return Ok(());
            }
            if let Link::Connecting(socket) = std::mem::replace(&mut self.link, Link::Down) {
                self.link = Link::Up(socket);
            }
        }
        let Link::Up(socket) = &self.link else { return Ok(()) };
        let mut sent = 0;
        let end = loop {
            if sent == self.unsent.len() {
                break Ok(());
            }
            match send(socket.as_raw_fd(), &self.unsent[sent..], MsgFlags::empty()) {
                Ok(count) => sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        if sent > 0 {
            self.torn = self.unsent[sent - 1] != b'\n';
            self.unsent.drain(..sent);
            self.trouble = None;
        }
        if self.unsent.is_empty() && self.unsent.capacity() > MOST / 4 {
            self.unsent = Vec::new();
        }
        end
    }

    fn fail(&mut self, error: &io::Error) {
        self.hang_up();
        self.trouble = Some(error.to_string());
    }

    fn hang_up(&mut self) {
        self.link = Link::Down;
        if std::mem::take(&mut self.torn) {
            self.forget(0);
        }
    }
}

/// Asks name servers, which may take its time.
fn look_up(to: &str) -> io::Result<SocketAddr> {
    to.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("its name has no address"))
}

/// Whether the other side has closed. A first write into a connection that it has closed still succeeds, and its lines are lost.
fn is_closed(socket: &OwnedFd) -> bool {
    let mut byte = [0_u8];
    match recv(socket.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK) {
        // Carbon says nothing; what it did say would stand in the way of its end.
        Ok(_) => true,
        Err(error) => !matches!(error, Errno::EAGAIN | Errno::EINTR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    /// Accepts who wants in; the sender is driven meanwhile as the supervisor's loop would.
    fn accept(listener: &TcpListener, sender: &mut Sender) -> TcpStream {
        listener.set_nonblocking(true).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            sender.go_on();
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return stream;
                }
                Err(_) => assert!(Instant::now() < end, "nobody came: {:?}", sender.trouble),
            }
        }
    }

    /// Reads so many bytes, driving the sender.
    fn read(stream: &mut TcpStream, sender: &mut Sender, count: usize) -> String {
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (mut out, mut buffer) = (Vec::new(), vec![0; 65_536]);
        let end = Instant::now() + Duration::from_secs(60);
        while out.len() < count {
            sender.go_on();
            if let Ok(read @ 1..) = stream.read(&mut buffer) {
                out.extend_from_slice(&buffer[..read]);
            }
            assert!(Instant::now() < end, "only {} of {count} bytes came", out.len());
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_wait_for_a_carbon_that_is_not_there_and_reach_the_one_that_comes() {
        let (address, listen) = crate::ports::reserved();
        let mut sender = Sender::new(&address.to_string());
        sender.round(b"a 1 1\n");
        assert!(sender.news().unwrap().contains("refused"), "{sender:?}");
        sender.round(b"a 2 2\n");
        assert_eq!((sender.news(), sender.interest()), (None, None), "told twice, or polled while down");
        let listener = listen();
        sender.round(b"a 3 3\n");
        let mut stream = accept(&listener, &mut sender);
        assert_eq!(read(&mut stream, &mut sender, 18), "a 1 1\na 2 2\na 3 3\n");
        assert!(sender.news().unwrap().contains("again; 0 lines"), "{sender:?}");
        assert_eq!(sender.interest(), None, "it would be polled with nothing to send");
        // A carbon that restarts: the end is noticed before the next line is written into it.
        drop(stream);
        sender.round(b"a 4 4\n");
        let mut stream = accept(&listener, &mut sender);
        assert_eq!(read(&mut stream, &mut sender, 6), "a 4 4\n");
        assert_eq!(sender.dropped(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_is_dropped_and_counted() {
        let mut sender = Sender::new("127.0.0.1:1");
        let line = "x".repeat(99) + "\n";
        for _ in 0..2_000 {
            sender.round(line.as_bytes());
        }
        assert!(sender.unsent.len() <= MOST, "{}", sender.unsent.len());
        assert_eq!(sender.dropped() + (sender.unsent.len() / 100) as u64, 2_000);
        // A round that is larger than the bound is not dropped for that.
        let round = line.repeat(5_000);
        sender.round(round.as_bytes());
        assert_eq!(sender.unsent.len(), round.len() + (MOST / 100) * 100);
    }

    #[test]
    fn the_rest_of_a_torn_line_does_not_begin_another_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = Sender::new(&listener.local_addr().unwrap().to_string());
        // More than the system takes for somebody who does not read.
        let round = "long.name.of.a.metric 1 1\n".repeat(2_000_000);
        sender.round(round.as_bytes());
        let stream = accept(&listener, &mut sender);
        sender.go_on();
        assert!(!sender.unsent.is_empty() && sender.interest().is_some(), "the system took everything");
        let torn = sender.torn;
        let whole = sender.unsent.iter().filter(|&&byte| byte == b'\n').count();
        drop(stream);
        drop(listener);
        let end = Instant::now() + Duration::from_secs(60);
        while matches!(sender.link, Link::Up(_)) {
            sender.go_on();
            assert!(Instant::now() < end, "the end of the connection was not noticed");
        }
        assert!(sender.unsent.starts_with(b"long."), "{}", String::from_utf8_lossy(&sender.unsent[..30]));
        assert_eq!(sender.dropped(), u64::from(torn));
        assert_eq!(sender.unsent.iter().filter(|&&byte| byte == b'\n').count(), whole - usize::from(torn));
    }

    #[test]
    fn a_name_is_looked_up_without_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = Sender::new(&format!("localhost.:{}", listener.local_addr().unwrap().port()));
        let end = Instant::now() + Duration::from_secs(60);
        while !matches!(sender.link, Link::Connecting(_) | Link::Up(_)) && sender.trouble.is_none() {
            sender.round(b"");
            assert!(Instant::now() < end, "{sender:?}");
        }
    }
}
