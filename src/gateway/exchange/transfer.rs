//! A request and its response between a client's half and one worker's connection.
//!
//! Both directions run in one poll loop, so that an answer that begins while its request still uploads never waits for
//! it, and the other way around. Nothing is buffered but what the receiver does not take at once.

use super::client::{ClientFault, ClientHalf, HALF_CLOSED_TIMEOUT, Presence, ResponseFault};
use crate::gateway::downstream::scratch::with_scratch;
use crate::gateway::http1::body::BodyScanner;
use crate::gateway::http1::{Body, Method, Progress, response};
use crate::gateway::request::limits::{BodyOf, RateMeter, RequestLimits, TooSlow};
use crate::gateway::request::retry::WorkerFault;
use crate::gateway::request::session::SessionLearner;
use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::Instant;

/// Between two looks whether a client whose bytes are not read is still there.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(5);
/// Informational responses to one request; a client need not take them, so they must not pile up.
const MAX_INFORMATIONAL: u8 = 16;
/// Steps of one direction in one go, so that a flood leaves room for others.
const BURST: usize = 16;

/// Why an exchange did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Worker(WorkerFault),
    /// The worker's answer cannot be understood.
    Malformed(&'static str),
    Client(ClientFault),
    /// The client stopped sending its body, or sends it too slowly.
    BodyTimeout,
    /// The client does not take the answer.
    ClientStalled,
    /// The answer ended in its middle; the client must see that.
    Truncated,
}

impl From<WorkerFault> for Fault {
    fn from(fault: WorkerFault) -> Fault {
        Fault::Worker(fault)
    }
}

impl From<ClientFault> for Fault {
    fn from(fault: ClientFault) -> Fault {
        Fault::Client(fault)
    }
}

impl From<ResponseFault> for Fault {
    fn from(fault: ResponseFault) -> Fault {
        match fault {
            ResponseFault::ClientGone => Fault::Client(ClientFault::Gone),
            ResponseFault::Malformed => Fault::Truncated,
        }
    }
}

/// Where the request is on its way to the worker.
enum Upload {
    /// So many bytes of the head, and what of the body goes with it, are sent.
    First {
        sent: usize,
    },
    Body,
    Done,
    /// The worker takes no more of the body; it may still answer.
    Abandoned,
}

/// Where the response is on its way to the client.
enum Download {
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

/// Since when each side has been waited for.
#[derive(Default)]
struct Waits {
    upload: Option<Instant>,
    response: Option<Instant>,
    download: Option<Instant>,
    half_closed: Option<Instant>,
    /// When to look next whether the client is there.
    presence: Option<Instant>,
    /// Since when nothing has moved for a client that sends no more.
    ended: Option<Instant>,
    upload_rate: RateMeter,
    download_rate: RateMeter,
}

/// What is sent to a worker.
pub(super) struct Outgoing<'a> {
    /// The request's head, and what of its body came with it; kept whole so that it can be sent again.
    pub(super) first: &'a [u8],
    pub(super) method: Method,
    /// It may switch to WebSocket.
    pub(super) upgrade: bool,
    /// The worker's connection may be kept: it was spoken to in HTTP/1.1.
    pub(super) may_keep: bool,
}

