//! A request and its response between a client's half and one worker's connection.
//!
//! Both directions run in one poll loop, so that an answer that begins while its request still uploads never waits for
//! it, and the other way around. Nothing is buffered but what the receiver does not take at once.

use super::client::ClientHalf;
use super::download::{Download, Received};
use super::fault::Fault;
use super::sides::{Outgoing, Sides};
use super::upload::Upload;
use super::waits::Waits;
use crate::gateway::http1::response;
use crate::gateway::request::limits::RequestLimits;
use crate::gateway::request::session::SessionLearner;
use bytes::BytesMut;
use std::task::{Context, Poll};
use tokio::net::UnixStream;
use tokio::time::Instant;

/// Steps of one direction in one go, so that a flood leaves room for others.
const BURST: usize = 16;

pub(super) struct Transfer<'a, C> {
    sides: Sides<'a, C>,
    upload: Upload,
    download: Download,
    waits: Waits,
}

/// A finished exchange.
pub(super) enum Finished {
    Answered {
        /// The worker's connection, when it can carry another request.
        spare: Option<UnixStream>,
        status: u16,
    },
    /// The connection goes on as a WebSocket.
    Switched(Box<Switched>),
}

/// A worker's connection after its 101.
pub(in crate::gateway) struct Switched {
    pub(in crate::gateway) worker: UnixStream,
    pub(in crate::gateway) head: response::Head,
    /// What the worker sent, its head in front.
    pub(in crate::gateway) received: BytesMut,
}

impl<'a, C: ClientHalf> Transfer<'a, C> {
    pub(super) fn new(
        client: &'a mut C,
        worker: UnixStream,
        outgoing: &'a Outgoing<'a>,
        limits: RequestLimits,
        learner: Option<SessionLearner>,
        is_timed: bool,
    ) -> Self {
        let sides = Sides { client, worker, outgoing };
        let (upload, download, waits) = (Upload::new(), Download::new(learner, is_timed), Waits::new(limits));
        Transfer { sides, upload, download, waits }
    }

    /// A final response has begun to go out to the client.
    pub(super) fn has_answered(&self) -> bool {
        self.download.has_begun()
    }

    /// The status of the answer that has begun, and when it did if it is timed.
    pub(super) fn answer(&self) -> Option<(u16, Option<Instant>)> {
        self.download.answer()
    }

    /// The whole request so far can be sent to another worker.
    pub(super) fn is_whole(&self) -> bool {
        !self.upload.is_streamed() && !self.has_answered()
    }

    pub(super) async fn run(&mut self) -> Result<(), Fault> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    pub(super) fn finish(self) -> Finished {
        match self.download.finish() {
            Received::Switched { head, received } => {
                Finished::Switched(Box::new(Switched { worker: self.sides.worker, head, received }))
            }
            Received::Answer { status, is_in_step } => {
                let keeps = is_in_step && self.upload.is_done() && self.sides.outgoing.may_keep;
                Finished::Answered { spare: keeps.then_some(self.sides.worker), status }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let Transfer { sides, upload, download, waits } = self;
        for round in 0.. {
            let up = upload.poll(cx, sides, download.has_begun())?;
            let sent = sides.client.sent();
            let down = download.poll(cx, sides, upload)? || sides.client.sent() != sent;
            if download.is_switched() || (download.is_whole() && sides.client.poll_finish(cx)?.is_ready()) {
                return Poll::Ready(Ok(()));
            }
            if !up && !down {
                break;
            }
            waits.moved(up, down);
            if round == BURST {
                cx.waker().wake_by_ref();
                break;
            }
        }
        let _ = sides.client.poll_flush(cx)?;
        waits.poll(cx, sides.client, upload, download.has_begun())
    }
}
