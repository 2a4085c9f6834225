//! Serves one request: its first body bytes, a worker, and another one where the retry rule says so. Both own carriers
//! come through here, so limits, retries and counters are the same for HTTP/1, HTTP/2 and upgrades.

use super::client::{ClientFault, ClientHalf, HALF_CLOSED_TIMEOUT};
use super::fault::Fault;
use super::sides::Outgoing;
use super::transfer::{Finished, Switched, Transfer};
use super::upload_share;
use crate::gateway::access::record::{ByteCount, Trace};
use crate::gateway::downstream::connections::ConnectionRegistry;
use crate::gateway::http1::Method;
use crate::gateway::metrics::counters::{ClientRefusal, Failure};
use crate::gateway::places::Place;
use crate::gateway::request::body::BodyFault;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::request::heads::WorkerHead;
use crate::gateway::request::limits::{BodyWait, FIRST_BODY, RequestLimits};
use crate::gateway::request::passes;
use crate::gateway::request::plan::Plan;
use crate::gateway::request::retry::{self, Attempt, Decision, WorkerFault};
use crate::gateway::request::session::SessionLearner;
use crate::gateway::rules::App;
use crate::gateway::upstream::acquire::{self, Tried};
use crate::gateway::upstream::{connect, idle_pool};
use crate::pool::{Lease, Member, Use};
use bytes::BytesMut;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::net::UnixStream;
use tokio::time::Instant;

/// One request, checked and planned.
pub(in crate::gateway) struct Request<'a> {
    pub(in crate::gateway) head: WorkerHead,
    /// The client's address, where it may have only so much.
    pub(in crate::gateway) client: Option<IpAddr>,
    pub(in crate::gateway) method: Method,
    pub(in crate::gateway) method_name: &'a [u8],
    /// Path and query as asked for.
    pub(in crate::gateway) target: &'a [u8],
    /// It may switch to WebSocket.
    pub(in crate::gateway) upgrade: bool,
    /// The client waits for a word of the worker before it sends the body.
    pub(in crate::gateway) expect_continue: bool,
    /// The worker's connection may be kept afterwards.
    pub(in crate::gateway) may_keep: bool,
    pub(in crate::gateway) plan: Plan<'a>,
}

/// What became of a request.
pub(in crate::gateway) enum Outcome {
    /// A worker's whole answer has been given to the client.
    Answered,
    /// The connection goes on as a WebSocket with this worker.
    Switched(Box<Switched>, Lease),
    /// An answer was cut, or nobody is left to answer.
    Cut,
    /// The proxy answers itself.
    Refused(ErrorResponse),
    /// A poll that waited at a worker until that ended with the proxy: its session is over.
    EndPoll,
}

/// Serves one request. `limits` are those of its app; the account and the state of the process come from `registry`.
/// What happens is noted in `trace`.
pub(in crate::gateway) async fn dispatch<C: ClientHalf>(
    app: &App,
    registry: &ConnectionRegistry,
    limits: RequestLimits,
    request: Request<'_>,
    client: &mut C,
    mut trace: Option<&mut Trace>,
) -> Outcome {
    let began = Instant::now();
    let is_work = request.plan.usage == Use::Request && !request.upgrade;
    let outcome = Dispatch::run(app, registry, limits, request, client, trace.as_deref_mut()).await;
    if let Some(trace) = trace {
        trace.moved(ByteCount { received: client.body_taken(), sent: client.sent(), head: client.head_sent() });
        note_end(trace, &outcome);
    }
    match &outcome {
        Ok(Done::Answered { status }) => app.metrics.answered(*status, is_work.then(|| began.elapsed())),
        Ok(Done::Switched(..)) => app.metrics.answered(101, None),
        Err(Ended { outcome: Outcome::Refused(response), failure }) => {
            app.metrics.failed(*failure);
            app.metrics.answered(response.status, None);
        }
        Err(Ended { outcome: Outcome::EndPoll, .. }) => app.metrics.answered(200, None),
        Err(Ended { failure, .. }) => app.metrics.failed(*failure),
    }
    match outcome {
        Ok(Done::Answered { .. }) => Outcome::Answered,
        Ok(Done::Switched(switched, lease)) => Outcome::Switched(switched, lease),
        Err(ended) => ended.outcome,
    }
}

fn note_end(trace: &mut Trace, outcome: &Result<Done, Ended>) {
    let Err(ended) = outcome else { return };
    trace.failed(ended.failure);
    match &ended.outcome {
        Outcome::Refused(response) => trace.by_proxy(response),
        Outcome::EndPoll => trace.by_proxy_with(200, "The proxy stops, and the session of this poll is over."),
        _ => {}
    }
}

enum Done {
    Answered { status: u16 },
    Switched(Box<Switched>, Lease),
}

