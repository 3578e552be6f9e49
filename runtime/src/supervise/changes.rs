//! Definitions that change while services run.
//!
//! A service runs by the definition that it was started with (the one *in force*). `reread` tells how the files differ from
//! that; `update` applies the difference: what changed is restarted if it runs, what is gone is stopped and forgotten, what is new and
//! enabled is started, and everything else keeps its process. A changed definition comes into force when no process of the old one is
//! left, so that the old one's signal ends what it began. `start` and `restart` take up the files of what does not run.
//!
//! A file that cannot be used changes nothing: its service goes on by what is in force, and says so.
//!
//! `run/definitions.json` holds what is in force, so that a supervisor after this one stops a service by the rules that it was
//! started with even if its file is changed, broken or gone by then, and `update` finds what changed in between.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use super::Supervisor;
use super::child;
use super::requests::{Goal, Wait};
use super::state::{Event, Next};
use super::unit::Unit;
use crate::control::{Change, ChangeKind};
use crate::definitions::Definitions;
use crate::home::write_renamed;
use crate::service::Service;

impl Supervisor {
    /// Makes the units for what the files say, and for what runs without one.
    pub(super) fn load(&mut self) -> Result<()> {
        let files = self.home.definitions()?;
        let mut in_force = self.remembered();
        let lives = |home: &crate::home::Home, name: &str| child::holder(&home.service_lock(name)).is_some();
        for service in files.services {
            let old = in_force.remove(&service.name).filter(|old| *old != service && lives(&self.home, &service.name));
            let mut unit = self.unit(old.clone().unwrap_or_else(|| service.clone()))?;
            unit.definition = old.is_some().then_some(ChangeKind::Changed);
            self.units.push(unit);
        }
        for fault in &files.faults {
            let message = fault.to_string();
            match self.units.iter_mut().find(|unit| unit.service.name == fault.service) {
                Some(unit) => unit.mark_broken(&message),
                None => {
                    let known = in_force.remove(&fault.service).unwrap_or_else(|| Service::unknown(&fault.service));
                    let mut unit = self.unit(known)?;
                    unit.mark_broken(&message);
                    self.units.push(unit);
                }
            }
            self.note(&message);
        }
        for (name, service) in in_force {
            if lives(&self.home, &name) {
                let mut unit = self.unit(service)?;
                unit.definition = Some(ChangeKind::Removed);
                self.units.push(unit);
            }
        }
        self.link();
        self.remember();
        Ok(())
    }

    /// A service under supervision.
    fn unit(&self, service: Service) -> Result<Unit> {
        let mut unit = Unit::new(&self.home, service)?;
        unit.output.forward_to(self.outlet.forward(&unit.service.name));
        Ok(unit)
    }

    /// What was in force when the last supervisor wrote it down.
    fn remembered(&self) -> BTreeMap<String, Service> {
        let bytes = std::fs::read(self.definitions_path()).unwrap_or_default();
        let services: Vec<Service> = serde_json::from_slice(&bytes).unwrap_or_default();
        services.into_iter().map(|service| (service.name.clone(), service)).collect()
    }

    fn definitions_path(&self) -> std::path::PathBuf {
        self.home.run().join("definitions.json")
    }

    fn remember(&mut self) {
        let services: Vec<&Service> = self.units.iter().map(|unit| &unit.service).collect();
        let bytes = serde_json::to_vec(&services).unwrap_or_default();
        if std::fs::read(self.definitions_path()).is_ok_and(|old| old == bytes) {
            return;
        }
        if let Err(error) = write_renamed(&self.definitions_path(), &bytes, 0o600) {
            self.note(&format!("{error:#}"));
        }
    }

    /// Finds the places of those that each service waits for.
    fn link(&mut self) {
        let places: BTreeMap<String, usize> =
            self.units.iter().enumerate().map(|(at, unit)| (unit.service.name.clone(), at)).collect();
        for unit in &mut self.units {
            unit.before = unit.service.waits_for().filter_map(|name| places.get(name).copied()).collect();
            unit.requires = unit.service.requires.iter().filter_map(|name| places.get(name).copied()).collect();
        }
    }

