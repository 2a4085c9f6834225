//! The task that owns all state of the supervisor.

use super::effects::{self, Inputs, Introduction, Start, Started};
use super::room::{Entry, Room};
use super::tags::Tags;
use super::{Outcome, Setup, Status, Wish};
use crate::fleet::{Action, Event, State, Time};
use crate::process::control::{self, Expected, ProxySays, Registry, Report, Reported, Token};
use crate::process::output::{self, Sink, Stream};
use crate::process::{Error, Exit, RuntimeDir};
use crate::worker::{Incarnation, Slot, WorkerId};
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
    rooms: Vec<Room>,
    dir: Arc<RuntimeDir>,
    port: u16,
    keep_alive: Duration,
    orphan_timeout: Duration,
    tags: Tags,
    epoch: Instant,
    registry: Registry,
    reports: mpsc::Receiver<Reported>,
    inputs: Inputs,
    answers: mpsc::Receiver<Input>,
    wishes: watch::Receiver<Wish>,
    status: watch::Sender<Arc<Status>>,
    output: Option<Box<dyn Write + Send>>,
    /// Present while running.
    tools: Option<Tools>,
    #[cfg(test)]
    faults: Arc<std::sync::atomic::AtomicU32>,
}

/// What needs the runtime, or threads.
struct Tools {
    sink: Arc<Sink>,
    check: Arc<TcpHealthCheck>,
    preload: PathBuf,
    control: AbortHandle,
}

impl Drop for Tools {
    fn drop(&mut self) {
        self.control.abort();
    }
}

