//! The task that owns all state of the supervisor.

use super::apps::Apps;
use super::commands::Commands;
use super::control_listener::ControlListener;
use super::guard::Guard;
use super::handoff::{Predecessor, Reports, Takeover, disconnect_workers};
use super::healing::Healing;
use super::messages::{AppTarget, Command, CommandKind, EffectReport, HandoffRequest, Outcome, ReloadScope, RunState};
use super::panics::{Panics, catch};
use super::running::Running;
use super::snapshot::SnapshotWriter;
use super::status::Status;
use crate::fleet::{Event, Time};
use crate::process::control::{Join, Reported};
use crate::process::{Error, strays};
use pingora_core::server::ShutdownWatch;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// How often the loop turns at least while it is paused.
const PAUSED_TURN_INTERVAL: Duration = Duration::from_secs(1);
/// How long the end waits for the last lines of output to be written.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct EventLoop {
    pub(super) apps: Apps,
    pub(super) commands: Commands,
    pub(super) channels: Channels,
    pub(super) control: ControlListener,
    pub(super) guard: Guard,
    pub(super) healing: Healing,
    /// Keeps the state file, while the supervisor owns the workers.
    pub(super) writer: Option<SnapshotWriter>,
    /// Workers to take over at the start, and what is configured now.
    pub(super) takeover: Option<(Takeover, Vec<AppTarget>)>,
    pub(super) handoff: Predecessor,
    pub(super) running: Option<Running>,
    /// Stands for standard output.
    pub(super) output: Option<Box<dyn Write + Send>>,
    #[cfg(test)]
    pub(super) faults: Arc<std::sync::atomic::AtomicU32>,
}

/// What comes in, and the status that goes out.
pub(super) struct Channels {
    pub(super) effects: mpsc::Receiver<EffectReport>,
    pub(super) reports: mpsc::Receiver<Reported>,
    pub(super) joins: mpsc::Receiver<Join>,
    pub(super) requests: mpsc::Receiver<HandoffRequest>,
    pub(super) run_state: watch::Receiver<RunState>,
    pub(super) status: watch::Sender<Arc<Status>>,
}

impl EventLoop {
    /// Until everything has stopped, or cannot be kept, or another proxy has it.
    pub(super) async fn run(mut self, mut shutdown: ShutdownWatch) -> Outcome {
        self.start().await?;
        self.writer = Some(SnapshotWriter::start(self.apps.dir.state_file()));
        self.guard.start(self.apps.dir.path(), self.apps.settings.orphan_timeout);
        let mut panics = Panics::default();
        let outcome = loop {
            let Err(text) = catch(self.work(&mut shutdown)).await else { break Ok(()) };
            if let Err(why) = panics.count(&text) {
                self.apps.kill_processes();
                break Err(why);
            }
        };
        self.close().await;
        outcome
    }

    /// What is known before the start.
    pub(super) fn show(&self) {
        self.channels.status.send_replace(self.apps.status(None));
    }

    /// Starts the workers, or takes them over.
    async fn start(&mut self) -> Result<(), String> {
        let Some((takeover, configured)) = self.takeover.take() else {
            self.apps.clock.epoch = Instant::now();
            self.listen().and_then(|()| self.equip()).map_err(|e| e.to_string())?;
            self.apps.handle_all(Event::Start);
            return Ok(());
        };
        let Channels { reports, joins, status, .. } = &mut self.channels;
        let show = |apps: &Apps| drop(status.send_replace(apps.status(Some(apps.clock.epoch))));
        let reports = Reports { reports, joins };
        let taken = takeover.stand_by(&mut self.apps, &mut self.control, reports, show).await;
        let taken = taken.map_err(|e| e.to_string())?.ok_or("the other proxy keeps its workers")?;
        self.equip().map_err(|e| e.to_string())?;
        taken.begin(&mut self.apps);
        let (reply, answer) = oneshot::channel();
        // Nobody has asked for new code: what is configured counts, not what was deployed meanwhile.
        let (scope, enforce) = (ReloadScope::Configured, Box::new(|| ()));
        self.execute(Command { kind: CommandKind::Reload { targets: configured, scope, enforce }, reply });
        tokio::spawn(async move {
            match answer.await {
                Ok(Ok(text)) => log::info!("took over: {text}"),
                Ok(Err(why)) => log::error!("took over, but: {why}"),
                Err(_) => {}
            }
        });
        Ok(())
    }

    fn listen(&mut self) -> Result<(), Error> {
        self.control.open(&self.apps.dir, &self.apps.registry)?;
        self.apps.open_listeners(false)
    }

    fn equip(&mut self) -> Result<(), Error> {
        let status = self.channels.status.subscribe();
        self.running = Some(Running::start(&mut self.apps, status, self.output.take())?);
        Ok(())
    }

