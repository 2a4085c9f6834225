//! The service that keeps every app's workers running: it feeds the fleets with what happens and
//! carries out what they ask.
//!
//! # For the composition root
//!
//! ```ignore
//! let (supervisor, control) = Supervisor::new(Setup {
//!     apps: vec![AppSpec { name, spec, policy, pool }],   // one Arc<Pool> each, shared with traffic
//!     runtime_dir, port, keep_alive, orphan_timeout,
//! })?;                                     // locks and furnishes the runtime directory; starts nothing
//! server.add_service(background_service("supervisor", supervisor));   // starts the workers in `run()`
//!
//! control.stop();                          // SIGTERM, SIGINT: drain, stop; the second call: kill now
//! control.kill();                          // the same as a second stop
//! control.finished().await;                // Ok: no process, socket, FIFO or directory of ours is left.
//!                                          // Err: the supervisor failed; also without a stop: exit non-zero
//! control.reload(apps).await;              // what changed rolls out; Ok or Err says in words what came of it
//! control.restart(Some(app)).await;        // the same definition as a new generation
//! control.scale("chat", To::By(1)).await;
//! control.status();                        // Arc<Status>, newest; `changed().await` waits for the next
//! ```
//!
//! Handing over (the predecessor): `control.freeze().await?` gives the [`Estate`]; then `dismiss`, `hush`,
//! and either `cede`, after which `finished()` is Ok and all is left as it is, or `thaw`. The successor
//! is made by [`Supervisor::heir`]. A supervisor that finds the state file of one that was killed takes
//! its workers over by itself.
//!
//! `Control` is cheap to clone. When Pingora's own shutdown signal comes first, it counts as a stop;
//! whoever lets Pingora end its runtime should wait for `finished()` before, or workers are orphaned.
//!
//! # Theory of operation
//!
//! One task owns all state ([`keeper`]). Whatever takes time (spawn, probe, waiting for an exit,
//! cleaning up) is a task that answers with a [report](messages::EffectReport). A panic in that task is
//! caught and logged, and the loop goes on with the state it has; when that happens again and again
//! all workers are killed and `finished()` says so.

#![forbid(unsafe_code)]

mod actions;
mod alarm_event;
pub(crate) mod alarms;
mod control_listener;
mod definition;
mod effects;
mod estate;
mod external;
mod facts;
mod guarding;
mod heir;
mod keeper;
mod messages;
mod metrics;
mod orders;
mod probe;
mod pulse;
mod restarts;
mod room;
mod saver;
mod status;
mod tags;
#[cfg(test)]
mod tests;
mod transfer;
mod unreached;
mod worker_record;

pub(crate) use estate::{Estate, Partial, clear_up};
pub(crate) use heir::Heir;
pub(crate) use messages::{Outcome, To};
pub(crate) use metrics::register;
pub(crate) use status::{AppStatus, Carried, SlotStatus, Status, Waiting, WorkerStatus};

use crate::fleet::policy::Policy;
use crate::pool::affinity::{Affinity, Balance};
use crate::pool::{Pool, QueuePolicy};
use crate::process::output::{self, Logs};
use crate::process::spec::Spec;
use crate::process::{Error, RuntimeDir, Tenant};
use alarms::Alarms;
use async_trait::async_trait;
use estate::Revived;
use keeper::{Doors, Keeper};
use messages::{COMMANDS_MAX, HANDOFF_REQUESTS_MAX, RunState, Wanted};
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use pulse::Pulse;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What to run.
pub(crate) struct Setup {
    pub(crate) apps: Vec<AppSpec>,
    /// Absolute. Made if need be, and removed at the end if made.
    pub(crate) runtime_dir: PathBuf,
    /// The proxy's public port, as `server.address()` tells it to apps that asked for any.
    pub(crate) port: u16,
    /// Least keep-alive time-out of the workers' servers: longer than traffic keeps idle connections.
    pub(crate) keep_alive: Duration,
    /// How long a worker lives without the proxy.
    pub(crate) orphan_timeout: Duration,
    /// Where workers' output goes, and in what form.
    pub(crate) logs: output::Policy,
    pub(crate) alarms: alarms::Policy,
    /// There is to be a [guard](crate::process::guard): with what else to remove, outside of the runtime directory.
    /// `None` where this program cannot be started as one.
    pub(crate) guarded: Option<Vec<PathBuf>>,
    /// Stands for standard output.
    pub(crate) output: Option<Box<dyn std::io::Write + Send>>,
}

pub(crate) struct AppSpec {
    /// Unique; letters, digits, `-` and `_`.
    pub(crate) name: Arc<str>,
    pub(crate) spec: Spec,
    pub(crate) policy: Policy,
    /// Gets the workers that traffic may reach.
    pub(crate) pool: Arc<Pool>,
}

/// The background service. Starts its workers when Pingora starts it.
pub(crate) struct Supervisor {
    /// Taken by the one start.
    keeper: Mutex<Option<Keeper>>,
    outcome: Arc<watch::Sender<Option<Outcome>>>,
}

/// A handle to the running supervisor.
#[derive(Clone)]
pub(crate) struct Control {
    wish: Arc<watch::Sender<RunState>>,
    outcome: watch::Receiver<Option<Outcome>>,
    status: watch::Receiver<Arc<Status>>,
    logs: Arc<Logs>,
    orders: mpsc::Sender<messages::Order>,
    asks: mpsc::Sender<messages::HandoffRequest>,
    dir: Weak<RuntimeDir>,
    alarms: Alarms,
    pulse: Arc<Pulse>,
}

