//! The control protocol between `dkm` and its supervisor.
//!
//! A stream socket `DATA/run/dkm.sock`; one JSON object a line in both directions; one request a connection.
//!
//! ```text
//! → {"v":2,"verb":"start","services":["carbonapi"],"wait":true}
//! ← {"type":"progress","service":{"name":"carbonapi","state":"starting",…}}
//! ← {"type":"done","supervisor":{…},"services":[…],"problems":[]}
//! ```
//!
//! No names mean every service; a name may be an alias, "all", or a pattern with `*` and `?`. With `wait` the answer `done` comes
//! when every named service has arrived where it should or is in trouble ([`State::trouble`](crate::supervise::state::State::trouble)),
//! and `progress` tells of each change on the way; with `timeout-ms` it comes then at the latest, and what is not done is a problem.
//! Without `wait` `done` comes at once. What was asked goes on when the asking client goes away. A request that cannot be understood
//! or met gets `{"type":"error","message":…}`.
//!
//! `events` is answered by one `event` for each change that is remembered, the oldest first, then `done`; with `follow` the
//! stream goes on with what happens, and ends when the client or the supervisor goes. A follower that does not read misses events, and
//! is told how many.
//!
//! **Other versions**: [`VERSION`] has to be the same, but for `upgrade-self` and `shutdown`, whose requests and whose answers
//! `done` and `error` have this form in every version, so that a new program can always replace an old supervisor.
//!
//! **Nobody else gets in**: the folder is 0700 and the socket 0600; the peer's user is checked; a request may have
//! [`MAX_REQUEST`] bytes and take [`REQUEST_TIME`]; a client that does not read its answers is dropped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod client;
pub mod server;

/// The protocol's number. A supervisor refuses requests of another one, and says so.
pub const VERSION: u32 = 2;
/// The longest request, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;
/// How long a client may take to send its request.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);
/// The socket's name in `DATA/run`. It is used from inside that folder, because the path of a socket may only have about 100 bytes.
pub const SOCKET: &str = "dkm.sock";

/// What a client asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What to do.
    pub verb: Verb,
    /// With which services; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// Whether to answer only when it is done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub wait: bool,
    /// Milliseconds after which to answer in any case; none: when it is done, which the services' own times bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Of `signal`: its name, with or without `SIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Of `status`: whether to look at what the processes use ([`Status::usage`]), which takes longer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub usage: bool,
    /// Of `events`: whether to go on with what happens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub follow: bool,
    /// Of `wait`: for what.
    #[serde(default, skip_serializing_if = "is_default")]
    pub until: Until,
    /// Of `upgrade-self`: the program that takes over; none: the one that `DATA/bin/dkm` is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

