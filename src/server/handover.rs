//! Joins the handoff with what is handed over: the supervisor's workers, the sockets that listen, and traffic.

use super::adoption::{self, Adopt, worker};
use super::listeners::Listeners;
use super::notify;
use super::peers::Peers;
use super::sockets;
use crate::config::Shutdown;
use crate::gateway::{Paused, Phase, ProxyService};
use crate::handoff::{
    Capabilities, DrainingPredecessors, Error, FirstPayload, HandoffClient, HandoffServer, HandoffTrigger,
    PausedConnection, PausedPayload, Predecessor, Released, Secret, Successor,
};
use crate::pool::{Closing, Lease, Use};
use crate::process::{self, ConnectionTransfer};
use crate::supervisor::{AppStatus, Control, PartialLine, Snapshot, Status, TakeoverHandle, WorkerStatus};
use crate::tls::TicketKeys;
use crate::tls::certificates::now;
use crate::worker::{Incarnation, counted_being};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};
use zeroize::Zeroizing;

/// For connections that cannot move to hear with an answer that it was the last. A client that is busy asks again before: what
/// is closed between two requests may meet one on its way.
const LEAVE_DELAY: Duration = Duration::from_secs(1);
/// For tunnels to pause. Those that need longer finish here.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Over what time WebSockets are closed that are still here in the end, and with which code (IANA's registry).
const CLOSE_WINDOW: Duration = Duration::from_secs(2);
const SERVICE_RESTART: u16 = 1012;
/// Connections on their way to the successor that wait to be sent.
const LATE_QUEUE: usize = 256;

/// What this process is to the other proxies of its runtime directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HandoffRole {
    /// It takes over, and owns nothing yet.
    TakingOver,
    /// It owns everything.
    Active,
    /// The successor, of this process id, owns everything; this process finishes what is left.
    Released(u32),
    /// The same, and nothing is left.
    Finished,
    /// The takeover failed; the other process goes on.
    Failed(String),
}

impl HandoffRole {
    /// It owns nothing any more, or never will.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, HandoffRole::Released(_) | HandoffRole::Finished | HandoffRole::Failed(_))
    }
}

/// The handles that a handoff needs. Cheap to clone.
#[derive(Clone)]
pub(super) struct HandoffContext {
    pub(super) control: Control,
    pub(super) front: ProxyService,
    pub(super) listeners: Listeners,
    pub(super) role: Arc<watch::Sender<HandoffRole>>,
    pub(super) pid_file: PathBuf,
    /// It is written in any case: we are in the background.
    pub(super) writes_pid: bool,
    /// Where this process takes commands.
    pub(super) admin: Option<PathBuf>,
    pub(super) peers: Peers,
    /// As the newest configuration says.
    pub(super) policy: Arc<ArcSwap<Shutdown>>,
    pub(super) tickets: Arc<TicketKeys>,
}

/// What a process that takes over begins with.
pub(super) struct TakeoverParts {
    pub(super) client: HandoffClient,
    pub(super) supervisor: TakeoverHandle,
}

/// The service: takes over first if there is somebody, then waits for a successor.
pub(super) struct Handover {
    context: HandoffContext,
    runtime_dir: PathBuf,
    takeover: Mutex<Option<TakeoverParts>>,
    server: Mutex<Option<HandoffServer>>,
    adopt: mpsc::Sender<Adopt>,
    predecessors: DrainingPredecessors,
}

impl Handover {
    /// Also the orders of adoption, to be carried out where connections are served, and how to ask for a handoff.
    pub(super) fn new(
        context: HandoffContext,
        runtime_dir: PathBuf,
        takeover: Option<TakeoverParts>,
    ) -> (Handover, HandoffTrigger, mpsc::Receiver<Adopt>) {
        let (server, trigger) = HandoffServer::new();
        let (adopt, adoption) = mpsc::channel(adoption::QUEUE);
        let (takeover, server) = (Mutex::new(takeover), Mutex::new(Some(server)));
        (
            Handover { context, runtime_dir, takeover, server, adopt, predecessors: DrainingPredecessors::new() },
            trigger,
            adoption,
        )
    }

