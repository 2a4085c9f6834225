//! How the proxy is, for those who ask: health endpoints, systemd.

use crate::admin::health::{AppCondition, Condition};
use crate::fleet::State;
use crate::gateway::SharedRules;
use crate::process::cause;
use crate::supervisor::{AppStatus, Control};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct ProxyHealth {
    control: Control,
    rules: SharedRules,
    stopping: Arc<AtomicBool>,
    /// Apps that had a ready worker at some time.
    were_ready: Arc<Mutex<HashSet<String>>>,
    /// Why clients are not served.
    unserved: Arc<Mutex<Option<String>>>,
}

impl ProxyHealth {
    pub(super) fn new(control: Control, rules: SharedRules) -> ProxyHealth {
        ProxyHealth { control, rules, stopping: Arc::default(), were_ready: Arc::default(), unserved: Arc::default() }
    }

    /// What the last look at the listeners found: why clients are not served, or nothing.
    pub(super) fn note_unserved(&self, why: Option<String>) {
        *self.unserved.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = why;
    }

    /// No traffic should come any more.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn condition(&self) -> Condition {
        let status = self.control.status();
        let rules = self.rules.load();
        let mut were_ready = self.were_ready.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Those in force: one that a reload removed may still have workers.
        let app = |name: &str| {
            let known: Vec<&AppStatus> = status.apps.iter().filter(|app| &*app.name == name).collect();
            let ready = known.iter().map(|app| app.ready()).sum();
            if ready > 0 && !were_ready.contains(name) {
                were_ready.insert(name.to_owned());
            }
            let workers = known.iter().map(|app| all_of(app)).sum();
            let reason = known.last().map(|app| why_not(app)).unwrap_or_default();
            AppCondition { name: name.to_owned(), ready, workers, was_ready: were_ready.contains(name), reason }
        };
        let apps = rules.pools().map(|pool| &*pool.app).map(app).collect();
        let unserved = self.unserved.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let (since_beat, directory) = (self.control.since_beat(), self.control.directory_trouble());
        Condition { since_beat, unserved, directory, stopping: self.is_stopping(), apps }
    }

    /// Whether an app's start is over: it has a ready worker, or one of its slots has failed for now.
    pub(super) fn is_settled(&self) -> bool {
        let failed = self.failed();
        self.condition().apps.iter().all(|app| app.was_ready || failed.contains(&app.name))
    }

    /// Whether an app cannot start: it had no ready worker yet, and one of its slots has failed for now.
    pub(super) fn has_failed(&self) -> bool {
        let failed = self.failed();
        self.condition().apps.iter().any(|app| !app.was_ready && failed.contains(&app.name))
    }

    /// What the processes of apps that are not ready said last, for whoever started the proxy.
    pub(super) fn last_words(&self) -> Vec<String> {
        const LINES_MAX: usize = 12;
        let status = self.control.status();
        let words = |app: &AppStatus| {
            let slot = app.slots.iter().find(|slot| !slot.last_words.is_empty())?;
            let (words, name) = (&slot.last_words, &app.name);
            let lines = match cause::of(words) {
                Some(cause) => std::iter::once(cause.headline).chain(cause.lines).collect(),
                None => words[words.len().saturating_sub(LINES_MAX)..].to_vec(),
            };
            Some(format!("{name}:\n  {}", lines.join("\n  ")))
        };
        status.apps.iter().filter(|app| app.ready() == 0).filter_map(words).collect()
    }

    /// Names of apps with a slot that has failed for now.
    fn failed(&self) -> HashSet<String> {
        let status = self.control.status();
        let failed = status.apps.iter().filter(|app| app.slots.iter().any(|slot| slot.is_failed));
        failed.map(|app| app.name.to_string()).collect()
    }
}

/// The workers that an app is to have. While one takes another's place there are more, and external ones come and go.
fn all_of(app: &AppStatus) -> usize {
    let all = match app.is_external {
        true => app.workers.iter().filter(|worker| worker.state != State::Exited).count(),
        false => usize::from(app.desired),
    };
    all.max(app.ready())
}

/// What is known of an app without a ready worker.
fn why_not(app: &AppStatus) -> String {
    if app.ready() > 0 {
        return String::new();
    }
    let exit = app.slots.iter().find_map(|slot| slot.last_exit.clone());
    let worker = app.workers.first().map(|worker| format!("{}: {}", worker.state, worker.reason));
    let nobody = app.is_external.then(|| "none has joined".to_owned());
    exit.or(worker).or(nobody).unwrap_or_default()
}
