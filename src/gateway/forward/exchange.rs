//! One request and its answer on a client's and a worker's connection.
//!
//! Both directions run in one poll loop, so that an answer that begins while its request still
//! uploads never waits for it, and the other way around. Nothing is buffered but what the receiver
//! does not take at once.

use super::{AHEAD_LIMIT, Conn, heads};
use crate::gateway::alarm::Alarm;
use crate::gateway::front::with_scratch;
use crate::gateway::http1::body::BodyScanner;
use crate::gateway::http1::head::Head;
use crate::gateway::http1::{Body, Method, Progress, Version, response};
use crate::gateway::phase::Admission;
use crate::pool::Silence;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// A client that ended its side looks the same as one that left. It gets its answer if that moves
/// at least this often; then the app learns that the client has gone.
const HALF_CLOSED_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at a worker that owes an answer.
const PULSE: Duration = Duration::from_millis(500);
/// Steps of one direction in one go, so that a flood leaves room for others.
const BURST: usize = 16;

/// Why an exchange did not come to its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// Not a byte of the request has left: any worker may get it.
    Unsent,
    /// The worker ended the connection before it answered.
    Died,
    /// The same, and what was sent last lay unread: a Unix socket tells so by a reset. It went out in
    /// one piece.
    Unread,
    /// The client has left.
    ClientGone,
    /// The client ended its side before its request was whole.
    ClientEnded,
    /// The worker did not begin to answer in time.
    NoAnswer,
    /// The worker has stopped answering anything.
    Hung,
    /// The client stopped sending its body.
    BodyTimeout,
    /// The client does not take the answer.
    ClientStalled,
    BodyTooLong,
    /// The request body's framing is broken.
    Framing(&'static str),
    /// The worker's answer cannot be understood.
    Malformed(&'static str),
    /// The answer ended in its middle; the client must see that.
    Truncated,
}

#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) body_bytes: Option<u64>,
    pub(super) body_timeout: Duration,
    pub(super) response_timeout: Duration,
}

/// What to do with the bytes of a handshake answer before they leave.
pub(super) trait Watch {
    fn answer_head(&mut self, head: &response::Head, buf: &[u8]);
    fn answer_body(&mut self, bytes: &[u8]);
}

pub(super) struct Exchange<'a, W> {
    client: &'a mut Stream,
    /// Read from the client beyond what was given on.
    ahead: &'a mut BytesMut,
    alarm: &'a mut Alarm,
    /// Wakes a request that waits for its answer, to see whether its worker still lives.
    pulse: &'a mut Alarm,
    silence: &'a Silence,
    /// Tells whether the connection is to end after this answer.
    admission: &'a Admission,
    worker: UnixStream,
    method: Method,
    version: Version,
    keep_alive: bool,
    limits: Limits,
    /// The request's head and what of its body came with it; kept whole so that it can be sent again.
    first: &'a [u8],
    sent: usize,
    /// `first` went out in more than one piece.
    cut: bool,
    body: BodyScanner,
    /// Body bytes that the worker did not take at once.
    to_worker: BytesMut,
    /// Body bytes beyond `first` were taken: the request cannot be sent again.
    streamed: bool,
    /// The worker takes no more of the body; it may still answer.
    upload_broken: bool,
    /// The answer's head while it arrives.
    incoming: BytesMut,
    scanned: usize,
    answer: Option<response::Head>,
    framing: BodyScanner,
    to_client: BytesMut,
    unflushed: bool,
    /// The worker sent more than one answer, or ended its connection.
    worker_spent: bool,
    stay: bool,
    /// The client sends no more. It may still wait for its answer, or have left: only writing to it tells.
    client_ended: bool,
    watch: W,
}

/// A finished exchange.
pub(super) struct Finished {
    /// The worker's connection, when it can carry another request.
    pub(super) worker: Option<UnixStream>,
    /// The client's connection can carry another request.
    pub(super) stay: bool,
    pub(super) status: u16,
}

