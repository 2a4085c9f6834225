//! How many seats there are, and which one goes.

use super::backoff::after;
use super::scaling::{Decision, Seen};
use super::{Alarm, Fleet, Goal, Load, Occupant, Role, State, Surroundings};
use crate::worker::{Incarnation, Slot, counted};
use log::Level;
use std::cmp::Reverse;

/// A worker this busy, while the others use less than half of the target, is a case of its own.
const HOT: f64 = 0.9;

impl Fleet {
    /// A person wants so many.
    pub(super) fn scale(&mut self, to: Option<u16>) {
        self.manual = to.map(|to| to.max(1));
        self.resize();
    }

    /// Fits the number to the rules in force.
    pub(super) fn resize(&mut self) {
        let policy = self.policy();
        let range = (policy.instances, policy.most());
        self.desired = self.manual.unwrap_or_else(|| self.desired.clamp(range.0, range.1));
    }

    /// Once a second: whether the load asks for another number.
    pub(super) fn second(&mut self, around: Surroundings) {
        if self.goal != Goal::Run {
            return;
        }
        self.see_skew();
        let policy = self.policy();
        let (least, most) = (policy.instances, policy.most());
        if self.manual.is_some() || least == most || policy.external || self.rollout.is_some() {
            return self.scaler.forget(self.now);
        }
        let now = self.now;
        let up = self.workers.values().filter(|w| w.is_up() && w.role == Role::Seated);
        let seen = up.map(|w| Seen {
            busy: w.busy,
            sessions: w.load.map_or(0, |load| load.sessions),
            rss: w.load.and_then(|load| load.rss),
            adult: w.ready_at.is_some_and(|at| after(at, policy.scaling.young) <= now),
            open: w.state == State::Ready,
        });
        let seen: Vec<Seen> = seen.collect();
        let decision = self.scaler.decide(&policy.scaling, (least, most), self.desired, &seen, around, now);
        match decision {
            Decision::Hold => {}
            Decision::To(to, why) => {
                let text = format!("{} instead of {}: {why}", counted(to, "worker"), self.desired);
                self.note_app(Level::Info, &text);
                self.desired = to.clamp(least, most);
            }
            Decision::Blocked(why) => {
                self.note_app(Level::Warn, &why);
                self.alarm(Alarm::CannotScale, None, true, &why);
            }
            Decision::Unblocked => self.alarm(Alarm::CannotScale, None, false, "the workers suffice"),
        }
    }

    /// Opens and closes seats until there are as many as wanted.
    pub(super) fn fit_size(&mut self) {
        let wanted = usize::from(self.desired);
        while self.open_seats().count() < wanted {
            if !self.uncordon() {
                let slot = (0..).map(Slot).find(|slot| !self.slots.contains_key(slot));
                let Some(slot) = slot else { return };
                self.seat_mut(slot);
            }
        }
        while self.open_seats().count() > wanted {
            if !self.close_one() {
                return;
            }
        }
    }

