//! One process, and the seat it sits in, as the fleet sees them.

use super::Time;
use crate::worker::{Generation, Incarnation, Slot};
use std::fmt;

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// No server of it listens yet, or none listens any more. Until the start time-out.
    Starting,
    /// Its socket is known, but did not answer a probe yet, or the app has not said that it is
    /// ready. Until the start time-out.
    Listening,
    /// Takes traffic. The deadline, if any, is when it counts as recovered.
    Ready,
    /// Finishes its requests and takes no new session. Until the drain time-out.
    Draining,
    /// Was asked to end. Until the stop time-out.
    Stopping,
    /// Was sent SIGKILL. Repeated until it is gone, then given up.
    Killing,
    /// Is gone and being cleaned up after.
    Exited,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Starting => "starting",
            State::Listening => "listening",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Stopping => "stopping",
            State::Killing => "killing",
            State::Exited => "exited",
        })
    }
}

/// One process in a slot.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) slot: Slot,
    pub(crate) incarnation: Incarnation,
    pub(crate) generation: Generation,
    /// Unknown until the spawn is reported.
    pub(crate) pid: Option<u32>,
    pub(crate) state: State,
    /// When it came into this state.
    pub(crate) since: Time,
    /// When this state ends if nothing happens.
    pub(crate) deadline: Option<Time>,
    /// Why it is in this state, for people.
    pub(crate) reason: String,
    pub(super) spawned_at: Time,
    pub(super) connected: bool,
    pub(super) has_path: bool,
    pub(super) app_ready: bool,
    pub(super) probe: Probe,
    /// When the stop signal is due: a moment after the shutdown message.
    pub(super) signal_at: Option<Time>,
    /// How often SIGKILL was sent.
    pub(super) kills: u32,
    pub(super) after: After,
}

/// What becomes of the slot when the process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It backs off and starts another.
    Restart,
    /// It stays empty.
    Vacate,
}

/// Whether the socket answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// Number of the newest probe; answers to others are ignored.
    pub(super) attempt: u32,
    pub(super) ok: bool,
    /// When to probe again: after a failure, or when no answer came.
    pub(super) next: Option<Time>,
}

impl Worker {
    pub(super) fn new(slot: Slot, incarnation: Incarnation, generation: Generation, now: Time) -> Worker {
        Worker {
            slot,
            incarnation,
            generation,
            pid: None,
            state: State::Starting,
            since: now,
            deadline: None,
            reason: "its process is being started".into(),
            spawned_at: now,
            connected: false,
            has_path: false,
            app_ready: false,
            probe: Probe { attempt: 0, ok: false, next: None },
            signal_at: None,
            kills: 0,
            after: After::Restart,
        }
    }

    /// Whether a process exists or may exist.
    pub(crate) fn is_alive(&self) -> bool {
        self.state != State::Exited
    }

    pub(super) fn is_coming_up(&self) -> bool {
        matches!(self.state, State::Starting | State::Listening)
    }

    /// Everything that will fall due.
    pub(super) fn timers(&self) -> impl Iterator<Item = Time> + use<> {
        [self.deadline, self.signal_at, self.probe.next].into_iter().flatten()
    }
}

/// A slot: outlives the process in it.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) occupant: Occupant,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Why the last process in it ended, for people.
    pub(crate) last_exit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occupant {
    Empty,
    Worker(Incarnation),
    BackingOff { until: Time },
}

impl Seat {
    pub(super) const EMPTY: Seat = Seat { occupant: Occupant::Empty, failures: 0, last_exit: None };

    pub(super) fn due(&self) -> Option<Time> {
        match self.occupant {
            Occupant::BackingOff { until } => Some(until),
            _ => None,
        }
    }
}
