//! Joins the handoff with what is handed over: the supervisor's workers, the sockets that listen, and traffic.

use super::listen::Doors;
use super::notify;
use super::peers::Peers;
use super::settling::{self, Settle, worker};
use super::sockets;
use crate::config::Shutdown;
use crate::gateway::{ConnectionTransfer, Paused, Phase, ProxyService};
use crate::handoff::{
    Ceded, Door, Elders, Error, Frozen, Given, Knocker, Packed, Parcel, Predecessor, Successor, Taken,
};
use crate::pool::{Closing, Lease, Use};
use crate::process;
use crate::supervisor::{AppStatus, Control, Estate, Heir, Partial, Status, WorkerStatus};
use crate::worker::Incarnation;
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

/// For tunnels to come to a stop. Those that need longer finish here.
const STOP: Duration = Duration::from_secs(2);
/// Over what time WebSockets are closed that are still here in the end, and with which code (IANA's registry).
const FAREWELL: Duration = Duration::from_secs(2);
const SERVICE_RESTART: u16 = 1012;
/// Connections on their way to the successor that wait to be sent.
const LATE: usize = 256;

/// What this process is to the other proxies of its runtime directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It takes over, and owns nothing yet.
    Heir,
    Owner,
    /// Another, of this process id, has everything; what is left here is finished.
    Ceded(u32),
    /// The same, and nothing is left.
    Empty,
    /// It was to take over and did not.
    Failed(String),
}

impl Standing {
    /// It owns nothing any more, or never will.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Standing::Ceded(_) | Standing::Empty | Standing::Failed(_))
    }
}

/// What all of it is about. Cheap to clone.
#[derive(Clone)]
pub(super) struct House {
    pub(super) control: Control,
    pub(super) front: ProxyService,
    pub(super) doors: Doors,
    pub(super) standing: Arc<watch::Sender<Standing>>,
    pub(super) pid_file: PathBuf,
    /// Where this process takes commands.
    pub(super) admin: Option<PathBuf>,
    pub(super) peers: Peers,
    /// As the newest configuration says.
    pub(super) policy: Arc<ArcSwap<Shutdown>>,
}

/// What makes this process an heir.
pub(super) struct Legacy {
    pub(super) taken: Taken,
    pub(super) heir: Heir,
}

/// The service: takes over first if there is somebody, then waits for a successor.
pub(super) struct Handover {
    house: House,
    runtime_dir: PathBuf,
    legacy: Mutex<Option<Legacy>>,
    door: Mutex<Option<Door>>,
    settle: mpsc::Sender<Settle>,
    elders: Elders,
}

impl Handover {
    /// Also what settles parcels, to be run where connections are served, and how to ask for a handoff.
    pub(super) fn new(
        house: House,
        runtime_dir: PathBuf,
        legacy: Option<Legacy>,
    ) -> (Handover, Knocker, mpsc::Receiver<Settle>) {
        let (door, knocker) = Door::new();
        let (settle, settling) = mpsc::channel(settling::WAITING);
        let (legacy, door) = (Mutex::new(legacy), Mutex::new(Some(door)));
        (Handover { house, runtime_dir, legacy, door, settle, elders: Elders::new() }, knocker, settling)
    }

    async fn take_over(&self, Legacy { taken, heir }: Legacy, owned: oneshot::Sender<()>) {
        let (bound, ready) = (AsyncMutex::new(Some(heir.bound)), AsyncMutex::new(Some(heir.ready)));
        let commit = Mutex::new(Some((heir.commit, owned)));
        let next = Arc::new(Next {
            house: self.house.clone(),
            bound,
            ready,
            commit,
            settle: self.settle.clone(),
            lent: Mutex::default(),
        });
        if let Err(why) = taken.go_on(&next, &self.elders).await {
            // Dropping the rest of the heir lets the supervisor end without touching anything.
            drop(next);
            self.house.standing.send_replace(Standing::Failed(format!("the other proxy goes on: {why}")));
        }
    }

    async fn wait_for_successor(&self, door: Door) {
        match door.serve(&self.runtime_dir, &self.house, &self.elders).await {
            Ok(()) => {
                self.house.standing.send_replace(Standing::Empty);
            }
            Err(why) => log::error!("this proxy cannot be upgraded, only restarted: {why}"),
        }
    }
}

