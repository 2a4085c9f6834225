//! What the user wants of an app's workers: the policy type that `config` fills.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How many workers, and how patient to be with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Policy {
    /// Workers to run at least, from 1.
    pub(crate) instances: u16,
    /// Workers to run at most; what is less than `instances` counts as `instances`: no scaling.
    pub(crate) max_instances: u16,
    /// From spawn to ready; then the worker is killed and the slot backs off.
    pub(crate) start_timeout: Duration,
    /// Ready only after the app says `process.send('ready')`.
    pub(crate) wait_ready: bool,
    /// How long a new worker must have been ready before the one it replaces is drained.
    pub(crate) min_ready: Duration,
    /// How many processes more than wanted a rollout may have, from 1.
    pub(crate) surge: u16,
    /// From the stop signal to SIGKILL of the process group.
    pub(crate) stop_timeout: Duration,
    /// How long a stopping worker may finish its requests before it gets the stop signal.
    pub(crate) drain_timeout: Duration,
    /// Over what time the WebSockets of a draining worker are closed.
    pub(crate) drain_window: Duration,
    /// Signal number that asks a worker to stop (SIGTERM by default).
    pub(crate) stop_signal: i32,
    /// First and longest pause before a crashed slot starts again; doubles in between, with jitter.
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// A worker that was ready for this long has recovered: its slot's back-off starts over.
    pub(crate) min_uptime: Duration,
    pub(crate) crashes: Crashes,
    pub(crate) health: Health,
    pub(crate) scaling: Scaling,
    pub(crate) limits: Limits,
    /// Workers come and go by themselves, at most `max_instances`: none is started, signalled or killed.
    #[serde(default)]
    pub(crate) external: bool,
}

/// When a slot counts as failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Crashes {
    /// So many ends that nobody asked for ...
    pub(crate) max: u32,
    /// ... within this time are a crash loop.
    pub(crate) window: Duration,
    /// A failed slot is tried again after this.
    pub(crate) retry: Duration,
}

/// When a ready worker counts as unhealthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Health {
    /// Without statistics for so long, a worker with the preload script gets no request.
    pub(crate) heartbeat_timeout: Duration,
    /// An unhealthy worker is killed after this.
    pub(crate) unhealthy_timeout: Duration,
    /// Asks a path of the app; without it, whether the socket takes connections.
    pub(crate) path: Option<String>,
    /// From one answer to the next question.
    pub(crate) interval: Duration,
    /// For one answer.
    pub(crate) timeout: Duration,
    /// Bad answers in a row that make a worker unhealthy, from 1.
    pub(crate) unhealthy_threshold: u32,
    /// Good answers in a row that make it healthy again, from 1.
    pub(crate) healthy_threshold: u32,
    /// Expected status codes, first and last.
    pub(crate) expect: (u16, u16),
}

/// When to run more workers, and when fewer. Matters where `max_instances` is more than `instances`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Scaling {
    /// Event-loop utilization to aim at, in percent; for other workers, the use of one processor.
    pub(crate) target: u8,
    /// Sessions that one worker may have.
    pub(crate) max_sessions: Option<u32>,
    /// Requests in flight that keep a worker without the preload script fully busy.
    pub(crate) max_active: u32,
    /// A request that waited longer than this asks for one more worker.
    pub(crate) queue_wait: Duration,
    /// Load is averaged over this time before workers are added.
    pub(crate) up_window: Duration,
    /// Workers go when nothing needed them for this long.
    pub(crate) down_window: Duration,
    /// What a worker shows within this time after its start says nothing of the load.
    pub(crate) young: Duration,
    /// A worker that is to go may keep its sessions for this long.
    pub(crate) cordon_timeout: Duration,
}

/// When a worker is replaced although it is well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    /// Resident bytes: a warning at 80 %, replaced above, killed at 150 %.
    pub(crate) memory: Option<u64>,
    /// Requests; a tenth more or less, so that workers do not go together.
    pub(crate) requests: Option<u64>,
    /// Time since the start; a tenth more or less.
    pub(crate) lifetime: Option<Duration>,
}

impl Policy {
    pub(crate) fn most(&self) -> u16 {
        self.max_instances.max(self.instances)
    }

    /// The most worker processes at a time: during a rollout, some of two generations.
    pub(crate) fn most_workers(&self) -> usize {
        usize::from(self.most()) + usize::from(self.surge)
    }
}

impl Scaling {
    /// As a share, 0 to 1.
    pub(super) fn aim(&self) -> f64 {
        f64::from(self.target.clamp(1, 100)) / 100.0
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            instances: 1,
            max_instances: 1,
            start_timeout: Duration::from_secs(60),
            wait_ready: false,
            min_ready: Duration::from_secs(1),
            surge: 1,
            stop_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            drain_window: Duration::from_secs(10),
            stop_signal: 15,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            min_uptime: Duration::from_secs(10),
            crashes: Crashes::default(),
            health: Health::default(),
            scaling: Scaling::default(),
            limits: Limits::default(),
            external: false,
        }
    }
}

impl Default for Crashes {
    fn default() -> Self {
        Crashes { max: 5, window: Duration::from_secs(60), retry: Duration::from_secs(60) }
    }
}

impl Default for Health {
    fn default() -> Self {
        Health {
            heartbeat_timeout: Duration::from_secs(3),
            unhealthy_timeout: Duration::from_secs(15),
            path: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            expect: (200, 399),
        }
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Scaling {
            target: 70,
            max_sessions: None,
            max_active: 10,
            queue_wait: Duration::from_millis(200),
            up_window: Duration::from_secs(10),
            down_window: Duration::from_secs(300),
            young: Duration::from_secs(5),
            cordon_timeout: Duration::from_secs(600),
        }
    }
}
