//! What the templates can say: the values, and the filters that write them into each format's quotes.
//!
//! | name | value |
//! |---|---|
//! | `bundle`, `data` | absolute paths, free of links |
//! | `version`, `type`, `hostname`, `interval`, `retention`, `retention_kb` | as installed; `interval` in seconds |
//! | `host_stem`, `host_leaf` | the name in metrics, cut after its last dot: `example.domain.`, `host` |
//! | `host_glob` | as many `*` as the name has parts, with dots |
//! | `ports.NAME` | numbers |
//! | `listen.NAME` | the address that NAME listens on |
//! | `endpoints.NAME` | that and the port, `0.0.0.0:2003`, `[::]:2003` |
//! | `reach.NAME` | where NAME is reached from this machine, `127.0.0.1:2003` |
//! | `carbon.host`, `carbon.port` | where this machine's collectd sends to |
//! | `figures` | where carbonapi and the supervisor send their own figures, `127.0.0.1:2003`; empty: nowhere |
//! | `backends` | the carbonservers that carbonapi asks, `127.0.0.1:8080` |
//! | `web.NAME` | how browsers reach Grafana, see [`Web`] |
//! | `collectd.program`, `.plugins`, `.types` | the bundle's collectd or the host's |
//! | `services` | the names of the installed services |
//!
//! Files leave out what differs with each version or bundle (`version`, real paths of the bundle): an update would have to change them,
//! and to restart who reads them, for nothing.
//!
//! NAME is one of [`PORTS`](super::plan::network::PORTS). Filters: `toml`, `yaml`, `json`, `ini` (Grafana's), `collectd`. Each
//! gives the value with its quotes, and refuses what its format cannot hold. `string` makes a number a text; the engine's other
//! filters, tests and functions are left out of the program.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize;

/// The values, by name.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Context {
    /// The bundle's folder.
    pub bundle: String,
    /// The data folder.
    pub data: String,
    /// The bundle's version.
    pub version: String,
    /// The type of installation.
    #[serde(rename = "type")]
    pub kind: String,
    /// The machine's name in metrics.
    pub hostname: String,
    /// Its parts but the last, each with its dot.
    pub host_stem: String,
    /// Its last part.
    pub host_leaf: String,
    /// As many stars as it has parts.
    pub host_glob: String,
    /// Seconds between measurements.
    pub interval: u32,
    /// The whisper schema.
    pub retention: String,
    /// The kilobytes that a series takes by it.
    pub retention_kb: u64,
    /// Port numbers.
    pub ports: BTreeMap<&'static str, u16>,
    /// Addresses to listen on.
    pub listen: BTreeMap<&'static str, String>,
    /// Addresses with ports to listen on.
    pub endpoints: BTreeMap<&'static str, String>,
    /// Addresses with ports to connect to.
    pub reach: BTreeMap<&'static str, String>,
    /// Where collectd sends to.
    pub carbon: Carbon,
    /// Where carbonapi and the supervisor send their own figures; empty: nowhere.
    pub figures: String,
    /// The carbonservers that carbonapi asks.
    pub backends: Vec<String>,
    /// How browsers reach Grafana.
    pub web: Web,
    /// Which collectd.
    pub collectd: CollectdPaths,
    /// The installed services' names.
    pub services: Vec<String>,
}

impl Context {
    /// Whether a service is installed.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.services.iter().any(|service| service == name)
    }
}

/// A carbon, or a carbonserver, on some machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Carbon {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Carbon {
    /// Both, as in an address: `example.org:2003`, `[::1]:2003`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// How browsers reach Grafana.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Web {
    /// What it speaks itself: `http` or `https`.
    pub protocol: String,
    /// The address that browsers know, if a web server stands before it.
    pub root: String,
    /// The host of that address.
    pub domain: String,
    /// The path of that address, without the last slash.
    pub folder: String,
    /// Its own address, as reached from this machine: `http://127.0.0.1:3000`.
    pub local: String,
    /// Whether browsers reach it by https.
    pub secure: bool,
    /// The file with its certificate.
    pub certificate: String,
    /// The file with the key to that.
    pub key: String,
}

/// The paths of the collectd that is used.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CollectdPaths {
    /// The program.
    pub program: String,
    /// The folder of plugins.
    pub plugins: String,
    /// `types.db`.
    pub types: String,
}

/// The template engine with our filters; an unknown name in a template is an error.
#[must_use]
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // The last line of a file ends as it does in the template.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_filter("string", text);
    environment.add_filter("toml", quoted);
    environment.add_filter("yaml", quoted);
    environment.add_filter("json", quoted);
    environment.add_filter("ini", ini);
    environment.add_filter("collectd", collectd);
    environment.add_filter("places", places);
    environment
}

