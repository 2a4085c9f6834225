//! How often one process may connect to the control channel: a worker needs a connection for each of its threads, and one
//! again after an upgrade.

use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::net::unix::UCred;

/// Connections of one process within [`WINDOW`]. Each may be silent for 5 s before its hello, so one process has at most
/// 250 of all places.
const MAX_CONNECTIONS: u32 = 50;
/// The same of all processes of one user in other PID namespaces, whose numbers we do not see.
const MAX_UNNUMBERED: u32 = 1000;
const WINDOW: Duration = Duration::from_secs(1);
/// Processes that are counted at a time. More of them are held back by what it takes to start them.
const MAX_CALLERS: usize = 1024;

/// The connections of each process, by user and number, since `since`.
pub(super) struct Callers {
    since: Instant,
    counts: HashMap<(u32, i32), u32>,
}

impl Callers {
    pub(super) fn new(now: Instant) -> Callers {
        Callers { since: now, counts: HashMap::new() }
    }

    /// Counts a connection of this peer. `Err`, once per window: why no more of it are served.
    pub(super) fn admit(&mut self, peer: &UCred, now: Instant) -> Result<(), Option<String>> {
        self.count((peer.uid(), peer.pid().unwrap_or(0)), now)
    }

    fn count(&mut self, caller: (u32, i32), now: Instant) -> Result<(), Option<String>> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.counts) = (now, HashMap::new());
        }
        if self.counts.len() >= MAX_CALLERS && !self.counts.contains_key(&caller) {
            return Ok(());
        }
        let count = self.counts.entry(caller).or_default();
        *count = count.saturating_add(1);
        let (uid, pid) = caller;
        let most = if pid > 0 { MAX_CONNECTIONS } else { MAX_UNNUMBERED };
        match *count {
            n if n <= most => Ok(()),
            n if n == most + 1 => Err(Some(format!("process {pid} of user {uid} connects over {most} times a second"))),
            _ => Err(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_connects_again_and_again_is_held_back_and_others_are_not() {
        let now = Instant::now();
        let mut callers = Callers::new(now);
        for _ in 0..MAX_CONNECTIONS {
            assert_eq!(callers.count((1, 7), now), Ok(()));
        }
        assert!(matches!(callers.count((1, 7), now), Err(Some(_))), "told");
        assert_eq!(callers.count((1, 7), now), Err(None), "once");
        assert_eq!(callers.count((1, 8), now), Ok(()));
        assert_eq!(callers.count((2, 7), now), Ok(()));
        assert_eq!(callers.count((1, 7), now + WINDOW), Ok(()));
        for pid in 1..2 * MAX_CALLERS as i32 {
            assert_eq!(callers.count((3, pid), now + WINDOW), Ok(()));
        }
        assert!(callers.counts.len() <= MAX_CALLERS);
    }
}
