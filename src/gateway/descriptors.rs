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
    used: AtomicUsize,
    /// Those of `used` that only hold idle connections to workers.
    idle: AtomicUsize,
    /// Clients that were turned away for want of descriptors, or by `limits.connections`.
    refused: AtomicU64,
}

impl Descriptors {
    pub(super) fn new(limit: usize) -> Arc<Descriptors> {
        let zero = AtomicUsize::new(0);
        Arc::new(Descriptors { limit, used: zero, idle: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
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
        let before = self.used.fetch_add(count, Ordering::AcqRel);
        let taken = Taken { account: self.clone(), count, idle: 0 };
        (before + count <= self.limit).then_some(taken)
    }

    /// The same beyond the limit: for what another process has had open.
    pub(super) fn take_anyway(self: &Arc<Self>, count: usize) -> Taken {
        self.used.fetch_add(count, Ordering::AcqRel);
        Taken { account: self.clone(), count, idle: 0 }
    }

    /// Takes one for an idle connection to a worker.
    pub(super) fn take_idle(self: &Arc<Self>) -> Option<Taken> {
        let mut taken = self.take(1)?;
        self.idle.fetch_add(1, Ordering::Relaxed);
        taken.idle = 1;
        Some(taken)
    }
}

/// Descriptors out of the account, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    account: Arc<Descriptors>,
    count: usize,
    idle: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.count, Ordering::AcqRel);
        self.account.idle.fetch_sub(self.idle, Ordering::Relaxed);
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
