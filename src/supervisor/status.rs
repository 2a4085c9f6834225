//! What can be seen of the workers at a moment.

use crate::fleet::State;
use crate::process::control::Stats;
use crate::worker::{Generation, Incarnation, Slot};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Status {
    pub(crate) apps: Vec<AppStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AppStatus {
    pub(crate) name: Arc<str>,
    /// Every process that is not cleaned up yet.
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) slots: Vec<SlotStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkerStatus {
    pub(crate) slot: Slot,
    pub(crate) incarnation: Incarnation,
    pub(crate) generation: Generation,
    /// Of the process that was started.
    pub(crate) pid: Option<u32>,
    pub(crate) state: State,
    /// Why it is in this state, for people.
    pub(crate) reason: String,
    /// When it came into this state, since the supervisor's start.
    pub(crate) since: Duration,
    /// Its main socket, once known.
    pub(crate) socket: Option<Arc<str>>,
    /// The newest it said of itself.
    pub(crate) stats: Option<Stats>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SlotStatus {
    pub(crate) slot: Slot,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// How the last process in it ended.
    pub(crate) last_exit: Option<String>,
    /// Its last lines of stderr.
    pub(crate) last_words: Arc<[String]>,
    /// When it starts again, since the supervisor's start, if it backs off.
    pub(crate) retry_at: Option<Duration>,
}

impl AppStatus {
    pub(crate) fn ready(&self) -> usize {
        self.workers.iter().filter(|worker| worker.state == State::Ready).count()
    }
}
