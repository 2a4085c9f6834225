//! Who may steer this proxy: whoever has its user's rights, but no worker of its own. An app that somebody leads to our
//! sockets, by a forged request say, must not restart, replace or inherit the proxy that it runs under.

use crate::process::lineage;
use crate::supervisor::Control;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two lines about those who are refused.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Peers {
    control: Control,
    runtime_dir: PathBuf,
    last_warning: Arc<Mutex<Option<Instant>>>,
}

impl Peers {
    pub(super) fn new(control: Control, runtime_dir: PathBuf) -> Peers {
        Peers { control, runtime_dir, last_warning: Arc::default() }
    }

    /// What is against a process at `socket`; told to the log, too.
    pub(super) fn objection(&self, pid: Option<u32>, socket: &str) -> Option<String> {
        // One of another PID namespace has no number here: somebody has given it our directory on purpose.
        let pid = pid?;
        let why = self.why(pid)?;
        if self.may_warn() {
            log::warn!("{socket}: process {pid} is refused: {why}");
        }
        Some(format!("workers and what they start may not use {socket}: process {pid}: {why}"))
    }

    /// Whoever is refused may come again and again.
    fn may_warn(&self) -> bool {
        let mut last = self.last_warning.lock().unwrap_or_else(|e| e.into_inner());
        let due = last.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    fn why(&self, pid: u32) -> Option<String> {
        if pid == std::process::id() {
            // Somebody has led a request here.
            return Some("it is the proxy itself".into());
        }
        let status = self.control.status();
        let workers: Vec<u32> = status.apps.iter().flat_map(|app| &app.workers).filter_map(|w| w.pid).collect();
        match lineage::worker_of(pid, &workers, &self.runtime_dir) {
            Ok(why) => why,
            Err(e) => Some(format!("who it was is not known any more: {e}")),
        }
    }
}
