//! Is it ready? Questions asked without waiting.
//!
//! A [`Probing`] asks a service's probes one after the other, each until it passes, from inside the supervisor's loop: it says what
//! to poll and when to be called again, and never blocks. Tries begin right after the start and grow apart up to
//! [`LONGEST_GAP`]; after the service's time to become ready is over they go on slowly, every [`LATE_GAP`]. What a service
//! says by itself (a line of its log, `READY=1`) is not asked for: it is heard at any time, and counts when its turn comes.
//!
//! A service without probes can only be asked whether it still runs: it is taken for ready after [`STEADY`].

use std::io;
use std::os::fd::RawFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::PollFlags;

use crate::service::{Probe, Service};

mod asking;
mod tls;

pub use asking::{Asking, Surroundings, Target, connecting, is_connected, parse_endpoint};

/// The first gap between two tries.
const FIRST_GAP: Duration = Duration::from_millis(10);
/// The longest gap while the service is in its time.
pub const LONGEST_GAP: Duration = Duration::from_millis(200);
/// The longest gap for what makes a process.
pub const LONGEST_PROGRAM_GAP: Duration = Duration::from_secs(1);
/// The gap after that time.
pub const LATE_GAP: Duration = Duration::from_secs(5);
/// What a service without probes has to live for. One with a mistake in its configuration ends sooner.
pub const STEADY: Duration = Duration::from_millis(500);

/// Checks that a service's probes can be asked at all.
///
/// # Errors
/// The first one that cannot.
pub fn check(service: &Service) -> Result<()> {
    let health = service.health.iter().map(|health| &health.probe);
    service.probes.iter().chain(health).try_for_each(|probe| Target::parse(probe).map(drop))
}

/// The probes of one service that is starting.
#[derive(Debug)]
pub struct Probing {
    targets: Vec<Target>,
    /// Which of them the service has answered by itself.
    heard: Vec<bool>,
    /// The one being asked; all before it passed.
    at: usize,
    current: Option<Asking>,
    next: Instant,
    gap: Duration,
    last_answer: String,
    /// Until when a service without probes has to live; none once it has, and where there are probes.
    steady_at: Option<Instant>,
    surroundings: Surroundings,
}

impl Probing {
    /// Begins to ask.
    ///
    /// # Errors
    /// When a probe has no usable address.
    pub fn new(probes: &[Probe], surroundings: Surroundings, now: Instant) -> Result<Self> {
        let targets: Vec<Target> = probes.iter().map(Target::parse).collect::<Result<_>>()?;
        let steady_at = probes.is_empty().then(|| now + STEADY);
        Ok(Self {
            heard: vec![false; targets.len()],
            targets,
            at: 0,
            current: None,
            next: now,
            gap: FIRST_GAP,
            last_answer: String::new(),
            steady_at,
            surroundings,
        })
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
        self.current.as_ref()?.interest()
    }

