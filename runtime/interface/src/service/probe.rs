//! Questions whose answers tell whether a service is ready, and whether it is still well.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::value::Seconds;

/// One question, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Probe {
    /// The question.
    pub question: Question,
    /// How long one answer may take. Default: 5 s.
    pub timeout: Seconds,
    /// The pause between two tries while the service starts. Default: growing from 10 ms to 200 ms; of a command to 1 s.
    pub period: Option<Seconds>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `HOST:PORT`; passes when a connection is accepted.
    Tcp(String),
    /// `http://HOST:PORT/PATH`; passes when the answer's status is in the range.
    Http {
        /// The address.
        url: String,
        /// What is good.
        status: StatusRange,
    },
    /// A program and its arguments; passes when it ends with status 0.
    Exec(Vec<String>),
    /// The path of a Unix stream socket; passes when a connection is accepted.
    Unix(String),
    /// Passes when the service has printed a line that contains this text.
    Log(String),
    /// Passes when the service says `READY=1` on the socket that it finds in `NOTIFY_SOCKET`, as `sd_notify(3)` has it.
    Notify,
}

impl Question {
    /// Whether the service speaks by itself, and is only listened to.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        matches!(self, Self::Log(_) | Self::Notify)
    }
}

/// HTTP statuses that are good, the last included; written `204` or `200-299`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The first good one.
    pub first: u16,
    /// The last good one.
    pub last: u16,
}

impl Default for StatusRange {
    /// Everything that is no error.
    fn default() -> Self {
        Self { first: 200, last: 399 }
    }
}

impl StatusRange {
    /// Whether a status is good.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }

    fn parse(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if (100..=last).contains(&first) && last <= 599 => Ok(Self { first, last }),
            _ => bail!("\"{text}\" is no HTTP status (204) nor a range of them (200-299)"),
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Looks whether a service that is ready is still well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Health {
    /// What is asked. Of `log` and `notify` (here `WATCHDOG=1`) a sign of life is wanted in every period.
    pub probe: Probe,
    /// From one question to the next.
    #[serde(default = "default_period")]
    pub period_s: Seconds,
    /// So many failures in a row make the service ill.
    #[serde(default = "default_threshold")]
    pub threshold: u32,
    /// What is done then.
    #[serde(default)]
    pub action: HealthAction,
}

fn default_period() -> Seconds {
    Seconds(Duration::from_secs(10))
}

fn default_threshold() -> u32 {
    3
}

/// What is done about a service that is ill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthAction {
    /// It is restarted.
    #[default]
    Restart,
    /// `status` and the events tell it, nothing more.
    Report,
}

const TIMEOUT: Seconds = Seconds(Duration::from_secs(5));

/// The probe as it is written: one key says what is asked, others how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notify: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_s: Option<Seconds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    period_s: Option<Seconds>,
}

impl TryFrom<Written> for Probe {
    type Error = anyhow::Error;

    fn try_from(written: Written) -> Result<Self> {
        let status = written.status.as_deref().map(StatusRange::parse).transpose()?;
        if status.is_some() && written.http.is_none() {
            bail!("`status` belongs to `http`");
        }
        let mut questions = [
            written.tcp.map(Question::Tcp),
            written.http.map(|url| Question::Http { url, status: status.unwrap_or_default() }),
            written.exec.map(Question::Exec),
            written.unix.map(Question::Unix),
            written.log.map(Question::Log),
            written.notify.filter(|&wanted| wanted).map(|_| Question::Notify),
        ]
        .into_iter()
        .flatten();
        let (Some(question), None) = (questions.next(), questions.next()) else {
            bail!("a probe asks one thing: one of tcp, http, exec, unix, log, or notify = true");
        };
        match &question {
            Question::Exec(command) if command.first().is_none_or(String::is_empty) => bail!("`exec` names no program"),
            Question::Log(text) if text.is_empty() || text.contains('\n') => bail!("`log` is a part of one line"),
            question if question.is_heard() && (written.timeout_s.is_some() || written.period_s.is_some()) => {
                bail!("a service that speaks by itself is not asked: `log` and `notify` have no period-s nor timeout-s");
            }
            _ => {}
        }
        if written.timeout_s.is_some_and(|timeout| timeout.0.is_zero()) {
            bail!("a timeout-s of 0 would leave no time for an answer");
        }
        Ok(Self { question, timeout: written.timeout_s.unwrap_or(TIMEOUT), period: written.period_s })
    }
}

impl From<Probe> for Written {
    fn from(probe: Probe) -> Self {
        let mut written =
            Self { timeout_s: (probe.timeout != TIMEOUT).then_some(probe.timeout), period_s: probe.period, ..Self::default() };
        match probe.question {
            Question::Tcp(address) => written.tcp = Some(address),
            Question::Http { url, status } => {
                written.http = Some(url);
                written.status = (status != StatusRange::default()).then(|| status.to_string());
            }
            Question::Exec(command) => written.exec = Some(command),
            Question::Unix(path) => written.unix = Some(path),
            Question::Log(text) => written.log = Some(text),
            Question::Notify => written.notify = Some(true),
        }
        written
    }
}

impl From<Question> for Probe {
    fn from(question: Question) -> Self {
        Self { question, timeout: TIMEOUT, period: None }
    }
}

impl Probe {
    /// Every string that may be a template.
    pub(super) fn strings(&mut self) -> Vec<&mut String> {
        match &mut self.question {
            Question::Tcp(text) | Question::Http { url: text, .. } | Question::Unix(text) | Question::Log(text) => vec![text],
            Question::Exec(command) => command.iter_mut().collect(),
            Question::Notify => Vec::new(),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.question {
            Question::Tcp(address) => write!(f, "tcp {address}"),
            Question::Http { url, .. } => f.write_str(url),
            Question::Exec(command) => f.write_str(&command.join(" ")),
            Question::Unix(path) => write!(f, "the socket {path}"),
            Question::Log(text) => write!(f, "the line \"{}\"", text.escape_debug()),
            Question::Notify => f.write_str("its READY=1"),
        }
    }
}
