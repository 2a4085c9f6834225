//! The background service, and the handle to it.

use super::alarms::Alarms;
use super::apps::{Apps, Parts};
use super::child::{Adopt, adopt};
use super::commands::Commands;
use super::control_listener::ControlListener;
use super::effects::{Effects, ProcessEffects};
use super::event_loop::{Channels, EventLoop};
use super::guard::Guard;
use super::handoff::{Predecessor, Takeover, TakeoverHandle, TakeoverState, takeover_channels};
use super::healing::Healing;
use super::heartbeat::LoopHeartbeat;
use super::messages::{
    AppTarget, COMMANDS_MAX, Command, CommandKind, CommandOutcome, Defined, EffectReports, Enforce,
    HANDOFF_REQUESTS_MAX, HandoffRequest, JOINS_MAX, Outcome, REPORTS_MAX, ReloadScope, RunState, ScaleTo, Sent,
};
use super::output_readers::OutputReaders;
use super::setup::{AppSpec, Settings, Setup};
use super::snapshot::{PartialLine, Restored, Snapshot, read_left, set_aside};
use super::status::Status;
use crate::pool::affinity::{Affinity, Balance};
use crate::pool::{Pool, QueuePolicy};
use crate::process::control::Registry;
use crate::process::output::Logs;
use crate::process::{Error, RuntimeDir, Tenant};
use crate::worker::{Incarnation, counted};
use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

const ENDED: &str = "the supervisor has ended";

/// The background service. Starts its workers when Pingora starts it.
pub(crate) struct Supervisor {
    /// Taken by the one start.
    event_loop: Mutex<Option<EventLoop>>,
    outcome: Arc<watch::Sender<Option<Outcome>>>,
}

/// A handle to the running supervisor.
#[derive(Clone)]
pub(crate) struct Control {
    run_state: Arc<watch::Sender<RunState>>,
    outcome: watch::Receiver<Option<Outcome>>,
    status: watch::Receiver<Arc<Status>>,
    logs: Arc<Logs>,
    commands: mpsc::Sender<Command>,
    requests: mpsc::Sender<HandoffRequest>,
    pub(super) dir: Weak<RuntimeDir>,
    alarms: Alarms,
    heartbeat: Arc<LoopHeartbeat>,
}

/// How the supervisor acts on processes.
pub(super) struct Host<'a> {
    pub(super) adopt: Adopt<'a>,
    pub(super) effects: &'a dyn Fn(EffectReports) -> Box<dyn Effects>,
}

/// Workers that another proxy has left or hands over.
type Old = (Restored, Option<TakeoverState>);

impl Host<'_> {
    /// The operating system.
    const SYSTEM: Host<'static> = Host { adopt: &adopt, effects: &|reports| Box::new(ProcessEffects(reports)) };
}

impl Supervisor {
    /// Locks and furnishes the runtime directory. Nothing is started, so the process may still fork.
    /// Workers that a killed proxy has left are known again, and taken over at the start.
    pub(crate) fn new(setup: Setup) -> Result<(Supervisor, Control), Error> {
        Supervisor::on(&Host::SYSTEM, setup)
    }

    pub(super) fn on(host: &Host<'_>, setup: Setup) -> Result<(Supervisor, Control), Error> {
        let tenants = tenants(&setup.apps);
        RuntimeDir::check(&setup.runtime_dir, &tenants)?;
        let mut dir = RuntimeDir::hold(&setup.runtime_dir)?;
        if let Some(snapshot) = read_left(&dir) {
            let tenants = snapshot.tenants(tenants.clone());
            let fits = RuntimeDir::check(dir.path(), &tenants).map_err(|e| e.to_string());
            match fits.and_then(|()| snapshot.restore(dir.path(), host.adopt, pool_of(&setup.apps))) {
                Ok(restored) => {
                    // Until it runs, nothing of theirs is ours to remove.
                    dir.cede();
                    let living = restored.apps.iter().flat_map(|app| app.workers.values());
                    let living = living.filter(|record| record.child.is_some()).map(|record| record.id.clone());
                    let living: Vec<_> = living.collect();
                    log::info!(
                        "the proxy before did not stop: takes over {} that it has left",
                        counted(living.len(), "worker")
                    );
                    dir.furnish(tenants, &living)?;
                    return Ok(Supervisor::with(host, setup, dir, Some((restored, None))));
                }
                Err(why) => set_aside(&dir.state_file(), &why),
            }
        }
        dir.furnish(tenants, &[])?;
        Ok(Supervisor::with(host, setup, dir, None))
    }

