//! What the fleet is told, and what it asks for.

use super::policy::Policy;
use crate::worker::{Generation, Incarnation, Slot};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A fact. Facts about an incarnation that is unknown or in a state where they do not matter are
/// ignored: they may come late or twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Begin to run.
    Start,
    /// The process was started.
    Spawned {
        incarnation: Incarnation,
        pid: u32,
    },
    /// A worker that we did not start has dialled in, and was promised this place by
    /// [`Fleet::vacancy`](super::Fleet::vacancy).
    Joined {
        slot: Slot,
        incarnation: Incarnation,
        /// As we see it; `None` when it lives in another PID namespace.
        pid: Option<u32>,
    },
    /// The process could not be started; `why` is for people.
    SpawnFailed {
        incarnation: Incarnation,
        why: String,
    },
    /// The worker opened its control channel.
    Hello {
        incarnation: Incarnation,
    },
    /// The worker has no control channel any more. It may redial.
    HungUp {
        incarnation: Incarnation,
    },
    /// The process of a worker that was started as root has this user now.
    Renounced {
        incarnation: Incarnation,
        user: String,
    },
    /// It is known where the worker's main server listens, or that moved. Not for a repetition.
    Path {
        incarnation: Incarnation,
    },
    /// The main server no longer listens.
    PathClosed {
        incarnation: Incarnation,
    },
    /// The app said `process.send('ready')`.
    AppReady {
        incarnation: Incarnation,
    },
    /// Answers to [`Action::Probe`] with the same `attempt`.
    ProbeOk {
        incarnation: Incarnation,
        attempt: u32,
    },
    ProbeFailed {
        incarnation: Incarnation,
        attempt: u32,
        why: String,
    },
    /// The worker's event loop turns: its statistics came.
    Heartbeat {
        incarnation: Incarnation,
    },
    /// Answers to [`Action::Check`] with the same `attempt`.
    Checked {
        incarnation: Incarnation,
        attempt: u32,
        answer: Result<(), String>,
    },
    /// What a draining worker still carries; told every moment while it drains.
    Carries {
        incarnation: Incarnation,
        carried: Carried,
    },
    /// What a worker did in the last second.
    Measured {
        incarnation: Incarnation,
        load: Load,
    },
    /// Every worker was measured. Once a second.
    Second(Surroundings),
    /// The process is gone, and its group with it; `how` is for people.
    Exited {
        incarnation: Incarnation,
        how: String,
    },
    /// [`Action::Cleanup`] is done.
    Cleaned {
        incarnation: Incarnation,
    },
    /// Replace every worker by one of this generation, which must be newer than all before.
    Roll {
        generation: Generation,
        policy: Box<Policy>,
    },
    /// End this rollout as if it had failed, for a reason that is not its own.
    GiveUp {
        generation: Generation,
        why: String,
    },
    /// Other rules for the workers there are.
    Adopt(Box<Policy>),
    /// So many workers from now on; `None` as the load asks for.
    Scale(Option<u16>),
    /// Finish what is open, then stop all.
    Stop,
    /// Kill all now.
    Kill,
    /// A deadline may have come.
    Tick,
}

/// What a worker carries at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Carried {
    /// Requests in flight.
    pub(crate) active: u32,
    /// Waiting polls and open tunnels.
    pub(crate) parked: u32,
    pub(crate) tunnels: u32,
}

/// What a worker does, for scaling and limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Load {
    /// Event-loop utilization, 0 to 1; `None` for a worker that does not say.
    pub(crate) elu: Option<f64>,
    /// Processors used.
    pub(crate) cpu: Option<f64>,
    /// Resident bytes.
    pub(crate) rss: Option<u64>,
    pub(crate) carried: Carried,
    pub(crate) sessions: u64,
    /// Requests since its start.
    pub(crate) requests: u64,
}

/// What is around the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// The longest wait in the queue in the last second.
    pub(crate) queue_wait: Duration,
    /// Bytes of memory that may still be used; `None` if unknown.
    pub(crate) head_room: Option<u64>,
}

/// What may call for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Alarm {
    CrashLoop,
    FailedRollout,
    /// A worker does not answer any more.
    Hung,
    Memory,
    CannotScale,
    /// One worker is busy while the others are not.
    Skew,
}

/// An effect to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process; answered by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn { slot: Slot, incarnation: Incarnation, generation: Generation },
    /// See whether the worker's socket answers, now.
    Probe { incarnation: Incarnation, attempt: u32 },
    /// See whether the app is well; answered by [`Event::Checked`].
    Check { incarnation: Incarnation, attempt: u32 },
    /// [`Fleet::seats`](super::Fleet::seats) changed.
    Publish,
    /// Close the worker's tunnels, spread over the window, with this WebSocket close code, and have it
    /// end the sessions that poll.
    CloseTunnels { incarnation: Incarnation, code: u16, window: Duration },
    /// Tell the worker over its control channel to finish.
    SendShutdown { incarnation: Incarnation },
    /// Send a signal to the worker's process group.
    Signal { incarnation: Incarnation, signal: i32 },
    /// Note down what can be seen of a worker that hangs: it will be killed.
    Examine { incarnation: Incarnation },
    /// SIGKILL to the worker's process group.
    KillGroup { incarnation: Incarnation },
    /// Remove the socket and log pipes of a process that is gone; answered by [`Event::Cleaned`].
    Cleanup { incarnation: Incarnation },
    /// A rollout has come to its end. In an `Err`, the slot whose worker failed, if one did.
    Rolled { generation: Generation, outcome: Result<String, (Option<Slot>, String)> },
    /// An alarm begins, or ends.
    Alarm { kind: Alarm, slot: Option<Slot>, active: bool, detail: String },
    /// Something a person may want to know.
    Note { level: log::Level, text: String },
}
