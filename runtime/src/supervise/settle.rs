//! What follows from what has happened: services wait for each other, stop with each other, and go from state to state.

use std::collections::VecDeque;
use std::time::Instant;

use super::state::{self, Event, Next, State};
use super::{Supervisor, events, unseen_end};

impl Supervisor {
    /// Carries everything on until nothing follows any more.
    pub(super) fn settle(&mut self, now: Instant) {
        loop {
            let mut changed = false;
            for at in 0..self.units.len() {
                changed |= self.settle_one(at, now);
            }
            if !changed {
                return;
            }
        }
    }

    fn settle_one(&mut self, at: usize, now: Instant) -> bool {
        if self.units[at].output.deadline().is_some_and(|due| due <= now) {
            self.units[at].output.tick(&mut self.buffer);
        }
        let before = self.units[at].state.clone();
        self.desert(at);
        let pending = self.units[at].pending.is_some();
        if pending && !self.must_outlive_others(at) && !self.units[at].has_to_drain(now) {
            let next = self.units[at].pending.take();
            self.drive(at, if next == Some(Next::Start) { Event::Restart } else { Event::Stop }, now);
        }
        if self.units[at].state == State::Waiting && self.units[at].pending.is_none() && !self.has_to_wait(at) {
            self.drive(at, Event::Clear, now);
        }
        if self.units[at].deadline().is_some_and(|due| due <= now) {
            self.units[at].ask(false, now);
            if self.units[at].unwatched_end() {
                self.drive(at, unseen_end(), now);
            }
            self.drive(at, Event::Tick, now);
        }
        if self.units[at].is_ready() {
            self.drive(at, Event::Ready, now);
        }
        self.care(at, now);
        self.units[at].state != before || pending != self.units[at].pending.is_some()
    }

    /// A service whose health check fails is told of, and restarted if that is wanted.
    fn care(&mut self, at: usize, now: Instant) {
        let Some(news) = self.units[at].news_of_health() else { return };
        let name = self.units[at].service.name.clone();
        self.dirty = true;
        match news {
            None => self.announce(Some(&name), "is well again"),
            Some(how) => {
                self.announce(Some(&name), &format!("is not well: {how}"));
                if self.units[at].health.as_ref().is_some_and(|health| health.has_to_restart().is_some()) {
                    self.drive(at, Event::Unwell(format!("is not well: {how}")), now);
                }
            }
        }
    }

    /// A service stops with what it cannot do without.
    fn desert(&mut self, at: usize) {
        let unit = &self.units[at];
        if unit.pending.is_some() || !matches!(unit.state, State::Starting { .. } | State::Running { .. }) {
            return;
        }
        let gone = |&&other: &&usize| self.units[other].state.deserts() && self.units[other].pending.is_none();
        if let Some(&other) = unit.requires.iter().find(gone) {
            let name = unit.service.name.clone();
            let text = format!("stops because it requires {}", self.units[other].service.name);
            self.units[at].pending = Some(Next::Rest);
            self.announce(Some(&name), &text);
        }
    }

    /// Whether a service that is asked to stop has to run on, because others that come after it are still on their way down.
    fn must_outlive_others(&self, at: usize) -> bool {
        self.units.iter().any(|other| other.before.contains(&at) && other.going_down())
    }

    /// Whether a service that should start has to wait for another one.
    fn has_to_wait(&self, at: usize) -> bool {
        let unit = &self.units[at];
        let on_its_way = |&other: &usize| match &self.units[other].pending {
            Some(next) => *next == Next::Start,
            None => self.units[other].state.promising(),
        };
        unit.before.iter().any(on_its_way) || unit.requires.iter().any(|&other| !self.units[other].state.serves())
    }

    /// Gives a service an event, carries out what follows, and the events that follow from that.
    pub(super) fn drive(&mut self, at: usize, event: Event, now: Instant) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if let Event::Ended { how, .. } = &event {
                self.report(at, how);
            }
            let jitter = self.random();
            let unit = &mut self.units[at];
            let before = std::mem::replace(&mut unit.state, State::Waiting);
            let (after, actions) = state::step(before.clone(), event, now, &unit.policy(jitter));
            unit.state = after;
            if unit.state != before {
                self.moved(at, &before, now);
            }
            for action in actions {
                events.extend(self.act(at, action, now));
            }
        }
    }

    /// A service is in another state than before.
    fn moved(&mut self, at: usize, before: &State, now: Instant) {
        self.dirty = true;
        let unit = &mut self.units[at];
        if let Some(text) = unit.changed(before) {
            let comma = if text.is_empty() { "" } else { ", " };
            let line = format!("{}: {}{comma}{text}", unit.service.name, unit.word());
            let event = events::changed(&unit.service.name, before, &unit.state, &text);
            self.note(&line);
            self.tell(event);
        }
        let unit = &mut self.units[at];
        if matches!(unit.state, State::Running { .. })
            && !matches!(before, State::Running { .. })
            && let Err(error) = unit.begin_watching(&self.home, now)
        {
            let name = unit.service.name.clone();
            self.announce(Some(&name), &format!("cannot look whether it is well: {error:#}"));
        }
        if self.units[at].state.process().is_none() {
            self.put_in_force(at);
        }
    }
}
