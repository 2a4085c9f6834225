//! HTTP/1 with the client: one request of a connection.

use crate::gateway::access::facts::Facts;
use crate::gateway::access::{Entry, Line};
use crate::gateway::downstream::client_tls;
use crate::gateway::downstream::close::{close, reset_on_close, send_and_close};
use crate::gateway::downstream::connection::{Connection, READ_AHEAD_LIMIT};
use crate::gateway::downstream::connections::{ConnectionRegistry, Directive};
use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::downstream::scratch::SCRATCH;
use crate::gateway::exchange::client::{ClientFault, ClientHalf, Presence, ResponseFault};
use crate::gateway::exchange::dispatch::{Outcome, Request, dispatch};
use crate::gateway::exchange::local;
use crate::gateway::exchange::transfer::Switched;
use crate::gateway::http1::body::BodyScanner;
use crate::gateway::http1::head::Head;
use crate::gateway::http1::{Method, Version, response};
use crate::gateway::local::answer::LocalAnswer;
use crate::gateway::migration::format;
use crate::gateway::request::body::Http1Body;
use crate::gateway::request::client::RequestClient;
use crate::gateway::request::error_pages::Reader;
use crate::gateway::request::heads::{self, Persistence, RequestLine};
use crate::gateway::request::limits::{BodyWait, RequestLimits};
use crate::gateway::request::plan::{self, RawHeaders};
use crate::gateway::request::request_id::RequestId;
use crate::gateway::request::route::Route;
use crate::gateway::request::socketio;
use crate::gateway::rules::{App, Rules};
use crate::pool::Lease;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::Stream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

/// How much of a body may still come after its answer for the connection to stay, in bytes.
const DRAIN_BYTES: u64 = 256 * 1024;
/// The same where the early answer is none of 2xx, in bytes: most of them refuse the body.
const DRAIN_AFTER_REFUSAL: u64 = 64 * 1024;

/// What comes after a request.
pub(in crate::gateway) enum Next {
    /// Another request may follow on the connection.
    Request(Connection),
    /// It goes on as a WebSocket; the bytes are for the client and have not been sent yet, and the
    /// entry is for the access log.
    Tunnel(Box<Switched>, Lease, Connection, BytesMut, Option<Box<Entry>>),
    Closed,
}

impl Next {
    /// The connection, where another request may follow.
    pub(in crate::gateway) fn connection(self) -> Option<Connection> {
        match self {
            Next::Request(connection) => Some(connection),
            Next::Tunnel(..) | Next::Closed => None,
        }
    }
}

/// Takes the head of a request off what was read.
fn take_head(connection: &mut Connection, head: &Head) -> BytesMut {
    match connection.read_ahead.len() == head.len {
        true => std::mem::take(&mut connection.read_ahead),
        false => connection.read_ahead.split_to(head.len),
    }
}

/// Gives an answer of the proxy's own to the request whose head begins `connection.read_ahead`.
pub(in crate::gateway) async fn answer(
    rules: &Rules,
    route: &Route,
    mut connection: Connection,
    head: &Head,
    asker: &RequestClient,
    answer: LocalAnswer,
) -> Next {
    let limits = rules.request_limits(route, None);
    let buf = take_head(&mut connection, head);
    let mut line = rules.access.as_ref().map(|log| {
        let facts = Facts::of_http1(head, &buf, asker);
        Line::new(log, Facts { route: Some(&route.name), ..facts })
    });
    let mut client = Http1Client::new(rules, &mut connection, head, limits.body_bytes, asker.id);
    let trace = line.as_mut().map(|line| &mut line.trace);
    let outcome = local::give(&mut client, &limits, head.method, answer, trace).await;
    drop(line);
    let Http1Client { stays, mut body, is_delimited, .. } = client;
    match outcome {
        Outcome::Answered if stays && drain(&mut connection, &mut body, &limits).await => Next::Request(connection),
        Outcome::Cut if !is_delimited => {
            reset_on_close(&connection.stream);
            Next::Closed
        }
        _ => {
            close(connection.stream).await;
            Next::Closed
        }
    }
}