    async fn take_over(&self, TakeoverParts { client, supervisor }: TakeoverParts, owned: oneshot::Sender<()>) {
        let (bound, ready) = (AsyncMutex::new(Some(supervisor.bound)), AsyncMutex::new(Some(supervisor.ready)));
        let commit = Mutex::new(Some((supervisor.commit, owned)));
        let next = Arc::new(SuccessorSide {
            context: self.context.clone(),
            bound,
            ready,
            commit,
            adopt: self.adopt.clone(),
            in_use: Mutex::default(),
        });
        if let Err(why) = client.complete(&next, &self.predecessors).await {
            // Dropping the rest of its handle lets the supervisor end without touching anything.
            drop(next);
            self.context.role.send_replace(HandoffRole::Failed(format!("the other proxy goes on: {why}")));
        }
    }

    async fn wait_for_successor(&self, server: HandoffServer) {
        match server.serve(&self.runtime_dir, &self.context, &self.predecessors).await {
            Ok(()) => {
                self.context.role.send_replace(HandoffRole::Finished);
            }
            Err(why) => log::error!("this proxy cannot be upgraded, only restarted: {why}"),
        }
    }
}

#[async_trait]
impl BackgroundService for Handover {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let server = self.server.lock().unwrap_or_else(|e| e.into_inner()).take();
        let takeover = self.takeover.lock().unwrap_or_else(|e| e.into_inner()).take();
        let (owned, is_owned) = oneshot::channel();
        let wait = async {
            // A successor that fails drops it, and waits for nobody.
            if let (Ok(()), Some(server)) = (is_owned.await, server) {
                self.wait_for_successor(server).await;
            }
        };
        match takeover {
            Some(takeover) => {
                tokio::join!(self.take_over(takeover, owned), wait);
            }
            None => {
                let _ = owned.send(());
                wait.await;
            }
        }
    }
}

/// What a predecessor's requests use of a worker.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct InUse {
    app: String,
    incarnation: Incarnation,
    active: u32,
    parked: u32,
}

impl InUse {
    /// More of one worker than a predecessor can have.
    const MAX: u32 = 100_000;

    fn leases(&self, status: &Status) -> Vec<Lease> {
        let worker = worker(status, &self.app, self.incarnation);
        let Some(member) = worker.and_then(|worker| worker.carried.member()) else { return Vec::new() };
        let leases = |count: u32, usage| {
            let member = member.clone();
            (0..count.min(InUse::MAX)).map(move |_| Lease::lent(member.clone(), usage))
        };
        leases(self.active, Use::Request).chain(leases(self.parked, Use::Parked)).collect()
    }
}

/// A paused tunnel.
pub(super) struct Tunnel(Box<dyn Paused>);

impl PausedConnection for Tunnel {
    fn to_transfer(&self) -> (Zeroizing<Vec<u8>>, Vec<BorrowedFd<'_>>) {
        self.0.to_transfer()
    }
}

#[async_trait]
impl Predecessor for HandoffContext {
    type PausedConnection = Tunnel;

    fn objection(&self, pid: Option<u32>) -> Option<String> {
        self.peers.objection(pid, "handoff.sock")
    }

    async fn pause(&self) -> Result<FirstPayload, String> {
        let snapshot = self.control.pause().await?;
        let copy =
            |(name, fd): (String, Arc<OwnedFd>)| -> io::Result<_> { Ok((name, fd.as_fd().try_clone_to_owned()?)) };
        let given = || -> Result<FirstPayload, String> {
            let snapshot = serde_json::to_value(&snapshot).map_err(|e| format!("what is known of the workers: {e}"))?;
            let sockets = self.listeners.sockets.export().into_iter().map(copy).collect::<io::Result<Vec<_>>>();
            let mut sockets = sockets.map_err(|e| format!("copying the listening sockets: {e}"))?;
            sockets.extend(self.pinned());
            Ok(FirstPayload { snapshot, lock: self.control.lock()?, sockets })
        };
        match given() {
            Ok(given) => Ok(given),
            Err(why) => {
                self.control.resume().await;
                Err(why)
            }
        }
    }

    async fn disconnect_workers(&self) {
        self.control.disconnect_workers().await;
    }

    fn secret(&self) -> Option<Secret> {
        Some(Secret(self.tickets.export()))
    }

