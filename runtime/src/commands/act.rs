//! What the verbs that change something have in common: ask, show what happens, say what is waited for, report what went wrong.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{exit, interrupt, reread};
use crate::cli::dkm::{Output, Waiting};
use crate::clock::span;
use crate::control::client::{self, Conversation, Heard};
use crate::control::{Problem, Reply, Request, Status, Verb};
use crate::home::Home;
use crate::os::terminal;
use crate::service::Service;
use crate::supervise::logs;
use crate::supervise::state::LAST_WAIT;
use crate::text::{harmless, harmless_line, json, shown};

/// How many of a failing service's last lines are shown.
const LAST_LINES: usize = 10;

/// How often the line that says what is waited for is written anew.
const TICK: Duration = Duration::from_millis(200);

/// What is added to the times of the definitions before a command stops waiting for the supervisor.
const SLACK: Duration = Duration::from_secs(10);

/// The longest that a verb may take if each service takes all the time it may, one after the other.
#[must_use]
pub fn patience(services: &[Service], verb: Verb) -> Duration {
    let of = |service: &Service| {
        let stop = Duration::from_secs(u64::from(service.stop_timeout_s) + u64::from(service.drain_timeout_s)) + LAST_WAIT;
        let start = Duration::from_secs(service.ready_timeout_s.into());
        match verb {
            Verb::Start => start,
            Verb::Stop | Verb::Shutdown => stop,
            _ => stop + start,
        }
    };
    services.iter().map(of).sum::<Duration>() + SLACK
}

/// Asks, and reports in lines; 1 when a service did not arrive where it should.
///
/// # Errors
/// When the supervisor refuses or goes away, or the waiting ended before the end.
pub fn ask(home: &Home, stream: UnixStream, request: &Request, waiting: &Waiting, output: Output) -> Result<ExitCode> {
    let limit = match waiting.timeout {
        Some(span) => span.0,
        None => patience(&home.services().unwrap_or_default(), request.verb),
    };
    let mut watch = Watch::new(request, limit, output);
    if request.wait {
        interrupt::prepare();
    }
    let mut stream = Some(stream);
    let done = client::persist(|| {
        // These may be asked twice: of a supervisor that died meanwhile nobody knows what it has done. The next one adopts what runs.
        let stream = match stream.take() {
            None if matches!(request.verb, Verb::Start | Verb::Stop | Verb::Shutdown) => client::connect_or_start(home)?,
            None => bail!("{}", client::WentAway),
            Some(stream) => stream,
        };
        converse(stream, request, &mut watch, limit)
    });
    watch.clear();
    let done = done?;
    let Reply::Done { services, problems, changes, .. } = &done else { bail!("the supervisor gave an answer of another kind") };
    if output.json {
        println!("{}", json(&done, true)?);
    } else if request.verb == Verb::Update {
        reread::show(changes);
    } else if !request.wait {
        services.iter().for_each(|service| println!("{}", line(service)));
    }
    problems.iter().for_each(|problem| explain(home, problem));
    Ok(ExitCode::from(if problems.is_empty() { exit::GOOD } else { exit::FAILED }))
}

/// Asks, and follows what happens to the end.
fn converse(stream: UnixStream, request: &Request, watch: &mut Watch<'_>, limit: Duration) -> Result<Reply> {
    let mut conversation = Conversation::begin(stream, request)?;
    loop {
        match conversation.listen(Some(watch.next_look()))? {
            Heard::Reply(Reply::Progress { service }) => watch.told(&service),
            Heard::Reply(done @ Reply::Done { .. }) => return Ok(done),
            Heard::Reply(_) => bail!("the supervisor gave an answer of another kind"),
            Heard::Nothing if !watch.is_over() => watch.draw(),
            Heard::Nothing => return Err(watch.give_up(exit::TIME_OVER, &format!("not done after {}", span(limit)))),
            Heard::Interrupted => return Err(watch.give_up(exit::INTERRUPTED, "interrupted")),
        }
    }
}

