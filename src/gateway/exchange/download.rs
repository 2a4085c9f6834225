//! The response on its way from the worker to the client.

use super::client::{ClientHalf, ResponseFault};
use super::fault::Fault;
use super::sides::{Outgoing, Sides};
use super::upload::Upload;
use crate::gateway::downstream::scratch::with_scratch;
use crate::gateway::http1::body::BodyScanner;
use crate::gateway::http1::{Body, Progress, response};
use crate::gateway::request::limits::MAX_INFORMATIONAL;
use crate::gateway::request::retry::WorkerFault;
use crate::gateway::request::session::SessionLearner;
use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

/// How far the response is.
enum State {
    Head {
        received: BytesMut,
        scanned: usize,
    },
    Body {
        head: response::Head,
        framing: BodyScanner,
    },
    /// The worker switched protocols: what it sent, its head in front.
    Switched {
        head: response::Head,
        received: BytesMut,
    },
}

pub(super) struct Download {
    state: State,
    learner: Option<SessionLearner>,
    /// The final answer began before the request was sent whole: the two connections are no longer in step.
    answered_early: bool,
    /// The worker sent more than one answer, or ended its connection.
    worker_is_spent: bool,
    informational: u8,
    /// When the final answer began, for those who ask.
    began: Option<Instant>,
    is_timed: bool,
}

/// What came of a response.
pub(super) enum Received {
    Answer {
        status: u16,
        /// The worker's connection is where the next response would begin, as far as this one tells.
        is_in_step: bool,
    },
    Switched {
        head: response::Head,
        received: BytesMut,
    },
}

impl Download {
    /// `is_timed`: somebody asks when the answer began.
    pub(super) fn new(learner: Option<SessionLearner>, is_timed: bool) -> Download {
        Download {
            state: State::Head { received: BytesMut::new(), scanned: 0 },
            learner,
            answered_early: false,
            worker_is_spent: false,
            informational: 0,
            began: None,
            is_timed,
        }
    }

