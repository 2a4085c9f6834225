//! How a worker comes up.

use super::backoff::after;
use super::rules::{PROBE_LOST, PROBE_RETRY, brief};
use super::{Action, Fleet, Goal, Occupant, Role, State, Worker};
use crate::worker::{Generation, Incarnation, Slot};
use log::Level;

impl Fleet {
    /// Starts what should run and does not.
    pub(super) fn fill_slots(&mut self) {
        let now = self.now;
        let free = |occupant| match occupant {
            Occupant::Empty => true,
            Occupant::BackingOff { until } | Occupant::Failed { until } => until <= now,
            Occupant::Worker(_) => false,
        };
        let slots: Vec<Slot> = self.slots.iter().filter(|(_, s)| free(s.occupant)).map(|(slot, _)| *slot).collect();
        slots.into_iter().for_each(|slot| self.fill(slot));
        if let Some((_, slot)) = self.relief().filter(|(at, _)| *at <= now) {
            self.note_app(Level::Warn, &format!("no worker is ready: slot {slot} does not wait any longer"));
            self.fill(slot);
        }
    }

    fn fill(&mut self, slot: Slot) {
        if self.is_held_free(slot) {
            self.seat_mut(slot).occupant = Occupant::Empty;
            return;
        }
        let incarnation = self.spawn(slot, self.restart_generation(), Role::Seated);
        self.seat_mut(slot).occupant = Occupant::Worker(incarnation);
    }

    /// A crashed worker comes back as what is known to work, also while a rollout is under way.
    fn restart_generation(&self) -> Generation {
        #[cfg(test)]
        if self.planted == super::simulation::Bug::WrongGeneration {
            return self.newest();
        }
        self.generation
    }

    pub(super) fn spawn(&mut self, slot: Slot, generation: Generation, role: Role) -> Incarnation {
        let incarnation = Incarnation(self.next_incarnation);
        self.next_incarnation += 1;
        let mut worker = Worker::new(slot, incarnation, generation, self.policy_of(generation), self.now);
        worker.role = role;
        worker.jitter = 0.9 + 0.2 * self.random.f64();
        self.workers.insert(incarnation, worker);
        self.actions.push_back(Action::Spawn { slot, incarnation, generation });
        incarnation
    }

    pub(super) fn spawned(&mut self, incarnation: Incarnation, pid: u32) {
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_alive()) else {
            // Given up meanwhile.
            self.actions.push_back(Action::KillGroup { incarnation });
            return;
        };
        worker.pid = Some(pid);
        let signal = worker.policy.stop_signal;
        match worker.state {
            // What was asked before there was a process.
            State::Killing => self.actions.push_back(Action::KillGroup { incarnation }),
            State::Stopping if worker.signal_at.is_none() => {
                self.actions.push_back(Action::Signal { incarnation, signal });
            }
            State::Starting if !worker.has_path => worker.reason = "no server of it listens yet".into(),
            _ => {}
        }
    }

    pub(super) fn path(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        worker.has_path = true;
        match worker.state {
            State::Starting => self.listen(incarnation, "its socket has not answered yet"),
            State::Listening => self.probe(incarnation),
            // Nobody has seen the new socket answer.
            State::Ready | State::Unhealthy => {
                worker.deadline = Some(after(now, worker.policy.start_timeout));
                self.listen(incarnation, "its socket moved and has not answered yet");
            }
            // Its sessions go where it listens.
            State::Cordoned | State::Draining => self.moved = true,
            _ => {}
        }
    }

    pub(super) fn path_closed(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        worker.has_path = false;
        worker.probe.ok = false;
        worker.probe.next = None;
        match worker.state {
            State::Listening => self.enter(incarnation, State::Starting, "its server closed again"),
            State::Ready | State::Unhealthy => {
                worker.deadline = Some(after(now, worker.policy.start_timeout));
                self.enter(incarnation, State::Starting, "its server closed");
                self.note(Level::Warn, incarnation, "closed its server; waiting for it to listen again");
            }
            // Nothing can reach it any more.
            State::Cordoned => self.retire(incarnation, false, "closed its server"),
            State::Draining => self.ask_to_end(incarnation),
            _ => {}
        }
    }

    fn listen(&mut self, incarnation: Incarnation, reason: &str) {
        self.enter(incarnation, State::Listening, reason);
        self.probe(incarnation);
    }

    pub(super) fn probe(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let attempt = worker.probe.attempt + 1;
        worker.probe = super::worker::Probe { attempt, ok: false, next: Some(after(now, PROBE_LOST)) };
        self.actions.push_back(Action::Probe { incarnation, attempt });
    }

    pub(super) fn probed(&mut self, incarnation: Incarnation, attempt: u32, answer: Result<(), String>) {
        let now = self.now;
        let current = |w: &&mut Worker| w.state == State::Listening && w.probe.attempt == attempt && !w.probe.ok;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(current) else { return };
        match answer {
            Ok(()) => {
                worker.probe.ok = true;
                worker.probe.next = None;
                worker.reason = "the app has not said process.send('ready') yet".into();
                self.settle(incarnation);
            }
            Err(why) => {
                worker.reason = format!("its socket does not answer: {why}");
                worker.probe.next = Some(after(now, PROBE_RETRY));
            }
        }
    }

    /// Ready is who has a socket that answered, and an app that said so where that is asked for.
    pub(super) fn settle(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let waits = worker.policy.wait_ready && !worker.app_ready;
        if worker.state != State::Listening || !worker.probe.ok || waits {
            return;
        }
        let policy = worker.policy.clone();
        let took = now.saturating_sub(worker.spawned_at);
        let first = worker.ready_at.is_none();
        worker.ready_at.get_or_insert(now);
        worker.deadline = Some(after(now, policy.min_uptime));
        let lifetime = policy.limits.lifetime.map(|life| after(worker.spawned_at, life.mul_f64(worker.jitter)));
        worker.expires = lifetime.filter(|at| *at > now).or(lifetime.map(|_| after(now, policy.min_uptime)));
        if worker.replace.is_some() {
            worker.expires = None;
        }
        let (role, slot) = (worker.role, worker.slot);
        self.enter(incarnation, State::Ready, "its socket answers");
        self.watch(incarnation);
        if first {
            self.note(Level::Info, incarnation, &format!("ready after {}", brief(took)));
        }
        if role == Role::Successor && self.goal == Goal::Run {
            if self.occupant_serves(slot) && policy.min_ready > std::time::Duration::ZERO {
                if let Some(worker) = self.workers.get_mut(&incarnation) {
                    worker.reason = "proves itself before it takes over".into();
                    worker.proven_at = Some(after(now, policy.min_ready));
                }
            } else {
                self.promote(incarnation);
            }
        }
    }

    fn occupant_serves(&self, slot: Slot) -> bool {
        match self.slots.get(&slot).map(|seat| seat.occupant) {
            Some(Occupant::Worker(incarnation)) => self.workers.get(&incarnation).is_some_and(|w| w.serves()),
            _ => false,
        }
    }
}
