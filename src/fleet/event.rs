//! What the fleet is told, and what it asks for.

use crate::worker::{Generation, Incarnation, Slot};

/// A fact. Facts about an incarnation that is unknown or in a state where they do not matter are
/// ignored: they may come late or twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Begin to run.
    Start,
    /// The process was started.
    Spawned {
        incarnation: Incarnation,
        pid: u32,
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
    /// A draining worker has no request in flight.
    Idle {
        incarnation: Incarnation,
    },
    /// The process is gone, and its group with it; `how` is for people.
    Exited {
        incarnation: Incarnation,
        how: String,
    },
    /// [`Action::Cleanup`] is done.
    Cleaned {
        incarnation: Incarnation,
    },
    /// Finish what is open, then stop all.
    Stop,
    /// Kill all now.
    Kill,
    /// A deadline may have come.
    Tick,
}

/// An effect to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process; answered by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn { slot: Slot, incarnation: Incarnation, generation: Generation },
    /// See whether the worker's socket answers, now.
    Probe { incarnation: Incarnation, attempt: u32 },
    /// [`Fleet::seats`](super::Fleet::seats) changed.
    Publish,
    /// Tell the worker over its control channel to finish.
    SendShutdown { incarnation: Incarnation },
    /// Send a signal to the worker's process group.
    Signal { incarnation: Incarnation, signal: i32 },
    /// SIGKILL to the worker's process group.
    KillGroup { incarnation: Incarnation },
    /// Remove the socket and log pipes of a process that is gone; answered by [`Event::Cleaned`].
    Cleanup { incarnation: Incarnation },
    /// Something a person may want to know.
    Note { level: log::Level, text: String },
}
