//! Arguments given again to a data folder that is there.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use super::plan::{network, schema, web};
use crate::cli::Installer;

/// As they were given, by the names of the options.
fn words(arguments: &Installer) -> Map<String, Value> {
    match serde_json::to_value(arguments) {
        Ok(Value::Object(words)) => words,
        _ => Map::new(),
    }
}

/// With the defaults filled in, so that what was left out and what was said count the same.
fn settled(arguments: &Installer) -> Map<String, Value> {
    let listen = network::listening(arguments);
    let at = |name: &str| Some(listen[name]);
    let full = Installer {
        kind: Some(arguments.kind()),
        interval: Some(arguments.interval()),
        retention: Some(schema(arguments)),
        carbon_listen: at("carbon"),
        carbonapi_listen: at("carbonapi"),
        carbonserver_listen: at("carbonserver"),
        grafana_listen: at("grafana"),
        tls: web::absolute(&arguments.tls),
        ..arguments.clone()
    };
    let mut words = words(&full);
    words.remove("data");
    words
}

/// In words, what differs between an installation and what is asked for now.
#[must_use]
pub fn differences(installed: &Installer, asked: &Installer) -> Vec<String> {
    let mut asked = asked.clone();
    // Found out by the installation, and kept since.
    asked.hostname = asked.hostname.or_else(|| installed.hostname.clone());
    let (old, new) = (settled(installed), settled(&asked));
    let changed = new.iter().filter(|(name, value)| old.get(*name) != Some(value));
    changed.map(|(name, value)| format!("--{name} was {}, and is {}", told(old.get(name)), told(Some(value)))).collect()
}

/// The arguments of an installation with those replaced that are given now.
///
/// # Errors
/// Never for arguments that were read by this program.
pub fn replaced(installed: &Installer, asked: &Installer) -> Result<Installer> {
    let mut all = words(installed);
    let asked = words(asked);
    let given = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    // One of two ways is chosen, and the other one left.
    for (one, other) in [("tls", "behind-proxy"), ("behind-proxy", "tls")] {
        if asked.get(one).is_some_and(given) {
            all.remove(other);
        }
    }
    all.extend(asked.into_iter().filter(|(name, value)| name != "data" && given(value)));
    serde_json::from_value(Value::Object(all)).context("cannot put the arguments together")
}

/// A value as it is typed.
fn told(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => "not given".to_owned(),
        Some(Value::Bool(true)) => "given".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) if list.is_empty() => "not given".to_owned(),
        Some(Value::Array(list)) => list.iter().map(|value| told(Some(value))).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_counts_as_its_default() {
        let installed = Installer { port: Some(1), hostname: Some("found".to_owned()), ..Installer::default() };
        let again = Installer {
            port: Some(1),
            kind: Some(crate::service::InstallType::All),
            interval: Some(10),
            carbon_listen: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            ..Installer::default()
        };
        assert_eq!(differences(&installed, &again), Vec::<String>::new());
        let other = Installer { interval: Some(60), retention: Some("60s:1d".to_owned()), ..again };
        assert_eq!(
            differences(&installed, &other),
            ["--interval was 10, and is 60", "--retention was 10s:6h,60s:7d,600s:1y, and is 60s:1d"]
        );
    }

    #[test]
    fn what_is_given_now_replaces_what_was_given() {
        let installed =
            Installer { port: Some(1), system_collectd: true, tls: vec!["/c".into(), "/k".into()], ..Installer::default() };
        let asked = Installer {
            interval: Some(60),
            behind_proxy: Some("https://x/".to_owned()),
            data: "/x".into(),
            ..Installer::default()
        };
        let wanted = Installer {
            port: Some(1),
            system_collectd: true,
            interval: Some(60),
            behind_proxy: Some("https://x/".to_owned()),
            ..Installer::default()
        };
        assert_eq!(replaced(&installed, &asked).unwrap(), wanted);
    }
}
