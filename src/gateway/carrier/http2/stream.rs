//! One HTTP/2 stream: a request and its response.

use super::answer::Answer;
use super::budget::Charged;
use super::delegated;
use super::refusal::refuse;
use super::shared::{Shared, StreamEnd};
use crate::gateway::access::Line;
use crate::gateway::access::facts::Facts;
use crate::gateway::downstream::client_tls::{self, ClientTls};
use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::downstream::scratch::SCRATCH;
use crate::gateway::exchange::admission;
use crate::gateway::exchange::client::{ClientFault, ClientHalf, Presence, ResponseFault};
use crate::gateway::exchange::dispatch::{Outcome, Request, dispatch};
use crate::gateway::exchange::local;
use crate::gateway::http1::body::{BodyScanner, Piece};
use crate::gateway::http1::{Body, Method, response};
use crate::gateway::local::answer::LocalAnswer;
use crate::gateway::local::decide;
use crate::gateway::request::body::BodyWriter;
use crate::gateway::request::client::RequestClient;
use crate::gateway::request::error_pages::Reader;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::fields::{passes_as_request_trailer, passes_as_trailer};
use crate::gateway::request::heads::{self, RequestLine, push_field};
use crate::gateway::request::http2_head::{self, Http2Request};
use crate::gateway::request::limits::RequestLimits;
use crate::gateway::request::plan;
use crate::gateway::request::route::Rewritten;
use crate::gateway::request::route_table::Asked;
use crate::gateway::request::socketio;
use crate::gateway::rules::{App, Protocol, Rules};
use bytes::BytesMut;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
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
    let mut answer = Answer::new(respond, shared.budget.clone(), shared.client.hsts);
    let client = RequestClient::of(&rules.clients.forwarding, shared.client, &parts.headers);
    answer.set_id(client.id);
    let line = |app, route| {
        let log = rules.access.as_ref()?;
        let facts = Facts::of_fields(&parts.method, &parts.uri, &parts.headers, &client);
        Some(Line::new(log, Facts { app, route, ..facts }))
    };
    let refused = |mut answer: Answer, response: ErrorResponse, reason| {
        let is_head = parts.method == http::Method::HEAD;
        line(None, None).into_iter().for_each(|mut line| line.trace.refused(&response, reason));
        refuse(&mut answer, response, &rules.error_pages, &Reader::of(&parts.headers, &client.id), is_head);
        StreamEnd { was_reset: false }
    };
    let checked = match http2_head::check_http2(&parts, body.is_end_stream(), &rules.head_limits) {
        Ok(checked) => checked,
        Err(reject) => return refused(answer, reject.into(), "refused_head"),
    };
    let asked = asked(&checked);
    let _place = match admission::request(&rules, &shared.registry, &client) {
        Ok(place) => place,
        Err(response) => return refused(answer, response, "too_many_requests"),
    };
    if shared.tls.as_ref().is_some_and(|client| client.is_misdirected(checked.host)) {
        return refused(answer, ErrorResponse::MISDIRECTED, "misdirected");
    }
    let route = match rules.route(&asked) {
        Ok(route) => route,
        Err((response, reason)) => return refused(answer, response, reason),
    };
    if !route.only_asks_the_app()
        && let Some(own) = Box::pin(decide::answer(&rules, route, &asked, false, &client.id)).await
    {
        let limits = rules.request_limits(route, None);
        let half = Http2Client::new(body, answer, checked.body, limits.body_bytes);
        return Box::pin(answer_here(half, &limits, &asked, own, line(None, Some(&*route.name)))).await;
    }
    let Some(app) = rules.app_of(route) else { return refused(answer, ErrorResponse::NO_ROUTE, "no_route") };
    let limits = rules.request_limits(route, Some(app));
    if app.protocol == Protocol::Http2 {
        return delegated::serve(&shared, client, limits, parts, body, answer).await;
    }
    let rewritten = route.rewritten(checked.target);
    let request = to_worker(&checked, rewritten.as_ref(), app, (&client, shared.tls.as_ref()), &rules);
    let mut half = Http2Client::new(body, answer, checked.body, limits.body_bytes);
    let mut line = line(Some(&*app.pool.app), Some(&*route.name));
    let trace = line.as_mut().map(|line| &mut line.trace);
    let outcome = dispatch(app, &shared.registry, limits, request, &mut half, trace).await;
    drop(line);
    finish(outcome, half.answer, &checked, &rules, &client).await
}

fn asked<'a>(request: &Http2Request<'a>) -> Asked<'a, &'a HeaderMap> {
    Asked {
        host: request.host,
        target: request.target,
        method: request.method.as_str().as_bytes(),
        headers: request.fields,
    }
}

/// Gives an answer of the proxy's own.
async fn answer_here(
    mut client: Http2Client,
    limits: &RequestLimits,
    asked: &Asked<'_, &HeaderMap>,
    answer: LocalAnswer,
    mut line: Option<Box<Line<'_>>>,
) -> StreamEnd {
    let trace = line.as_mut().map(|line| &mut line.trace);
    let outcome = local::give(&mut client, limits, Method::of(asked.method), answer, trace).await;
    drop(line);
    let mut answer = client.answer;
    if matches!(outcome, Outcome::Cut) && !answer.was_reset() {
        tokio::task::yield_now().await;
        answer.reset(Reason::INTERNAL_ERROR);
    }
    StreamEnd { was_reset: answer.was_reset() }
}

