//! The account of file descriptors that traffic may have open. The process's other descriptors (listeners, workers'
//! pipes and channels, logs, commands, a handoff) are outside of it, so traffic cannot take them.
//!
//! A client's connection takes two: its own and that of the worker that answers it. Each further request that an
//! HTTP/2 connection has in flight takes one. Idle connections to workers take what is free and are given up first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a client's connection takes.
pub(super) const PER_CONNECTION: usize = 2;

#[derive(Debug)]
pub(super) struct Descriptors {
    limit: usize,
    /// Of clients, and of what they ask for.
    clients: AtomicUsize,
    /// Of idle connections to workers.
    idle: AtomicUsize,
    /// Clients that were turned away for want of descriptors, or by `limits.connections`.
    refused: AtomicU64,
}

impl Descriptors {
    pub(super) fn new(limit: usize) -> Arc<Descriptors> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Descriptors { limit, clients: zero(), idle: zero(), refused: AtomicU64::new(0) })
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn used(&self) -> usize {
        self.clients.load(Ordering::Relaxed) + self.idle()
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn note_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes `count` descriptors out of the account, all or none.
    pub(super) fn take(self: &Arc<Self>, count: usize) -> Option<Taken> {
        let taken = self.take_anyway(count);
        // In this order on both sides: of two that take the last place, at least one sees the other.
        self.fits().then_some(taken)
    }

    /// The same beyond the limit: for what another process has had open.
    pub(super) fn take_anyway(self: &Arc<Self>, count: usize) -> Taken {
        self.clients.fetch_add(count, Ordering::SeqCst);
        Taken { account: self.clone(), count }
    }

    /// Takes one for an idle connection to a worker.
    pub(super) fn take_idle(self: &Arc<Self>) -> Option<IdleTaken> {
        self.idle.fetch_add(1, Ordering::SeqCst);
        let taken = IdleTaken(self.clone());
        self.fits().then_some(taken)
    }

    fn fits(&self) -> bool {
        self.clients.load(Ordering::SeqCst) + self.idle.load(Ordering::SeqCst) <= self.limit
    }
}

/// Descriptors out of the account, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    account: Arc<Descriptors>,
    count: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.clients.fetch_sub(self.count, Ordering::SeqCst);
    }
}

/// One of an idle connection to a worker.
#[derive(Debug)]
pub(super) struct IdleTaken(Arc<Descriptors>);

impl Drop for IdleTaken {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_none_and_everything_comes_back() {
        let account = Descriptors::new(5);
        let two = account.take(2).unwrap();
        let idle = account.take_idle().unwrap();
        assert!(account.take(3).is_none());
        assert_eq!((account.used(), account.idle()), (3, 1));
        let more = account.take(2).unwrap();
        assert!(account.take(1).is_none());
        let beyond = account.take_anyway(4);
        assert_eq!(account.used(), 9);
        drop((two, idle, more, beyond));
        assert_eq!((account.used(), account.idle()), (0, 0));
    }
}
