//! One HTTP/2 stream: a request and its response.

use super::budget::{Budget, Charged, Turn};
use super::shared::{Shared, StreamEnd};
use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::downstream::scratch::SCRATCH;
use crate::gateway::exchange::client::{ClientFault, ClientHalf, Presence, ResponseFault};
use crate::gateway::exchange::dispatch::{Outcome, Request, dispatch};
use crate::gateway::http1::body::{BodyScanner, Piece};
use crate::gateway::http1::{Body, Method, response};
use crate::gateway::request::body::BodyWriter;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::heads::{self, passes_as_trailer, push_field};
use crate::gateway::request::plan;
use crate::gateway::request::socketio;
use crate::gateway::rules::Rules;
use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Bytes of a response's trailer section.
const TRAILER_BYTES: usize = 8 << 10;
/// Bytes read at once of a response's head, and what came with it, while the connection has no room for bodies.
const HEAD_READ: usize = 1 << 10;

/// Serves one request.
pub(super) async fn serve(
    rules: Arc<Rules>,
    shared: Shared,
    request: http::Request<RecvStream>,
    respond: SendResponse<Charged>,
) -> StreamEnd {
    let (parts, body) = request.into_parts();
    let is_head = parts.method == http::Method::HEAD;
    let checked = match heads::check_http2(&parts, body.is_end_stream(), &rules.head_limits) {
        Ok(checked) => checked,
        Err(reject) => return refuse(respond, &shared.budget, reject.into(), is_head),
    };
    let Some(app) = rules.routes.find(checked.host, checked.target) else {
        return refuse(respond, &shared.budget, ErrorResponse::NO_ROUTE, is_head);
    };
    let app = &rules.apps[app];
    let limits = rules.request_limits(app);
    let method = Method::of(checked.method.as_str().as_bytes());
    let affinity = app.pool.settings();
    let is_get = method == Method::Get;
    let plan = plan::plan(&affinity.affinity, checked.target, checked.fields, shared.client.ip, is_get, false);
    let request = Request {
        head: heads::request_from_http2(&checked, shared.client),
        method,
        method_name: checked.method.as_str().as_bytes(),
        target: checked.target,
        upgrade: false,
        expect_continue: checked.expect_continue,
        may_keep: true,
        plan,
    };
    let mut client = Http2Client::new(&shared, body, respond, checked.body, limits.body_bytes);
    let outcome = dispatch(app, &shared.registry, limits, request, &mut client).await;
    match outcome {
        Outcome::Answered => {}
        // No request of HTTP/2 asks for one.
        Outcome::Switched(..) => client.reset(Reason::INTERNAL_ERROR),
        // The client must see that its answer is not whole.
        Outcome::Cut if !client.was_reset => {
            // A reset discards what is still to be written: the connection's task writes first.
            tokio::task::yield_now().await;
            client.reset(Reason::INTERNAL_ERROR);
        }
        Outcome::Cut => {}
        Outcome::EndPoll => {
            let (kind, body) = socketio::close_poll_body(checked.target);
            let mut response = Response::new(());
            let fields = response.headers_mut();
            if let Ok(kind) = HeaderValue::from_str(&kind) {
                fields.insert(CONTENT_TYPE, kind);
            }
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            send(client.respond, &shared.budget, response, body.into());
        }
        Outcome::Refused(response) => return refuse(client.respond, &shared.budget, response, is_head),
    }
    StreamEnd { was_reset: client.was_reset }
}