#[async_trait]
impl BackgroundService for Handover {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let door = self.door.lock().unwrap_or_else(|e| e.into_inner()).take();
        let legacy = self.legacy.lock().unwrap_or_else(|e| e.into_inner()).take();
        let (owned, is_owned) = oneshot::channel();
        let wait = async {
            // An heir that fails drops it, and waits for nobody.
            if let (Ok(()), Some(door)) = (is_owned.await, door) {
                self.wait_for_successor(door).await;
            }
        };
        match legacy {
            Some(legacy) => {
                tokio::join!(self.take_over(legacy, owned), wait);
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
struct Lent {
    app: String,
    incarnation: Incarnation,
    active: u32,
    parked: u32,
}

impl Lent {
    /// More of one worker than a predecessor can have.
    const MOST: u32 = 100_000;

    fn leases(&self, status: &Status) -> Vec<Lease> {
        let worker = worker(status, &self.app, self.incarnation);
        let Some(member) = worker.and_then(|worker| worker.carried.member()) else { return Vec::new() };
        let leases = |count: u32, usage| {
            let member = member.clone();
            (0..count.min(Lent::MOST)).map(move |_| Lease::lent(member.clone(), usage))
        };
        leases(self.active, Use::Request).chain(leases(self.parked, Use::Parked)).collect()
    }
}

/// A tunnel that stands still.
pub(super) struct Tunnel(Box<dyn Paused>);

impl Frozen for Tunnel {
    fn portable(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
        self.0.to_transfer()
    }
}

#[async_trait]
impl Predecessor for House {
    type Frozen = Tunnel;

    fn objection(&self, pid: Option<u32>) -> Option<String> {
        self.peers.objection(pid, "handoff.sock")
    }

    async fn freeze(&self) -> Result<Given, String> {
        let estate = self.control.freeze().await?;
        let copy =
            |(name, fd): (String, Arc<OwnedFd>)| -> io::Result<_> { Ok((name, fd.as_fd().try_clone_to_owned()?)) };
        let given = || -> Result<Given, String> {
            let estate = serde_json::to_value(&estate).map_err(|e| format!("what is known of the workers: {e}"))?;
            let sockets = self.doors.sockets.export().into_iter().map(copy).collect::<io::Result<_>>();
            let sockets = sockets.map_err(|e| format!("copying the listening sockets: {e}"))?;
            Ok(Given { estate, lock: self.control.lock()?, sockets })
        };
        match given() {
            Ok(given) => Ok(given),
            Err(why) => {
                self.control.thaw().await;
                Err(why)
            }
        }
    }

    async fn dismiss(&self) {
        self.control.dismiss().await;
    }

    async fn pack(&self) -> Packed<Tunnel> {
        // First, since nobody waits for it: tunnels are to stand still as shortly as can be.
        let output = self.control.hush().await;
        let tunnels = self.front.pause_tunnels(STOP).await;
        Packed { tunnels: tunnels.into_iter().map(Tunnel).collect(), output: serde_json::json!(output) }
    }

    async fn thaw(&self, tunnels: Vec<Tunnel>) {
        tunnels.into_iter().for_each(|tunnel| tunnel.0.resume());
        self.control.thaw().await;
    }

    fn lent(&self) -> Value {
        let status = self.control.status();
        let worker = |app: &Arc<str>, worker: &WorkerStatus| Lent {
            app: app.to_string(),
            incarnation: worker.incarnation,
            active: worker.carried.active(),
            parked: worker.carried.parked(),
        };
        let of = |app: &AppStatus| app.workers.iter().map(|w| worker(&app.name, w)).collect::<Vec<_>>();
        let lent = status.apps.iter().flat_map(of).filter(|lent| lent.active + lent.parked > 0);
        serde_json::json!(lent.collect::<Vec<_>>())
    }

    async fn cede(&self, successor: u32) -> Ceded {
        notify::main_pid(successor);
        if let Err(why) = process::init::succeeded_by(successor) {
            log::error!("{why}");
        }
        let (give, mut given) = mpsc::channel(LATE);
        self.front.set_phase(Phase::Migrating(give));
        self.doors.traffic.close();
        self.doors.own.close();
        self.standing.send_replace(Standing::Ceded(successor));
        self.control.cede().await;
        let (late, late_out) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(ConnectionTransfer { bytes, fds }) = given.recv().await {
                if late.send(Parcel { bytes, fds }).await.is_err() {
                    return;
                }
            }
        });
        let house = self.clone();
        let finished = tokio::spawn(async move { house.finish().await });
        Ceded { late: late_out, finished }
    }
}

impl House {
    /// Lets what is still open here end. Afterwards nothing can come late.
    async fn finish(&self) {
        self.doors.traffic.closed().await;
        self.doors.own.closed().await;
        // As long as we had them, too, clients of a successor that is killed would wait at them, and nobody could start another.
        self.doors.sockets.release();
        // The successor's, unless it takes commands elsewhere.
        self.admin.iter().for_each(|socket| sockets::remove_path(socket));
        let max_drain = self.policy.load().max_drain;
        if tokio::time::timeout(max_drain, self.front.emptied()).await.is_err() {
            let left = self.front.connections().load(std::sync::atomic::Ordering::Relaxed);
            log::warn!("{left} connections are left after {max_drain:?} (max_drain) and end now");
            self.front.set_phase(Phase::Draining);
            let status = self.control.status();
            let workers = status.apps.iter().flat_map(|app| &app.workers);
            workers
                .for_each(|worker| worker.carried.close_tunnels(Closing { code: SERVICE_RESTART, window: FAREWELL }));
            let _ = tokio::time::timeout(2 * FAREWELL, self.front.emptied()).await;
        }
        self.front.set_phase(Phase::Draining);
    }
}

/// Tells the supervisor, then the wait for the next successor, that everything is ours.
type Commit = (oneshot::Sender<Vec<Partial>>, oneshot::Sender<()>);

/// The heir's side: waits for the supervisor, then opens what is open.
struct Next {
    house: House,
    bound: AsyncMutex<Option<oneshot::Receiver<()>>>,
    ready: AsyncMutex<Option<oneshot::Receiver<Result<(), String>>>>,
    commit: Mutex<Option<Commit>>,
    settle: mpsc::Sender<Settle>,
    /// What former processes still have, so that workers are not stopped under them.
    lent: Mutex<BTreeMap<u32, Vec<Lease>>>,
}

const ENDED: &str = "the supervisor has ended, see the log of this process";

#[async_trait]
impl Successor for Next {
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

