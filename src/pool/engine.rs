//! What a worker confirms of the Engine.IO sessions it has. A session's own requests have privileges: no limit of
//! concurrency holds them back, and a waiting poll is no load. A sid in a query proves no session, so these privileges
//! are only for paths that Engine.IO serves, and only as many as the worker has sessions for.

use arc_swap::ArcSwapOption;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests of one session at a time: a poll, a post, an upgrade, and one that replaces a broken one.
const PER_SESSION: u64 = 4;
/// For sessions that began after the worker's last report.
const SPARE: u64 = 64;

/// The worker has not said yet how many it has.
const UNSAID: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Engine {
    /// `None` until the worker says, as one with an older preload script never does.
    paths: ArcSwapOption<Vec<String>>,
    sessions: AtomicU64,
    /// Sessions that may have begun since the worker's last report.
    fresh: AtomicU64,
}

impl Default for Engine {
    fn default() -> Engine {
        Engine { paths: ArcSwapOption::empty(), sessions: AtomicU64::new(UNSAID), fresh: AtomicU64::new(0) }
    }
}

impl Engine {
    /// The worker's Engine.IO servers take requests whose path begins with one of these.
    pub(crate) fn set_paths(&self, paths: Vec<String>) {
        self.paths.store(Some(paths.into()));
    }

    /// What the worker said last.
    #[cfg(test)]
    pub(crate) fn paths(&self) -> Option<Vec<String>> {
        self.paths.load().as_deref().cloned()
    }

    /// The worker has so many sessions now.
    pub(crate) fn set_sessions(&self, sessions: u64) {
        self.sessions.store(sessions, Ordering::Relaxed);
        self.fresh.store(0, Ordering::Relaxed);
    }

    pub(super) fn note_handshake(&self) {
        self.fresh.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether sessions of this worker carry its tag: it has an Engine.IO that the preload script reaches, or never said.
    pub(super) fn tags_sessions(&self) -> bool {
        self.paths.load().as_ref().is_none_or(|paths| !paths.is_empty())
    }

    /// Whether the worker's Engine.IO serves this path. A worker that never said is believed: its sessions would be lost.
    pub(super) fn serves(&self, path: &[u8]) -> bool {
        self.paths.load().as_ref().is_none_or(|paths| paths.iter().any(|one| path.starts_with(one.as_bytes())))
    }

    /// Whether the worker has said that its Engine.IO serves this path.
    pub(super) fn says(&self, path: &[u8]) -> bool {
        self.paths.load().is_some() && self.serves(path)
    }

    /// The most requests of sessions that the worker gets at once. How many sessions it has, every preload script says
    /// each second; one that does not say where they are is believed before it has said that.
    pub(super) fn most(&self) -> u64 {
        let sessions = match self.sessions.load(Ordering::Relaxed) {
            UNSAID if self.paths.load().is_none() => return u64::MAX,
            UNSAID => 0,
            sessions => sessions,
        };
        let sessions = sessions.saturating_add(self.fresh.load(Ordering::Relaxed));
        sessions.saturating_mul(PER_SESSION).saturating_add(SPARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_never_said_where_it_serves_is_believed_and_has_said_nothing() {
        let engine = Engine::default();
        assert!(engine.serves(b"/any") && !engine.says(b"/any"));
        engine.set_paths(vec!["/socket.io/".to_owned()]);
        assert!(engine.serves(b"/socket.io/") && engine.says(b"/socket.io/"));
        assert!(!engine.serves(b"/any") && !engine.says(b"/any"));
        engine.set_paths(Vec::new());
        assert!(!engine.serves(b"/socket.io/") && !engine.says(b"/socket.io/"));
    }
}
