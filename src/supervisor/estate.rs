//! What a proxy knows of its workers, written down for another process on the same boot: a successor,
//! or the one that is started after a crash.

mod remains;

pub(crate) use remains::clear_up;

use super::alarms;
use super::definition::Definition;
use super::restarts::Restarts;
use super::room::Room;
use super::tags::Tags;
use super::worker_record::Entry;
use crate::fleet::policy::Policy;
use crate::fleet::{self, Fleet, Time};
use crate::pool::Pool;
use crate::process::control::{Expected, Registry, Stats, Token, is_own_socket};
use crate::process::output::Stream;
use crate::process::spec::Spec;
use crate::process::{Group, Process, RuntimeDir, SharedDir, Tenant, state};
use crate::worker::{Generation, Incarnation, Slot, Tag, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Counts up when an older proxy could not read it any more.
const VERSION: u32 = 1;

/// All workers, and all that was decided about them. Fields that come later need a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Estate {
    pub(crate) version: u32,
    boot: String,
    /// The supervisor's start by the clock that all processes of a boot share.
    epoch: Duration,
    next_tag: u32,
    rooms: Vec<SavedRoom>,
    #[serde(default)]
    alarms: alarms::Saved,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedRoom {
    name: String,
    removed: bool,
    definitions: BTreeMap<Generation, SavedDefinition>,
    rollouts: BTreeMap<Generation, Result<String, String>>,
    fleet: fleet::Saved,
    workers: Vec<SavedWorker>,
    last_words: BTreeMap<Slot, Vec<String>>,
    restarts: Restarts,
    /// Owners of the sids that do not name theirs.
    #[serde(default)]
    learnt: Vec<(String, Incarnation)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedDefinition {
    spec: Spec,
    policy: Policy,
    /// Where the working directory led when the generation began.
    cwd: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedWorker {
    slot: Slot,
    incarnation: Incarnation,
    /// Its process and when that was started (proc_pid_stat(5), field 22): together they name it.
    process: Option<(u32, u64)>,
    serving_pid: Option<u32>,
    /// Whether it had a control channel.
    connected: bool,
    token: Option<Token>,
    tag: Option<Tag>,
    uid: u32,
    /// Where its main server is told to listen.
    socket: PathBuf,
    /// Where it listens and has listened; the last is the present one.
    paths: Vec<String>,
    served: u64,
    stats: Option<Stats>,
    /// Where its Engine.IO serves, and how many sessions it has: known until it dials in again.
    #[serde(default)]
    engine: Option<Vec<String>>,
    #[serde(default)]
    sessions: Option<u64>,
}

/// What a reader of a worker's output had in hand: the beginning of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Partial {
    pub(crate) app: String,
    pub(crate) incarnation: u32,
    pub(crate) stream: Stream,
    pub(crate) bytes: Vec<u8>,
}

/// An estate taken up: its processes are known again.
pub(super) struct Revived {
    pub(super) rooms: Vec<Room>,
    pub(super) epoch: Instant,
    pub(super) tags: Tags,
    /// Those that had a control channel.
    pub(super) connected: Vec<WorkerId>,
    pub(super) alarms: alarms::Saved,
}

impl Estate {
    /// `learnt`: sids of each app at most.
    pub(super) fn of<'a>(
        rooms: impl Iterator<Item = &'a Room>,
        tags: &Tags,
        epoch: Instant,
        learnt: usize,
        alarms: alarms::Saved,
    ) -> Estate {
        Estate {
            version: VERSION,
            boot: state::boot_id(),
            epoch: state::monotonic().saturating_sub(epoch.elapsed()),
            next_tag: tags.next(),
            rooms: rooms.map(|room| SavedRoom::of(room, learnt)).collect(),
            alarms,
        }
    }

    /// Reads what another process has written.
    ///
    /// # Errors
    /// Says why it is of no use.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Estate, String> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |e: serde_json::Error| format!("it is damaged: {e}");
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(format!("it has version {version}, this program reads {VERSION}"));
        }
        let estate: Estate = serde_json::from_slice(bytes).map_err(damaged)?;
        match estate.boot == state::boot_id() {
            true => Ok(estate),
            false => Err("it was written before the machine was started".to_owned()),
        }
    }

    /// Whose processes live in the directory: the apps of the estate as they are, then those of the
    /// configuration that are new. A change comes with the reload that follows.
    pub(super) fn tenants(&self, configured: Vec<Tenant>) -> Vec<Tenant> {
        let tenant = |room: &SavedRoom| {
            let user = room.definitions.values().rev().find_map(|d| d.spec.user.clone());
            Tenant { app: room.name.clone(), user }
        };
        let mut tenants: Vec<Tenant> = self.rooms.iter().map(tenant).collect();
        let new = |app: &Tenant| !self.rooms.iter().any(|room| room.name == app.app);
        tenants.extend(configured.into_iter().filter(new));
        tenants
    }

    /// Finds all processes again. Nothing is changed, neither in the directory nor with a process.
    ///
    /// # Errors
    /// Says what cannot be.
    pub(super) fn revive(self, dir: &Path, pool: impl Fn(&str) -> Arc<Pool>) -> Result<Revived, String> {
        let age = state::monotonic().checked_sub(self.epoch).ok_or("its beginning lies in the future")?;
        let epoch = Instant::now().checked_sub(age).ok_or("its beginning lies before the machine's")?;
        let (tags, alarms) = (Tags::new(self.next_tag), self.alarms);
        let mut revived = Revived { rooms: Vec::new(), epoch, tags, connected: Vec::new(), alarms };
        for room in self.rooms {
            let app: Arc<str> = room.name.as_str().into();
            let pool = pool(&app);
            let room = room.revive(app.clone(), pool, dir, age, &mut revived).map_err(|e| format!("{app}: {e}"))?;
            revived.rooms.push(room);
        }
        Ok(revived)
    }
}

