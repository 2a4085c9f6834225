//! The task that owns all state of the supervisor.

use super::alarm_event::Hook;
use super::alarms::{self, Alarms};
use super::control_listener::ControlDoor;
use super::effects;
use super::guarding::Guarding;
use super::heir::Legacy;
use super::messages::{
    EffectReport, EffectReports, HandoffRequest, JOINS_MAX, Order, Outcome, REPORTS_MAX, RunState, Wanted,
};
use super::orders::Pending;
use super::pulse::Pulse;
use super::room::Room;
use super::saver::Saver;
use super::tags::Tags;
use super::transfer::Still;
use super::{Setup, Status};
use crate::fleet::{Event, State, Time};
use crate::process::control::{Join, Registry, Reported};
use crate::process::output::Logs;
use crate::process::{Error, PRELOAD, RuntimeDir, strays};
use crate::worker::Incarnation;
use pingora_core::server::ShutdownWatch;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Between two looks at a draining worker's requests.
pub(super) const DRAIN_POLL: Duration = Duration::from_millis(50);
/// Between two measurements of all workers.
pub(super) const MEASURE: Duration = Duration::from_secs(1);
/// Panics in a row after which the supervisor gives up, and how long a row lasts.
const PANICS: usize = 5;
const PANICS_WITHIN: Duration = Duration::from_secs(60);
/// For the last lines of output to be written.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// What the handles to the supervisor lead to.
pub(super) struct Doors {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) asks: mpsc::Receiver<HandoffRequest>,
    pub(super) wishes: watch::Receiver<RunState>,
    pub(super) status: watch::Sender<Arc<Status>>,
}

pub(super) struct Keeper {
    /// By a number that is never used again: answers may come late.
    pub(super) rooms: BTreeMap<usize, Room>,
    pub(super) next_room: usize,
    /// Rooms that are to stop although the proxy runs.
    pub(super) leaving: Vec<usize>,
    pub(super) pending: Vec<Pending>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) asks: mpsc::Receiver<HandoffRequest>,
    /// Starts under way.
    pub(super) starting: HashSet<(usize, Incarnation)>,
    /// Present while nothing is decided.
    pub(super) still: Option<Still>,
    /// Another proxy has the workers.
    pub(super) ceded: bool,
    /// Says true while no output is read.
    pub(super) hushing: watch::Sender<bool>,
    /// To be taken up at the start.
    pub(super) legacy: Option<Legacy>,
    pub(super) saver: Option<Saver>,
    /// What a guard has to know; `None` without one.
    pub(super) guarded: Option<Vec<PathBuf>>,
    pub(super) guarding: Option<Guarding>,
    /// Where workers dial in.
    pub(super) door: Option<ControlDoor>,
    pub(super) alarms: Option<Arc<dyn Hook>>,
    /// When all workers were measured last.
    pub(super) measured: Time,
    pub(super) drains_seen: Time,
    pub(super) dir: Arc<RuntimeDir>,
    pub(super) port: u16,
    pub(super) keep_alive: Duration,
    pub(super) orphan_timeout: Duration,
    pub(super) tags: Tags,
    pub(super) epoch: Instant,
    pub(super) registry: Registry,
    pub(super) reports: mpsc::Receiver<Reported>,
    pub(super) joins_in: mpsc::Sender<Join>,
    pub(super) joins: mpsc::Receiver<Join>,
    pub(super) inputs: EffectReports,
    pub(super) answers: mpsc::Receiver<EffectReport>,
    pub(super) wishes: watch::Receiver<RunState>,
    status: watch::Sender<Arc<Status>>,
    pub(super) logs: Arc<Logs>,
    pub(super) alerts: Alarms,
    pub(super) pulse: Arc<Pulse>,
    output: Option<Box<dyn Write + Send>>,
    /// Present while running.
    pub(super) tools: Option<Tools>,
    #[cfg(test)]
    pub(super) faults: Arc<std::sync::atomic::AtomicU32>,
}

/// What needs the runtime, or threads.
pub(super) struct Tools {
    pub(super) preload: PathBuf,
    watch: AbortHandle,
    _alerts: alarms::Running,
}

