//! Giving the workers to a successor: the apps are paused, then released, or resumed as if nothing had been.

use super::super::apps::Apps;
use super::super::commands::Commands;
use super::super::control_listener::ControlListener;
use super::super::messages::{AppId, EffectReport, EffectResult};
use super::super::output_readers::{OutputReaders, PausedReader};
use super::super::snapshot::{PartialLine, Snapshot, SnapshotWriter, capture};
use crate::fleet::Event;
use crate::pool::Pool;
use crate::worker::Incarnation;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a pause waits for starts that are under way.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How often, and how long after each other, the control socket is bound again.
const BIND_TRIES: u32 = 5;
const BIND_RETRY_DELAY: Duration = Duration::from_millis(100);
const RELEASED: &str = "this proxy has handed over; ask again";

type Reply = oneshot::Sender<Result<Snapshot, String>>;

/// The predecessor's side of a handoff: how far it has come.
#[derive(Default)]
pub(in crate::supervisor) enum Predecessor {
    /// There is no handoff.
    #[default]
    Running,
    /// The pause begins with the next turn, when all actions that the fleets have asked for are performed.
    PauseRequested(Paused),
    Paused(Paused),
    /// Another proxy has the workers.
    Released,
}

impl Predecessor {
    /// `reply` gets the snapshot once everything is paused.
    pub(in crate::supervisor) fn request_pause(&mut self, reply: Reply) {
        if matches!(self, Predecessor::Running) {
            *self = Predecessor::PauseRequested(Paused::new());
        }
        if let Some(paused) = self.paused() {
            paused.replies.push(reply);
        }
    }

    /// Whether a requested pause begins now.
    pub(in crate::supervisor) fn begin_pause(&mut self) -> bool {
        match std::mem::take(self) {
            Predecessor::PauseRequested(paused) => {
                *self = Predecessor::Paused(paused);
                true
            }
            other => {
                *self = other;
                false
            }
        }
    }

    fn paused(&mut self) -> Option<&mut Paused> {
        match self {
            Predecessor::PauseRequested(paused) | Predecessor::Paused(paused) => Some(paused),
            Predecessor::Running | Predecessor::Released => None,
        }
    }

    /// Stops reading the workers' output and writes what was read. Returns the lines that have begun.
    pub(in crate::supervisor) async fn pause_output(&mut self, apps: &mut Apps) -> Vec<PartialLine> {
        match self.paused() {
            Some(paused) => paused.pause_output(apps).await,
            None => Vec::new(),
        }
    }

    /// Goes on as if nothing had been.
    pub(in crate::supervisor) async fn resume(&mut self, apps: &mut Apps, control: &mut ControlListener) {
        reconnect_workers(apps, control).await;
        match std::mem::take(self) {
            Predecessor::PauseRequested(paused) | Predecessor::Paused(paused) => paused.resume(apps),
            other => *self = other,
        }
    }

    /// Leaves everything to the successor: no worker and no file is touched any more.
    pub(in crate::supervisor) async fn release(
        &mut self,
        apps: &mut Apps,
        control: &mut ControlListener,
        writer: &mut Option<SnapshotWriter>,
        commands: &mut Commands,
    ) {
        let Some(paused) = self.paused() else { return log::error!("cannot hand over: not paused") };
        paused.pause_output(apps).await;
        *self = Predecessor::Released;
        apps.dir.release_ownership();
        if let Some(writer) = writer.take() {
            writer.end().await;
        }
        disconnect_workers(apps, control).await;
        apps.release_processes();
        commands.answer_all(RELEASED);
    }
}

/// Nothing is decided and nothing performed while it exists.
pub(in crate::supervisor) struct Paused {
    /// When the wait for starts ends; `None` once a snapshot was given.
    until: Option<Instant>,
    /// Who waits for the snapshot.
    replies: Vec<Reply>,
    /// What came meanwhile, in order.
    held: VecDeque<Held>,
    /// The readers that were stopped.
    readers: Option<Vec<StoppedReader>>,
}

enum Held {
    Report(EffectReport),
    Event(AppId, Event),
}

struct StoppedReader {
    app: AppId,
    incarnation: Incarnation,
    reader: PausedReader,
}

impl Paused {
    fn new() -> Paused {
        let until = Some(Instant::now() + START_TIMEOUT);
        Paused { until, replies: Vec::new(), held: VecDeque::new(), readers: None }
    }