impl Keeper {
    pub(super) fn new(
        setup: Setup,
        dir: RuntimeDir,
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
            output: setup.output,
            tools: None,
            #[cfg(test)]
            faults: setup.faults,
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
        let output = self.output.take().unwrap_or_else(|| Box::new(std::io::stdout()));
        let started = Sink::start(output);
        let sink = started.map_err(|source| Error::Io { doing: "starting the output thread".into(), source })?;
        let control = tokio::spawn(control::serve(listener, self.registry.clone())).abort_handle();
        Ok(Tools { sink, check: TcpHealthCheck::new().into(), preload, control })
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

    fn tell(&mut self, room: usize, event: Event) {
        let now = self.now();
        if let Some(room) = self.rooms.get_mut(room) {
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
        if let Some(room) = self.rooms.get_mut(room) {
            match &answer {
                Answer::Exited(exit) => room.ended(incarnation, Some(*exit)),
                Answer::Started(Err(_)) => room.ended(incarnation, None),
                _ => {}
            }
        }
        match answer {
            Answer::Started(Ok(started)) => self.started(room, incarnation, started),
            Answer::Started(Err(e)) => self.tell(room, Event::SpawnFailed { incarnation, why: e.to_string() }),
            Answer::Probed { attempt, answer: Ok(()) } => self.tell(room, Event::ProbeOk { incarnation, attempt }),
            Answer::Probed { attempt, answer: Err(why) } => {
                self.tell(room, Event::ProbeFailed { incarnation, attempt, why });
            }
            Answer::Exited(exit) => self.tell(room, Event::Exited { incarnation, how: exit.to_string() }),
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
        let (Some(room), Some(tools)) = (self.rooms.get_mut(at), &self.tools) else { return };
        let Some(slot) = room.workers.get(&incarnation).map(|entry| entry.id.slot) else {
            // Given up meanwhile; what holds it dies with it.
            log::error!("{} #{incarnation} started too late", room.name);
            if let Err(e) = started.process.kill_group() {
                log::error!("{e}");
            }
            return;
        };
        let tail = room.tail(slot);
        tail.clear();
        let with_preload = room.spec.preload;
        let Some(entry) = room.workers.get_mut(&incarnation) else { return };
        let (process, pid) = (started.process.clone(), started.process.pid());
        let (exited, exited_out) = watch::channel(false);
        let (reading, read) = mpsc::channel(1);
        for (pipe, stream, tail) in [(started.out, Stream::Out, None), (started.err, Stream::Err, Some(tail))] {
            let label = output::label(&entry.id, pid, stream);
            let read = output::read(pipe, label, tools.sink.clone(), tail, exited_out.clone());
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

    async fn carry_out(&mut self) {
        for at in 0..self.rooms.len() {
            while let Some(action) = self.rooms.get_mut(at).and_then(|room| room.fleet.poll_action()) {
                match action {
                    Action::Publish => self.publish(at).await,
                    other => self.act(at, other),
                }
            }
        }
    }

    async fn publish(&mut self, at: usize) {
        if let Some(room) = self.rooms.get(at) {
            room.pool.publish(room.seats()).await;
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        let Some(room) = self.rooms.get_mut(at) else { return };
        if let Action::Spawn { slot, .. } = action {
            room.restarts.begun(slot);
        }
        let entry = |incarnation| room.workers.get(incarnation);
        let signal = |incarnation, signal| {
            if let Some(process) = entry(incarnation).and_then(|entry| entry.process.as_ref())
                && let Err(e) = process.signal_group(signal)
            {
                log::warn!("{e}");
            }
        };
        match action {
            Action::Note { level, text } => log::log!(level, "{text}"),
            Action::Publish => {}
            Action::Spawn { slot, incarnation, .. } => self.spawn(at, slot, incarnation),
            Action::Signal { incarnation, signal: number } => signal(&incarnation, number),
            Action::KillGroup { incarnation } => signal(&incarnation, nix::libc::SIGKILL),
            Action::SendShutdown { incarnation } => {
                if let Some(entry) = entry(&incarnation) {
                    self.registry.send_all(&entry.id, &ProxySays::Shutdown);
                }
            }
            Action::Probe { incarnation, attempt } => {
                if let (Some(entry), Some(tools)) = (entry(&incarnation), &self.tools) {
                    effects::probe(at, attempt, entry.member().cloned(), tools.check.clone(), self.inputs.clone());
                }
            }
            Action::Cleanup { incarnation } => {
                if let Some(entry) = room.workers.get_mut(&incarnation) {
                    entry.process = None;
                    self.registry.forget(&entry.id);
                    let readers = std::mem::take(&mut entry.readers);
                    effects::clean(at, entry.id.clone(), self.dir.clone(), readers, self.inputs.clone());
                }
            }
        }
    }

    fn spawn(&mut self, at: usize, slot: Slot, incarnation: Incarnation) {
        if let Err(why) = self.try_spawn(at, slot, incarnation) {
            self.tell(at, Event::SpawnFailed { incarnation, why });
        }
    }

    fn try_spawn(&mut self, at: usize, slot: Slot, incarnation: Incarnation) -> Result<(), String> {
        let (Some(room), Some(tools)) = (self.rooms.get_mut(at), &self.tools) else { return Ok(()) };
        let id = WorkerId { app: room.name.clone(), slot, incarnation };
        let socket = self.dir.socket(&id);
        // First, so that a failure is cleaned up after.
        let entry = room.workers.entry(incarnation).or_insert(Entry::new(id.clone(), socket.clone()));
        let mut preload = None;
        if room.spec.preload {
            let tag = self.tags.take().ok_or("all tags are in use")?;
            entry.tag = Some(tag);
            let token = Token::random().map_err(|e| format!("no random numbers: {e}"))?;
            let introduction = Introduction {
                protocol: control::PROTOCOL,
                control: &self.dir.control_socket(),
                socket: &socket,
                app: &id.app,
                slot: slot.0,
                incarnation: incarnation.0,
                token: token.as_str(),
                tag: tag.as_str(),
                port: self.port,
                wait_ready: room.wait_ready,
                keep_alive_ms: self.keep_alive.as_millis() as u64,
                orphan_ms: self.orphan_timeout.as_millis() as u64,
            };
            let text = serde_json::to_string(&introduction).map_err(|e| e.to_string())?;
            preload = Some((tools.preload.clone(), text));
            let own = rustix::process::geteuid().as_raw();
            let uid = room.spec.user.as_ref().map_or(own, |user| user.uid);
            self.registry.expect(Expected { id: id.clone(), token, uid, socket: socket.clone() });
        }
        let (spec, dir) = (room.spec.clone(), self.dir.clone());
        Start { room: at, id, spec, dir, socket, preload }.begin(self.inputs.clone());
        Ok(())
    }

    /// The last resort: no rule decides any more.
    fn kill_processes(&self) {
        let entries = self.rooms.iter().flat_map(|room| room.workers.values());
        for process in entries.filter_map(|entry| entry.process.as_ref()) {
            if let Err(e) = process.kill_group() {
                log::error!("{e}");
            }
        }
    }

    async fn close(mut self) {
        if let Some(tools) = self.tools.take() {
            let sink = tools.sink.clone();
            let closed = tokio::task::spawn_blocking(move || sink.close(LAST_OUTPUT)).await;
            if let Err(e) = closed {
                log::error!("closing the workers' output: {e}");
            }
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
