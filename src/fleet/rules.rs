//! Events to transitions, deadlines, and what all rules share.

use super::backoff::after;
use super::worker::Worker;
use super::{Action, Alarm, Event, Fleet, Goal, Seat, State, Time};
use crate::worker::{Incarnation, Slot};
use log::Level;
use std::time::Duration;

/// Between two probes of a socket that does not answer yet.
pub(super) const PROBE_RETRY: Duration = Duration::from_millis(50);
/// After this time an unanswered probe counts as lost.
pub(super) const PROBE_LOST: Duration = Duration::from_secs(3);
/// What an app gets to act on the shutdown message before the stop signal, which ends a process
/// that does not handle it.
pub(super) const SIGNAL_DELAY: Duration = Duration::from_millis(100);
/// Between two SIGKILLs. A process in an uninterruptible wait dies only when that ends.
pub(super) const KILL_RETRY: Duration = Duration::from_secs(5);
/// After so many SIGKILLs a process counts as lost.
pub(super) const KILL_ROUNDS: u32 = 6;
/// How long cleaning up may take.
pub(super) const CLEANUP_LOST: Duration = Duration::from_secs(15);
/// A turn that comes so late says that we stood still, not the workers.
const STALL: Duration = Duration::from_secs(1);

impl Fleet {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Start if self.goal == Goal::Idle => self.goal = Goal::Run,
            Event::Start => {}
            Event::Stop => self.stop_all(),
            Event::Kill => self.kill_all(),
            Event::Spawned { incarnation, pid } => self.spawned(incarnation, pid),
            Event::Joined { slot, incarnation, pid } => self.joined(slot, incarnation, pid),
            Event::SpawnFailed { incarnation, why } => self.gone(incarnation, format!("could not be started: {why}")),
            Event::Exited { incarnation, how } => self.gone(incarnation, how),
            Event::Cleaned { incarnation } => {
                if self.workers.get(&incarnation).is_some_and(|w| !w.is_alive()) {
                    self.remove(incarnation);
                }
            }
            Event::Hello { incarnation } => self.said_hello(incarnation),
            Event::HungUp { incarnation } => self.hung_up(incarnation),
            Event::Renounced { incarnation, user } => self.renounced(incarnation, &user),
            Event::AppReady { incarnation } => self.with(incarnation, |w| w.app_ready = true),
            Event::Path { incarnation } => self.path(incarnation),
            Event::PathClosed { incarnation } => self.path_closed(incarnation),
            Event::ProbeOk { incarnation, attempt } => self.probed(incarnation, attempt, Ok(())),
            Event::ProbeFailed { incarnation, attempt, why } => self.probed(incarnation, attempt, Err(why)),
            Event::Heartbeat { incarnation } => self.heartbeat(incarnation),
            Event::Checked { incarnation, attempt, answer } => self.checked(incarnation, attempt, answer),
            Event::Carries { incarnation, carried } => self.carries(incarnation, carried),
            Event::Measured { incarnation, load } => self.measured(incarnation, load),
            Event::Second(around) => self.second(around),
            Event::Roll { generation, policy } => self.roll(generation, *policy),
            Event::GiveUp { generation, why } => self.give_up_rollout(generation, &why),
            Event::Adopt(policy) => self.adopt(*policy),
            Event::Scale(to) => self.scale(to),
        }
    }

    /// Changes what is known of a worker, then sees whether that makes it ready.
    pub(super) fn with(&mut self, incarnation: Incarnation, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            change(worker);
            self.settle(incarnation);
        }
    }

    /// A stalled caller has heard nobody: hearts count anew.
    pub(super) fn forgive(&mut self, now: Time) {
        let expected = self.next_deadline().unwrap_or(now).max(self.now);
        let late = now.saturating_sub(expected);
        if late < STALL {
            return;
        }
        for worker in self.workers.values_mut() {
            let anew = after(now, worker.policy.health.heartbeat_timeout);
            worker.health.due = worker.health.due.map(|due| due.max(anew));
        }
    }

    /// Carries out what has fallen due. Each step either leaves the state or sets a later time.
    pub(super) fn fire_deadlines(&mut self) {
        for incarnation in self.workers.keys().copied().collect::<Vec<_>>() {
            while self.fire(incarnation) {}
        }
        let now = self.now;
        for seat in self.slots.values_mut() {
            seat.successor_due = seat.successor_due.filter(|due| *due > now);
        }
    }

    fn fire(&mut self, incarnation: Incarnation) -> bool {
        let now = self.now;
        let due = |time: Option<Time>| time.is_some_and(|time| time <= now);
        let Some(worker) = self.workers.get_mut(&incarnation) else { return false };
        if due(worker.signal_at) {
            worker.signal_at = None;
            let signal = worker.policy.stop_signal;
            if worker.pid.is_some() {
                self.actions.push_back(Action::Signal { incarnation, signal });
            }
        } else if due(worker.leaves_at) {
            self.let_go(incarnation, "hung up and did not come back");
        } else if due(worker.deadline) {
            self.deadline(incarnation);
        } else if due(worker.probe.next) {
            self.probe(incarnation);
        } else if due(worker.health.due) {
            worker.health.due = None;
            worker.health.stopped = true;
            self.sicken(incarnation);
        } else if due(worker.health.next) {
            self.check(incarnation);
        } else if due(worker.proven_at) {
            self.promote(incarnation);
        } else if due(worker.expires) {
            worker.expires = None;
            let age = brief(now.saturating_sub(worker.spawned_at));
            self.wear_out(incarnation, format!("has run for {age} (max_lifetime)"));
        } else {
            return false;
        }
        true
    }

    fn deadline(&mut self, incarnation: Incarnation) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let policy = worker.policy.clone();
        let limit = |what: &str, limit: Duration| format!("{what} within {}", brief(limit));
        match worker.state {
            State::Starting | State::Listening => {
                let reason = format!("not ready within {}: {}", brief(policy.start_timeout), worker.reason);
                self.kill(incarnation, &reason);
            }
            State::Ready => self.recovered(incarnation),
            State::Unhealthy => self.give_up(incarnation),
            State::Cordoned => {
                self.note(Level::Info, incarnation, "has kept its sessions long enough");
                self.retire(incarnation, false, "is not needed any more");
            }
            State::Draining => {
                let text = limit("did not finish its requests", policy.drain_timeout);
                self.note(Level::Warn, incarnation, &text);
                self.ask_to_end(incarnation);
            }
            State::Stopping => {
                let text = limit("did not end", policy.stop_timeout);
                self.note(Level::Warn, incarnation, &text);
                self.kill(incarnation, &text);
            }
            State::Killing if worker.kills < KILL_ROUNDS => {
                let reason = worker.reason.clone();
                self.note(Level::Warn, incarnation, "is still there after SIGKILL; again");
                self.kill(incarnation, &reason);
            }
            State::Killing => self.gone(incarnation, "cannot be killed and is left behind".into()),
            State::Exited => {
                self.note(Level::Warn, incarnation, "could not be cleaned up after in time");
                self.remove(incarnation);
            }
        }
    }

    fn remove(&mut self, incarnation: Incarnation) {
        self.workers.remove(&incarnation);
        self.forget_policies();
    }

    pub(super) fn enter(&mut self, incarnation: Incarnation, state: State, reason: &str) {
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.state = state;
            worker.since = now;
            worker.reason = reason.to_owned();
            if !worker.is_up() {
                worker.health = super::worker::Pulse { check: worker.health.check, ..Default::default() };
                worker.proven_at = None;
                worker.expires = None;
                worker.quiet = 0;
            }
        }
    }

    pub(super) fn seat_mut(&mut self, slot: Slot) -> &mut Seat {
        self.slots.entry(slot).or_insert_with(Seat::new)
    }

    pub(super) fn alive(&self) -> Vec<Incarnation> {
        self.workers.values().filter(|w| w.is_alive()).map(|w| w.incarnation).collect()
    }

    /// Workers that serve now as the user wants it.
    pub(super) fn serving(&self) -> usize {
        self.workers.values().filter(|w| w.serves()).count()
    }

    pub(super) fn note(&mut self, level: Level, incarnation: Incarnation, text: &str) {
        let text = format!("{}: {text}", self.name(incarnation));
        self.actions.push_back(Action::Note { level, text });
    }

    /// How people know a worker.
    pub(super) fn name(&self, incarnation: Incarnation) -> String {
        let worker = self.workers.get(&incarnation);
        let pid = worker.and_then(|w| w.pid).map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let slot = worker.map(|w| w.slot.to_string()).unwrap_or_default();
        format!("{}[{slot}] #{incarnation}{pid}", self.app)
    }

    pub(super) fn note_app(&mut self, level: Level, text: &str) {
        let text = format!("{}: {text}", self.app);
        self.actions.push_back(Action::Note { level, text });
    }

    pub(super) fn alarm(&mut self, kind: Alarm, slot: Option<Slot>, active: bool, detail: &str) {
        self.actions.push_back(Action::Alarm { kind, slot, active, detail: detail.to_owned() });
    }
}

/// A duration as a person would say it: no more digits than matter.
pub(super) fn brief(duration: Duration) -> String {
    match duration.as_secs_f64() {
        s if s < 1.0 => format!("{}ms", duration.as_millis()),
        s if s < 60.0 => format!("{}s", (s * 10.0).round() / 10.0),
        s => format!("{}m{}s", (s / 60.0) as u64, (s % 60.0) as u64),
    }
}
