//! The open tunnels of a worker, so that a drain can ask each of them to close.

use super::{Led, Room};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

/// How a worker's tunnels are to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    /// WebSocket close code: 1012 when another worker takes over, 1001 when the proxy stops.
    pub(crate) code: u16,
    /// The closes are spread evenly by chance over this time.
    pub(crate) window: Duration,
}

/// Its room is at another worker now (1012). The clients come back at once, so the closes are spread a little.
const MOVED: Closing = Closing { code: 1012, window: Duration::from_secs(2) };

/// The lock is taken when a tunnel opens or closes and at a drain, never for a message.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    asked: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: slab::Slab<Entry>,
    closing: Option<Closing>,
    /// Of how many it was asked alone.
    asked_alone: usize,
    /// When rooms may have moved last, as [`Led`] counts.
    moved_at: u64,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    room: Option<Led>,
    /// What was asked of this one alone.
    closing: Option<Closing>,
}

impl Tunnels {
    /// Asks every tunnel, open now or later, to close.
    pub(crate) fn close(&self, closing: Closing) {
        let mut inner = self.lock();
        inner.closing = Some(closing);
        self.asked.store(true, Ordering::Release);
        inner.entries.iter().for_each(|(_, entry)| entry.waker.wake_by_ref());
    }

    /// Asks the tunnels of some rooms to close.
    pub(super) fn close_rooms(&self, at: u64, moved: impl Fn(Room) -> bool) {
        let mut inner = self.lock();
        inner.moved_at = at;
        let open = inner.entries.iter_mut().map(|(_, entry)| entry).filter(|entry| entry.closing.is_none());
        let mut asked = 0;
        for entry in open.filter(|entry| entry.room.is_some_and(|led| moved(led.room))) {
            entry.closing = Some(MOVED);
            entry.waker.wake_by_ref();
            asked += 1;
        }
        inner.asked_alone += asked;
        if asked > 0 {
            self.asked.store(true, Ordering::Release);
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.lock().entries.len()
    }

    /// What was asked of a tunnel; costs next to nothing while nothing was of any.
    pub(crate) fn asked(&self, key: usize) -> Option<Closing> {
        if !self.asked.load(Ordering::Acquire) {
            return None;
        }
        let inner = self.lock();
        inner.entries.get(key).and_then(|entry| entry.closing).or(inner.closing)
    }

    /// Registers a tunnel's task, and what led it here; give the key back with [`Tunnels::leave`].
    pub(crate) fn enter(&self, waker: Waker, room: Option<Led>) -> usize {
        let mut inner = self.lock();
        // While it opened, its room may have moved.
        let is_late = room.is_some_and(|led| led.at < inner.moved_at);
        let closing = is_late.then_some(MOVED);
        if is_late {
            inner.asked_alone += 1;
            self.asked.store(true, Ordering::Release);
        }
        inner.entries.insert(Entry { waker, room, closing })
    }

    /// Another task has it now.
    pub(crate) fn rewatch(&self, key: usize, waker: &Waker) {
        if let Some(entry) = self.lock().entries.get_mut(key) {
            entry.waker.clone_from(waker);
        }
    }

    pub(crate) fn leave(&self, key: usize) {
        let mut inner = self.lock();
        if inner.entries.try_remove(key).is_some_and(|entry| entry.closing.is_some()) {
            inner.asked_alone -= 1;
            let is_asked = inner.closing.is_some() || inner.asked_alone > 0;
            self.asked.store(is_asked, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