    async fn pause_connections(&self, successor: Capabilities) -> PausedPayload<Tunnel> {
        // First, since nobody waits for it: tunnels are to stand still as shortly as can be.
        let output = self.control.pause_output().await;
        let tunnels = self.front.pause_tunnels(PAUSE_TIMEOUT, successor.tls_tunnels).await;
        PausedPayload { tunnels: tunnels.into_iter().map(Tunnel).collect(), output: serde_json::json!(output) }
    }

    async fn resume(&self, tunnels: Vec<Tunnel>) {
        tunnels.into_iter().for_each(|tunnel| tunnel.0.resume());
        self.control.resume().await;
    }

    fn in_use(&self) -> Value {
        let status = self.control.status();
        let worker = |app: &Arc<str>, worker: &WorkerStatus| InUse {
            app: app.to_string(),
            incarnation: worker.incarnation,
            active: worker.carried.active(),
            parked: worker.carried.parked(),
        };
        let of = |app: &AppStatus| app.workers.iter().map(|w| worker(&app.name, w)).collect::<Vec<_>>();
        let in_use = status.apps.iter().flat_map(of).filter(|in_use| in_use.active + in_use.parked > 0);
        serde_json::json!(in_use.collect::<Vec<_>>())
    }

    async fn release(&self, successor: u32) -> Released {
        notify::main_pid(successor);
        if let Err(why) = process::init::succeeded_by(successor) {
            log::error!("{why}");
        }
        let (give, late) = mpsc::channel(LATE_QUEUE);
        self.front.set_phase(Phase::Migrating(give));
        self.listeners.traffic.close();
        self.listeners.own.close();
        self.role.send_replace(HandoffRole::Released(successor));
        self.control.release().await;
        let context = self.clone();
        let finished = tokio::spawn(async move { context.finish().await });
        Released { late, finished }
    }
}

/// What a worker's socket is called among those that are handed over.
const WORKER: &str = "worker=";
/// A message takes 200 descriptors.
const MOST_PINNED: usize = 100;

/// Sockets of workers, by app and incarnation, that a predecessor has handed over as their paths are gone.
pub(super) type Pins = Vec<((String, Incarnation), OwnedFd)>;

/// Takes them from among all sockets that were handed over.
pub(super) fn pins(sockets: &mut Vec<(String, OwnedFd)>) -> Pins {
    let id = |name: &str| {
        let (app, incarnation) = name.strip_prefix(WORKER)?.rsplit_once(':')?;
        Some((app.to_owned(), Incarnation(incarnation.parse().ok()?)))
    };
    let (found, rest) = std::mem::take(sockets).into_iter().partition(|(name, _)| name.starts_with(WORKER));
    *sockets = rest;
    found.into_iter().filter_map(|(name, fd): (String, OwnedFd)| Some((id(&name)?, fd))).collect()
}

impl HandoffContext {
    /// The sockets of workers that a successor would not find by their paths, as these are gone.
    fn pinned(&self) -> Vec<(String, OwnedFd)> {
        let status = self.control.status();
        let workers = status.apps.iter().flat_map(|app| app.workers.iter().map(|worker| (&app.name, worker)));
        let pinned = workers.filter_map(|(app, worker)| {
            let member = worker.carried.member()?;
            let lost = std::fs::symlink_metadata(&*member.socket).is_err();
            let fd = member.pinned.get().filter(|_| lost)?.try_clone().ok()?;
            Some((format!("{WORKER}{app}:{}", worker.incarnation), fd))
        });
        pinned.take(MOST_PINNED).collect()
    }

    /// Lets what is still open here end. Afterwards nothing can come late.
    async fn finish(&self) {
        self.listeners.traffic.closed().await;
        self.listeners.own.closed().await;
        // As long as we had them, too, clients of a successor that is killed would wait at them, and nobody could start another.
        self.listeners.sockets.release();
        // The successor's, unless it takes commands elsewhere.
        self.admin.iter().for_each(|socket| sockets::remove_path(socket));
        let max_drain = self.policy.load().max_drain;
        let emptied = async {
            if tokio::time::timeout(LEAVE_DELAY, self.front.emptied()).await.is_err() {
                self.front.end_what_stays();
                self.front.emptied().await;
            }
        };
        if tokio::time::timeout(max_drain, emptied).await.is_err() {
            let left = self.front.connections().load(std::sync::atomic::Ordering::Relaxed);
            log::warn!(
                "{} left after {max_drain:?} (max_drain), cut off now",
                counted_being(left as u64, "connection")
            );
            self.front.set_phase(Phase::Draining);
            let status = self.control.status();
            let workers = status.apps.iter().flat_map(|app| &app.workers);
            workers.for_each(|worker| {
                worker.carried.close_tunnels(Closing { code: SERVICE_RESTART, window: CLOSE_WINDOW })
            });
            let _ = tokio::time::timeout(2 * CLOSE_WINDOW, self.front.emptied()).await;
        }
        self.front.set_phase(Phase::Draining);
    }
}

