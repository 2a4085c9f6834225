//! The task that owns all state of the supervisor.

use super::alarms::{self, Alarms};
use super::effects::{self, Inputs, Started};
use super::room::Room;
use super::tags::Tags;
use super::{Outcome, Setup, Status, Wish};
use crate::fleet::{Event, State, Time};
use crate::process::control::{self, Registry, Report, Reported};
use crate::process::output::{self, Logs, Stream};
use crate::process::{Error, Exit, RuntimeDir};
use crate::worker::{Generation, Incarnation, WorkerId};
use pingora_core::server::ShutdownWatch;
use pingora_load_balancing::health_check::TcpHealthCheck;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Between two looks at a draining worker's requests.
const IDLE_POLL: Duration = Duration::from_millis(50);
/// Looks in a row without a request: one may have been chosen before the pool knew, and not begun.
const IDLE_LOOKS: u32 = 2;
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
    Exited(Exit),
    Cleaned,
}

pub(super) struct Keeper {
    pub(super) rooms: Vec<Room>,
    pub(super) dir: Arc<RuntimeDir>,
    pub(super) port: u16,
    pub(super) keep_alive: Duration,
    pub(super) orphan_timeout: Duration,
    pub(super) tags: Tags,
    epoch: Instant,
    pub(super) registry: Registry,
    reports: mpsc::Receiver<Reported>,
    pub(super) inputs: Inputs,
    answers: mpsc::Receiver<Input>,
    wishes: watch::Receiver<Wish>,
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
        alerts: Alarms,
        wishes: watch::Receiver<Wish>,
        status: watch::Sender<Arc<Status>>,
    ) -> Keeper {
        let (reports_in, reports) = mpsc::channel(1024);
        let (inputs, answers) = mpsc::channel(1024);
        let seed = effects::random_seed();
        let room = |(n, app): (usize, super::AppSpec)| {
            let first = dir.first_incarnation(&app.name);
            Room::new(app, seed.wrapping_add(n as u64), first)
        };
        let rooms: Vec<Room> = setup.apps.into_iter().enumerate().map(room).collect();
        status.send_replace(Arc::new(Status { epoch: None, apps: rooms.iter().map(Room::status).collect() }));
        Keeper {
            rooms,
            dir: Arc::new(dir),
            port: setup.port,
            keep_alive: setup.keep_alive,
            orphan_timeout: setup.orphan_timeout,
            tags: Tags::new(seed as u32),
            epoch: Instant::now(),
            registry: Registry::new(reports_in),
            reports,
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
            let apps = self.rooms.iter().map(Room::status).collect();
            let status = Arc::new(Status { epoch: Some(self.epoch), apps });
            self.status.send_if_modified(|old| {
                let differs = **old != *status;
                *old = status;
                differs
            });
            if self.rooms.iter().all(|room| room.fleet.is_finished()) {
                return;
            }
            let wake = self.wake().map(|at| tokio::time::Instant::from_std(self.epoch + at));
            tokio::select! {
                Some(input) = self.answers.recv() => self.answered(input),
                Some((id, report)) = self.reports.recv() => self.reported(&id, report),
                Ok(()) = self.wishes.changed() => {}
                changed = shutdown.changed(), if !shutdown_seen => shutdown_seen = changed.is_err() || *shutdown.borrow(),
                () = sleep_until(wake) => {
                    self.look_for_idle();
                    self.tell_all(Event::Tick);
                }
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

    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    fn tell_all(&mut self, event: Event) {
        let now = self.now();
        self.rooms.iter_mut().for_each(|room| room.fleet.handle(event.clone(), now));
    }

    pub(super) fn tell(&mut self, room: usize, event: Event) {
        let now = self.now();
        if let Some(room) = self.rooms.get_mut(room) {
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
    }

    fn wake(&self) -> Option<Time> {
        let deadline = self.rooms.iter().filter_map(Room::next_deadline).min();
        let draining = self.rooms.iter().any(|room| room.fleet.workers().any(|w| w.state == State::Draining));
        let poll = draining.then(|| self.now() + IDLE_POLL);
        deadline.into_iter().chain(poll).min()
    }

    fn look_for_idle(&mut self) {
        let now = self.now();
        for room in &mut self.rooms {
            let draining = room.fleet.workers().filter(|w| w.state == State::Draining).map(|w| w.incarnation);
            for incarnation in draining.collect::<Vec<_>>() {
                let Some(entry) = room.workers.get_mut(&incarnation) else { continue };
                entry.idle = if entry.active() == 0 { entry.idle + 1 } else { 0 };
                if entry.idle >= IDLE_LOOKS {
                    room.fleet.handle(Event::Idle { incarnation }, now);
                }
            }
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
            Answer::Exited(exit) => {
                if let Some(room) = self.rooms.get_mut(room) {
                    room.keep_last_words(incarnation);
                    room.ended(incarnation, Some(exit));
                }
                self.tell(room, Event::Exited { incarnation, how: exit.to_string() });
            }
            Answer::Cleaned => {
                let entry = self.rooms.get_mut(room).and_then(|room| room.workers.remove(&incarnation));
                if let Some(tag) = entry.and_then(|entry| entry.tag) {
                    self.tags.give_back(tag);
                }
                self.tell(room, Event::Cleaned { incarnation });
            }
        }
    }

    fn started(&mut self, at: usize, incarnation: Incarnation, started: Started) {
        let Some(room) = self.rooms.get_mut(at) else { return };
        let Some(slot) = room.workers.get(&incarnation).map(|entry| entry.id.slot) else {
            log::error!("{} #{incarnation} started too late and is killed", room.name);
            effects::discard(started.process);
            return;
        };
        let generation = room.fleet.workers().find(|worker| worker.incarnation == incarnation);
        let generation = generation.map_or(Generation(0), |worker| worker.generation);
        let tail = room.new_tail(slot);
        let with_preload = room.spec.preload;
        let Some(entry) = room.workers.get_mut(&incarnation) else { return };
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
        let Some(at) = self.rooms.iter().position(|room| room.name == id.app) else { return };
        let Some(entry) = self.rooms.get_mut(at).and_then(|room| room.workers.get_mut(&incarnation)) else { return };
        let event = match report {
            Report::Hello { .. } => Event::Hello { incarnation },
            Report::HungUp => Event::HungUp { incarnation },
            Report::Path(socket) => {
                entry.moved(socket);
                Event::Path { incarnation }
            }
            Report::PathClosed => Event::PathClosed { incarnation },
            Report::Ready => Event::AppReady { incarnation },
            Report::Stats(stats) => {
                entry.stats = Some(stats);
                return;
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
