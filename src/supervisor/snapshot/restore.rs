//! Makes apps of a snapshot: their processes are found again.

use super::super::alarms;
use super::super::app::ManagedApp;
use super::super::child::Adopt;
use super::super::definition::Definition;
use super::super::renounced;
use super::super::tags::Tags;
use super::super::worker_record::WorkerRecord;
use super::format::{SavedApp, SavedDefinition, SavedWorker, Snapshot};
use crate::fleet::{Fleet, Time};
use crate::pool::Pool;
use crate::process::control::{Expected, Registry, is_own_socket};
use crate::process::spec::Spec;
use crate::process::{Group, RuntimeDir, SharedDir, state};
use crate::worker::WorkerId;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What a snapshot told of.
pub(in crate::supervisor) struct Restored {
    pub(in crate::supervisor) apps: Vec<ManagedApp>,
    pub(in crate::supervisor) epoch: Instant,
    pub(in crate::supervisor) tags: Tags,
    /// The workers that had a control channel.
    pub(in crate::supervisor) connected: Vec<WorkerId>,
    pub(in crate::supervisor) alarms: alarms::Saved,
}

/// Where workers are looked for.
struct Place<'a> {
    dir: &'a Path,
    adopt: Adopt<'a>,
    now: Time,
}

impl Snapshot {
    /// Finds all processes again. Nothing is changed, neither in the directory nor with a process.
    ///
    /// # Errors
    /// Says what cannot be.
    pub(in crate::supervisor) fn restore(
        self,
        dir: &Path,
        adopt: Adopt<'_>,
        pool: impl Fn(&str) -> Arc<Pool>,
    ) -> Result<Restored, String> {
        let age = state::monotonic().checked_sub(self.epoch).ok_or("its beginning lies in the future")?;
        let epoch = Instant::now().checked_sub(age).ok_or("its beginning lies before the machine's")?;
        let (tags, alarms) = (Tags::new(self.next_tag), self.alarms);
        let mut restored = Restored { apps: Vec::new(), epoch, tags, connected: Vec::new(), alarms };
        let place = Place { dir, adopt, now: age };
        for app in self.apps {
            let name: Arc<str> = app.name.as_str().into();
            let pool = pool(&name);
            let app = app.restore(name.clone(), pool, &place, &mut restored).map_err(|e| format!("{name}: {e}"))?;
            restored.apps.push(app);
        }
        Ok(restored)
    }
}

impl SavedApp {
    fn restore(
        self,
        name: Arc<str>,
        pool: Arc<Pool>,
        place: &Place<'_>,
        restored: &mut Restored,
    ) -> Result<ManagedApp, String> {
        let fleet = Fleet::restore(name.clone(), self.fleet, place.now)?;
        let definition = |d: SavedDefinition| {
            let pinned = d.pinned.unwrap_or_else(|| Spec { cwd: d.cwd, ..d.spec.clone() });
            Definition::with(d.spec, d.policy, pinned, d.release)
        };
        let definitions: BTreeMap<_, _> = self.definitions.into_iter().map(|(g, d)| (g, definition(d))).collect();
        let (present, target) = fleet.generations();
        let used = fleet.workers().map(|w| w.generation).chain([present]).chain(target);
        if let Some(missing) = used.into_iter().find(|generation| !definitions.contains_key(generation)) {
            return Err(format!("it does not say what generation {missing} is"));
        }
        let mut app = ManagedApp {
            name: name.clone(),
            // An app that was stopped goes on stopping, and its namesake starts anew.
            removed: self.removed || fleet.is_stopping(),
            definitions,
            rollouts: self.rollouts,
            pool,
            old_pools: Vec::new(),
            fleet,
            workers: Default::default(),
            last_words: self.last_words.into_iter().map(|(slot, words)| (slot, words.into())).collect(),
            restarts: self.restarts,
            listener: None,
        };
        restore_workers(&mut app, self.workers, place, restored)?;
        for (sid, owner) in &self.learnt {
            if let Some(record) = app.workers.get(owner) {
                app.pool.learn_again(sid.as_bytes(), record.id.clone());
            }
        }
        Ok(app)
    }
}

