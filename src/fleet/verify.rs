//! What must hold after every step.

use super::{Fleet, Goal, Occupant, State};
use crate::worker::Slot;

impl Fleet {
    /// Says what is broken, if anything is.
    pub(crate) fn verify(&self) -> Result<(), String> {
        for (slot, seat) in self.slots() {
            self.verify_slot(slot, seat.occupant)?;
        }
        for worker in self.workers() {
            let who = format!("#{} ({})", worker.incarnation, worker.state);
            let sits = self.slots.get(&worker.slot).map(|s| s.occupant) == Some(Occupant::Worker(worker.incarnation));
            check(sits == worker.is_alive(), || format!("{who} alive and seated differ"))?;
            check(worker.state == State::Ready || worker.deadline.is_some(), || format!("{who} has no deadline"))?;
            check(!worker.reason.is_empty(), || format!("{who} has no reason"))?;
            check(worker.timers().all(|t| t > self.now), || format!("{who} has an overdue timer"))?;
            check(worker.incarnation.0 < self.next_incarnation, || format!("{who} is from the future"))?;
            check(worker.signal_at.is_none() || worker.state == State::Stopping, || format!("{who} awaits a signal"))?;
            check(worker.probe.next.is_none() || worker.state == State::Listening, || format!("{who} is probed"))?;
            let proven = worker.has_path && worker.probe.ok && (worker.app_ready || !self.policy.wait_ready);
            check(worker.state != State::Ready || proven, || format!("{who} was not proven ready"))?;
            let running = worker.is_coming_up() || worker.state == State::Ready;
            check(self.goal < Goal::Stop || !running, || format!("{who} while the fleet stops"))?;
            let patient = matches!(worker.state, State::Draining | State::Stopping);
            check(self.goal < Goal::Kill || !patient, || format!("{who} while the fleet kills"))?;
        }
        let alive = self.workers().filter(|w| w.is_alive()).count();
        check(alive <= usize::from(self.policy.instances), || format!("{alive} workers are too many"))
    }

    fn verify_slot(&self, slot: Slot, occupant: Occupant) -> Result<(), String> {
        match occupant {
            Occupant::Empty => check(self.goal != Goal::Run, || format!("slot {slot} is empty while the fleet runs")),
            Occupant::Worker(incarnation) => {
                let sits = self.workers.get(&incarnation).is_some_and(|w| w.slot == slot && w.is_alive());
                check(sits, || format!("slot {slot} holds #{incarnation}, who is not there"))
            }
            Occupant::BackingOff { until } => {
                let pause = until.saturating_sub(self.now);
                check(self.goal == Goal::Run, || format!("slot {slot} backs off but the fleet does not run"))?;
                check(until > self.now && pause <= self.policy.backoff_max, || format!("slot {slot} pauses {pause:?}"))
            }
        }
    }
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