/// Answers in the worker's place.
fn refuse(respond: SendResponse<Charged>, budget: &Arc<Budget>, refusal: ErrorResponse, is_head: bool) -> StreamEnd {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = refusal.retry_after() {
        fields.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    send(respond, budget, response, if is_head { Bytes::new() } else { refusal.body() });
    StreamEnd { was_reset: false }
}

/// Sends a whole small answer. The client may have left.
fn send(mut respond: SendResponse<Charged>, budget: &Arc<Budget>, response: Response<()>, body: Bytes) {
    let sent = respond.send_response(response, body.is_empty()).and_then(|mut stream| match body.is_empty() {
        true => Ok(()),
        false => stream.send_data(budget.charge(body), true),
    });
    if let Err(error) = sent {
        log::debug!("a client left before its answer: {error}");
    }
}

/// How far the response is.
enum Sending {
    Waiting,
    /// Its head is out.
    Body(SendStream<Charged>),
    Ended,
}

/// The client's half of an exchange over HTTP/2.
struct Http2Client {
    body: RecvStream,
    writer: BodyWriter,
    /// Content that the head announces, in bytes.
    length: Option<u64>,
    respond: SendResponse<Charged>,
    sending: Sending,
    /// Of the response: content that the client did not take at once.
    pending: BytesMut,
    trailers: Vec<u8>,
    /// Whether the budget lets more of the response be read.
    turn: Turn,
    sent: u64,
    deadline: Deadline,
    was_reset: bool,
}

impl Http2Client {
    fn new(
        shared: &Shared,
        body: RecvStream,
        respond: SendResponse<Charged>,
        framing: Body,
        limit: Option<u64>,
    ) -> Http2Client {
        let length = match framing {
            Body::Length(length) => Some(length),
            _ => None,
        };
        Http2Client {
            body,
            writer: BodyWriter::new(framing, limit),
            length,
            respond,
            sending: Sending::Waiting,
            pending: BytesMut::new(),
            trailers: Vec::new(),
            turn: Turn::new(shared.budget.clone()),
            sent: 0,
            deadline: Deadline::default(),
            was_reset: false,
        }
    }

    /// Ready with how many bytes of the response may be read. A head may always be read, so that a full budget does
    /// not use up `response_timeout`, which is the worker's time.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if !matches!(self.sending, Sending::Body(_)) {
            return Poll::Ready(if self.turn.budget().has_room() { SCRATCH } else { HEAD_READ });
        }
        self.turn.poll(cx).map(|()| SCRATCH)
    }

    fn reset(&mut self, reason: Reason) {
        match &mut self.sending {
            Sending::Body(stream) => stream.send_reset(reason),
            _ => self.respond.send_reset(reason),
        }
    }

    /// Sends pending content as the client's window allows; with the last of it the end, if `ends`.
    fn poll_pending(&mut self, cx: &mut Context<'_>, ends: bool) -> Poll<Result<(), ResponseFault>> {
        let Sending::Body(stream) = &mut self.sending else { return Poll::Ready(Ok(())) };
        while !self.pending.is_empty() {
            stream.reserve_capacity(self.pending.len());
            if stream.capacity() == 0 {
                match stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) if stream.capacity() > 0 => {}
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(_) => {
                        self.was_reset = true;
                        return Poll::Ready(Err(ResponseFault::ClientGone));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            let part = self.pending.split_to(stream.capacity().min(self.pending.len()));
            self.sent += part.len() as u64;
            let is_last = ends && self.pending.is_empty();
            if stream.send_data(self.turn.budget().charge(part.freeze()), is_last).is_err() {
                self.was_reset = true;
                return Poll::Ready(Err(ResponseFault::ClientGone));
            }
            if is_last {
                self.sending = Sending::Ended;
                break;
            }
        }
        self.pending = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl ClientHalf for Http2Client {
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), ClientFault>> {
        match self.body.poll_data(cx) {
            Poll::Ready(Some(Ok(content))) => {
                let written = self.writer.write(&content, out).map_err(ClientFault::Body);
                let _ = self.body.flow_control().release_capacity(content.len());
                Poll::Ready(written)
            }
            Poll::Ready(Some(Err(_))) => {
                self.was_reset = true;
                Poll::Ready(Err(ClientFault::Gone))
            }
            Poll::Ready(None) => match self.body.poll_trailers(cx) {
                Poll::Ready(Ok(trailers)) => {
                    self.writer.end(&trailer_lines(trailers.as_ref()), out);
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(_)) => {
                    self.was_reset = true;
                    Poll::Ready(Err(ClientFault::Gone))
                }
                Poll::Pending => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }

    fn body_is_done(&self) -> bool {
        self.writer.has_ended()
    }

    fn body_left(&self) -> Option<u64> {
        match self.writer.has_ended() {
            true => Some(0),
            false => self.length.map(|length| length.saturating_sub(self.writer.content())),
        }
    }

    fn body_taken(&self) -> u64 {
        self.writer.content()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Result<(), ClientFault> {
        let reset = match &mut self.sending {
            Sending::Waiting => self.respond.poll_reset(cx).map(drop),
            Sending::Body(stream) => stream.poll_reset(cx).map(drop),
            Sending::Ended => Poll::Pending,
        };
        match reset {
            Poll::Ready(()) => {
                self.was_reset = true;
                Err(ClientFault::Gone)
            }
            Poll::Pending => Ok(()),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Result<(), ClientFault> {
        self.poll_gone(cx)
    }

    fn is_unread(&self) -> bool {
        // A reset is told, whatever is not read.
        false
    }

    fn presence(&self) -> Presence {
        Presence::Here
    }

    fn inform(&mut self, head: &response::Head, buf: &[u8]) {
        if let Some(response) = heads::response_to_http2(head, buf) {
            // A client that has left is noticed elsewhere.
            let _ = self.respond.send_informational(response);
        }
    }

    fn begin(&mut self, head: &response::Head, buf: &[u8], _is_early: bool) -> Result<(), ResponseFault> {
        let response = heads::response_to_http2(head, buf).ok_or(ResponseFault::Malformed)?;
        let ends = matches!(head.body, Body::None | Body::Length(0));
        match self.respond.send_response(response, ends) {
            Ok(_) if ends => self.sending = Sending::Ended,
            Ok(stream) => self.sending = Sending::Body(stream),
            Err(_) => {
                self.was_reset = true;
                return Err(ResponseFault::ClientGone);
            }
        }
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ResponseFault>> {
        // No window is asked for in advance: that would take it from the connection's other streams.
        ready!(self.poll_pending(cx, false))?;
        self.poll_turn(cx).map(Ok)
    }

    fn has_pending(&self) -> bool {
        // Whether the client takes what other streams have waiting is for the connection to see.
        !self.pending.is_empty()
    }

    fn body(&mut self, cx: &mut Context<'_>, framing: &mut BodyScanner, bytes: &[u8]) -> Result<usize, ResponseFault> {
        let mut at = 0;
        while at < bytes.len() && !framing.is_done() {
            let (taken, piece) = framing.next(&bytes[at..]).map_err(|_| ResponseFault::Malformed)?;
            let end = at + taken;
            match piece {
                Piece::Framing => {}
                Piece::Content(len) => self.pending.extend_from_slice(&bytes[end - len..end]),
                Piece::Trailers(len) if self.trailers.len() + len <= TRAILER_BYTES => {
                    self.trailers.extend_from_slice(&bytes[end - len..end]);
                }
                Piece::Trailers(_) => {}
            }
            at = end;
        }
        // The last content goes out with the end of the stream.
        if !framing.is_done()
            && let Poll::Ready(sent) = self.poll_pending(cx, false)
        {
            sent?;
        }
        Ok(at)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>> {
        let trailers = trailer_map(&self.trailers);
        match self.poll_pending(cx, trailers.is_empty()) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        if let Sending::Body(stream) = &mut self.sending {
            let ended = match trailers.is_empty() {
                true => stream.send_data(self.turn.budget().charge(Bytes::new()), true),
                false => stream.send_trailers(trailers),
            };
            self.sending = Sending::Ended;
            if ended.is_err() {
                self.was_reset = true;
                return Poll::Ready(Err(ResponseFault::ClientGone));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>> {
        // The connection's task writes.
        Poll::Ready(Ok(()))
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }
}

/// A request's trailers as lines for an HTTP/1 worker, those that may be passed on.
fn trailer_lines(trailers: Option<&HeaderMap>) -> Vec<u8> {
    let mut lines = BytesMut::new();
    for (name, value) in trailers.into_iter().flatten() {
        let passes = passes_as_trailer(name.as_str().as_bytes(), value.as_bytes());
        if passes && lines.len() + name.as_str().len() + value.len() <= TRAILER_BYTES {
            push_field(&mut lines, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    lines.to_vec()
}

/// A response's trailers, those that may be passed on.
fn trailer_map(section: &[u8]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for line in section.split(|&b| b == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if passes_as_trailer(name, value)
            && let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            trailers.append(name, value);
        }
    }
    trailers
}
