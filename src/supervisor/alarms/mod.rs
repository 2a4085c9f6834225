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
mod saved;
#[cfg(test)]
mod tests;
mod watch;
mod webhook;

pub(super) use metrics::register;
pub(crate) use rules::{AppSample, DiskSample, Rules, Snapshot, WorkerSample};
pub(super) use saved::Saved;
pub(super) use watch::watch;
pub(crate) use webhook::Webhook;

use super::alarm_event;
use crate::process::state;
use crate::worker::Slot;
use book::{Book, Moment, Notice, Status};
use delivery::{Outlet, Outlets};
use rules::{Change, Judge};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::watch as channel;
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
    policy: Policy,
    state: Mutex<State>,
    outlets: OnceLock<Outlets>,
    /// Says true while nothing is told.
    hush: channel::Sender<bool>,
}

#[derive(Debug)]
struct State {
    book: Book,
    judge: Judge,
    hush: bool,
    /// Delivered when they are gone.
    sent: Vec<Weak<Notice>>,
    /// Of another process, to be delivered from the start on.
    inherited: Vec<Arc<Notice>>,
}

impl State {
    fn new(policy: &Policy) -> State {
        State {
            book: Book::new(policy.repeat),
            judge: Judge::new(policy.rules.clone()),
            hush: false,
            sent: Vec::new(),
            inherited: Vec::new(),
        }
    }

    fn observe(&mut self, snapshot: &Snapshot, now: Moment) -> Vec<Notice> {
        if self.hush {
            return Vec::new();
        }
        let mut notices = Vec::new();
        for change in self.judge.observe(snapshot, now.at) {
            notices.extend(match change {
                Change::Raise(raised) => self.book.raise(raised, now),
                Change::Clear(key) => self.book.clear(&key, now),
            });
        }
        notices.extend(self.book.repeats(now));
        notices
    }

    /// Takes up what another process has left.
    fn restore(&mut self, saved: Saved, now: Moment, known: impl Fn(&str) -> bool) {
        let notices = saved.put(&mut self.book, &mut self.judge, now, known);
        self.inherited = notices.into_iter().map(|notice| self.send(notice)).collect();
    }

    /// From here on it is under way for as long as somebody holds it.
    fn send(&mut self, notice: Notice) -> Arc<Notice> {
        self.sent.retain(|sent| sent.strong_count() > 0);
        let notice = Arc::new(notice);
        self.sent.push(Arc::downgrade(&notice));
        notice
    }

    fn under_way(&self) -> impl Iterator<Item = Arc<Notice>> {
        self.sent.iter().filter_map(Weak::upgrade)
    }
}

impl Alarms {
    pub(crate) fn new(policy: Policy) -> Alarms {
        let state = Mutex::new(State::new(&policy));
        Alarms(Arc::new(Shared { policy, state, outlets: OnceLock::new(), hush: channel::channel(false).0 }))
    }

    /// Starts the tasks that deliver; they end when what is returned is dropped. Alarms raised before are in the log
    /// only, until they are told again; what another process has left is delivered.
    pub(super) fn start(&self) -> Running {
        let mut running = Running(Vec::new());
        let outlets = self.0.outlets.get_or_init(|| {
            let Policy { webhook, exec, .. } = &self.0.policy;
            let mut outlets = Vec::new();
            let start = |name, way| delivery::start(name, way, self.0.hush.subscribe());
            if let Some(webhook) = webhook {
                let (outlet, task) = start("webhook", delivery::Way::Webhook(webhook.clone().into()));
                outlets.push(outlet);
                running.0.push(task);
            }
            if !exec.is_empty() {
                let (outlet, task) = start("exec", delivery::Way::Exec(exec.clone().into()));
                outlets.push(outlet);
                running.0.push(task);
            }
            Outlets(outlets)
        });
        log::debug!("alarms go to {} places beside the log", outlets.0.len());
        for notice in std::mem::take(&mut self.state().inherited) {
            outlets.0.iter().for_each(|outlet| outlet.offer(&notice));
        }
        running
    }

    pub(crate) fn raise(&self, raised: Raised) {
        self.change(|state, now| state.book.raise(raised, now).into_iter().collect());
    }

    /// It is over.
    pub(crate) fn clear(&self, kind: Kind, app: &Arc<str>, slot: Option<Slot>) {
        let key = Key { kind, app: app.clone(), slot };
        self.change(|state, now| state.book.clear(&key, now).into_iter().collect());
    }

    /// Judges what was measured, and repeats what lasts.
    pub(super) fn observe(&self, snapshot: &Snapshot) {
        self.change(|state, now| state.observe(snapshot, now));
    }

    /// While `hush` nothing is judged, repeated or delivered: another process may take over what is active and what
    /// is still to be delivered. What is being delivered at the moment may arrive twice then.
    pub(super) fn hush(&self, hush: bool) {
        self.state().hush = hush;
        self.0.hush.send_replace(hush);
    }

    /// What another process must know to go on.
    pub(super) fn save(&self) -> Saved {
        Saved::of(&self.state())
    }

    /// Differs when it is time to save.
    pub(super) fn print(&self) -> (u64, usize) {
        let state = self.state();
        (state.book.notices(), state.under_way().count())
    }

    /// Goes on with the alarms of another process; to be called before the start. Those of apps that are not `known`
    /// are left out.
    pub(super) fn restore(&self, saved: Saved, known: impl Fn(&str) -> bool) {
        self.state().restore(saved, self.moment(), known);
    }

    fn change(&self, change: impl FnOnce(&mut State, Moment) -> Vec<Notice>) {
        let notices: Vec<_> = {
            let mut state = self.state();
            change(&mut state, self.moment()).into_iter().map(|notice| state.send(notice)).collect()
        };
        notices.into_iter().for_each(|notice| self.tell(notice));
    }

    fn tell(&self, notice: Arc<Notice>) {
        // One line: the rest of the detail is for those who read the whole notice.
        let first = notice.detail.lines().next().unwrap_or_default();
        let Notice { key, status, .. } = &*notice;
        match status {
            Status::Raised => log::warn!("ALARM {key}: {first}"),
            Status::Repeated => log::warn!("ALARM {key} still lasts: {first}"),
            Status::Resolved => log::info!("ALARM {key} is over: {first}"),
        }
        self.outlets().for_each(|outlet| outlet.offer(&notice));
    }

    fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        self.0.outlets.get().into_iter().flat_map(|outlets| &outlets.0)
    }

    fn moment(&self) -> Moment {
        Moment { at: state::monotonic(), wall: SystemTime::now() }
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
