//! Keeps the state file up to date: the next proxy finds the workers again when this one is killed.
//!
//! The event loop sees what has changed and hands over a copy; a task of its own writes.

use super::super::apps::Apps;
use super::barrier::WriteBarrier;
use super::capture::capture;
use super::format::Snapshot;
use crate::process::state;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Changes that come within this time are written together.
const GATHER_DELAY: Duration = Duration::from_millis(50);
/// Between two writes at least.
const WRITE_INTERVAL: Duration = Duration::from_millis(200);
/// Between two writes at most: counters go on without anything else that changes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// The same where sids are learnt: what is not written down is lost.
const LEARNT_REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Sids of each app that are written down: all of a busy app would cost more than they are worth.
const LEARNT_MAX: usize = 10_000;
/// How long the end waits for the last write.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

pub(in crate::supervisor) struct SnapshotWriter {
    latest: watch::Sender<Option<(u64, Snapshot)>>,
    barrier: WriteBarrier,
    task: JoinHandle<()>,
    /// Of what was handed over last.
    fingerprint: Option<u64>,
    /// When to hand over next, if something changed.
    due: Option<Instant>,
    last: Instant,
}

impl SnapshotWriter {
    /// Needs a Tokio runtime.
    pub(in crate::supervisor) fn start(path: PathBuf) -> SnapshotWriter {
        let (latest, changes) = watch::channel(None);
        let (done, written) = watch::channel(0);
        let task = tokio::spawn(write_changes(path, changes, done));
        let barrier = WriteBarrier::new(written);
        SnapshotWriter { latest, barrier, task, fingerprint: None, due: None, last: Instant::now() }
    }

    pub(in crate::supervisor) fn barrier(&mut self) -> &mut WriteBarrier {
        &mut self.barrier
    }

    /// Hands over a copy when one is due. Must be called when all actions of the fleets were performed.
    pub(in crate::supervisor) fn write_changes(&mut self, apps: &Apps) {
        let fingerprint = fingerprint(apps);
        let now = Instant::now();
        if self.barrier.is_demanded() {
            self.due = Some(now);
        } else if self.fingerprint != Some(fingerprint) || now >= self.last + refresh_interval(apps) {
            self.due = self.due.or(Some((now + GATHER_DELAY).max(self.last + WRITE_INTERVAL)));
        }
        if self.due.is_some_and(|due| due <= now) {
            let number = self.barrier.hand_over();
            self.latest.send_replace(Some((number, capture(apps, LEARNT_MAX))));
            (self.due, self.fingerprint, self.last) = (None, Some(fingerprint), now);
        }
    }

    /// Writes again, as the file is gone. Tells whether it had been there.
    pub(in crate::supervisor) fn write_again(&mut self) -> bool {
        let was_there = self.barrier.is_written();
        if was_there {
            self.due = Some(Instant::now());
        }
        was_there
    }

    /// When [`SnapshotWriter::write_changes`] must be called again.
    pub(in crate::supervisor) fn next_write(&self, apps: &Apps) -> Instant {
        self.due.unwrap_or(self.last + refresh_interval(apps))
    }

    /// Waits until nothing is being written.
    pub(in crate::supervisor) async fn end(self) {
        drop(self.latest);
        if tokio::time::timeout(LAST_WRITE_TIMEOUT, self.task).await.is_err() {
            log::warn!("the state file takes long to be written");
        }
    }
}

async fn write_changes(path: PathBuf, mut changes: watch::Receiver<Option<(u64, Snapshot)>>, done: watch::Sender<u64>) {
    let mut failing = false;
    while changes.changed().await.is_ok() {
        let newest = changes.borrow_and_update().clone();
        let Some((number, snapshot)) = newest else { continue };
        let path = path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec(&snapshot).map_err(|e| e.to_string())?;
            state::write(&path, &bytes).map_err(|e| format!("{}: {e}", path.display()))
        });
        let outcome = written.await.unwrap_or_else(|e| Err(e.to_string()));
        done.send_replace(number);
        match outcome {
            Ok(()) => failing = false,
            Err(why) if !failing => {
                failing = true;
                log::warn!(
                    "what is known of the workers cannot be written down, so they are lost if the proxy is killed: {why}"
                );
            }
            Err(_) => {}
        }
    }
}

fn refresh_interval(apps: &Apps) -> Duration {
    let has_learnt = apps.by_id.values().any(|app| app.pool.has_learnt());
    if has_learnt { LEARNT_REFRESH_INTERVAL } else { REFRESH_INTERVAL }
}

/// Hash of what a successor must know, but for counters; unchanged snapshots are not written.
fn fingerprint(apps: &Apps) -> u64 {
    let mut hasher = DefaultHasher::new();
    apps.alarms.fingerprint().hash(&mut hasher);
    for (id, app) in &apps.by_id {
        let fleet = &app.fleet;
        (id, app.removed, fleet.is_stopping(), fleet.desired(), fleet.is_manual()).hash(&mut hasher);
        (fleet.generations(), fleet.next_incarnation()).hash(&mut hasher);
        for (slot, seat) in fleet.slots() {
            (slot, seat.successor, seat.failures, seat.due()).hash(&mut hasher);
        }
        for worker in fleet.workers() {
            (worker.incarnation, worker.pid, worker.state as u8, worker.role as u8).hash(&mut hasher);
            (worker.is_connected(), worker.is_heard(), worker.listens(), worker.since).hash(&mut hasher);
            if let Some(record) = app.workers.get(&worker.incarnation) {
                (record.serving_pid, record.members.len(), record.child.is_some()).hash(&mut hasher);
                record.member().map(|member| &member.socket).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}
