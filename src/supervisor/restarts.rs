//! How often slots were started again, and after what.

use crate::fleet::State;
use crate::process::Exit;
use crate::worker::Slot;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// How the process before ended: few enough words for a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// The operating system could not start it.
    Spawn,
    /// It ended before it was ready.
    Start,
    /// It ended by itself.
    Exit,
    /// A signal that was not ours ended it.
    Signal,
    /// The proxy ended it: a limit, a time-out, a reload.
    Stopped,
}

impl Cause {
    pub(crate) const ALL: [Cause; 5] = [Cause::Spawn, Cause::Start, Cause::Exit, Cause::Signal, Cause::Stopped];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Cause::Spawn => "spawn",
            Cause::Start => "start",
            Cause::Exit => "exit",
            Cause::Signal => "signal",
            Cause::Stopped => "stopped",
        }
    }

    /// Of a process that ended in this state.
    fn of(state: State, exit: Exit) -> Cause {
        match (state, exit) {
            (State::Starting | State::Listening, _) => Cause::Start,
            (State::Draining | State::Stopping | State::Killing, _) => Cause::Stopped,
            (_, Exit::Signal { .. }) => Cause::Signal,
            (_, Exit::Code(_) | Exit::Unknown) => Cause::Exit,
        }
    }
}

/// The counts of one app.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Restarts {
    /// Of each slot: the cause that is due to be counted, and the count. As many as there were slots.
    slots: HashMap<Slot, (Option<Cause>, u64)>,
    causes: BTreeMap<Cause, u64>,
}

impl Restarts {
    pub(super) fn spawn_failed(&mut self, slot: Slot) {
        self.slots.entry(slot).or_default().0 = Some(Cause::Spawn);
    }

    pub(super) fn ended(&mut self, slot: Slot, state: State, exit: Exit) {
        self.slots.entry(slot).or_default().0 = Some(Cause::of(state, exit));
    }

    /// A process begins in the slot: again, when one had ended in it.
    pub(super) fn begun(&mut self, slot: Slot) {
        let (due, count) = self.slots.entry(slot).or_default();
        if let Some(cause) = due.take() {
            *count += 1;
            *self.causes.entry(cause).or_default() += 1;
        }
    }

    pub(super) fn of(&self, slot: Slot) -> u64 {
        self.slots.get(&slot).map_or(0, |(_, count)| *count)
    }

    /// Every cause, also those that never happened.
    pub(super) fn by_cause(&self) -> Vec<(Cause, u64)> {
        Cause::ALL.iter().map(|cause| (*cause, self.causes.get(cause).copied().unwrap_or(0))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_start_is_no_restart() {
        let mut restarts = Restarts::default();
        restarts.begun(Slot(0));
        restarts.begun(Slot(1));
        restarts.ended(Slot(0), State::Ready, Exit::Signal { number: 9, core: false });
        assert_eq!((restarts.of(Slot(0)), restarts.of(Slot(1))), (0, 0));
        restarts.begun(Slot(0));
        restarts.ended(Slot(0), State::Listening, Exit::Code(1));
        restarts.begun(Slot(0));
        restarts.spawn_failed(Slot(0));
        restarts.begun(Slot(0));
        restarts.ended(Slot(1), State::Killing, Exit::Signal { number: 9, core: false });
        restarts.begun(Slot(1));
        restarts.ended(Slot(1), State::Ready, Exit::Code(0));
        restarts.begun(Slot(1));
        assert_eq!((restarts.of(Slot(0)), restarts.of(Slot(1))), (3, 2));
        assert!(restarts.by_cause().iter().all(|(_, count)| *count == 1), "{:?}", restarts.by_cause());
        assert_eq!(restarts.of(Slot(7)), 0);
    }
}
