//! How one generation follows another, and one worker another.
//!
//! A rollout replaces every seat's worker by one of the new generation, `surge` at a time. The first
//! one that fails ends it: the generation before stays in force, and what was replaced already is
//! replaced back by the same rule.

use super::backoff::{after, pause};
use super::policy::Policy;
use super::rules::brief;
use super::{Action, Alarm, Fleet, Goal, Occupant, Role, State, Time};
use crate::worker::{Generation, Incarnation, Slot, counted};
use log::Level;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A rollout under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rollout {
    pub(super) generation: Generation,
    pub(super) since: Time,
    /// Seats that were taken over.
    replaced: u32,
}

impl Fleet {
    pub(super) fn roll(&mut self, generation: Generation, policy: Policy) {
        if self.goal >= Goal::Stop || generation <= self.newest() {
            let outcome = Err((None, "nothing can be rolled out now".into()));
            self.actions.push_back(Action::Rolled { generation, outcome });
            return;
        }
        self.end_rollout(Err((None, "a newer rollout took its place".into())));
        self.policies.insert(generation, Arc::new(policy));
        self.kill_successors("its generation is not wanted any more");
        self.rollout = Some(Rollout { generation, since: self.now, replaced: 0 });
        self.slots.values_mut().for_each(|seat| seat.successor_due = None);
        self.note_app(Level::Info, &format!("generation {generation} rolls out"));
    }

    /// New rules without new workers.
    pub(super) fn adopt(&mut self, policy: Policy) {
        let policy = Arc::new(policy);
        let generation = self.generation;
        self.policies.insert(generation, policy.clone());
        let workers = self.workers.values_mut().filter(|w| w.generation == generation);
        workers.for_each(|worker| worker.policy = policy.clone());
        if self.replaces_in_place() {
            self.kill_successors("the one before it is to go first");
        }
        self.resize();
    }

    /// Ends the rollout, if there is one, and tells how.
    pub(super) fn end_rollout(&mut self, outcome: Result<String, (Option<Slot>, String)>) {
        if let Some(rollout) = self.rollout.take() {
            self.actions.push_back(Action::Rolled { generation: rollout.generation, outcome });
        }
    }

    fn kill_successors(&mut self, why: &str) {
        let successors: Vec<Incarnation> = self.slots.values_mut().filter_map(|seat| seat.successor.take()).collect();
        for incarnation in successors {
            if let Some(worker) = self.workers.get_mut(&incarnation) {
                worker.role = Role::Retired;
                if worker.state != State::Killing {
                    // It never had a request.
                    self.kill(incarnation, why);
                }
            }
        }
    }

    pub(super) fn fail_rollout(&mut self, slot: Option<Slot>, why: &str) {
        if let Some(text) = self.abandon_rollout(Level::Error, slot, why) {
            self.alarm(Alarm::FailedRollout, None, true, &text);
        }
    }

    /// It has not failed: nobody need come.
    pub(super) fn give_up_rollout(&mut self, generation: Generation, why: &str) {
        if self.rollout.as_ref().is_some_and(|rollout| rollout.generation == generation) {
            self.abandon_rollout(Level::Warn, None, why);
        }
    }

    /// The generation before goes on. Returns what was noted down.
    fn abandon_rollout(&mut self, level: Level, slot: Option<Slot>, why: &str) -> Option<String> {
        let rollout = self.rollout.as_ref()?;
        let (generation, replaced, kept) = (rollout.generation, rollout.replaced, self.generation);
        let back = match replaced {
            0 => String::new(),
            1 => "; 1 replaced already goes back".to_owned(),
            n => format!("; {n} replaced already go back"),
        };
        let text = format!("generation {generation} is given up, generation {kept} stays{back}: {why}");
        self.note_app(level, &text);
        self.end_rollout(Err((slot, why.to_owned())));
        self.kill_successors("its generation is given up");
        Some(text)
    }

    pub(super) fn successor_failed(&mut self, slot: Slot, incarnation: Incarnation, text: &str) {
        let (now, policy) = (self.now, self.policy());
        self.note(Level::Error, incarnation, text);
        let Some(seat) = self.slots.get_mut(&slot) else { return };
        seat.successor = None;
        seat.successor_failures = seat.successor_failures.saturating_add(1);
        let pause = pause(&policy, seat.successor_failures, &mut self.random);
        seat.successor_due = Some(after(now, pause));
    }

