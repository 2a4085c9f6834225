//! When a worker that is well is replaced all the same.

use super::{Alarm, Fleet, Load, Role, State};
use crate::worker::{Incarnation, counted};
use log::Level;

/// Shares of the memory limit: a warning, its end, and where there is no time for a drain.
const WARN: f64 = 0.8;
const CALM: f64 = 0.75;
const HARD: f64 = 1.5;

impl Fleet {
    pub(super) fn check_limits(&mut self, incarnation: Incarnation, load: Load) {
        let Some(worker) = self.workers.get(&incarnation) else { return };
        let limits = worker.policy.limits.clone();
        if let (Some(most), Some(rss)) = (limits.memory, load.rss) {
            self.check_memory(incarnation, most, rss);
        }
        let jitter = self.workers.get(&incarnation).map_or(1.0, |w| w.jitter);
        if let Some(most) = limits.requests
            && load.requests as f64 >= most as f64 * jitter
        {
            self.wear_out(incarnation, format!("has served {} (max_requests)", counted(load.requests, "request")));
        }
    }

    fn check_memory(&mut self, incarnation: Incarnation, most: u64, rss: u64) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        let share = rss as f64 / most.max(1) as f64;
        let text = format!("uses {} of {} MiB (max_memory_restart)", rss >> 20, most >> 20);
        let (slot, state) = (worker.slot, worker.state);
        let warned = worker.warned;
        worker.warned = share >= WARN || (warned && share >= CALM);
        if worker.warned != warned {
            let level = if warned { Level::Info } else { Level::Warn };
            self.note(level, incarnation, &text);
            let name = self.name(incarnation);
            self.alarm(Alarm::Memory, Some(slot), !warned, &format!("{name} {text}"));
        }
        if share >= HARD && !matches!(state, State::Stopping | State::Killing | State::Exited) {
            self.note(Level::Error, incarnation, &format!("{text}: too much to wait for"));
            self.kill(incarnation, &text);
        } else if share > 1.0 {
            self.wear_out(incarnation, text);
        }
    }

    /// Another is to take its seat.
    pub(super) fn wear_out(&mut self, incarnation: Incarnation, why: String) {
        let Some(worker) = self.workers.get_mut(&incarnation) else { return };
        if worker.role != Role::Seated || worker.replace.is_some() || worker.cordon.is_some() || !worker.is_up() {
            return;
        }
        self.note(Level::Info, incarnation, &format!("{why}: it is replaced"));
        if let Some(worker) = self.workers.get_mut(&incarnation) {
            worker.replace = Some(why);
        }
    }
}
