//! The transitions.

use super::backoff::{after, pause};
use super::worker::{After, Worker};
use super::{Action, Event, Fleet, Goal, Occupant, Seat, State, Time};
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

impl Fleet {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Start if self.goal == Goal::Idle => self.goal = Goal::Run,
            Event::Start => {}
            Event::Stop => self.stop_all(),
            Event::Kill => self.kill_all(),
            Event::Spawned { incarnation, pid } => self.spawned(incarnation, pid),
            Event::SpawnFailed { incarnation, why } => self.gone(incarnation, format!("could not be started: {why}")),
            Event::Exited { incarnation, how } => self.gone(incarnation, how),
            Event::Cleaned { incarnation } => {
                if self.workers.get(&incarnation).is_some_and(|w| !w.is_alive()) {
                    self.workers.remove(&incarnation);
                }
            }
            Event::Hello { incarnation } => self.with(incarnation, |w| w.connected = true),
            Event::HungUp { incarnation } => self.with(incarnation, |w| w.connected = false),
            Event::AppReady { incarnation } => self.with(incarnation, |w| w.app_ready = true),
            Event::Path { incarnation } => self.path(incarnation),
            Event::PathClosed { incarnation } => self.path_closed(incarnation),
            Event::ProbeOk { incarnation, attempt } => self.probed(incarnation, attempt, Ok(())),
            Event::ProbeFailed { incarnation, attempt, why } => self.probed(incarnation, attempt, Err(why)),
            Event::Idle { incarnation } => {
                if self.workers.get(&incarnation).is_some_and(|w| w.state == State::Draining) {
                    self.ask_to_end(incarnation);
                }
            }
        }
    }

    /// Changes what is known of a worker, then sees whether that makes it ready.
    fn with(&mut self, incarnation: Incarnation, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            change(worker);
            self.settle(incarnation);
        }
    }

    fn spawned(&mut self, incarnation: Incarnation, pid: u32) {
        let stop_signal = self.policy.stop_signal;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_alive()) else {
            // Given up meanwhile.
            self.actions.push_back(Action::KillGroup { incarnation });
            return;
        };
        worker.pid = Some(pid);
        match worker.state {
            // What was asked before there was a process.
            State::Killing => self.actions.push_back(Action::KillGroup { incarnation }),
            State::Stopping if worker.signal_at.is_none() => {
                self.actions.push_back(Action::Signal { incarnation, signal: stop_signal });
            }
            State::Starting if !worker.has_path => worker.reason = "no server of it listens yet".into(),
            _ => {}
        }
    }

    fn path(&mut self, incarnation: Incarnation) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        worker.has_path = true;
        match worker.state {
            State::Starting => self.listen(incarnation, "its socket has not answered yet"),
            State::Listening => self.probe(incarnation),
            // Nobody has seen the new socket answer.
            State::Ready => {
                let deadline = after(self.now, self.policy.start_timeout);
                worker.deadline = Some(deadline);
                self.listen(incarnation, "its socket moved and has not answered yet");
                self.actions.push_back(Action::Publish);
            }
            _ => {}
        }
    }

    fn path_closed(&mut self, incarnation: Incarnation) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        worker.has_path = false;
        worker.probe.ok = false;
        worker.probe.next = None;
        match worker.state {
            State::Listening => self.enter(incarnation, State::Starting, "its server closed again"),
            State::Ready => {
                worker.deadline = Some(after(self.now, self.policy.start_timeout));
                self.enter(incarnation, State::Starting, "its server closed");
                self.actions.push_back(Action::Publish);
                self.note(Level::Warn, incarnation, "closed its server; waiting for it to listen again");
            }
            // Nothing can reach it any more.
            State::Draining => self.ask_to_end(incarnation),
            _ => {}
        }
    }

    fn listen(&mut self, incarnation: Incarnation, reason: &str) {
        self.enter(incarnation, State::Listening, reason);
        self.probe(incarnation);
    }

    fn probe(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        worker.probe.attempt += 1;
        worker.probe.ok = false;
        worker.probe.next = Some(after(now, PROBE_LOST));
        self.actions.push_back(Action::Probe { incarnation, attempt: worker.probe.attempt });
    }

    fn probed(&mut self, incarnation: Incarnation, attempt: u32, answer: Result<(), String>) {
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
    fn settle(&mut self, incarnation: Incarnation) {
        let wait_ready = self.policy.wait_ready;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        if worker.state != State::Listening || !worker.probe.ok || (wait_ready && !worker.app_ready) {
            return;
        }
        worker.deadline = Some(after(self.now, self.policy.min_uptime));
        let took = self.now.saturating_sub(worker.spawned_at);
        self.enter(incarnation, State::Ready, "its socket answers");
        self.actions.push_back(Action::Publish);
        self.note(Level::Info, incarnation, &format!("ready after {}", brief(took)));
    }

    fn stop_all(&mut self) {
        if self.goal >= Goal::Stop {
            return;
        }
        self.goal = Goal::Stop;
        self.vacate();
        for incarnation in self.alive() {
            match self.workers.get(&incarnation).map(|w| w.state) {
                Some(State::Ready) if self.policy.drain_timeout > Duration::ZERO => self.drain(incarnation),
                Some(State::Starting | State::Listening | State::Ready) => self.ask_to_end(incarnation),
                _ => {}
            }
        }
    }

    fn kill_all(&mut self) {
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
        self.workers.values_mut().for_each(|worker| worker.after = After::Vacate);
        for seat in self.slots.values_mut().filter(|seat| seat.due().is_some()) {
            seat.occupant = Occupant::Empty;
        }
    }

    fn alive(&self) -> Vec<Incarnation> {
        self.workers.values().filter(|w| w.is_alive()).map(|w| w.incarnation).collect()
    }

    fn drain(&mut self, incarnation: Incarnation) {
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.deadline = Some(after(self.now, self.policy.drain_timeout));
            self.enter(incarnation, State::Draining, "finishes its requests");
            self.actions.push_back(Action::Publish);
        }
    }

    /// The shutdown message, then the stop signal.
    fn ask_to_end(&mut self, incarnation: Incarnation) {
        let (now, signal) = (self.now, self.policy.stop_signal);
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let was_seated = matches!(worker.state, State::Ready | State::Draining);
        worker.probe.next = None;
        if worker.connected {
            worker.signal_at = Some(after(now, SIGNAL_DELAY));
            worker.deadline = Some(after(after(now, SIGNAL_DELAY), self.policy.stop_timeout));
            self.actions.push_back(Action::SendShutdown { incarnation });
        } else {
            worker.signal_at = None;
            worker.deadline = Some(after(now, self.policy.stop_timeout));
            if worker.pid.is_some() {
                self.actions.push_back(Action::Signal { incarnation, signal });
            }
        }
        self.enter(incarnation, State::Stopping, "was asked to end");
        if was_seated {
            self.actions.push_back(Action::Publish);
        }
    }

    fn kill(&mut self, incarnation: Incarnation, reason: &str) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let was_seated = matches!(worker.state, State::Ready | State::Draining);
        worker.kills += 1;
        worker.signal_at = None;
        worker.probe.next = None;
        worker.deadline = Some(after(now, KILL_RETRY));
        // Also without a pid: the report of the spawn may be lost or on its way.
        self.actions.push_back(Action::KillGroup { incarnation });
        self.enter(incarnation, State::Killing, reason);
        if was_seated {
            self.actions.push_back(Action::Publish);
        }
    }

    /// There is no process any more.
    fn gone(&mut self, incarnation: Incarnation, how: String) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_alive()) else { return };
        let was = worker.state;
        let was_seated = matches!(was, State::Ready | State::Draining);
        let lasted = now.saturating_sub(worker.since);
        // What we killed it for says more than how it died.
        let how = if was == State::Killing { format!("{} ({how})", worker.reason) } else { how };
        let (slot, then) = (worker.slot, worker.after);
        worker.probe.next = None;
        worker.signal_at = None;
        worker.deadline = Some(after(now, CLEANUP_LOST));
        self.enter(incarnation, State::Exited, &how);
        self.actions.push_back(Action::Cleanup { incarnation });
        if was_seated {
            self.actions.push_back(Action::Publish);
        }
        match then {
            After::Vacate => {
                self.note(Level::Info, incarnation, &format!("{how}, {} after {}", was, brief(lasted)));
                self.seat(slot).occupant = Occupant::Empty;
            }
            After::Restart => {
                let failures = self.seat(slot).failures.saturating_add(1);
                let pause = pause(&self.policy, failures, &mut self.random);
                let text = format!("{how}, {was} for {}; slot {slot} starts again in {}", brief(lasted), brief(pause));
                self.note(Level::Error, incarnation, &text);
                let seat = self.seat(slot);
                seat.failures = failures;
                seat.occupant = Occupant::BackingOff { until: after(now, pause) };
            }
        }
        self.seat(slot).last_exit = Some(how);
    }

    fn seat(&mut self, slot: Slot) -> &mut Seat {
        self.slots.entry(slot).or_insert(Seat::EMPTY)
    }

    /// Carries out what has fallen due. Each step either leaves the state or sets a later time.
    pub(super) fn fire_deadlines(&mut self) {
        for incarnation in self.workers.keys().copied().collect::<Vec<_>>() {
            while self.fire(incarnation) {}
        }
    }

    fn fire(&mut self, incarnation: Incarnation) -> bool {
        let (now, signal) = (self.now, self.policy.stop_signal);
        let due = |time: Option<Time>| time.is_some_and(|time| time <= now);
        let Some(worker) = self.workers.get_mut(&incarnation) else { return false };
        if due(worker.signal_at) {
            worker.signal_at = None;
            if worker.pid.is_some() {
                self.actions.push_back(Action::Signal { incarnation, signal });
            }
            return true;
        }
        if due(worker.deadline) {
            self.deadline(incarnation);
            return true;
        }
        if due(worker.probe.next) {
            self.probe(incarnation);
            return true;
        }
        false
    }

    fn deadline(&mut self, incarnation: Incarnation) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let limit = |what: &str, limit: Duration| format!("{what} within {}", brief(limit));
        match worker.state {
            State::Starting | State::Listening => {
                let reason = format!("not ready within {}: {}", brief(self.policy.start_timeout), worker.reason);
                self.kill(incarnation, &reason);
            }
            State::Ready => {
                worker.deadline = None;
                let slot = worker.slot;
                self.seat(slot).failures = 0;
            }
            State::Draining => {
                let text = limit("did not finish its requests", self.policy.drain_timeout);
                self.note(Level::Warn, incarnation, &text);
                self.ask_to_end(incarnation);
            }
            State::Stopping => {
                let text = limit("did not end", self.policy.stop_timeout);
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
                self.workers.remove(&incarnation);
            }
        }
    }

    /// Starts what should run and does not.
    pub(super) fn fill_slots(&mut self) {
        if self.goal != Goal::Run {
            return;
        }
        for slot in (0..self.policy.instances).map(Slot) {
            let now = self.now;
            let free = match self.seat(slot).occupant {
                Occupant::Empty => true,
                Occupant::BackingOff { until } => until <= now,
                Occupant::Worker(_) => false,
            };
            if free {
                self.spawn(slot);
            }
        }
    }

    fn spawn(&mut self, slot: Slot) {
        let incarnation = Incarnation(self.next_incarnation);
        self.next_incarnation += 1;
        let mut worker = Worker::new(slot, incarnation, self.generation, self.now);
        worker.deadline = Some(after(self.now, self.policy.start_timeout));
        self.workers.insert(incarnation, worker);
        self.seat(slot).occupant = Occupant::Worker(incarnation);
        self.actions.push_back(Action::Spawn { slot, incarnation, generation: self.generation });
    }

    fn enter(&mut self, incarnation: Incarnation, state: State, reason: &str) {
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.state = state;
            worker.since = now;
            worker.reason = reason.to_owned();
        }
    }

    fn note(&mut self, level: Level, incarnation: Incarnation, text: &str) {
        let Some(worker) = self.workers.get(&incarnation) else { return };
        let pid = worker.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let text = format!("{}[{}] #{incarnation}{pid}: {text}", self.app, worker.slot);
        self.actions.push_back(Action::Note { level, text });
    }
}

/// A duration as a person would say it: no more digits than matter.
fn brief(duration: Duration) -> String {
    match duration.as_secs_f64() {
        s if s < 1.0 => format!("{}ms", duration.as_millis()),
        s if s < 60.0 => format!("{}s", (s * 10.0).round() / 10.0),
        s => format!("{}m{}s", (s / 60.0) as u64, (s % 60.0) as u64),
    }
}