/// How a request ended without a worker's whole answer.
struct Ended {
    outcome: Outcome,
    failure: Failure,
}

impl Ended {
    fn refused(response: ErrorResponse, failure: Failure) -> Ended {
        Ended { outcome: Outcome::Refused(response), failure }
    }

    fn cut(failure: Failure) -> Ended {
        Ended { outcome: Outcome::Cut, failure }
    }

    /// What the client's own doing ends, before an answer has begun.
    fn by_client(fault: ClientFault) -> Ended {
        match fault {
            ClientFault::Gone | ClientFault::Ended => Ended::cut(Failure::ClientGone),
            ClientFault::Body(BodyFault::TooLong) => Ended::refused(ErrorResponse::TOO_LONG, Failure::BadRequest),
            ClientFault::Body(BodyFault::Framing(detail)) => {
                Ended::refused(ErrorResponse::new(400, detail), Failure::BadRequest)
            }
        }
    }
}

struct Dispatch<'a> {
    app: &'a App,
    registry: &'a ConnectionRegistry,
    limits: RequestLimits,
    request: Request<'a>,
    /// Workers that could not take it.
    tried: Tried,
    was_replayed: bool,
    /// A kept connection had ended: the next one is to be new.
    wants_fresh: bool,
    /// The session's worker, once the request was replayed: it goes to no other, which could not serve it and might
    /// die of it.
    owner: Option<Arc<Member>>,
    /// What the client is told when no worker is left to ask.
    last: ErrorResponse,
    trace: Option<&'a mut Trace>,
}

impl<'a> Dispatch<'a> {
    async fn run<C: ClientHalf>(
        app: &'a App,
        registry: &'a ConnectionRegistry,
        limits: RequestLimits,
        request: Request<'a>,
        client: &mut C,
        trace: Option<&'a mut Trace>,
    ) -> Result<Done, Ended> {
        if passes::is_loop(request.head.passes) {
            return Err(Ended::refused(ErrorResponse::LOOP, Failure::BadRequest));
        }
        let last = ErrorResponse::NO_WORKER;
        let mut dispatch = Dispatch {
            app,
            registry,
            limits,
            request,
            tried: Tried::default(),
            was_replayed: false,
            wants_fresh: false,
            owner: None,
            last,
            trace,
        };
        let mut first = std::mem::take(&mut dispatch.request.head.bytes);
        let has_body = !client.body_is_done();
        dispatch.first_body(client, &mut first).await?;
        let _upload = dispatch.upload(client).await?;
        let outgoing = Outgoing {
            first: &first,
            method: dispatch.request.method,
            has_body,
            upgrade: dispatch.request.upgrade,
            may_keep: dispatch.request.may_keep,
        };
        dispatch.attempts(client, &outgoing).await
    }

    /// Takes the first part of the body along with the head.
    async fn first_body<C: ClientHalf>(&self, client: &mut C, first: &mut BytesMut) -> Result<(), Ended> {
        let RequestLimits { body_bytes, .. } = self.limits;
        if let (Some(left), Some(limit)) = (client.body_left(), body_bytes)
            && left > limit
        {
            return Err(Ended::by_client(ClientFault::Body(BodyFault::TooLong)));
        }
        if client.body_is_done() || self.request.expect_continue {
            return Ok(());
        }
        let mut gather = FirstBody { limits: self.limits, head: first.len(), wait: BodyWait::default() };
        std::future::poll_fn(|cx| gather.poll(cx, client, first)).await
    }

    /// A place among the uploads of the client's address, for a body that will hold a worker until it has come.
    async fn upload<C: ClientHalf>(&self, client: &mut C) -> Result<Option<Place>, Ended> {
        let Some(ip) = self.request.client.filter(|_| !client.body_is_done()) else { return Ok(None) };
        if !upload_share::is_limited(self.app) {
            return Ok(None);
        }
        let Some(place) = unless_gone(client, upload_share::take(self.app, ip)).await? else {
            self.registry.clients().refuse(ClientRefusal::Uploads);
            return Err(Ended::refused(ErrorResponse::too_many(1), Failure::BadRequest));
        };
        Ok(Some(place))
    }

