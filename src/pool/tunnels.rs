//! The open tunnels of a worker, so that a drain can ask each of them to close.

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

/// The lock is taken when a tunnel opens or closes and at a drain, never for a message.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    asked: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    wakers: slab::Slab<Waker>,
    closing: Option<Closing>,
}

impl Tunnels {
    /// Asks every tunnel, open now or later, to close.
    pub(crate) fn close(&self, closing: Closing) {
        let mut inner = self.lock();
        inner.closing = Some(closing);
        self.asked.store(true, Ordering::Release);
        inner.wakers.iter().for_each(|(_, waker)| waker.wake_by_ref());
    }

    pub(crate) fn open(&self) -> usize {
        self.lock().wakers.len()
    }

    /// What was asked; costs next to nothing while nothing was.
    pub(crate) fn asked(&self) -> Option<Closing> {
        self.asked.load(Ordering::Acquire).then(|| self.lock().closing)?
    }

    /// Registers a tunnel's task; give the key back with [`Tunnels::leave`].
    pub(crate) fn enter(&self, waker: Waker) -> usize {
        self.lock().wakers.insert(waker)
    }

    pub(crate) fn leave(&self, key: usize) {
        self.lock().wakers.try_remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
