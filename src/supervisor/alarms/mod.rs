//! What may call for a person: told once when it begins, again after each `repeat` while it lasts, and once when it
//! is over; as a line of the log, a metric, an HTTP request and a program.
//!
//! ```ignore
//! let alarms = Alarms::new(policy);            // a handle, cheap to clone
//! let _running = alarms.start();               // in a Tokio runtime; until it is dropped
//! alarms.raise(Raised { kind, app, slot, detail });   // again and again is the same alarm
//! alarms.clear(kind, &app, slot);              // also when it was never raised
//! alarms.observe(&snapshot);                   // once a second: rules on values, and repeats
//! ```
//!
//! An alarm is known by kind, app and slot. What is active stands in a [`book`], pure like the [`rules`] that raise
//! alarms from values; both get the time handed in. Nothing here makes its caller wait: the tasks of [`delivery`] each
//! have a bounded queue, and a notice that finds it full is dropped and counted.

mod book;
mod delivery;
mod metrics;
mod rules;
#[cfg(test)]
mod tests;
mod watch;
mod webhook;

pub(super) use metrics::register;
pub(crate) use rules::{AppSample, DiskSample, Rules, Snapshot, WorkerSample};
pub(super) use watch::watch;
pub(crate) use webhook::Webhook;

use super::alarm_event;
use crate::worker::Slot;
use book::{Book, Moment, Notice, Status};
use delivery::{Outlet, Outlets};
use rules::{Change, Judge};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::AbortHandle;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A worker holds much memory.
    Memory,
    /// A worker's event loop is busy nearly all the time.
    Elu,
    /// A worker's event loop is late.
    Lag,
    /// A slot's workers end again and again.
    CrashLoop,
    RolloutFailed,
    /// A worker does not answer any more.
    Hung,
    CannotScale,
    /// One worker is busy while the others are not.
    Skew,
    /// Requests found the queue full, or waited in it too long.
    QueueOverflow,
    /// Lines of output were dropped.
    LogDrops,
    /// A disk is nearly full.
    Disk,
}

impl Kind {
    pub(crate) const ALL: [Kind; 11] = [
        Kind::Memory,
        Kind::Elu,
        Kind::Lag,
        Kind::CrashLoop,
        Kind::RolloutFailed,
        Kind::Hung,
        Kind::CannotScale,
        Kind::Skew,
        Kind::QueueOverflow,
        Kind::LogDrops,
        Kind::Disk,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Memory => "memory",
            Kind::Elu => "elu",
            Kind::Lag => "lag",
            Kind::CrashLoop => "crash-loop",
            Kind::RolloutFailed => "rollout-failed",
            Kind::Hung => "hung",
            Kind::CannotScale => "cannot-scale",
            Kind::Skew => "skew",
            Kind::QueueOverflow => "queue-overflow",
            Kind::LogDrops => "log-drops",
            Kind::Disk => "disk",
        }
    }
}

/// An alarm that begins, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raised {
    pub(crate) kind: Kind,
    /// Empty when it is about the proxy itself.
    pub(crate) app: Arc<str>,
    /// `None` when it is about the app as a whole.
    pub(crate) slot: Option<Slot>,
    /// For people; may have several lines.
    pub(crate) detail: String,
}

/// The fleet's own alarms come through the keeper.
impl alarm_event::Hook for Alarms {
    fn raise(&self, raised: alarm_event::Raised) {
        let alarm_event::Raised { kind, app, slot, detail } = raised;
        Alarms::raise(self, Raised { kind: kind.into(), app, slot, detail });
    }

    fn clear(&self, kind: alarm_event::Kind, app: &Arc<str>, slot: Option<Slot>) {
        Alarms::clear(self, kind.into(), app, slot);
    }
}

impl From<alarm_event::Kind> for Kind {
    fn from(kind: alarm_event::Kind) -> Kind {
        match kind {
            alarm_event::Kind::CrashLoop => Kind::CrashLoop,
            alarm_event::Kind::FailedRollout => Kind::RolloutFailed,
            alarm_event::Kind::Hung => Kind::Hung,
            alarm_event::Kind::Memory => Kind::Memory,
            alarm_event::Kind::CannotScale => Kind::CannotScale,
            alarm_event::Kind::Skew => Kind::Skew,
        }
    }
}

