//! While no worker of an app is ready or coming up, one starts all the same: no back-off and no crash loop keeps
//! requests waiting for longer than a moment, as long as the app's workers become ready at all.

use super::backoff::after;
use super::{Fleet, Goal, Role, State, Time};
use crate::worker::Slot;
use std::time::Duration;

/// A worker that was ready for this long has served: the next one starts at once.
const SERVED: Duration = Duration::from_secs(1);
/// Before that, the pause doubles from the first to the longest, or an app that ends as soon as it is ready would spin.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Fleet {
    /// The slot to start next although it backs off or has failed, and when.
    pub(super) fn relief(&self) -> Option<(Time, Slot)> {
        if self.goal != Goal::Run || self.is_external() || self.is_attended() {
            return None;
        }
        let waiting = self.slots.iter().filter(|(_, seat)| seat.due().is_some());
        waiting.filter_map(|(slot, seat)| Some((seat.relief?, *slot))).min()
    }

    /// Whether some worker takes requests, or is about to.
    fn is_attended(&self) -> bool {
        let attends = |state| matches!(state, State::Starting | State::Listening | State::Ready);
        self.workers.values().any(|worker| worker.role == Role::Seated && attends(worker.state))
    }

    /// When a slot whose worker has ended may be started if there is no other; `None` if that worker never was ready.
    pub(super) fn relief_after(&mut self, ready_for: Option<Duration>) -> Option<Time> {
        let ready_for = ready_for?;
        #[cfg(test)]
        if self.planted == super::simulation::Bug::NoRelief {
            return None;
        }
        self.hasty = if ready_for >= SERVED { 0 } else { self.hasty.saturating_add(1) };
        let pause = match self.hasty.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_PAUSE.saturating_mul(1 << doublings.min(8)).min(LONGEST_PAUSE),
        };
        Some(after(self.now, pause))
    }
}
