//! From command line and YAML to the domain's own types. The only place that knows YAML.

use crate::fleet::policy::Policy;
use crate::pool::affinity::{Affinity, Balance};
use crate::process::spec::Spec;
use pingora_core::server::configuration::ServerConf;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A whole configuration: checked, every default filled in.
#[derive(Debug)]
pub(crate) struct Config {
    /// Pingora's own settings (threads, daemon, pid_file ...).
    pub(crate) server: ServerConf,
    /// At least one.
    pub(crate) listeners: Vec<Listener>,
    /// Absolute; short enough for the socket paths in it.
    pub(crate) runtime_dir: PathBuf,
    /// At least one; names are unique.
    pub(crate) apps: Vec<App>,
    /// Never empty: a single app without routes gets the one that matches everything.
    pub(crate) routes: Vec<Route>,
    pub(crate) limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) spec: Spec,
    pub(crate) policy: Policy,
    pub(crate) affinity: Affinity,
    pub(crate) balance: Balance,
    /// How long a worker may stay silent before it has begun its answer (504 then).
    pub(crate) response_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Lower case, without a port; `*.example.com` matches any one or more labels before it; `None`
    /// matches every host.
    pub(crate) host: Option<String>,
    /// Begins with `/`; matches whole path segments (`/a` matches `/a` and `/a/b`, not `/ab`).
    pub(crate) path: String,
    /// Index into [`Config::apps`].
    pub(crate) app: usize,
}

/// What a client may ask for, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Request line and headers together, in bytes (431 beyond).
    pub(crate) head_bytes: usize,
    /// From a head's first byte to its last (408 then).
    pub(crate) head_timeout: Duration,
    /// Idle time of a client's kept-alive connection.
    pub(crate) keepalive_timeout: Duration,
    /// Request body in bytes (413 beyond); `None` leaves it to the app.
    pub(crate) body_bytes: Option<u64>,
    /// Between two reads of a request body (408 then).
    pub(crate) body_timeout: Duration,
    /// A WebSocket silent both ways for this long is closed.
    pub(crate) tunnel_idle_timeout: Duration,
    /// Open client connections in all; beyond, new ones are closed at once.
    pub(crate) connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes: 16 * 1024,
            head_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(60),
            body_bytes: None,
            body_timeout: Duration::from_secs(60),
            tunnel_idle_timeout: Duration::from_secs(3600),
            connections: 100_000,
        }
    }
}
