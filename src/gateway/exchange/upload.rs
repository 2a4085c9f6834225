//! The request on its way from the client to the worker.

use super::client::{ClientFault, ClientHalf};
use super::fault::Fault;
use super::sides::Sides;
use crate::gateway::request::retry::WorkerFault;
use bytes::{Buf, BytesMut};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// How far the request is.
enum State {
    /// So many bytes of the head, and what of the body goes with it, are sent.
    First {
        sent: usize,
    },
    Body,
    Done,
    /// The worker takes no more of the body; it may still answer.
    Abandoned,
}

pub(super) struct Upload {
    state: State,
    /// Body bytes that the worker did not take at once.
    to_worker: BytesMut,
    /// The head went out in more than one piece.
    is_split: bool,
    /// Body bytes beyond the first were taken: the request cannot be sent again.
    is_streamed: bool,
    /// The client sends no more. It may still wait for its answer, or have left: only writing to it tells.
    client_has_ended: bool,
}

impl Upload {
    pub(super) fn new() -> Upload {
        Upload {
            state: State::First { sent: 0 },
            to_worker: BytesMut::new(),
            is_split: false,
            is_streamed: false,
            client_has_ended: false,
        }
    }

    /// All of the request has been sent.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub(super) fn is_split(&self) -> bool {
        self.is_split
    }

    pub(super) fn is_streamed(&self) -> bool {
        self.is_streamed
    }

    /// The worker is waited for to take more.
    pub(super) fn is_blocked(&self) -> bool {
        match self.state {
            State::First { .. } => true,
            State::Body => !self.to_worker.is_empty(),
            State::Done | State::Abandoned => false,
        }
    }

    /// The client is waited for to send more.
    pub(super) fn wants_body(&self) -> bool {
        matches!(self.state, State::Body) && self.to_worker.is_empty()
    }

    pub(super) fn client_has_ended(&self) -> bool {
        self.client_has_ended
    }

    /// Something else has told that the client sends no more.
    pub(super) fn note_end(&mut self) {
        self.client_has_ended = true;
    }

    /// Moves request bytes; says whether any moved. `has_answered`: the final answer has begun.
    pub(super) fn poll<C: ClientHalf>(
        &mut self,
        cx: &mut Context<'_>,
        sides: &mut Sides<'_, C>,
        has_answered: bool,
    ) -> Result<bool, Fault> {
        let Sides { client, worker, outgoing } = sides;
        match self.state {
            State::First { sent } => match Pin::new(worker).poll_write(cx, &outgoing.first[sent..]) {
                Poll::Ready(Ok(n)) => {
                    self.sent_first(*client, sent + n, n, outgoing.first.len());
                    Ok(true)
                }
                Poll::Ready(Err(_)) if sent == 0 && !has_answered => Err(WorkerFault::Unsent.into()),
                Poll::Ready(Err(_)) => Ok(self.abandon()),
                Poll::Pending => Ok(client.poll_reset(cx).map(|()| false)?),
            },
            State::Body => self.poll_body(cx, sides),
            State::Done | State::Abandoned => {
                if !self.client_has_ended {
                    match client.poll_gone(cx) {
                        Ok(()) => {}
                        Err(ClientFault::Ended) => self.client_has_ended = true,
                        Err(fault) => return Err(fault.into()),
                    }
                }
                Ok(false)
            }
        }
    }

    /// `sent` of `len` bytes have left, the last `n` now.
    fn sent_first<C: ClientHalf>(&mut self, client: &C, sent: usize, n: usize, len: usize) {
        self.is_split |= n < len;
        self.state = match sent == len {
            true if client.body_is_done() => State::Done,
            true => State::Body,
            false => State::First { sent },
        };
    }

    fn poll_body<C: ClientHalf>(&mut self, cx: &mut Context<'_>, sides: &mut Sides<'_, C>) -> Result<bool, Fault> {
        let Sides { client, worker, .. } = sides;
        if !self.to_worker.is_empty() {
            return match Pin::new(worker).poll_write(cx, &self.to_worker) {
                Poll::Ready(Ok(n)) => {
                    self.to_worker.advance(n);
                    if self.to_worker.is_empty() {
                        self.to_worker = BytesMut::new();
                    }
                    Ok(true)
                }
                Poll::Ready(Err(_)) => Ok(self.abandon()),
                Poll::Pending => Ok(client.poll_reset(cx).map(|()| false)?),
            };
        }
        if client.body_is_done() {
            self.state = State::Done;
            return Ok(true);
        }
        match client.poll_body(cx, &mut self.to_worker)? {
            Poll::Ready(()) => {
                self.is_streamed = true;
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    /// The worker reads no more. It may have answered before: that is seen when its answer is read.
    fn abandon(&mut self) -> bool {
        self.state = State::Abandoned;
        self.to_worker = BytesMut::new();
        true
    }
}