    /// Takes the seat over; the one in it drains.
    pub(super) fn promote(&mut self, incarnation: Incarnation) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        worker.proven_at = None;
        if worker.role != Role::Successor || worker.state != State::Ready {
            return;
        }
        worker.role = Role::Seated;
        worker.reason = "its socket answers".into();
        let (slot, generation) = (worker.slot, worker.generation);
        let Some(seat) = self.slots.get_mut(&slot) else { return };
        seat.successor = None;
        seat.successor_failures = 0;
        let old = std::mem::replace(&mut seat.occupant, Occupant::Worker(incarnation));
        if let Some(rollout) = self.rollout.as_mut().filter(|r| r.generation == generation) {
            rollout.replaced += 1;
        }
        if let Occupant::Worker(old) = old {
            self.retire(old, true, "was replaced");
        }
    }

    /// Sees whether the rollout is complete.
    pub(super) fn advance_rollout(&mut self) {
        let Some(rollout) = &self.rollout else { return };
        let target = rollout.generation;
        let done = |occupant| match occupant {
            Occupant::Worker(incarnation) => self.workers.get(&incarnation).is_some_and(|w| {
                // Who is on its way out is not replaced.
                w.cordon.is_some() || (w.generation == target && w.state == State::Ready)
            }),
            _ => false,
        };
        let whole = self.slots.values().all(|seat| done(seat.occupant));
        if !whole || self.slots.is_empty() {
            return;
        }
        let took = brief(self.now.saturating_sub(rollout.since));
        let text = format!("generation {target} runs: {} replaced in {took}", counted(rollout.replaced, "worker"));
        self.generation = target;
        self.note_app(Level::Info, &text);
        self.alarm(Alarm::FailedRollout, None, false, &text);
        self.end_rollout(Ok(text));
        self.slots.values_mut().for_each(|seat| seat.successor_failures = 0);
        self.retire_cordoned(target);
        self.resize();
        self.forget_policies();
    }

    fn retire_cordoned(&mut self, but: Generation) {
        let old = |w: &&super::Worker| w.cordon.is_some() && w.generation != but && w.is_up();
        for incarnation in self.workers.values().filter(old).map(|w| w.incarnation).collect::<Vec<_>>() {
            self.retire(incarnation, false, "its generation is over");
        }
    }

    /// Begins to replace what should be, as far as the surge allows.
    pub(super) fn replace_workers(&mut self) {
        if self.replaces_in_place() {
            return self.replace_in_place();
        }
        let wanted = self.wanted();
        let surge = usize::from(self.policy_of(wanted).surge);
        let leaving = self.workers.values().filter(|w| w.is_alive() && w.role == Role::Retired && w.drain.replaced);
        let mut room = surge.saturating_sub(leaving.count());
        room = room.saturating_sub(self.slots.values().filter(|seat| seat.successor.is_some()).count());
        let due = self.slots.iter().filter_map(|(slot, seat)| Some((self.is_due(seat, wanted)?, *slot)));
        let mut due: Vec<(Time, Slot)> = due.collect();
        due.sort_unstable();
        for (_, slot) in due.into_iter().take(room) {
            let incarnation = self.spawn(slot, wanted, Role::Successor);
            self.seat_mut(slot).successor = Some(incarnation);
            #[cfg(test)]
            if self.planted == super::simulation::Bug::EarlyRetirement
                && let Some(Occupant::Worker(old)) = self.slots.get(&slot).map(|seat| seat.occupant)
            {
                self.seat_mut(slot).successor = None;
                self.seat_mut(slot).occupant = Occupant::Worker(incarnation);
                if let Some(worker) = self.workers.get_mut(&incarnation) {
                    worker.role = Role::Seated;
                }
                self.retire(old, true, "was replaced");
            }
        }
    }

    /// Since when a seat's worker is to be replaced, for order's sake: another generation comes
    /// first, then who has been there longest.
    pub(super) fn is_due(&self, seat: &super::Seat, wanted: Generation) -> Option<Time> {
        if seat.successor.is_some() || seat.successor_due.is_some() {
            return None;
        }
        let Occupant::Worker(incarnation) = seat.occupant else {
            // The present generation starts there by itself.
            return (wanted != self.generation).then_some(Time::ZERO);
        };
        let worker = self.workers.get(&incarnation).filter(|w| w.cordon.is_none() && w.state != State::Killing)?;
        match worker.generation == wanted {
            false => Some(Time::ZERO),
            true => worker.replace.as_ref().map(|_| worker.spawned_at.max(Duration::from_nanos(1))),
        }
    }

    /// Keeps the rules of generations that have processes, or may get some.
    pub(super) fn forget_policies(&mut self) {
        let target = self.rollout.as_ref().map(|rollout| rollout.generation);
        let newest = self.newest();
        let alive: std::collections::BTreeSet<Generation> = self.workers.values().map(|w| w.generation).collect();
        let generation = self.generation;
        self.policies.retain(|g, _| *g == generation || Some(*g) == target || *g == newest || alive.contains(g));
    }
}
