//! A fleet written down, and taken up again by another process.
//!
//! Times are since an epoch that both processes know. What is taken up passes the same rules as after
//! every step, so nothing that is damaged gets any further.

use super::policy::Policy;
use super::rollout::Rollout;
use super::scaling::Scaler;
use super::{Action, Fleet, Goal, Seat, State, Time, Worker};
use crate::worker::{Generation, Incarnation, Slot};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Later than any moment that a machine lives to see; sums of a few of them do not overflow.
const LATEST: Time = Time::from_secs(1 << 32);
/// More than any number that counts up one by one.
const MOST: u32 = 1 << 31;

/// All that a [`Fleet`] knows. A field that comes later needs a default: another version may have
/// written it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    policies: BTreeMap<Generation, Policy>,
    /// Of the random numbers to come.
    random: u64,
    next_incarnation: u32,
    generation: Generation,
    rollout: Option<Rollout>,
    goal: Goal,
    desired: u16,
    manual: Option<u16>,
    #[serde(default)]
    scaler: Scaler,
    #[serde(default)]
    hasty: u32,
    slots: BTreeMap<Slot, Seat>,
    workers: BTreeMap<Incarnation, Worker>,
    now: Time,
}

impl Fleet {
    /// Writes down what it knows. To be asked when everything that it asked for was carried out.
    pub(crate) fn save(&self) -> Saved {
        debug_assert!(self.actions.is_empty(), "{:?}", self.actions);
        let mut workers = self.workers.clone();
        // What is no number cannot be read back.
        workers.values_mut().filter(|w| !w.busy.is_finite()).for_each(|w| w.busy = 0.0);
        Saved {
            policies: self.policies.iter().map(|(generation, policy)| (*generation, (**policy).clone())).collect(),
            random: self.random.get_seed(),
            next_incarnation: self.next_incarnation,
            generation: self.generation,
            rollout: self.rollout.clone(),
            goal: self.goal,
            desired: self.desired,
            manual: self.manual,
            scaler: self.scaler.clone(),
            hasty: self.hasty,
            slots: self.slots.clone(),
            workers,
            now: self.now,
        }
    }

    /// Takes up what was written down; the next step begins again what was under way. `now` is the
    /// present.
    ///
    /// # Errors
    /// Says which rule does not hold.
    pub(crate) fn restore(app: Arc<str>, saved: Saved, now: Time) -> Result<Fleet, String> {
        saved.check()?;
        let policies: BTreeMap<Generation, Arc<Policy>> =
            saved.policies.into_iter().map(|(generation, policy)| (generation, Arc::new(policy))).collect();
        let mut workers = saved.workers;
        for worker in workers.values_mut() {
            let policy = policies.get(&worker.generation);
            worker.policy =
                policy.cloned().ok_or_else(|| format!("nothing is known of generation {}", worker.generation))?;
        }
        let mut fleet = Fleet {
            app,
            policies,
            random: fastrand::Rng::with_seed(saved.random),
            next_incarnation: saved.next_incarnation,
            generation: saved.generation,
            rollout: saved.rollout,
            goal: saved.goal,
            desired: saved.desired,
            manual: saved.manual,
            scaler: saved.scaler,
            hasty: saved.hasty,
            slots: saved.slots,
            workers,
            actions: VecDeque::new(),
            published: Vec::new(),
            moved: true,
            now: saved.now,
            #[cfg(test)]
            planted: super::simulation::Bug::None,
        };
        fleet.verify()?;
        fleet.begin_again(now);
        Ok(fleet)
    }

    /// Incarnations are counted on from at least here.
    pub(crate) fn count_from(&mut self, first: Incarnation) {
        self.next_incarnation = self.next_incarnation.max(first.0);
    }

    /// Nobody is connected any more, and no answer comes to what was asked.
    fn begin_again(&mut self, present: Time) {
        let now = self.now;
        let missed = present.saturating_sub(now);
        for worker in self.workers.values_mut() {
            worker.connected = false;
            if worker.policy.external && worker.is_alive() {
                worker.leaves_at = Some(present.max(now).saturating_add(super::worker::REDIAL_TIMEOUT));
            }
            // As after a hang-up.
            worker.health.due = worker.redial_limit(present.max(now));
            worker.drain.asked = false;
            // Who comes up, or should answer again, had nobody to tell.
            if matches!(worker.state, State::Starting | State::Listening | State::Unhealthy) {
                worker.deadline = worker.deadline.map(|at| at.saturating_add(missed));
            }
            if worker.state == State::Listening && !worker.probe.ok {
                worker.probe.next = Some(now);
            }
            if worker.is_up() {
                worker.health.next = Some(now);
            }
            if worker.state == State::Exited {
                self.actions.push_back(Action::Cleanup { incarnation: worker.incarnation });
            }
        }
    }
}

impl Saved {
    /// That no number in it is too large to be calculated with.
    fn check(&self) -> Result<(), String> {
        let fails = |what: String| Err(format!("{what} cannot be"));
        if self.times().any(|time| time > LATEST) {
            return fails("a moment that far away".to_owned());
        }
        let workers = self.workers.values().flat_map(|w| [w.probe.attempt, w.health.check, w.quiet, w.kills]);
        let seats = self.slots.values().flat_map(|seat| [seat.failures, seat.successor_failures]);
        let generations = self.policies.keys().map(|generation| generation.0);
        let mut counts = workers.chain(seats).chain(generations).chain([self.next_incarnation]);
        if let Some(count) = counts.find(|count| *count >= MOST) {
            return fails(format!("a count of {count}"));
        }
        if let Some((key, _)) = self.workers.iter().find(|(key, worker)| **key != worker.incarnation) {
            return fails(format!("worker #{key} under another name"));
        }
        Ok(())
    }

    fn times(&self) -> impl Iterator<Item = Time> + '_ {
        let workers = self.workers.values().flat_map(|w| {
            let moments = [w.ready_at, w.cordon, w.hot_since, Some(w.since), Some(w.spawned_at)];
            w.timers().chain(moments.into_iter().flatten())
        });
        let seats = self.slots.values().flat_map(|seat| seat.timers().chain(seat.history.times()));
        let rollout = self.rollout.as_ref().map(|rollout| rollout.since);
        workers.chain(seats).chain(self.scaler.times()).chain(rollout).chain([self.now])
    }
}
