//! One process, and the seat it sits in, as the fleet sees them.

use super::Time;
use super::backoff::{History, after};
use super::event::Load;
use super::policy::Policy;
use crate::worker::{Generation, Incarnation, Slot};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker that hung up may take to come back. One that has tried in vain for some time tries
/// every 2 s; one that is dead is found at once, by a check.
pub(super) const REDIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum State {
    /// No server of it listens yet, or none listens any more. Until the start time-out.
    Starting,
    /// Its socket is known, but did not answer a probe yet, or the app has not said that it is
    /// ready. Until the start time-out.
    Listening,
    /// Takes traffic. The deadline, if any, is when it counts as recovered.
    Ready,
    /// Does not answer; gets no request. Until it does, or is killed.
    Unhealthy,
    /// Keeps its sessions and takes no new one. Until it has none, or a limit.
    Cordoned,
    /// Finishes its requests and takes no new session. Until the drain time-out.
    Draining,
    /// Was asked to end. Until the stop time-out.
    Stopping,
    /// Was sent SIGKILL. Repeated until it is gone, then given up.
    Killing,
    /// Is gone and being cleaned up after.
    Exited,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Listening => "listening",
            State::Ready => "ready",
            State::Unhealthy => "unhealthy",
            State::Cordoned => "cordoned",
            State::Draining => "draining",
            State::Stopping => "stopping",
            State::Killing => "killing",
            State::Exited => "exited",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a process is to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// It sits in it.
    Seated,
    /// It takes the seat over once it has proven itself.
    Successor,
    /// It has left the seat and is on its way out.
    Retired,
}

/// One process in a slot. A field that comes later needs a default: another version may have saved it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(crate) slot: Slot,
    pub(crate) incarnation: Incarnation,
    pub(crate) generation: Generation,
    /// Unknown until the spawn is reported.
    pub(crate) pid: Option<u32>,
    pub(crate) state: State,
    pub(crate) role: Role,
    /// When it came into this state.
    pub(crate) since: Time,
    /// When this state ends if nothing happens.
    pub(crate) deadline: Option<Time>,
    /// Why it is in this state, for people.
    pub(crate) reason: String,
    /// The newest measurement.
    pub(crate) load: Option<Load>,
    /// The rules of its generation.
    #[serde(skip)]
    pub(super) policy: Arc<Policy>,
    pub(super) spawned_at: Time,
    pub(super) connected: bool,
    pub(super) has_path: bool,
    pub(super) app_ready: bool,
    pub(super) probe: Probe,
    pub(super) health: Pulse,
    /// When a successor has proven itself.
    pub(super) proven_at: Option<Time>,
    /// Until when it may keep its sessions, if it is to go.
    pub(super) cordon: Option<Time>,
    /// Gets no new session although it is ready: it alone is busy.
    pub(super) hot: bool,
    pub(super) hot_since: Option<Time>,
    /// Smoothed share of its target that it uses.
    pub(super) busy: f64,
    /// When it became ready first.
    pub(super) ready_at: Option<Time>,
    pub(super) drain: Drain,
    /// Why another is to take its seat.
    pub(super) replace: Option<String>,
    /// Of its limits, around 1.
    pub(super) jitter: f64,
    pub(super) expires: Option<Time>,
    pub(super) warned: bool,
    /// Looks in a row at which it carried nothing.
    pub(super) quiet: u32,
    /// When the stop signal is due: a moment after the shutdown message.
    pub(super) signal_at: Option<Time>,
    /// How often SIGKILL was sent.
    pub(super) kills: u32,
    /// It may not dial in again: its process has given up the user that it was started as.
    #[serde(default)]
    pub(super) mute: bool,
    /// When an external worker that hung up counts as gone.
    #[serde(default)]
    pub(super) leaves_at: Option<Time>,
}

/// Whether the socket answers, while the worker comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probe {
    /// Number of the newest probe; answers to others are ignored.
    pub(super) attempt: u32,
    pub(super) ok: bool,
    /// When to probe again: after a failure, or when no answer came.
    pub(super) next: Option<Time>,
}

/// Whether a worker that was ready is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pulse {
    /// When the heart counts as stopped; `None` while nobody listens for it.
    pub(super) due: Option<Time>,
    pub(super) stopped: bool,
    pub(super) check: u32,
    /// When to check next.
    pub(super) next: Option<Time>,
    /// Bad answers in a row, and good ones.
    pub(super) bad: u32,
    pub(super) good: u32,
    pub(super) failing: bool,
}

