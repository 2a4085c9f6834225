//! Where successors knock.

use super::message::Message;
use super::predecessor::{finish, give};
use super::predecessors::DrainingPredecessors;
use super::roles::{Capabilities, Predecessor};
use super::wire::{Channel, Frame};
use super::{Error, PROTOCOL, SOCKET};
use crate::process::Renewal;
use crate::process::program::trusted_process;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// From connect to hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For the hello of one that is refused whatever it says.
const REFUSED_HELLO_TIMEOUT: Duration = Duration::from_millis(100);
/// Connections that have not said hello yet.
const MAX_UNGREETED: usize = 8;

/// Between two looks whether the socket is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A successor that waits.
struct Candidate {
    pid: u32,
    version: String,
    capabilities: Capabilities,
    channel: Channel,
}

type Begin = oneshot::Sender<Result<u32, Error>>;

/// Serves [`SOCKET`].
pub(crate) struct HandoffServer {
    begin: mpsc::Receiver<Begin>,
    candidate: watch::Sender<Option<u32>>,
}

/// Asks for the handoff to begin. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HandoffTrigger {
    begin: mpsc::Sender<Begin>,
    candidate: watch::Receiver<Option<u32>>,
}

impl HandoffTrigger {
    /// Hands over to the successor that waits; returns its process id once it owns everything.
    ///
    /// # Errors
    /// Nobody waits, a handoff is under way, or why it failed: everything goes on here then.
    pub(crate) async fn hand_over(&self) -> Result<u32, Error> {
        let (reply, outcome) = oneshot::channel();
        self.begin.try_send(reply).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::new("a handoff is under way"),
            mpsc::error::TrySendError::Closed(_) => Error::new("this proxy cannot hand over now"),
        })?;
        outcome.await.map_err(|_| Error::new("this proxy cannot hand over now"))?
    }

    /// The successor that waits now.
    pub(crate) fn waiting(&self) -> Option<u32> {
        *self.candidate.borrow()
    }

    /// Ends once this process waits as successor.
    pub(crate) async fn waits(&self, pid: u32) {
        let mut candidate = self.candidate.clone();
        if candidate.wait_for(|waiting| *waiting == Some(pid)).await.is_err() {
            std::future::pending().await
        }
    }
}

impl HandoffServer {
    pub(crate) fn new() -> (HandoffServer, HandoffTrigger) {
        let (begin, begin_out) = mpsc::channel(1);
        let (candidate, candidate_out) = watch::channel(None);
        (HandoffServer { begin: begin_out, candidate }, HandoffTrigger { begin, candidate: candidate_out })
    }

    /// Serves until everything was handed over, `predecessors` too, and nothing is left here.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub(crate) async fn serve<P: Predecessor>(
        self,
        dir: &Path,
        owner: &P,
        predecessors: &DrainingPredecessors,
    ) -> Result<(), Error> {
        let mut listener = bind(dir).map_err(|e| Error(format!("binding {}: {e}", dir.join(SOCKET).display())))?;
        let HandoffServer { mut begin, candidate: shown } = self;
        let mut candidate: Option<Candidate> = None;
        let mut ungreeted = JoinSet::new();
        let mut renewal = Renewal::new(dir, dir.join(SOCKET));
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            shown.send_if_modified(|pid| std::mem::replace(pid, candidate.as_ref().map(|c| c.pid)) != *pid);
            tokio::select! {
                accepted = listener.accept(), if ungreeted.len() < MAX_UNGREETED => match accepted {
                    Ok((stream, _)) => {
                        let channel = Channel::new(stream);
                        let against = channel.peer().ok().and_then(|peer| owner.objection(number(peer.pid())));
                        drop(ungreeted.spawn(greet(channel, against)));
                    }
                    Err(e) => {
                        log::error!("handoff: cannot accept: {e}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                Some(greeted) = ungreeted.join_next() => {
                    if let Ok(Some(new)) = greeted {
                        welcome(new, &mut candidate).await;
                    }
                }
                _ = look.tick() => {
                    match renewal.renew(|| bind(dir)) {
                        Some(Ok(anew)) => listener = anew,
                        Some(Err(e)) => log::warn!("binding {} again: {e}", renewal.path().display()),
                        None => {}
                    }
                }
                () = left(&candidate) => {
                    if let Some(gone) = candidate.take() {
                        log::info!("the successor that waited, process {}, has left", gone.pid);
                    }
                }
                Some(reply) = begin.recv() => {
                    let Some(mut successor) = candidate.take() else {
                        let _ = reply.send(Err(Error::new("no successor waits; start one with -u, or use the command upgrade")));
                        continue;
                    };
                    let pid = successor.pid;
                    log::info!("handing over to process {pid}, version {}", successor.version);
                    match give(&mut successor.channel, pid, successor.capabilities, owner).await {
                        Ok((pid, released)) => {
                            log::info!("process {pid} has taken over; this one finishes what it has");
                            let _ = reply.send(Ok(pid));
                            drop((listener, begin));
                            finish(&mut successor.channel, released, owner, predecessors).await;
                            return Ok(());
                        }
                        Err(why) => {
                            log::error!("handing over to process {pid} failed, this one goes on: {why}");
                            let _ = reply.send(Err(why));
                        }
                    }
                }
            }
        }
    }
}

