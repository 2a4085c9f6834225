//! The predecessor's part.

use super::message::Message;
use super::predecessors::{DrainingPredecessor, DrainingPredecessors};
use super::roles::{Capabilities, FirstPayload, PausedConnection, Predecessor, Released};
use super::wire::{Channel, Frame};
use super::{COMMIT_TIMEOUT, Error, SUCCESSOR_EXIT_TIMEOUT, step_limit};
use crate::process::{ConnectionTransfer, Other, init};
use serde_json::Value;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Gives everything to the successor at the other end, or takes everything up again. Tells its process id as it is now.
pub(super) async fn give<P: Predecessor>(
    channel: &mut Channel,
    pid: u32,
    capabilities: Capabilities,
    owner: &P,
) -> Result<(u32, Released), Error> {
    // Who cannot be watched could still touch what is taken up again.
    let process = watched(pid)?;
    let mut given = owner.pause().await.map_err(Error)?;
    let mut giving = Giving { channel, process, pid, capabilities, committing: false };
    let mut tunnels = Vec::new();
    match giving.attempt(owner, &mut given, &mut tunnels).await {
        Ok(()) => Ok((giving.pid, owner.release(giving.pid).await)),
        Err(why) => {
            giving.end_successor(&why).await;
            owner.resume(tunnels).await;
            Err(why)
        }
    }
}

fn watched(pid: u32) -> Result<Option<Other>, Error> {
    Other::open(pid).map_err(|e| Error(format!("process {pid} cannot be watched: {e}")))
}

struct Giving<'a> {
    channel: &'a mut Channel,
    /// The successor; `None` when it is gone already.
    process: Option<Other>,
    pid: u32,
    capabilities: Capabilities,
    /// It may own everything, for all we know.
    committing: bool,
}

impl Giving<'_> {
    async fn attempt<P: Predecessor>(
        &mut self,
        owner: &P,
        given: &mut FirstPayload,
        tunnels: &mut Vec<P::PausedConnection>,
    ) -> Result<(), Error> {
        self.promise();
        let names = given.sockets.iter().map(|(name, _)| name.clone()).collect();
        let snapshot = Message::Snapshot { snapshot: given.snapshot.take(), sockets: names };
        let sockets = given.sockets.iter().map(|(_, socket)| socket.as_fd());
        let fds: Vec<_> = std::iter::once(given.lock.as_fd()).chain(sockets).collect();
        self.channel.say_with(&snapshot, &fds).await?;
        drop(snapshot);
        self.expect("bound").await?;
        owner.disconnect_workers().await;
        self.expect("ready").await?;
        if let Some(secret) = owner.secret().filter(|_| self.capabilities.secret) {
            self.channel.send_secret(&secret).await?;
        }
        let paused = owner.pause_connections(self.capabilities).await;
        *tunnels = paused.tunnels;
        let transfers = tunnels.iter().map(PausedConnection::to_transfer);
        let connections = self.channel.send_connections(transfers).await?;
        let in_use = owner.in_use();
        self.channel.say(&Message::Commit { connections, output: paused.output, in_use }).await?;
        self.committing = true;
        self.expect("committed").await
    }

    /// From the snapshot on the successor can go on without us, which it may only if its container does.
    fn promise(&self) {
        if let Err(why) = init::promise_to(self.pid) {
            log::warn!("{why}");
        }
    }

    async fn expect(&mut self, wanted: &'static str) -> Result<(), Error> {
        let limit = if self.committing { COMMIT_TIMEOUT.min(step_limit()) } else { step_limit() };
        let mut heard = self.channel.hear_within(limit).await;
        if self.committing && heard.is_err() {
            // It may say so at this very moment, or have done so while this process was held up.
            heard = match self.channel.last_word().await {
                Ok(Frame::End) => heard,
                last => last,
            };
        }
        match heard.map_err(|e| Error(format!("the successor did not say {wanted}: {e}")))? {
            Frame::Message(Message::Refused { reason }, _) => Err(Error(format!("the successor gave up: {reason}"))),
            Frame::Message(Message::Bound { pid }, _) if wanted == "bound" => {
                if pid != self.pid {
                    let process =
                        watched(pid)?.ok_or_else(|| Error(format!("there is no process {pid} to hand over to")))?;
                    (self.process, self.pid) = (Some(process), pid);
                    self.promise();
                }
                Ok(())
            }
            Frame::Message(message, _) if message.name() == wanted => Ok(()),
            Frame::Message(message, _) => {
                Err(Error(format!("the successor said {} instead of {wanted}", message.name())))
            }
            Frame::Connections(_) => Err(Error(format!("the successor sent connections instead of {wanted}"))),
            Frame::Secret(_) => Err(Error(format!("the successor sent keys instead of {wanted}"))),
            Frame::End => Err(Error(format!("the successor ended before it said {wanted}; its own log says why"))),
        }
    }

    /// Nothing may be taken up again while the successor could still touch it.
    async fn end_successor(&mut self, why: &Error) {
        let refusal = Message::Refused { reason: why.to_string() };
        let _ = timeout(SUCCESSOR_EXIT_TIMEOUT, self.channel.say(&refusal)).await;
        let Some(process) = &self.process else { return };
        if process.ended(SUCCESSOR_EXIT_TIMEOUT).await {
            return;
        }
        log::warn!("the successor, process {}, does not leave and is killed", self.pid);
        if let Err(e) = process.kill() {
            log::warn!("killing it: {e}");
        }
        if !process.ended(step_limit()).await {
            log::error!("the successor, process {}, is still there after SIGKILL", self.pid);
        }
    }
}

/// Passes on what comes late, and tells what is still used here, until nothing is left.
pub(super) async fn finish<P: Predecessor>(
    channel: &mut Channel,
    released: Released,
    owner: &P,
    predecessors: &DrainingPredecessors,
) {
    let Released { mut late, finished } = released;
    if let Err(e) = send_late(channel, &mut late, owner, predecessors).await {
        log::warn!("nothing more can go to the successor, what is left here is finished here: {e}");
    }
    // Where nobody takes them, connections end here.
    drop(late);
    let _ = finished.await;
}

async fn send_late<P: Predecessor>(
    channel: &mut Channel,
    late: &mut mpsc::Receiver<ConnectionTransfer>,
    owner: &P,
    predecessors: &DrainingPredecessors,
) -> Result<(), Error> {
    for predecessor in predecessors.take().await {
        let DrainingPredecessor { pid, channel: theirs, in_use } = predecessor;
        channel.say_with(&Message::DrainingPredecessor { pid, in_use }, &[theirs.as_fd()]).await?;
    }
    const MAX_BATCH: usize = 64;
    const IN_USE_INTERVAL: Duration = Duration::from_millis(100);
    let mut connections = Vec::new();
    let mut look = tokio::time::interval(IN_USE_INTERVAL);
    let mut told = Value::Null;
    loop {
        let count = tokio::select! {
            count = late.recv_many(&mut connections, MAX_BATCH) => Some(count),
            _ = look.tick() => None,
        };
        match count {
            Some(0) => return Ok(()),
            Some(_) => {
                let borrowed = connections.iter().map(|p| (p.bytes.clone(), p.fds.iter().map(AsFd::as_fd).collect()));
                channel.send_connections(borrowed).await?;
                connections.clear();
            }
            None => {
                let in_use = owner.in_use();
                if in_use == told {
                    continue;
                }
                told = in_use.clone();
                channel.say(&Message::InUse { in_use }).await?;
            }
        }
    }
}
