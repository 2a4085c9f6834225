//! What the supervisor's loop and its handles share without a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Pulse {
    born: Instant,
    /// Milliseconds from `born` to the newest turn of the loop.
    beat: AtomicU64,
    /// Requests may still come to workers that are to end.
    expects: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse { born: Instant::now(), beat: AtomicU64::new(0), expects: AtomicBool::new(false) }
    }
}

impl Pulse {
    pub(super) fn beat(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Ordering::Relaxed);
    }

    /// Since the loop turned last; from its creation, if it has not begun.
    pub(super) fn age(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)))
    }

    pub(super) fn expect_requests(&self, expects: bool) {
        self.expects.store(expects, Ordering::Release);
    }

    pub(super) fn expects_requests(&self) -> bool {
        self.expects.load(Ordering::Acquire)
    }
}
