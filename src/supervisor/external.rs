//! Apps whose workers somebody else starts: the directory they share with us, and who comes in.

use super::definition::Definition;
use super::keeper::Keeper;
use super::room::Room;
use super::worker_record::Entry;
use crate::fleet::Event;
use crate::process::control::{self, Door, Expected, Join, Place, Registry, Turned};
use crate::process::spec::External;
use crate::process::{Error, PRELOAD, SharedDir};
use crate::worker::{Tag, WorkerId};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// An app's shared directory, open. Dropping it closes and clears it.
pub(super) struct Entrance {
    door: Arc<Door>,
    pub(super) dir: Arc<SharedDir>,
    /// `None` once closed.
    serving: Option<JoinHandle<()>>,
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

impl Entrance {
    fn open(
        app: Arc<str>,
        external: &External,
        registry: Registry,
        joins: mpsc::Sender<Join>,
        take_over: bool,
    ) -> Result<Entrance, Error> {
        let dir = SharedDir::open(&external.directory, &external.users)?;
        let listener = dir.furnish(PRELOAD, take_over)?;
        let doing = || format!("listening in {}", external.directory.display());
        let listener =
            tokio::net::UnixListener::from_std(listener).map_err(|source| Error::Io { doing: doing(), source })?;
        let door = Arc::new(Door::new(app, external.directory.clone(), external.users.clone(), joins));
        let serving = tokio::spawn(control::serve_external(listener, registry, door.clone()));
        let dir = Arc::new(dir);
        sweep(dir.clone());
        log::info!("external workers join in {}", external.directory.display());
        Ok(Entrance { door, dir, serving: Some(serving) })
    }
}

/// Removes what dead workers left. Nobody waits for it.
pub(super) fn sweep(dir: Arc<SharedDir>) {
    tokio::task::spawn_blocking(move || dir.sweep());
}

impl Room {
    /// What is said of the app's external workers, if it has such.
    pub(super) fn external(&self) -> Option<&External> {
        let (present, _) = self.fleet.generations();
        self.definitions.get(&present)?.spec.external.as_ref()
    }

    /// Why no order can start, replace or end its workers.
    pub(super) fn refuses_orders(&self) -> Option<String> {
        self.fleet.is_external().then(|| {
            format!("{}: its workers are external: whoever started them starts, restarts and ends them", self.name)
        })
    }

    /// Why a reload cannot make this of the app.
    pub(super) fn cannot_become(&self, definition: &Definition) -> Option<String> {
        let place = |external: Option<&External>| external.map(|external| external.directory.clone());
        (place(self.external()) != place(definition.spec.external.as_ref())).then(|| {
            format!(
                "{}: whether its workers are external, and in which directory, cannot change while it runs; give \
                 the app another name",
                self.name
            )
        })
    }

    /// Other users may come in from now on.
    pub(super) fn admit_users(&self, definition: &Definition) {
        if let (Some(entrance), Some(external)) = (&self.entrance, &definition.spec.external) {
            if let Err(e) = entrance.dir.admit_users(&external.users) {
                log::error!("{}: {e}", self.name);
            }
            entrance.door.admit_users(external.users.clone());
        }
    }
}

impl Keeper {
    /// Lets the external workers of an app in, if it has such. With `take_over`, in the place of a proxy
    /// that still lives.
    pub(super) fn open_entrance(&mut self, at: usize, take_over: bool) -> Result<(), Error> {
        let Some(room) = self.rooms.get_mut(&at) else { return Ok(()) };
        let Some(external) = room.external().cloned() else { return Ok(()) };
        let (registry, joins) = (self.registry.clone(), self.joins_in.clone());
        room.entrance = Some(Entrance::open(room.name.clone(), &external, registry, joins, take_over)?);
        Ok(())
    }

    /// The same for all apps.
    pub(super) fn open_entrances(&mut self, take_over: bool) -> Result<(), Error> {
        self.rooms.keys().copied().collect::<Vec<_>>().into_iter().try_for_each(|at| self.open_entrance(at, take_over))
    }

    /// External workers that are hung up on dial in to whoever took our place.
    pub(super) async fn close_entrances(&mut self) {
        for entrance in self.rooms.values_mut().filter_map(|room| room.entrance.as_mut()) {
            if let Some(serving) = entrance.serving.take() {
                serving.abort();
                let _ = serving.await;
            }
        }
    }

    /// A worker has dialled in. Who asks may have left meanwhile: its place is dropped in time. Without
    /// `may_change` only those that are known get theirs.
    pub(super) fn join(&mut self, join: Join, may_change: bool) {
        let answer = self.place(&join, may_change);
        let _ = join.reply.send(answer);
    }

    fn place(&mut self, join: &Join, may_change: bool) -> Result<(WorkerId, Place), Turned> {
        let now = self.now();
        let found = self.rooms.values_mut().find(|room| room.name == join.app && !room.removed);
        let room = found.filter(|room| room.fleet.is_external()).ok_or("the app is not configured any more")?;
        if let Some(known) = self.registry.find(&join.app, &join.token) {
            // The same process again, or another one of a cluster.
            if known.socket != join.socket {
                return Err("its id belongs to a worker with another socket".into());
            }
            let entry = room.workers.get(&known.id.incarnation).ok_or(Turned::Later("it has just been given up"))?;
            let place = describe(room, &known.id, entry.tag, self.port, self.keep_alive, &self.registry);
            return Ok((known.id, place));
        }
        let alive = |entry: &Entry| room.fleet.workers().any(|w| w.incarnation == entry.id.incarnation && w.is_alive());
        if room.workers.values().any(|entry| entry.socket == join.socket && alive(entry)) {
            return Err(format!("{} is another worker's socket", join.socket.display()).into());
        }
        if !may_change {
            return Err(Turned::Later("the proxy is being replaced"));
        }
        let (slot, incarnation) = room.fleet.vacancy()?;
        // Its sessions are found by the tag that it had, if nobody has it now.
        let tag = join.tag.filter(|tag| self.tags.reserve(*tag)).or_else(|| self.tags.take());
        let tag = tag.ok_or("all tags are in use")?;
        let id = WorkerId { app: join.app.clone(), slot, incarnation };
        let mut entry = Entry::new(id.clone(), join.socket.clone());
        entry.tag = Some(tag);
        entry.serving_pid = join.pid;
        (entry.token, entry.uid, entry.guest) = (Some(join.token.clone()), join.uid, true);
        room.workers.insert(incarnation, entry);
        let (token, uid, socket) = (join.token.clone(), join.uid, join.socket.clone());
        self.registry.expect(Expected { id: id.clone(), token, uid, socket });
        room.fleet.handle(Event::Joined { slot, incarnation, pid: join.pid }, now);
        let place = describe(room, &id, Some(tag), self.port, self.keep_alive, &self.registry);
        Ok((id, place))
    }
}

fn describe(
    room: &Room,
    id: &WorkerId,
    tag: Option<Tag>,
    port: u16,
    keep_alive: std::time::Duration,
    registry: &Registry,
) -> Place {
    let (present, _) = room.fleet.generations();
    let ports = room.definitions.get(&present).map(|definition| definition.spec.ports.clone()).unwrap_or_default();
    Place {
        app: id.app.to_string(),
        slot: id.slot.0,
        incarnation: id.incarnation.0,
        tag: tag.map(|tag| tag.as_str().to_owned()).unwrap_or_default(),
        port,
        wait_ready: room.fleet.policy().wait_ready,
        keep_alive_ms: keep_alive.as_millis() as u64,
        main_port: ports.main,
        settled_port: registry.settled(&id.app),
        ports: ports.further,
    }
}
