//! Pingora's `ProxyHttp` under the same rules: carries requests to workers that speak HTTP/2 and, by
//! `server.http: pingora`, all plain requests, as a reference for the own path. What Pingora cannot hold stands in
//! docs/architecture.md.

use crate::gateway::downstream::connection::Connection;
use crate::gateway::downstream::connections::{ConnectionRegistry, StreamGuard};
use crate::gateway::http1::Method;
use crate::gateway::metrics::counters::Failure;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::forwarded::Forwarded;
use crate::gateway::request::heads::{self, FieldRule};
use crate::gateway::request::limits::RequestLimits;
use crate::gateway::request::plan;
use crate::gateway::request::retry::{self, Attempt, Decision, WorkerFault};
use crate::gateway::request::session::SessionLearner;
use crate::gateway::rules::{App, Protocol, SharedRules};
use crate::gateway::upstream::{acquire::acquire, connect};
use crate::pool::{Lease, Member, Use};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, RETRY_AFTER, SET_COOKIE};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a stream's answer that wait for a client to take them.
const SEND_BUFFER: usize = 64 * 1024;
const MAX_STREAMS: u32 = 100;
/// What a client may send of one body, and of all, before a worker has taken it, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Serves connections by Pingora.
#[derive(Clone)]
pub(in crate::gateway) struct PingoraCarrier {
    proxy: Arc<HttpProxy<Proxy>>,
    rules: SharedRules,
    registry: Arc<ConnectionRegistry>,
}

impl PingoraCarrier {
    pub(in crate::gateway) fn new(
        rules: SharedRules,
        conf: &Arc<ServerConf>,
        registry: Arc<ConnectionRegistry>,
    ) -> PingoraCarrier {
        let proxy = Proxy { rules: rules.clone(), connector: Arc::default(), registry: registry.clone() };
        let mut proxy = pingora_proxy::http_proxy(conf, proxy);
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(rules.load().limits.keepalive_timeout);
        proxy.server_options = Some(options);
        let mut h2_options = default_h2_options();
        h2_options
            .max_concurrent_streams(MAX_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER);
        proxy.h2_options = Some(h2_options);
        PingoraCarrier { proxy: Arc::new(proxy), rules, registry }
    }

    /// Serves the request whose head begins what was read; gives the connection back when another may follow.
    pub(in crate::gateway) async fn serve_http1(&self, connection: Connection) -> Option<Connection> {
        let Connection { client, stream, mut read_ahead, guard, .. } = connection;
        let keep_alive = self.rules.load().limits.keepalive_timeout.as_secs().max(1);
        let stays = !guard.directive().ends();
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(read_ahead.split());
        session.set_keepalive(stays.then_some(keep_alive));
        let reused = self.proxy.process_new_http(session, &self.registry.closing()).await?;
        // What Pingora has read beyond the request ends the connection, so nothing is lost here.
        let (stream, _) = reused.consume();
        Some(Connection::new(client, stream, guard))
    }

    /// Serves an HTTP/2 connection to its end.
    pub(in crate::gateway) async fn serve_http2(&self, connection: Connection) {
        let Connection { stream, read_ahead, guard, .. } = connection;
        let stream = if read_ahead.is_empty() {
            stream
        } else {
            // Only a plain stream is looked into for HTTP/2, so it is one of this type.
            let Ok(mut plain) = stream.into_any().downcast::<L4Stream>() else { return };
            plain.rewind(&read_ahead);
            plain
        };
        drop(read_ahead);
        ServerApp::process_new(&self.proxy, stream, &self.registry.closing()).await;
        drop(guard);
    }

