//! The predecessor's part.

use super::elders::{Elder, Elders};
use super::message::Message;
use super::wire::{Channel, Frame, Parcel};
use super::{Error, LEAVE, STILL, step_limit};
use crate::process::{Other, init};
use async_trait::async_trait;
use serde_json::Value;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What owns everything now, and can let it go.
#[async_trait]
pub(crate) trait Predecessor: Send + Sync + 'static {
    type Frozen: Frozen;

    /// Why this process may not be a successor, whatever it says. `None` as its number: of another PID namespace.
    fn objection(&self, pid: Option<u32>) -> Option<String>;

    /// From now on nothing is started or stopped, until [`thaw`](Predecessor::thaw) or
    /// [`cede`](Predecessor::cede). An error leaves everything as it was.
    async fn freeze(&self) -> Result<Given, String>;

    /// Ends the workers' control connections, so that they dial whoever is at the control socket now.
    async fn dismiss(&self);

    /// Stops whatever moves bytes, and says where it stands.
    async fn pack(&self) -> Packed<Self::Frozen>;

    /// Everything goes on here as if nothing had been.
    async fn thaw(&self, tunnels: Vec<Self::Frozen>);

    /// What requests that are finished here still use of the workers.
    fn lent(&self) -> Value;

    /// The successor has it all.
    async fn cede(&self, successor: u32) -> Ceded;
}

/// What is left here.
pub(crate) struct Ceded {
    /// What still opens here, for the successor; ends when nothing more can come.
    pub(crate) late: mpsc::Receiver<Parcel>,
    /// Ends when nothing is left.
    pub(crate) finished: JoinHandle<()>,
}

/// What the successor needs to begin.
#[derive(Debug)]
pub(crate) struct Given {
    /// What is known of the workers.
    pub(crate) estate: Value,
    /// Of the runtime directory.
    pub(crate) lock: OwnedFd,
    /// Everything that listens, by address.
    pub(crate) sockets: Vec<(String, OwnedFd)>,
}

/// What stood still for the successor.
#[derive(Debug)]
pub(crate) struct Packed<F> {
    pub(crate) tunnels: Vec<F>,
    /// Partial lines of the workers' output.
    pub(crate) output: Value,
}

/// An open connection that stands still.
pub(crate) trait Frozen: Send + Sync {
    /// Its state and its sockets.
    fn portable(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>);
}

/// Gives everything to the successor at the other end, or takes everything up again. Tells its process id as it is now.
pub(super) async fn give<P: Predecessor>(channel: &mut Channel, pid: u32, owner: &P) -> Result<(u32, Ceded), Error> {
    // Who cannot be watched could still touch what is taken up again.
    let process = watched(pid)?;
    let mut given = owner.freeze().await.map_err(Error)?;
    let mut giving = Giving { channel, process, pid, committing: false };
    let mut tunnels = Vec::new();
    match giving.attempt(owner, &mut given, &mut tunnels).await {
        Ok(()) => Ok((giving.pid, owner.cede(giving.pid).await)),
        Err(why) => {
            giving.end_successor(&why).await;
            owner.thaw(tunnels).await;
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
    /// It may own everything, for all we know.
    committing: bool,
}

impl Giving<'_> {
    async fn attempt<P: Predecessor>(
        &mut self,
        owner: &P,
        given: &mut Given,
        tunnels: &mut Vec<P::Frozen>,
    ) -> Result<(), Error> {
        self.promise();
        let names = given.sockets.iter().map(|(name, _)| name.clone()).collect();
        let estate = Message::Estate { estate: given.estate.take(), sockets: names };
        let sockets = given.sockets.iter().map(|(_, socket)| socket.as_fd());
        let fds: Vec<_> = std::iter::once(given.lock.as_fd()).chain(sockets).collect();
        self.channel.say_with(&estate, &fds).await?;
        drop(estate);
        self.expect("bound").await?;
        owner.dismiss().await;
        self.expect("ready").await?;
        let packed = owner.pack().await;
        *tunnels = packed.tunnels;
        let portable = tunnels.iter().map(Frozen::portable);
        let parcels = self.channel.send_parcels(portable).await?;
        let lent = owner.lent();
        self.channel.say(&Message::Commit { parcels, output: packed.output, lent }).await?;
        self.committing = true;
        self.expect("committed").await
    }

    /// From the estate on the successor can go on without us, which it may only if its container does.
    fn promise(&self) {
        if let Err(why) = init::promise_to(self.pid) {
            log::warn!("{why}");
        }
    }

    async fn expect(&mut self, wanted: &'static str) -> Result<(), Error> {
        let limit = if self.committing { STILL.min(step_limit()) } else { step_limit() };
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
            Frame::Parcels(_) => Err(Error(format!("the successor sent connections instead of {wanted}"))),
            Frame::End => Err(Error(format!("the successor ended before it said {wanted}; its own log says why"))),
        }
    }

    /// Nothing may be taken up again while the successor could still touch it.
    async fn end_successor(&mut self, why: &Error) {
        let refusal = Message::Refused { reason: why.to_string() };
        let _ = timeout(LEAVE, self.channel.say(&refusal)).await;
        let Some(process) = &self.process else { return };
        if process.ended(LEAVE).await {
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
pub(super) async fn finish<P: Predecessor>(channel: &mut Channel, ceded: Ceded, owner: &P, elders: &Elders) {
    let Ceded { mut late, finished } = ceded;
    if let Err(e) = send_late(channel, &mut late, owner, elders).await {
        log::warn!("nothing more can go to the successor, what is left here is finished here: {e}");
    }
    // Where nobody takes them, connections end here.
    drop(late);
    let _ = finished.await;
}

async fn send_late<P: Predecessor>(
    channel: &mut Channel,
    late: &mut mpsc::Receiver<Parcel>,
    owner: &P,
    elders: &Elders,
) -> Result<(), Error> {
    for elder in elders.take().await {
        let Elder { pid, channel: theirs, lent } = elder;
        channel.say_with(&Message::Elder { pid, lent }, &[theirs.as_fd()]).await?;
    }
    const AT_ONCE: usize = 64;
    const LOOK: Duration = Duration::from_millis(100);
    let mut parcels = Vec::new();
    let mut look = tokio::time::interval(LOOK);
    let mut told = Value::Null;
    loop {
        let count = tokio::select! {
            count = late.recv_many(&mut parcels, AT_ONCE) => Some(count),
            _ = look.tick() => None,
        };
        match count {
            Some(0) => return Ok(()),
            Some(_) => {
                let borrowed = parcels.iter().map(|p| (p.bytes.clone(), p.fds.iter().map(AsFd::as_fd).collect()));
                channel.send_parcels(borrowed).await?;
                parcels.clear();
            }
            None => {
                let lent = owner.lent();
                if lent == told {
                    continue;
                }
                told = lent.clone();
                channel.say(&Message::Lent { lent }).await?;
            }
        }
    }
}
