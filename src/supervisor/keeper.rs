//! The task that owns all state of the supervisor.

use super::alarm_event::Hook;
use super::alarms::{self, Alarms};
use super::definition::Definition;
use super::effects::{self, Inputs, Started};
use super::orders::{Order, Pending};
use super::room::Room;
use super::tags::Tags;
use super::{Outcome, Setup, Status, Wish};
use crate::fleet::{Event, State, Surroundings, Time};
use crate::process::control::{self, Join, Registry, Report, Reported};
use crate::process::output::{self, Logs, Stream};
use crate::process::{Error, Exit, RuntimeDir, memory};
use crate::worker::{Generation, Incarnation, WorkerId};
use pingora_core::server::ShutdownWatch;
use pingora_load_balancing::health_check::TcpHealthCheck;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Between two looks at a draining worker's requests.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// Between two measurements of all workers.
const MEASURE: Duration = Duration::from_secs(1);
/// Panics in a row after which the supervisor gives up, and how long a row lasts.
const PANICS: usize = 5;
const PANICS_WITHIN: Duration = Duration::from_secs(60);
/// For the last lines of output to be written.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// The answer to an effect.
pub(super) struct Input {
    pub(super) room: usize,
    pub(super) incarnation: Incarnation,
    pub(super) answer: Answer,
}

pub(super) enum Answer {
    Started(Result<Started, Error>),
    Probed { attempt: u32, answer: Result<(), String> },
    Checked { attempt: u32, answer: Result<(), String> },
    Exited(Exit),
    Cleaned,
}

pub(super) struct Keeper {
    /// By a number that is never used again: answers may come late.
    pub(super) rooms: BTreeMap<usize, Room>,
    pub(super) next_room: usize,
    /// Rooms that are to stop although the proxy runs.
    pub(super) leaving: Vec<usize>,
    pub(super) pending: Vec<Pending>,
    orders: mpsc::Receiver<Order>,
    pub(super) alarms: Option<Arc<dyn Hook>>,
    /// When all workers were measured last.
    measured: Time,
    drains_seen: Time,
    pub(super) dir: Arc<RuntimeDir>,
    pub(super) port: u16,
    pub(super) keep_alive: Duration,
    pub(super) orphan_timeout: Duration,
    pub(super) tags: Tags,
    epoch: Instant,
    pub(super) registry: Registry,
    reports: mpsc::Receiver<Reported>,
    pub(super) joins_in: mpsc::Sender<Join>,
    joins: mpsc::Receiver<Join>,
    pub(super) inputs: Inputs,
    answers: mpsc::Receiver<Input>,
    pub(super) wishes: watch::Receiver<Wish>,
    status: watch::Sender<Arc<Status>>,
    logs: Arc<Logs>,
    pub(super) alerts: Alarms,
    output: Option<Box<dyn Write + Send>>,
    /// Present while running.
    pub(super) tools: Option<Tools>,
    #[cfg(test)]
    pub(super) faults: Arc<std::sync::atomic::AtomicU32>,
}

/// What needs the runtime, or threads.
pub(super) struct Tools {
    pub(super) check: Arc<TcpHealthCheck>,
    pub(super) preload: PathBuf,
    control: AbortHandle,
    watch: AbortHandle,
    _alerts: alarms::Running,
}

impl Drop for Tools {
    fn drop(&mut self) {
        self.control.abort();
        self.watch.abort();
    }
}

