//! Where connections are served, what another process gave away goes on.

use crate::gateway::{Adopted, ProxyService};
use crate::handoff::Parcel;
use crate::supervisor::{Control, Status, WorkerStatus};
use crate::worker::{Incarnation, WorkerId};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

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
pub(super) async fn settle(front: ProxyService, control: Control, mut parcels: mpsc::Receiver<Settle>) {
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
    let mut still = Vec::new();
    while let Some(next) = parcels.recv().await {
        match next {
            Settle::Still(parcels) => {
                let adopt = adopt.clone();
                // On all threads: while tunnels stand still, time is what counts.
                let all = async move { parcels.into_iter().filter_map(&*adopt).collect::<Vec<_>>() };
                still.push(pingora_runtime::current_handle().spawn(all));
            }
            Settle::GoOn => {
                for adopted in std::mem::take(&mut still) {
                    match adopted.await {
                        Ok(adopted) => adopted.into_iter().for_each(Adopted::activate),
                        Err(why) => log::error!("connections of the predecessor are lost: {why}"),
                    }
                }
            }
            Settle::Moving(parcels) => parcels.into_iter().filter_map(&*adopt).for_each(Adopted::activate),
            Settle::Done(done) => drop(done.send(())),
        }
    }
}

pub(super) fn worker<'a>(status: &'a Status, app: &str, incarnation: Incarnation) -> Option<&'a WorkerStatus> {
    let app = status.apps.iter().find(|one| *one.name == *app)?;
    app.workers.iter().find(|worker| worker.incarnation == incarnation)
}