impl Supervisor {
    /// Locks and furnishes the runtime directory. Nothing is started, so the process may still fork.
    /// Workers that a killed proxy has left are known again, and taken over at the start.
    pub(crate) fn new(setup: Setup) -> Result<(Supervisor, Control), Error> {
        let tenants = tenants(&setup.apps);
        RuntimeDir::check(&setup.runtime_dir, &tenants)?;
        let mut dir = RuntimeDir::hold(&setup.runtime_dir)?;
        if let Some(estate) = estate::left_in(&dir) {
            let tenants = estate.tenants(tenants.clone());
            let fits = RuntimeDir::check(dir.path(), &tenants).map_err(|e| e.to_string());
            match fits.and_then(|()| estate.revive(dir.path(), pool_of(&setup.apps))) {
                Ok(revived) => {
                    // Until it runs, nothing of theirs is ours to remove.
                    dir.cede();
                    let living = revived.rooms.iter().flat_map(|room| room.workers.values());
                    let living = living.filter(|entry| entry.process.is_some()).map(|entry| entry.id.clone());
                    let living: Vec<_> = living.collect();
                    log::info!(
                        "the proxy before did not stop: {} of its workers live and are taken over",
                        living.len()
                    );
                    dir.furnish(tenants, &living)?;
                    return Ok(Supervisor::with(setup, dir, Some((revived, None))));
                }
                Err(why) => estate::refuse(&dir.state_file(), &why),
            }
        }
        dir.furnish(tenants, &[])?;
        Ok(Supervisor::with(setup, dir, None))
    }

    /// The successor of a supervisor that is frozen and has given its estate and the lock of its
    /// directory. It is passive until told to commit: see [`Heir`].
    ///
    /// # Errors
    /// The estate cannot be taken up; nothing was changed.
    pub(crate) fn heir(setup: Setup, dir: RuntimeDir, estate: Estate) -> Result<(Supervisor, Control, Heir), Error> {
        dir.cede();
        dir.settle(estate.tenants(tenants(&setup.apps)))?;
        let revived = estate.revive(dir.path(), pool_of(&setup.apps)).map_err(|why| Error::Io {
            doing: "taking over the workers".into(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, why),
        })?;
        let (heir, ends) = heir::pair();
        let (supervisor, control) = Supervisor::with(setup, dir, Some((revived, Some(ends))));
        Ok((supervisor, control, heir))
    }

    fn with(mut setup: Setup, dir: RuntimeDir, legacy: Option<(Revived, Option<heir::Ends>)>) -> (Supervisor, Control) {
        let (wish, wishes) = watch::channel(RunState::Run);
        let (outcome, outcome_out) = watch::channel(None);
        let (status, status_out) = watch::channel(Arc::new(Status::default()));
        let logs = Logs::new(setup.logs.clone());
        let (orders, orders_out) = mpsc::channel(COMMANDS_MAX);
        let (asks, asks_out) = mpsc::channel(HANDOFF_REQUESTS_MAX);
        let alarms = Alarms::new(setup.alarms.clone());
        let dir = Arc::new(dir);
        let doors = Doors { orders: orders_out, asks: asks_out, wishes, status };
        let wanted: Vec<_> = std::mem::take(&mut setup.apps).into_iter().map(Wanted::pin_or_keep).collect();
        let mut keeper = Keeper::new(setup, dir.clone(), doors, logs.clone(), alarms.clone());
        match legacy {
            Some((revived, ends)) => keeper.inherit(revived, wanted, ends),
            None => wanted.into_iter().for_each(|app| keeper.make_room(app)),
        }
        keeper.show();
        let pulse = keeper.pulse.clone();
        let supervisor = Supervisor { keeper: Mutex::new(Some(keeper)), outcome: Arc::new(outcome) };
        let (wish, dir) = (Arc::new(wish), Arc::downgrade(&dir));
        let (outcome, status) = (outcome_out, status_out);
        (supervisor, Control { wish, outcome, status, logs, orders, asks, dir, alarms, pulse })
    }

    /// Who hears of the fleet's alarms instead. To be said before the start.
    #[cfg(test)]
    fn on_alarm(&self, hook: Arc<dyn alarm_event::Hook>) {
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(|e| e.into_inner()).as_mut() {
            keeper.alarms = Some(hook);
        }
    }
}

#[cfg(test)]
impl Supervisor {
    /// How many turns of the loop are to panic.
    fn faults(&self) -> Arc<std::sync::atomic::AtomicU32> {
        self.keeper.lock().unwrap_or_else(|e| e.into_inner()).as_ref().map(|k| k.faults.clone()).unwrap_or_default()
    }
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
        let keeper = self.keeper.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(keeper) = keeper {
            let outcome = keeper.run(shutdown).await;
            self.outcome.send_replace(Some(outcome));
        }
    }
}

impl Control {
    /// Drains and stops all workers; kills them when asked again.
    pub(crate) fn stop(&self) {
        self.wish.send_modify(|wish| *wish = if *wish == RunState::Run { RunState::Stop } else { RunState::Kill });
    }

    pub(crate) fn kill(&self) {
        self.wish.send_replace(RunState::Kill);
    }

    /// Whether requests may still come although workers are to stop: then a worker is not asked to end because
    /// it has none just now. Its drain time-out holds all the same.
    pub(crate) fn expect_requests(&self, expects: bool) {
        self.pulse.expect_requests(expects);
    }

    /// Since the supervisor's loop turned last. It does so every second, whatever its workers do.
    pub(crate) fn since_beat(&self) -> Duration {
        self.pulse.age()
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
}
