//! What the two processes of a handoff must be able to do. The composition root implements both.

use super::wire::Secret;
use crate::process::ConnectionTransfer;
use async_trait::async_trait;
use serde_json::Value;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// What a successor can do beyond the protocol. An older one says nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Tunnels over TLS 1.3 as they are written now.
    pub(crate) tls_tunnels: bool,
    /// Keys of session tickets, in a frame of their own.
    pub(crate) secret: bool,
}

impl Capabilities {
    /// Of this version.
    pub(super) const OWN: Capabilities = Capabilities { tls_tunnels: true, secret: true };
    const TLS_TUNNELS: &str = "tls-tunnels-1";
    const SECRET: &str = "secret-1";

    /// By the names that a hello has.
    pub(super) fn of_names(names: &[String]) -> Capabilities {
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        Capabilities { tls_tunnels: has(Capabilities::TLS_TUNNELS), secret: has(Capabilities::SECRET) }
    }

    pub(super) fn names(self) -> Vec<String> {
        let Capabilities { tls_tunnels, secret } = self;
        let all = [(tls_tunnels, Capabilities::TLS_TUNNELS), (secret, Capabilities::SECRET)];
        all.into_iter().filter(|(can, _)| *can).map(|(_, name)| name.to_owned()).collect()
    }
}

/// The process that owns everything now.
#[async_trait]
pub(crate) trait Predecessor: Send + Sync + 'static {
    type PausedConnection: PausedConnection;

    /// Why process `pid` may not be a successor. `pid` is `None` for a process of another PID namespace.
    fn objection(&self, pid: Option<u32>) -> Option<String>;

    /// Starts and stops nothing any more, until [`resume`](Predecessor::resume) or
    /// [`release`](Predecessor::release). An error leaves everything as it was.
    async fn pause(&self) -> Result<FirstPayload, String>;

    /// Ends the workers' control connections, so that they connect to the successor's control socket.
    async fn disconnect_workers(&self);

    /// What a successor that can take it gets beside: keys.
    fn secret(&self) -> Option<Secret>;

    /// Stops reading the workers' output and pauses the tunnels that the successor can take.
    async fn pause_connections(&self, successor: Capabilities) -> PausedPayload<Self::PausedConnection>;

    /// The handoff failed: everything goes on here.
    async fn resume(&self, tunnels: Vec<Self::PausedConnection>);

    /// What requests that this process still finishes use of the workers.
    fn in_use(&self) -> Value;

    /// The successor owns everything: stop accepting, finish what is left.
    async fn release(&self, successor: u32) -> Released;
}

/// What a predecessor still does after it released everything.
pub(crate) struct Released {
    /// Connections that became idle here, for the successor. Ends when no more can come.
    pub(crate) late: mpsc::Receiver<ConnectionTransfer>,
    /// Ends when nothing is left here.
    pub(crate) finished: JoinHandle<()>,
}

/// What the successor needs to begin.
#[derive(Debug)]
pub(crate) struct FirstPayload {
    /// What is known of the workers.
    pub(crate) snapshot: Value,
    /// Of the runtime directory.
    pub(crate) lock: OwnedFd,
    /// Everything that listens, by address.
    pub(crate) sockets: Vec<(String, OwnedFd)>,
}

/// What the predecessor paused.
#[derive(Debug)]
pub(crate) struct PausedPayload<F> {
    pub(crate) tunnels: Vec<F>,
    /// Partial lines of the workers' output.
    pub(crate) output: Value,
}

/// A connection whose bytes are not moved for now.
pub(crate) trait PausedConnection: Send + Sync {
    /// Its state and its sockets.
    fn to_transfer(&self) -> (Zeroizing<Vec<u8>>, Vec<BorrowedFd<'_>>);
}

/// The process that takes over.
#[async_trait]
pub(crate) trait Successor: Send + Sync + 'static {
    /// Ends once this process has bound the control socket.
    async fn bound(&self) -> Result<(), String>;

    /// Ends once the workers are connected and answer.
    async fn ready(&self) -> Result<(), String>;

    /// Keys of the predecessor. They may come or not.
    fn take_secret(&self, secret: Secret);

    /// Prepares tunnels. Neither reads from them nor writes to them until
    /// [`take_ownership`](Successor::take_ownership). Dropping them does not end the connections.
    async fn stage(&self, tunnels: Vec<ConnectionTransfer>);

    /// This process owns everything from here on and activates what it staged. `output` is the partial lines of the workers
    /// that the predecessor had read; null when it died.
    async fn take_ownership(&self, output: Value);

    /// What process `pid` still uses of the workers, for requests that it finishes; null when nothing any more.
    fn report_in_use(&self, pid: u32, in_use: Value);

    /// Connections that became idle at a predecessor after the handoff.
    async fn adopt(&self, connections: Vec<ConnectionTransfer>);
}
