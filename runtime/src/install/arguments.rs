//! Arguments given again to a data folder that is there.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use super::plan::{network, web};
use crate::cli::Installer;

impl Installer {
    /// As it was given, by the names of the options.
    fn words(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(words)) => words,
            _ => Map::new(),
        }
    }

    /// With the defaults filled in, so that what was left out and what was said count the same.
    fn settled(&self) -> Map<String, Value> {
        let listen = network::listening(self);
        let at = |name: &str| Some(listen[name]);
        let full = Self {
            kind: Some(self.kind()),
            interval: Some(self.interval()),
            retention: Some(self.retention()),
            carbon_listen: at("carbon"),
            carbonapi_listen: at("carbonapi"),
            carbonserver_listen: at("carbonserver"),
            grafana_listen: at("grafana"),
            tls: web::absolute(&self.tls),
            ..self.clone()
        };
        let mut words = full.words();
        words.remove("data");
        words
    }

    /// In words, what differs between an installation and what is asked for now.
    #[must_use]
    pub fn differences(&self, asked: &Self) -> Vec<String> {
        let mut asked = asked.clone();
        // Found out by the installation, and kept since.
        asked.hostname = asked.hostname.or_else(|| self.hostname.clone());
        let (old, new) = (self.settled(), asked.settled());
        let changed = new.iter().filter(|(name, value)| old.get(*name) != Some(value));
        changed.map(|(name, value)| format!("--{name} was {}, and is {}", told(old.get(name)), told(Some(value)))).collect()
    }

    /// The arguments of an installation with those replaced that are given now.
    ///
    /// # Errors
    /// Never for arguments that were read by this program.
    pub fn with(&self, asked: &Self) -> Result<Self> {
        let mut words = self.words();
        let given = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        words.extend(asked.words().into_iter().filter(|(name, value)| name != "data" && given(value)));
        // One of two ways is chosen, and the other one left.
        for (one, other) in [("tls", "behind-proxy"), ("behind-proxy", "tls")] {
            if asked.words().get(one).is_some_and(given) {
                words.remove(other);
            }
        }
        serde_json::from_value(Value::Object(words)).context("cannot put the arguments together")
    }
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
        assert_eq!(installed.differences(&again), Vec::<String>::new());
        let other = Installer { interval: Some(60), retention: Some("60s:1d".to_owned()), ..again };
        assert_eq!(
            installed.differences(&other),
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
        assert_eq!(installed.with(&asked).unwrap(), wanted);
    }
}
