//! The control protocol between `dkm` and its supervisor.
//!
//! A stream socket `DATA/run/dkm.sock`; one JSON object a line in both directions; one request a connection.
//!
//! ```text
//! → {"v":1,"verb":"start","services":["carbonapi"],"wait":true}
//! ← {"type":"progress","service":{"name":"carbonapi","state":"starting",…}}
//! ← {"type":"done","supervisor":{…},"services":[…],"problems":[]}
//! ```
//!
//! Verbs are `status`, `start`, `stop`, `restart` and `shutdown`. No names mean every service. With `wait` the answer `done` comes
//! when every named service has arrived where it should or is in trouble ([`State::trouble`](crate::supervise::state::State::trouble)),
//! and `progress` tells of each change on the way; without it `done` comes at once. A request that cannot be understood gets
//! `{"type":"error","message":…}`. What was asked goes on when the asking client goes away.
//!
//! **Nobody else gets in**: the folder is 0700 and the socket 0600; the peer's user is checked; a request may have
//! [`MAX_REQUEST`] bytes and take [`REQUEST_TIME`]; a client that does not read its answers is dropped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod client;
pub mod server;

/// The protocol's number. A supervisor refuses requests of another one, and says so.
pub const VERSION: u32 = 1;
/// The longest request, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;
/// How long a client may take to send its request.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);
/// The socket's name in `DATA/run`. It is used from inside that folder, because the path of a socket may only have about 100 bytes.
pub const SOCKET: &str = "dkm.sock";

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What to do.
    pub verb: Verb,
    /// With which services; none: all.
    #[serde(default)]
    pub services: Vec<String>,
    /// Whether to answer only when it is done.
    #[serde(default)]
    pub wait: bool,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Tell the states.
    Status,
    /// Make them run.
    Start,
    /// Make them stop.
    Stop,
    /// Stop, then start.
    Restart,
    /// Stop every service, then the supervisor.
    Shutdown,
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
    /// All there is to say.
    Done {
        /// The supervisor.
        supervisor: SupervisorStatus,
        /// The services asked for.
        services: Vec<Status>,
        /// What went wrong, one line for each service concerned.
        problems: Vec<Problem>,
    },
    /// The request was not understood or cannot be met.
    Error {
        /// Why.
        message: String,
    },
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
}

/// A service, as others see it: in the protocol, in `status --json`, and in `run/state.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// `stopped`, `waiting`, `starting`, `running` (its probes passed), `stopping` or `backing-off`.
    pub state: String,
    /// Its first process, if there is one.
    pub pid: Option<i32>,
    /// Whether it is meant to run.
    pub wanted: bool,
    /// Since when it is in this state, in seconds since 1970.
    pub since: u64,
    /// How often it was restarted because it died, since the last start on request.
    pub restarts: u32,
    /// Milliseconds until the next try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// What it waits for, or what happened to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether an earlier supervisor started it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The process's identity beside the PID, as [`os::start_time`](crate::os::start_time) has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_started: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_as_documented() {
        let request: Request = serde_json::from_str(r#"{"v":1,"verb":"start","services":["carbonapi"],"wait":true}"#).unwrap();
        assert_eq!(request.verb, Verb::Start);
        assert!(serde_json::from_str::<Request>(r#"{"v":1,"verb":"dance"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"v":1,"verb":"stop","force":true}"#).is_err());
        let reply = Reply::Error { message: "no".into() };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"type":"error","message":"no"}"#);
    }
}
