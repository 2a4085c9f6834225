//! How a worker ends, and what becomes of its slot.

use super::backoff::{after, pause};
use super::rules::{CLEANUP_LOST, KILL_RETRY, SIGNAL_DELAY, brief};
use super::{Action, Alarm, Carried, Fleet, Goal, Occupant, Role, State};
use crate::worker::{Incarnation, Slot};
use log::Level;
use std::time::Duration;

/// Looks in a row at which a worker carries nothing: a request may have been chosen before the pool
/// knew, and not begun.
const QUIET_LOOKS: u32 = 2;
/// WebSocket close codes (RFC 6455, section 7.4.1, and the IANA registry): another worker takes
/// over, or nobody does.
const SERVICE_RESTART: u16 = 1012;
const GOING_AWAY: u16 = 1001;
/// Over what time WebSockets are closed when the proxy stops.
const STOP_WINDOW: Duration = Duration::from_secs(2);

impl Fleet {
    pub(super) fn stop_all(&mut self) {
        if self.goal >= Goal::Stop {
            return;
        }
        self.goal = Goal::Stop;
        self.vacate();
        for incarnation in self.alive() {
            match self.workers.get(&incarnation).map(|w| (w.state, w.drain.silent)) {
                Some((State::Ready | State::Cordoned, _)) => self.drain(incarnation, "finishes its requests"),
                Some((State::Starting | State::Listening | State::Unhealthy, _)) => self.ask_to_end(incarnation),
                // Polls that wait are not waited for any more.
                Some((State::Draining, true)) => self.ask_to_end(incarnation),
                _ => {}
            }
        }
        self.workers.values_mut().for_each(|worker| worker.drain.asked = false);
    }

    pub(super) fn kill_all(&mut self) {
        if self.goal == Goal::Kill {
            return;
        }
        self.goal = Goal::Kill;
        self.vacate();
        for incarnation in self.alive() {
            if self.workers.get(&incarnation).is_some_and(|w| w.state != State::Killing) {
                self.kill(incarnation, "the proxy stops now");
            }
        }
    }

    /// No slot is to be filled again.
    fn vacate(&mut self) {
        self.end_rollout(Err((None, "the proxy stops".into())));
        self.workers.values_mut().for_each(|worker| worker.role = Role::Retired);
        for seat in self.slots.values_mut() {
            seat.occupant = Occupant::Empty;
            seat.successor = None;
            seat.successor_due = None;
        }
    }

