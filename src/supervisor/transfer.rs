//! Handing the workers over to a successor: the keeper stands still, then ends, or goes on as if
//! nothing had been.

use super::Control;
use super::control_listener::ControlDoor;
use super::estate::{Estate, Partial};
use super::keeper::Keeper;
use super::messages::{EffectReport, EffectResult, HandoffRequest, RunState};
use super::worker_record::Reading;
use crate::fleet::Event;
use crate::pool::Pool;
use crate::process::output::{Ends, Rest};
use crate::worker::Incarnation;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// At least so often the loop turns.
const BEAT: Duration = Duration::from_secs(1);
/// For starts that are under way.
const STARTS: Duration = Duration::from_secs(10);
/// For a reader to come to rest, and for what is queued to be written.
const HUSH: Duration = Duration::from_secs(2);
/// For the control socket to be bound again.
const BINDS: u32 = 5;
const GONE: &str = "the supervisor has ended";

/// How a keeper stands still.
pub(super) struct Still {
    /// From the moment on at which everything asked for was carried out.
    begun: bool,
    /// Waits for starts until then; `None` once frozen.
    until: Option<Instant>,
    replies: Vec<oneshot::Sender<Result<Estate, String>>>,
    /// What came meanwhile, in order.
    held: VecDeque<Held>,
    /// Readers that were stopped.
    hushed: Option<Vec<Hushed>>,
}

enum Held {
    EffectResult(EffectReport),
    Event(usize, Event),
}

struct Hushed {
    room: usize,
    incarnation: Incarnation,
    stream: crate::process::output::Stream,
    rest: Rest,
    reading: mpsc::Sender<()>,
}

impl Still {
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn begin(&mut self) {
        self.begun = true;
    }
}

impl Control {
    /// Lets what is being started come up (10 s at most), then decides and carries out nothing any more.
    ///
    /// # Errors
    /// The proxy stops, or a start takes too long; then all goes on.
    pub(crate) async fn freeze(&self) -> Result<Estate, String> {
        self.ask(HandoffRequest::Freeze).await?
    }

    /// Ends all control connections: workers dial in to whoever is bound at the control socket.
    pub(crate) async fn dismiss(&self) {
        let _ = self.ask(HandoffRequest::Dismiss).await;
    }

    /// Stops reading the workers' output, writes what was read (2 s at most), and tells the lines that
    /// have begun. To be asked when frozen.
    pub(crate) async fn hush(&self) -> Vec<Partial> {
        self.ask(HandoffRequest::Hush).await.unwrap_or_default()
    }

    /// Goes on as before.
    pub(crate) async fn thaw(&self) {
        let _ = self.ask(HandoffRequest::Thaw).await;
    }

    /// Ends without touching a worker or a file: another has them.
    pub(crate) async fn cede(&self) {
        let _ = self.ask(HandoffRequest::Cede).await;
    }

    /// A copy of the descriptor that holds the runtime directory.
    pub(crate) fn lock(&self) -> Result<OwnedFd, String> {
        let dir = self.dir.upgrade().ok_or(GONE)?;
        dir.lock_fd().map_err(|e| format!("the lock cannot be copied: {e}"))
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> HandoffRequest) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| GONE.to_owned())?;
        answer.await.map_err(|_| GONE.to_owned())
    }
}