/// Binds beside the path, then takes it: the predecessor's socket may still be there.
fn bind(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(SOCKET);
    if std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and no socket; remove it"));
    }
    let fresh = dir.join(format!("{SOCKET}.{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    // The sticky bit on a file keeps systemd-tmpfiles away, to which a socket that was renamed seems dead.
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o1600))?;
    std::fs::rename(&fresh, &path)?;
    Ok(listener)
}

/// Hears who is there; `None` for one that is not let in.
async fn greet(mut channel: Channel, against: Option<String>) -> Option<Candidate> {
    let peer = channel.peer().ok()?;
    if peer.uid() != rustix::process::geteuid().as_raw() {
        log::warn!("handoff: process {:?} of user {} is refused", peer.pid(), peer.uid());
        return None;
    }
    if let Some(reason) = against {
        // At once: it must not keep a place from others. What it says is heard, or it would not hear us.
        let _ = channel.say(&Message::Refused { reason }).await;
        let _ = channel.hear_within(REFUSED_HELLO_TIMEOUT).await;
        return None;
    }
    match channel.hear_within(HELLO_TIMEOUT).await {
        Ok(Frame::Message(Message::Hello { protocol, version, pid, capabilities }, _)) => {
            let against = objection(protocol, &version, pid, peer.pid()).or_else(|| trusted_process(pid).err());
            let Some(reason) = against else {
                let capabilities = Capabilities::of_names(&capabilities);
                return Some(Candidate { pid, version, capabilities, channel });
            };
            log::warn!("handoff: process {pid} is refused: {reason}");
            let _ = channel.say(&Message::Refused { reason }).await;
            None
        }
        // A probe of the socket.
        Ok(Frame::End) => None,
        Ok(_) => {
            log::warn!("handoff: process {:?} did not say hello", peer.pid());
            None
        }
        Err(e) => {
            log::warn!("handoff: process {:?}: {e}", peer.pid());
            None
        }
    }
}

/// What is against a successor that says hello so.
fn objection(protocol: u32, version: &str, pid: u32, seen: Option<i32>) -> Option<String> {
    if protocol != PROTOCOL {
        let own = env!("CARGO_PKG_VERSION");
        return Some(format!(
            "version {version} hands over by protocol {protocol}, the running version {own} by {PROTOCOL}; \
             stop the running one and start the new one instead"
        ));
    }
    // By its number it is watched, and killed if it does not leave after a failure.
    match number(seen) {
        Some(seen) if seen == pid => None,
        None => Some(format!(
            "it calls itself process {pid} and is none that the running proxy can see: start it in the same PID namespace"
        )),
        Some(seen) => Some(format!(
            "it calls itself process {pid} and is process {seen} to the running proxy: start it in the same PID namespace"
        )),
    }
}

/// A process of another PID namespace has no number here.
fn number(seen: Option<i32>) -> Option<u32> {
    seen.and_then(|seen| u32::try_from(seen).ok()).filter(|seen| *seen > 0)
}

async fn welcome(mut new: Candidate, candidate: &mut Option<Candidate>) {
    if let Some(first) = candidate {
        let reason = format!("process {} waits as successor already", first.pid);
        log::warn!("handoff: process {} is refused: {reason}", new.pid);
        let _ = new.channel.say(&Message::Refused { reason }).await;
        return;
    }
    let (version, pid) = (env!("CARGO_PKG_VERSION").to_owned(), std::process::id());
    match new.channel.say(&Message::Welcome { version, pid }).await {
        Ok(()) => {
            log::info!("process {}, version {}, waits to take over; SIGQUIT begins", new.pid, new.version);
            *candidate = Some(new);
        }
        Err(e) => log::warn!("handoff: process {}: {e}", new.pid),
    }
}

/// Ends when the candidate does, or says something out of turn.
async fn left(candidate: &Option<Candidate>) {
    match candidate {
        Some(candidate) => candidate.channel.stirs().await,
        None => std::future::pending().await,
    }
}