impl<'a, W: Watch> Exchange<'a, W> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        conn: &'a mut Conn,
        silence: &'a Silence,
        worker: UnixStream,
        head: &Head,
        first: &'a [u8],
        body: BodyScanner,
        limits: Limits,
        watch: W,
    ) -> Self {
        conn.alarm.clear();
        conn.pulse.clear();
        Exchange {
            client: &mut conn.stream,
            ahead: &mut conn.ahead,
            alarm: &mut conn.alarm,
            pulse: &mut conn.pulse,
            silence,
            admission: &conn.admission,
            worker,
            method: head.method,
            version: head.version,
            keep_alive: head.keep_alive,
            limits,
            first,
            sent: 0,
            cut: false,
            client_ended: false,
            body,
            to_worker: BytesMut::new(),
            streamed: false,
            upload_broken: false,
            incoming: BytesMut::new(),
            scanned: 0,
            answer: None,
            framing: BodyScanner::new(Body::None),
            to_client: BytesMut::new(),
            unflushed: false,
            worker_spent: false,
            stay: head.keep_alive,
            watch,
        }
    }

    /// Whether an answer (even an informational one) has begun to go out to the client.
    pub(super) fn has_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// Whether the whole request so far can be sent to another worker.
    pub(super) fn is_replayable(&self) -> bool {
        !self.streamed && self.answer.is_none()
    }

    pub(super) async fn run(&mut self) -> Result<(), Broken> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    pub(super) fn finish(self) -> Finished {
        let complete = self.is_sent();
        let reusable = complete && !self.worker_spent && !self.upload_broken;
        let status = self.answer.map_or(0, |head| head.status);
        let keeps = self.answer.is_some_and(|head| head.keep_alive) && self.version == Version::Http11;
        Finished { worker: (reusable && keeps).then_some(self.worker), stay: self.stay && complete, status }
    }

    fn is_sent(&self) -> bool {
        self.sent == self.first.len() && self.body.is_done() && self.to_worker.is_empty()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut moved = false;
        for round in 0.. {
            let up = self.upload(cx)?;
            let down = self.download(cx)?;
            if self.answer.is_some() && self.framing.is_done() && self.to_client.is_empty() {
                return self.poll_flush(cx);
            }
            if !up && !down {
                break;
            }
            moved = true;
            if round == BURST {
                cx.waker().wake_by_ref();
                break;
            }
        }
        let _ = self.poll_flush(cx)?;
        if moved {
            self.alarm.clear();
        }
        let (limit, late) = if self.client_ended {
            (HALF_CLOSED_LIMIT, Broken::ClientGone)
        } else if !self.to_client.is_empty() {
            (self.limits.body_timeout, Broken::ClientStalled)
        } else if self.answer.is_some() {
            // The answer takes the time it takes: event streams may be silent for long.
            return Poll::Pending;
        } else if self.is_sent() || !self.to_worker.is_empty() || self.sent < self.first.len() {
            (self.limits.response_timeout, Broken::NoAnswer)
        } else {
            (self.limits.body_timeout, Broken::BodyTimeout)
        };
        if matches!(late, Broken::NoAnswer) {
            while self.pulse.poll(cx, PULSE).is_ready() {
                if self.silence.is_silent() && self.is_replayable() {
                    return Poll::Ready(Err(Broken::Hung));
                }
                self.pulse.clear();
            }
        }
        ready!(self.alarm.poll(cx, limit));
        Poll::Ready(Err(late))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.unflushed {
            ready!(Pin::new(&mut *self.client).poll_flush(cx)).map_err(|_| Broken::ClientGone)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Moves request bytes; says whether any moved.
    fn upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        if self.upload_broken {
            return self.look_ahead(cx);
        }
        if self.sent < self.first.len() {
            return match Pin::new(&mut self.worker).poll_write(cx, &self.first[self.sent..]) {
                Poll::Ready(Ok(n)) => {
                    self.cut |= n < self.first.len();
                    self.sent += n;
                    Ok(true)
                }
                Poll::Ready(Err(_)) if self.sent == 0 && self.answer.is_none() => Err(Broken::Unsent),
                Poll::Ready(Err(_)) => Ok(self.stop_upload()),
                Poll::Pending => Ok(false),
            };
        }
        if !self.to_worker.is_empty() {
            return match Pin::new(&mut self.worker).poll_write(cx, &self.to_worker) {
                Poll::Ready(Ok(n)) => {
                    self.to_worker.advance(n);
                    if self.to_worker.is_empty() {
                        self.to_worker = BytesMut::new();
                    }
                    Ok(true)
                }
                Poll::Ready(Err(_)) => Ok(self.stop_upload()),
                Poll::Pending => Ok(false),
            };
        }
        if self.body.is_done() {
            return self.look_ahead(cx);
        }
        if self.ahead.is_empty() && !self.read_client(cx)? {
            return Ok(false);
        }
        self.streamed = true;
        let belongs = self.body.advance(self.ahead).map_err(|reject| Broken::Framing(reject.reason))?;
        if self.limits.body_bytes.is_some_and(|limit| self.body.payload() > limit) {
            return Err(Broken::BodyTooLong);
        }
        self.to_worker = self.ahead.split_to(belongs);
        Ok(true)
    }

    /// Reads from the client; `false` while nothing comes.
    fn read_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        let read = with_scratch(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *self.client).poll_read(cx, &mut read))?;
            self.ahead.extend_from_slice(read.filled());
            Poll::Ready(io::Result::Ok(read.filled().len()))
        });
        match read {
            Poll::Ready(Ok(n)) if n > 0 => Ok(true),
            Poll::Ready(Ok(_)) => Err(Broken::ClientEnded),
            Poll::Ready(Err(_)) => Err(Broken::ClientGone),
            Poll::Pending => Ok(false),
        }
    }

    /// The request is given on: only that the client leaves is news, and what it sends is its next request.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        while self.ahead.len() < AHEAD_LIMIT && !self.client_ended {
            match self.read_client(cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Broken::ClientEnded) => {
                    self.client_ended = true;
                    self.stay = false;
                    self.keep_alive = false;
                    self.alarm.clear();
                }
                Err(broken) => return Err(broken),
            }
        }
        Ok(false)
    }

    /// The worker reads no more. It may have answered before: that is seen when its answer is read.
    fn stop_upload(&mut self) -> bool {
        self.upload_broken = true;
        self.to_worker = BytesMut::new();
        true
    }

    /// Moves answer bytes; says whether any moved.
    fn download(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        if !self.to_client.is_empty() {
            return match Pin::new(&mut *self.client).poll_write(cx, &self.to_client) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.unflushed = true;
                    self.to_client.advance(n);
                    if self.to_client.is_empty() {
                        self.to_client = BytesMut::new();
                    }
                    Ok(true)
                }
                Poll::Ready(_) => Err(Broken::ClientGone),
                Poll::Pending => Ok(false),
            };
        }
        if self.answer.is_some() && self.framing.is_done() {
            return Ok(false);
        }
        with_scratch(|scratch| {
            let mut read = ReadBuf::new(scratch);
            match Pin::new(&mut self.worker).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => self.worker_ended(),
                Poll::Ready(Ok(())) if self.answer.is_some() => self.pass_body(cx, read.filled()),
                Poll::Ready(Ok(())) => self.read_head(read.filled()),
                Poll::Ready(Err(_)) if self.answer.is_some() => Err(Broken::Truncated),
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset && !self.cut => Err(Broken::Unread),
                Poll::Ready(Err(_)) => Err(Broken::Died),
                Poll::Pending => Ok(false),
            }
        })
    }

    fn worker_ended(&mut self) -> Result<bool, Broken> {
        self.worker_spent = true;
        match self.answer {
            None => Err(Broken::Died),
            Some(head) if head.body == Body::UntilClose => {
                self.framing = BodyScanner::new(Body::None);
                Ok(true)
            }
            Some(_) => Err(Broken::Truncated),
        }
    }

    fn read_head(&mut self, fresh: &[u8]) -> Result<bool, Broken> {
        self.incoming.extend_from_slice(fresh);
        loop {
            match response::check(&self.incoming, self.scanned, self.method) {
                Err(malformed) => return Err(Broken::Malformed(malformed.reason)),
                Ok(Progress::Partial { scanned }) => {
                    self.scanned = scanned;
                    return Ok(true);
                }
                Ok(Progress::Complete(head)) if head.status == 101 => {
                    return Err(Broken::Malformed("a 101 that nobody asked for"));
                }
                Ok(Progress::Complete(head)) if head.status < 200 => {
                    // `100 Continue` and its kind go through; HTTP/1.0 does not know them.
                    if self.version == Version::Http11 {
                        heads::answer(&head, &self.incoming, self.version, true, &mut self.to_client);
                    }
                    self.incoming.advance(head.len);
                    self.scanned = 0;
                }
                Ok(Progress::Complete(head)) => return self.begin_answer(head),
            }
        }
    }

    fn begin_answer(&mut self, head: response::Head) -> Result<bool, Broken> {
        self.stay = self.keep_alive && heads::is_delimited(&head, self.version) && !self.admission.standing().ends();
        self.watch.answer_head(&head, &self.incoming);
        self.to_client.reserve(self.incoming.len() + 64);
        heads::answer(&head, &self.incoming, self.version, self.stay, &mut self.to_client);
        self.framing = BodyScanner::new(head.body);
        let rest = &self.incoming[head.len..];
        let belongs = self.framing.advance(rest).map_err(|reject| Broken::Malformed(reject.reason))?;
        self.watch.answer_body(&rest[..belongs]);
        self.worker_spent |= belongs < rest.len();
        self.to_client.extend_from_slice(&rest[..belongs]);
        self.incoming = BytesMut::new();
        self.answer = Some(head);
        Ok(true)
    }

    fn pass_body(&mut self, cx: &mut Context<'_>, fresh: &[u8]) -> Result<bool, Broken> {
        let Ok(belongs) = self.framing.advance(fresh) else { return Err(Broken::Truncated) };
        self.worker_spent |= belongs < fresh.len();
        let fresh = &fresh[..belongs];
        self.watch.answer_body(fresh);
        let written = match Pin::new(&mut *self.client).poll_write(cx, fresh) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(_)) => return Err(Broken::ClientGone),
            Poll::Pending => 0,
        };
        self.unflushed |= written > 0;
        self.to_client.extend_from_slice(&fresh[written..]);
        Ok(true)
    }
}