    /// A final response has begun to go out to the client.
    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.state, State::Head { .. })
    }

    /// The status of the answer that has begun, and when it did.
    pub(super) fn answer(&self) -> Option<(u16, Option<Instant>)> {
        match &self.state {
            State::Head { .. } => None,
            State::Body { head, .. } | State::Switched { head, .. } => Some((head.status, self.began)),
        }
    }

    fn note_began(&mut self) {
        self.began = self.is_timed.then(Instant::now);
    }

    pub(super) fn is_switched(&self) -> bool {
        matches!(self.state, State::Switched { .. })
    }

    /// All of the response has been read.
    pub(super) fn is_whole(&self) -> bool {
        matches!(&self.state, State::Body { framing, .. } if framing.is_done())
    }

    pub(super) fn finish(self) -> Received {
        match self.state {
            State::Switched { head, received } => Received::Switched { head, received },
            State::Body { head, framing } => {
                let is_clean = !self.answered_early && !self.worker_is_spent && framing.is_done();
                Received::Answer { status: head.status, is_in_step: head.keep_alive && is_clean }
            }
            State::Head { .. } => Received::Answer { status: 0, is_in_step: false },
        }
    }

    /// Moves answer bytes; says whether any moved.
    pub(super) fn poll<C: ClientHalf>(
        &mut self,
        cx: &mut Context<'_>,
        sides: &mut Sides<'_, C>,
        upload: &Upload,
    ) -> Result<bool, Fault> {
        let Poll::Ready(room) = sides.client.poll_ready(cx)? else { return Ok(false) };
        if self.is_whole() || self.is_switched() {
            return Ok(false);
        }
        with_scratch(|scratch| {
            let room = room.min(scratch.len());
            let mut read = ReadBuf::new(&mut scratch[..room]);
            match Pin::new(&mut sides.worker).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => self.worker_ended(),
                Poll::Ready(Ok(())) => self.take(cx, sides, upload, read.filled()),
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => {
                    self.worker_reset(sides.outgoing, upload)
                }
                Poll::Ready(Err(_)) if self.has_begun() => Err(Fault::Truncated),
                Poll::Ready(Err(_)) => Err(WorkerFault::Died.into()),
                Poll::Pending => Ok(false),
            }
        })
    }

    fn worker_ended(&mut self) -> Result<bool, Fault> {
        self.worker_is_spent = true;
        match &mut self.state {
            State::Body { head, framing } if head.body == Body::UntilClose => {
                *framing = BodyScanner::new(Body::None);
                Ok(true)
            }
            State::Head { .. } => Err(WorkerFault::Died.into()),
            _ => Err(Fault::Truncated),
        }
    }

    /// A Unix socket's reset says that bytes of the request lay unread when the worker closed it, and nothing of what
    /// the worker had sent before.
    fn worker_reset(&mut self, outgoing: &Outgoing<'_>, upload: &Upload) -> Result<bool, Fault> {
        match self.state {
            State::Head { .. } if upload.is_split() => Err(WorkerFault::Died.into()),
            State::Head { .. } => Err(WorkerFault::Unread.into()),
            // A worker that refuses a body leaves it unread: that is how such an answer ends.
            _ if outgoing.has_body => self.worker_ended(),
            _ => Err(Fault::Truncated),
        }
    }

    fn take<C: ClientHalf>(
        &mut self,
        cx: &mut Context<'_>,
        sides: &mut Sides<'_, C>,
        upload: &Upload,
        fresh: &[u8],
    ) -> Result<bool, Fault> {
        match &mut self.state {
            State::Body { .. } => self.take_body(cx, sides.client, fresh),
            State::Head { received, .. } => {
                // Mostly, the whole head comes at once: it is read where it is.
                if received.is_empty()
                    && let Ok(Progress::Complete(head)) = response::check(fresh, 0, sides.outgoing.method)
                    && head.status >= 200
                {
                    return self.begin(cx, sides.client, upload, head, fresh);
                }
                received.extend_from_slice(fresh);
                self.read_heads(cx, sides, upload)
            }
            State::Switched { .. } => Ok(false),
        }
    }

    fn take_body<C: ClientHalf>(&mut self, cx: &mut Context<'_>, client: &mut C, fresh: &[u8]) -> Result<bool, Fault> {
        let State::Body { framing, .. } = &mut self.state else { return Ok(false) };
        let belongs = client.body(cx, framing, fresh)?;
        self.worker_is_spent |= belongs < fresh.len();
        if let Some(learner) = &mut self.learner {
            learner.body(&fresh[..belongs]);
        }
        Ok(true)
    }

    /// Reads informational heads and the final one.
    fn read_heads<C: ClientHalf>(
        &mut self,
        cx: &mut Context<'_>,
        sides: &mut Sides<'_, C>,
        upload: &Upload,
    ) -> Result<bool, Fault> {
        loop {
            let State::Head { received, scanned } = &mut self.state else { return Ok(true) };
            match response::check(received, *scanned, sides.outgoing.method) {
                Err(malformed) => return Err(Fault::Malformed(malformed.reason)),
                Ok(Progress::Partial { scanned: so_far }) => {
                    *scanned = so_far;
                    return Ok(true);
                }
                Ok(Progress::Complete(head)) if head.status == 101 => {
                    if !sides.outgoing.upgrade || !head.websocket {
                        return Err(Fault::Malformed("a 101 that nobody asked for"));
                    }
                    let received = std::mem::take(received);
                    self.note_began();
                    self.state = State::Switched { head, received };
                    return Ok(true);
                }
                Ok(Progress::Complete(head)) if head.status < 200 => {
                    self.informational += 1;
                    if self.informational > MAX_INFORMATIONAL {
                        return Err(Fault::Malformed("too many informational responses"));
                    }
                    sides.client.inform(&head, received);
                    received.advance(head.len);
                    *scanned = 0;
                }
                Ok(Progress::Complete(head)) => {
                    let received = std::mem::take(received);
                    return self.begin(cx, sides.client, upload, head, &received);
                }
            }
        }
    }

    /// Begins the response. What came of its body with its head is looked at before the client gets any of it.
    fn begin<C: ClientHalf>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        upload: &Upload,
        head: response::Head,
        received: &[u8],
    ) -> Result<bool, Fault> {
        let rest = &received[head.len..];
        if head.body == Body::Chunked {
            let checked = BodyScanner::new(head.body).advance(rest);
            checked.map_err(|reject| Fault::Malformed(reject.reason))?;
        }
        self.answered_early = !upload.is_done();
        if let Some(learner) = &mut self.learner {
            learner.response_head(&head, received);
        }
        let is_early = !client.body_is_done();
        client.begin(&head, received, is_early).map_err(|fault| match fault {
            ResponseFault::ClientGone => fault.into(),
            ResponseFault::Malformed => Fault::Malformed("its head cannot be passed on"),
        })?;
        let framing = BodyScanner::new(head.body);
        self.note_began();
        self.state = State::Body { head, framing };
        self.take_body(cx, client, rest)
    }
}