    async fn attempts<C: ClientHalf>(&mut self, client: &mut C, outgoing: &Outgoing<'_>) -> Result<Done, Ended> {
        loop {
            let Some(mut lease) = self.acquire(client).await? else {
                let failure = match self.last == ErrorResponse::BROKEN {
                    true => Failure::WorkerDied,
                    false => Failure::NoWorker,
                };
                return Err(self.end_poll_or(Ended::refused(self.last, failure)));
            };
            if self.owner.as_ref().is_some_and(|owner| !Arc::ptr_eq(owner, lease.member())) {
                return Err(self.end_poll_or(Ended::refused(ErrorResponse::BROKEN, Failure::WorkerDied)));
            }
            self.note(|trace| trace.took(lease.member()));
            let (worker, on_kept_connection) = match self.reach(&lease).await {
                Ok(reached) => reached,
                Err(fault) => {
                    self.judge(fault, &lease, true, false)?;
                    self.note(Trace::retried);
                    continue;
                }
            };
            self.note(Trace::connected);
            let learner = self.request.plan.handshake.then(|| SessionLearner::new(&self.app.pool, lease.member()));
            let limits = match self.request.upgrade {
                true => self.limits,
                false => self.request.plan.limits(self.limits, &lease),
            };
            let mut transfer = Transfer::new(client, worker, outgoing, limits, learner, self.trace.is_some());
            let done = transfer.run().await;
            if let (Some(trace), Some((status, at))) = (self.trace.as_deref_mut(), transfer.answer()) {
                trace.by_worker(status);
                trace.first_byte(at);
            }
            let Err(fault) = done else {
                return Ok(match transfer.finish() {
                    Finished::Answered { spare, status } => {
                        if let Some(spare) = spare {
                            idle_pool::keep(lease.member(), spare, self.registry.descriptors());
                        }
                        Done::Answered { status }
                    }
                    Finished::Switched(switched) => {
                        lease.park();
                        Done::Switched(switched, lease)
                    }
                });
            };
            let (has_answered, is_whole) = (transfer.has_answered(), transfer.is_whole());
            drop(transfer);
            self.after(fault, &lease, has_answered, is_whole, on_kept_connection)?;
            self.app.metrics.retried();
            self.note(Trace::retried);
        }
    }

    fn note(&mut self, what: impl FnOnce(&mut Trace)) {
        if let Some(trace) = self.trace.as_deref_mut() {
            what(trace);
        }
    }

    /// A worker for the request; `None` where none is to be had in time.
    async fn acquire<C: ClientHalf>(&self, client: &mut C) -> Result<Option<Lease>, Ended> {
        let draining = || self.registry.is_draining();
        let (pool, plan, tried) = (&self.app.pool, &self.request.plan, &self.tried);
        if let Some(lease) = acquire::pick(pool, plan, tried, draining) {
            return Ok(Some(lease));
        }
        unless_gone(client, acquire::acquire(pool, plan, tried, draining)).await
    }

