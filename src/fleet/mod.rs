//! Pure rules of the workers' lifecycle: no clock, no I/O, no randomness of its own.
//!
//! A [`Fleet`] holds what should run of one app and what state each worker is in. Its owner (the
//! supervisor, or a simulation) tells it what happened with [`Fleet::handle`], carries out what
//! [`Fleet::poll_action`] asks until there is no more, and comes back with [`Event::Tick`] at
//! [`Fleet::next_deadline`]. An [`Event`] reports a fact, an [`Action`] asks for an effect; the
//! answer to an effect is again an event, and may be lost: every state ends by a deadline.
//!
//! ```text
//!            Spawn             Path           probe ok, app ready   fewer wanted
//!  slot ──────────► starting ───────► listening ─────► ready ───────────► cordoned
//!   ▲                  │ ▲ server closed  │ ▲─ moved ──┘│ ▲ ◄──────────────┘ │ empty,
//!   │                  │ └────────────────┼────────────┤ │  more wanted       │ or a limit
//!   │                  ▼ start time-out   ▼            │ ▼ answers again      ▼
//!   │               killing ◄── limit ── unhealthy ◄───┘          Stop, replaced: draining
//!   │                  │ ▲                                                    │ idle, or time-out
//!   │                  │ └──────── stop time-out ──────── stopping ◄──────────┘
//!   └── back-off ◄── exited ◄────────── (an exit in any state)
//!       or failed
//! ```
//!
//! A worker is *seated* in its slot, is the *successor* of the one that is (it comes up in the same
//! slot, gets no traffic, and takes the seat when it has been ready for `min_ready`), or has
//! *retired* (it drains and ends). A rollout, and a worker that has reached a limit, replace through
//! successors, so no step of our own takes a worker away before another stands in its place, unless `surge` is 0.
//!
//! | file | rules of |
//! |---|---|
//! | `start.rs` | coming up: spawn, path, probe, ready |
//! | `end.rs` | drain, stop, kill, exit, back-off, crash loops |
//! | `external.rs` | workers that others start |
//! | `relief.rs` | nobody is ready: a slot starts although it backs off |
//! | `health.rs` | heartbeat and checks |
//! | `rollout.rs` | generations, successors, replacement |
//! | `in_place.rs` | replacement without surge: the old one goes first |
//! | `scaling.rs`, `size.rs` | how many workers; which one goes |
//! | `limits.rs` | memory, requests, lifetime |
//! | `saved.rs` | written down, and taken up again by another process |
//! | `verify.rs` | what holds after every step |

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod backoff;
mod end;
mod event;
mod external;
mod health;
mod in_place;
mod limits;
pub(crate) mod policy;
mod relief;
mod rollout;
mod rules;
mod saved;
mod scaling;
#[cfg(test)]
mod simulation;
mod size;
mod start;
#[cfg(test)]
mod tests;
mod verify;
mod worker;

pub(crate) use event::{Action, Alarm, Carried, Event, Load, Surroundings};
pub(crate) use saved::Saved;
pub(crate) use worker::{Occupant, Role, Seat, State, Worker};

use crate::worker::{Generation, Incarnation, Slot};
use policy::Policy;
use rollout::Rollout;
use scaling::Scaler;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Monotonic time since any fixed point, given by the caller.
pub(crate) type Time = Duration;

/// The workers of one app.
pub(crate) struct Fleet {
    app: Arc<str>,
    /// Of every generation that may still have workers.
    policies: BTreeMap<Generation, Arc<Policy>>,
    random: fastrand::Rng,
    next_incarnation: u32,
    /// The one that is known to work; a crashed worker starts from it.
    generation: Generation,
    rollout: Option<Rollout>,
    goal: Goal,
    /// Seats that are to take new sessions.
    desired: u16,
    /// What a person asked for instead of what the load asks for.
    manual: Option<u16>,
    scaler: Scaler,
    /// Workers in a row that ended soon after they had become ready.
    hasty: u32,
    slots: BTreeMap<Slot, Seat>,
    /// Every process that is not cleaned up yet, also those that have exited.
    workers: BTreeMap<Incarnation, Worker>,
    actions: VecDeque<Action>,
    published: Vec<(Incarnation, bool)>,
    /// To publish although the seats are the same.
    moved: bool,
    now: Time,
    /// A rule to break on purpose, to see that it is noticed.
    #[cfg(test)]
    planted: simulation::Bug,
}