/// What an alarm is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    app: Arc<str>,
    slot: Option<Slot>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        match (&*self.app, self.slot) {
            ("", _) => Ok(()),
            (app, None) => write!(f, " {app}"),
            (app, Some(slot)) => write!(f, " {app}[{slot}]"),
        }
    }
}

/// When alarms are raised by values, and who hears of them.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Between two notices of an alarm that lasts.
    pub(crate) repeat: Duration,
    pub(crate) rules: Rules,
    pub(crate) webhook: Option<Webhook>,
    /// Program and arguments, run for each notice; empty for none.
    pub(crate) exec: Vec<String>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { repeat: Duration::from_secs(3600), rules: Rules::default(), webhook: None, exec: Vec::new() }
    }
}

/// A handle to all alarms.
#[derive(Clone, Debug)]
pub(crate) struct Alarms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    policy: Policy,
    state: Mutex<State>,
    outlets: OnceLock<Outlets>,
}

#[derive(Debug)]
struct State {
    book: Book,
    judge: Judge,
}

impl Alarms {
    pub(crate) fn new(policy: Policy) -> Alarms {
        let state = State { book: Book::new(policy.repeat), judge: Judge::new(policy.rules.clone()) };
        Alarms(Arc::new(Shared { epoch: Instant::now(), policy, state: Mutex::new(state), outlets: OnceLock::new() }))
    }

    /// Starts the tasks that deliver; they end when what is returned is dropped. Alarms raised before are in the log
    /// only, until they are told again.
    pub(super) fn start(&self) -> Running {
        let mut running = Running(Vec::new());
        let outlets = self.0.outlets.get_or_init(|| {
            let Policy { webhook, exec, .. } = &self.0.policy;
            let mut outlets = Vec::new();
            if let Some(webhook) = webhook {
                let (outlet, task) = delivery::start("webhook", delivery::Way::Webhook(webhook.clone().into()));
                outlets.push(outlet);
                running.0.push(task);
            }
            if !exec.is_empty() {
                let (outlet, task) = delivery::start("exec", delivery::Way::Exec(exec.clone().into()));
                outlets.push(outlet);
                running.0.push(task);
            }
            Outlets(outlets)
        });
        log::debug!("alarms go to {} places beside the log", outlets.0.len());
        running
    }

    pub(crate) fn raise(&self, raised: Raised) {
        let notice = self.state().book.raise(raised, self.moment());
        notice.into_iter().for_each(|notice| self.tell(notice));
    }

    /// It is over.
    pub(crate) fn clear(&self, kind: Kind, app: &Arc<str>, slot: Option<Slot>) {
        let notice = self.state().book.clear(&Key { kind, app: app.clone(), slot }, self.moment());
        notice.into_iter().for_each(|notice| self.tell(notice));
    }

    /// Judges what was measured, and repeats what lasts.
    pub(crate) fn observe(&self, snapshot: &Snapshot) {
        let moment = self.moment();
        let mut notices = Vec::new();
        {
            let mut state = self.state();
            for change in state.judge.observe(snapshot, moment.at) {
                notices.extend(match change {
                    Change::Raise(raised) => state.book.raise(raised, moment),
                    Change::Clear(key) => state.book.clear(&key, moment),
                });
            }
            notices.extend(state.book.repeats(moment));
        }
        notices.into_iter().for_each(|notice| self.tell(notice));
    }

    fn tell(&self, notice: Notice) {
        // One line: the rest of the detail is for those who read the whole notice.
        let first = notice.detail.lines().next().unwrap_or_default();
        let Notice { key, status, .. } = &notice;
        match status {
            Status::Raised => log::warn!("ALARM {key}: {first}"),
            Status::Repeated => log::warn!("ALARM {key} still lasts: {first}"),
            Status::Resolved => log::info!("ALARM {key} is over: {first}"),
        }
        let notice = Arc::new(notice);
        self.outlets().for_each(|outlet| outlet.offer(&notice));
    }

    fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        self.0.outlets.get().into_iter().flat_map(|outlets| &outlets.0)
    }

    fn moment(&self) -> Moment {
        Moment { at: self.0.epoch.elapsed(), wall: SystemTime::now() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The tasks that deliver, while it lives.
#[derive(Debug)]
pub(super) struct Running(Vec<AbortHandle>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
