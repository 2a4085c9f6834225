//! The messages of a handoff, as JSON.
//!
//! Some names on the wire are older than those in the code. They stay: another version of the proxy may read them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Message {
    /// The successor introduces itself.
    Hello {
        protocol: u32,
        version: String,
        pid: u32,
        /// What it can do that older versions cannot.
        #[serde(default)]
        capabilities: Vec<String>,
    },
    Welcome {
        version: String,
        pid: u32,
    },
    Refused {
        reason: String,
    },
    /// With the lock, then the listeners' sockets in the order of their names.
    #[serde(rename = "estate")]
    Snapshot {
        #[serde(rename = "estate")]
        snapshot: Value,
        sockets: Vec<String>,
    },
    /// The control socket is the successor's; `pid` again, since it may have become a daemon.
    Bound {
        pid: u32,
    },
    Ready,
    /// All tunnels have been sent.
    Commit {
        #[serde(rename = "parcels")]
        connections: usize,
        output: Value,
        #[serde(rename = "lent")]
        in_use: Value,
    },
    /// What the predecessor still uses of the workers.
    #[serde(rename = "lent")]
    InUse {
        #[serde(rename = "lent")]
        in_use: Value,
    },
    /// With the connection to a process that handed over before and still finishes requests.
    #[serde(rename = "elder")]
    DrainingPredecessor {
        pid: u32,
        #[serde(rename = "lent")]
        in_use: Value,
    },
    Committed,
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

impl Message {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Message::Hello { .. } => "hello",
            Message::Welcome { .. } => "welcome",
            Message::Refused { .. } => "refused",
            Message::Snapshot { .. } => "snapshot",
            Message::Bound { .. } => "bound",
            Message::Ready => "ready",
            Message::Commit { .. } => "commit",
            Message::InUse { .. } => "in use",
            Message::DrainingPredecessor { .. } => "draining predecessor",
            Message::Committed => "committed",
            Message::Unknown => "something unknown",
        }
    }
}
