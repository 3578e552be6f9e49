//! What happened, for those who ask later and those who follow.
//!
//! The last [`REMEMBERED`] events are kept. A follower gets each as it happens; one that does not read loses events and no more than
//! [`MOST_UNREAD`] of our memory, and is told how many it missed.

use std::collections::VecDeque;

use super::logs::stamp;
use super::state::State;
use crate::control::server::Client;
use crate::control::{Event, Reply};

/// So many are kept.
const REMEMBERED: usize = 256;
/// A follower that has left more bytes unread gets no more until it reads.
const MOST_UNREAD: usize = 64 * 1024;

/// The last events.
#[derive(Debug, Default)]
pub struct Memory {
    events: VecDeque<Event>,
}

impl Memory {
    /// Keeps one.
    pub fn keep(&mut self, event: Event) {
        if self.events.len() == REMEMBERED {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Those about these services, the oldest first.
    pub fn about<'a>(&'a self, services: &'a [String]) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(|event| concerns(event, services))
    }
}

/// A client that is told what happens.
#[derive(Debug)]
pub struct Follower {
    /// Which services it wants to know of; none: all, and the supervisor.
    pub services: Vec<String>,
    missed: u64,
}

impl Follower {
    /// One that has missed nothing.
    #[must_use]
    pub fn new(services: Vec<String>) -> Self {
        Self { services, missed: 0 }
    }

    /// Tells it, if it is interested and listens.
    pub fn tell(&mut self, client: &mut Client, event: &Event) {
        if !concerns(event, &self.services) {
            return;
        }
        if client.unread() > MOST_UNREAD {
            self.missed += 1;
            return;
        }
        let missed = std::mem::take(&mut self.missed);
        client.send(&Reply::Event { event: Event { missed, ..event.clone() } });
    }
}

fn concerns(event: &Event, services: &[String]) -> bool {
    services.is_empty() || event.service.as_ref().is_some_and(|service| services.contains(service))
}

/// Something that a service or the supervisor (none) did.
#[must_use]
pub fn said(service: Option<&str>, text: &str) -> Event {
    Event { at: stamp::now(), service: service.map(str::to_owned), text: text.to_owned(), ..Event::default() }
}

/// A service's way from one state to another.
#[must_use]
pub fn changed(service: &str, before: &State, after: &State, text: &str) -> Event {
    Event {
        state: Some(after.word().to_owned()),
        before: Some(before.word().to_owned()),
        pid: after.process().map(|process| process.pid),
        ..said(Some(service), text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_so_many_are_kept() {
        let mut memory = Memory::default();
        (0..REMEMBERED + 10)
            .for_each(|number| memory.keep(said(Some(if number % 2 == 0 { "a" } else { "b" }), &number.to_string())));
        assert_eq!(memory.about(&[]).count(), REMEMBERED);
        assert_eq!(memory.about(&["a".to_owned()]).next().unwrap().text, "10");
    }

    #[test]
    fn who_does_not_read_misses_events_and_is_told() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut client = Client::inherited(ours);
        let mut follower = Follower::new(vec!["a".to_owned()]);
        for number in 0..20_000 {
            follower.tell(&mut client, &said(Some("a"), &format!("{number:0100}")));
            follower.tell(&mut client, &said(Some("b"), "nothing that was asked for"));
        }
        assert!(client.unread() <= 2 * MOST_UNREAD && !client.is_over(std::time::Instant::now()), "{}", client.unread());
        let mut reader = BufReader::new(theirs);
        let mut next = |client: &mut Client| -> Event {
            client.write();
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match serde_json::from_str(&line).unwrap() {
                Reply::Event { event } => event,
                other => panic!("{other:?}"),
            }
        };
        let mut got = 0;
        while client.unread() > 0 {
            assert_eq!(next(&mut client).text, format!("{got:0100}"));
            got += 1;
        }
        follower.tell(&mut client, &said(Some("a"), "last"));
        let mut event = next(&mut client);
        while event.text != "last" {
            got += 1;
            event = next(&mut client);
        }
        assert_eq!((event.missed, event.missed > 0), (20_000 - got, true));
    }
}
