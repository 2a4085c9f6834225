//! What Pingora asks at each step of a request.

use super::context::{Ctx, HSTS};
use super::local::{self, host};
use super::{asker, first_body};
use crate::gateway::access::OwnedLine;
use crate::gateway::access::facts::Facts;
use crate::gateway::access::record::ByteCount;
use crate::gateway::downstream::client_tls::ClientTls;
use crate::gateway::downstream::connections::ConnectionRegistry;
use crate::gateway::http1::Method;
use crate::gateway::metrics::counters::Failure;
use crate::gateway::request::client::RequestClient;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::fields::{self, FieldRule};
use crate::gateway::request::forwarded::Forwarded;
use crate::gateway::request::heads;
use crate::gateway::request::limits::{MAX_INFORMATIONAL, RequestLimits};
use crate::gateway::request::request_id;
use crate::gateway::request::retry::WorkerFault;
use crate::gateway::request::session::SessionLearner;
use crate::gateway::request::{http2_head, passes, plan};
use crate::gateway::rules::{Protocol, Rules, SharedRules};
use crate::gateway::upstream::{acquire::acquire, connect};
use crate::pool::Use;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, COOKIE, SET_COOKIE};
use http::header::{STRICT_TRANSPORT_SECURITY, TE, TRANSFER_ENCODING};
use http::{HeaderMap, Method as HttpMethod, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is read ahead of one answer of a worker with HTTP/2, in bytes; Pingora's default is 8 MiB.
const WORKER_WINDOW: u32 = 64 * 1024;

pub(in crate::gateway) struct Proxy {
    rules: SharedRules,
    registry: Arc<ConnectionRegistry>,
}

impl Proxy {
    pub(super) fn new(rules: SharedRules, registry: Arc<ConnectionRegistry>) -> Proxy {
        Proxy { rules, registry }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new()
    }

    /// Pingora's default puts a compression module in the way of every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// HTTP/1 heads have been checked before, and so have those of another carrier's sessions; those of Pingora's own
    /// HTTP/2 are held to the same rules here.
    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let rules = self.rules.load_full();
        let is_http2 = session.as_downstream().is_http2();
        let client = ctx.client.unwrap_or_else(|| asker::of(session, &rules.clients.forwarding));
        let is_counted = ctx.client.replace(client).is_some();
        ctx.line = line(session, &rules, &client);
        if is_http2 {
            let ends = session.as_downstream_mut().is_body_empty();
            let checked = http2_head::check_http2(session.req_header(), ends, &rules.head_limits).map(drop);
            checked.map_err(|reject| ctx.refuse(reject.into(), Failure::BadRequest))?;
        }
        if !is_counted {
            asker::count(&self.registry, &rules, &client, ctx)?;
        }
        take_origin_form(session.as_downstream_mut().req_header_mut())?;
        let request = session.req_header();
        if ClientTls::current().is_some_and(|client| client.is_misdirected(host(request))) {
            return Err(ctx.refuse(ErrorResponse::MISDIRECTED, Failure::BadRequest));
        }
        ctx.app = local::find(rules.clone(), request, ctx)?;
        if let (Some(line), Some(app)) = (&mut ctx.line, &ctx.app) {
            line.set_app(&app.pool.app);
        }
        let Some(limits) = ctx.limits else { return Ok(()) };
        // The time-outs of a response are the peer's. Pingora knows no rate: `first_body` holds the first part of an
        // upload to it, and each piece of a download must be taken within `body_timeout`.
        let RequestLimits { body_bytes, body_timeout, body_rate: _, response_timeout: _, poll_timeout: _ } = limits;
        let length = content_length(&request.headers);
        ctx.began = Some(Instant::now());
        if let (Some(length), Some(limit)) = (length, body_bytes)
            && length > limit
        {
            return Err(ctx.refuse(ErrorResponse::TOO_LONG, Failure::BadRequest));
        }
        if passes::is_loop(heads::passes_of(&request.headers, &rules.loop_name)) {
            return Err(ctx.refuse(ErrorResponse::LOOP, Failure::BadRequest));
        }
        let downstream = session.as_downstream_mut();
        downstream.set_read_timeout(Some(body_timeout));
        downstream.set_write_timeout(Some(body_timeout));
        Ok(())
    }

    /// What the proxy answers itself needs no worker. A short body is waited for, so that slow clients hold no worker.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if local::answer(session, ctx).await? {
            return Ok(true);
        }
        let length = content_length(&session.req_header().headers);
        first_body::take(session, length, ctx).await?;
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let Some((app, limits)) = ctx.app.clone().zip(ctx.limits) else {
            return Err(ctx.refuse(ErrorResponse::NO_ROUTE, Failure::BadRequest));
        };
        asker::take_upload(&self.registry, &self.rules, session, ctx, &app).await?;
        let request = session.req_header();
        let is_get = Method::of(request.method.as_str().as_bytes()) == Method::Get;
        let settings = app.pool.settings();
        let target = request.raw_path();
        let client = ctx.client.and_then(|client| client.ip);
        let plan = plan::plan(&settings.affinity, target, &request.headers, client, is_get, false);
        let draining = || self.registry.is_draining();
        let Some(lease) = acquire(&app.pool, &plan, &ctx.tried, draining).await else {
            let last = if ctx.was_replayed { ErrorResponse::BROKEN } else { ErrorResponse::NO_WORKER };
            let failure = if ctx.was_replayed { Failure::WorkerDied } else { Failure::NoWorker };
            return Err(ctx.refuse(last, failure));
        };
        if ctx.owner.as_ref().is_some_and(|owner| !Arc::ptr_eq(owner, lease.member())) {
            return Err(ctx.refuse(ErrorResponse::BROKEN, Failure::WorkerDied));
        }
        ctx.note(|trace| trace.took(lease.member()));
        if plan.usage == Use::Parked {
            ctx.began = None;
        }
        ctx.is_bound = plan.is_bound();
        ctx.learner = plan.handshake.then(|| SessionLearner::new(&app.pool, lease.member()));
        (ctx.body, ctx.informational) = (0, 0);
        let limits = plan.limits(limits, &lease);
        let mut peer = Box::new(HttpPeer::new_uds(&lease.member().socket, false, String::new())?);
        peer.options.idle_timeout = Some(app.keep_alive);
        if !session.as_downstream().is_custom() {
            // Between two reads: within an answer, too. Another carrier's session has the exact limit.
            peer.options.read_timeout = Some(limits.response_timeout);
            // While it takes nothing of a body, Pingora looks at nothing else.
            peer.options.write_timeout = Some(limits.response_timeout);
        }
        if app.protocol == Protocol::Http2 {
            peer.options.set_http_version(2, 2);
            // A connection carries one request at a time. Its own window stays large: the h2 crate also judges by it
            // how many small frames are too many.
            peer.options.h2_stream_window_size = Some(WORKER_WINDOW);
            // Pingora keeps connections by it, and even those that have failed.
            peer.group_key = ctx.number(lease.member());
        }
        peer.options.custom_l4 = Some(Arc::new(connect::Connector { member: lease.member().clone() }));
        ctx.lease = Some(lease);
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // A worker whose queue is full lives: its sessions must not be tried elsewhere.
        let busy = error.root_cause().downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut);
        let fault = if busy { WorkerFault::QueueFull } else { WorkerFault::Unreachable };
        error.set_retry(ctx.judge(session, fault, true, false));
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        let answered = has_answered(session);
        let is_whole = !answered && !session.as_ref().retry_buffer_truncated();
        let retry = match ctx.worker_fault(&error) {
            Some(_) if answered => {
                ctx.failure = Some(Failure::Truncated);
                false
            }
            Some(fault) => ctx.judge(session, fault, is_whole, reused),
            None => {
                let is_late = *error.etype() == ErrorType::ReadTimedout;
                ctx.failure = ctx.failure.or(Some(if is_late { Failure::BadRequest } else { Failure::ClientGone }));
                false
            }
        };
        error.set_retry(retry);
        error
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            // Pingora would write the last chunk for it, and once more for the end.
            *body = None;
        }
        ctx.body += body.as_ref().map_or(0, |body| body.len() as u64);
        if ctx.limits.and_then(|limits| limits.body_bytes).is_some_and(|limit| ctx.body > limit) {
            // Pingora takes any other error here for the worker's, and goes on.
            return Err(ctx.refuse(ErrorResponse::TOO_LONG, Failure::BadRequest).into_down());
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let rules = self.rules.load();
        let forwarding = &rules.clients.forwarding;
        let client = ctx.client.unwrap_or_else(|| asker::of(session, forwarding));
        let downstream = session.req_header();
        let forwarded = Forwarded::of(&client, forwarding, host(downstream), &&downstream.headers);
        let refused: Vec<_> = request
            .headers
            .keys()
            .filter(|name| match fields::rule(name.as_str().as_bytes(), forwarding) {
                FieldRule::Pass => forwarded.replaces(name.as_str().as_bytes()),
                FieldRule::Passes => false,
                // Trailers are for workers that speak HTTP/2, and Pingora's own fields frame the message.
                FieldRule::HopByHop => !matches!(name.as_str(), "te" | "connection"),
                FieldRule::Forwarded | FieldRule::Framing | FieldRule::Underscore => true,
            })
            .cloned()
            .collect();
        refused.iter().for_each(|name| drop(request.remove_header(name)));
        if request.headers.get_all(COOKIE).iter().count() > 1
            && let Some(cookies) = heads::joined_cookies(&request.headers)
        {
            request.insert_header(COOKIE, cookies)?;
        }
        if session.as_downstream().is_custom() && accepts_trailers(&downstream.headers) {
            // Pingora takes it for a field of HTTP/1. Servers of gRPC ask for it.
            request.insert_header(TE, "trailers")?;
        }
        request.append_header(passes::FIELD, rules.loop_name.as_str())?;
        if let Some(prefix) = &ctx.prefix {
            request.insert_header(heads::FORWARDED_PREFIX, prefix)?;
        }
        let mut result = Ok(());
        let mut write = |name, value: &[u8]| {
            if let Err(error) = request.insert_header(name, value) {
                result = Err(error);
            }
        };
        forwarded.headers(&mut write);
        if let Some(client) = ClientTls::current() {
            client.headers(write);
        }
        result
    }

    /// No request that Pingora carries asks for another protocol.
    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        match response.status {
            StatusCode::SWITCHING_PROTOCOLS => Err(ctx.refuse(ErrorResponse::BROKEN, Failure::Malformed)),
            status if status.is_informational() && ctx.informational == MAX_INFORMATIONAL => {
                Err(ctx.refuse(ErrorResponse::BROKEN, Failure::Malformed))
            }
            status => {
                ctx.informational += u8::from(status.is_informational());
                Ok(())
            }
        }
    }

    async fn response_filter(&self, session: &mut Session, response: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
        for name in fields::dropped_from_response(response.status.as_u16(), &response.headers) {
            response.remove_header(&name);
        }
        if response.status.is_informational() {
            return Ok(());
        }
        let id = ctx.id();
        if !id.is_empty() && !response.headers.contains_key(request_id::FIELD) {
            response.insert_header(request_id::FIELD, id.as_str())?;
        }
        if let Ok(Some(hsts)) = HSTS.try_with(|hsts| *hsts)
            && !response.headers.contains_key(STRICT_TRANSPORT_SECURITY)
        {
            response.insert_header(STRICT_TRANSPORT_SECURITY, hsts.value())?;
        }
        ctx.status = Some(response.status.as_u16());
        ctx.note(|trace| trace.first_byte(Some(tokio::time::Instant::now())));
        if session.req_header().version == Version::HTTP_10 && response.remove_header(&TRANSFER_ENCODING).is_some() {
            // Such a client knows no chunks: the connection's end is the body's.
            session.as_downstream_mut().set_keepalive(None);
        }
        let is_empty = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || content_length(&response.headers) == Some(0);
        if is_empty || session.req_header().method == HttpMethod::HEAD {
            ctx.note_answered(session);
        }
        if let Some(learner) = &mut ctx.learner {
            // Pingora gives bodies out without chunk framing.
            learner.begin(response.status == 200 && !response.headers.contains_key(CONTENT_ENCODING), false);
            response.headers.get_all(SET_COOKIE).iter().for_each(|value| learner.set_cookie(value.as_bytes()));
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        if end {
            ctx.note_answered(session);
        }
        if let (Some(learner), Some(body)) = (&mut ctx.learner, body) {
            learner.body(body);
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let response = ctx.response_to(error);
        let code = response.map_or(0, |response| response.status);
        let app = ctx.app.as_ref().map_or("-", |app| &*app.pool.app);
        // The query stays out of the log: it may hold tokens.
        let request = session.req_header();
        let path = request.uri.path();
        let level = if code >= 500 && code != 503 { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "{app}: {} {path} was answered {code}: {}", request.method, error.etype().as_str());
        if has_answered(session) {
            cut(session).await;
        } else if let Some(response) = response
            && let Err(error) = local::refuse(session, &self.rules.load(), &response, &ctx.id()).await
        {
            log::debug!("the client left before its {code}: {error}");
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    /// `fail_to_proxy` has said what is worth saying.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Ctx,
        error: &Error,
        _context: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        log::debug!("a request goes to another worker: {error}");
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        let written = session.response_written().map(|answer| answer.status.as_u16());
        if error.is_none() && session.as_downstream_mut().is_body_done() {
            ctx.keep_connection();
        }
        let sent = session.as_downstream().body_bytes_sent() as u64;
        ctx.note(|trace| trace.moved(ByteCount { sent, ..ByteCount::default() }));
        ctx.count(written, error.is_none());
    }
}

/// What the access log says of a request, as far as it is known now.
fn line(session: &Session, rules: &Rules, client: &RequestClient) -> Option<Box<OwnedLine>> {
    let log = rules.access.as_ref()?;
    let request = session.req_header();
    let protocol = match request.version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        _ => "HTTP/2.0",
    };
    let facts = Facts::of_fields(&request.method, &request.uri, &request.headers, client);
    Some(OwnedLine::new(log.clone(), &Facts { protocol, ..facts }))
}

fn has_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|head| !head.status.is_informational())
}

/// The client must see that its answer is not whole: HTTP/1 by the connection's end, HTTP/2 by this.
async fn cut(session: &mut Session) {
    let downstream = session.as_downstream();
    if downstream.is_http2() || downstream.is_custom() {
        // A reset discards what is still to be written: the connection's task writes first.
        tokio::task::yield_now().await;
        session.as_downstream_mut().shutdown().await;
    }
}

/// Of an absolute-form target only what follows the authority, which is the `Host` field's.
fn take_origin_form(request: &mut RequestHeader) -> Result<()> {
    if matches!(request.raw_path(), [b'/', ..] | b"*") {
        return Ok(());
    }
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    request.set_raw_path(path.as_bytes())
}

fn accepts_trailers(fields: &HeaderMap) -> bool {
    fields.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}