impl SavedRoom {
    fn of(room: &Room, learnt: usize) -> SavedRoom {
        // What is no text is no sid.
        let sid = |(sid, owner): (Box<[u8]>, WorkerId)| Some((String::from_utf8(sid.into()).ok()?, owner.incarnation));
        let definition = |d: &Definition| SavedDefinition {
            spec: d.spec.clone(),
            policy: d.policy.clone(),
            cwd: d.pinned.cwd.clone(),
        };
        let worker = |worker: &fleet::Worker| {
            let entry = room.workers.get(&worker.incarnation)?;
            Some(SavedWorker::of(entry, worker.is_connected()))
        };
        SavedRoom {
            name: room.name.to_string(),
            removed: room.removed,
            definitions: room.definitions.iter().map(|(g, d)| (*g, definition(d))).collect(),
            rollouts: room.rollouts.clone(),
            fleet: room.fleet.save(),
            workers: room.fleet.workers().filter_map(worker).collect(),
            last_words: room.last_words.iter().map(|(slot, words)| (*slot, words.to_vec())).collect(),
            restarts: room.restarts.clone(),
            learnt: room.pool.learnt(learnt).into_iter().filter_map(sid).collect(),
        }
    }

    fn revive(
        self,
        app: Arc<str>,
        pool: Arc<Pool>,
        dir: &Path,
        now: Time,
        revived: &mut Revived,
    ) -> Result<Room, String> {
        let fleet = Fleet::restore(app.clone(), self.fleet, now)?;
        let definition = |d: SavedDefinition| Definition::pinned_at(d.spec, d.policy, d.cwd);
        let definitions: BTreeMap<_, _> = self.definitions.into_iter().map(|(g, d)| (g, definition(d))).collect();
        let (present, target) = fleet.generations();
        let used = fleet.workers().map(|w| w.generation).chain([present]).chain(target);
        if let Some(missing) = used.into_iter().find(|generation| !definitions.contains_key(generation)) {
            return Err(format!("it does not say what generation {missing} is"));
        }
        let mut room = Room {
            name: app.clone(),
            // Who was stopped goes on stopping, and its namesake starts anew.
            removed: self.removed || fleet.is_stopping(),
            definitions,
            rollouts: self.rollouts,
            pool,
            old_pools: Vec::new(),
            fleet,
            workers: Default::default(),
            last_words: self.last_words.into_iter().map(|(slot, words)| (slot, words.into())).collect(),
            restarts: self.restarts,
            entrance: None,
        };
        let shared = room.external().map(|external| external.directory.clone());
        for saved in self.workers {
            let incarnation = saved.incarnation;
            let known = room.fleet.workers().find(|w| w.incarnation == saved.incarnation && w.slot == saved.slot);
            let id = WorkerId { app: app.clone(), slot: saved.slot, incarnation: saved.incarnation };
            let worker = known.ok_or_else(|| format!("its {id} has no seat"))?;
            let (alive, connected) = (worker.is_alive(), saved.connected);
            let entry = saved.revive(id.clone(), dir, shared.as_deref(), alive)?;
            if let Some(tag) = entry.tag
                && !revived.tags.reserve(tag)
            {
                return Err(format!("{id} shares tag {tag} with another"));
            }
            if connected && (entry.process.is_some() || shared.is_some()) {
                revived.connected.push(id);
            }
            room.workers.insert(incarnation, entry);
        }
        if let Some(worker) = room.fleet.workers().find(|w| !room.workers.contains_key(&w.incarnation)) {
            return Err(format!("nothing is known of its worker #{}", worker.incarnation));
        }
        for (sid, owner) in &self.learnt {
            if let Some(entry) = room.workers.get(owner) {
                room.pool.learn_again(sid.as_bytes(), entry.id.clone());
            }
        }
        Ok(room)
    }
}

