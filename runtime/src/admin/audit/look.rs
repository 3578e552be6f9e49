//! A small look into configuration: which keys have which values. No more is understood than is sure: a value that is written in a way
//! which this does not read is [`Value::Unclear`], and the audit says so.
//!
//! Keys are paths with slashes: `security/admin_password` in an ini, `upstreams/timeouts/render` in YAML and TOML. Lists give a key
//! several values.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// As Grafana reads it.
    Ini,
    /// TOML, all of it.
    Toml,
    /// YAML's mappings and lists in blocks, with plain and quoted values.
    Yaml,
}

/// A value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// It is this.
    Text(String),
    /// It is there, and cannot be told.
    Unclear,
}

/// The values of all keys.
pub type Values = BTreeMap<String, Vec<Value>>;

/// Reads a file's text. None: it is not of that format at all.
#[must_use]
pub fn values(format: Format, text: &str) -> Option<Values> {
    let mut out = Values::new();
    match format {
        Format::Ini => ini(text, &mut out),
        Format::Toml => flatten("", &text.parse::<toml::Table>().ok()?.into(), &mut out),
        Format::Yaml => yaml(text, &mut out),
    }
    Some(out)
}

fn joined(above: &str, key: &str) -> String {
    if above.is_empty() { key.to_owned() } else { format!("{above}/{key}") }
}

fn flatten(path: &str, value: &toml::Value, out: &mut Values) {
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| flatten(&joined(path, key), value, out)),
        toml::Value::Array(list) => list.iter().for_each(|value| flatten(path, value, out)),
        toml::Value::String(text) => out.entry(path.to_owned()).or_default().push(Value::Text(text.clone())),
        other => out.entry(path.to_owned()).or_default().push(Value::Text(other.to_string())),
    }
}

/// Comments begin with `#` or `;`, behind a value too, unless that is in quotes; the last of two equal keys counts.
fn ini(text: &str, out: &mut Values) {
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name.trim();
            continue;
        }
        let Some((key, value)) = line.split_once(['=', ':']) else { continue };
        let value = value.trim();
        let quoted = ['`', '"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.split_once(quote));
        let value = match quoted {
            // Three quotes begin a text of several lines.
            Some(("", rest)) if rest.starts_with(['"', '`']) => Value::Unclear,
            Some((inside, _)) => Value::Text(inside.to_owned()),
            None if value.ends_with('\\') => Value::Unclear,
            None => Value::Text(value.split(['#', ';']).next().unwrap_or("").trim().to_owned()),
        };
        out.insert(joined(section, key.trim()), vec![value]);
    }
}

fn yaml(text: &str, out: &mut Values) {
    // The keys that we are below, with their indentations.
    let mut above: Vec<(usize, &str)> = Vec::new();
    // The key of a text of several lines, which is indented more than that.
    let mut passing: Option<usize> = None;
    for line in text.lines() {
        let mut rest = line.trim_start();
        let mut indent = line.len() - rest.len();
        if rest.is_empty() || rest.starts_with('#') || passing.is_some_and(|key| indent > key) {
            continue;
        }
        passing = None;
        let mut in_list = false;
        while let Some(item) = rest.strip_prefix('-').filter(|item| item.is_empty() || item.starts_with(' ')) {
            // A list may be indented as much as its key.
            above.retain(|(at, _)| *at <= indent);
            let inside = item.trim_start();
            indent += rest.len() - inside.len();
            (rest, in_list) = (inside, true);
        }
        above.retain(|(at, _)| *at < indent || in_list);
        let (key, value) = match split(rest) {
            Some((key, value)) => (Some(key), value),
            None => (None, rest),
        };
        above.extend(key.map(|key| (indent, key)));
        let value = match scalar(value) {
            Scalar::Nothing => continue,
            Scalar::Text(text) => Value::Text(text),
            Scalar::Unclear => Value::Unclear,
        };
        if value == Value::Unclear {
            passing = Some(indent);
        }
        if key.is_some() || in_list {
            let path = above.iter().map(|(_, key)| *key).collect::<Vec<_>>().join("/");
            out.entry(path).or_default().push(value);
        }
    }
}

