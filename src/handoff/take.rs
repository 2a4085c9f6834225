//! The successor's part.

use super::elders::{Elder, Elders};
use super::message::Message;
use super::wire::{Channel, Frame, Parcel};
use super::{CANDIDATE, Error, SOCKET, fault};
use crate::process::Other;
use async_trait::async_trait;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What comes first, before anything of the successor runs.
#[derive(Debug)]
pub(crate) struct Inheritance {
    pub(crate) estate: Value,
    pub(crate) lock: OwnedFd,
    pub(crate) sockets: Vec<(String, OwnedFd)>,
    pub(crate) taken: Taken,
}

/// The conversation, to be gone on with in the runtime of the successor.
#[derive(Debug)]
pub(crate) struct Taken {
    stream: UnixStream,
    predecessor: u32,
}

/// What is to own everything.
#[async_trait]
pub(crate) trait Successor: Send + Sync + 'static {
    /// Ends once the control socket is ours.
    async fn bound(&self) -> Result<(), String>;

    /// Ends once the workers are seen and answer.
    async fn ready(&self) -> Result<(), String>;

    /// Tunnels that stand still: all is made ready for them, and nothing is read from them or written, until
    /// [`own`](Successor::own). Dropping them all is no end for them.
    async fn prepare(&self, tunnels: Vec<Parcel>);

    /// From here on everything is ours, what was prepared goes on. `output` is what the predecessor had in hand of the
    /// workers' lines; null when it died.
    async fn own(&self, output: Value);

    /// What of the workers a former process still uses, for requests that it finishes; null when nothing any more.
    fn lend(&self, pid: u32, lent: Value);

    /// Connections that came late.
    async fn settle(&self, parcels: Vec<Parcel>);
}

/// Waits as a candidate until the predecessor begins, and takes what comes first. Blocks, and leaves no thread behind:
/// the process may still fork.
///
/// # Errors
/// There is no predecessor, it speaks another protocol, or it never began.
pub(crate) fn take(dir: &Path) -> Result<Inheritance, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error(format!("no runtime: {e}")))?;
    runtime.block_on(begin(dir))
}

async fn begin(dir: &Path) -> Result<Inheritance, Error> {
    let path = dir.join(SOCKET);
    let stream = tokio::net::UnixStream::connect(&path).await.map_err(|e| {
        let path = path.display();
        Error(format!(
            "no proxy to take over from at {path}: {e}; start without -u, or see that runtime_dir is the same"
        ))
    })?;
    let mut channel = Channel::new(stream);
    let peer = channel.peer().map_err(|e| Error(format!("the predecessor has no credentials: {e}")))?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() != own {
        return Err(Error(format!("the process at {} is of user {}, not of ours ({own})", path.display(), peer.uid())));
    }
    fault::before("hello").await.map_err(Error)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    channel.say(&Message::Hello { protocol: fault::protocol(), version, pid: std::process::id() }).await?;
    let predecessor = match channel.hear().await? {
        Frame::Message(Message::Welcome { version, pid }, _) => {
            log::info!("waiting to take over from process {pid}, version {version} (SIGQUIT to it begins)");
            pid
        }
        Frame::Message(Message::Refused { reason }, _) => return Err(Error(format!("refused: {reason}"))),
        _ => return Err(Error("the predecessor does not answer as one".into())),
    };
    let begun = channel.hear_within(CANDIDATE).await;
    let (estate, names, mut fds) = match begun {
        Ok(Frame::Message(Message::Estate { estate, sockets }, fds)) => (estate, sockets, fds.into_iter()),
        Ok(Frame::Message(Message::Refused { reason }, _)) => return Err(Error(format!("refused: {reason}"))),
        Ok(Frame::End) => return Err(Error(format!("process {predecessor} ended the conversation before it began"))),
        Ok(_) => return Err(Error("the predecessor said something else than its estate".into())),
        Err(e) => return Err(Error(format!("process {predecessor} did not begin to hand over: {e}"))),
    };
    let lock = fds.next().ok_or_else(|| Error("the estate came without the lock".into()))?;
    let sockets: Vec<_> = names.into_iter().zip(fds).collect();
    if let Err(reason) = fault::before("estate").await {
        channel.say(&Message::Refused { reason: reason.clone() }).await?;
        return Err(Error(reason));
    }
    let stream = channel.into_std().map_err(|e| Error(format!("the conversation is lost: {e}")))?;
    Ok(Inheritance { estate, lock, sockets, taken: Taken { stream, predecessor } })
}

/// What came after the estate; all of it, unless the predecessor died.
#[derive(Default)]
struct Got {
    output: Value,
    lent: Value,
    tunnels: usize,
}

