//! The bundle's rules (`conf/audit.toml`) about the services' configuration. What a rule may say is explained there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::look::{self, Format, Value, Values};
use super::{Audit, Severity, folder};
use crate::service::matches;

/// The rules of a bundle.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    file: Vec<File>,
}

/// A file and the rules about it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    path: String,
    format: Format,
    #[serde(default)]
    service: String,
    #[serde(default)]
    environment: String,
    #[serde(default)]
    reads: Option<(String, String)>,
    rules: Vec<Rule>,
}

/// What is expected of one key.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Rule {
    key: String,
    absent: String,
    #[serde(default)]
    want: Vec<String>,
    #[serde(default)]
    refuse: Vec<String>,
    #[serde(default)]
    at_least: usize,
    #[serde(default)]
    private_file: bool,
    #[serde(default)]
    unless: Vec<String>,
    severity: Severity,
    what: String,
    mend: String,
}

impl Rules {
    /// Reads the rules of a bundle.
    ///
    /// # Errors
    /// When there are none, or they are not understood.
    pub fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("conf/audit.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
    }

    /// Holds every file that is there against its rules. `environment`: the variables of a service.
    pub fn apply(&self, audit: &mut Audit, root: &Path, environment: impl Fn(&str) -> Vec<(String, String)>) {
        for file in &self.file {
            let path = root.join(&file.path);
            let Ok(bytes) = fs::read(&path) else { continue };
            let Some(values) = String::from_utf8(bytes).ok().and_then(|text| look::values(file.format, &text)) else {
                audit.unsure(&file.path, "it cannot be understood");
                continue;
            };
            audit.looked += 1;
            let overrides: Vec<_> = environment(&file.service)
                .into_iter()
                .filter(|(name, _)| !file.environment.is_empty() && name.starts_with(&file.environment))
                .collect();
            for (name, _) in &overrides {
                // Its value may be a secret.
                let mend = "say it in the file, and remove the variable";
                audit.find(
                    "override",
                    Severity::Warning,
                    &file.path,
                    "an environment variable goes before the file: ",
                    name,
                    mend,
                );
            }
            for rule in &file.rules {
                file.judge(rule, &values, &overrides, root, audit);
            }
        }
    }
}

impl File {
    /// The values that count for a key.
    fn of(&self, key: &str, values: &Values, overrides: &[(String, String)]) -> Vec<Value> {
        let name = format!("{}{key}", self.environment).replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_uppercase();
        let set = overrides.iter().find(|(variable, _)| *variable == name);
        set.map(|(_, value)| vec![Value::Text(value.clone())]).or_else(|| values.get(key).cloned()).unwrap_or_default()
    }

    fn judge(&self, rule: &Rule, values: &Values, overrides: &[(String, String)], root: &Path, audit: &mut Audit) {
        if let Some((key, words)) = rule.unless.split_first() {
            let excuse = |value: &Value| match value {
                Value::Text(text) if words.is_empty() => !text.is_empty(),
                Value::Text(text) => words.iter().any(|word| matches(word.as_bytes(), text.as_bytes())),
                Value::Unclear => false,
            };
            if self.of(key, values, overrides).iter().any(excuse) {
                return;
            }
        }
        let place = format!("{} {}", self.path, rule.key);
        let mut found = self.of(&rule.key, values, overrides);
        if found.is_empty() {
            found.push(Value::Text(rule.absent.clone()));
        }
        for value in found {
            let Value::Text(text) = value else {
                audit.unsure(&place, "its value is written in a way that this does not read");
                continue;
            };
            let Some(text) = self.resolved(text, root, &place, audit) else { continue };
            if rule.private_file && !text.is_empty() {
                folder::private_file(audit, &root.join(&text), &rule.what);
            } else if !rule.private_file && !rule.takes(&text) {
                audit.find("setting", rule.severity, &place, &rule.what, "", &rule.mend);
            }
        }
    }

    /// The value itself, if it stands in a file of its own; that has to be private. None: it cannot be told.
    fn resolved(&self, text: String, root: &Path, place: &str, audit: &mut Audit) -> Option<String> {
        let inside = self.reads.as_ref().and_then(|(before, behind)| text.strip_prefix(before)?.strip_suffix(behind));
        let Some(inside) = inside else { return Some(text) };
        let path: PathBuf = root.join(inside);
        folder::private_file(audit, &path, "a secret can be read by others");
        match fs::read_to_string(&path) {
            Ok(secret) => Some(secret.trim().to_owned()),
            Err(error) => {
                audit.unsure(place, &format!("{}: {error}", path.display()));
                None
            }
        }
    }
}

impl Rule {
    fn takes(&self, text: &str) -> bool {
        if !self.want.is_empty() {
            return self.want.iter().any(|good| good.eq_ignore_ascii_case(text));
        }
        !self.refuse.iter().any(|bad| bad == text) && text.chars().count() >= self.at_least
    }
}
