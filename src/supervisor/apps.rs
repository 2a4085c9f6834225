//! All apps, and what they share. [`events`](super::events) tells them what has happened, [`actions`](super::actions)
//! does what they ask for.

use super::alarms::Alarms;
use super::app::ManagedApp;
use super::effects::Effects;
use super::heartbeat::LoopHeartbeat;
use super::messages::{AppId, AppTarget};
use super::output_readers::OutputReaders;
use super::setup::Settings;
use super::status::{AppStatus, Status};
use super::tags::Tags;
use crate::fleet::{Event, State, Time};
use crate::process::control::{Join, Registry, Token};
use crate::process::{Error, RuntimeDir};
use crate::worker::Incarnation;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Between two checks of a draining worker's requests.
pub(super) const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Between two measurements of all workers.
pub(super) const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Apps {
    pub(super) by_id: BTreeMap<AppId, ManagedApp>,
    next_id: usize,
    /// Starts under way.
    pub(super) starting: HashSet<(AppId, Incarnation)>,
    pub(super) tags: Tags,
    /// Who may dial in.
    pub(super) registry: Registry,
    pub(super) dir: Arc<RuntimeDir>,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) effects: Box<dyn Effects>,
    pub(super) output: OutputReaders,
    joins: mpsc::Sender<Join>,
    pub(super) alarms: Alarms,
    pub(super) heartbeat: Arc<LoopHeartbeat>,
}

/// What the apps are made of, but for the apps.
pub(super) struct Parts {
    pub(super) dir: Arc<RuntimeDir>,
    pub(super) registry: Registry,
    pub(super) settings: Settings,
    pub(super) effects: Box<dyn Effects>,
    pub(super) output: OutputReaders,
    pub(super) joins: mpsc::Sender<Join>,
    pub(super) alarms: Alarms,
}

/// The fleets' time, and when they were told of what is looked at from time to time.
pub(super) struct Clock {
    /// The supervisor's start. A successor goes on with that of the first one.
    pub(super) epoch: Instant,
    pub(super) measured: Time,
    pub(super) drains_checked: Time,
}

impl Apps {
    /// Without an app.
    pub(super) fn new(parts: Parts) -> Apps {
        let Parts { dir, registry, settings, effects, output, joins, alarms } = parts;
        Apps {
            by_id: BTreeMap::new(),
            next_id: 0,
            starting: HashSet::new(),
            tags: Tags::new(random_seed() as u32),
            registry,
            dir,
            settings,
            clock: Clock { epoch: Instant::now(), measured: Time::ZERO, drains_checked: Time::ZERO },
            effects,
            output,
            joins,
            alarms,
            heartbeat: Arc::default(),
        }
    }

    /// Adds an app whose workers are started from nothing, once its fleet is told to.
    pub(super) fn add(&mut self, target: AppTarget) -> AppId {
        // Its namesake may still be stopping: no number is used twice.
        let namesakes = self.by_id.values().filter(|app| app.name == target.name);
        let used = namesakes.map(ManagedApp::next_incarnation).max().unwrap_or(1);
        let first = Incarnation(self.dir.first_incarnation(&target.name).0.max(used));
        self.insert(ManagedApp::new(target.name, target.definition, target.pool, random_seed(), first))
    }

    pub(super) fn insert(&mut self, app: ManagedApp) -> AppId {
        let id = AppId(self.next_id);
        self.next_id += 1;
        self.by_id.insert(id, app);
        id
    }

