//! Keeps the state file up to date: the next proxy finds the workers again when this one is killed.
//!
//! The keeper sees what has changed and hands over a copy; a task of its own writes.

use super::estate::Estate;
use super::keeper::Keeper;
use crate::process::state;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What comes together is written together.
const GATHER: Duration = Duration::from_millis(50);
const BETWEEN: Duration = Duration::from_millis(200);
/// Counters go on without anything else that changes.
const OLDEST: Duration = Duration::from_secs(10);
/// The same where sids are learnt: what is not written down is lost.
const OLDEST_LEARNT: Duration = Duration::from_secs(1);
/// Sids of each app that are written down: all of a busy app would cost more than they are worth.
const LEARNT: usize = 10_000;
/// For a start to be written down before it happens; then it happens all the same.
const AHEAD: Duration = Duration::from_secs(1);
/// For the last write to end.
const LAST: Duration = Duration::from_secs(5);

pub(super) struct Saver {
    latest: watch::Sender<Option<(u64, Estate)>>,
    /// How many were handed over, and up to which they were written, or cannot be.
    handed: u64,
    written: watch::Receiver<u64>,
    task: JoinHandle<()>,
    /// Of what was handed over last.
    print: Option<u64>,
    /// When to hand over next, if something changed.
    due: Option<Instant>,
    last: Instant,
}

impl Saver {
    /// Needs a Tokio runtime.
    pub(super) fn start(path: PathBuf) -> Saver {
        let (latest, mut changes) = watch::channel(None::<(u64, Estate)>);
        let (done, written) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut failing = false;
            while changes.changed().await.is_ok() {
                let newest = changes.borrow_and_update().clone();
                let Some((number, estate)) = newest else { continue };
                let path = path.clone();
                let written = tokio::task::spawn_blocking(move || {
                    let bytes = serde_json::to_vec(&estate).map_err(|e| e.to_string())?;
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
        });
        Saver { latest, handed: 0, written, task, print: None, due: None, last: Instant::now() }
    }

    /// What is decided now is written down at once. For a process that is to be started: who finds the file later
    /// must find it named there.
    pub(super) fn ahead(&mut self) -> Ahead {
        self.due = Some(Instant::now());
        Ahead { written: self.written.clone(), number: self.handed + 1 }
    }

    /// Waits until nothing is being written.
    pub(super) async fn end(self) {
        drop(self.latest);
        if tokio::time::timeout(LAST, self.task).await.is_err() {
            log::warn!("the state file takes long to be written");
        }
    }
}

/// What waits until something is written down.
pub(super) struct Ahead {
    written: watch::Receiver<u64>,
    number: u64,
}

impl Ahead {
    /// A second at most: better a worker that is not known after a crash than none.
    pub(super) async fn wait(mut self) {
        let written = self.written.wait_for(|number| *number >= self.number);
        let _ = tokio::time::timeout(AHEAD, written).await;
    }
}

impl Keeper {
    /// Hands over a copy when one is due. To be asked when everything asked for was carried out.
    pub(super) fn save_changes(&mut self) {
        let print = self.print();
        let oldest = self.oldest();
        let Some(saver) = &mut self.saver else { return };
        let now = Instant::now();
        if saver.print != Some(print) || now >= saver.last + oldest {
            saver.due = saver.due.or(Some((now + GATHER).max(saver.last + BETWEEN)));
        }
        if saver.due.is_some_and(|due| due <= now) {
            let estate = Estate::of(self.rooms.values(), &self.tags, self.epoch, LEARNT, self.alerts.save());
            saver.handed += 1;
            saver.latest.send_replace(Some((saver.handed, estate)));
            (saver.due, saver.print, saver.last) = (None, Some(print), now);
        }
    }

    pub(super) fn save_due(&self) -> Option<Instant> {
        let saver = self.saver.as_ref()?;
        Some(saver.due.unwrap_or(saver.last + self.oldest()))
    }

    fn oldest(&self) -> Duration {
        if self.rooms.values().any(|room| room.pool.has_learnt()) { OLDEST_LEARNT } else { OLDEST }
    }

    /// Differs when something has changed that a successor must know.
    fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.alerts.print().hash(&mut hasher);
        for (at, room) in &self.rooms {
            let fleet = &room.fleet;
            (at, room.removed, fleet.is_stopping(), fleet.desired(), fleet.is_manual()).hash(&mut hasher);
            (fleet.generations(), fleet.next_incarnation()).hash(&mut hasher);
            for (slot, seat) in fleet.slots() {
                (slot, seat.successor, seat.failures, seat.due()).hash(&mut hasher);
            }
            for worker in fleet.workers() {
                (worker.incarnation, worker.pid, worker.state as u8, worker.role as u8).hash(&mut hasher);
                (worker.is_connected(), worker.is_heard(), worker.listens(), worker.since).hash(&mut hasher);
                if let Some(entry) = room.workers.get(&worker.incarnation) {
                    (entry.serving_pid, entry.members.len(), entry.process.is_some()).hash(&mut hasher);
                    entry.member().map(|member| &member.socket).hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    }
}
