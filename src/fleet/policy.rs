//! What the user wants of an app's workers: the policy type that `config` fills.

use std::time::Duration;

/// How many workers, and how patient to be with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Workers to run, from 1.
    pub(crate) instances: u16,
    /// From spawn to ready; then the worker is killed and the slot backs off.
    pub(crate) start_timeout: Duration,
    /// Ready only after the app says `process.send('ready')`.
    pub(crate) wait_ready: bool,
    /// From the stop signal to SIGKILL of the process group.
    pub(crate) stop_timeout: Duration,
    /// How long a stopping worker may finish its requests before it gets the stop signal.
    pub(crate) drain_timeout: Duration,
    /// Signal number that asks a worker to stop (SIGTERM by default).
    pub(crate) stop_signal: i32,
    /// First and longest pause before a crashed slot starts again; doubles in between, with jitter.
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// A worker that was ready for this long has recovered: its slot's back-off starts over.
    pub(crate) min_uptime: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            instances: 1,
            start_timeout: Duration::from_secs(60),
            wait_ready: false,
            stop_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            stop_signal: 15,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            min_uptime: Duration::from_secs(10),
        }
    }
}
