//! Workers that listen where nobody sees it: the preload script did not reach the app, or not its server.

use super::keeper::Keeper;
use super::room::Room;
use crate::fleet::State;
use crate::process::listening::{self, Listening};
use crate::worker::{Incarnation, WorkerId};
use std::time::Duration;

/// How long a worker may start before it is looked at; half of its time, if that is less.
const LOOK_DELAY: Duration = Duration::from_secs(5);
/// Sockets that are named.
const MOST_NAMED: usize = 8;

impl Keeper {
    /// Once for each worker that takes long to listen.
    pub(super) fn look_for_unreached(&mut self) {
        let now = self.now();
        for room in self.rooms.values_mut() {
            let late = |w: &&crate::fleet::Worker| {
                let delay = room.definitions.get(&w.generation).map(|d| LOOK_DELAY.min(d.policy.start_timeout / 2));
                w.state == State::Starting && delay.is_some_and(|delay| now.saturating_sub(w.since) >= delay)
            };
            let late: Vec<Incarnation> = room.fleet.workers().filter(late).map(|w| w.incarnation).collect();
            late.into_iter().for_each(|incarnation| look(room, incarnation));
        }
    }
}

fn look(room: &mut Room, incarnation: Incarnation) {
    let Some(spec) = room.definition_of(incarnation).map(|definition| &definition.spec) else { return };
    let (preload, port) = (spec.preload, spec.ports.main);
    let Some(entry) = room.workers.get_mut(&incarnation) else { return };
    let Some(process) = entry.process.as_ref().filter(|_| preload && !entry.looked_at) else { return };
    entry.looked_at = true;
    let (id, group) = (entry.id.clone(), process.pid());
    let stem = entry.socket.to_string_lossy().trim_end_matches(".sock").to_owned();
    tokio::task::spawn_blocking(move || {
        let found = listening::of_group(group, |path| path.starts_with(&stem));
        found.iter().take(MOST_NAMED).for_each(|one| tell(&id, one, port));
    });
}

fn tell(id: &WorkerId, found: &Listening, port: Option<u16>) {
    let Listening { pid, command, at, .. } = found;
    let remedy = match (port, &found.at) {
        (Some(port), listening::At::Tcp(other)) if *other != port && found.has_script => {
            format!("the key port says {port}, on which nothing listens")
        }
        _ => found.remedy().to_owned(),
    };
    log::warn!("{id}: the proxy has no server of it yet, but its process {pid} ({command}) listens on {at}: {remedy}");
}
