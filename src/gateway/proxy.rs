//! The `ProxyHttp` of the gateway: Pingora carries HTTP/2 requests, the shared policy decides.

use super::acquire::acquire;
use super::answer::Answer;
use super::phase::House;
use super::policy::{self, FORWARDED_HEADERS, Forwarded, Learner};
use super::{App, Rules, connect};
use crate::pool::{Lease, Member, Use};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE, UPGRADE};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many workers a request is offered to before it is given up.
const MAX_TRIES: usize = 4;

/// What is known of one request on its way.
#[derive(Default)]
pub(crate) struct Ctx {
    app: Option<Arc<App>>,
    began: Option<Instant>,
    /// Held until the response has ended.
    lease: Option<Lease>,
    /// Workers that could not take the request.
    tried: Vec<Arc<Member>>,
    /// The request's owner is fixed by its session.
    bound: bool,
    replayed: bool,
    /// Something of the body may have reached a worker.
    body_passed: bool,
    /// The answer may hold a sid to learn.
    learner: Option<Learner>,
    answer: Option<Answer>,
}

pub(crate) struct Proxy {
    pub(super) rules: Rules,
    pub(super) connector: Arc<connect::Connector>,
    pub(super) house: Arc<House>,
}

impl Proxy {
    fn refuse(ctx: &mut Ctx, answer: Answer) -> Box<Error> {
        ctx.answer = Some(answer);
        Error::explain(ErrorType::HTTPStatus(answer.status), answer.detail)
    }

    /// May the request go out once more after `error` on an established connection?
    fn may_replay(session: &Session, error: &Error, ctx: &Ctx, reused: bool) -> bool {
        let answered = session.response_written().is_some_and(|head| !head.status.is_informational());
        if answered || session.as_ref().retry_buffer_truncated() || *error.esource() != ErrorSource::Upstream {
            return false;
        }
        // The head could not even be written: no worker has seen the request, whatever its method.
        if matches!(error.etype(), ErrorType::WriteError) && !ctx.body_passed {
            return ctx.tried.len() < MAX_TRIES;
        }
        let died = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H1Error
        );
        died && !ctx.replayed
            && policy::is_replayable(session.req_header().method.as_str().as_bytes())
            && (reused || !ctx.bound)
    }

    fn answer_to(error: &Error, ctx: &Ctx) -> Option<Answer> {
        if let Some(answer) = ctx.answer {
            return Some(answer);
        }
        match error.esource() {
            ErrorSource::Upstream => Some(match error.etype() {
                ErrorType::ConnectError | ErrorType::ConnectTimedout | ErrorType::ConnectRefused => Answer::NO_WORKER,
                ErrorType::ReadTimedout | ErrorType::WriteTimedout => Answer::NO_ANSWER,
                _ => Answer::BROKEN,
            }),
            ErrorSource::Downstream => match error.etype() {
                ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed => None,
                _ => Some(Answer { status: 400, detail: "The request could not be understood." }),
            },
            ErrorSource::Internal | ErrorSource::Unset => {
                Some(Answer { status: 500, detail: "The proxy could not handle this request." })
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

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let request = session.req_header();
        let gateway = self.rules.load_full();
        let Some(index) = gateway.routes.find(host(request), request.raw_path()) else {
            return Err(Self::refuse(ctx, Answer::NO_ROUTE));
        };
        let app = &gateway.apps[index];
        let get = request.method == http::Method::GET;
        let plan = policy::plan(
            &app.pool.settings().affinity,
            request.raw_path(),
            &request.headers,
            client_ip(session),
            get,
            false,
        );
        let Some(lease) = acquire(&app.pool, &plan, &ctx.tried, || self.house.is_closing()).await else {
            return Err(Self::refuse(ctx, Answer::NO_WORKER));
        };
        ctx.began = ctx.began.or_else(|| (plan.usage == Use::Request).then(Instant::now));
        ctx.app = Some(app.clone());
        ctx.bound = plan.is_bound();
        ctx.learner = plan.handshake.then(|| Learner::new(&app.pool, lease.member()));
        ctx.body_passed = false;
        let mut peer = Box::new(HttpPeer::new_uds(&lease.member().socket, false, String::new())?);
        peer.options.idle_timeout = Some(app.keep_alive);
        peer.options.custom_l4 = Some(match lease.member().user {
            None => self.connector.clone(),
            user => Arc::new(connect::Connector { user }),
        });
        ctx.lease = Some(lease);
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // A worker whose queue is full lives: its sessions must not be tried elsewhere.
        let busy = error.root_cause().downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut);
        if let Some(lease) = ctx.lease.take() {
            ctx.tried.push(lease.member().clone());
        }
        error.set_retry(!busy && ctx.tried.len() < MAX_TRIES);
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
        let replay = Self::may_replay(session, &error, ctx, reused);
        if replay {
            let written = !matches!(error.etype(), ErrorType::WriteError) || ctx.body_passed;
            ctx.replayed |= written;
            // A session's owner is asked again (its kept connection may just have ended); else another is better.
            match ctx.lease.take() {
                Some(lease) if !ctx.bound || !reused => ctx.tried.push(lease.member().clone()),
                _ => {}
            }
        }
        error.set_retry(replay);
        error
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.body_passed = true;
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _ctx: &mut Ctx,
    ) -> Result<()> {
        for name in FORWARDED_HEADERS {
            request.remove_header(name);
        }
        // WebSocket upgrades take the tunnel; no other protocol is spoken here.
        request.remove_header(&UPGRADE);
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
        let answer = Self::answer_to(error, ctx);
        let code = answer.map_or(0, |answer| answer.status);
        if code >= 500 {
            let app = ctx.app.as_ref().map_or("-", |app| &*app.pool.app);
            let level = if code == 503 { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, "{app}: {} answered {code}: {error}", session.as_ref().request_summary());
        } else {
            log::debug!("{} answered {code}: {error}", session.as_ref().request_summary());
        }
        if let Some(answer) = answer
            && let Err(error) = respond(session, answer).await
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
        session: &Session,
        _ctx: &Ctx,
        error: &Error,
        _context: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        log::debug!("{} goes to another worker: {error}", session.as_ref().request_summary());
        true
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Ctx) {
        ctx.lease = None;
        if let (Some(app), Some(answer)) = (&ctx.app, session.response_written()) {
            app.metrics.answered(answer.status.as_u16(), ctx.began.map(|began| began.elapsed()));
        }
    }
}

async fn respond(session: &mut Session, answer: Answer) -> Result<()> {
    if session.response_written().is_some_and(|head| !head.status.is_informational()) {
        return Ok(());
    }
    let body = answer.body();
    let mut head = ResponseHeader::build(answer.status, Some(5))?;
    head.insert_header(CONTENT_TYPE, "text/plain; charset=utf-8")?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    if let Some(seconds) = answer.retry_after() {
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