pub(super) struct Transfer<'a, C> {
    client: &'a mut C,
    worker: UnixStream,
    outgoing: &'a Outgoing<'a>,
    limits: RequestLimits,
    learner: Option<SessionLearner>,
    upload: Upload,
    download: Download,
    /// Body bytes that the worker did not take at once.
    to_worker: BytesMut,
    /// The head went out in more than one piece.
    is_split: bool,
    /// Body bytes beyond the first were taken: the request cannot be sent again.
    is_streamed: bool,
    /// The final answer began before the request was sent whole: the two connections are no longer in step.
    answered_early: bool,
    /// The worker sent more than one answer, or ended its connection.
    worker_is_spent: bool,
    /// The client sends no more. It may still wait for its answer, or have left: only writing to it tells.
    client_has_ended: bool,
    informational: u8,
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
    ) -> Self {
        Transfer {
            client,
            worker,
            outgoing,
            limits,
            learner,
            upload: Upload::First { sent: 0 },
            download: Download::Head { received: BytesMut::new(), scanned: 0 },
            to_worker: BytesMut::new(),
            is_split: false,
            is_streamed: false,
            answered_early: false,
            worker_is_spent: false,
            client_has_ended: false,
            informational: 0,
            waits: Waits::default(),
        }
    }

    /// A final response has begun to go out to the client.
    pub(super) fn has_answered(&self) -> bool {
        !matches!(self.download, Download::Head { .. })
    }

    /// The whole request so far can be sent to another worker.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_streamed && !self.has_answered()
    }

    pub(super) async fn run(&mut self) -> Result<(), Fault> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    pub(super) fn finish(self) -> Finished {
        let (head, is_done) = match self.download {
            Download::Switched { head, received } => {
                return Finished::Switched(Box::new(Switched { worker: self.worker, head, received }));
            }
            Download::Body { head, framing } => (Some(head), framing.is_done()),
            Download::Head { .. } => (None, false),
        };
        let status = head.map_or(0, |head| head.status);
        let keeps = head.is_some_and(|head| head.keep_alive) && self.outgoing.may_keep;
        let in_step = matches!(self.upload, Upload::Done) && !self.answered_early && !self.worker_is_spent && is_done;
        Finished::Answered { spare: (keeps && in_step).then_some(self.worker), status }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        for round in 0.. {
            let up = self.poll_upload(cx)?;
            let sent = self.client.sent();
            let down = self.poll_download(cx)? || self.client.sent() != sent;
            match &self.download {
                Download::Switched { .. } => return Poll::Ready(Ok(())),
                Download::Body { framing, .. } if framing.is_done() => {
                    match self.client.poll_finish(cx)? {
                        Poll::Ready(()) => return Poll::Ready(Ok(())),
                        Poll::Pending => {}
                    };
                }
                _ => {}
            }
            if up {
                (self.waits.upload, self.waits.response) = (None, None);
            }
            if down {
                // A head that trickles, or word that one is to come, is no response.
                (self.waits.download, self.waits.half_closed) = (None, None);
            }
            if !up && !down {
                break;
            }
            self.waits.ended = None;
            if round == BURST {
                cx.waker().wake_by_ref();
                break;
            }
        }
        let _ = self.client.poll_flush(cx)?;
        self.poll_limits(cx)
    }

    /// The limits of what is waited for.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let RequestLimits { body_bytes: _, body_timeout, body_rate: _, response_timeout } = self.limits;
        let now = Instant::now();
        self.look_for_client(now)?;
        let mut next: Option<(Instant, Fault)> = None;
        let mut limit = |at: Instant, fault: Fault| {
            if next.is_none_or(|(earliest, _)| at < earliest) {
                next = Some((at, fault));
            }
        };
        let waits = &mut self.waits;
        let wants_body = matches!(self.upload, Upload::Body) && self.to_worker.is_empty();
        if self.client_has_ended {
            let since = *waits.half_closed.get_or_insert(now);
            limit(since + HALF_CLOSED_TIMEOUT, Fault::Client(ClientFault::Gone));
        }
        if self.client.has_pending() {
            let since = *waits.download.get_or_insert(now);
            limit(since + body_timeout, Fault::ClientStalled);
            match waits.download_rate.look(&self.limits, BodyOf::Response, self.client.sent(), now) {
                Ok(at) => at.into_iter().for_each(|at| limit(at, Fault::ClientStalled)),
                Err(TooSlow) => return Poll::Ready(Err(Fault::ClientStalled)),
            }
        } else {
            waits.download = None;
            waits.download_rate.pause();
        }
        if wants_body {
            let since = *waits.upload.get_or_insert(now);
            limit(since + body_timeout, Fault::BodyTimeout);
            match waits.upload_rate.look(&self.limits, BodyOf::Request, self.client.body_taken(), now) {
                Ok(at) => at.into_iter().for_each(|at| limit(at, Fault::BodyTimeout)),
                Err(TooSlow) => return Poll::Ready(Err(Fault::BodyTimeout)),
            }
        } else {
            waits.upload = None;
            waits.upload_rate.pause();
            // Once it has begun, an answer takes the time it takes: event streams may be silent for long.
            if matches!(self.download, Download::Head { .. }) && !self.client_has_ended {
                let since = *waits.response.get_or_insert(now);
                limit(since + response_timeout, Fault::Worker(WorkerFault::NoResponse));
            }
        }
        if let Some(at) = waits.presence
            && next.is_none_or(|(earliest, _)| at < earliest)
        {
            ready!(self.client.deadline().poll_at(cx, at));
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some((at, fault)) = next else { return Poll::Pending };
        ready!(self.client.deadline().poll_at(cx, at));
        if now < at {
            // The timer was behind: look again with the time that it is.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // A rate's window may have passed without harm.
        let overdue = |since: Option<Instant>, limit: Duration| since.is_some_and(|since| now >= since + limit);
        let is_over = match fault {
            Fault::ClientStalled => overdue(self.waits.download, body_timeout),
            Fault::BodyTimeout => overdue(self.waits.upload, body_timeout),
            _ => true,
        };
        if is_over {
            return Poll::Ready(Err(fault));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nothing that is read would tell that the client has left: the kernel is asked from time to time.
    fn look_for_client(&mut self, now: Instant) -> Result<(), Fault> {
        let is_blocked = match self.upload {
            Upload::First { .. } => true,
            Upload::Body => !self.to_worker.is_empty(),
            Upload::Done | Upload::Abandoned => false,
        };
        if !is_blocked && !self.client.is_unread() {
            self.waits.presence = None;
            return Ok(());
        }
        let at = *self.waits.presence.get_or_insert(now + PRESENCE_INTERVAL);
        if now < at {
            return Ok(());
        }
        self.waits.presence = Some(now + PRESENCE_INTERVAL);
        match self.client.presence() {
            Presence::Here => Ok(()),
            Presence::Gone => Err(ClientFault::Gone.into()),
            // It may have sent all of a body that the worker has not taken yet.
            Presence::Ended if is_blocked => {
                let since = *self.waits.ended.get_or_insert(now);
                if now >= since + self.limits.body_timeout { Err(ClientFault::Gone.into()) } else { Ok(()) }
            }
            Presence::Ended => {
                self.client_has_ended = true;
                Ok(())
            }
        }
    }

    /// Moves request bytes; says whether any moved.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        match self.upload {
            Upload::First { sent } => self.poll_first(cx, sent),
            Upload::Body => self.poll_body(cx),
            Upload::Done | Upload::Abandoned => {
                if !self.client_has_ended {
                    match self.client.poll_gone(cx) {
                        Ok(()) => {}
                        Err(ClientFault::Ended) => self.client_has_ended = true,
                        Err(fault) => return Err(fault.into()),
                    }
                }
                Ok(false)
            }
        }
    }

    fn poll_first(&mut self, cx: &mut Context<'_>, sent: usize) -> Result<bool, Fault> {
        let first = self.outgoing.first;
        match Pin::new(&mut self.worker).poll_write(cx, &first[sent..]) {
            Poll::Ready(Ok(n)) => {
                self.is_split |= n < first.len();
                self.upload = match sent + n == first.len() {
                    true if self.client.body_is_done() => Upload::Done,
                    true => Upload::Body,
                    false => Upload::First { sent: sent + n },
                };
                Ok(true)
            }
            Poll::Ready(Err(_)) if sent == 0 && !self.has_answered() => Err(WorkerFault::Unsent.into()),
            Poll::Ready(Err(_)) => Ok(self.abandon_upload()),
            Poll::Pending => Ok(self.client.poll_reset(cx).map(|()| false)?),
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        if !self.to_worker.is_empty() {
            return match Pin::new(&mut self.worker).poll_write(cx, &self.to_worker) {
                Poll::Ready(Ok(n)) => {
                    self.to_worker.advance(n);
                    if self.to_worker.is_empty() {
                        self.to_worker = BytesMut::new();
                    }
                    Ok(true)
                }
                Poll::Ready(Err(_)) => Ok(self.abandon_upload()),
                Poll::Pending => Ok(self.client.poll_reset(cx).map(|()| false)?),
            };
        }
        if self.client.body_is_done() {
            self.upload = Upload::Done;
            return Ok(true);
        }
        match self.client.poll_body(cx, &mut self.to_worker)? {
            Poll::Ready(()) => {
                self.is_streamed = true;
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    /// The worker reads no more. It may have answered before: that is seen when its answer is read.
    fn abandon_upload(&mut self) -> bool {
        self.upload = Upload::Abandoned;
        self.to_worker = BytesMut::new();
        true
    }

    /// Moves answer bytes; says whether any moved.
    fn poll_download(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let Poll::Ready(room) = self.client.poll_ready(cx)? else { return Ok(false) };
        match &self.download {
            Download::Body { framing, .. } if framing.is_done() => return Ok(false),
            Download::Switched { .. } => return Ok(false),
            _ => {}
        }
        with_scratch(|scratch| {
            let room = room.min(scratch.len());
            let mut read = ReadBuf::new(&mut scratch[..room]);
            match Pin::new(&mut self.worker).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => self.worker_ended(),
                Poll::Ready(Ok(())) => self.take(cx, read.filled()),
                Poll::Ready(Err(_)) if self.has_answered() => Err(Fault::Truncated),
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset && !self.is_split => {
                    Err(WorkerFault::Unread.into())
                }
                Poll::Ready(Err(_)) => Err(WorkerFault::Died.into()),
                Poll::Pending => Ok(false),
            }
        })
    }

    fn worker_ended(&mut self) -> Result<bool, Fault> {
        self.worker_is_spent = true;
        match &mut self.download {
            Download::Body { head, framing } if head.body == Body::UntilClose => {
                *framing = BodyScanner::new(Body::None);
                Ok(true)
            }
            Download::Head { .. } => Err(WorkerFault::Died.into()),
            _ => Err(Fault::Truncated),
        }
    }

    fn take(&mut self, cx: &mut Context<'_>, fresh: &[u8]) -> Result<bool, Fault> {
        match &mut self.download {
            Download::Body { framing, .. } => {
                let belongs = self.client.body(cx, framing, fresh)?;
                self.worker_is_spent |= belongs < fresh.len();
                if let Some(learner) = &mut self.learner {
                    learner.body(&fresh[..belongs]);
                }
                Ok(true)
            }
            Download::Head { received, .. } => {
                // Mostly, the whole head comes at once: it is read where it is.
                if received.is_empty()
                    && let Ok(Progress::Complete(head)) = response::check(fresh, 0, self.outgoing.method)
                    && head.status >= 200
                {
                    return self.begin(cx, head, fresh);
                }
                received.extend_from_slice(fresh);
                self.read_heads(cx)
            }
            Download::Switched { .. } => Ok(false),
        }
    }

    /// Reads informational heads and the final one.
    fn read_heads(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        loop {
            let Download::Head { received, scanned } = &mut self.download else { return Ok(true) };
            match response::check(received, *scanned, self.outgoing.method) {
                Err(malformed) => return Err(Fault::Malformed(malformed.reason)),
                Ok(Progress::Partial { scanned: so_far }) => {
                    *scanned = so_far;
                    return Ok(true);
                }
                Ok(Progress::Complete(head)) if head.status == 101 => {
                    if !self.outgoing.upgrade || !head.websocket {
                        return Err(Fault::Malformed("a 101 that nobody asked for"));
                    }
                    let received = std::mem::take(received);
                    self.download = Download::Switched { head, received };
                    return Ok(true);
                }
                Ok(Progress::Complete(head)) if head.status < 200 => {
                    self.informational += 1;
                    if self.informational > MAX_INFORMATIONAL {
                        return Err(Fault::Malformed("too many informational responses"));
                    }
                    self.client.inform(&head, received);
                    received.advance(head.len);
                    *scanned = 0;
                }
                Ok(Progress::Complete(head)) => {
                    let received = std::mem::take(received);
                    return self.begin(cx, head, &received);
                }
            }
        }
    }

    /// Begins the response. What came of its body with its head is looked at before the client gets any of it.
    fn begin(&mut self, cx: &mut Context<'_>, head: response::Head, received: &[u8]) -> Result<bool, Fault> {
        let rest = &received[head.len..];
        if head.body == Body::Chunked {
            let checked = BodyScanner::new(head.body).advance(rest);
            checked.map_err(|reject| Fault::Malformed(reject.reason))?;
        }
        self.answered_early = !matches!(self.upload, Upload::Done);
        if let Some(learner) = &mut self.learner {
            learner.response_head(&head, received);
        }
        let is_early = !self.client.body_is_done();
        self.client.begin(&head, received, is_early).map_err(|fault| match fault {
            ResponseFault::ClientGone => fault.into(),
            ResponseFault::Malformed => Fault::Malformed("its head cannot be passed on"),
        })?;
        let framing = BodyScanner::new(head.body);
        self.download = Download::Body { head, framing };
        self.take(cx, rest)
    }
}
