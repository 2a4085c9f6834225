//! What must hold after every step.

use super::{Fleet, Goal, Occupant, Role, Seat, State, Worker};
use crate::worker::Slot;

impl Fleet {
    /// Says what is broken, if anything is.
    pub(super) fn verify(&self) -> Result<(), String> {
        for (slot, seat) in self.slots() {
            self.verify_slot(slot, seat)?;
        }
        for worker in self.workers() {
            self.verify_worker(worker)?;
        }
        self.verify_numbers()
    }

    fn verify_worker(&self, worker: &Worker) -> Result<(), String> {
        let who = format!("#{} ({}, {:?})", worker.incarnation, worker.state, worker.role);
        let seat = self.slots.get(&worker.slot);
        let sits = seat.map(|s| s.occupant) == Some(Occupant::Worker(worker.incarnation));
        let waits = seat.and_then(|s| s.successor) == Some(worker.incarnation);
        let role = match (sits, waits) {
            (true, false) => Role::Seated,
            (false, true) => Role::Successor,
            (false, false) => Role::Retired,
            (true, true) => return Err(format!("{who} follows itself")),
        };
        check(role == worker.role, || format!("{who} is {role:?} by its slot"))?;
        check(worker.state == State::Ready || worker.deadline.is_some(), || format!("{who} has no deadline"))?;
        check(!worker.reason.is_empty(), || format!("{who} has no reason"))?;
        check(worker.timers().all(|t| t > self.now), || format!("{who} has an overdue timer"))?;
        check(worker.incarnation.0 < self.next_incarnation, || format!("{who} is from the future"))?;
        check(worker.signal_at.is_none() || worker.state == State::Stopping, || format!("{who} awaits a signal"))?;
        let away = worker.policy.external && !worker.connected && worker.is_alive();
        check(worker.leaves_at.is_none() || away, || format!("{who} is expected to leave"))?;
        check(worker.probe.next.is_none() || worker.state == State::Listening, || format!("{who} is probed"))?;
        let watched = worker.health.next.is_some() || worker.health.due.is_some();
        check(!watched || worker.is_up(), || format!("{who} is watched"))?;
        let proven = worker.has_path && worker.probe.ok && (worker.app_ready || !worker.policy.wait_ready);
        check(worker.state != State::Ready || proven, || format!("{who} was not proven ready"))?;
        check(worker.state != State::Ready || !worker.health.is_sick(), || format!("{who} is sick"))?;
        check(worker.state != State::Cordoned || worker.cordon.is_some(), || format!("{who} is cordoned for ever"))?;
        let running = worker.is_coming_up() || worker.is_up();
        check(running || worker.role != Role::Successor || worker.state == State::Killing, || format!("{who} waits"))?;
        check(self.goal < Goal::Stop || !running, || format!("{who} while the fleet stops"))?;
        let patient = matches!(worker.state, State::Draining | State::Stopping);
        check(self.goal < Goal::Kill || !patient, || format!("{who} while the fleet kills"))?;
        check(self.needs(worker.generation), || format!("{who}: its generation is forgotten"))
    }

    fn verify_numbers(&self) -> Result<(), String> {
        for (incarnation, open) in self.seats() {
            let Some(worker) = self.workers.get(&incarnation) else {
                return Err(format!("#{incarnation} is published and unknown"));
            };
            let fits = worker.state == State::Ready || !open;
            check(fits, || format!("#{incarnation} ({}) takes new sessions", worker.state))?;
            check(worker.role != Role::Successor, || format!("#{incarnation} has traffic before it is proven"))?;
        }
        let count = |role| self.workers().filter(|w| w.is_alive() && w.role == role).count();
        let cordoned = self.workers().filter(|w| w.cordon.is_some()).count();
        let seated = count(Role::Seated);
        if self.is_external() {
            let most = usize::from(self.policy().most());
            return check(seated <= most || self.goal > Goal::Run, || format!("{seated} external workers of {most}"));
        }
        let most = usize::from(self.desired) + cordoned;
        check(seated <= most || self.goal > Goal::Run, || format!("{seated} workers are too many"))?;
        let target = self.rollout.as_ref().map_or(self.generation, |r| r.generation);
        let surge = self.policies.values().map(|p| p.surge.max(1)).max().unwrap_or(1);
        let extra = count(Role::Successor);
        check(extra <= usize::from(surge), || format!("{extra} successors are too many for {target}"))?;
        check(self.policies.contains_key(&self.generation), || "the present generation is forgotten".to_owned())?;
        if self.goal == Goal::Run {
            let open = self.slots.len() - cordoned.min(self.slots.len());
            check(open == usize::from(self.desired), || format!("{open} seats for {}", self.desired))?;
        }
        check(self.desired > 0, || "nothing is wanted".to_owned())
    }

    fn verify_slot(&self, slot: Slot, seat: &Seat) -> Result<(), String> {
        let running = self.goal == Goal::Run;
        if let Some(successor) = seat.successor {
            let waits = self.workers.get(&successor).is_some_and(|w| w.slot == slot && w.is_alive());
            check(waits && running, || format!("slot {slot} waits for #{successor}, who is not there"))?;
        }
        if self.replaces_in_place() && seat.successor.is_some() {
            // One that came before the rule is killed.
            let sits = matches!(seat.occupant, Occupant::Worker(_));
            check(!sits, || format!("slot {slot} has two workers"))?;
        }
        check(seat.timers().all(|t| t > self.now), || format!("slot {slot} has an overdue timer"))?;
        match seat.occupant {
            Occupant::Empty => {
                let is_held_free = self.is_held_free(slot) || seat.successor.is_some();
                check(!running || is_held_free, || format!("slot {slot} is empty while the fleet runs"))
            }
            Occupant::Worker(incarnation) => {
                let sits = self.workers.get(&incarnation).is_some_and(|w| w.slot == slot && w.is_alive());
                check(sits, || format!("slot {slot} holds #{incarnation}, who is not there"))
            }
            Occupant::BackingOff { until } => {
                let pause = until.saturating_sub(self.now);
                let most = self.policies.values().map(|p| p.backoff_max).max().unwrap_or_default();
                check(running, || format!("slot {slot} backs off but the fleet does not run"))?;
                check(pause <= most, || format!("slot {slot} pauses {pause:?}"))
            }
            Occupant::Failed { .. } => {
                check(running && seat.history.looping(), || format!("slot {slot} failed without a loop"))
            }
        }
    }
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
