//! Keeps a guard beside the proxy that owns the workers.

use super::keeper::Keeper;
use crate::process::guard::Guard;
use std::time::{Duration, Instant};

/// A guard that ends although we live is followed by another, so often at most.
const AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Guarding {
    guard: Option<Guard>,
    since: Instant,
}

impl Guarding {
    /// Another proxy has everything.
    pub(super) fn leave(self) {
        if let Some(guard) = self.guard {
            tokio::spawn(guard.leave());
        }
    }

    /// Nothing is left to look after.
    pub(super) async fn end(self) {
        if let Some(guard) = self.guard {
            guard.end().await;
        }
    }
}

impl Keeper {
    /// From now on what we own does not outlive us for long. Without a guard all goes on as ever.
    pub(super) fn guard(&mut self) {
        let started =
            self.guarded.as_ref().map(|beyond| Guard::start(self.dir.path(), self.orphan_timeout, beyond)).transpose();
        let guard = started.unwrap_or_else(|why| {
            log::warn!("{why}; if this proxy is killed and not started again, something of it may be left");
            None
        });
        self.guarding = Some(Guarding { guard, since: Instant::now() });
    }

    /// Looks after it. Does not wait.
    pub(super) fn look_at_guard(&mut self) {
        let Some(guarding) = &mut self.guarding else { return };
        let has_ended = guarding.guard.as_mut().is_some_and(Guard::has_ended);
        if has_ended && guarding.since.elapsed() >= AGAIN {
            log::warn!("the guard of this proxy was killed, another is started");
            self.guard();
        }
    }
}
