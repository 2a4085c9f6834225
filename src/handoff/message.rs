//! What the two say to each other, as JSON.

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
    },
    Welcome {
        version: String,
        pid: u32,
    },
    Refused {
        reason: String,
    },
    /// With the lock, then the listeners' sockets in the order of their names.
    Estate {
        estate: Value,
        sockets: Vec<String>,
    },
    /// The control socket is the successor's; `pid` again, since it may have become a daemon.
    Bound {
        pid: u32,
    },
    Ready,
    /// All tunnels have been sent.
    Commit {
        parcels: usize,
        output: Value,
        lent: Value,
    },
    /// What the predecessor still uses of the workers.
    Lent {
        lent: Value,
    },
    /// With the conversation of one that still finishes something, though more than one has taken over since.
    Elder {
        pid: u32,
        lent: Value,
    },
    Committed,
    /// Said by who comes later than this protocol.
    #[serde(other)]
    Unknown,
}

impl Message {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Message::Hello { .. } => "hello",
            Message::Welcome { .. } => "welcome",
            Message::Refused { .. } => "refused",
            Message::Estate { .. } => "estate",
            Message::Bound { .. } => "bound",
            Message::Ready => "ready",
            Message::Commit { .. } => "commit",
            Message::Lent { .. } => "lent",
            Message::Elder { .. } => "elder",
            Message::Committed => "committed",
            Message::Unknown => "something unknown",
        }
    }
}
