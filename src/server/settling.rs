//! Where connections are served, what another process gave away goes on.

use super::runtimes::Homes;
use crate::gateway::{Adopted, ProxyService};
use crate::handoff::Parcel;
use crate::supervisor::{Control, Status, WorkerStatus};
use crate::worker::{Incarnation, WorkerId};
use rustix::net::getpeername;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Frames of parcels that wait to be settled.
pub(super) const WAITING: usize = 16;

/// What is to be done where connections are served.
pub(super) enum Settle {
    /// They stand still until the next [`Settle::GoOn`].
    Still(Vec<Parcel>),
    GoOn,
    Moving(Vec<Parcel>),
    /// Says that all before it is done.
    Done(oneshot::Sender<()>),
}

/// Goes on with what another process gave away. Ends when nothing more can come.
pub(super) async fn settle(front: ProxyService, control: Control, homes: Homes, mut parcels: mpsc::Receiver<Settle>) {
    // Of an app that is not configured any more, the supervisor alone knows the workers.
    let known = move |id: &WorkerId| {
        let status = control.status();
        let worker = worker(&status, &id.app, id.incarnation)?;
        worker.carried.member().cloned()
    };
    let adopt = Arc::new(move |Parcel { bytes, fds }: Parcel| {
        let adopted = front.adopt(&bytes, fds, &known);
        adopted.map_err(|why| log::error!("a connection of the predecessor is lost: {why}")).ok()
    });
    let (mut still, mut moving) = (Vec::new(), JoinSet::new());
    while let Some(next) = parcels.recv().await {
        match next {
            // On all threads: while tunnels stand still, time is what counts.
            Settle::Still(parcels) => still.extend(homes.deal(parcels, client).into_iter().map(|part| {
                let (home, parcels, promise) = part.open();
                let adopt = adopt.clone();
                let all = async move { parcels.into_iter().filter_map(&*adopt).collect::<Vec<_>>() };
                (home.spawn(all), promise)
            })),
            Settle::GoOn => {
                for (adopted, promise) in std::mem::take(&mut still) {
                    match adopted.await {
                        Ok(adopted) => adopted.into_iter().for_each(Adopted::activate),
                        Err(why) => log::error!("connections of the predecessor are lost: {why}"),
                    }
                    drop(promise);
                }
            }
            Settle::Moving(parcels) => {
                while moving.try_join_next().is_some() {}
                for part in homes.deal(parcels, client) {
                    let (home, parcels, promise) = part.open();
                    let adopt = adopt.clone();
                    let all = async move {
                        parcels.into_iter().filter_map(&*adopt).for_each(Adopted::activate);
                        drop(promise);
                    };
                    moving.spawn_on(all, &home);
                }
            }
            Settle::Done(done) => {
                while moving.join_next().await.is_some() {}
                let _ = done.send(());
            }
        }
    }
}

/// Whose connection it is.
fn client(parcel: &Parcel) -> Option<IpAddr> {
    let peer = getpeername(parcel.fds.first()?).ok()??;
    SocketAddr::try_from(peer).ok().map(|peer| peer.ip())
}

pub(super) fn worker<'a>(status: &'a Status, app: &str, incarnation: Incarnation) -> Option<&'a WorkerStatus> {
    let app = status.apps.iter().find(|one| *one.name == *app)?;
    app.workers.iter().find(|worker| worker.incarnation == incarnation)
}