fn text(value: &Value) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    Ok(value.to_string())
}

fn refuse(value: &str, format: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("\"{}\" cannot be written in {format}", value.escape_debug()))
}

/// A JSON string, which is a TOML basic string and a YAML double-quoted one as well.
fn quoted(value: &Value) -> Result<String, Error> {
    let value = text(value)?;
    // JSON leaves DEL as it is, and TOML does not take it.
    let quoted = serde_json::to_string(&value).map_err(|_| refuse(&value, "a string"))?;
    Ok(quoted.replace('\u{7f}', "\\u007f"))
}

/// A value of Grafana's ini: in backquotes, inside which nothing has a meaning but a backquote, and the two expansions that
/// Grafana itself applies later.
fn ini(value: &Value) -> Result<String, Error> {
    let value = text(value)?;
    let body = value.strip_prefix("$__file{").and_then(|rest| rest.strip_suffix('}')).unwrap_or(&value);
    let expands = body.contains("%(") || body.contains("${") || body.contains("$__") || (body != value && body.contains('}'));
    if expands || value.contains(['`', '\n', '\r']) {
        return Err(refuse(&value, "Grafana's configuration"));
    }
    Ok(format!("`{value}`"))
}

/// A collectd string: double quotes, a backslash before those and itself.
fn collectd(value: &Value) -> Result<String, Error> {
    let value = text(value)?;
    if value.contains(['\n', '\r']) {
        return Err(refuse(&value, "collectd's configuration"));
    }
    Ok(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Where the panels of a dashboard lie, `[x, y, w, h]` each, by what each says of its `w` and `h`: in lines of 24, one that does not fit in
/// beginning the next line. A `kind` of "row" is a line of its own.
fn places(panels: &Value) -> Result<Value, Error> {
    let number = |panel: &Value, name: &str, other: i64| Ok::<_, Error>(i64::try_from(panel.get_attr(name)?).unwrap_or(other));
    let (mut x, mut y, mut line) = (0, 0, 0);
    let mut out = Vec::new();
    for panel in panels.try_iter()? {
        let row = panel.get_attr("kind")?.as_str() == Some("row");
        let (w, h) = if row { (24, 1) } else { (number(&panel, "w", 12)?, number(&panel, "h", 8)?) };
        if x + w > 24 {
            (x, y, line) = (0, y + line, 0);
        }
        out.push(Value::from(vec![x, y, w, h]));
        x += w;
        line = line.max(h);
    }
    Ok(Value::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_laid_out_in_lines() {
        let template = r#"{{ [{"w": 4, "h": 4}, {"w": 4, "h": 3}, {"kind": "row"}, {}, {"w": 6}, {"w": 8}] | places }}"#;
        let text = environment().render_str(template, ()).unwrap();
        assert_eq!(text, "[[0, 0, 4, 4], [4, 0, 4, 3], [0, 4, 24, 1], [0, 5, 12, 8], [12, 5, 6, 8], [0, 13, 8, 8]]");
    }

    fn filtered(filter: &str, value: &str) -> Result<String, Error> {
        environment().render_str(&format!("{{{{ v | {filter} }}}}"), minijinja::context! { v => value })
    }

    #[test]
    fn hostile_values_stay_values() {
        let hostile = "a \"b\" 'c' \\d #e ;f ü";
        let toml: BTreeMap<String, String> = toml::from_str(&format!("x = {}", filtered("toml", hostile).unwrap())).unwrap();
        assert_eq!(toml["x"], hostile);
        let toml: BTreeMap<String, String> = toml::from_str(&format!("x = {}", filtered("toml", "\u{7f}\n").unwrap())).unwrap();
        assert_eq!(toml["x"], "\u{7f}\n");
        assert_eq!(serde_json::from_str::<String>(&filtered("yaml", hostile).unwrap()).unwrap(), hostile);
        assert_eq!(filtered("ini", hostile).unwrap(), format!("`{hostile}`"));
        assert_eq!(filtered("collectd", hostile).unwrap(), r##""a \"b\" 'c' \\d #e ;f ü""##);
    }

    #[test]
    fn what_a_format_cannot_hold_is_refused() {
        for bad in ["a`b", "a%(b)s", "${HOME}", "$__env{X}", "a\nb", "$__file{/a}b}"] {
            assert!(filtered("ini", bad).is_err(), "{bad} was accepted");
        }
        assert!(filtered("ini", "$__file{/a b/c}").is_ok());
        assert!(filtered("collectd", "a\nb").is_err());
        assert!(environment().render_str("{{ nobody | toml }}", ()).is_err());
    }
}