    /// May be dropped and begun again at any await.
    async fn work(&mut self, shutdown: &mut ShutdownWatch) {
        let mut shutdown_seen = false;
        loop {
            self.apps.heartbeat.beat();
            match self.handoff {
                Predecessor::Released => return,
                Predecessor::Paused(_) => {
                    self.paused_turn().await;
                    continue;
                }
                Predecessor::PauseRequested(_) | Predecessor::Running => {}
            }
            self.follow_run_state(*shutdown.borrow());
            loop {
                self.apps.perform_actions(self.writer.as_mut().map(SnapshotWriter::barrier)).await;
                if !self.commands.settle(&mut self.apps) {
                    break;
                }
            }
            self.apps.close_queues();
            #[cfg(test)]
            self.fail_as_planned();
            self.publish();
            if self.apps.are_finished() {
                return;
            }
            if let Some(writer) = &mut self.writer {
                writer.write_changes(&self.apps);
            }
            if !self.handoff.begin_pause() {
                self.wait(shutdown, &mut shutdown_seen).await;
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

    fn follow_run_state(&mut self, shutdown: bool) {
        let run_state = *self.channels.run_state.borrow_and_update();
        match run_state {
            RunState::Kill => self.apps.handle_all(Event::Kill),
            RunState::Stop => self.apps.handle_all(Event::Stop),
            RunState::Run if shutdown => self.apps.handle_all(Event::Stop),
            RunState::Run => {}
        }
    }

    /// Tells everybody what has come of the last turn.
    fn publish(&mut self) {
        self.apps.drop_removed();
        let status = self.apps.status(Some(self.apps.clock.epoch));
        self.channels.status.send_if_modified(|old| {
            let differs = **old != *status;
            *old = status;
            differs
        });
    }

    /// Waits until something happens or is due, and tells the apps.
    async fn wait(&mut self, shutdown: &mut ShutdownWatch, shutdown_seen: &mut bool) {
        let wake = self.apps.next_wake().map(|at: Time| tokio::time::Instant::from_std(self.apps.clock.epoch + at));
        let write = self.writer.as_ref().map(|writer| writer.next_write(&self.apps));
        let wake = wake.into_iter().chain(write).min();
        let mut requested = None;
        let Channels { effects, reports, joins, requests, run_state, .. } = &mut self.channels;
        tokio::select! {
            Some(report) = effects.recv() => self.apps.observe_effect(report),
            Some(report) = reports.recv() => self.apps.observe_reports(report, reports),
            Some(join) = joins.recv() => self.apps.join(join, true),
            Ok(()) = run_state.changed() => {}
            changed = shutdown.changed(), if !*shutdown_seen => *shutdown_seen = changed.is_err() || *shutdown.borrow(),
            Some(command) = self.commands.next() => self.execute(command),
            Some(request) = requests.recv() => requested = Some(request),
            () = sleep_until(wake) => self.apps.handle_all(Event::Tick),
        }
        // Not only when nothing else happens: a busy app must not hide a hanging one.
        self.apps.check_drains();
        if self.apps.must_measure() {
            self.guard.check(self.apps.dir.path(), self.apps.settings.orphan_timeout);
            self.healing.heal(&mut self.apps, &mut self.control, self.writer.as_mut());
            self.apps.measure();
        }
        if let Some(request) = requested {
            self.follow_request(request).await;
        }
    }

    fn execute(&mut self, command: Command) {
        let run_state = *self.channels.run_state.borrow();
        self.commands.execute(command, run_state, &mut self.apps);
    }

    /// One turn in which nothing is decided.
    async fn paused_turn(&mut self) {
        let Predecessor::Paused(paused) = &mut self.handoff else { return };
        paused.give_snapshot(&self.apps);
        let deadline = paused.deadline();
        tokio::select! {
            biased;
            Some(request) = self.channels.requests.recv() => self.follow_request(request).await,
            Some(report) = self.channels.effects.recv(), if deadline.is_some() => paused.hold(report, &mut self.apps),
            () = sleep_until(deadline) => {
                paused.refuse();
                self.handoff.resume(&mut self.apps, &mut self.control).await;
            }
            () = tokio::time::sleep(PAUSED_TURN_INTERVAL) => {}
        }
    }

    async fn follow_request(&mut self, request: HandoffRequest) {
        let EventLoop { apps, control, handoff, .. } = self;
        match request {
            HandoffRequest::Pause(reply) => match *self.channels.run_state.borrow() {
                RunState::Run if !apps.are_stopping() => handoff.request_pause(reply),
                _ => drop(reply.send(Err("the proxy is stopping".to_owned()))),
            },
            HandoffRequest::DisconnectWorkers(reply) => {
                disconnect_workers(apps, control).await;
                let _ = reply.send(());
            }
            HandoffRequest::PauseOutput(reply) => {
                let lines = handoff.pause_output(apps).await;
                let _ = reply.send(lines);
            }
            HandoffRequest::Resume(reply) => {
                handoff.resume(apps, control).await;
                let _ = reply.send(());
            }
            HandoffRequest::Release(reply) => {
                handoff.release(apps, control, &mut self.writer, &mut self.commands).await;
                let _ = reply.send(());
            }
        }
    }

    async fn close(self) {
        let EventLoop { apps, control, guard, writer, handoff, running, .. } = self;
        drop((running, control));
        if let Some(writer) = writer {
            writer.end().await;
        }
        let logs = apps.output.logs.clone();
        if let Err(e) = tokio::task::spawn_blocking(move || logs.close(LAST_OUTPUT_TIMEOUT)).await {
            log::error!("closing the workers' output: {e}");
        }
        let released = matches!(handoff, Predecessor::Released);
        if !released {
            let dir = apps.dir.clone();
            // Their sockets must not be left in use.
            let _ = tokio::task::spawn_blocking(move || strays::end(&dir)).await;
        }
        // Tasks that still hold the directory are bounded in time, but the end must not wait for them.
        match Arc::try_unwrap(apps.dir) {
            Ok(dir) => drop(dir),
            Err(dir) => dir.clear(),
        }
        match released {
            true => guard.leave(),
            false => guard.end().await,
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
