//! What can be seen of the workers at a moment.

use super::restarts::Cause;
use crate::fleet::State;
use crate::pool::{Closing, Member, Pool};
use crate::process::control::{PortState, Stats};
use crate::process::usage::Usage;
use crate::worker::{Generation, Incarnation, Slot};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Status {
    /// The supervisor's start; `None` before it.
    pub(crate) epoch: Option<Instant>,
    pub(crate) apps: Vec<AppStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AppStatus {
    pub(crate) name: Arc<str>,
    /// The one in force, and the one that is rolling out.
    pub(crate) generation: Generation,
    pub(crate) rolling: Option<Generation>,
    /// Workers that are to take new sessions, the least and the most of them.
    pub(crate) desired: u16,
    pub(crate) range: (u16, u16),
    /// Whether a person decided how many.
    pub(crate) is_manual: bool,
    /// Whether its workers are started by somebody else.
    pub(crate) is_external: bool,
    /// How the newest rollout that has ended did so.
    pub(crate) last_rollout: Option<(Generation, Result<String, String>)>,
    /// Every process that is not cleaned up yet.
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) slots: Vec<SlotStatus>,
    /// How often a slot was started again, by what had ended the process before; every cause.
    pub(crate) restarts: Vec<(Cause, u64)>,
    pub(crate) queue: Waiting,
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
    pub(crate) carried: Carried,
    /// The process that serves, where it has said so: a descendant of the other, mostly.
    pub(crate) serving_pid: Option<u32>,
    pub(crate) ports: Ports,
    /// Of all its processes, as measured in the last second.
    pub(crate) usage: Option<Usage>,
    /// Processors used in the last second.
    pub(crate) cpu: Option<f64>,
}

/// The TCP ports that a worker's servers asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ports {
    /// The main server's.
    pub(crate) main: Option<u16>,
    /// What became of the others.
    pub(crate) further: BTreeMap<u16, PortState>,
}

impl WorkerStatus {
    /// Of the process that serves; of the one that was started until that is known.
    pub(crate) fn shown_pid(&self) -> Option<u32> {
        self.serving_pid.or(self.pid)
    }

    /// What all its processes use; of the moment, until it was measured.
    pub(crate) fn used(&self) -> Option<Usage> {
        let living = self.state != State::Exited;
        self.usage.or_else(|| Usage::of(self.shown_pid()?).ok()).filter(|_| living)
    }
}

/// An app's queue, read at the moment of asking.
#[derive(Clone, Default)]
pub(crate) struct Waiting(Option<Arc<Pool>>);

/// What a worker carries, read at the moment of asking.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried(Vec<Arc<Member>>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SlotStatus {
    pub(crate) slot: Slot,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// How often it was started again, since the supervisor's start.
    pub(crate) restarts: u64,
    /// How the last process in it ended.
    pub(crate) last_exit: Option<String>,
    /// Its last lines of output.
    pub(crate) last_words: Arc<[String]>,
    /// When it starts again, since the supervisor's start, if it backs off.
    pub(crate) retry_at: Option<Duration>,
    /// In a crash loop: started again only now and then.
    pub(crate) is_failed: bool,
}

impl Waiting {
    pub(super) fn new(pool: Arc<Pool>) -> Waiting {
        Waiting(Some(pool))
    }

    /// Requests that found the queue full or waited too long, since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.0.as_ref().map_or(0, |pool| pool.queue().refused())
    }
}

/// By whose queue it is: a changed number is no change of the status.
impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.0.as_ref().map(Arc::as_ptr) == other.0.as_ref().map(Arc::as_ptr)
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refused", self.refused())
    }
}

impl Carried {
    pub(super) fn new(members: Vec<Arc<Member>>) -> Carried {
        Carried(members)
    }

    /// The worker as traffic knows it now.
    pub(crate) fn member(&self) -> Option<&Arc<Member>> {
        self.0.last()
    }

    /// Asks its tunnels to close, here and now.
    pub(crate) fn close_tunnels(&self, closing: Closing) {
        self.0.iter().for_each(|member| member.tunnels.close(closing));
    }

    /// Requests in flight.
    pub(crate) fn active(&self) -> u32 {
        self.0.iter().map(|member| member.load.active.load(Ordering::Relaxed)).sum()
    }

    /// Waiting polls and open tunnels.
    pub(crate) fn parked(&self) -> u32 {
        self.0.iter().map(|member| member.load.parked.load(Ordering::Relaxed)).sum()
    }
}

/// By whose load it is: a changed number is no change of the status.
impl PartialEq for Carried {
    fn eq(&self, other: &Carried) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl AppStatus {
    pub(crate) fn ready(&self) -> usize {
        self.workers.iter().filter(|worker| worker.state == State::Ready).count()
    }
}