impl Pulse {
    pub(super) fn is_sick(&self) -> bool {
        self.stopped || self.failing
    }
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drain {
    /// Its tunnels were asked to close.
    pub(super) asked: bool,
    /// Out of the pool: what comes back is all that still comes.
    pub(super) silent: bool,
    /// Until when it ends its polling sessions, if it was told to.
    #[serde(default)]
    pub(super) until: Option<Time>,
    /// Another took its seat, so it counts against the surge.
    pub(super) replaced: bool,
    /// Another is to take its seat, and cannot come before it is gone.
    #[serde(default)]
    pub(super) makes_room: bool,
}

impl Worker {
    pub(super) fn new(
        slot: Slot,
        incarnation: Incarnation,
        generation: Generation,
        policy: Arc<Policy>,
        now: Time,
    ) -> Worker {
        Worker {
            slot,
            incarnation,
            generation,
            pid: None,
            state: State::Starting,
            role: Role::Seated,
            since: now,
            deadline: Some(after(now, policy.start_timeout)),
            reason: "its process is being started".into(),
            load: None,
            policy,
            spawned_at: now,
            connected: false,
            has_path: false,
            app_ready: false,
            probe: Probe { attempt: 0, ok: false, next: None },
            health: Pulse::default(),
            proven_at: None,
            cordon: None,
            hot: false,
            hot_since: None,
            busy: 0.0,
            ready_at: None,
            drain: Drain::default(),
            replace: None,
            jitter: 1.0,
            expires: None,
            warned: false,
            quiet: 0,
            signal_at: None,
            kills: 0,
            mute: false,
            leaves_at: None,
        }
    }

    /// Whether a process exists or may exist.
    pub(crate) fn is_alive(&self) -> bool {
        self.state != State::Exited
    }

    /// Whether it has a control channel.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether it is to be seen if it has another user by now, and that was not told.
    pub(crate) fn may_renounce(&self) -> bool {
        self.is_up() && (!self.mute || (!self.connected && self.replace.is_none()))
    }

    /// Whether it must go on showing that it lives.
    pub(crate) fn is_heard(&self) -> bool {
        self.health.due.is_some()
    }

    /// When the heart of one without a channel counts as stopped, if it was heard before.
    pub(super) fn redial_limit(&self, now: Time) -> Option<Time> {
        let silence = REDIAL_TIMEOUT.saturating_add(self.policy.health.heartbeat_timeout);
        // Its socket is looked at all the same.
        self.health.due.filter(|_| !self.mute).map(|_| after(now, silence))
    }

    /// Whether it is known where it listens.
    pub(crate) fn listens(&self) -> bool {
        self.has_path
    }

    pub(super) fn is_coming_up(&self) -> bool {
        matches!(self.state, State::Starting | State::Listening)
    }

    /// Was ready, and nobody has asked it to go at once.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Ready | State::Unhealthy | State::Cordoned)
    }

    /// Serves as one of those that the user wants.
    pub(crate) fn serves(&self) -> bool {
        self.state == State::Ready && self.role == Role::Seated
    }

    /// Everything that will fall due.
    pub(super) fn timers(&self) -> impl Iterator<Item = Time> + use<> {
        [
            self.deadline,
            self.signal_at,
            self.probe.next,
            self.health.due,
            self.health.next,
            self.proven_at,
            self.expires,
            self.leaves_at,
        ]
        .into_iter()
        .flatten()
    }
}

/// A slot: outlives the process in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) occupant: Occupant,
    /// Who is to take the occupant's place.
    pub(crate) successor: Option<Incarnation>,
    /// When to try again to replace the occupant.
    pub(super) successor_due: Option<Time>,
    pub(super) successor_failures: u32,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// When it may start although it backs off, if nobody else is there; `None` when its last worker never was ready.
    #[serde(default)]
    pub(super) relief: Option<Time>,
    pub(crate) history: History,
    /// Why the last process in it ended, for people.
    pub(crate) last_exit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Occupant {
    Empty,
    Worker(Incarnation),
    BackingOff {
        until: Time,
    },
    /// In a crash loop; tried again now and then.
    Failed {
        until: Time,
    },
}

impl Seat {
    pub(super) fn new() -> Seat {
        Seat {
            occupant: Occupant::Empty,
            successor: None,
            successor_due: None,
            successor_failures: 0,
            failures: 0,
            relief: None,
            history: History::default(),
            last_exit: None,
        }
    }

    /// When it starts a process again.
    pub(crate) fn due(&self) -> Option<Time> {
        match self.occupant {
            Occupant::BackingOff { until } | Occupant::Failed { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn timers(&self) -> impl Iterator<Item = Time> + use<> {
        self.due().into_iter().chain(self.successor_due)
    }
}
