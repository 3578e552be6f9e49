//! `dkm top`: a live view of all services.
//!
//! The terminal is the main thread's; another one talks to the supervisor, so that keys are heard while that takes its time.

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ratatui::crossterm::event::{Event, KeyEventKind, poll, read};

use super::{look, root};
use crate::cli::dkm::Top;
use crate::control::{Reply, Request, Verb, client};
use crate::home::Home;
use crate::supervise::logs;
use crate::text::{harmless_line, shown};

mod view;

use view::{Look, View, Wish};

/// How often the supervisor's answers are looked for while no key comes.
const TICK: Duration = Duration::from_millis(50);

/// How many of the chosen service's lines are read.
const LINES: usize = 200;

/// What the other thread tells.
enum News {
    Look(Look, Vec<String>),
    Message(String),
}

/// What the other thread is told.
enum Order {
    /// The cursor is on this service now.
    Choose(Option<String>),
    Act(Verb, String),
}

/// Shows the view until it is left.
///
/// # Errors
/// When there is no terminal, or it cannot be used.
pub fn run(home: &Home, options: &Top) -> Result<ExitCode> {
    if !(stdin().is_terminal() && stdout().is_terminal()) {
        bail!("`dkm top` needs a terminal; `dkm status --json` is for programs");
    }
    let (orders, from_view) = channel();
    let (to_view, news) = channel();
    let interval = options.interval.0.max(TICK);
    let worker_home = home.clone();
    std::thread::spawn(move || work(&worker_home, interval, &from_view, &to_view));
    let mut terminal = ratatui::try_init()?;
    let result = show(home, &mut terminal, &orders, &news);
    ratatui::restore();
    result
}

fn show(
    home: &Home,
    terminal: &mut ratatui::DefaultTerminal,
    orders: &Sender<Order>,
    news: &Receiver<News>,
) -> Result<ExitCode> {
    let mut view = View::new(home.root().display().to_string());
    let mut chosen: Option<String> = None;
    let mut stale = true;
    loop {
        while let Ok(new) = news.try_recv() {
            match new {
                News::Look(look, log) => {
                    view.take(look, Instant::now());
                    view.log = log;
                }
                News::Message(message) => view.message = message,
            }
            stale = true;
        }
        if view.chosen() != chosen.as_deref() {
            chosen = view.chosen().map(str::to_owned);
            let _ = orders.send(Order::Choose(chosen.clone()));
        }
        if std::mem::take(&mut stale) {
            terminal.draw(|frame| view.draw(frame))?;
        }
        if !poll(TICK)? {
            continue;
        }
        stale = true;
        if let Event::Key(key) = read()?
            && key.kind != KeyEventKind::Release
        {
            match view.press(key) {
                Wish::Nothing => {}
                Wish::Quit => return Ok(ExitCode::SUCCESS),
                Wish::Act(verb, service) => drop(orders.send(Order::Act(verb, service))),
            }
        }
    }
}

/// Looks again and again, and does what it is told in between.
fn work(home: &Home, interval: Duration, orders: &Receiver<Order>, news: &Sender<News>) {
    let mut chosen = None;
    loop {
        let log = chosen.as_ref().map_or_else(Vec::new, |name: &String| {
            let bytes = logs::last_lines(&home.log(name), LINES);
            let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|&byte| byte == b'\n');
            lines.map(shown).collect()
        });
        let look = match look(home, true) {
            Ok((supervisor, services)) => Look { supervisor, services, error: None },
            Err(error) => Look { error: Some(harmless_line(format!("{error:#}").as_bytes())), ..Look::default() },
        };
        if news.send(News::Look(look, log)).is_err() {
            return;
        }
        match orders.recv_timeout(interval) {
            Ok(Order::Choose(name)) => chosen = name,
            Ok(Order::Act(verb, service)) => {
                let message = act(home, verb, &service);
                let _ = news.send(News::Message(message));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Asks for something without waiting for it; what came of it, in words.
fn act(home: &Home, verb: Verb, service: &str) -> String {
    let ask = || -> Result<String> {
        root::may_change()?;
        let stream = client::connect_or_start(home)?;
        let reply = client::ask(home, stream, &Request::new(verb, &[service.to_owned()]))?;
        Ok(match reply {
            Reply::Done { problems, .. } if !problems.is_empty() => problems[0].message.clone(),
            _ => String::new(),
        })
    };
    harmless_line(ask().unwrap_or_else(|error| format!("{error:#}")).as_bytes())
}
