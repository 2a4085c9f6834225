//! What lies at the two ends of an exchange, as both of its directions get it.

use crate::gateway::http1::Method;
use tokio::net::UnixStream;

/// A client, a worker's connection, and the request that goes from one to the other.
pub(super) struct Sides<'a, C> {
    pub(super) client: &'a mut C,
    pub(super) worker: UnixStream,
    pub(super) outgoing: &'a Outgoing<'a>,
}

/// What is sent to a worker.
pub(super) struct Outgoing<'a> {
    /// The request's head, and what of its body came with it; kept whole so that it can be sent again.
    pub(super) first: &'a [u8],
    pub(super) method: Method,
    /// A body belongs to it.
    pub(super) has_body: bool,
    /// It may switch to WebSocket.
    pub(super) upgrade: bool,
    /// The worker's connection may be kept: it was spoken to in HTTP/1.1.
    pub(super) may_keep: bool,
}
