//! Keeps a guard process beside the proxy that owns the workers.

use crate::process::guard::Guard as GuardProcess;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A guard that ends although we live is followed by another, so often at most.
const RESTART_DELAY: Duration = Duration::from_secs(60);

/// The guard of this proxy, if it is to have one.
pub(super) struct Guard {
    /// What it is to remove outside of the runtime directory; `None` without a guard.
    paths: Option<Vec<PathBuf>>,
    running: Option<(GuardProcess, Instant)>,
}

impl Guard {
    pub(super) fn new(paths: Option<Vec<PathBuf>>) -> Guard {
        Guard { paths, running: None }
    }

    /// From now on what we own does not outlive us for long. Without a guard all goes on as ever.
    pub(super) fn start(&mut self, dir: &Path, orphan_timeout: Duration) {
        let Some(paths) = &self.paths else { return };
        match GuardProcess::start(dir, orphan_timeout, paths) {
            Ok(guard) => self.running = Some((guard, Instant::now())),
            Err(why) => {
                self.running = None;
                log::warn!("{why}; if this proxy is killed and not started again, something of it may be left");
            }
        }
    }

    /// Starts another one in the place of one that was killed. Does not wait.
    pub(super) fn check(&mut self, dir: &Path, orphan_timeout: Duration) {
        let Some((guard, since)) = &mut self.running else { return };
        if guard.has_ended() && since.elapsed() >= RESTART_DELAY {
            log::warn!("the guard of this proxy was killed, another is started");
            self.start(dir, orphan_timeout);
        }
    }

    /// Another proxy has everything.
    pub(super) fn leave(self) {
        if let Some((guard, _)) = self.running {
            tokio::spawn(guard.leave());
        }
    }

    /// Nothing is left to look after.
    pub(super) async fn end(self) {
        if let Some((guard, _)) = self.running {
            guard.end().await;
        }
    }
}
