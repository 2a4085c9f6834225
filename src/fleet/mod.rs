//! Pure rules of the workers' lifecycle: no clock, no I/O, no randomness of its own.
//!
//! A [`Fleet`] holds what should run of one app and what state each worker is in. Its owner (the
//! supervisor, or a simulation) tells it what happened with [`Fleet::handle`], carries out what
//! [`Fleet::poll_action`] asks until there is no more, and comes back with [`Event::Tick`] at
//! [`Fleet::next_deadline`]. An [`Event`] reports a fact, an [`Action`] asks for an effect; the
//! answer to an effect is again an event, and may be lost: every state ends by a deadline.
//!
//! ```text
//!            Spawn             Path            probe ok, app ready
//!  slot ──────────► starting ───────► listening ───────► ready ──────► draining ─┐
//!   ▲                  │ ▲ server closed  │ ▲─ path moved ──┘│  Stop     │ idle or │
//!   │                  │ └────────────────┼────────────────┘            │ timeout │
//!   │                  ▼ start time-out   ▼                             ▼         │
//!   │               killing ◄───────────────────────────────────────  stopping ◄──┘
//!   │                  │                  stop time-out                 │
//!   └── back-off ◄── exited ◄────────── (an exit in any state) ◄────────┘
//! ```
//!
//! Rooms for what comes: `worker.rs` gets the states unhealthy and cordoned; desired numbers per
//! generation (scaling, rollout) replace `policy.instances` in [`Fleet::fill_slots`]; crash-loop
//! detection goes beside `backoff.rs`.

#![deny(clippy::disallowed_methods)]

mod backoff;
mod event;
pub(crate) mod policy;
mod rules;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod verify;
mod worker;

pub(crate) use event::{Action, Event};
pub(crate) use worker::{Occupant, Seat, State, Worker};

use crate::worker::{Generation, Incarnation, Slot};
use policy::Policy;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Monotonic time since any fixed point, given by the caller.
pub(crate) type Time = Duration;

/// The workers of one app.
pub(crate) struct Fleet {
    app: Arc<str>,
    policy: Policy,
    random: fastrand::Rng,
    next_incarnation: u32,
    generation: Generation,
    goal: Goal,
    slots: BTreeMap<Slot, Seat>,
    /// Every process that is not cleaned up yet, also those that have exited.
    workers: BTreeMap<Incarnation, Worker>,
    actions: VecDeque<Action>,
    now: Time,
}

/// What the fleet is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Goal {
    /// Not started yet.
    Idle,
    Run,
    /// Finish what is open, then stop.
    Stop,
    /// Stop without any patience.
    Kill,
}

impl Fleet {
    /// Nothing runs before [`Event::Start`]. `seed` makes the jitter; incarnations are counted
    /// from `first_incarnation`.
    pub(crate) fn new(app: Arc<str>, policy: Policy, seed: u64, first_incarnation: u32) -> Fleet {
        Fleet {
            app,
            policy,
            random: fastrand::Rng::with_seed(seed),
            next_incarnation: first_incarnation,
            generation: Generation(1),
            goal: Goal::Idle,
            slots: BTreeMap::new(),
            workers: BTreeMap::new(),
            actions: VecDeque::new(),
            now: Time::ZERO,
        }
    }

    /// Takes note of what happened. A `now` before an earlier one counts as the earlier one.
    pub(crate) fn handle(&mut self, event: Event, now: Time) {
        self.now = self.now.max(now);
        self.apply(event);
        self.fire_deadlines();
        self.fill_slots();
        if cfg!(debug_assertions)
            && let Err(broken) = self.verify()
        {
            panic!("fleet {}: {broken}", self.app);
        }
    }

    /// The next effect to carry out.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to come back with [`Event::Tick`] if nothing happens before.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let workers = self.workers.values().flat_map(Worker::timers);
        workers.chain(self.slots.values().filter_map(Seat::due)).min()
    }

    /// Whether a stop is complete: no process, nothing to clean up, nothing to carry out.
    pub(crate) fn is_finished(&self) -> bool {
        self.goal >= Goal::Stop && self.workers.is_empty() && self.actions.is_empty()
    }

    /// The workers that traffic may reach, and whether they take new sessions.
    pub(crate) fn seats(&self) -> impl Iterator<Item = (Incarnation, bool)> + '_ {
        self.workers.values().filter_map(|worker| match worker.state {
            State::Ready => Some((worker.incarnation, true)),
            State::Draining => Some((worker.incarnation, false)),
            _ => None,
        })
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = &Worker> + '_ {
        self.workers.values()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = (Slot, &Seat)> + '_ {
        self.slots.iter().map(|(slot, seat)| (*slot, seat))
    }
}