    pub(in crate::gateway) async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// What is known of one request on its way.
#[derive(Default)]
pub(in crate::gateway) struct Ctx {
    app: Option<Arc<App>>,
    limits: Option<RequestLimits>,
    began: Option<Instant>,
    /// Held until the response has ended.
    lease: Option<Lease>,
    /// One more request of an HTTP/2 connection.
    stream: Option<StreamGuard>,
    /// Workers that could not take the request.
    tried: Vec<Arc<Member>>,
    is_bound: bool,
    was_replayed: bool,
    /// The session's worker, which was asked once: nobody else is.
    owner: Option<Arc<Member>>,
    /// Content bytes of the request so far.
    body: u64,
    /// The answer may hold a sid to learn.
    learner: Option<SessionLearner>,
    response: Option<ErrorResponse>,
    failure: Option<Failure>,
}

pub(in crate::gateway) struct Proxy {
    rules: SharedRules,
    connector: Arc<connect::Connector>,
    registry: Arc<ConnectionRegistry>,
}

impl Proxy {
    fn refuse(ctx: &mut Ctx, response: ErrorResponse, failure: Failure) -> Box<Error> {
        ctx.response = Some(response);
        ctx.failure = Some(failure);
        Error::explain(ErrorType::HTTPStatus(response.status), response.detail)
    }

    /// What an error says of the worker; `None` where it is the client's.
    fn worker_fault(error: &Error, ctx: &Ctx) -> Option<WorkerFault> {
        if *error.esource() != ErrorSource::Upstream {
            return None;
        }
        Some(match error.etype() {
            ErrorType::WriteError if ctx.body == 0 => WorkerFault::Unsent,
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => WorkerFault::NoResponse,
            ErrorType::InvalidHTTPHeader => WorkerFault::Malformed,
            ErrorType::ConnectError | ErrorType::ConnectTimedout | ErrorType::ConnectRefused => {
                WorkerFault::Unreachable
            }
            _ => WorkerFault::Died,
        })
    }

    /// Once more, or the end? By the rule that holds for every carrier.
    fn judge(session: &Session, fault: WorkerFault, ctx: &mut Ctx, is_whole: bool, reused: bool) -> bool {
        let attempt = Attempt {
            is_whole,
            is_replayable: retry::is_replayable(session.req_header().method.as_str().as_bytes(), false),
            was_replayed: ctx.was_replayed,
            is_bound: ctx.is_bound,
            on_kept_connection: reused,
            reads_at_once: false,
            tried: ctx.tried.len(),
        };
        match retry::decide(fault, &attempt) {
            Decision::Retry { avoid, is_replay } => {
                ctx.was_replayed |= is_replay;
                if is_replay && ctx.is_bound {
                    ctx.owner = ctx.lease.as_ref().map(|lease| lease.member().clone());
                }
                if let Some(lease) = ctx.lease.take()
                    && avoid
                {
                    ctx.tried.push(lease.member().clone());
                }
                if let (Some(app), false) = (&ctx.app, fault == WorkerFault::Unreachable) {
                    app.metrics.retried();
                }
                true
            }
            Decision::GiveUp(response) => {
                ctx.response = Some(response);
                ctx.failure = Some(match fault {
                    WorkerFault::Unreachable | WorkerFault::QueueFull => Failure::NoWorker,
                    WorkerFault::NoResponse => Failure::NoAnswer,
                    WorkerFault::Malformed => Failure::Malformed,
                    WorkerFault::Unsent | WorkerFault::Unread | WorkerFault::Died => Failure::WorkerDied,
                });
                false
            }
        }
    }

    fn response_to(error: &Error, ctx: &Ctx) -> Option<ErrorResponse> {
        if ctx.response.is_some() {
            return ctx.response;
        }
        match error.esource() {
            ErrorSource::Upstream => Some(ErrorResponse::BROKEN),
            ErrorSource::Downstream => match error.etype() {
                ErrorType::ReadTimedout => Some(ErrorResponse::REQUEST_TIMEOUT),
                ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed => None,
                ErrorType::WriteTimedout => None,
                _ => Some(ErrorResponse { status: 400, detail: "The request could not be understood." }),
            },
            ErrorSource::Internal | ErrorSource::Unset => {
                Some(ErrorResponse { status: 500, detail: "The proxy could not handle this request." })
            }
        }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::default()
    }