/// Serves the request whose head begins `connection.read_ahead`.
pub(in crate::gateway) async fn serve(
    rules: &Rules,
    route: &Route,
    app: &App,
    registry: &ConnectionRegistry,
    mut connection: Connection,
    head: &Head,
    asker: RequestClient,
) -> Next {
    let limits = rules.request_limits(route, Some(app));
    let buf = take_head(&mut connection, head);
    let rewritten = route.rewritten(head.target.of(&buf));
    let (target, request_line) = match &rewritten {
        Some(rewritten) => (rewritten.target.as_slice(), RequestLine::of(rewritten)),
        None => (head.target.of(&buf), RequestLine::as_asked(head.path.of(&buf))),
    };
    let headers = RawHeaders { head, buf: &buf };
    let is_get = head.method == Method::Get;
    let affinity = app.pool.settings();
    let plan = plan::plan(&affinity.affinity, target, headers, asker.ip, is_get, head.websocket);
    let forwarding = &rules.clients.forwarding;
    let mut worker_head = heads::request_from_http1(head, &buf, request_line, &asker, forwarding, &rules.loop_name);
    client_tls::tell(connection.tls.as_ref(), &mut worker_head.bytes);
    let request = Request {
        head: worker_head,
        client: asker.limited(forwarding),
        method: head.method,
        method_name: head.method_name.of(&buf),
        target,
        upgrade: head.websocket,
        expect_continue: head.expect_continue,
        may_keep: head.version == Version::Http11,
        plan,
    };
    let mut line = rules.access.as_ref().map(|log| {
        let facts = Facts::of_http1(head, &buf, &asker);
        Line::new(log, Facts { app: Some(&app.pool.app), route: Some(&route.name), ..facts })
    });
    let mut client = Http1Client::new(rules, &mut connection, head, limits.body_bytes, asker.id);
    let trace = line.as_mut().map(|line| &mut line.trace);
    let outcome = dispatch(app, registry, limits, request, &mut client, trace).await;
    let logged = match &outcome {
        Outcome::Switched(..) => line.map(Line::into_tunnel),
        // Its line is written now: the connection's end takes its time.
        _ => {
            drop(line);
            None
        }
    };
    let Http1Client { stays, mut body, pending, is_delimited, .. } = client;
    match outcome {
        Outcome::Answered if stays && drain(&mut connection, &mut body, &limits).await => Next::Request(connection),
        Outcome::Switched(switched, lease) => Next::Tunnel(switched, lease, connection, pending, logged),
        Outcome::Cut if !is_delimited => {
            // Its end alone would make the answer look whole.
            reset_on_close(&connection.stream);
            Next::Closed
        }
        // Bytes that nobody reads would turn the end into a reset. That would discard what is still on its way to the
        // client, answers to earlier requests too.
        Outcome::Answered | Outcome::Cut => {
            close(connection.stream).await;
            Next::Closed
        }
        Outcome::EndPoll => {
            send_and_close(connection.stream, &socketio::close_poll(target)).await;
            Next::Closed
        }
        Outcome::Refused(response) => {
            let reader = Reader::of(headers, &asker.id);
            let message = rules.error_pages.message(&response, &reader, head.method == Method::Head);
            send_and_close(connection.stream, &message).await;
            Next::Closed
        }
    }
}