/// What is known of the services while they are waited for.
pub struct Watch<'a> {
    request: &'a Request,
    begin: Instant,
    until: Instant,
    json: bool,
    /// Whether somebody looks: then a line says what is waited for.
    live: bool,
    drawn: bool,
    last: BTreeMap<String, Status>,
}

impl<'a> Watch<'a> {
    /// Watches what a request leads to, for so long.
    #[must_use]
    pub fn new(request: &'a Request, limit: Duration, output: Output) -> Self {
        let begin = Instant::now();
        let live = request.wait && std::io::stderr().is_terminal();
        Self { request, begin, until: begin + limit, json: output.json, live, drawn: false, last: BTreeMap::new() }
    }

    /// Until when to listen before [`Watch::draw`].
    #[must_use]
    pub fn next_look(&self) -> Instant {
        if self.live { self.until.min(Instant::now() + TICK) } else { self.until }
    }

    /// What a service is before anything happens.
    pub fn knows(&mut self, service: &Status) {
        self.last.insert(service.name.clone(), service.clone());
    }

    /// Shows a change.
    pub fn told(&mut self, service: &Status) {
        self.clear();
        if !self.json {
            println!("{}", line(service));
        }
        self.last.insert(service.name.clone(), service.clone());
        self.draw();
    }

    /// Those that have not arrived, as far as is known.
    fn pending(&self) -> Vec<&Status> {
        let arrived = |state: &str| match self.request.verb {
            Verb::Stop | Verb::Shutdown => state == "stopped",
            _ => matches!(state, "running" | "ready"),
        };
        self.last.values().filter(|service| !arrived(&service.state)).collect()
    }

    /// What is waited for, in words.
    fn pending_words(&self) -> String {
        match self.pending()[..] {
            [] => "the supervisor".to_owned(),
            [first, ref rest @ ..] => {
                let reason =
                    first.reason.as_ref().map_or_else(String::new, |reason| format!(": {}", harmless_line(reason.as_bytes())));
                let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
                format!("{} ({}{reason}){more}", first.name, first.state)
            }
        }
    }

    /// Whether the time is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Says what is waited for, where somebody looks.
    pub fn draw(&mut self) {
        // What is over in a moment needs no words.
        if !self.live || self.begin.elapsed() < TICK {
            return;
        }
        let text = format!("waiting {} for {}", span(self.begin.elapsed()), self.pending_words());
        let width = usize::from(terminal::columns().unwrap_or(80)).saturating_sub(1);
        let text: String = text.chars().take(width).collect();
        eprint!("\r\x1b[K{text}");
        let _ = std::io::stderr().flush();
        self.drawn = true;
    }

    /// Takes that line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }

    /// The error for an end before the end.
    pub fn give_up(&mut self, status: u8, why: &str) -> anyhow::Error {
        self.clear();
        let words = self.pending_words();
        exit::ending(
            status,
            format!("{why}, waiting for {words}. It goes on in the supervisor; `dkm status` tells how it stands"),
        )
    }
}

/// A service's state in one line.
fn line(service: &Status) -> String {
    let process = service.pid.map_or_else(String::new, |pid| format!("  process {pid}"));
    // What a service that was started a moment ago waits for is of interest only later.
    let reason = service.reason.as_ref().filter(|_| service.state != "starting");
    let reason = reason.map_or_else(String::new, |reason| format!("  {}", harmless_line(reason.as_bytes())));
    format!("{:<12} {}{process}{reason}", service.name, service.state)
}

fn explain(home: &Home, problem: &Problem) {
    let Problem { service, message } = problem;
    eprintln!("{service}: {}", harmless(message.as_bytes()));
    let path = home.log(service);
    let lines = logs::last_lines(&path, LAST_LINES);
    if !lines.is_empty() {
        eprintln!("The last lines of {}:", path.display());
        for line in lines.strip_suffix(b"\n").unwrap_or(&lines).split(|&byte| byte == b'\n') {
            eprintln!("  {}", shown(line));
        }
    }
}
