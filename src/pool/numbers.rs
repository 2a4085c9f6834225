//! Numbers for a worker's connections where another library keeps them (Pingora those with HTTP/2) and has no way to
//! give one up: that of a connection that is not to be used again is not used again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Those of one worker that no request has, and that were good for their last one. Each is of one connection at most.
#[derive(Debug, Default)]
pub(crate) struct Numbers(Mutex<Vec<u64>>);

impl Numbers {
    /// That of a kept connection, the last one used first, or a new one.
    pub(crate) fn take(&self) -> u64 {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).pop().unwrap_or_else(Self::fresh)
    }

    /// One that nothing has had before, in no pool: its connection is new.
    pub(crate) fn fresh() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Its connection may carry the next request.
    pub(crate) fn put(&self, number: u64) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_put_back_is_never_taken_again() {
        let numbers = Numbers::default();
        let (good, bad) = (numbers.take(), numbers.take());
        assert_ne!(good, bad);
        numbers.put(good);
        assert_eq!(numbers.take(), good);
        let next = [numbers.take(), Numbers::fresh(), Numbers::default().take()];
        assert!(!next.contains(&good) && !next.contains(&bad), "{next:?}");
    }
}
