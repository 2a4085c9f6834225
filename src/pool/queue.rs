//! Requests that wait for a worker: bounded in number, and each in time by its waiter.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Bounds of an app's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuePolicy {
    /// Requests that may wait at once.
    pub(crate) max: u32,
    /// How long one may wait; 503 then.
    pub(crate) timeout: Duration,
    /// Requests in flight (parked ones not counted) that one worker gets at once.
    pub(crate) max_concurrency: Option<u32>,
}

impl Default for QueuePolicy {
    fn default() -> Self {
        QueuePolicy { max: 1000, timeout: Duration::from_secs(10), max_concurrency: None }
    }
}

/// What waits now, and what was seen of waiting.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: AtomicU32,
    pub(super) wake: Notify,
    /// The longest wait since it was last asked for, in milliseconds.
    longest: AtomicU64,
    /// Requests that found the queue full, or waited too long.
    refused: AtomicU64,
    /// No worker will come any more.
    closed: AtomicBool,
}

impl Queue {
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The longest wait since the last call.
    pub(crate) fn take_longest(&self) -> Duration {
        Duration::from_millis(self.longest.swap(0, Ordering::Relaxed))
    }

    /// A place in the queue; `None` when `max` wait already.
    pub(crate) fn enter(&self, max: u32) -> Option<Place<'_>> {
        let place = Place(self);
        (self.waiting.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }

    /// No worker will come any more: nobody need wait.
    pub(crate) fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.wake.notify_waiters();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends when a worker may have room. Enable it before the last look, or a wake in between is missed.
    pub(crate) fn woken(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// A worker may have room for one more.
    pub(super) fn wake_one(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.wake.notify_one();
        }
    }

    pub(crate) fn note_wait(&self, waited: Duration) {
        let waited = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.longest.fetch_max(waited, Ordering::Relaxed);
    }

    pub(crate) fn note_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// One place in the queue; left when dropped, by whatever way the waiter goes.
pub(crate) struct Place<'a>(&'a Queue);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
