//! What the supervisor is given at its start.

use super::alarms;
use crate::fleet::policy::Policy;
use crate::pool::Pool;
use crate::process::output;
use crate::process::spec::Spec;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What to run.
pub(crate) struct Setup {
    pub(crate) apps: Vec<AppSpec>,
    /// Absolute. Made if need be, and removed at the end if made.
    pub(crate) runtime_dir: PathBuf,
    /// The proxy's public port, as `server.address()` tells it to apps that asked for any.
    pub(crate) port: u16,
    /// Least keep-alive time-out of the workers' servers: longer than traffic keeps idle connections.
    pub(crate) keep_alive: Duration,
    /// How long a worker lives without the proxy.
    pub(crate) orphan_timeout: Duration,
    /// Where workers' output goes, and in what form.
    pub(crate) logs: output::Policy,
    pub(crate) alarms: alarms::Policy,
    /// There is to be a [guard](crate::process::guard): with what else to remove, outside of the runtime directory.
    /// `None` where this program cannot be started as one.
    pub(crate) guarded: Option<Vec<PathBuf>>,
    /// Stands for standard output.
    pub(crate) output: Option<Box<dyn std::io::Write + Send>>,
}

pub(crate) struct AppSpec {
    /// Unique; letters, digits, `-` and `_`.
    pub(crate) name: Arc<str>,
    pub(crate) spec: Spec,
    pub(crate) policy: Policy,
    /// Gets the workers that traffic may reach.
    pub(crate) pool: Arc<Pool>,
}

/// What every worker is told of the proxy.
pub(super) struct Settings {
    pub(super) port: u16,
    pub(super) keep_alive: Duration,
    pub(super) orphan_timeout: Duration,
    /// The preload script's file; `None` before the supervisor runs, when no worker can be started.
    pub(super) preload: Option<PathBuf>,
}
