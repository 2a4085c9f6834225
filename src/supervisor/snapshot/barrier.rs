//! A process is started only after the state file names it: the proxy that finds the file must find the worker in it.

use std::time::Duration;
use tokio::sync::watch;

/// How long a start waits for the state file. Then it happens all the same: better a worker that is not known after a
/// crash than none.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts the snapshots that were handed to the task that writes them.
pub(in crate::supervisor) struct WriteBarrier {
    handed_over: u64,
    /// Up to which they were written, or could not be.
    written: watch::Receiver<u64>,
    /// Somebody waits for the next one.
    demanded: bool,
}

/// Waits until a snapshot is written.
pub(in crate::supervisor) struct Written {
    written: watch::Receiver<u64>,
    number: u64,
}

impl WriteBarrier {
    pub(super) fn new(written: watch::Receiver<u64>) -> WriteBarrier {
        WriteBarrier { handed_over: 0, written, demanded: false }
    }

    /// What is decided now is written down at once.
    pub(in crate::supervisor) fn demand(&mut self) -> Written {
        self.demanded = true;
        Written { written: self.written.clone(), number: self.handed_over + 1 }
    }

    pub(super) fn is_demanded(&self) -> bool {
        self.demanded
    }

    /// Whether something was handed over, and all of it is written.
    pub(super) fn is_written(&self) -> bool {
        self.handed_over > 0 && *self.written.borrow() == self.handed_over
    }

    /// Another snapshot is handed over. Returns its number.
    pub(super) fn hand_over(&mut self) -> u64 {
        self.demanded = false;
        self.handed_over += 1;
        self.handed_over
    }
}

impl Written {
    pub(in crate::supervisor) async fn wait(mut self) {
        let written = self.written.wait_for(|number| *number >= self.number);
        let _ = tokio::time::timeout(WRITE_TIMEOUT, written).await;
    }
}
