//! The lines of the protocol (docs/protocol.md), version 1.

use crate::process::spec::PortUse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const PROTOCOL: u32 = 1;

/// Bytes of a line, without its end.
pub(super) const LONGEST_LINE: usize = 1024 * 1024;
/// The same for the first one: nobody has proven anything before it.
pub(super) const LONGEST_HELLO: usize = 16 * 1024;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum WorkerSays {
    Hello(Hello),
    Join(Joining),
    Path {
        path: String,
        #[serde(default)]
        port: Option<u16>,
        #[serde(default)]
        main: bool,
        #[serde(default)]
        why: Why,
    },
    /// What becomes of a port that is not the main server's.
    Port {
        port: u16,
        #[serde(default)]
        at: Option<u16>,
        state: String,
    },
    Closed {
        path: String,
    },
    Ready,
    Message {
        #[serde(default)]
        data: serde_json::Value,
    },
    Stats(Stats),
    Engine {
        paths: Vec<String>,
        #[serde(default)]
        sessions: Option<u64>,
    },
    #[serde(other)]
    Unknown,
}

/// What makes a server the main one, the weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Why {
    /// It is on any port, and there is no other.
    Only,
    #[default]
    First,
    /// Its port, or its path, was named to it.
    Port,
}

/// Where a server is that is not the main one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PortState {
    /// On TCP, on this port.
    Tcp { at: u16 },
    /// Another process has the port; it is tried for again and again.
    Taken,
    /// On no TCP port, as the configuration says.
    Off,
    /// The system refuses the port; the code of the error.
    Refused(String),
}

impl PortState {
    pub(super) fn parse(state: &str, at: Option<u16>, port: u16) -> PortState {
        const LONGEST: usize = 40;
        match state {
            "tcp" => PortState::Tcp { at: at.unwrap_or(port) },
            "taken" => PortState::Taken,
            "off" => PortState::Off,
            other => PortState::Refused(other.chars().filter(char::is_ascii_graphic).take(LONGEST).collect()),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) app: String,
    pub(super) slot: u16,
    pub(super) incarnation: u32,
    pub(super) token: String,
    pub(super) pid: u32,
    /// Of a process's `worker_threads`; 0 is the main thread.
    #[serde(default)]
    pub(super) thread: u32,
    #[serde(default)]
    pub(super) node: Option<String>,
    /// The main server's port that it was told, 0 if none; `None` if it knows nothing of that.
    #[serde(default)]
    pub(super) settled: Option<u16>,
}

/// The hello of a worker that we did not start.
#[derive(Debug, Deserialize)]
pub(super) struct Joining {
    pub(super) protocol: u32,
    pub(super) id: String,
    pub(super) socket: String,
    #[serde(default)]
    pub(super) tag: Option<String>,
    pub(super) pid: u32,
    /// Of a process's `worker_threads`; 0 is the main thread.
    #[serde(default)]
    pub(super) thread: u32,
    #[serde(default)]
    pub(super) node: Option<String>,
    #[serde(default)]
    pub(super) settled: Option<u16>,
}

/// What a worker measures of itself, every second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stats {
    /// Event-loop utilization, 0 to 1.
    pub(crate) elu: f64,
    pub(crate) lag_ms: f64,
    /// Bytes.
    pub(crate) rss: u64,
    pub(crate) heap_used: u64,
    pub(crate) sockets: u64,
    pub(crate) sessions: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ProxySays {
    Welcome {
        /// Of one that joined.
        #[serde(skip_serializing_if = "Option::is_none")]
        worker: Option<Place>,
    },
    Refused {
        reason: String,
    },
    #[cfg_attr(not(test), allow(dead_code))] // part of the protocol
    Message {
        data: serde_json::Value,
    },
    /// On which port other workers of the app have their main server: this one, too, if it has a server there.
    Settled {
        port: u16,
    },
    /// Requests still come, but no session may stay: those that poll are to end.
    Drain {
        window_ms: u64,
    },
    Shutdown,
}

impl ProxySays {
    pub(super) fn to_line(&self) -> Option<Vec<u8>> {
        let mut line = serde_json::to_vec(self).ok()?;
        (line.len() <= LONGEST_LINE).then(|| {
            line.push(b'\n');
            line
        })
    }
}

/// What a worker is told of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Place {
    pub(crate) app: String,
    pub(crate) slot: u16,
    pub(crate) incarnation: u32,
    pub(crate) tag: String,
    /// The proxy's public one.
    pub(crate) port: u16,
    pub(crate) wait_ready: bool,
    pub(crate) keep_alive_ms: u64,
    pub(crate) main_port: Option<u16>,
    pub(crate) settled_port: Option<u16>,
    pub(crate) ports: BTreeMap<u16, PortUse>,
}