/// Reads what is left of a body whose answer is out and has said that the connection stays. It is waited for as any
/// body is, so that the word holds for slow clients, too. `false`: the connection cannot go on.
async fn drain(connection: &mut Connection, body: &mut Http1Body, limits: &RequestLimits) -> bool {
    let (mut wait, mut taken) = (BodyWait::default(), 0);
    std::future::poll_fn(|cx| {
        connection.guard.watch(cx);
        while !body.is_done() {
            if connection.read_ahead.is_empty() {
                match connection.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        wait.moved();
                        taken += n as u64;
                    }
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if connection.guard.directive() == Directive::Drain => return Poll::Ready(false),
                    Poll::Pending => {
                        let Ok(look) = wait.look(limits, taken, Instant::now()) else { return Poll::Ready(false) };
                        ready!(connection.deadline.poll_at(cx, look));
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
            }
            if body.discard(&mut connection.read_ahead).is_err() {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    })
    .await
}

/// The client's half of an exchange over HTTP/1.
struct Http1Client<'a> {
    connection: &'a mut Connection,
    body: Http1Body,
    version: Version,
    /// The client lets the connection go on.
    keep_alive: bool,
    keep_alive_hint: &'a [u8],
    /// The client waits for `100 Continue`, and has not got it.
    expects: bool,
    /// The connection can carry another request.
    stays: bool,
    /// The client can tell an answer that is cut from a whole one.
    is_delimited: bool,
    /// Of the request, for its answer.
    id: RequestId,
    /// What the client did not take at once.
    pending: BytesMut,
    sent: u64,
    /// Bytes of the final response's head, and of those before it.
    head_len: u64,
    is_flushed: bool,
}

impl<'a> Http1Client<'a> {
    fn new(
        rules: &'a Rules,
        connection: &'a mut Connection,
        head: &Head,
        limit: Option<u64>,
        id: RequestId,
    ) -> Http1Client<'a> {
        Http1Client {
            connection,
            body: Http1Body::new(head.body, limit),
            version: head.version,
            keep_alive: head.keep_alive,
            keep_alive_hint: &rules.keep_alive_hint,
            expects: head.expect_continue,
            stays: head.keep_alive,
            is_delimited: true,
            id,
            pending: BytesMut::new(),
            sent: 0,
            head_len: 0,
            is_flushed: true,
        }
    }

    /// Writes what is pending, as far as the client takes it.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>> {
        while !self.pending.is_empty() {
            match Pin::new(&mut self.connection.stream).poll_write(cx, &self.pending) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.is_flushed = false;
                    self.sent += n as u64;
                    self.pending.advance(n);
                }
                Poll::Ready(_) => return Poll::Ready(Err(ResponseFault::ClientGone)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.pending = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Whether the rest of a request that is answered before its end may be read, so that the connection stays.
    fn may_drain(&self, status: u16) -> bool {
        match status {
            _ if self.expects => false,
            // It may be an echo: the body goes on while the answer does.
            200..300 => self.body.left().is_some_and(|left| left <= DRAIN_BYTES),
            _ => self.body.left().is_some_and(|left| left <= DRAIN_AFTER_REFUSAL),
        }
    }
}

/// Whether the other end of a stream has ended or is gone, without reading.
fn presence(stream: &Stream) -> Presence {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let Some(fd) = format::socket(stream) else { return Presence::Here };
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    if poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_err() {
        return Presence::Here;
    }
    match polled[0].revents() {
        seen if seen.intersects(PollFlags::HUP | PollFlags::ERR) => Presence::Gone,
        seen if seen.contains(PollFlags::RDHUP) => Presence::Ended,
        _ => Presence::Here,
    }
}

impl ClientHalf for Http1Client<'_> {
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), ClientFault>> {
        if self.connection.read_ahead.is_empty() {
            match self.connection.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(Ok(_)) => return Poll::Ready(Err(ClientFault::Ended)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ClientFault::Gone)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(self.body.step(&mut self.connection.read_ahead, out).map_err(ClientFault::Body))
    }

    fn body_is_done(&self) -> bool {
        self.body.is_done()
    }

    fn body_left(&self) -> Option<u64> {
        self.body.left()
    }

    fn body_taken(&self) -> u64 {
        self.body.content()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Result<(), ClientFault> {
        while self.connection.read_ahead.len() < READ_AHEAD_LIMIT {
            match self.connection.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(Ok(_)) => {
                    // What it has sent before is answered.
                    if self.connection.read_ahead.is_empty() {
                        (self.stays, self.keep_alive) = (false, false);
                    }
                    return Err(ClientFault::Ended);
                }
                Poll::Ready(Err(_)) => return Err(ClientFault::Gone),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn poll_reset(&mut self, _cx: &mut Context<'_>) -> Result<(), ClientFault> {
        // Seen by `presence`: to read would take the body.
        Ok(())
    }

    fn is_unread(&self) -> bool {
        self.connection.read_ahead.len() >= READ_AHEAD_LIMIT
    }

    fn presence(&self) -> Presence {
        presence(&self.connection.stream)
    }

    fn inform(&mut self, head: &response::Head, buf: &[u8]) {
        self.expects &= head.status != 100;
        // HTTP/1.0 does not know them.
        if self.version == Version::Http11 {
            let pending = &mut self.pending;
            heads::response_to_http1(head, buf, self.version, Persistence::Close, &self.id, None, pending);
        }
    }

    fn begin(&mut self, head: &response::Head, buf: &[u8], is_early: bool) -> Result<(), ResponseFault> {
        self.is_delimited = heads::is_delimited(head, self.version);
        self.stays = self.keep_alive
            && self.is_delimited
            && !self.connection.guard.directive().ends()
            && (!is_early || self.may_drain(head.status));
        let persistence = if self.stays { Persistence::Keep(self.keep_alive_hint) } else { Persistence::Close };
        self.pending.reserve(buf.len() + 64);
        let hsts = self.connection.client.hsts;
        heads::response_to_http1(head, buf, self.version, persistence, &self.id, hsts, &mut self.pending);
        self.head_len = self.sent + self.pending.len() as u64;
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ResponseFault>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(SCRATCH));
        }
        self.poll_pending(cx).map_ok(|()| SCRATCH)
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.is_flushed
    }

    fn body(&mut self, cx: &mut Context<'_>, framing: &mut BodyScanner, bytes: &[u8]) -> Result<usize, ResponseFault> {
        let belongs = framing.advance(bytes).map_err(|_| ResponseFault::Malformed)?;
        let mut fresh = &bytes[..belongs];
        if self.pending.is_empty() && !fresh.is_empty() {
            match Pin::new(&mut self.connection.stream).poll_write(cx, fresh) {
                Poll::Ready(Ok(n)) => {
                    self.is_flushed = false;
                    self.sent += n as u64;
                    fresh = &fresh[n..];
                }
                Poll::Ready(Err(_)) => return Err(ResponseFault::ClientGone),
                Poll::Pending => {}
            }
        }
        self.pending.extend_from_slice(fresh);
        Ok(belongs)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>> {
        match self.poll_pending(cx) {
            Poll::Ready(Ok(())) => self.poll_flush(cx),
            other => other,
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>> {
        if !self.is_flushed {
            match Pin::new(&mut self.connection.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_flushed = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ResponseFault::ClientGone)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn head_sent(&self) -> u64 {
        self.sent.min(self.head_len)
    }

    fn deadline(&mut self) -> &mut Deadline {
        &mut self.connection.deadline
    }
}