fn restore_workers(
    app: &mut ManagedApp,
    workers: Vec<SavedWorker>,
    place: &Place<'_>,
    restored: &mut Restored,
) -> Result<(), String> {
    let shared = app.external().map(|external| external.directory.clone());
    for saved in workers {
        let incarnation = saved.incarnation;
        let known = app.fleet.workers().find(|w| w.incarnation == incarnation && w.slot == saved.slot);
        let id = WorkerId { app: app.name.clone(), slot: saved.slot, incarnation };
        let worker = known.ok_or_else(|| format!("its {id} has no seat"))?;
        let (alive, connected) = (worker.is_alive(), saved.connected);
        let record = saved.restore(id.clone(), place, shared.as_deref(), alive)?;
        if let Some(tag) = record.tag
            && !restored.tags.reserve(tag)
        {
            return Err(format!("{id} shares tag {tag} with another"));
        }
        let may_dial_in = record.child.is_some() && renounced::user_of(&record).is_none();
        if connected && (may_dial_in || shared.is_some()) {
            restored.connected.push(id);
        }
        app.workers.insert(incarnation, record);
    }
    match app.fleet.workers().find(|w| !app.workers.contains_key(&w.incarnation)) {
        Some(worker) => Err(format!("nothing is known of its worker #{}", worker.incarnation)),
        None => Ok(()),
    }
}

impl SavedWorker {
    /// `shared` is the directory of the app's workers if they are external.
    fn restore(
        self,
        id: WorkerId,
        place: &Place<'_>,
        shared: Option<&Path>,
        alive: bool,
    ) -> Result<WorkerRecord, String> {
        let foreign = |path: &str| !is_own_socket(&self.socket, path);
        let ours = match shared {
            Some(shared) => {
                let named = self.socket.to_str().and_then(|path| SharedDir::socket(shared, path));
                named.as_ref() == Some(&self.socket)
            }
            None => self.lives_in(place.dir, &id),
        };
        if !ours || self.paths.iter().any(|path| foreign(path)) {
            return Err(format!("a socket of {id} is not its own"));
        }
        let mut record = WorkerRecord::new(id, self.socket.clone());
        if alive && shared.is_none() {
            self.find_process(&mut record, place.adopt);
        }
        record.tag = self.tag;
        record.token = self.token;
        (record.uid, record.is_external) = (self.uid, shared.is_some());
        record.members = self.paths.into_iter().map(|path| record.member_at(path.into())).collect();
        (record.serving_pid, record.ports.main) = (self.serving_pid, self.main_port);
        record.served = self.served;
        record.stats = self.stats;
        (record.engine, record.sessions) = (self.engine, self.sessions.or(self.stats.map(|stats| stats.sessions)));
        record.publish_engine();
        Ok(record)
    }

    fn find_process(&self, record: &mut WorkerRecord, adopt: Adopt<'_>) {
        // Without a number it was being started: its process may have come to be.
        let started = || {
            let pid = state::find_worker(&record.socket, self.uid)?;
            Some((pid, crate::process::usage::start_time(pid).ok()?))
        };
        match self.process.or_else(started).map(|(pid, time)| adopt(pid, time, self.uid)) {
            Some(Ok(child)) => record.child = Some(child),
            Some(Err(e)) => log::info!("{}: {e}", record.id),
            None => {}
        }
        if record.child.is_none() {
            record.orphans = Group::find(self.process, &record.socket, self.uid);
        }
    }
}

/// Lets the workers of an app dial in again.
pub(in crate::supervisor) fn expect_workers(app: &ManagedApp, registry: &Registry) {
    let external = app.fleet.is_external();
    for record in app.workers.values().filter(|record| external || record.child.is_some()) {
        let Some(token) = record.token.clone() else { continue };
        let listens = app.fleet.workers().any(|w| w.incarnation == record.id.incarnation && w.listens());
        let main = record.member().filter(|_| listens).map(|member| member.socket.clone());
        let (id, socket) = (record.id.clone(), record.socket.clone());
        registry.expect_again(Expected { id, token, uid: record.uid, socket }, main);
    }
}

/// The snapshot that a proxy which was killed has left, if it is of use.
pub(in crate::supervisor) fn read_left(dir: &RuntimeDir) -> Option<Snapshot> {
    let path = dir.state_file();
    let found = match state::read(&path) {
        Ok(None) => return None,
        Ok(Some(bytes)) => Snapshot::parse(&bytes),
        Err(why) => Err(why),
    };
    found.map_err(|why| set_aside(&path, &why)).ok()
}

/// The supervisor starts from nothing: the workers of the proxy before are strangers to it.
pub(in crate::supervisor) fn set_aside(path: &Path, why: &str) {
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