    /// The successor of a supervisor that is paused and has given its snapshot and the lock of its
    /// directory. It is passive until told to commit: see [`TakeoverHandle`].
    ///
    /// # Errors
    /// The snapshot cannot be taken up; nothing was changed.
    pub(crate) fn successor(
        setup: Setup,
        dir: RuntimeDir,
        snapshot: Snapshot,
    ) -> Result<(Supervisor, Control, TakeoverHandle), Error> {
        Supervisor::successor_on(&Host::SYSTEM, setup, dir, snapshot)
    }

    pub(super) fn successor_on(
        host: &Host<'_>,
        setup: Setup,
        dir: RuntimeDir,
        snapshot: Snapshot,
    ) -> Result<(Supervisor, Control, TakeoverHandle), Error> {
        dir.cede();
        dir.settle(snapshot.tenants(tenants(&setup.apps)))?;
        let restored = snapshot.restore(dir.path(), host.adopt, pool_of(&setup.apps)).map_err(|why| Error::Io {
            doing: "taking over the workers".into(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, why),
        })?;
        let (handle, state) = takeover_channels();
        let (supervisor, control) = Supervisor::with(host, setup, dir, Some((restored, Some(state))));
        Ok((supervisor, control, handle))
    }

    /// Workers are reached by these sockets although their paths are gone. Must be called before the start.
    pub(crate) fn pin(&self, pins: Vec<((String, Incarnation), OwnedFd)>) {
        let event_loop = self.event_loop.lock().unwrap_or_else(|e| e.into_inner());
        let Some(apps) = event_loop.as_ref().map(|event_loop| &event_loop.apps) else { return };
        for ((name, incarnation), fd) in pins {
            let mut records = apps.by_id.values().filter(|app| *app.name == *name);
            let member = records.find_map(|app| app.workers.get(&incarnation)?.member());
            if let Some(member) = member {
                member.pinned.set(Arc::new(fd));
            }
        }
    }

    fn with(host: &Host<'_>, setup: Setup, dir: RuntimeDir, old: Option<Old>) -> (Supervisor, Control) {
        let (run_state, run_state_out) = watch::channel(RunState::Run);
        let (outcome, outcome_out) = watch::channel(None);
        let (status, status_out) = watch::channel(Arc::new(Status::default()));
        let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
        let (requests, requests_out) = mpsc::channel(HANDOFF_REQUESTS_MAX);
        let (effect_reports, effects_out) = mpsc::channel(REPORTS_MAX);
        let (reports, reports_out) = mpsc::channel(REPORTS_MAX);
        let (joins, joins_out) = mpsc::channel(JOINS_MAX);
        let Setup { port, keep_alive, orphan_timeout, logs, alarms, guarded, output, apps: specs, .. } = setup;
        let logs = Logs::new(logs);
        let alarms = Alarms::new(alarms);
        let dir = Arc::new(dir);
        let mut apps = Apps::new(Parts {
            dir: dir.clone(),
            registry: Registry::new(reports),
            settings: Settings { port, keep_alive, orphan_timeout, preload: None },
            effects: (host.effects)(effect_reports),
            output: OutputReaders::new(logs.clone()),
            joins,
            alarms: alarms.clone(),
        });
        let configured: Vec<_> = specs.into_iter().map(AppTarget::pin_or_keep).collect();
        let takeover = match old {
            Some((restored, state)) => Some((Takeover::new(restored, state, &mut apps), configured)),
            None => {
                for app in configured {
                    apps.add(app);
                }
                None
            }
        };
        let heartbeat = apps.heartbeat.clone();
        let event_loop = EventLoop {
            apps,
            commands: Commands::new(commands_out),
            channels: Channels {
                effects: effects_out,
                reports: reports_out,
                joins: joins_out,
                requests: requests_out,
                run_state: run_state_out,
                status,
            },
            control: ControlListener::default(),
            guard: Guard::new(guarded),
            healing: Healing::new(),
            writer: None,
            takeover,
            handoff: Predecessor::default(),
            running: None,
            output,
            #[cfg(test)]
            faults: Arc::default(),
        };
        event_loop.show();
        let supervisor = Supervisor { event_loop: Mutex::new(Some(event_loop)), outcome: Arc::new(outcome) };
        let (run_state, dir) = (Arc::new(run_state), Arc::downgrade(&dir));
        let (outcome, status) = (outcome_out, status_out);
        (supervisor, Control { run_state, outcome, status, logs, commands, requests, dir, alarms, heartbeat })
    }
}