    pub(super) fn get(&self, id: AppId) -> Option<&ManagedApp> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: AppId) -> Option<&mut ManagedApp> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn ids(&self) -> Vec<AppId> {
        self.by_id.keys().copied().collect()
    }

    /// The configured app of this name.
    pub(super) fn find(&self, name: &str) -> Result<AppId, String> {
        let found = self.by_id.iter().find(|(_, app)| *app.name == *name && !app.removed);
        found.map(|(id, _)| *id).ok_or_else(|| format!("there is no app {name}"))
    }

    pub(super) fn now(&self) -> Time {
        self.clock.epoch.elapsed()
    }

    /// Tells a fleet of an event.
    pub(super) fn handle(&mut self, id: AppId, event: Event) {
        let now = self.now();
        if let Some(app) = self.by_id.get_mut(&id) {
            if let Event::SpawnFailed { incarnation, .. } = event {
                app.ended(incarnation, None);
            }
            app.fleet.handle(event, now);
        }
    }

    /// Tells all fleets of an event.
    pub(super) fn handle_all(&mut self, event: Event) {
        let now = self.now();
        self.by_id.values_mut().for_each(|app| app.fleet.handle(event.clone(), now));
    }

    /// The fleets could not be told of workers that dialled in while nothing was decided.
    pub(super) fn await_redials(&mut self) {
        let now = self.now();
        self.by_id.values_mut().for_each(|app| app.fleet.await_redials(now));
    }

    /// When something is due although nothing happens.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let deadline = self.by_id.values().filter_map(|app| app.fleet.next_deadline()).min();
        let draining = self.by_id.values().any(|app| app.fleet.workers().any(|w| w.state == State::Draining));
        let check = draining.then(|| self.clock.drains_checked + DRAIN_CHECK_INTERVAL);
        deadline.into_iter().chain(check).chain([self.clock.measured + MEASURE_INTERVAL]).min()
    }

    pub(super) fn close_queues(&self) {
        self.by_id.values().filter(|app| app.is_closed()).for_each(|app| app.pool.queue().close());
    }

    /// Drops apps that are not configured any more and have no worker left.
    pub(super) fn drop_removed(&mut self) {
        self.by_id.retain(|_, app| !(app.removed && app.fleet.is_finished()));
    }

    pub(super) fn are_finished(&self) -> bool {
        self.by_id.values().all(|app| app.fleet.is_finished())
    }

    pub(super) fn are_stopping(&self) -> bool {
        self.by_id.values().all(|app| app.fleet.is_stopping())
    }

    /// `epoch` is `None` before the start.
    pub(super) fn status(&self, epoch: Option<Instant>) -> Arc<Status> {
        let apps: Vec<AppStatus> = self.by_id.values().map(ManagedApp::status).collect();
        Arc::new(Status { epoch, apps })
    }

    /// Lets the external workers of an app in, if it has such. With `take_over`, in the place of a proxy
    /// that still lives.
    pub(super) fn open_listener(&mut self, id: AppId, take_over: bool) -> Result<(), Error> {
        let Some(app) = self.by_id.get_mut(&id) else { return Ok(()) };
        app.listen(&self.registry, &self.joins, take_over)
    }

    /// The same for all apps.
    pub(super) fn open_listeners(&mut self, take_over: bool) -> Result<(), Error> {
        self.by_id.values_mut().try_for_each(|app| app.listen(&self.registry, &self.joins, take_over))
    }

    /// Opens again what somebody has removed; tells the apps.
    pub(super) fn reopen_listeners(&mut self) -> Result<Vec<Arc<str>>, Error> {
        let mut opened = Vec::new();
        for app in self.by_id.values_mut() {
            if app.listen_again(&self.registry, &self.joins)? {
                opened.push(app.name.clone());
            }
        }
        Ok(opened)
    }

    pub(super) async fn close_listeners(&mut self) {
        for listener in self.by_id.values_mut().filter_map(|app| app.listener.as_mut()) {
            listener.close().await;
        }
    }

    /// Another proxy has the processes from now on.
    pub(super) fn release_processes(&self) {
        let records = self.by_id.values().flat_map(|app| app.workers.values());
        records.filter_map(|record| record.child.as_ref()).for_each(|child| child.release());
    }

    /// The last resort: no rule decides any more.
    pub(super) fn kill_processes(&self) {
        let records = self.by_id.values().flat_map(|app| app.workers.values());
        for child in records.filter_map(|record| record.child.as_ref()) {
            if let Err(e) = child.kill_group() {
                log::warn!("{e}");
            }
        }
    }
}

/// A seed nobody can guess, from the kernel.
fn random_seed() -> u64 {
    let token = Token::random().map(|token| u64::from_str_radix(token.as_str().get(..16).unwrap_or("0"), 16));
    token.ok().and_then(Result::ok).unwrap_or_else(|| u64::from(std::process::id()))
}
