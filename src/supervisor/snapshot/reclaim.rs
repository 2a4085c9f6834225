//! Ends the workers of a proxy that was killed when no other proxy takes them over.

use super::format::{SavedApp, Snapshot};
use crate::process::{Group, RuntimeDir, state, strays};
use crate::worker::WorkerId;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two checks whether processes have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long to wait for processes to disappear after SIGKILL.
const KILL_WAIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker, or what it has left in its process group.
struct Orphan {
    group: Group,
    stop_signal: i32,
    /// From the stop signal to SIGKILL.
    stop_timeout: Duration,
    killed: bool,
}

/// Ends the workers that the last proxy of this directory has started, as a stop does: the stop signal, and SIGKILL
/// after `stop_timeout`. Then all that the directory has is removed. Says what was done, for people.
///
/// Blocks until then: for the longest `stop_timeout` and 5 s at most.
pub(crate) fn terminate_orphans(dir: RuntimeDir) -> String {
    let snapshot = match state::read(&dir.state_file()) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => Snapshot::parse(&bytes).map(Some),
        Err(why) => Err(why),
    };
    let path = dir.path().to_owned();
    let workers = match snapshot {
        Ok(snapshot) => terminate(snapshot.map(|snapshot| snapshot.orphans(&path)).unwrap_or_default()),
        Err(why) => format!("its workers are not known, for {}: {why}", dir.state_file().display()),
    };
    let workers = match strays::end(&dir) {
        0 => workers,
        1 => format!("{workers}, and 1 process that they had left behind"),
        n => format!("{workers}, and {n} processes that they had left behind"),
    };
    drop(dir);
    let left = if path.exists() { "cleared" } else { "removed" };
    format!("{workers}; {} is {left}", path.display())
}

impl Snapshot {
    /// What lives of its workers. External ones are nobody's to end.
    fn orphans(self, dir: &Path) -> Vec<Orphan> {
        self.apps.into_iter().flat_map(|app| app.orphans(dir)).collect()
    }
}

impl SavedApp {
    fn orphans(self, dir: &Path) -> Vec<Orphan> {
        let policies = || self.definitions.values().map(|definition| &definition.policy);
        if policies().any(|policy| policy.external) {
            return Vec::new();
        }
        let stop_timeout = policies().map(|policy| policy.stop_timeout).max().unwrap_or(KILL_WAIT_TIMEOUT);
        // Few apps ever change it.
        let stop_signal = policies().next_back().map_or(nix::libc::SIGTERM, |policy| policy.stop_signal);
        let app: std::sync::Arc<str> = self.name.as_str().into();
        let own = self.workers.iter().filter(|worker| {
            let id = WorkerId { app: app.clone(), slot: worker.slot, incarnation: worker.incarnation };
            worker.lives_in(dir, &id)
        });
        let groups = own.filter_map(|worker| Group::find(worker.process, &worker.socket, worker.uid));
        groups.map(|group| Orphan { group, stop_signal, stop_timeout, killed: false }).collect()
    }
}

/// Says in words how many there were.
fn terminate(mut orphans: Vec<Orphan>) -> String {
    let begun = Instant::now();
    let found = orphans.len();
    let longest = orphans.iter().map(|one| one.stop_timeout).max().unwrap_or_default();
    let mut why = orphans.iter().filter_map(|one| one.group.signal(one.stop_signal).err()).next();
    let mut killed = 0;
    while !orphans.is_empty() && begun.elapsed() < longest + KILL_WAIT_TIMEOUT {
        orphans.retain(|one| one.group.lives());
        for one in orphans.iter_mut().filter(|one| !one.killed && begun.elapsed() >= one.stop_timeout) {
            one.killed = true;
            killed += 1;
            why = why.or(one.group.kill().err());
        }
        if !orphans.is_empty() {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    let mut said = match found {
        0 => "none of its workers lived".to_owned(),
        1 => "ended 1 worker".to_owned(),
        n => format!("ended {n} workers"),
    };
    if killed > 0 {
        said.push_str(&format!(", {killed} of them by SIGKILL"));
    }
    if !orphans.is_empty() {
        said.push_str(&format!(", {} {} on", orphans.len(), if orphans.len() == 1 { "lives" } else { "live" }));
    }
    if let Some(why) = why {
        said.push_str(&format!(" ({why})"));
    }
    said
}
