//! Gives an answer of the proxy's own to a client, within the limits of a worker's answer.

use super::client::{ClientHalf, ResponseFault};
use super::dispatch::Outcome;
use crate::gateway::access::record::{ByteCount, Trace};
use crate::gateway::http1::body::BodyScanner;
use crate::gateway::http1::{Method, Progress, response};
use crate::gateway::local::answer::LocalAnswer;
use crate::gateway::metrics::counters::Failure;
use crate::gateway::request::limits::{BodyOf, RateMeter, RequestLimits};
use std::task::{Context, Poll, ready};
use tokio::time::Instant;

/// Sends the whole answer. The request's body stays where it is: the carrier decides what becomes of it.
pub(in crate::gateway) async fn give<C: ClientHalf>(
    client: &mut C,
    limits: &RequestLimits,
    method: Method,
    answer: LocalAnswer,
    trace: Option<&mut Trace>,
) -> Outcome {
    let status = answer.status;
    let sent = send(client, limits, method, answer).await;
    if let Some(trace) = trace {
        trace.by_proxy_with(status, "Answered by its route.");
        trace.moved(ByteCount { received: client.body_taken(), sent: client.sent(), head: client.head_sent() });
        if sent.is_err() {
            trace.failed(Failure::ClientGone);
        }
    }
    match sent {
        Ok(()) => Outcome::Answered,
        Err(Cut) => Outcome::Cut,
    }
}

/// The client has left, does not take the answer, or the file cannot be read any more.
struct Cut;

impl From<ResponseFault> for Cut {
    fn from(_: ResponseFault) -> Cut {
        Cut
    }
}

async fn send<C: ClientHalf>(
    client: &mut C,
    limits: &RequestLimits,
    method: Method,
    mut answer: LocalAnswer,
) -> Result<(), Cut> {
    let bytes = answer.head();
    let Ok(Progress::Complete(head)) = response::check(&bytes, 0, method) else { return Err(Cut) };
    let mut framing = BodyScanner::new(head.body);
    client.begin(&head, &bytes, !client.body_is_done())?;
    let mut wait = Wait { since: None, rate: RateMeter::default(), sent: 0 };
    while !framing.is_done() {
        let room = std::future::poll_fn(|cx| wait.poll(cx, client, limits, C::poll_ready)).await?;
        let piece = answer.content.next(room.max(1)).await.map_err(|error| {
            log::warn!("a file cannot be read to its end: {error}");
            Cut
        })?;
        if piece.is_empty() {
            return Err(Cut);
        }
        let mut at = 0;
        std::future::poll_fn(|cx| {
            while at < piece.len() && !framing.is_done() {
                at += client.body(cx, &mut framing, &piece[at..])?;
            }
            Poll::Ready(Ok::<(), Cut>(()))
        })
        .await?;
    }
    std::future::poll_fn(|cx| wait.poll(cx, client, limits, C::poll_finish)).await
}

/// How long the client has been waited for.
struct Wait {
    since: Option<Instant>,
    rate: RateMeter,
    sent: u64,
}

impl Wait {
    /// Takes one step that may wait for the client, within the limits of a body.
    fn poll<C: ClientHalf, T>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        limits: &RequestLimits,
        step: impl Fn(&mut C, &mut Context<'_>) -> Poll<Result<T, ResponseFault>>,
    ) -> Poll<Result<T, Cut>> {
        if let Poll::Ready(done) = step(client, cx) {
            self.since = None;
            self.rate.pause();
            return Poll::Ready(done.map_err(Cut::from));
        }
        if client.poll_reset(cx).is_err() {
            return Poll::Ready(Err(Cut));
        }
        let now = Instant::now();
        let sent = client.sent();
        if sent != self.sent {
            (self.sent, self.since) = (sent, None);
        }
        let end = *self.since.get_or_insert(now) + limits.body_timeout;
        let look = self.rate.look(limits, BodyOf::Response, sent, now).map_err(|_| Cut)?;
        if now >= end {
            return Poll::Ready(Err(Cut));
        }
        ready!(client.deadline().poll_at(cx, look.map_or(end, |look| look.min(end))));
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