/// The request as a worker gets it.
fn to_worker<'a>(
    checked: &Http2Request<'a>,
    rewritten: Option<&'a Rewritten<'_>>,
    app: &App,
    (client, tls): (&RequestClient, Option<&ClientTls>),
    rules: &Rules,
) -> Request<'a> {
    let (target, line) = match rewritten {
        Some(rewritten) => (rewritten.target.as_slice(), RequestLine::of(rewritten)),
        None => (checked.target, RequestLine::as_asked(checked.target)),
    };
    let method = Method::of(checked.method.as_str().as_bytes());
    let affinity = app.pool.settings();
    let is_get = method == Method::Get;
    let forwarding = &rules.clients.forwarding;
    let plan = plan::plan(&affinity.affinity, target, checked.fields, client.ip, is_get, false);
    let mut worker_head = heads::request_from_http2(checked, line, client, forwarding, &rules.loop_name);
    client_tls::tell(tls, &mut worker_head.bytes);
    Request {
        head: worker_head,
        client: client.limited(forwarding),
        method,
        method_name: checked.method.as_str().as_bytes(),
        target,
        upgrade: false,
        expect_continue: checked.expect_continue,
        may_keep: true,
        plan,
    }
}

/// What becomes of the stream, now that nobody works for it any more.
async fn finish(
    outcome: Outcome,
    mut answer: Answer,
    request: &Http2Request<'_>,
    rules: &Rules,
    client: &RequestClient,
) -> StreamEnd {
    match outcome {
        Outcome::Answered => {}
        // No request of HTTP/2 asks for one.
        Outcome::Switched(..) => answer.reset(Reason::INTERNAL_ERROR),
        // The client must see that its answer is not whole.
        Outcome::Cut if !answer.was_reset() => {
            // A reset discards what is still to be written: the connection's task writes first.
            tokio::task::yield_now().await;
            answer.reset(Reason::INTERNAL_ERROR);
        }
        Outcome::Cut => {}
        Outcome::EndPoll => {
            let (kind, body) = socketio::close_poll_body(request.target);
            let mut response = Response::new(());
            let fields = response.headers_mut();
            if let Ok(kind) = HeaderValue::from_str(&kind) {
                fields.insert(CONTENT_TYPE, kind);
            }
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            answer.send_whole(response, body.into());
        }
        Outcome::Refused(response) => {
            let is_head = *request.method == http::Method::HEAD;
            refuse(&mut answer, response, &rules.error_pages, &Reader::of(request.fields, &client.id), is_head);
        }
    }
    StreamEnd { was_reset: answer.was_reset() }
}

/// The client's half of an exchange over HTTP/2.
struct Http2Client {
    body: RecvStream,
    writer: BodyWriter,
    /// Content that the head announces, in bytes.
    length: Option<u64>,
    answer: Answer,
    /// Of the response: content that the client did not take at once.
    pending: BytesMut,
    trailers: Vec<u8>,
    deadline: Deadline,
}

impl Http2Client {
    fn new(body: RecvStream, answer: Answer, framing: Body, limit: Option<u64>) -> Http2Client {
        let length = match framing {
            Body::Length(length) => Some(length),
            _ => None,
        };
        Http2Client {
            body,
            writer: BodyWriter::new(framing, limit),
            length,
            answer,
            pending: BytesMut::new(),
            trailers: Vec::new(),
            deadline: Deadline::default(),
        }
    }

    /// Ready with how many bytes of the response may be read. A head may always be read, so that a full budget does
    /// not use up `response_timeout`, which is the worker's time.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if !self.answer.is_sending() {
            return Poll::Ready(if self.answer.has_room() { SCRATCH } else { HEAD_READ });
        }
        self.answer.poll_turn(cx).map(|()| SCRATCH)
    }

    fn gone(&mut self) -> ClientFault {
        self.answer.gone();
        ClientFault::Gone
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
            Poll::Ready(Some(Err(_))) => Poll::Ready(Err(self.gone())),
            Poll::Ready(None) => match self.body.poll_trailers(cx) {
                Poll::Ready(Ok(trailers)) => {
                    self.writer.end(&trailer_lines(trailers.as_ref()), out);
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(_)) => Poll::Ready(Err(self.gone())),
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
        match self.answer.poll_reset(cx) {
            Poll::Ready(()) => Err(ClientFault::Gone),
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
            self.answer.inform(response);
        }
    }

    fn begin(&mut self, head: &response::Head, buf: &[u8], _is_early: bool) -> Result<(), ResponseFault> {
        let response = heads::response_to_http2(head, buf).ok_or(ResponseFault::Malformed)?;
        let ends = matches!(head.body, Body::None | Body::Length(0));
        self.answer.begin(response, ends)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ResponseFault>> {
        // No window is asked for in advance: that would take it from the connection's other streams.
        ready!(self.answer.poll_send(cx, &mut self.pending, false))?;
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
            && let Poll::Ready(sent) = self.answer.poll_send(cx, &mut self.pending, false)
        {
            sent?;
        }
        Ok(at)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>> {
        let trailers = trailer_map(&self.trailers);
        ready!(self.answer.poll_send(cx, &mut self.pending, trailers.is_empty()))?;
        Poll::Ready(self.answer.end(trailers))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ResponseFault>> {
        // The connection's task writes.
        Poll::Ready(Ok(()))
    }

    fn sent(&self) -> u64 {
        self.answer.sent()
    }

    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }
}

/// A request's trailers as lines for an HTTP/1 worker, those that may be passed on.
fn trailer_lines(trailers: Option<&HeaderMap>) -> Vec<u8> {
    let mut lines = BytesMut::new();
    for (name, value) in trailers.into_iter().flatten() {
        let passes = passes_as_request_trailer(name.as_str().as_bytes(), value.as_bytes());
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
