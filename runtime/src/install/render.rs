//! The content of every file, made in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::context::environment;
use super::farewell;
use super::plan::Plan;
use crate::home;

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// What it holds.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// The folder of the secrets, in the data folder.
pub const SECRETS: &str = "conf/secrets";

/// The supervisor's own configuration, in the bundle.
const SUPERVISOR: &str = "conf/supervisor.toml.j2";

/// Every file of the data folder but the record, by its path there.
///
/// # Errors
/// When a template cannot be read or filled in, with its name and line.
pub fn all(plan: &Plan) -> Result<BTreeMap<String, Rendered>> {
    let environment = environment();
    let values = minijinja::Value::from(minijinja::value::Serde(&plan.context));
    let content = |template: &str| {
        let path = plan.bundle.join(template);
        if !template.ends_with(".j2") {
            return fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
        }
        let text = with_parts(&plan.bundle, &text_of(&path)?)?;
        let filled = environment.render_named_str(template, &text, values.clone());
        Ok(filled.with_context(|| format!("cannot fill in {}", path.display()))?.into_bytes())
    };
    let mut out = BTreeMap::new();
    // A bundle whose supervisor has nothing to configure may go without.
    if plan.bundle.join(SUPERVISOR).is_file() {
        out.insert(home::SUPERVISOR.to_owned(), Rendered { content: content(SUPERVISOR)?, mode: 0o600 });
    }
    for service in &plan.services {
        for file in &service.config {
            let content = content(&file.template)?;
            let mode = file.mode.as_deref().map_or(Ok(0o600), |mode| u32::from_str_radix(mode, 8))?;
            if out.insert(file.to.clone(), Rendered { content, mode }).is_some() {
                bail!("cannot install: two services want to make {}", file.to);
            }
        }
        // What the installer has done with these is done.
        let mut definition = service.clone();
        definition.config.clear();
        definition.folders.clear();
        definition.types.clear();
        let head = "# Made by the installer. Every key is explained in the documentation of services.\n\n";
        let text = toml::to_string(&definition).with_context(|| format!("cannot write the service {}", service.name))?;
        let path = format!("conf/services.d/{}.toml", service.name);
        out.insert(path, Rendered { content: format!("{head}{text}").into_bytes(), mode: 0o600 });
    }
    if let Some(rules) = farewell::firewall(&plan.context) {
        out.insert(farewell::FIREWALL.to_owned(), Rendered { content: rules.into_bytes(), mode: 0o600 });
    }
    Ok(out)
}

/// A template with the files that it includes in their places: `{% include "dashboards/parts/x.j2" %}`, by their paths in the bundle. The
/// template engine could do that too; as text it takes 50 kB less of a program that is meant to be small.
fn with_parts(bundle: &Path, text: &str) -> Result<String> {
    let mut pieces = text.split("{% include \"");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("\" %}").context("an include in a template has no end")?;
        out += &text_of(&bundle.join(name))?;
        out += rest;
    }
    Ok(out)
}

fn text_of(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The secrets, by their paths. They are written without a line end: what reads them does not have to trim.
#[must_use]
pub fn secrets(plan: &Plan) -> Vec<(String, &str)> {
    let named = [("grafana-admin-password", &plan.password), ("grafana-secret-key", &plan.secret_key)];
    named.into_iter().filter_map(|(name, secret)| Some((format!("{SECRETS}/{name}"), secret.as_deref()?))).collect()
}
