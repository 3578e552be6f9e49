//! `run/state.json`: what the supervisor last knew, for whoever comes when it is not there.
//!
//! Written beside and renamed soon after every change, so that it is always whole. `status` reads it when no supervisor runs; a new
//! supervisor finds in it which processes to adopt and which services were meant to run. It is a help and no authority: whether
//! a process lives is asked of its lock and of the system.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::control::{Status, SupervisorStatus};
use crate::home::{Home, write_renamed};

/// The content of `run/state.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Stored {
    /// The format's number, 1.
    pub v: u32,
    /// The start of the machine it belongs to, as [`os::boot_id`](crate::os::boot_id) has it.
    pub boot: String,
    /// Whether the supervisor ended in order, with nothing left running.
    pub closed: bool,
    /// The supervisor.
    pub supervisor: SupervisorStatus,
    /// Every service.
    pub services: Vec<Status>,
}

impl Stored {
    /// What the last supervisor left; nothing when it left nothing that can be understood.
    #[must_use]
    pub fn read(home: &Home) -> Self {
        let bytes = fs::read(path(home)).unwrap_or_default();
        serde_json::from_slice(&bytes).ok().filter(|stored: &Self| stored.v == 1).unwrap_or_default()
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, home: &Home) -> anyhow::Result<()> {
        write_renamed(&path(home), &serde_json::to_vec(self)?, 0o600)
    }

    /// One service, as far as it was left behind in this start of the machine.
    #[must_use]
    pub fn known(&self, name: &str, boot: &str) -> Option<&Status> {
        self.service(name).filter(|_| self.boot == boot && !self.closed)
    }

    /// One service.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Status> {
        self.services.iter().find(|status| status.name == name)
    }
}

fn path(home: &Home) -> std::path::PathBuf {
    home.run().join("state.json")
}
