//! `surge: 0`: a worker goes before the next one comes in its slot, for apps of which two at a time cannot run, as when
//! they hold a TCP port of their own. Requests wait in the queue meanwhile.
//!
//! One slot at a time is replaced, and no process starts in a slot before the last one of it is gone.

use super::{Fleet, Goal, Occupant, Role, Time};
use crate::worker::{Generation, Slot};

impl Fleet {
    /// The generation that workers are replaced by.
    pub(super) fn wanted(&self) -> Generation {
        self.rollout.as_ref().map_or(self.generation, |rollout| rollout.generation)
    }

    /// Whether workers go before their successors come.
    pub(super) fn replaces_in_place(&self) -> bool {
        self.policy_of(self.wanted()).surge == 0
    }

    /// Whether a slot without a worker is to stay so for now: its last process is not gone, or the rollout fills it.
    pub(super) fn is_held_free(&self, slot: Slot) -> bool {
        if self.goal != Goal::Run || !self.replaces_in_place() {
            return false;
        }
        let is_empty = self.slots.get(&slot).is_some_and(|seat| seat.occupant == Occupant::Empty);
        self.has_process(slot) || (is_empty && self.wanted() != self.generation)
    }

    fn has_process(&self, slot: Slot) -> bool {
        self.workers.values().any(|worker| worker.slot == slot && worker.is_alive())
    }

    /// Begins to replace the next worker that should be, if the one before it is replaced.
    pub(super) fn replace_in_place(&mut self) {
        let wanted = self.wanted();
        let is_under_way = self.workers.values().any(|w| match w.role {
            Role::Retired => w.is_alive() && w.drain.replaced,
            Role::Successor => w.is_alive(),
            Role::Seated => w.generation == wanted && w.is_coming_up(),
        });
        if is_under_way {
            return;
        }
        let due = self.slots.iter().filter_map(|(slot, seat)| Some((self.is_due(seat, wanted)?, *slot)));
        let next: Option<(Time, Slot)> = due.filter(|(_, slot)| self.is_replaceable(*slot)).min();
        let Some((_, slot)) = next else { return };
        match std::mem::replace(&mut self.seat_mut(slot).occupant, Occupant::Empty) {
            Occupant::Worker(old) => {
                self.retire(old, true, "makes room for the next");
                if let Some(worker) = self.workers.get_mut(&old) {
                    worker.drain.makes_room = true;
                }
            }
            _ => {
                let incarnation = self.spawn(slot, wanted, Role::Successor);
                self.seat_mut(slot).successor = Some(incarnation);
            }
        }
    }

    fn is_replaceable(&self, slot: Slot) -> bool {
        let is_worker = self.slots.get(&slot).is_some_and(|seat| matches!(seat.occupant, Occupant::Worker(_)));
        is_worker || !self.has_process(slot)
    }
}