/// Tells the supervisor, then the wait for the next successor, that everything is ours.
type Commit = (oneshot::Sender<Vec<PartialLine>>, oneshot::Sender<()>);

/// The successor's side: waits for the supervisor, then opens what is open.
struct SuccessorSide {
    context: HandoffContext,
    bound: AsyncMutex<Option<oneshot::Receiver<()>>>,
    ready: AsyncMutex<Option<oneshot::Receiver<Result<(), String>>>>,
    commit: Mutex<Option<Commit>>,
    adopt: mpsc::Sender<Adopt>,
    /// What former processes still have, so that workers are not stopped under them.
    in_use: Mutex<BTreeMap<u32, Vec<Lease>>>,
}

const ENDED: &str = "the supervisor has ended, see the log of this process";

#[async_trait]
impl Successor for SuccessorSide {
    async fn bound(&self) -> Result<(), String> {
        match self.bound.lock().await.take() {
            Some(bound) => bound.await.map_err(|_| ENDED.to_owned()),
            None => Ok(()),
        }
    }

    async fn ready(&self) -> Result<(), String> {
        match self.ready.lock().await.take() {
            Some(ready) => ready.await.map_err(|_| ENDED.to_owned())?,
            None => Ok(()),
        }
    }

    fn take_secret(&self, secret: Secret) {
        if let Err(why) = self.context.tickets.import(&secret.0, now()) {
            log::warn!("TLS sessions begin anew, as the keys of their tickets are not understood: {why}");
        }
    }

    async fn stage(&self, tunnels: Vec<ConnectionTransfer>) {
        // Its receiver lives as long as the front's service.
        let _ = self.adopt.send(Adopt::Stage(tunnels)).await;
    }

    async fn take_ownership(&self, output: Value) {
        let Some((commit, owned)) = self.commit.lock().unwrap_or_else(|e| e.into_inner()).take() else { return };
        let partials = match output {
            Value::Null => Vec::new(),
            output => serde_json::from_value(output).unwrap_or_else(|e| {
                log::error!("lines that had begun are lost: {e}");
                Vec::new()
            }),
        };
        // First of all those that stand still.
        let _ = self.adopt.send(Adopt::Activate).await;
        self.context.listeners.traffic.open();
        // A worker whose tunnels are not counted yet could be stopped under them.
        self.adopted().await;
        let _ = commit.send(partials);
        self.context.listeners.own.open();
        sockets::take_pid_file(&self.context.pid_file, self.context.writes_pid);
        self.context.role.send_replace(HandoffRole::Active);
        let _ = owned.send(());
        log::info!("took over; listening");
    }

    fn report_in_use(&self, pid: u32, in_use: Value) {
        let in_use: Vec<InUse> = serde_json::from_value(in_use).unwrap_or_default();
        let status = self.context.control.status();
        let leases = in_use.iter().flat_map(|in_use| in_use.leases(&status)).collect();
        // The old ones go when the new ones are there.
        drop(self.in_use.lock().unwrap_or_else(|e| e.into_inner()).insert(pid, leases));
    }

    async fn adopt(&self, connections: Vec<ConnectionTransfer>) {
        let _ = self.adopt.send(Adopt::Late(connections)).await;
    }
}

impl SuccessorSide {
    async fn adopted(&self) {
        let (done, is_done) = oneshot::channel();
        if self.adopt.send(Adopt::Barrier(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

/// The snapshot, as it came.
pub(super) fn snapshot(value: Value) -> Result<Snapshot, Error> {
    serde_json::from_value(value).map_err(|e| Error(format!("what the predecessor knows is not understood: {e}")))
}
