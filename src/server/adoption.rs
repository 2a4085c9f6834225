//! Adopts the connections of a predecessor on the threads that serve connections.

use super::runtimes::Homes;
use crate::gateway::{Adopted, ProxyService};
use crate::process::ConnectionTransfer;
use crate::supervisor::{Control, Status, WorkerStatus};
use crate::worker::{Incarnation, WorkerId};
use rustix::net::getpeername;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Frames of connections that wait to be adopted.
pub(super) const QUEUE: usize = 16;

/// What to do with connections of a predecessor.
pub(super) enum Adopt {
    /// Prepare them; nothing is read or written until the next [`Adopt::Activate`].
    Stage(Vec<ConnectionTransfer>),
    Activate,
    /// Connections that came after the handoff: activate them at once.
    Late(Vec<ConnectionTransfer>),
    /// Answers when all before it is done.
    Barrier(oneshot::Sender<()>),
}

/// Adopts until nothing more can come.
pub(super) async fn adopt(front: ProxyService, control: Control, homes: Homes, mut connections: mpsc::Receiver<Adopt>) {
    // Of an app that is not configured any more, the supervisor alone knows the workers.
    let known = move |id: &WorkerId| {
        let status = control.status();
        let worker = worker(&status, &id.app, id.incarnation)?;
        worker.carried.member().cloned()
    };
    let adopt = Arc::new(move |ConnectionTransfer { bytes, fds }: ConnectionTransfer| {
        let adopted = front.adopt(&bytes, fds, &known);
        adopted.map_err(|why| log::error!("a connection of the predecessor is lost: {why}")).ok()
    });
    let (mut staged, mut late) = (Vec::new(), JoinSet::new());
    while let Some(next) = connections.recv().await {
        match next {
            // On all threads: while tunnels are paused, time is what counts.
            Adopt::Stage(connections) => staged.extend(homes.deal(connections, client).into_iter().map(|part| {
                let (home, connections, promise) = part.open();
                let adopt = adopt.clone();
                let all = async move { connections.into_iter().filter_map(&*adopt).collect::<Vec<_>>() };
                (home.spawn(all), promise)
            })),
            Adopt::Activate => {
                for (adopted, promise) in std::mem::take(&mut staged) {
                    match adopted.await {
                        Ok(adopted) => adopted.into_iter().for_each(Adopted::activate),
                        Err(why) => log::error!("connections of the predecessor are lost: {why}"),
                    }
                    drop(promise);
                }
            }
            Adopt::Late(connections) => {
                while late.try_join_next().is_some() {}
                for part in homes.deal(connections, client) {
                    let (home, connections, promise) = part.open();
                    let adopt = adopt.clone();
                    let all = async move {
                        connections.into_iter().filter_map(&*adopt).for_each(Adopted::activate);
                        drop(promise);
                    };
                    late.spawn_on(all, &home);
                }
            }
            Adopt::Barrier(done) => {
                while late.join_next().await.is_some() {}
                let _ = done.send(());
            }
        }
    }
}

/// Whose connection it is.
fn client(connection: &ConnectionTransfer) -> Option<IpAddr> {
    let peer = getpeername(connection.fds.first()?).ok()??;
    SocketAddr::try_from(peer).ok().map(|peer| peer.ip())
}

pub(super) fn worker<'a>(status: &'a Status, app: &str, incarnation: Incarnation) -> Option<&'a WorkerStatus> {
    let app = status.apps.iter().find(|one| *one.name == *app)?;
    app.workers.iter().find(|worker| worker.incarnation == incarnation)
}