    fn open_seats(&self) -> impl Iterator<Item = Slot> + '_ {
        let cordoned = |occupant| match occupant {
            Occupant::Worker(incarnation) => self.workers.get(&incarnation).is_some_and(|w| w.cordon.is_some()),
            _ => false,
        };
        self.slots.iter().filter(move |(_, seat)| !cordoned(seat.occupant)).map(|(slot, _)| *slot)
    }

    /// Who is still there comes back without a boot: the one with the most sessions first.
    fn uncordon(&mut self) -> bool {
        let wanted = self.wanted();
        let back = |w: &&super::Worker| w.state == State::Cordoned && w.generation == wanted;
        let best = self.workers.values().filter(back).max_by_key(|w| (sessions(w), Reverse(w.slot)));
        let Some(incarnation) = best.map(|w| w.incarnation) else { return false };
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.cordon = None;
            worker.quiet = 0;
            worker.deadline = Some(after(now, worker.policy.min_uptime));
        }
        self.enter(incarnation, State::Ready, "is needed again");
        self.note(Level::Info, incarnation, "takes new sessions again");
        true
    }

    /// One seat fewer: one without a ready worker if there is any, else the one with the fewest
    /// sessions; of equals the highest, since apps give slot 0 extra work.
    fn close_one(&mut self) -> bool {
        let open: Vec<Slot> = self.open_seats().collect();
        let rank = |slot: &Slot| {
            let worker = match self.slots.get(slot).map(|seat| seat.occupant) {
                Some(Occupant::Worker(incarnation)) => self.workers.get(&incarnation),
                _ => None,
            };
            (worker.is_some_and(|w| w.state == State::Ready), worker.map_or(0, sessions), Reverse(*slot))
        };
        let Some(slot) = open.into_iter().min_by_key(rank) else { return false };
        let Some(Occupant::Worker(incarnation)) = self.slots.get(&slot).map(|seat| seat.occupant) else {
            self.drop_seat(slot);
            return true;
        };
        match self.workers.get(&incarnation).map(|w| w.state) {
            Some(State::Ready) => self.cordon(incarnation),
            _ => self.retire(incarnation, false, "is not needed any more"),
        }
        true
    }

    fn cordon(&mut self, incarnation: Incarnation) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let limit = after(now, worker.policy.scaling.cordon_timeout);
        worker.cordon = Some(limit);
        worker.deadline = Some(limit);
        worker.quiet = 0;
        let slot = worker.slot;
        self.enter(incarnation, State::Cordoned, "is not needed now, but keeps its sessions");
        self.note(Level::Info, incarnation, "takes no new sessions: it is not needed now");
        if let Some(successor) = self.slots.get_mut(&slot).and_then(|seat| seat.successor.take()) {
            self.dismiss(successor);
        }
    }

    /// The slot is not wanted any more.
    pub(super) fn drop_seat(&mut self, slot: Slot) {
        let Some(seat) = self.slots.remove(&slot) else { return };
        if seat.history.looping() {
            self.alarm(Alarm::CrashLoop, Some(slot), false, "the slot is not needed any more");
        }
        if let Some(successor) = seat.successor {
            self.dismiss(successor);
        }
    }

    /// A successor never had a request.
    fn dismiss(&mut self, incarnation: Incarnation) {
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.role = Role::Retired;
            if worker.state != State::Killing {
                self.kill(incarnation, "is not needed any more");
            }
        }
    }

    /// What a worker did in the last second.
    pub(super) fn measured(&mut self, incarnation: Incarnation, load: Load) {
        let Some(worker) = self.workers.get_mut(&incarnation).filter(|w| w.is_alive()) else { return };
        let busy = super::scaling::busy(&load, &worker.policy.scaling);
        worker.busy = if worker.load.is_some() { 0.7 * worker.busy + 0.3 * busy } else { busy };
        worker.load = Some(load);
        if worker.state == State::Cordoned {
            let empty = load.sessions == 0 && load.carried.active == 0 && load.carried.parked == 0;
            worker.quiet = if empty { worker.quiet + 1 } else { 0 };
            if worker.quiet >= 2 {
                return self.retire(incarnation, false, "has no session any more");
            }
        }
        self.check_limits(incarnation, load);
    }

    /// One busy worker among idle ones is no load that more workers would share.
    fn see_skew(&mut self) {
        let (now, policy) = (self.now, self.policy());
        let up: Vec<(Incarnation, f64, bool)> = self
            .workers
            .values()
            .filter(|w| w.serves() && w.load.is_some())
            .map(|w| (w.incarnation, w.busy, w.hot))
            .collect();
        let sum: f64 = up.iter().map(|(_, busy, _)| busy).sum();
        for (incarnation, busy, was) in &up {
            let others = (sum - busy) / (up.len().max(2) - 1) as f64;
            let apart = up.len() > 1 && *busy >= HOT && others < policy.scaling.aim() / 2.0;
            let keeps = *was && up.len() > 1 && *busy >= policy.scaling.aim();
            let Some(worker) = self.workers.get_mut(incarnation) else { continue };
            let slot = worker.slot;
            worker.hot_since = if apart { worker.hot_since.or(Some(now)) } else { None };
            let long = worker.hot_since.is_some_and(|at| after(at, policy.scaling.up_window) <= now);
            let hot = long || keeps;
            if hot == *was {
                continue;
            }
            worker.hot = hot;
            let (busy, others) = ((busy * 100.0).round(), (others * 100.0).round());
            let text = match hot {
                true => format!("is {busy} % busy while the others are at {others} %: it gets no new session"),
                false => "is no busier than the others any more".to_owned(),
            };
            self.note(if hot { Level::Warn } else { Level::Info }, *incarnation, &text);
            let text = format!("{} {text}", self.name(*incarnation));
            self.alarm(Alarm::Skew, Some(slot), hot, &text);
        }
    }
}

fn sessions(worker: &super::Worker) -> u64 {
    worker.load.map_or(0, |load| load.sessions.max(u64::from(load.carried.parked)))
}