    async fn prepare(&self, tunnels: Vec<Parcel>) {
        // Its receiver lives as long as the front's service.
        let _ = self.settle.send(Settle::Still(tunnels)).await;
    }

    async fn own(&self, output: Value) {
        let Some((commit, owned)) = self.commit.lock().unwrap_or_else(|e| e.into_inner()).take() else { return };
        let partials = match output {
            Value::Null => Vec::new(),
            output => serde_json::from_value(output).unwrap_or_else(|e| {
                log::error!("lines that had begun are lost: {e}");
                Vec::new()
            }),
        };
        // First of all those that stand still.
        let _ = self.settle.send(Settle::GoOn).await;
        self.house.doors.traffic.open();
        // A worker whose tunnels are not counted yet could be stopped under them.
        self.settled().await;
        let _ = commit.send(partials);
        self.house.doors.own.open();
        sockets::take_pid_file(&self.house.pid_file);
        self.house.standing.send_replace(Standing::Owner);
        let _ = owned.send(());
        log::info!("took over; listening");
    }

    fn lend(&self, pid: u32, lent: Value) {
        let lent: Vec<Lent> = serde_json::from_value(lent).unwrap_or_default();
        let status = self.house.control.status();
        let leases = lent.iter().flat_map(|lent| lent.leases(&status)).collect();
        // The old ones go when the new ones are there.
        drop(self.lent.lock().unwrap_or_else(|e| e.into_inner()).insert(pid, leases));
    }

    async fn settle(&self, parcels: Vec<Parcel>) {
        let _ = self.settle.send(Settle::Moving(parcels)).await;
    }
}

impl Next {
    async fn settled(&self) {
        let (done, is_done) = oneshot::channel();
        if self.settle.send(Settle::Done(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

/// The estate, as it came.
pub(super) fn estate(value: Value) -> Result<Estate, Error> {
    serde_json::from_value(value).map_err(|e| Error(format!("what the predecessor knows is not understood: {e}")))
}