impl Keeper {
    pub(super) async fn asked(&mut self, ask: HandoffRequest) {
        match ask {
            HandoffRequest::Freeze(reply) => {
                let wish = *self.wishes.borrow();
                if wish != RunState::Run || self.is_stopping() {
                    return drop(reply.send(Err("the proxy is stopping".to_owned())));
                }
                let until = Some(Instant::now() + STARTS);
                let new = || Still { begun: false, until, replies: Vec::new(), held: VecDeque::new(), hushed: None };
                // It stands still from the next turn on, when everything asked for was carried out.
                self.still.get_or_insert_with(new).replies.push(reply);
            }
            HandoffRequest::Dismiss(reply) => {
                self.close_door().await;
                let _ = reply.send(());
            }
            HandoffRequest::Hush(reply) => {
                let partials = self.hush().await;
                let _ = reply.send(partials);
            }
            HandoffRequest::Thaw(reply) => {
                self.thaw().await;
                let _ = reply.send(());
            }
            HandoffRequest::Cede(reply) => {
                self.cede().await;
                let _ = reply.send(());
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.rooms.values().all(|room| room.fleet.is_stopping())
    }

    /// One turn in which nothing is decided.
    pub(super) async fn stand_still(&mut self) {
        let Some(still) = &mut self.still else { return };
        if self.starting.is_empty() && !still.replies.is_empty() {
            still.until = None;
            let replies = std::mem::take(&mut still.replies);
            self.alerts.hush(true);
            let alarms = self.alerts.save();
            let estate = Estate::of(self.rooms.values(), &self.tags, self.epoch, Pool::LEARNT, alarms);
            replies.into_iter().for_each(|reply| drop(reply.send(Ok(estate.clone()))));
        }
        let until = still.until;
        tokio::select! {
            biased;
            Some(ask) = self.asks.recv() => self.asked(ask).await,
            Some(input) = self.answers.recv(), if until.is_some() => self.hold(input),
            () = super::keeper::sleep_until(until) => {
                let replies = self.still.as_mut().map(|still| std::mem::take(&mut still.replies)).unwrap_or_default();
                let why = format!("a worker was being started for {STARTS:?} and more");
                replies.into_iter().for_each(|reply| drop(reply.send(Err(why.clone()))));
                self.thaw().await;
            }
            // So that the loop is seen to turn.
            () = tokio::time::sleep(BEAT) => {}
        }
    }

    /// What a process needs is done at once, the rest later.
    fn hold(&mut self, input: EffectReport) {
        let (room, incarnation) = (input.room, input.incarnation);
        let held = match input.answer {
            EffectResult::Started(Ok(started)) => {
                let events = self.started(room, incarnation, started);
                events.into_iter().map(|event| Held::Event(room, event)).collect()
            }
            answer => {
                if matches!(answer, EffectResult::Started(_)) {
                    self.starting.remove(&(room, incarnation));
                }
                vec![Held::EffectResult(EffectReport { room, incarnation, answer })]
            }
        };
        if let Some(still) = &mut self.still {
            still.held.extend(held);
        }
    }

    async fn close_door(&mut self) {
        if let Some(door) = self.door.take() {
            door.serving.abort();
            let _ = door.serving.await;
        }
        self.close_entrances().await;
        self.registry.hang_up();
    }

    async fn hush(&mut self) -> Vec<Partial> {
        let Some(still) = &mut self.still else { return Vec::new() };
        if still.hushed.is_none() {
            self.hushing.send_replace(true);
            let mut hushed = Vec::new();
            for (at, room) in &mut self.rooms {
                for (incarnation, entry) in &mut room.workers {
                    for Reading { stream, task } in std::mem::take(&mut entry.readers) {
                        match timeout(HUSH, task).await {
                            Ok(Ok((Some(rest), reading))) => {
                                hushed.push(Hushed { room: *at, incarnation: *incarnation, stream, rest, reading });
                            }
                            // It had come to its end.
                            Ok(_) => {}
                            Err(_) => log::error!("{}: its output is still being read", entry.id),
                        }
                    }
                }
            }
            still.hushed = Some(hushed);
            let logs = self.logs.clone();
            if let Err(e) = tokio::task::spawn_blocking(move || logs.flush(HUSH)).await {
                log::error!("writing the workers' output: {e}");
            }
        }
        let hushed = still.hushed.iter().flatten();
        let partial = |hushed: &Hushed| {
            let room = self.rooms.get(&hushed.room)?;
            Some(Partial {
                app: room.name.to_string(),
                incarnation: hushed.incarnation.0,
                stream: hushed.stream,
                bytes: hushed.rest.partial.clone(),
            })
        };
        hushed.filter(|hushed| !hushed.rest.partial.is_empty()).filter_map(partial).collect()
    }

    async fn thaw(&mut self) {
        // A successor may have bound there and given up before it said so.
        if !self.door.as_ref().is_some_and(ControlDoor::is_in_place) {
            self.close_door().await;
            self.open_door().await;
        }
        self.await_redials();
        let Some(still) = self.still.take() else { return };
        self.hushing.send_replace(false);
        self.alerts.hush(false);
        for Hushed { room, incarnation, stream, rest, reading } in still.hushed.into_iter().flatten() {
            self.read_on(room, incarnation, stream, rest, reading);
        }
        for held in still.held {
            match held {
                Held::EffectResult(input) => self.answered(input),
                Held::Event(room, event) => self.tell(room, event),
            }
        }
    }

    /// Whoever is bound there has ended, or is about to.
    async fn open_door(&mut self) {
        for round in 1.. {
            // Connections that were just coming in when the door was closed.
            self.registry.hang_up();
            match self.listen() {
                Ok(()) => break,
                Err(e) if round < BINDS => {
                    log::warn!("{e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => {
                    log::error!("{e}: workers cannot reach the proxy any more and will end; restart it");
                    break;
                }
            }
        }
        if let Err(e) = self.open_entrances(true) {
            log::error!("{e}: external workers cannot reach the proxy any more; restart it");
        }
    }

    /// Nobody could be heard while nothing was decided.
    pub(super) fn await_redials(&mut self) {
        let now = self.now();
        self.rooms.values_mut().for_each(|room| room.fleet.await_redials(now));
    }

    async fn cede(&mut self) {
        const ELSEWHERE: &str = "this proxy has handed over; ask again";
        if self.still.is_none() {
            return log::error!("cannot hand over: not frozen");
        }
        let partials = self.hush().await;
        drop(partials);
        self.still = None;
        self.ceded = true;
        self.dir.cede();
        if let Some(saver) = self.saver.take() {
            saver.end().await;
        }
        self.close_door().await;
        for entry in self.rooms.values().flat_map(|room| room.workers.values()) {
            entry.process.iter().for_each(|process| process.cede());
        }
        self.answer_all(ELSEWHERE);
    }

    /// How an output stream of a worker is read on.
    pub(super) fn read_on(
        &mut self,
        at: usize,
        incarnation: Incarnation,
        stream: crate::process::output::Stream,
        rest: Rest,
        reading: mpsc::Sender<()>,
    ) {
        let Some(room) = self.rooms.get_mut(&at) else { return };
        let worker = room.fleet.workers().find(|worker| worker.incarnation == incarnation);
        let generation = worker.map_or(crate::worker::Generation(0), |worker| worker.generation);
        let Some(entry) = room.workers.get_mut(&incarnation) else { return };
        let (Some(process), Some(exited)) = (&entry.process, entry.exited.clone()) else { return };
        let feed = self.logs.feed(&entry.id, process.pid(), generation, stream);
        let tail = (stream == crate::process::output::Stream::Err).then(|| entry.tail.clone());
        let ends = Ends { exited, hush: self.hushing.subscribe() };
        let read = crate::process::output::read(rest, feed, tail, ends);
        let task = tokio::spawn(async move { (read.await, reading) });
        entry.readers.push(Reading { stream, task });
    }
}