#[cfg(test)]
impl Supervisor {
    /// How many turns of the loop are to panic.
    pub(super) fn faults(&self) -> Arc<std::sync::atomic::AtomicU32> {
        let event_loop = self.event_loop.lock().unwrap_or_else(|e| e.into_inner());
        event_loop.as_ref().map(|event_loop| event_loop.faults.clone()).unwrap_or_default()
    }
}

/// Pins all, or nothing is to be changed.
async fn pin(apps: Vec<Defined>) -> Result<Vec<AppTarget>, String> {
    let all = move || apps.into_iter().map(AppTarget::pin).collect::<Vec<_>>();
    let pinned = tokio::task::spawn_blocking(all).await.map_err(|e| e.to_string())?;
    let (good, bad): (Vec<_>, Vec<_>) = pinned.into_iter().partition(Result::is_ok);
    if !bad.is_empty() {
        let bad: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
        return Err(format!("nothing was changed: {}", bad.join("\n")));
    }
    Ok(good.into_iter().filter_map(Result::ok).collect())
}

fn tenants(apps: &[AppSpec]) -> Vec<Tenant> {
    apps.iter().map(|app| Tenant { app: app.name.to_string(), user: app.spec.user.clone() }).collect()
}

/// The pool of an app; one of its own for an app that is not configured any more.
fn pool_of(apps: &[AppSpec]) -> impl Fn(&str) -> Arc<Pool> + '_ {
    |name| match apps.iter().find(|app| *app.name == *name) {
        Some(app) => app.pool.clone(),
        None => Arc::new(Pool::new(name.into(), Affinity::SocketIo, Balance::LeastLoaded, QueuePolicy::default())),
    }
}

#[async_trait]
impl BackgroundService for Supervisor {
    async fn start(&self, shutdown: ShutdownWatch) {
        let event_loop = self.event_loop.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(event_loop) = event_loop {
            let outcome = event_loop.run(shutdown).await;
            self.outcome.send_replace(Some(outcome));
        }
    }
}

impl Control {
    /// Drains and stops all workers; kills them when asked again.
    pub(crate) fn stop(&self) {
        self.run_state.send_modify(|state| {
            *state = if *state == RunState::Run { RunState::Stop } else { RunState::Kill };
        });
    }

    pub(crate) fn kill(&self) {
        self.run_state.send_replace(RunState::Kill);
    }

    /// Whether requests may still come although workers are to stop: then a worker is not asked to end because
    /// it has none just now. Its drain time-out holds all the same.
    pub(crate) fn expect_requests(&self, expects: bool) {
        self.heartbeat.expect_requests(expects);
    }

    /// Since the supervisor's loop turned last. It does so every second, whatever its workers do.
    pub(crate) fn since_beat(&self) -> Duration {
        self.heartbeat.age()
    }

    /// Workers' output: to open its files anew, and to ask for what was dropped.
    pub(crate) fn logs(&self) -> &Arc<Logs> {
        &self.logs
    }

