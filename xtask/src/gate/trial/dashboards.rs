//! The queries of a dashboard, as Grafana would send them to its data source.

use serde_json::Value;
use std::collections::BTreeMap;

/// What Grafana puts in for its own variables: some time span for the one, a number for the others.
const BUILT_IN: [(&str, &str); 5] =
    [("__interval", "10s"), ("__interval_ms", "10000"), ("__rate_interval", "10s"), ("__range", "300s"), ("__range_s", "300")];

/// A dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dashboard {
    /// Its title.
    pub title: String,
    /// The targets of all its panels and the queries of its variables, each once, in their order. Variables are filled in.
    pub targets: Vec<String>,
}

impl Dashboard {
    /// Reads a dashboard's JSON.
    ///
    /// # Errors
    /// In words, when it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let model: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let title = model["title"].as_str().ok_or("it has no title")?.to_owned();
        let variables = variables(&model);
        let mut targets = Vec::new();
        collect(&model["panels"], &mut targets);
        let mut seen = Vec::new();
        for target in targets {
            let target = filled(&target, &variables);
            if !seen.contains(&target) {
                seen.push(target);
            }
        }
        Ok(Self { title, targets: seen })
    }
}

/// The values of its variables by name, as they are when it is opened.
fn variables(model: &Value) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> =
        BUILT_IN.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for variable in model["templating"]["list"].as_array().into_iter().flatten() {
        let Some(name) = variable["name"].as_str() else { continue };
        let current = &variable["current"]["value"];
        let several: Vec<&str> = current.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let value = match (current.as_str().or(several.first().copied()), several.len()) {
            (None | Some("$__all" | ""), _) => variable["allValue"].as_str().unwrap_or("*").to_owned(),
            (Some(_), 2..) => format!("{{{}}}", several.join(",")),
            (Some(value), _) => value.to_owned(),
        };
        variables.insert(name.to_owned(), value);
    }
    variables
}

/// All targets below, those of rows that are folded too.
fn collect(value: &Value, targets: &mut Vec<String>) {
    for panel in value.as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = target["targetFull"].as_str().or_else(|| target["target"].as_str());
            targets.extend(text.filter(|text| !text.is_empty() && target["hide"] != true).map(str::to_owned));
        }
        collect(&panel["panels"], targets);
    }
}

/// A text with `$name`, `${name}`, `${name:form}` and `[[name]]` replaced, the longest names first.
fn filled(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut names: Vec<&String> = variables.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let mut text = text.to_owned();
    for name in names {
        let value = &variables[name];
        while let Some(from) = text.find(&format!("${{{name}:")) {
            let Some(length) = text[from..].find('}') else { break };
            text.replace_range(from..=from + length, value);
        }
        for form in [format!("${{{name}}}"), format!("[[{name}]]"), format!("${name}")] {
            text = text.replace(&form, value);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_all_panels_are_found_with_their_variables_filled_in() {
        let text = r#"{"title": "Machine", "templating": {"list": [
                {"name": "host", "current": {"value": "org.example.a"}}, {"name": "hosts", "current": {"value": ["$__all"]}},
                {"name": "disk", "current": {"value": ["a", "b"]}}, {"name": "span", "current": {}, "allValue": "1min"}]},
            "panels": [
                {"targets": [{"target": "collectd.$host.load"}, {"target": "x", "hide": true}, {"target": ""}]},
                {"type": "row", "panels": [{"targets": [
                    {"target": "sum(collectd.$hosts.[[disk]], '${span}', '$__interval')"}, {"target": "collectd.${host:raw}.load"}]}]}]}"#;
        let dashboard = Dashboard::parse(text).unwrap();
        assert_eq!(dashboard.title, "Machine");
        assert_eq!(dashboard.targets, ["collectd.org.example.a.load", "sum(collectd.*.{a,b}, '1min', '10s')"]);
        assert!(Dashboard::parse("{}").unwrap_err().contains("no title"));
        assert!(Dashboard::parse("{").is_err());
    }
}
