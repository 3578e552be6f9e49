//! `conf/installed.json`: what was installed, and how.
//!
//! The record is what an update starts from. It holds the arguments of the installation, so that the next version renders its
//! templates with the same ones, and the hash of every file as it was shipped, so that what the user has changed since is known.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::plan::{Plan, web};
use super::render::Rendered;
use crate::cli::Installer;
use crate::home::{self, Home, RECORD};
use crate::integrity::hex;
use crate::service::InstallType;

/// The number of the format.
const SCHEMA: u32 = 2;

/// What was installed and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// The format's number, 2.
    pub schema: u32,
    /// The bundle's version.
    pub version: String,
    /// The stack it came from; none for the real one.
    #[serde(default)]
    pub stack: Option<String>,
    /// The bundle's folder at the time of the installation, free of links.
    pub bundle: PathBuf,
    /// The type of installation.
    #[serde(rename = "type")]
    pub kind: InstallType,
    /// The machine's name in metrics.
    pub hostname: String,
    /// Seconds between this machine's measurements.
    pub interval: u32,
    /// What storage-schemas.conf began with.
    pub retention: String,
    /// The ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Whether the host's own collectd is used.
    pub system_collectd: bool,
    /// The installer's arguments, for the next version.
    pub arguments: Installer,
    /// The components with their versions.
    pub components: BTreeMap<String, String>,
    /// The rendered files, relative to the data folder, and the SHA-256 of what the version shipped.
    pub files: BTreeMap<String, String>,
}

impl Record {
    /// The record of what a plan makes.
    #[must_use]
    pub fn of(plan: &Plan, files: &BTreeMap<String, Rendered>) -> Self {
        let context = &plan.context;
        let mut arguments = plan.arguments.clone();
        // What would be found out anew has to stay as it was.
        arguments.hostname = Some(context.hostname.clone());
        arguments.data.clone_from(&plan.data);
        arguments.tls = web::absolute(&arguments.tls);
        Self {
            schema: SCHEMA,
            version: context.version.clone(),
            stack: plan.stack.clone(),
            bundle: plan.bundle.clone(),
            kind: plan.kind,
            hostname: context.hostname.clone(),
            interval: context.interval,
            retention: context.retention.clone(),
            ports: context.ports.iter().map(|(&name, &number)| (name.to_owned(), number)).collect(),
            system_collectd: plan.system_collectd,
            arguments,
            components: plan.components.clone(),
            files: files.iter().map(|(path, file)| (path.clone(), hex(&Sha256::digest(&file.content)))).collect(),
        }
    }

    /// Reads the record of a data folder.
    ///
    /// # Errors
    /// When it cannot be read or was written by a newer installer.
    pub fn read(root: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let path = root.join(RECORD);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let head: Head = serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        if head.schema != SCHEMA {
            bail!(
                "cannot use {}: its format is {} and this version knows {SCHEMA}; use the version that made it",
                path.display(),
                head.schema
            );
        }
        serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// The record as it stands in the file.
    ///
    /// # Errors
    /// Never for a record that was made or read here.
    pub fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).context("cannot write the record")
    }

    /// Replaces the record of a data folder that this process has locked.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, root: &Path) -> Result<()> {
        home::write_renamed_alone(&root.join(RECORD), &self.text()?, 0o600)
    }
}

impl Home {
    /// What was installed and how.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn record(&self) -> Result<Record> {
        Record::read(self.root())
    }
}