/// What the fleet is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, serde::Serialize, serde::Deserialize)]
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
        let generation = Generation(1);
        Fleet {
            app,
            desired: policy.instances,
            policies: BTreeMap::from([(generation, Arc::new(policy))]),
            random: fastrand::Rng::with_seed(seed),
            next_incarnation: first_incarnation,
            generation,
            rollout: None,
            goal: Goal::Idle,
            manual: None,
            scaler: Scaler::default(),
            hasty: 0,
            slots: BTreeMap::new(),
            workers: BTreeMap::new(),
            actions: VecDeque::new(),
            published: Vec::new(),
            moved: false,
            now: Time::ZERO,
            #[cfg(test)]
            planted: simulation::Bug::None,
        }
    }

    /// Takes note of what happened. A `now` before an earlier one counts as the earlier one.
    pub(crate) fn handle(&mut self, event: Event, now: Time) {
        let first = self.actions.len();
        self.forgive(now);
        self.now = self.now.max(now);
        self.apply(event);
        self.fire_deadlines();
        if self.goal == Goal::Run && !self.is_external() {
            self.advance_rollout();
            self.fit_size();
            self.fill_slots();
            self.replace_workers();
        }
        self.ask_tunnels();
        self.publish(first);
        if cfg!(debug_assertions)
            && let Err(broken) = self.verify()
        {
            panic!("fleet {}: {broken}", self.app);
        }
    }

    /// Before all else that this step asks for: traffic must know first.
    fn publish(&mut self, first: usize) {
        let seats: Vec<_> = self.seats().collect();
        if seats != self.published || std::mem::take(&mut self.moved) {
            self.published = seats;
            self.actions.insert(first, Action::Publish);
        }
    }

    /// The next effect to carry out.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to come back with [`Event::Tick`] if nothing happens before.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let workers = self.workers.values().flat_map(Worker::timers);
        let slots = self.slots.values().flat_map(Seat::timers);
        workers.chain(slots).chain(self.relief().map(|(at, _)| at)).min()
    }

    /// Whoever is published to has changed.
    pub(crate) fn publish_again(&mut self) {
        self.actions.push_back(Action::Publish);
    }

    pub(crate) fn next_incarnation(&self) -> u32 {
        self.next_incarnation
    }

    /// Whether a stop is complete: no process, nothing to clean up, nothing to carry out.
    pub(crate) fn is_finished(&self) -> bool {
        self.goal >= Goal::Stop && self.workers.is_empty() && self.actions.is_empty()
    }

    /// The workers that traffic may reach, and whether they take new sessions.
    pub(crate) fn seats(&self) -> impl Iterator<Item = (Incarnation, bool)> + '_ {
        let all_hot = !self.workers.values().any(|w| w.serves() && !w.hot);
        self.workers.values().filter_map(move |worker| match worker.state {
            State::Ready if worker.role == Role::Seated => Some((worker.incarnation, !worker.hot || all_hot)),
            State::Cordoned => Some((worker.incarnation, false)),
            // Its sessions are lost elsewhere: they wait until it answers again or is killed.
            State::Unhealthy if worker.role == Role::Seated => Some((worker.incarnation, false)),
            State::Draining if !worker.drain.silent => Some((worker.incarnation, false)),
            _ => None,
        })
    }

    /// All its workers are to end, and none will come in their place.
    pub(crate) fn is_stopping(&self) -> bool {
        self.goal >= Goal::Stop
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = &Worker> + '_ {
        self.workers.values()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = (Slot, &Seat)> + '_ {
        self.slots.iter().map(|(slot, seat)| (*slot, seat))
    }

    /// How many workers are to take new sessions.
    pub(crate) fn desired(&self) -> u16 {
        self.desired
    }

    /// Whether a person decided how many.
    pub(crate) fn is_manual(&self) -> bool {
        self.manual.is_some()
    }

    /// The generation that crashed workers start from, and the one that a rollout brings.
    pub(crate) fn generations(&self) -> (Generation, Option<Generation>) {
        (self.generation, self.rollout.as_ref().map(|rollout| rollout.generation))
    }

    /// The newest generation there was.
    pub(crate) fn newest(&self) -> Generation {
        self.policies.keys().next_back().copied().unwrap_or(self.generation)
    }

    /// Whether any process may still run, or be started, from a generation.
    pub(crate) fn needs(&self, generation: Generation) -> bool {
        self.policies.contains_key(&generation)
    }

    /// The rules in force.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy_of(self.generation)
    }

    fn policy_of(&self, generation: Generation) -> Arc<Policy> {
        let known = self.policies.get(&generation).or_else(|| self.policies.get(&self.generation));
        known.cloned().unwrap_or_default()
    }
}