    /// A connection to the worker, and whether it was used before.
    async fn reach(&self, lease: &Lease) -> Result<(UnixStream, bool), WorkerFault> {
        // An upgrade takes its connection along; a kept one may just be ending.
        if !self.request.upgrade
            && !self.wants_fresh
            && let Some(kept) = idle_pool::take(lease.member(), self.app.keep_alive, Instant::now())
        {
            return Ok((kept, true));
        }
        let _connecting = idle_pool::connecting(lease.member());
        match connect::connect(lease.member()).await {
            Ok(stream) => Ok((stream, false)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(WorkerFault::QueueFull),
            Err(_) => Err(WorkerFault::Unreachable),
        }
    }

    /// Decides after a transfer that failed: `Ok` for another try, else how the request ends.
    fn after(
        &mut self,
        fault: Fault,
        lease: &Lease,
        has_answered: bool,
        is_whole: bool,
        on_kept_connection: bool,
    ) -> Result<(), Ended> {
        if has_answered {
            // The client must see that its answer is not whole.
            return Err(Ended::cut(match fault {
                Fault::Truncated => Failure::Truncated,
                _ => Failure::ClientGone,
            }));
        }
        match fault {
            Fault::Worker(fault) => self.judge(fault, lease, is_whole, on_kept_connection),
            Fault::Malformed(why) => {
                log::warn!("{}: {why}", lease.member().id);
                self.judge(WorkerFault::Malformed, lease, is_whole, on_kept_connection)
            }
            Fault::Client(fault) => Err(Ended::by_client(fault)),
            Fault::BodyTimeout => Err(Ended::refused(ErrorResponse::REQUEST_TIMEOUT, Failure::BadRequest)),
            Fault::ClientStalled | Fault::Truncated => Err(Ended::cut(Failure::ClientGone)),
        }
    }

    /// Decides by the retry rule, and notes what the next try must know.
    fn judge(
        &mut self,
        fault: WorkerFault,
        lease: &Lease,
        is_whole: bool,
        on_kept_connection: bool,
    ) -> Result<(), Ended> {
        let attempt = Attempt {
            is_whole,
            is_replayable: retry::is_replayable(self.request.method_name, self.request.upgrade),
            was_replayed: self.was_replayed,
            is_bound: self.request.plan.is_bound(),
            on_kept_connection,
            reads_at_once: lease.member().tag.is_some(),
            tried: self.tried.times(),
        };
        match retry::decide(fault, &attempt) {
            Decision::Retry { avoid, is_replay } => {
                self.was_replayed |= is_replay;
                self.wants_fresh |= on_kept_connection;
                if is_replay {
                    self.last = ErrorResponse::BROKEN;
                    self.owner = self.request.plan.is_bound().then(|| lease.member().clone());
                }
                if avoid {
                    self.tried.add(lease.member().clone(), fault);
                }
                Ok(())
            }
            Decision::GiveUp(response) => {
                let ended = Ended::refused(response, failure(fault));
                let has_died = matches!(fault, WorkerFault::Unsent | WorkerFault::Unread | WorkerFault::Died);
                let ended = if has_died { self.end_poll_or(ended) } else { ended };
                if let Outcome::Refused(response) = &ended.outcome
                    && fault != WorkerFault::QueueFull
                {
                    self.complain(lease, response, fault);
                }
                Err(ended)
            }
        }
    }

    /// When the proxy stops and a poll's worker has ended with it, the client is told that its session is over; else
    /// `ended`.
    fn end_poll_or(&self, ended: Ended) -> Ended {
        let is_poll = self.request.plan.is_waiting_poll() && !self.request.upgrade;
        match is_poll && self.registry.is_draining() {
            true => Ended { outcome: Outcome::EndPoll, failure: ended.failure },
            false => ended,
        }
    }

    /// Logs why the proxy answers in a worker's place. The query stays out of the log: it may hold tokens.
    fn complain(&self, lease: &Lease, response: &ErrorResponse, fault: WorkerFault) {
        let path = self.request.target.split(|&b| b == b'?').next().unwrap_or_default();
        let (id, status) = (&lease.member().id, response.status);
        let (method, path) = (String::from_utf8_lossy(self.request.method_name), String::from_utf8_lossy(path));
        log::warn!("{id}: {method} {path} was answered {status}: {}", describe(fault));
    }
}

/// Waits for something as long as the client does.
async fn unless_gone<C: ClientHalf, T>(client: &mut C, wait: impl Future<Output = T>) -> Result<T, Ended> {
    let mut ended = None;
    let gone = std::future::poll_fn(|cx| match client.poll_gone(cx) {
        Ok(()) => Poll::Pending,
        Err(ClientFault::Ended) => {
            let since = *ended.get_or_insert_with(Instant::now);
            client.deadline().poll_at(cx, since + HALF_CLOSED_TIMEOUT).map(|()| ClientFault::Gone)
        }
        Err(fault) => Poll::Ready(fault),
    });
    tokio::select! {
        biased;
        found = wait => Ok(found),
        fault = gone => Err(Ended::by_client(fault)),
    }
}

fn failure(fault: WorkerFault) -> Failure {
    match fault {
        WorkerFault::Unreachable | WorkerFault::QueueFull => Failure::NoWorker,
        WorkerFault::Unsent | WorkerFault::Unread | WorkerFault::Died => Failure::WorkerDied,
        WorkerFault::NoResponse => Failure::NoAnswer,
        WorkerFault::Malformed => Failure::Malformed,
    }
}

fn describe(fault: WorkerFault) -> &'static str {
    match fault {
        WorkerFault::Unreachable => "the worker cannot be connected to",
        WorkerFault::QueueFull => "the worker's queue of connections is full",
        WorkerFault::Unsent => "the worker took nothing of the request",
        WorkerFault::Unread => "the worker ended before it read the request",
        WorkerFault::Died => "the worker ended the connection before it answered",
        WorkerFault::NoResponse => "the worker did not begin to answer within response_timeout",
        WorkerFault::Malformed => "the worker's answer is malformed",
    }
}

/// Waits for the first part of a body, within the limits of a body.
struct FirstBody {
    limits: RequestLimits,
    /// ByteCount of the head before it.
    head: usize,
    wait: BodyWait,
}

impl FirstBody {
    fn poll<C: ClientHalf>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        first: &mut BytesMut,
    ) -> Poll<Result<(), Ended>> {
        while !client.body_is_done() && first.len() < self.head + FIRST_BODY {
            match client.poll_body(cx, first).map_err(Ended::by_client)? {
                Poll::Ready(()) => self.wait.moved(),
                Poll::Pending => {
                    let is_short = client.body_left().is_some_and(|left| left <= FIRST_BODY as u64);
                    if client.body_taken() > 0 && !is_short {
                        return Poll::Ready(Ok(()));
                    }
                    return self.poll_limits(cx, client);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_limits<C: ClientHalf>(&mut self, cx: &mut Context<'_>, client: &mut C) -> Poll<Result<(), Ended>> {
        let Ok(look) = self.wait.look(&self.limits, client.body_taken(), Instant::now()) else {
            return Poll::Ready(Err(Ended::refused(ErrorResponse::REQUEST_TIMEOUT, Failure::BadRequest)));
        };
        ready!(client.deadline().poll_at(cx, look));
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
