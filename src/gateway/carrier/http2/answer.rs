//! The half of a stream that goes to the client: its answer.

use super::budget::{Budget, Charged, Turn};
use crate::gateway::exchange::client::ResponseFault;
use crate::gateway::request::heads;
use crate::gateway::request::hsts::Hsts;
use crate::gateway::request::request_id::RequestId;
use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};
use std::sync::Arc;
use std::task::{Context, Poll};

/// How far the answer is.
enum Sending {
    Waiting,
    /// Its head is out.
    Body(SendStream<Charged>),
    Ended,
}

pub(super) struct Answer {
    respond: SendResponse<Charged>,
    sending: Sending,
    /// Whether the budget lets more of it be read from the worker.
    turn: Turn,
    sent: u64,
    was_reset: bool,
    id: RequestId,
    hsts: Option<Hsts>,
}

impl Answer {
    pub(super) fn new(respond: SendResponse<Charged>, budget: Arc<Budget>, hsts: Option<Hsts>) -> Answer {
        let (turn, id) = (Turn::new(budget), RequestId::NONE);
        Answer { respond, sending: Sending::Waiting, turn, sent: 0, was_reset: false, id, hsts }
    }

    /// The answer is to name its request.
    pub(super) fn set_id(&mut self, id: RequestId) {
        self.id = id;
    }

    /// Content bytes that the client's connection has taken.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The client does not want the answer any more.
    pub(super) fn was_reset(&self) -> bool {
        self.was_reset
    }

    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.sending, Sending::Waiting)
    }

    /// Its head is out, and its end is not.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.sending, Sending::Body(_))
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.sending, Sending::Ended)
    }

    /// The connection has room for more of its answers.
    pub(super) fn has_room(&self) -> bool {
        self.turn.budget().has_room()
    }

    /// Ready when it is this answer's turn to use that room.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.turn.poll(cx)
    }

    /// Notes that the client has left.
    pub(super) fn gone(&mut self) -> ResponseFault {
        self.was_reset = true;
        ResponseFault::ClientGone
    }

    /// Ready when the client has reset the stream. Once the answer has ended, that is no news.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.sending {
            Sending::Waiting => self.respond.poll_reset(cx).map(drop),
            Sending::Body(stream) => stream.poll_reset(cx).map(drop),
            Sending::Ended => Poll::Pending,
        };
        self.was_reset |= reset.is_ready();
        reset
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        match &mut self.sending {
            Sending::Body(stream) => stream.send_reset(reason),
            _ => self.respond.send_reset(reason),
        }
    }

    /// An informational answer. A client that has left is noticed elsewhere.
    pub(super) fn inform(&mut self, response: Response<()>) {
        let _ = self.respond.send_informational(response);
    }

    pub(super) fn begin(&mut self, mut response: Response<()>, ends: bool) -> Result<(), ResponseFault> {
        heads::name_request(&self.id, response.headers_mut());
        if let Some(hsts) = self.hsts {
            hsts.insert(response.headers_mut());
        }
        match self.respond.send_response(response, ends) {
            Ok(_) if ends => self.sending = Sending::Ended,
            Ok(stream) => self.sending = Sending::Body(stream),
            Err(_) => return Err(self.gone()),
        }
        Ok(())
    }

    /// Sends content as the client's window allows; with the last of it the end, if `ends`.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        content: &mut BytesMut,
        ends: bool,
    ) -> Poll<Result<(), ResponseFault>> {
        let Sending::Body(stream) = &mut self.sending else { return Poll::Ready(Ok(())) };
        while !content.is_empty() {
            stream.reserve_capacity(content.len());
            if stream.capacity() == 0 {
                match stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) if stream.capacity() > 0 => {}
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(_) => return Poll::Ready(Err(self.gone())),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let part = content.split_to(stream.capacity().min(content.len()));
            self.sent += part.len() as u64;
            let is_last = ends && content.is_empty();
            if stream.send_data(self.turn.budget().charge(part.freeze()), is_last).is_err() {
                return Poll::Ready(Err(self.gone()));
            }
            if is_last {
                self.sending = Sending::Ended;
                break;
            }
        }
        *content = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// The answer is whole.
    pub(super) fn end(&mut self, trailers: HeaderMap) -> Result<(), ResponseFault> {
        let Sending::Body(stream) = &mut self.sending else { return Ok(()) };
        let ended = match trailers.is_empty() {
            true => stream.send_data(self.turn.budget().charge(Bytes::new()), true),
            false => stream.send_trailers(trailers),
        };
        self.sending = Sending::Ended;
        ended.map_err(|_| self.gone())
    }

    /// Sends a whole small answer. The client may have left.
    pub(super) fn send_whole(&mut self, response: Response<()>, body: Bytes) {
        let is_empty = body.is_empty();
        if self.begin(response, is_empty).is_err() {
            log::debug!("a client left before its answer");
        }
        if let Sending::Body(stream) = &mut self.sending {
            let sent = stream.send_data(self.turn.budget().charge(body), true);
            self.sending = Sending::Ended;
            if let Err(error) = sent {
                log::debug!("a client left before its answer: {error}");
            }
        }
    }
}