    /// Takes up new and changed definitions of services that do not run.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let files = self.home.definitions()?;
        self.mark(&files);
        let mut changed = false;
        for service in files.services {
            match self.units.iter_mut().find(|unit| unit.service.name == service.name) {
                Some(unit) if unit.state.process().is_none() && unit.next_service.is_none() => {
                    changed |= unit.service != service;
                    unit.removed = false;
                    unit.definition = None;
                    unit.service = service;
                }
                Some(_) => {}
                None => {
                    changed = true;
                    self.units.push(self.unit(service)?);
                    self.keeper.look_again();
                }
            }
        }
        if changed {
            self.link();
            self.remember();
        }
        Ok(())
    }

    /// Notes at each service how its file differs from what is in force, and makes those that are broken known.
    fn mark(&mut self, files: &Definitions) {
        let faults: BTreeMap<&str, String> =
            files.faults.iter().rev().map(|fault| (fault.service.as_str(), fault.to_string())).collect();
        let good: BTreeMap<&str, &Service> = files.services.iter().map(|service| (service.name.as_str(), service)).collect();
        for unit in &mut self.units {
            let name = unit.service.name.as_str();
            unit.broken = None;
            unit.definition = match (good.get(name), faults.get(name)) {
                (Some(&file), _) => (unit.in_sight() != file).then_some(ChangeKind::Changed),
                (None, Some(message)) => {
                    unit.broken = Some(message.clone());
                    Some(ChangeKind::Broken)
                }
                (None, None) => Some(ChangeKind::Removed),
            };
        }
        for (name, message) in faults {
            if !self.units.iter().any(|unit| unit.service.name == name)
                && let Ok(mut unit) = self.unit(Service::unknown(name))
            {
                unit.mark_broken(&message);
                self.units.push(unit);
            }
        }
        self.dirty = true;
        self.link();
    }

    /// How the files differ from what is in force, for services of these names (none: all).
    pub(super) fn differences(&mut self, names: &[String]) -> Result<Vec<Change>> {
        let files = self.home.definitions()?;
        self.mark(&files);
        Ok(self.compare(&files, names))
    }

    fn compare(&self, files: &Definitions, names: &[String]) -> Vec<Change> {
        let asked = |service: &Service| names.is_empty() || names.iter().any(|name| name == "all" || service.answers_to(name));
        let mut out = Vec::new();
        for service in files.services.iter().filter(|service| asked(service)) {
            let unit = self.units.iter().find(|unit| unit.service.name == service.name);
            let (kind, details) = match unit {
                None => (ChangeKind::Added, Vec::new()),
                Some(unit) if unit.removed || unit.service.command.is_empty() => (ChangeKind::Added, Vec::new()),
                Some(unit) if unit.in_sight() == service => continue,
                Some(unit) => (ChangeKind::Changed, changed_keys(unit.in_sight(), service)),
            };
            out.push(Change { service: service.name.clone(), kind, details });
        }
        for unit in self.units.iter().filter(|unit| asked(&unit.service) && !unit.removed) {
            let name = &unit.service.name;
            let faults = files.faults.iter().filter(|fault| fault.service == *name);
            let details: Vec<String> = faults.map(ToString::to_string).collect();
            if unit.definition == Some(ChangeKind::Removed) {
                out.push(Change { service: name.clone(), kind: ChangeKind::Removed, details: Vec::new() });
            } else if !details.is_empty() {
                out.push(Change { service: name.clone(), kind: ChangeKind::Broken, details });
            }
        }
        out
    }

    /// Applies the difference between the files and what is in force.
    pub(super) fn update(&mut self, names: &[String], wait: &mut Wait, now: Instant) -> Result<()> {
        let files = self.home.definitions()?;
        if names.is_empty()
            && let Err(error) = self.configure(now)
        {
            self.note(&format!("{error:#}"));
            wait.problem("supervisor", format!("{error:#}"));
        }
        self.mark(&files);
        let changes = self.compare(&files, names);
        let mut file: BTreeMap<String, Service> =
            files.services.into_iter().map(|service| (service.name.clone(), service)).collect();
        let mut to_start = Vec::new();
        for change in &changes {
            let known = self.units.iter().position(|unit| unit.service.name == change.service);
            match (change.kind, known, file.remove(&change.service)) {
                (ChangeKind::Added, None, Some(service)) => {
                    let enabled = service.enabled;
                    self.units.push(self.unit(service)?);
                    self.keeper.look_again();
                    to_start.extend(enabled.then_some(self.units.len() - 1));
                }
                (ChangeKind::Added | ChangeKind::Changed, Some(at), Some(service)) => {
                    if self.replace(at, service) {
                        wait.add(&self.units, at, Goal::Up);
                    } else if change.kind == ChangeKind::Added && self.units[at].in_sight().enabled {
                        to_start.push(at);
                    }
                }
                (ChangeKind::Removed, Some(at), _) => {
                    self.units[at].removed = true;
                    self.units[at].pending = Some(Next::Rest);
                    wait.add(&self.units, at, Goal::Down);
                }
                _ => {}
            }
            let details = if change.details.is_empty() { String::new() } else { format!(": {}", change.details.join(", ")) };
            let kind = match change.kind {
                ChangeKind::Added => "is new",
                ChangeKind::Changed => "has changed",
                ChangeKind::Removed => "is gone",
                ChangeKind::Broken => "cannot be used",
            };
            self.announce(Some(&change.service), &format!("its definition {kind}{details}"));
        }
        self.link();
        self.remember();
        for at in to_start {
            self.drive(at, Event::Start, now);
            wait.add(&self.units, at, Goal::Up);
        }
        wait.changes = changes;
        Ok(())
    }

    /// Brings a definition into force, at once or when nothing of the old one is left; whether the service is restarted for it.
    fn replace(&mut self, at: usize, service: Service) -> bool {
        let unit = &mut self.units[at];
        unit.removed = false;
        unit.definition = None;
        let was_enabled = unit.service.enabled;
        let to_run = unit.state.wanted() || service.enabled && !was_enabled;
        let runs = unit.state.process().is_some();
        unit.next_service = Some(service);
        if to_run {
            unit.pending = Some(Next::Start);
        }
        if !runs {
            self.put_in_force(at);
        }
        to_run
    }

    /// Brings a definition that has waited for that into force.
    pub(super) fn put_in_force(&mut self, at: usize) {
        if let Some(service) = self.units[at].next_service.take() {
            self.units[at].service = service;
            self.link();
            self.remember();
        }
    }

    /// Forgets services whose files are gone and that have stopped, once nobody waits for them.
    pub(super) fn forget_removed(&mut self) {
        let waited_for = |clients: &[(crate::control::server::Client, super::Doing)], at: usize| {
            clients.iter().any(|(_, doing)| matches!(doing, super::Doing::Waiting(wait) if wait.is_about(at)))
        };
        let goes = |at: usize| {
            let unit = &self.units[at];
            unit.removed && unit.is_stopped() && unit.pending.is_none() && !waited_for(&self.clients, at)
        };
        let going: Vec<bool> = (0..self.units.len()).map(goes).collect();
        if !going.contains(&true) {
            return;
        }
        let mut new_place = Vec::with_capacity(going.len());
        let mut next = 0;
        for &gone in &going {
            new_place.push(next);
            next += usize::from(!gone);
        }
        let mut at = 0;
        self.units.retain(|_| {
            at += 1;
            !going[at - 1]
        });
        for (_, doing) in &mut self.clients {
            if let super::Doing::Waiting(wait) = doing {
                wait.follow(&new_place);
            }
        }
        self.dirty = true;
        self.link();
        self.remember();
    }

    /// What HUP does.
    pub(super) fn update_by_signal(&mut self, now: Instant) {
        self.manager.reloading();
        self.note("SIGHUP: applying changed definitions");
        let mut wait = Wait::default();
        if let Err(error) = self.update(&[], &mut wait, now) {
            self.note(&format!("{error:#}"));
        }
        self.manager.say("READY=1");
    }
}

impl Unit {
    /// The definition that is in force, or will be.
    fn in_sight(&self) -> &Service {
        self.next_service.as_ref().unwrap_or(&self.service)
    }

    fn mark_broken(&mut self, message: &str) {
        self.definition = Some(ChangeKind::Broken);
        // The first fault is enough here; `check` tells all.
        self.broken.get_or_insert_with(|| message.to_owned());
    }
}

/// The keys in which two definitions differ.
fn changed_keys(one: &Service, other: &Service) -> Vec<String> {
    let keys = |service: &Service| match serde_json::to_value(service) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    };
    let (one, other) = (keys(one), keys(other));
    let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}