impl Request {
    /// A request of this version.
    #[must_use]
    pub fn new(verb: Verb, services: &[String]) -> Self {
        Self { v: VERSION, verb, services: services.to_vec(), ..Self::default() }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Tell the states.
    #[default]
    Status,
    /// Make them run, and those that they require.
    Start,
    /// Make them stop, and those that require them.
    Stop,
    /// Stop, then start.
    Restart,
    /// Send `signal` to each one's first process; a problem for each that does not run.
    Signal,
    /// Send each one's first process its reload signal; a problem for each that knows none or does not run. The services have to be named.
    Reload,
    /// Wait for `until` and change nothing; without `timeout-ms` for a minute.
    Wait,
    /// Empty their logs, and remove the rotated ones.
    Clear,
    /// Open the log files anew, because somebody has moved them. No names: the supervisor's own too.
    ReopenLogs,
    /// Tell how the definitions in `conf/services.d` differ from those in force ([`Change`]).
    Reread,
    /// Apply that difference: what changed restarts if it runs, what is gone stops, what is new and enabled starts, and nothing else is
    /// touched.
    Update,
    /// Tell what happened, and with `follow` what happens.
    Events,
    /// Let another program take the supervisor's place, in the same process; no service is touched.
    UpgradeSelf,
    /// Stop every service, then the supervisor.
    Shutdown,
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// None is on its way up or down.
    #[default]
    Settled,
    /// Each is ready.
    Ready,
    /// Each is stopped.
    Stopped,
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Reply {
    /// A service that is waited for has changed.
    Progress {
        /// Its new state.
        service: Status,
    },
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
    /// All there is to say.
    Done {
        /// The supervisor.
        supervisor: SupervisorStatus,
        /// The services asked for.
        #[serde(default)]
        services: Vec<Status>,
        /// What went wrong, one line for each service concerned.
        #[serde(default)]
        problems: Vec<Problem>,
        /// Of `reread` and `update`: how files and definitions in force differ, or did.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<Change>,
    },
    /// The request was not understood or cannot be met.
    Error {
        /// Why.
        message: String,
    },
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// The service; none: the supervisor itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The service's state since then, as [`Status::state`] has it; none: it is in the same one, and `text` says what happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its first process, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// More, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// How many events before this one the follower missed, because it did not read.
    #[serde(skip_serializing_if = "is_default")]
    pub missed: u64,
}

/// How a definition in `conf/services.d` differs from the one in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// The service.
    pub service: String,
    /// What is different.
    pub kind: ChangeKind,
    /// Of `changed`: which keys. Of `broken`: what is wrong, with file, line and column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// The kinds of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// There is a file, and no such service yet.
    Added,
    /// The file says something else.
    Changed,
    /// There is no file any more.
    Removed,
    /// The file cannot be used; what is in force stays.
    Broken,
}

/// Something that went wrong with a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Problem {
    /// The service.
    pub service: String,
    /// What, in words.
    pub message: String,
}

/// The supervisor, as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SupervisorStatus {
    /// Its PID.
    pub pid: i32,
    /// Its version.
    pub version: String,
    /// Since when it runs, in seconds since 1970.
    pub since: u64,
    /// What is wrong with the supervisor itself, in words: it cannot write its files, definitions contradict each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A service, as others see it: in the protocol, in `status --json`, and in `run/state.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// `stopped`, `waiting`, `starting`, `running` (its probes passed), `stopping`, `backing-off`, `exited` (ended by itself, and
    /// is not to be restarted) or `broken` (its definition cannot be used, and it does not run).
    pub state: String,
    /// Its first process, if there is one.
    pub pid: Option<i32>,
    /// Whether it is meant to run.
    pub wanted: bool,
    /// Since when it is in this state, in seconds since 1970.
    pub since: u64,
    /// How often it was restarted because it died, since the last start on request.
    pub restarts: u32,
    /// How often in a row it has failed, good runs aside.
    #[serde(skip_serializing_if = "is_default")]
    pub failures: u32,
    /// Milliseconds until the next try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// What it waits for, or what happened to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether an earlier supervisor started it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// Whether it belongs to "all".
    pub enabled: bool,
    /// Of `exited`: whether it ended badly, with another status than 0 or by a signal.
    #[serde(skip_serializing_if = "is_default")]
    pub failed: bool,
    /// How its health check fails, once it has failed too often in a row; none: it is well, or nobody looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ill: Option<String>,
    /// What it last said of itself (`STATUS=` of `sd_notify(3)`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// How its file differs from the definition in force, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<ChangeKind>,
    /// What its processes use; only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The process's identity beside the PID, as [`os::start_time`](crate::os::start_time) has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_started: Option<u64>,
}

/// What all processes of a service use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Usage {
    /// How many processes there are.
    pub processes: u32,
    /// Processor time of the living ones and of the children that they have seen end, in milliseconds. It falls when one ends that nobody
    /// waited for.
    pub cpu_ms: u64,
    /// Resident memory in bytes, what they share being counted for each.
    pub rss: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_as_documented() {
        let request: Request = serde_json::from_str(r#"{"v":2,"verb":"start","services":["carbonapi"],"wait":true}"#).unwrap();
        assert_eq!(request.verb, Verb::Start);
        assert!(serde_json::from_str::<Request>(r#"{"v":2,"verb":"dance"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"v":2,"verb":"stop","force":true}"#).is_err());
        let reply = Reply::Error { message: "no".into() };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"type":"error","message":"no"}"#);
    }
}