    /// Pingora's default puts a compression module in the way of every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// HTTP/1 heads have been checked before; those of HTTP/2 are held to the same rules here.
    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let rules = self.rules.load_full();
        let is_http2 = session.as_downstream().is_http2();
        if is_http2 {
            let ends = session.as_downstream_mut().is_body_empty();
            let checked = heads::check_http2(session.req_header(), ends, &rules.head_limits).map(drop);
            checked.map_err(|reject| Self::refuse(ctx, reject.into(), Failure::BadRequest))?;
            ctx.stream = self.registry.register_stream(rules.limits.connections);
            if ctx.stream.is_none() {
                return Err(Self::refuse(ctx, ErrorResponse::NO_WORKER, Failure::NoWorker));
            }
        }
        let request = session.req_header();
        let Some(index) = rules.routes.find(host(request), request.raw_path()) else {
            return Err(Self::refuse(ctx, ErrorResponse::NO_ROUTE, Failure::BadRequest));
        };
        let app = rules.apps[index].clone();
        let limits = rules.request_limits(&app);
        // The time-out of a response is the peer's; an upload has no least rate here.
        let RequestLimits { body_bytes, body_timeout, body_rate, response_timeout: _ } = limits;
        let length = request.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        ctx.began = Some(Instant::now());
        ctx.app = Some(app);
        ctx.limits = Some(limits);
        if let (Some(length), Some(limit)) = (length, body_bytes)
            && length > limit
        {
            return Err(Self::refuse(ctx, ErrorResponse::TOO_LONG, Failure::BadRequest));
        }
        let downstream = session.as_downstream_mut();
        downstream.set_read_timeout(Some(body_timeout));
        downstream.set_write_timeout(Some(body_timeout));
        if body_rate > 0 {
            downstream.set_min_send_rate(usize::try_from(body_rate).ok());
        }
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let Some((app, limits)) = ctx.app.clone().zip(ctx.limits) else {
            return Err(Self::refuse(ctx, ErrorResponse::NO_ROUTE, Failure::BadRequest));
        };
        let request = session.req_header();
        let is_get = Method::of(request.method.as_str().as_bytes()) == Method::Get;
        let settings = app.pool.settings();
        let target = request.raw_path();
        let plan = plan::plan(&settings.affinity, target, &request.headers, client_ip(session), is_get, false);
        let draining = || self.registry.is_draining();
        let Some(lease) = acquire(&app.pool, &plan, &ctx.tried, draining).await else {
            let last = if ctx.was_replayed { ErrorResponse::BROKEN } else { ErrorResponse::NO_WORKER };
            let failure = if ctx.was_replayed { Failure::WorkerDied } else { Failure::NoWorker };
            return Err(Self::refuse(ctx, last, failure));
        };
        if ctx.owner.as_ref().is_some_and(|owner| !Arc::ptr_eq(owner, lease.member())) {
            return Err(Self::refuse(ctx, ErrorResponse::BROKEN, Failure::WorkerDied));
        }
        if plan.usage == Use::Parked {
            ctx.began = None;
        }
        ctx.is_bound = plan.is_bound();
        ctx.learner = plan.handshake.then(|| SessionLearner::new(&app.pool, lease.member()));
        ctx.body = 0;
        let mut peer = Box::new(HttpPeer::new_uds(&lease.member().socket, false, String::new())?);
        peer.options.idle_timeout = Some(app.keep_alive);
        // Between two reads: within an answer, too.
        peer.options.read_timeout = Some(limits.response_timeout);
        if app.protocol == Protocol::Http2 {
            peer.options.set_http_version(2, 2);
        }
        peer.options.custom_l4 = Some(match lease.member().user {
            None => self.connector.clone(),
            user => Arc::new(connect::Connector { user }),
        });
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
        error.set_retry(Self::judge(session, fault, ctx, true, false));
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
        let answered = session.response_written().is_some_and(|head| !head.status.is_informational());
        let is_whole = !answered && !session.as_ref().retry_buffer_truncated();
        let retry = match Self::worker_fault(&error, ctx) {
            Some(_) if answered => {
                ctx.failure = Some(Failure::Truncated);
                false
            }
            Some(fault) => Self::judge(session, fault, ctx, is_whole, reused),
            None => {
                ctx.failure = ctx.failure.or(Some(Failure::ClientGone));
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
            return Err(Self::refuse(ctx, ErrorResponse::TOO_LONG, Failure::BadRequest));
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _ctx: &mut Ctx,
    ) -> Result<()> {
        let refused: Vec<_> = request
            .headers
            .keys()
            .filter(|name| match heads::request_field(name.as_str().as_bytes()) {
                FieldRule::Pass => false,
                // Trailers are for workers that speak HTTP/2, and Pingora's own fields frame the message.
                FieldRule::HopByHop => !matches!(name.as_str(), "te" | "connection"),
                FieldRule::Forwarded | FieldRule::Framing => true,
            })
            .cloned()
            .collect();
        refused.iter().for_each(|name| drop(request.remove_header(name)));
        if request.headers.get_all(COOKIE).iter().count() > 1
            && let Some(cookies) = heads::joined_cookies(&request.headers)
        {
            request.insert_header(COOKIE, cookies)?;
        }
        let downstream = session.req_header();
        let forwarded = Forwarded { client: client_ip(session), secure: is_secure(session), host: host(downstream) };
        let mut result = Ok(());
        forwarded.headers(|name, value| {
            if let Err(error) = request.insert_header(name, value) {
                result = Err(error);
            }
        });
        result
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if let Some(learner) = &mut ctx.learner {
            // Pingora gives bodies out without chunk framing.
            learner.begin(response.status == 200 && !response.headers.contains_key(CONTENT_ENCODING), false);
            response.headers.get_all(SET_COOKIE).iter().for_each(|value| learner.set_cookie(value.as_bytes()));
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        if let (Some(learner), Some(body)) = (&mut ctx.learner, body) {
            learner.body(body);
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let response = Self::response_to(error, ctx);
        let code = response.map_or(0, |response| response.status);
        let app = ctx.app.as_ref().map_or("-", |app| &*app.pool.app);
        // The query stays out of the log: it may hold tokens.
        let request = session.req_header();
        let path = request.uri.path();
        let level = if code >= 500 && code != 503 { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "{app}: {} {path} was answered {code}: {}", request.method, error.etype().as_str());
        if let Some(response) = response
            && let Err(error) = respond(session, response).await
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
        ctx.lease = None;
        let Some(app) = &ctx.app else { return };
        if error.is_some() {
            app.metrics.failed(ctx.failure.unwrap_or(Failure::ClientGone));
        }
        if let Some(answer) = session.response_written() {
            let began = ctx.began.filter(|_| error.is_none());
            app.metrics.answered(answer.status.as_u16(), began.map(|began| began.elapsed()));
        }
    }
}

async fn respond(session: &mut Session, response: ErrorResponse) -> Result<()> {
    if session.response_written().is_some_and(|head| !head.status.is_informational()) {
        return Ok(());
    }
    let body = response.body();
    let mut head = ResponseHeader::build(response.status, Some(5))?;
    head.insert_header(CONTENT_TYPE, "text/plain; charset=utf-8")?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    if let Some(seconds) = response.retry_after() {
        head.insert_header(RETRY_AFTER, seconds)?;
    }
    session.as_downstream_mut().set_keepalive(None);
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(body), true).await
}

/// The host a request is for: `:authority` of HTTP/2, an absolute target's, or the `Host` header.
fn host(request: &RequestHeader) -> &[u8] {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str().as_bytes();
    }
    request.headers.get(http::header::HOST).map_or(b"", |host| host.as_bytes())
}

fn client_ip(session: &Session) -> Option<IpAddr> {
    session.client_addr()?.as_inet().map(|addr| addr.ip())
}

fn is_secure(session: &Session) -> bool {
    let downstream: &ServerSession = session.as_downstream();
    downstream.digest().is_some_and(|digest| digest.ssl_digest.is_some())
}
