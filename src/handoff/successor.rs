//! The successor's part.

use super::message::Message;
use super::predecessors::{DrainingPredecessor, DrainingPredecessors};
use super::roles::{Capabilities, Successor};
use super::wire::{Channel, Frame};
use super::{CANDIDATE_TIMEOUT, Error, SOCKET, fault};
use crate::process::Other;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a successor gets first, before anything of it runs.
#[derive(Debug)]
pub(crate) struct Takeover {
    /// What the predecessor knows of the workers.
    pub(crate) snapshot: Value,
    pub(crate) lock: OwnedFd,
    pub(crate) sockets: Vec<(String, OwnedFd)>,
    pub(crate) client: HandoffClient,
}

/// The conversation, to be completed in the runtime of the successor.
#[derive(Debug)]
pub(crate) struct HandoffClient {
    stream: UnixStream,
    predecessor: u32,
}

/// Waits as a candidate until the predecessor begins, and takes what comes first. Blocks, and leaves no thread behind:
/// the process may still fork.
///
/// # Errors
/// There is no predecessor, it speaks another protocol, or it never began.
pub(crate) fn take_over(dir: &Path) -> Result<Takeover, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error(format!("no runtime: {e}")))?;
    runtime.block_on(begin(dir))
}

async fn begin(dir: &Path) -> Result<Takeover, Error> {
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
    let (pid, capabilities) = (std::process::id(), fault::capabilities(Capabilities::OWN).names());
    channel.say(&Message::Hello { protocol: fault::protocol(), version, pid, capabilities }).await?;
    let predecessor = match channel.hear().await? {
        Frame::Message(Message::Welcome { version, pid }, _) => {
            log::info!("waiting to take over from process {pid}, version {version} (SIGQUIT to it begins)");
            pid
        }
        Frame::Message(Message::Refused { reason }, _) => return Err(Error(format!("refused: {reason}"))),
        _ => return Err(Error("the predecessor does not answer as one".into())),
    };
    let begun = channel.hear_within(CANDIDATE_TIMEOUT).await;
    let (snapshot, names, mut fds) = match begun {
        Ok(Frame::Message(Message::Snapshot { snapshot, sockets }, fds)) => (snapshot, sockets, fds.into_iter()),
        Ok(Frame::Message(Message::Refused { reason }, _)) => return Err(Error(format!("refused: {reason}"))),
        Ok(Frame::End) => return Err(Error(format!("process {predecessor} ended the conversation before it began"))),
        Ok(_) => return Err(Error("the predecessor said something else than its snapshot".into())),
        Err(e) => return Err(Error(format!("process {predecessor} did not begin to hand over: {e}"))),
    };
    let lock = fds.next().ok_or_else(|| Error("the snapshot came without the lock".into()))?;
    let sockets: Vec<_> = names.into_iter().zip(fds).collect();
    if let Err(reason) = fault::before("snapshot").await {
        channel.say(&Message::Refused { reason: reason.clone() }).await?;
        return Err(Error(reason));
    }
    let stream = channel.into_std().map_err(|e| Error(format!("the conversation is lost: {e}")))?;
    Ok(Takeover { snapshot, lock, sockets, client: HandoffClient { stream, predecessor } })
}

/// What came after the snapshot; all of it, unless the predecessor died.
#[derive(Default)]
struct Received {
    output: Value,
    in_use: Value,
    tunnels: usize,
}

impl HandoffClient {
    /// How to say no before the conversation goes on.
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal(self.stream.try_clone().ok())
    }

    /// Goes on until everything is ours; from then on `predecessors` take in what comes late. `Err`: nothing is ours, and nothing
    /// was touched.
    pub(crate) async fn complete<S: Successor>(
        self,
        successor: &Arc<S>,
        predecessors: &DrainingPredecessors,
    ) -> Result<(), Error> {
        let failed = |e: std::io::Error| Error(format!("the conversation is lost: {e}"));
        let predecessor = Other::open(self.predecessor)
            .map_err(|e| Error(format!("process {} cannot be watched: {e}", self.predecessor)))?;
        let mut channel = Channel::from_std(self.stream).map_err(failed)?;
        let mut received = Received::default();
        let lives = stage(&mut channel, successor.as_ref(), predecessor.as_ref(), &mut received).await?;
        let Received { output, in_use, .. } = received;
        let pid = self.predecessor;
        if !lives {
            log::warn!("process {pid} died while it handed over; taking over what it had");
            successor.take_ownership(output).await;
            return Ok(());
        }
        // Before anything is decided here.
        successor.report_in_use(pid, in_use.clone());
        successor.take_ownership(output).await;
        predecessors.listen(DrainingPredecessor { pid, channel, in_use }, successor.clone());
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
async fn stage<S: Successor>(
    channel: &mut Channel,
    successor: &S,
    predecessor: Option<&Other>,
    received: &mut Received,
) -> Result<bool, Error> {
    let why = match converse(channel, successor, received).await {
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
    successor.bound().await.map_err(Error)?;
    successor.ready().await.map_err(Error)?;
    Ok(false)
}

enum Ended {
    /// We cannot, or the predecessor told us not to.
    Refused(Error),
    /// Nothing more comes.
    Lost(Error),
}

async fn converse<S: Successor>(channel: &mut Channel, successor: &S, received: &mut Received) -> Result<(), Ended> {
    let refused = |why: String| Ended::Refused(Error(why));
    successor.bound().await.map_err(refused)?;
    fault::before("bound").await.map_err(refused)?;
    channel.say(&Message::Bound { pid: std::process::id() }).await.map_err(Ended::Lost)?;
    successor.ready().await.map_err(refused)?;
    fault::before("ready").await.map_err(refused)?;
    channel.say(&Message::Ready).await.map_err(Ended::Lost)?;
    fault::before("tunnels").await.map_err(refused)?;
    loop {
        match channel.hear().await.map_err(Ended::Lost)? {
            Frame::Connections(connections) => {
                received.tunnels += connections.len();
                successor.stage(connections).await;
            }
            Frame::Secret(secret) => successor.take_secret(secret),
            Frame::Message(Message::Commit { connections, output, in_use }, _) if connections == received.tunnels => {
                (received.output, received.in_use) = (output, in_use);
                fault::before("commit").await.map_err(refused)?;
                let Err(why) = channel.say(&Message::Committed).await else { return Ok(()) };
                // It does not wait any longer, and says why, or it has died.
                return Err(match channel.hear().await {
                    Ok(Frame::Message(Message::Refused { reason }, _)) => refused(reason),
                    _ => Ended::Lost(why),
                });
            }
            Frame::Message(Message::Commit { connections, .. }, _) => {
                return Err(refused(format!("{} connections came of {connections}", received.tunnels)));
            }
            Frame::Message(Message::Refused { reason }, _) => return Err(refused(reason)),
            Frame::Message(message, _) => return Err(refused(format!("{} was said out of turn", message.name()))),
            Frame::End => return Err(Ended::Lost(Error("the predecessor ended the conversation".into()))),
        }
    }
}
