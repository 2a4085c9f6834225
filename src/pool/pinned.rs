//! A worker's socket as it was last proved, held: it is reached although its path was removed.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

/// Opened with `O_PATH`: one descriptor for each worker.
#[derive(Debug, Default)]
pub(crate) struct Pinned(Mutex<Option<Arc<OwnedFd>>>);

impl Pinned {
    pub(crate) fn set(&self, fd: Arc<OwnedFd>) {
        *self.lock() = Some(fd);
    }

    pub(crate) fn get(&self) -> Option<Arc<OwnedFd>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
