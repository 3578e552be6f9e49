//! Values in the quotes of what starts with the machine.

use anyhow::Result;
use minijinja::Value;
use minijinja::value::Serde;
use serde_json::Value as Json;

use crate::install::{context, farewell::shell_quoted};

/// Fills a template in. Filters beside those of the installer: `unit` (bare), `systemd` and `systemd_argument`, `xml`, `sh`.
///
/// # Errors
/// When the template is wrong.
pub fn fill(template: &str, values: &Json) -> Result<String> {
    let mut environment = context::environment();
    environment.add_filter("systemd", |value: &Value| systemd(&value.to_string()));
    // Arguments, unlike programs and paths, are looked through for variables.
    environment.add_filter("systemd_argument", |value: &Value| systemd(&value.to_string()).replace('$', "$$"));
    environment.add_filter("unit", |value: &Value| value.to_string().replace('%', "%%"));
    environment.add_filter("xml", |value: &Value| xml(&value.to_string()));
    environment.add_filter("sh", |value: &Value| shell_quoted(&value.to_string()));
    Ok(environment.render_str(template, Value::from(Serde(values)))?)
}

/// A word of a unit: in quotes, and what begins an escape or a specifier doubled.
fn systemd(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%"))
}

/// Text of an element.
fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
