//! The handle to all alarms, and the tasks that deliver.

use super::book::{Moment, Notice, Status};
use super::delivery::{self, Outlet, Outlets};
use super::kind::{Key, Kind, Raised};
use super::rules::Measurements;
use super::saved::Saved;
use super::state::{Policy, State};
use crate::process::state;
use crate::worker::Slot;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::SystemTime;
use tokio::sync::watch as channel;
use tokio::task::AbortHandle;

/// A handle to all alarms.
#[derive(Clone, Debug)]
pub(crate) struct Alarms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: Policy,
    state: Mutex<State>,
    outlets: OnceLock<Outlets>,
    /// Says true while nothing is delivered.
    paused: channel::Sender<bool>,
}

impl Alarms {
    pub(crate) fn new(policy: Policy) -> Alarms {
        let state = Mutex::new(State::new(&policy));
        Alarms(Arc::new(Shared { policy, state, outlets: OnceLock::new(), paused: channel::channel(false).0 }))
    }

    /// Starts the tasks that deliver; they end when what is returned is dropped. Alarms raised before are in the log
    /// only, until they are told again; what another process has left is delivered.
    pub(in crate::supervisor) fn start(&self) -> Running {
        let mut running = Running(Vec::new());
        let outlets = self.0.outlets.get_or_init(|| {
            let Policy { webhook, exec, .. } = &self.0.policy;
            let mut outlets = Vec::new();
            let start = |name, way| delivery::start(name, way, self.0.paused.subscribe());
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

    /// Whether what is raised now is delivered.
    pub(crate) fn is_started(&self) -> bool {
        self.0.outlets.get().is_some()
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
    pub(in crate::supervisor) fn observe(&self, measurements: &Measurements) {
        self.change(|state, now| state.observe(measurements, now));
    }

    /// While paused, nothing is judged, repeated or delivered: another process may take over what is active and what
    /// is still to be delivered. What is being delivered at the moment may arrive twice then.
    pub(in crate::supervisor) fn pause(&self, paused: bool) {
        self.state().paused = paused;
        self.0.paused.send_replace(paused);
    }

    /// What another process must know to go on.
    pub(in crate::supervisor) fn save(&self) -> Saved {
        self.state().save()
    }

    /// Differs when it is time to save.
    pub(in crate::supervisor) fn fingerprint(&self) -> (u64, usize) {
        let state = self.state();
        (state.book.notices(), state.under_way().count())
    }

    /// Goes on with the alarms of another process; to be called before the start. Those of apps that are not `known`
    /// are left out.
    pub(in crate::supervisor) fn restore(&self, saved: Saved, known: impl Fn(&str) -> bool) {
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
        // One line, which those who ship logs keep together; with all of it when it begins.
        let mut lines = notice.detail.lines().map(str::trim_end).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let Notice { key, status, .. } = &*notice;
        match status {
            Status::Raised => {
                let all = lines.fold(first.to_owned(), |all, line| all + " | " + line.trim_start());
                log::warn!("ALARM {key}: {all}");
            }
            Status::Repeated => log::warn!("ALARM {key} still lasts: {first}"),
            Status::Resolved => log::info!("ALARM {key} is over: {first}"),
        }
        self.outlets().for_each(|outlet| outlet.offer(&notice));
    }

    pub(super) fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        self.0.outlets.get().into_iter().flat_map(|outlets| &outlets.0)
    }

    fn moment(&self) -> Moment {
        Moment { at: state::monotonic(), wall: SystemTime::now() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The tasks that deliver, while it lives.
#[derive(Debug)]
pub(in crate::supervisor) struct Running(Vec<AbortHandle>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