impl Keeper {
    pub(super) fn new(
        setup: Setup,
        dir: RuntimeDir,
        logs: Arc<Logs>,
        orders: mpsc::Receiver<Order>,
        alerts: Alarms,
        wishes: watch::Receiver<Wish>,
        status: watch::Sender<Arc<Status>>,
    ) -> Keeper {
        let (reports_in, reports) = mpsc::channel(1024);
        let (inputs, answers) = mpsc::channel(1024);
        let (joins_in, joins) = mpsc::channel(super::external::JOINS);
        let seed = effects::random_seed();
        let room = |(n, app): (usize, super::AppSpec)| {
            let first = dir.first_incarnation(&app.name);
            let definition = Definition::pin_or_keep(app.spec, app.policy);
            (n, Room::new(app.name, definition, app.pool, seed.wrapping_add(n as u64), first))
        };
        let rooms: BTreeMap<usize, Room> = setup.apps.into_iter().enumerate().map(room).collect();
        status.send_replace(Arc::new(Status { epoch: None, apps: rooms.values().map(Room::status).collect() }));
        Keeper {
            next_room: rooms.len(),
            rooms,
            leaving: Vec::new(),
            pending: Vec::new(),
            orders,
            alarms: Some(Arc::new(alerts.clone())),
            measured: Time::ZERO,
            drains_seen: Time::ZERO,
            dir: Arc::new(dir),
            port: setup.port,
            keep_alive: setup.keep_alive,
            orphan_timeout: setup.orphan_timeout,
            tags: Tags::new(seed as u32),
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
            output: setup.output,
            tools: None,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    /// Until everything has stopped, or cannot be kept.
    pub(super) async fn run(mut self, mut shutdown: ShutdownWatch) -> Outcome {
        self.epoch = Instant::now();
        self.tools = Some(self.equip().map_err(|e| e.to_string())?);
        for at in self.rooms.keys().copied().collect::<Vec<_>>() {
            self.open_entrance(at, false).map_err(|e| e.to_string())?;
        }
        self.tell_all(Event::Start);
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

    fn equip(&mut self) -> Result<Tools, Error> {
        // The process may have become a daemon since.
        self.dir.write_pid()?;
        let preload = self.dir.write_preload(include_str!("../process/preload.cjs"))?;
        let listener = control::bind(&self.dir.control_socket(), self.dir.is_shared())?;
        let started = self.logs.start(self.output.take());
        started.map_err(|source| Error::Io { doing: "starting the threads for output".into(), source })?;
        let control = tokio::spawn(control::serve(listener, self.registry.clone())).abort_handle();
        let alerts = self.alerts.start();
        let (alarms, logs, dir) = (self.alerts.clone(), self.logs.clone(), self.dir.control_socket());
        let watch = tokio::spawn(alarms::watch(alarms, self.status.subscribe(), logs, dir)).abort_handle();
        Ok(Tools { watch, _alerts: alerts, check: TcpHealthCheck::new().into(), preload, control })
    }

    /// The loop. May be dropped and begun again at any await.
    async fn work(&mut self, shutdown: &mut ShutdownWatch) {
        let mut shutdown_seen = false;
        loop {
            self.follow_wish(*shutdown.borrow());
            self.carry_out().await;
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
            let wake = self.wake().map(|at| tokio::time::Instant::from_std(self.epoch + at));
            tokio::select! {
                Some(input) = self.answers.recv() => self.answered(input),
                Some((id, report)) = self.reports.recv() => self.reported(&id, report),
                Some(join) = self.joins.recv() => self.join(join),
                Ok(()) = self.wishes.changed() => {}
                changed = shutdown.changed(), if !shutdown_seen => shutdown_seen = changed.is_err() || *shutdown.borrow(),
                Some(order) = self.orders.recv() => self.obey(order),
                () = sleep_until(wake) => self.tell_all(Event::Tick),
            }
            // Not only when nothing else happens: a busy app must not hide a hanging one.
            self.look_at_drains();
            self.measure();
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

    fn tell_all(&mut self, event: Event) {
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
            Wish::Kill => self.tell_all(Event::Kill),
            Wish::Stop => self.tell_all(Event::Stop),
            Wish::Run if shutdown => self.tell_all(Event::Stop),
            Wish::Run => {}
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

    fn look_at_drains(&mut self) {
        let now = self.now();
        if now < self.drains_seen + DRAIN_POLL {
            return;
        }
        self.drains_seen = now;
        for room in self.rooms.values_mut() {
            let draining = room.fleet.workers().filter(|w| w.state == State::Draining).map(|w| w.incarnation);
            for incarnation in draining.collect::<Vec<_>>() {
                let Some(carried) = room.workers.get(&incarnation).map(|entry| entry.carried()) else { continue };
                room.fleet.handle(Event::Carries { incarnation, carried }, now);
            }
        }
    }

    /// Once a second: what every worker does and uses.
    fn measure(&mut self) {
        let now = self.now();
        let passed = now.saturating_sub(self.measured);
        if passed < MEASURE {
            return;
        }
        self.measured = now;
        let scales = self.rooms.values().any(|room| {
            let policy = room.fleet.policy();
            policy.most() > policy.instances
        });
        let head_room = if scales { memory::head_room() } else { None };
        for room in self.rooms.values_mut() {
            for (incarnation, entry) in &mut room.workers {
                let load = entry.measure(passed);
                room.fleet.handle(Event::Measured { incarnation: *incarnation, load }, now);
            }
            let queue_wait = room.pool.queue().take_longest();
            room.fleet.handle(Event::Second(Surroundings { queue_wait, head_room }), now);
        }
    }

    fn answered(&mut self, Input { room, incarnation, answer }: Input) {
        match answer {
            Answer::Started(Ok(started)) => self.started(room, incarnation, started),
            Answer::Started(Err(e)) => self.tell(room, Event::SpawnFailed { incarnation, why: e.to_string() }),
            Answer::Probed { attempt, answer: Ok(()) } => self.tell(room, Event::ProbeOk { incarnation, attempt }),
            Answer::Probed { attempt, answer: Err(why) } => {
                self.tell(room, Event::ProbeFailed { incarnation, attempt, why });
            }
            Answer::Checked { attempt, answer } => self.tell(room, Event::Checked { incarnation, attempt, answer }),
            Answer::Exited(exit) => {
                if let Some(room) = self.rooms.get_mut(&room) {
                    room.keep_last_words(incarnation);
                    room.ended(incarnation, Some(exit));
                }
                self.tell(room, Event::Exited { incarnation, how: exit.to_string() });
            }
            Answer::Cleaned => {
                let entry = self.rooms.get_mut(&room).and_then(|room| room.workers.remove(&incarnation));
                if let Some(tag) = entry.and_then(|entry| entry.tag) {
                    self.tags.give_back(tag);
                }
                self.tell(room, Event::Cleaned { incarnation });
            }
        }
    }

    fn started(&mut self, at: usize, incarnation: Incarnation, started: Started) {
        let entry = self.rooms.get_mut(&at).filter(|room| room.workers.contains_key(&incarnation));
        let Some(room) = entry else {
            log::error!("#{incarnation} started too late and is killed");
            effects::discard(started.process);
            return;
        };
        let generation = room.fleet.workers().find(|worker| worker.incarnation == incarnation);
        let generation = generation.map_or(Generation(0), |worker| worker.generation);
        let with_preload = room.definition_of(incarnation).is_none_or(|definition| definition.spec.preload);
        let Some(entry) = room.workers.get_mut(&incarnation) else { return };
        let tail = entry.tail.clone();
        let (process, pid) = (started.process.clone(), started.process.pid());
        let (exited, exited_out) = watch::channel(false);
        let (reading, read) = mpsc::channel(1);
        for (pipe, stream, tail) in [(started.out, Stream::Out, None), (started.err, Stream::Err, Some(tail))] {
            let feed = self.logs.feed(&entry.id, pid, generation, stream);
            let read = output::read(pipe, feed, tail, exited_out.clone());
            let reading = reading.clone();
            entry.readers.push(tokio::spawn(async move {
                read.await;
                drop(reading);
            }));
        }
        effects::watch_exit(at, entry.id.clone(), process, exited, read, self.inputs.clone());
        entry.process = Some(started.process);
        let known = (!with_preload).then(|| entry.socket.to_string_lossy().into_owned());
        if let Some(socket) = &known {
            entry.moved(socket.as_str().into());
        }
        self.tell(at, Event::Spawned { incarnation, pid });
        if known.is_some() {
            self.tell(at, Event::Path { incarnation });
        }
    }

    fn reported(&mut self, id: &WorkerId, report: Report) {
        let incarnation = id.incarnation;
        // An app that left may have a namesake; numbers of workers are never used twice.
        let theirs = |room: &Room| room.name == id.app && room.workers.contains_key(&incarnation);
        let Some(at) = self.rooms.iter().find(|(_, room)| theirs(room)).map(|(at, _)| *at) else { return };
        let Some(room) = self.rooms.get_mut(&at) else { return };
        let external = room.fleet.is_external();
        let Some(entry) = room.workers.get_mut(&incarnation) else { return };
        let event = match report {
            Report::Hello { pid, .. } => {
                // What another PID namespace calls it says nothing here.
                if !external {
                    entry.serving_pid = Some(pid);
                }
                Event::Hello { incarnation }
            }
            Report::HungUp => Event::HungUp { incarnation },
            Report::Path(socket) => {
                entry.moved(socket);
                Event::Path { incarnation }
            }
            Report::PathClosed => Event::PathClosed { incarnation },
            Report::Ready => Event::AppReady { incarnation },
            Report::Stats(stats) => {
                entry.stats = Some(stats);
                Event::Heartbeat { incarnation }
            }
            // Messages between workers: to come.
            Report::Message(_) => return,
        };
        self.tell(at, event);
    }

    async fn close(mut self) {
        drop(self.tools.take());
        let logs = self.logs.clone();
        let closed = tokio::task::spawn_blocking(move || logs.close(LAST_OUTPUT)).await;
        if let Err(e) = closed {
            log::error!("closing the workers' output: {e}");
        }
        // Tasks that still hold the directory are bounded in time, but the end must not wait for them.
        match Arc::try_unwrap(self.dir) {
            Ok(dir) => drop(dir),
            Err(dir) => dir.clear(),
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