    /// Gives the snapshot to whoever waits for it, once no start is under way.
    pub(in crate::supervisor) fn give_snapshot(&mut self, apps: &Apps) {
        if !apps.starting.is_empty() || self.replies.is_empty() {
            return;
        }
        self.until = None;
        apps.alarms.pause(true);
        let snapshot = capture(apps, Pool::LEARNT);
        self.replies.drain(..).for_each(|reply| drop(reply.send(Ok(snapshot.clone()))));
    }

    /// Until when the pause waits for starts, if it does.
    pub(in crate::supervisor) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    pub(in crate::supervisor) fn refuse(&mut self) {
        let why = format!("a worker was being started for {START_TIMEOUT:?} and more");
        self.replies.drain(..).for_each(|reply| drop(reply.send(Err(why.clone()))));
    }

    /// A process that was started is watched at once; its fleet hears of it later, as of all else.
    pub(in crate::supervisor) fn hold(&mut self, report: EffectReport, apps: &mut Apps) {
        let EffectReport { app, incarnation, result } = report;
        match result {
            EffectResult::Started(Ok(started)) => {
                let events = apps.started(app, incarnation, started);
                self.held.extend(events.into_iter().map(|event| Held::Event(app, event)));
            }
            result => {
                if matches!(result, EffectResult::Started(_)) {
                    apps.starting.remove(&(app, incarnation));
                }
                self.held.push_back(Held::Report(EffectReport { app, incarnation, result }));
            }
        }
    }

    async fn pause_output(&mut self, apps: &mut Apps) -> Vec<PartialLine> {
        if self.readers.is_none() {
            apps.output.pause();
            let mut readers = Vec::new();
            for (id, app) in &mut apps.by_id {
                for (incarnation, record) in &mut app.workers {
                    let stopped = OutputReaders::stop(record).await.into_iter();
                    let of = |reader| StoppedReader { app: *id, incarnation: *incarnation, reader };
                    readers.extend(stopped.map(of));
                }
            }
            self.readers = Some(readers);
            apps.output.flush().await;
        }
        let line = |stopped: &StoppedReader| {
            let PausedReader { stream, rest, .. } = &stopped.reader;
            let app = apps.get(stopped.app).filter(|_| !rest.partial.is_empty())?;
            Some(PartialLine {
                app: app.name.to_string(),
                incarnation: stopped.incarnation.0,
                stream: *stream,
                bytes: rest.partial.clone(),
            })
        };
        self.readers.iter().flatten().filter_map(line).collect()
    }

    fn resume(self, apps: &mut Apps) {
        apps.output.resume();
        apps.alarms.pause(false);
        for StoppedReader { app, incarnation, reader } in self.readers.into_iter().flatten() {
            apps.read_on(app, incarnation, reader);
        }
        for held in self.held {
            match held {
                Held::Report(report) => apps.observe_effect(report),
                Held::Event(app, event) => apps.handle(app, event),
            }
        }
    }
}

/// Ends all control connections: workers dial in to whoever is bound at the control socket.
pub(in crate::supervisor) async fn disconnect_workers(apps: &mut Apps, control: &mut ControlListener) {
    control.close().await;
    apps.close_listeners().await;
    apps.registry.hang_up();
}

/// Makes sure that workers dial in here. A successor may have bound there and given up before it said so.
async fn reconnect_workers(apps: &mut Apps, control: &mut ControlListener) {
    if !control.is_in_place() {
        disconnect_workers(apps, control).await;
        listen_again(apps, control).await;
    }
    apps.await_redials();
}

/// Whoever is bound there has ended, or is about to.
async fn listen_again(apps: &mut Apps, control: &mut ControlListener) {
    for round in 1.. {
        // Connections that were just coming in when the listener was closed.
        apps.registry.hang_up();
        match control.open(&apps.dir, &apps.registry) {
            Ok(()) => break,
            Err(e) if round < BIND_TRIES => {
                log::warn!("{e}");
                tokio::time::sleep(BIND_RETRY_DELAY).await;
            }
            Err(e) => {
                log::error!("{e}: workers cannot reach the proxy any more and will end; restart it");
                break;
            }
        }
    }
    if let Err(e) = apps.open_listeners(true) {
        log::error!("{e}: external workers cannot reach the proxy any more; restart it");
    }
}