    pub(crate) fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Waits for the end, however it came about.
    pub(crate) async fn finished(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(known) => known.clone().unwrap_or(Ok(())),
            Err(_) => Err("the supervisor was dropped before it had ended".to_owned()),
        }
    }

    pub(crate) fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Waits for the next status, which it returns; the last one, once the supervisor is gone.
    pub(crate) async fn changed(&mut self) -> Arc<Status> {
        let _ = self.status.changed().await;
        self.status.borrow_and_update().clone()
    }

    /// Makes the apps as they are given: those that `scope` names roll out, new ones start, missing ones stop; all
    /// others are not touched. When an app fails, all return to what they were configured as before. A newer reload takes the
    /// place of one under way. `sent` is for the app of the scope; it replaces what was sent before. `enforce` is called
    /// once all apps serve and before the missing ones stop, to lead traffic there; not if a newer reload has come.
    pub(crate) async fn reload(
        &self,
        apps: Vec<AppSpec>,
        scope: ReloadScope,
        sent: Option<Sent>,
        enforce: Enforce,
    ) -> CommandOutcome {
        let before = self.show(None).await?;
        let with = |app: AppSpec| {
            let known = before.iter().find(|(known, _)| known.name == app.name).map(|(_, sent)| sent.clone());
            let sent = sent.clone().filter(|_| scope == ReloadScope::App(app.name.to_string()));
            (app, sent.or(known).unwrap_or_default())
        };
        let targets = pin(apps.into_iter().map(with).collect()).await?;
        self.command(CommandKind::Reload { targets, scope, enforce }).await
    }

    /// Replaces every worker of an app, or of all, by one of the same configuration: with the files that are there now,
    /// where its paths lead now.
    pub(crate) async fn restart(&self, app: Option<String>, sent: Option<Sent>) -> CommandOutcome {
        let named = app.is_some();
        let apps = self.show(app.clone()).await?;
        if let (Some(app), true) = (app, apps.is_empty()) {
            return Err(format!("there is no app {app}"));
        }
        let with = |(app, known)| (app, sent.clone().unwrap_or(known));
        let targets = pin(apps.into_iter().map(with).collect()).await?;
        self.command(CommandKind::Restart { targets, named }).await
    }

    async fn show(&self, app: Option<String>) -> Result<Vec<Defined>, String> {
        let (shown, answer) = oneshot::channel();
        self.command(CommandKind::Show(app, shown)).await?;
        answer.await.map_err(|_| ENDED.to_owned())
    }

    pub(crate) async fn scale(&self, app: &str, to: ScaleTo) -> CommandOutcome {
        self.command(CommandKind::Scale(app.to_owned(), to)).await
    }

    async fn command(&self, kind: CommandKind) -> CommandOutcome {
        let (reply, outcome) = oneshot::channel();
        self.commands.send(Command { kind, reply }).await.map_err(|_| ENDED)?;
        outcome.await.map_err(|_| ENDED)?
    }

    /// Lets what is being started come up (10 s at most), then decides and performs nothing any more.
    ///
    /// # Errors
    /// The proxy stops, or a start takes too long; then all goes on.
    pub(crate) async fn pause(&self) -> Result<Snapshot, String> {
        self.request(HandoffRequest::Pause).await?
    }

    /// Ends all control connections: workers dial in to whoever is bound at the control socket.
    pub(crate) async fn disconnect_workers(&self) {
        let _ = self.request(HandoffRequest::DisconnectWorkers).await;
    }

    /// Stops reading the workers' output, writes what was read (2 s at most), and returns the lines that
    /// have begun. Must be called while paused.
    pub(crate) async fn pause_output(&self) -> Vec<PartialLine> {
        self.request(HandoffRequest::PauseOutput).await.unwrap_or_default()
    }

    /// Goes on as before the pause.
    pub(crate) async fn resume(&self) {
        let _ = self.request(HandoffRequest::Resume).await;
    }

    /// Ends without touching a worker or a file: another has them.
    pub(crate) async fn release(&self) {
        let _ = self.request(HandoffRequest::Release).await;
    }

    /// Why the runtime directory is not whole, if it cannot be made so.
    pub(crate) fn directory_trouble(&self) -> Option<String> {
        self.dir.upgrade().and_then(|dir| dir.trouble())
    }

    /// A copy of the descriptor that holds the runtime directory.
    pub(crate) fn lock(&self) -> Result<OwnedFd, String> {
        let dir = self.dir.upgrade().ok_or(ENDED)?;
        // The successor looks for it there.
        dir.heal().map_err(|e| e.to_string())?;
        dir.lock_fd().map_err(|e| format!("the lock cannot be copied: {e}"))
    }

    async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> HandoffRequest) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| ENDED.to_owned())?;
        answer.await.map_err(|_| ENDED.to_owned())
    }
}