impl SavedWorker {
    fn of(entry: &Entry, connected: bool) -> SavedWorker {
        let process = entry.process.as_ref();
        SavedWorker {
            slot: entry.id.slot,
            incarnation: entry.id.incarnation,
            process: process.and_then(|process| Some((process.pid(), process.start_time()?))),
            serving_pid: entry.serving_pid,
            connected,
            token: entry.token.clone(),
            tag: entry.tag,
            uid: entry.uid,
            socket: entry.socket.clone(),
            paths: entry.members.iter().map(|member| member.socket.to_string()).collect(),
            served: entry.requests(),
            stats: entry.stats,
            engine: entry.engine.clone(),
            sessions: entry.sessions,
        }
    }

    /// Whether its socket is one that this directory has for it.
    fn lives_in(&self, dir: &Path, id: &WorkerId) -> bool {
        let name = format!("{}.{}.{}.sock", id.app, id.slot, id.incarnation);
        let workers = dir.join("workers");
        self.socket == workers.join(&name) || self.socket == workers.join(&*id.app).join(&name)
    }

    /// `shared` is the directory of the app's workers if they are external.
    fn revive(self, id: WorkerId, dir: &Path, shared: Option<&Path>, alive: bool) -> Result<Entry, String> {
        let foreign = |path: &str| !is_own_socket(&self.socket, path);
        let ours = match shared {
            Some(shared) => {
                let named = self.socket.to_str().and_then(|path| SharedDir::socket(shared, path));
                named.as_ref() == Some(&self.socket)
            }
            None => self.lives_in(dir, &id),
        };
        if !ours || self.paths.iter().any(|path| foreign(path)) {
            return Err(format!("a socket of {id} is not its own"));
        }
        let mut entry = Entry::new(id.clone(), self.socket);
        if alive && shared.is_none() {
            // Without a number it was being started: its process may have come to be.
            let born = || {
                let pid = state::find_worker(&entry.socket, self.uid)?;
                Some((pid, crate::process::usage::start_time(pid).ok()?))
            };
            let process = self.process.or_else(born).map(|(pid, time)| Process::adopt(pid, time, self.uid));
            entry.process = match process {
                Some(Err(e)) => {
                    log::info!("{id}: {e}");
                    None
                }
                found => found.and_then(Result::ok),
            };
            if entry.process.is_none() {
                entry.remains = Group::find(self.process, &entry.socket, self.uid);
            }
        }
        entry.tag = self.tag;
        entry.token = self.token;
        (entry.uid, entry.guest) = (self.uid, shared.is_some());
        entry.members = self.paths.into_iter().map(|path| entry.member_at(path.into())).collect();
        entry.serving_pid = self.serving_pid;
        entry.served = self.served;
        entry.stats = self.stats;
        (entry.engine, entry.sessions) = (self.engine, self.sessions.or(self.stats.map(|stats| stats.sessions)));
        entry.tell_engine();
        Ok(entry)
    }
}

/// Lets the workers of a room dial in again.
pub(super) fn expect(room: &Room, registry: &Registry) {
    let external = room.fleet.is_external();
    for entry in room.workers.values().filter(|entry| external || entry.process.is_some()) {
        let Some(token) = entry.token.clone() else { continue };
        let listens = room.fleet.workers().any(|w| w.incarnation == entry.id.incarnation && w.listens());
        let main = entry.member().filter(|_| listens).map(|member| member.socket.clone());
        let (id, socket) = (entry.id.clone(), entry.socket.clone());
        registry.expect_again(Expected { id, token, uid: entry.uid, socket }, main);
    }
}

/// The estate that a proxy which was killed has left, if it is of use.
pub(super) fn left_in(dir: &RuntimeDir) -> Option<Estate> {
    let path = dir.state_file();
    let found = match state::read(&path) {
        Ok(None) => return None,
        Ok(Some(bytes)) => Estate::parse(&bytes),
        Err(why) => Err(why),
    };
    found.map_err(|why| refuse(&path, &why)).ok()
}

/// Starts from nothing: the workers of before are strangers now.
pub(super) fn refuse(path: &Path, why: &str) {
    let kept = match state::set_aside(path) {
        Ok(bad) => format!("it is kept as {}", bad.display()),
        Err(e) => format!("it cannot be set aside: {e}"),
    };
    log::warn!(
        "{} cannot be used: {why}; {kept}. Workers of the proxy before, if any live, are not taken over; \
         those with the preload script end by themselves",
        path.display()
    );
}