/// A key and what is behind its colon.
fn split(line: &str) -> Option<(&str, &str)> {
    let quoted = ['"', '\''].into_iter().find_map(|quote| line.strip_prefix(quote)?.split_once(quote));
    if let Some((key, rest)) = quoted {
        return Some((key, rest.trim_start().strip_prefix(':')?));
    }
    let colon = line.find(": ").or_else(|| line.strip_suffix(':').map(str::len))?;
    Some((&line[..colon], &line[colon + 1..]))
}

enum Scalar {
    Nothing,
    Text(String),
    Unclear,
}

fn scalar(text: &str) -> Scalar {
    let text = text.trim();
    for quote in ['"', '\''] {
        let Some(rest) = text.strip_prefix(quote) else { continue };
        // With escapes, doubled quotes or a second line it takes more than a look.
        return match rest.split_once(quote) {
            Some((inside, behind)) if !inside.contains('\\') && !behind.starts_with(quote) => Scalar::Text(inside.to_owned()),
            _ => Scalar::Unclear,
        };
    }
    let text = if text.starts_with('#') { "" } else { text.split(" #").next().unwrap_or("").trim_end() };
    match text.chars().next() {
        None => Scalar::Nothing,
        Some('{' | '[' | '&' | '*' | '|' | '>' | '!') => Scalar::Unclear,
        Some(_) => Scalar::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(values: &Values, key: &str) -> Vec<String> {
        let shown = |value: &Value| match value {
            Value::Text(text) => text.clone(),
            Value::Unclear => "?".to_owned(),
        };
        values.get(key).map_or_else(|| vec!["-".to_owned()], |values| values.iter().map(shown).collect())
    }

    #[test]
    fn an_ini_s_comments_quotes_and_sections() {
        let text = "top = 1\n[a]\n;enabled = 1\n# enabled = 2\nenabled = false ; not true\n [b.c]\nx = `1 # 2 ; 3`\ny = \"\"\"two\n\
                    z='q'\nz = last\nempty =\n[a]\nmore: yes\nlong = a\\\n";
        let values = values(Format::Ini, text).unwrap();
        for (key, wanted) in [
            ("top", "1"),
            ("a/enabled", "false"),
            ("b.c/x", "1 # 2 ; 3"),
            ("b.c/y", "?"),
            ("b.c/z", "last"),
            ("b.c/empty", ""),
            ("a/more", "yes"),
            ("a/long", "?"),
            ("a/none", "-"),
        ] {
            assert_eq!(one(&values, key), [wanted], "{key}");
        }
    }

    #[test]
    fn yaml_s_blocks_lists_and_what_is_unclear() {
        let text = "---\nlisteners:\n- address: \"0.0.0.0:1\" # all\n  name: a\n- address: '[::1]:2'\nexpvar:\n  # enabled: true\n  enabled: false # yes\n  \
                    listen: \"\"\n  more:\n    deep: 1s\n  \"quoted key\": x y\nflow: {enabled: true}\ntext: |\n  enabled: true\n  x\n\
                    up:\n  list:\n    - \"a: b\"\n    - c#d\n  escaped: \"a\\nb\"\nurl: http://x:1/#y\nnothing:\n";
        let values = values(Format::Yaml, text).unwrap();
        for (key, wanted) in [
            ("listeners/address", &["0.0.0.0:1", "[::1]:2"][..]),
            ("listeners/name", &["a"]),
            ("expvar/enabled", &["false"]),
            ("expvar/listen", &[""]),
            ("expvar/more/deep", &["1s"]),
            ("expvar/quoted key", &["x y"]),
            ("flow", &["?"]),
            ("text", &["?"]),
            ("text/enabled", &["-"]),
            ("up/list", &["a: b", "c#d"]),
            ("up/escaped", &["?"]),
            ("url", &["http://x:1/#y"]),
            ("nothing", &["-"]),
        ] {
            assert_eq!(one(&values, key), wanted, "{key}");
        }
    }

    #[test]
    fn toml_is_read_whole_or_not_at_all() {
        let values_of = |text| values(Format::Toml, text);
        let values = values_of("[a]\nb = false # true\nc = \"x\"\n[[d]]\ne = 1\n[[d]]\ne = 2\n").unwrap();
        assert_eq!((one(&values, "a/b"), one(&values, "a/c")), (vec!["false".to_owned()], vec!["x".to_owned()]));
        assert_eq!(one(&values, "d/e"), ["1", "2"]);
        assert!(values_of("[a\n").is_none());
    }
}