    /// It leaves its seat and finishes what it has. `replaced`: another has taken the seat.
    pub(super) fn retire(&mut self, incarnation: Incarnation, replaced: bool, why: &str) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let (slot, state) = (worker.slot, worker.state);
        let was = std::mem::replace(&mut worker.role, Role::Retired);
        worker.drain.replaced = replaced;
        worker.cordon = None;
        if let Some(seat) = self.slots.get_mut(&slot) {
            if was == Role::Seated && seat.occupant == Occupant::Worker(incarnation) {
                self.drop_seat(slot);
            } else if was == Role::Successor {
                seat.successor = None;
            }
        }
        match state {
            State::Ready | State::Cordoned => self.drain(incarnation, why),
            State::Starting | State::Listening | State::Unhealthy => self.ask_to_end(incarnation),
            _ => {}
        }
    }

    fn drain(&mut self, incarnation: Incarnation, why: &str) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        if worker.policy.drain_timeout == Duration::ZERO {
            return self.ask_to_end(incarnation);
        }
        worker.deadline = Some(after(now, worker.policy.drain_timeout));
        self.enter(incarnation, State::Draining, why);
    }

    /// Tunnels are closed once their clients have somewhere to go, and sessions that poll are ended.
    pub(super) fn ask_tunnels(&mut self) {
        let now = self.now;
        let stopping = self.goal >= Goal::Stop;
        let alone = !stopping && self.serving() == 0;
        let (code, most) = match (stopping, alone) {
            (true, _) => (GOING_AWAY, STOP_WINDOW),
            // Nobody serves until it is gone.
            (false, true) => (SERVICE_RESTART, Duration::ZERO),
            (false, false) => (SERVICE_RESTART, Duration::MAX),
        };
        let due =
            |w: &&mut super::Worker| w.state == State::Draining && !w.drain.asked && (!alone || w.drain.makes_room);
        for worker in self.workers.values_mut().filter(due) {
            worker.drain.asked = true;
            // The last to be closed need a moment to leave before the drain's end.
            let window = worker.policy.drain_window.min(worker.policy.drain_timeout.mul_f64(0.8)).min(most);
            let incarnation = worker.incarnation;
            let listens = worker.connected && !worker.policy.external;
            // Asked again after a change of the proxy, it may not have dialled in yet.
            worker.drain.until = listens.then(|| after(now, window)).or(worker.drain.until);
            self.actions.push_back(Action::CloseTunnels { incarnation, code, window });
        }
    }

    /// What a draining worker still has. First its tunnels go, and its polling sessions as far as it can
    /// end them. Then it leaves the pool, so that what still waits there can come to an end: a session
    /// that polls comes back elsewhere and begins anew.
    pub(super) fn carries(&mut self, incarnation: Incarnation, carried: Carried) {
        let now = self.now;
        let stopping = self.goal >= Goal::Stop;
        let elsewhere = self.serving() > 0;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.state == State::Draining) else { return };
        let ending = worker.drain.until.is_some_and(|until| now < until);
        let elsewhere = elsewhere || worker.drain.makes_room;
        if !stopping && worker.drain.asked && elsewhere && carried.tunnels == 0 && !worker.drain.silent {
            let sessions = worker.load.map_or(0, |load| load.sessions);
            // One that is between two polls must find it: only its worker can end it.
            worker.drain.silent = !ending || (carried.parked == 0 && sessions == 0);
            worker.quiet = 0;
            return;
        }
        let waits = if stopping && !ending { carried.tunnels } else { carried.parked.max(carried.tunnels) };
        let idle = carried.active == 0 && waits == 0;
        worker.quiet = if idle { worker.quiet + 1 } else { 0 };
        if worker.quiet >= QUIET_LOOKS {
            self.ask_to_end(incarnation);
        }
    }

    /// The shutdown message, then the stop signal.
    pub(super) fn ask_to_end(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        if worker.policy.external {
            return self.let_go(incarnation, "is left to itself");
        }
        let (signal, stop_timeout) = (worker.policy.stop_signal, worker.policy.stop_timeout);
        worker.probe.next = None;
        if worker.connected {
            worker.signal_at = Some(after(now, SIGNAL_DELAY));
            worker.deadline = Some(after(after(now, SIGNAL_DELAY), stop_timeout));
            self.actions.push_back(Action::SendShutdown { incarnation });
        } else {
            worker.signal_at = None;
            worker.deadline = Some(after(now, stop_timeout));
            if worker.pid.is_some() {
                self.actions.push_back(Action::Signal { incarnation, signal });
            }
        }
        self.enter(incarnation, State::Stopping, "was asked to end");
    }

    pub(super) fn kill(&mut self, incarnation: Incarnation, reason: &str) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        if worker.policy.external {
            return self.let_go(incarnation, reason);
        }
        worker.kills += 1;
        worker.signal_at = None;
        worker.probe.next = None;
        worker.deadline = Some(after(now, KILL_RETRY));
        // Also without a pid: the report of the spawn may be lost or on its way.
        self.actions.push_back(Action::KillGroup { incarnation });
        self.enter(incarnation, State::Killing, reason);
    }

    /// There is no process any more.
    pub(super) fn gone(&mut self, incarnation: Incarnation, how: String) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_alive()) else { return };
        let was = worker.state;
        let lasted = brief(now.saturating_sub(worker.since));
        // What we killed it for says more than how it died.
        let how = if was == State::Killing { format!("{} ({how})", worker.reason) } else { how };
        let (slot, role, generation) = (worker.slot, worker.role, worker.generation);
        let cordoned = worker.cordon.is_some();
        let ready_for = worker.ready_at.map(|at| now.saturating_sub(at));
        worker.probe.next = None;
        worker.signal_at = None;
        worker.leaves_at = None;
        worker.cordon = None;
        worker.role = Role::Retired;
        worker.deadline = Some(after(now, CLEANUP_LOST));
        if std::mem::take(&mut worker.warned) {
            self.alarm(Alarm::Memory, Some(slot), false, "it has ended");
        }
        self.enter(incarnation, State::Exited, &how);
        self.actions.push_back(Action::Cleanup { incarnation });
        let text = format!("{how}, {was} for {lasted}");
        match role {
            Role::Retired => self.note(Level::Info, incarnation, &text),
            Role::Seated if self.is_external() => self.guest_left(slot, incarnation, was, &text),
            Role::Seated if cordoned => {
                self.note(Level::Warn, incarnation, &text);
                self.drop_seat(slot);
            }
            Role::Seated => self.crashed(slot, incarnation, ready_for, &text),
            Role::Successor => self.successor_failed(slot, incarnation, &text),
        }
        if role != Role::Retired && self.rollout.as_ref().is_some_and(|r| r.generation == generation) {
            self.fail_rollout(Some(slot), &how);
        }
        let told = role != Role::Retired || self.goal >= Goal::Stop;
        if let Some(seat) = self.slots.get_mut(&slot).filter(|_| told) {
            seat.last_exit = Some(how);
        }
    }

    /// Nobody asked for its end.
    fn crashed(&mut self, slot: Slot, incarnation: Incarnation, ready_for: Option<Duration>, text: &str) {
        let (now, policy) = (self.now, self.policy());
        let relief = self.relief_after(ready_for);
        let Some(seat) = self.slots.get_mut(&slot) else { return };
        seat.relief = relief;
        seat.failures = seat.failures.saturating_add(1);
        let looped = seat.history.looping();
        let recent = seat.history.crashed(&policy.crashes, now);
        if seat.history.looping() {
            // At the first time one last try after the usual pause would only make it one more.
            let until = after(now, policy.crashes.retry.max(policy.backoff_min));
            seat.occupant = Occupant::Failed { until };
            let detail = match looped {
                true => format!("{text}; still in a crash loop"),
                false => format!("{text}; {recent} times within {}: a crash loop", brief(policy.crashes.window)),
            };
            let text = format!("{detail}; slot {slot} is tried again in {}", brief(policy.crashes.retry));
            self.note(Level::Error, incarnation, &text);
            self.alarm(Alarm::CrashLoop, Some(slot), true, &detail);
            return;
        }
        let pause = pause(&policy, seat.failures.max(recent), &mut self.random);
        seat.occupant = Occupant::BackingOff { until: after(now, pause) };
        let text = format!("{text}; slot {slot} starts again in {}", brief(pause));
        self.note(Level::Error, incarnation, &text);
    }

    /// It was ready for long enough: first its back-off starts over, later its loop is forgotten.
    pub(super) fn recovered(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let (slot, seated) = (worker.slot, worker.role == Role::Seated);
        let calm = after(worker.since, worker.policy.crashes.window);
        worker.deadline = None;
        if !seated {
            return;
        }
        let Some(seat) = self.slots.get_mut(&slot) else { return };
        seat.failures = 0;
        self.hasty = 0;
        if !seat.history.looping() {
            return;
        }
        if calm > now {
            worker.deadline = Some(calm);
        } else {
            seat.history.recovered();
            self.alarm(Alarm::CrashLoop, Some(slot), false, "it stays up");
        }
    }
}