impl Taken {
    /// How to say no before the conversation goes on.
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal(self.stream.try_clone().ok())
    }

    /// Goes on until everything is ours; from then on `elders` take in what comes late. `Err`: nothing is ours, and nothing
    /// was touched.
    pub(crate) async fn go_on<S: Successor>(self, heir: &Arc<S>, elders: &Elders) -> Result<(), Error> {
        let failed = |e: std::io::Error| Error(format!("the conversation is lost: {e}"));
        let predecessor = Other::open(self.predecessor)
            .map_err(|e| Error(format!("process {} cannot be watched: {e}", self.predecessor)))?;
        let mut channel = Channel::from_std(self.stream).map_err(failed)?;
        let mut got = Got::default();
        let lives = prepare(&mut channel, heir.as_ref(), predecessor.as_ref(), &mut got).await?;
        let Got { output, lent, .. } = got;
        let pid = self.predecessor;
        if !lives {
            log::warn!("process {pid} died while it handed over; taking over what it had");
            heir.own(output).await;
            return Ok(());
        }
        // Before anything is decided here.
        heir.lend(pid, lent.clone());
        heir.own(output).await;
        elders.listen(Elder { pid, channel, lent }, heir.clone());
        Ok(())
    }
}

/// Says why this process cannot go on, before its runtime has begun.
#[derive(Debug)]
pub(crate) struct Refusal(Option<UnixStream>);

impl Refusal {
    pub(crate) fn say(self, reason: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (Ok(runtime), Some(stream)) = (runtime, self.0) else { return };
        runtime.block_on(async {
            if let Ok(mut channel) = Channel::from_std(stream) {
                // The end of the conversation says no as well.
                let _ = channel.say(&Message::Refused { reason: reason.to_owned() }).await;
            }
        });
    }
}

/// Until everything is ours; tells whether the predecessor lives. `Err`: a step of ours fails, or it says no.
async fn prepare<S: Successor>(
    channel: &mut Channel,
    heir: &S,
    predecessor: Option<&Other>,
    got: &mut Got,
) -> Result<bool, Error> {
    let why = match converse(channel, heir, got).await {
        Ok(()) => return Ok(true),
        Err(Ended::Refused(why)) => {
            let _ = channel.say(&Message::Refused { reason: why.to_string() }).await;
            return Err(why);
        }
        Err(Ended::Lost(why)) => why,
    };
    // Dead, or just done with us?
    let dead = match predecessor {
        Some(process) => process.ended(Duration::from_millis(500)).await,
        None => true,
    };
    if !dead {
        return Err(why);
    }
    // Steps that were not done yet need no order any more.
    heir.bound().await.map_err(Error)?;
    heir.ready().await.map_err(Error)?;
    Ok(false)
}

enum Ended {
    /// We cannot, or the predecessor told us not to.
    Refused(Error),
    /// Nothing more comes.
    Lost(Error),
}

async fn converse<S: Successor>(channel: &mut Channel, heir: &S, got: &mut Got) -> Result<(), Ended> {
    let refused = |why: String| Ended::Refused(Error(why));
    heir.bound().await.map_err(refused)?;
    fault::before("bound").await.map_err(refused)?;
    channel.say(&Message::Bound { pid: std::process::id() }).await.map_err(Ended::Lost)?;
    heir.ready().await.map_err(refused)?;
    fault::before("ready").await.map_err(refused)?;
    channel.say(&Message::Ready).await.map_err(Ended::Lost)?;
    fault::before("tunnels").await.map_err(refused)?;
    loop {
        match channel.hear().await.map_err(Ended::Lost)? {
            Frame::Parcels(parcels) => {
                got.tunnels += parcels.len();
                heir.prepare(parcels).await;
            }
            Frame::Message(Message::Commit { parcels, output, lent }, _) if parcels == got.tunnels => {
                (got.output, got.lent) = (output, lent);
                fault::before("commit").await.map_err(refused)?;
                let Err(why) = channel.say(&Message::Committed).await else { return Ok(()) };
                // It does not wait any longer, and says why, or it has died.
                return Err(match channel.hear().await {
                    Ok(Frame::Message(Message::Refused { reason }, _)) => refused(reason),
                    _ => Ended::Lost(why),
                });
            }
            Frame::Message(Message::Commit { parcels, .. }, _) => {
                return Err(refused(format!("{} connections came of {parcels}", got.tunnels)));
            }
            Frame::Message(Message::Refused { reason }, _) => return Err(refused(reason)),
            Frame::Message(message, _) => return Err(refused(format!("{} was said out of turn", message.name()))),
            Frame::End => return Err(Ended::Lost(Error("the predecessor ended the conversation".into()))),
        }
    }
}
