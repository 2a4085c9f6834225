//! Whether a worker that was ready still is.

use super::backoff::after;
use super::rules::{PROBE_LOST, brief};
use super::{Action, Alarm, Fleet, Role, State};
use crate::worker::Incarnation;
use log::Level;
use std::time::Duration;

/// Between two looks at an external worker that hangs: nothing depends on it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two checks of an external worker that has hung up: a process that dies closes its connections one after
/// the other, so its socket may still have taken the first one.
const LEAVING_INTERVAL: Duration = Duration::from_millis(100);
/// For a heart's first beat, beside the time-out: whoever has just begun to serve may have much to do.
const FIRST_BEAT: Duration = Duration::from_secs(2);

/// Without a channel a worker ends by itself before long.
const CANNOT_DIAL_IN: &str = "has given up root and cannot dial in any more";

impl Fleet {
    /// It became ready: from now on it must show that it is well.
    pub(super) fn watch(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let check = worker.health.check;
        let next = Some(after(now, worker.policy.health.interval));
        worker.health = super::worker::Pulse { check, next, ..Default::default() };
        self.listen_for_heart(incarnation);
    }

    /// Who has a channel has a heart. It may have stood still before it was ever heard.
    fn listen_for_heart(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.connected && w.is_up()) else { return };
        let limit = worker.policy.health.heartbeat_timeout.saturating_add(FIRST_BEAT);
        worker.health.due = Some(after(now, limit));
    }

    /// It has a channel, perhaps anew.
    pub(super) fn said_hello(&mut self, incarnation: Incarnation) {
        self.with(incarnation, |w| {
            w.connected = true;
            w.leaves_at = None;
        });
        self.listen_for_heart(incarnation);
    }

    pub(super) fn heartbeat(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_up()) else { return };
        worker.health.due = Some(after(now, worker.policy.health.heartbeat_timeout));
        worker.health.stopped = false;
        self.heal(incarnation);
    }

    /// Whose heart was heard must be heard again: one that hangs does not even dial in.
    pub(super) fn hung_up(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        worker.connected = false;
        let mute = worker.mute;
        worker.health.due = worker.redial_limit(now);
        if worker.policy.external {
            self.guest_hung_up(incarnation);
        }
        if mute {
            self.wear_out(incarnation, CANNOT_DIAL_IN.to_owned());
        }
    }

    /// Its process has another user than it was started as. While its channel lasts that is no trouble.
    pub(super) fn renounced(&mut self, incarnation: Incarnation, user: &str) {
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_alive() && !w.policy.external) else {
            return;
        };
        let connected = worker.connected;
        let is_news = !std::mem::replace(&mut worker.mute, true);
        if is_news {
            let text = format!(
                "its process has given up root for {user}: it can never dial in again, and is replaced after an upgrade of the \
                 proxy; write `user: {user}` instead"
            );
            self.note(Level::Warn, incarnation, &text);
        }
        if !connected {
            if let Some(worker) = self.workers.get_mut(&incarnation) {
                worker.health.due = None;
                worker.health.stopped = false;
            }
            self.heal(incarnation);
            self.wear_out(incarnation, CANNOT_DIAL_IN.to_owned());
        }
    }

    pub(super) fn check(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        worker.health.check += 1;
        // Asked again when no answer comes.
        worker.health.next = Some(after(now, worker.policy.health.timeout.saturating_add(PROBE_LOST)));
        let attempt = worker.health.check;
        self.actions.push_back(Action::Check { incarnation, attempt });
    }

    pub(super) fn checked(&mut self, incarnation: Incarnation, attempt: u32, answer: Result<(), String>) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_up()) else { return };
        let (pulse, rule) = (&mut worker.health, &worker.policy.health);
        if pulse.check != attempt || pulse.next.is_none() {
            return;
        }
        let is_leaving = worker.leaves_at.is_some();
        pulse.next = Some(after(now, if is_leaving { LEAVING_INTERVAL.min(rule.interval) } else { rule.interval }));
        match answer {
            Ok(()) => {
                pulse.bad = 0;
                pulse.good = pulse.good.saturating_add(1);
                if pulse.good >= rule.healthy_threshold {
                    pulse.failing = false;
                    self.heal(incarnation);
                }
            }
            Err(_) if is_leaving => self.let_go(incarnation, "hung up and does not answer"),
            Err(why) => {
                pulse.good = 0;
                pulse.bad = pulse.bad.saturating_add(1);
                if pulse.bad >= rule.unhealthy_threshold {
                    pulse.failing = true;
                    if worker.state != State::Unhealthy {
                        worker.reason = format!("its health check fails: {why}");
                    }
                    self.sicken(incarnation);
                }
            }
        }
    }

    /// Takes a worker out of the pool that does not answer.
    pub(super) fn sicken(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        if worker.state == State::Unhealthy || !worker.is_up() {
            return;
        }
        let limit = worker.policy.health.unhealthy_timeout;
        worker.deadline = Some(after(now, limit));
        worker.proven_at = None;
        let reason = match worker.health.stopped {
            true => {
                let silent = brief(worker.policy.health.heartbeat_timeout);
                format!("its event loop stands still: no sign of it for {silent}")
            }
            false => worker.reason.clone(),
        };
        let (slot, role) = (worker.slot, worker.role);
        self.enter(incarnation, State::Unhealthy, &reason);
        if role == Role::Successor {
            // Nobody waits for it.
            return self.kill(incarnation, &reason);
        }
        let then = match self.is_external() {
            true => String::new(),
            false => format!(", and is killed in {}", brief(limit)),
        };
        self.note(Level::Warn, incarnation, &format!("{reason}; it gets no request{then}"));
        let name = self.name(incarnation);
        self.alarm(Alarm::Hung, Some(slot), true, &format!("{name}: {reason}"));
    }

    fn heal(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        if worker.state != State::Unhealthy || worker.health.is_sick() {
            return;
        }
        let slot = worker.slot;
        let state = match worker.cordon {
            Some(limit) if limit > now => {
                worker.deadline = Some(limit);
                State::Cordoned
            }
            Some(_) => {
                self.alarm(Alarm::Hung, Some(slot), false, "it answers again");
                return self.retire(incarnation, false, "is not needed any more");
            }
            None => {
                worker.deadline = Some(after(now, worker.policy.min_uptime));
                State::Ready
            }
        };
        self.enter(incarnation, state, "it answers again");
        self.note(Level::Info, incarnation, "answers again");
        self.alarm(Alarm::Hung, Some(slot), false, "it answers again");
    }

    /// It had its time.
    pub(super) fn give_up(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        if worker.policy.external {
            // Not ours to kill: it may stand there until it answers, or its connection breaks.
            worker.deadline = Some(after(now, worker.policy.health.unhealthy_timeout.max(LOOK_AGAIN)));
            return;
        }
        // Whose heart beats does not hang: its check says what is wrong.
        let beats = worker.health.due.is_some() && !worker.health.stopped;
        let how = if beats { "unhealthy" } else { "hung" };
        let reason = format!("{how} for {}: {}", brief(worker.policy.health.unhealthy_timeout), worker.reason);
        let slot = worker.slot;
        if !beats {
            self.actions.push_back(Action::Examine { incarnation });
        }
        self.kill(incarnation, &reason);
        self.alarm(Alarm::Hung, Some(slot), false, "it was killed");
    }
}