impl Drop for Tools {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Keeper {
    /// Without a room: the workers are started, or taken over.
    pub(super) fn new(setup: Setup, dir: Arc<RuntimeDir>, doors: Doors, logs: Arc<Logs>, alerts: Alarms) -> Keeper {
        let (reports_in, reports) = mpsc::channel(REPORTS_MAX);
        let (inputs, answers) = mpsc::channel(REPORTS_MAX);
        let (joins_in, joins) = mpsc::channel(JOINS_MAX);
        let Doors { orders, asks, wishes, status } = doors;
        Keeper {
            next_room: 0,
            rooms: BTreeMap::new(),
            leaving: Vec::new(),
            pending: Vec::new(),
            orders,
            asks,
            starting: HashSet::new(),
            still: None,
            ceded: false,
            hushing: watch::channel(false).0,
            legacy: None,
            saver: None,
            guarded: setup.guarded,
            guarding: None,
            door: None,
            alarms: Some(Arc::new(alerts.clone())),
            measured: Time::ZERO,
            drains_seen: Time::ZERO,
            dir,
            port: setup.port,
            keep_alive: setup.keep_alive,
            orphan_timeout: setup.orphan_timeout,
            tags: Tags::new(effects::random_seed() as u32),
            epoch: Instant::now(),
            registry: Registry::new(reports_in),
            reports,
            joins_in,
            joins,
            inputs,
            answers,
            wishes,
            status,
            logs,
            alerts,
            pulse: Arc::default(),
            output: setup.output,
            tools: None,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    /// What is known before the start.
    pub(super) fn show(&self) {
        self.show_since(None);
    }

    pub(super) fn show_since(&self, epoch: Option<Instant>) {
        let apps = self.rooms.values().map(Room::status).collect();
        self.status.send_replace(Arc::new(Status { epoch, apps }));
    }

    /// Makes a room whose workers are started from nothing.
    pub(super) fn make_room(&mut self, app: Wanted) {
        let first = self.dir.first_incarnation(&app.name);
        let room = Room::new(app.name, app.definition, app.pool, effects::random_seed(), first);
        self.rooms.insert(self.next_room, room);
        self.next_room += 1;
    }

    /// Until everything has stopped, or cannot be kept, or another has it.
    pub(super) async fn run(mut self, mut shutdown: ShutdownWatch) -> Outcome {
        match self.legacy.take() {
            Some(legacy) => {
                let kept = match self.take_over(legacy).await {
                    Ok(true) => None,
                    Ok(false) => Some("the other proxy keeps its workers".to_owned()),
                    Err(e) => Some(e.to_string()),
                };
                if let Some(why) = kept {
                    self.door.iter().for_each(|door| door.serving.abort());
                    return Err(why);
                }
            }
            None => {
                self.epoch = Instant::now();
                self.tools = Some(self.begin().map_err(|e| e.to_string())?);
                self.tell_all(Event::Start);
            }
        }
        self.saver = Some(Saver::start(self.dir.state_file()));
        self.guard();
        let mut panics: Vec<Instant> = Vec::new();
        let outcome = loop {
            let panic = {
                let mut turn = pin!(self.work(&mut shutdown));
                // What a panic leaves behind is checked by the fleet's own rules at the next step.
                std::future::poll_fn(|cx| match std::panic::catch_unwind(AssertUnwindSafe(|| turn.as_mut().poll(cx))) {
                    Ok(poll) => poll.map(Ok),
                    Err(panic) => std::task::Poll::Ready(Err(panic)),
                })
                .await
            };
            let Err(panic) = panic else { break Ok(()) };
            let text = describe(&*panic);
            log::error!("the supervisor panicked and goes on: {text}");
            panics.retain(|at| at.elapsed() < PANICS_WITHIN);
            panics.push(Instant::now());
            if panics.len() >= PANICS {
                self.kill_processes();
                break Err(format!("the supervisor panicked {PANICS} times within {PANICS_WITHIN:?}: {text}"));
            }
        };
        self.close().await;
        outcome
    }

    fn begin(&mut self) -> Result<Tools, Error> {
        self.listen()?;
        self.open_entrances(false)?;
        self.equip()
    }

    pub(super) fn equip(&mut self) -> Result<Tools, Error> {
        // The process may have become a daemon since, or is another one.
        self.dir.write_pid()?;
        let preload = self.dir.write_preload(PRELOAD)?;
        let started = self.logs.start(self.output.take());
        started.map_err(|source| Error::Io { doing: "starting the threads for output".into(), source })?;
        let alerts = self.alerts.start();
        let (alarms, logs, dir) = (self.alerts.clone(), self.logs.clone(), self.dir.control_socket());
        let watch = tokio::spawn(alarms::watch(alarms, self.status.subscribe(), logs, dir)).abort_handle();
        Ok(Tools { watch, _alerts: alerts, preload })
    }

    /// The loop. May be dropped and begun again at any await.
    async fn work(&mut self, shutdown: &mut ShutdownWatch) {
        let mut shutdown_seen = false;
        while !self.ceded {
            self.pulse.beat();
            if self.still.as_ref().is_some_and(Still::has_begun) {
                self.stand_still().await;
                continue;
            }
            self.follow_wish(*shutdown.borrow());
            self.carry_out().await;
            self.rooms.values().filter(|room| room.is_closed()).for_each(|room| room.pool.queue().close());
            #[cfg(test)]
            self.fail_as_planned();
            self.settle_orders();
            self.rooms.retain(|_, room| !(room.removed && room.fleet.is_finished()));
            let apps = self.rooms.values().map(Room::status).collect();
            let status = Arc::new(Status { epoch: Some(self.epoch), apps });
            self.status.send_if_modified(|old| {
                let differs = **old != *status;
                *old = status;
                differs
            });
            if self.rooms.values().all(|room| room.fleet.is_finished()) {
                return;
            }
            self.save_changes();
            if let Some(still) = &mut self.still {
                still.begin();
                continue;
            }
            let wake = self.wake().map(|at| tokio::time::Instant::from_std(self.epoch + at));
            let wake = wake.into_iter().chain(self.save_due()).min();
            let mut asked = None;
            tokio::select! {
                Some(input) = self.answers.recv() => self.answered(input),
                Some((id, report)) = self.reports.recv() => self.reported(&id, report),
                Some(join) = self.joins.recv() => self.join(join, true),
                Ok(()) = self.wishes.changed() => {}
                changed = shutdown.changed(), if !shutdown_seen => shutdown_seen = changed.is_err() || *shutdown.borrow(),
                Some(order) = self.orders.recv() => self.obey(order),
                Some(ask) = self.asks.recv() => asked = Some(ask),
                () = sleep_until(wake) => self.tell_all(Event::Tick),
            }
            // Not only when nothing else happens: a busy app must not hide a hanging one.
            self.look_at_drains();
            self.measure();
            if let Some(ask) = asked {
                self.asked(ask).await;
            }
        }
    }

    #[cfg(test)]
    fn fail_as_planned(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        if self.faults.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
            panic!("as planned");
        }
    }

    pub(super) fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    pub(super) fn tell_all(&mut self, event: Event) {
        let now = self.now();
        self.rooms.values_mut().for_each(|room| room.fleet.handle(event.clone(), now));
    }

    pub(super) fn tell(&mut self, room: usize, event: Event) {
        let now = self.now();
        if let Some(room) = self.rooms.get_mut(&room) {
            if let Event::SpawnFailed { incarnation, .. } = event {
                room.ended(incarnation, None);
            }
            room.fleet.handle(event, now);
        }
    }

    fn follow_wish(&mut self, shutdown: bool) {
        let wish = *self.wishes.borrow_and_update();
        match wish {
            RunState::Kill => self.tell_all(Event::Kill),
            RunState::Stop => self.tell_all(Event::Stop),
            RunState::Run if shutdown => self.tell_all(Event::Stop),
            RunState::Run => {}
        }
        let now = self.now();
        for at in std::mem::take(&mut self.leaving) {
            if let Some(room) = self.rooms.get_mut(&at) {
                room.fleet.handle(Event::Stop, now);
            }
        }
    }

    fn wake(&self) -> Option<Time> {
        let deadline = self.rooms.values().filter_map(Room::next_deadline).min();
        let draining = self.rooms.values().any(|room| room.fleet.workers().any(|w| w.state == State::Draining));
        let look = draining.then(|| self.drains_seen + DRAIN_POLL);
        deadline.into_iter().chain(look).chain([self.measured + MEASURE]).min()
    }

    async fn close(mut self) {
        drop(self.tools.take());
        let guarding = self.guarding.take();
        self.door.iter().for_each(|door| door.serving.abort());
        if let Some(saver) = self.saver.take() {
            saver.end().await;
        }
        let logs = self.logs.clone();
        let closed = tokio::task::spawn_blocking(move || logs.close(LAST_OUTPUT)).await;
        if let Err(e) = closed {
            log::error!("closing the workers' output: {e}");
        }
        if !self.ceded {
            let path = self.dir.path().to_owned();
            // Their sockets must not be left in use.
            let _ = tokio::task::spawn_blocking(move || strays::end(&path)).await;
        }
        // Tasks that still hold the directory are bounded in time, but the end must not wait for them.
        match Arc::try_unwrap(self.dir) {
            Ok(dir) => drop(dir),
            Err(dir) => dir.clear(),
        }
        match guarding {
            Some(guarding) if self.ceded => guarding.leave(),
            Some(guarding) => guarding.end().await,
            None => {}
        }
    }
}

pub(super) async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
