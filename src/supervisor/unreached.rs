//! Workers that listen where nobody sees it: the preload script did not reach the app, or not its server.

use super::app::ManagedApp;
use crate::fleet::{State, Time, Worker};
use crate::process::listening::{self, Listening};
use crate::worker::{Incarnation, WorkerId};
use std::time::Duration;

/// How long a worker may start before its sockets are searched for; half of its time, if that is less.
const SEARCH_DELAY: Duration = Duration::from_secs(5);
/// Sockets that are named in the log at most.
const NAMED_MAX: usize = 8;

/// Searches once for the sockets of each worker that takes long to listen.
pub(super) fn search(app: &mut ManagedApp, now: Time) {
    let late = |w: &&Worker| {
        let delay = app.definitions.get(&w.generation).map(|d| SEARCH_DELAY.min(d.policy.start_timeout / 2));
        w.state == State::Starting && delay.is_some_and(|delay| now.saturating_sub(w.since) >= delay)
    };
    let late: Vec<Incarnation> = app.fleet.workers().filter(late).map(|w| w.incarnation).collect();
    late.into_iter().for_each(|incarnation| search_group(app, incarnation));
}

fn search_group(app: &mut ManagedApp, incarnation: Incarnation) {
    let Some(spec) = app.definition_of(incarnation).map(|definition| &definition.spec) else { return };
    let (preload, port) = (spec.preload, spec.ports.main);
    let Some(record) = app.workers.get_mut(&incarnation) else { return };
    let Some(child) = record.child.as_ref().filter(|_| preload && !record.searched) else { return };
    record.searched = true;
    let (id, group) = (record.id.clone(), child.pid());
    let stem = record.socket.to_string_lossy().trim_end_matches(".sock").to_owned();
    tokio::task::spawn_blocking(move || {
        let found = listening::of_group(group, |path| path.starts_with(&stem));
        found.iter().take(NAMED_MAX).for_each(|one| log_found(&id, one, port));
    });
}

fn log_found(id: &WorkerId, found: &Listening, port: Option<u16>) {
    let Listening { pid, command, at, .. } = found;
    let remedy = match (port, &found.at) {
        (Some(port), listening::At::Tcp(other)) if *other != port && found.has_script => {
            format!("the key port says {port}, on which nothing listens")
        }
        _ => found.remedy().to_owned(),
    };
    log::warn!("{id}: the proxy has no server of it yet, but its process {pid} ({command}) listens on {at}: {remedy}");
}
