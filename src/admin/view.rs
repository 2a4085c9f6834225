//! What `GET /v1/status` answers: a type of its own, so that the API changes only on purpose.
//!
//! A field that is missing counts as its default, so commands and proxies of different versions understand
//! one another.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// Of the proxy.
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Since the workers began to be started.
    pub(crate) uptime_seconds: f64,
    /// The configuration that it runs with, which a reload without another one reads; `null` without a file.
    pub(crate) file: Option<String>,
    pub(crate) apps: Vec<App>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct App {
    pub(crate) name: String,
    /// Workers that take new sessions.
    pub(crate) ready: usize,
    /// Every process, and every slot that waits to start one, by slot.
    pub(crate) workers: Vec<Worker>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Worker {
    pub(crate) slot: u16,
    /// Of the process that serves. `null` before the process was started, and for a slot that waits.
    pub(crate) pid: Option<u32>,
    /// Of the process that was started, if it is another one: npm, a shell.
    pub(crate) launcher_pid: Option<u32>,
    /// That the main server asked for.
    pub(crate) port: Option<u16>,
    /// Of its other servers.
    pub(crate) further_ports: Vec<Port>,
    pub(crate) incarnation: Option<u32>,
    pub(crate) generation: Option<u32>,
    /// `spawned` by the proxy, or `external`: it dialled in by itself. Empty for a slot that waits.
    pub(crate) origin: String,
    pub(crate) state: String,
    /// How long it has been in this state.
    pub(crate) since_seconds: Option<f64>,
    /// Why it is in this state, for people.
    pub(crate) reason: String,
    /// Requests in flight.
    pub(crate) active: u32,
    /// Waiting polls and open tunnels.
    pub(crate) parked: u32,
    /// What only a worker with the preload script tells is `null` for others.
    pub(crate) sessions: Option<u64>,
    pub(crate) sockets: Option<u64>,
    /// Event-loop utilization of the last second, 0 to 1.
    pub(crate) elu: Option<f64>,
    pub(crate) lag_seconds: Option<f64>,
    pub(crate) heap_used_bytes: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) cpu_seconds: Option<f64>,
    /// How often the slot was started again.
    pub(crate) restarts: u64,
    /// How often in a row it failed.
    pub(crate) failures: u32,
    /// When a waiting slot starts again.
    pub(crate) retry_seconds: Option<f64>,
    /// How the process before ended.
    pub(crate) last_exit: Option<String>,
    /// What the process before died of, as its output tells it; of a worker that is not well.
    pub(crate) last_error: Option<String>,
    /// That line and those around it.
    pub(crate) last_error_lines: Vec<String>,
    /// The last lines of stderr, or of stdout if the error is told there, of a worker that is not well.
    pub(crate) last_stderr: Vec<String>,
}

/// A TCP port of a server that is not the main one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Port {
    pub(crate) port: u16,
    /// `listens`, `taken`: by another process, most likely another worker; `off`, as configured; `refused: CODE`.
    pub(crate) state: String,
    /// Where it listens.
    pub(crate) at: Option<u16>,
}
