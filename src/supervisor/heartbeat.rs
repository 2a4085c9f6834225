//! What the supervisor's loop and its handles share without a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct LoopHeartbeat {
    created: Instant,
    /// Milliseconds from `created` to the newest turn of the loop.
    beat: AtomicU64,
    /// Requests may still come to workers that are to end.
    requests_expected: AtomicBool,
}

impl Default for LoopHeartbeat {
    fn default() -> Self {
        LoopHeartbeat { created: Instant::now(), beat: AtomicU64::new(0), requests_expected: AtomicBool::new(false) }
    }
}

impl LoopHeartbeat {
    pub(super) fn beat(&self) {
        let now = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Ordering::Relaxed);
    }

    /// Since the loop turned last; from its creation, if it has not begun.
    pub(super) fn age(&self) -> Duration {
        self.created.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)))
    }

    pub(super) fn expect_requests(&self, expects: bool) {
        self.requests_expected.store(expects, Ordering::Release);
    }

    pub(super) fn expects_requests(&self) -> bool {
        self.requests_expected.load(Ordering::Acquire)
    }
}