    /// When to call [`Probing::go_on`] at the latest; none: when the service has said something.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.steady_at.is_some() {
            return self.steady_at;
        }
        let target = self.targets.get(self.at)?;
        match &self.current {
            Some(current) => Some(current.deadline()),
            None if target.is_heard() => None,
            None => Some(self.next),
        }
    }

    /// The service has answered a probe by itself. Out of range: none of these.
    pub fn hear(&mut self, probe: usize) {
        if let Some(heard) = self.heard.get_mut(probe) {
            *heard = true;
        }
    }

    /// What the service may have said while nobody listened is taken for said.
    pub fn believe(&mut self) {
        self.heard.fill(true);
    }

    /// A child has ended; whether it was one of ours.
    pub fn child_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        self.current.as_mut().is_some_and(|current| current.child_ended(pid, status))
    }

    /// Does what can be done now. `woken`: poll reported the descriptor. `late`: the time to become ready is over.
    pub fn go_on(&mut self, woken: bool, late: bool, now: Instant) {
        if self.steady_at.is_some_and(|at| now >= at) {
            self.steady_at = None;
        }
        let mut woken = woken;
        while let Some(target) = self.targets.get(self.at) {
            if target.is_heard() {
                if !self.heard[self.at] {
                    return;
                }
                self.next_target(now);
                continue;
            }
            let mut current = match self.current.take() {
                Some(current) => current,
                None if now < self.next => return,
                None => match target.ask(&self.surroundings, now) {
                    Ok(current) => {
                        // A connection to this machine is mostly there at once.
                        woken = true;
                        current
                    }
                    Err(error) => return self.failed(&error, late, now),
                },
            };
            match current.go_on(target, woken, now) {
                Some(Ok(())) => self.next_target(now),
                Some(Err(error)) => return self.failed(&error, late, now),
                None => {
                    self.current = Some(current);
                    return;
                }
            }
        }
    }

    fn next_target(&mut self, now: Instant) {
        self.at += 1;
        self.next = now;
        self.gap = FIRST_GAP;
        self.last_answer.clear();
    }

    fn failed(&mut self, error: &io::Error, late: bool, now: Instant) {
        let target = &self.targets[self.at];
        let longest = if target.is_program() { LONGEST_PROGRAM_GAP } else { LONGEST_GAP };
        self.last_answer = error.to_string();
        let gap = target.period.unwrap_or(self.gap);
        self.next = now + if late { gap.max(LATE_GAP) } else { gap };
        self.gap = (self.gap * 3 / 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Question, StatusRange};
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn http(url: String) -> Probe {
        Question::Http { url, status: StatusRange::default() }.into()
    }

    fn tcp(address: &str) -> Probe {
        Question::Tcp(address.to_owned()).into()
    }

    /// Drives a probing to its end as the supervisor's loop would.
    fn drive(probing: &mut Probing) -> bool {
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end && !probing.passed() {
            let fds = probing.interest();
            let wait = probing.deadline().map_or(end, |at| at.min(end)).saturating_duration_since(Instant::now());
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
        let mut probing =
            Probing::new(&[http(format!("http://{address}/x"))], Surroundings::default(), Instant::now()).unwrap();
        assert!(drive(&mut probing), "{}", probing.waits_for());
        server.join().unwrap();
    }

    #[test]
    fn a_closed_port_is_not_ready_and_says_so() {
        let (address, listen) = crate::ports::reserved();
        let mut probing = Probing::new(&[tcp(&address.to_string())], Surroundings::default(), Instant::now()).unwrap();
        probing.go_on(false, false, Instant::now());
        assert!(!probing.passed());
        assert!(probing.waits_for().contains("refused"), "{}", probing.waits_for());
        let _listener = listen();
        assert!(drive(&mut probing));
    }

    #[test]
    fn statuses_are_judged_by_their_range() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = serve(listener, &["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 503 Standby\r\n\r\n"]);
        let url = format!("http://{address}/");
        let probe = Question::Http { url, status: StatusRange { first: 429, last: 503 } }.into();
        let mut probing = Probing::new(&[probe], Surroundings::default(), Instant::now()).unwrap();
        assert!(drive(&mut probing), "{}", probing.waits_for());
        server.join().unwrap();
    }

    #[test]
    fn a_unix_socket_is_ready_when_somebody_listens() {
        let temp = tempfile::Builder::new().prefix("a b").tempdir().unwrap();
        let path = temp.path().join("x.sock");
        let probe = || Question::Unix(path.to_str().unwrap().to_owned()).into();
        let mut probing = Probing::new(&[probe()], Surroundings::default(), Instant::now()).unwrap();
        probing.go_on(false, false, Instant::now());
        assert!(!probing.passed() && probing.waits_for().contains("No such file"), "{}", probing.waits_for());
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(drive(&mut probing));
    }

    #[test]
    fn what_is_heard_before_its_turn_counts_when_it_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probes =
            [tcp(&listener.local_addr().unwrap().to_string()), Question::Notify.into(), Question::Log("x".into()).into()];
        let mut probing = Probing::new(&probes, Surroundings::default(), Instant::now()).unwrap();
        probing.hear(2);
        probing.go_on(false, false, Instant::now());
        assert_eq!((probing.waits_for().as_str(), probing.deadline()), ("its READY=1", None));
        probing.hear(1);
        probing.go_on(false, false, Instant::now());
        assert!(probing.passed());
    }

    #[test]
    fn odd_addresses_are_refused() {
        let good = |probe: Probe| Target::parse(&probe).is_ok();
        for bad in ["http://example.org/", "ftp://127.0.0.1:1/", "http://127.0.0.1/", "http://127.0.0.1:1/a b"] {
            assert!(!good(http(bad.into())), "{bad} was accepted");
        }
        assert!(!good(Question::Unix("relative".into()).into()) && !good(Question::Unix("/x".repeat(80)).into()));
        assert!(good(http("http://[::1]:80/".into())) && good(tcp("localhost:80")));
    }
}
