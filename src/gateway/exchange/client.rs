//! The client's half of an exchange: what `carrier::http1` does in its way and `carrier::http2` in another.

use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::http1::body::BodyScanner;
use crate::gateway::http1::response;
use crate::gateway::request::body::BodyFault;
use bytes::BytesMut;
use std::task::{Context, Poll};
use std::time::Duration;

/// A client that ended its side looks the same as one that left, until something is written to it. Each of its waits,
/// be it in the queue, for the worker or between two parts of its answer, ends after this; then the client counts as
/// gone.
pub(super) const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the client's half cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum ClientFault {
    /// The client has left.
    Gone,
    /// It ended its side before its request was whole.
    Ended,
    /// Its body breaks a rule.
    Body(BodyFault),
}

/// Whether a client is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Presence {
    Here,
    /// It sends no more; it may still read.
    Ended,
    Gone,
}

/// Why a worker's body cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum ResponseFault {
    ClientGone,
    /// Its framing is broken.
    Malformed,
}

/// A request that is being received from a client, and the response that is sent to it.
pub(in crate::gateway) trait ClientHalf {
    /// Takes more of the request's body and appends to `out` what the worker gets of it: framed, limited, counted.
    /// Ready when something of the body came; `Pending` while nothing does. Not called once the body is done.
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), ClientFault>>;

    /// The whole body has been taken.
    fn body_is_done(&self) -> bool;

    /// Content bytes still to come, where the head says so.
    fn body_left(&self) -> Option<u64>;

    /// Content bytes taken so far.
    fn body_taken(&self) -> u64;

    /// Looks whether the client has left, where its request has been taken whole or no more of it is wanted.
    ///
    /// # Errors
    /// [`ClientFault::Gone`], or [`ClientFault::Ended`] for one that sends no more and may still read.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Result<(), ClientFault>;

    /// The same without reading what the client sends: while the worker takes nothing, the body stays where it is.
    ///
    /// # Errors
    /// [`ClientFault::Gone`].
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Result<(), ClientFault>;

    /// What the client sends is not read at the moment: only [`ClientHalf::presence`] tells that it leaves.
    fn is_unread(&self) -> bool;

    /// Asks the kernel whether the client is there, where nothing that is read would tell.
    fn presence(&self) -> Presence;

    /// An informational response (1xx, but no 101).
    fn inform(&mut self, head: &response::Head, buf: &[u8]);

    /// The final response's head. `is_early`: the request's body has not been taken whole.
    ///
    /// # Errors
    /// Why the client cannot be told.
    fn begin(&mut self, head: &response::Head, buf: &[u8], is_early: bool) -> Result<(), ResponseFault>;

    /// Sends what is waiting. Ready with how many bytes of the response may be read from the worker next.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ResponseFault>>;

    /// Something is waiting for the client to take it.
    fn has_pending(&self) -> bool;

    /// Takes bytes of the worker's body, with the framing that the worker gave it; returns how many belong to it.
    fn body(&mut self, cx: &mut Context<'_>, framing: &mut BodyScanner, bytes: &[u8]) -> Result<usize, ResponseFault>;

    /// The response is whole. Ready when all of it has been given to the client's connection.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>>;

    /// Lets what was sent so far leave.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>>;

    /// Bytes of the response that the client's connection has taken.
    fn sent(&self) -> u64;

    /// How many of them are the response's head; 0 where only content is counted.
    fn head_sent(&self) -> u64 {
        0
    }

    /// The one timer of this request.
    fn deadline(&mut self) -> &mut Deadline;
}
