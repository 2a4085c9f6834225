//! Plain HTTP/1 from a client to a worker and back, on a path of our own.
//!
//! Pingora's proxy awaits the upload's write in the task that reads the answer, so data flowing both
//! ways at once stalls; it also costs a multiple of this path. What is decided (route, affinity,
//! retries, forwarded headers) is the shared policy.

mod exchange;
mod heads;
mod kept;

use super::acquire::acquire;
use super::alarm::Alarm;
use super::answer::Answer;
use super::front::{Client, answer_and_close, say_and_close};
use super::http1::body::BodyScanner;
use super::http1::head::Head;
use super::http1::{Body, Method, response};
use super::metrics::Failure;
use super::phase::Admission;
use super::policy::{self, Learner, RawHeaders};
use super::{App, Gateway, connect, parcel, socketio};
use crate::pool::{Lease, Member, Use};
use bytes::{Buf, BytesMut};
use exchange::{Broken, Exchange, Limits, Watch};
use pingora_core::protocols::Stream;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// How many workers a request is offered to.
const MAX_TRIES: usize = 4;
/// Body bytes that travel with the head and can be sent again.
const FIRST_BODY: usize = 16 * 1024;

/// Reads ahead of the running request (pipelining) stop here.
const AHEAD_LIMIT: usize = 64 * 1024;

/// A client's connection between two requests.
pub(super) struct Conn {
    pub(super) client: Client,
    pub(super) stream: Stream,
    /// Read and not yet used.
    pub(super) ahead: BytesMut,
    /// For every deadline of the connection.
    pub(super) alarm: Alarm,
    pub(super) pulse: Alarm,
    /// Left of a wait for the next request's head that another process began, or that stopped for a move.
    pub(super) left: Option<Duration>,
    pub(super) admission: Admission,
    /// Its first bytes are to come and may be HTTP/2's.
    pub(super) greeting: bool,
}

impl Conn {
    pub(super) fn new(client: Client, stream: Stream, mut admission: Admission) -> Conn {
        admission.set_movable(parcel::plain(&stream).is_some());
        let (alarm, pulse) = (Alarm::default(), Alarm::default());
        Conn { client, stream, ahead: BytesMut::new(), alarm, pulse, left: None, admission, greeting: false }
    }
}

/// Ends when the client leaves. What it sends meanwhile is kept, up to a limit.
async fn gone(stream: &mut Stream, ahead: &mut BytesMut) {
    while ahead.len() < AHEAD_LIMIT {
        match stream.read_buf(ahead).await {
            Ok(n) if n > 0 => {}
            _ => return,
        }
    }
    std::future::pending().await
}

/// Serves the request whose head begins `conn.ahead`. Gives the connection back when another request
/// may follow on it.
pub(super) async fn forward(gateway: &Gateway, app: &App, mut conn: Conn, head: &Head) -> Option<Conn> {
    let limits = Limits {
        body_bytes: gateway.limits.body_bytes,
        body_timeout: gateway.limits.body_timeout,
        response_timeout: app.response_timeout,
    };
    if let (Body::Length(length), Some(limit)) = (head.body, limits.body_bytes)
        && length > limit
    {
        answer_and_close(conn.stream, Answer::TOO_LONG).await;
        return None;
    }
    let buf = conn.ahead.split_to(head.len);
    let mut first = heads::request(head, &buf, conn.client);
    let mut body = BodyScanner::new(head.body);
    let early = conn.ahead.len().min(FIRST_BODY);
    match body.advance(&conn.ahead[..early]) {
        Ok(belongs) => {
            first.extend_from_slice(&conn.ahead[..belongs]);
            conn.ahead.advance(belongs);
        }
        Err(reject) => {
            let answer = Answer { status: reject.status, detail: reject.reason };
            answer_and_close(conn.stream, answer).await;
            return None;
        }
    }
    match Attempts::new(app, head, &buf, conn.client).run(&mut conn, head, &first, &body, limits).await {
        Ok(true) => Some(conn),
        Ok(false) => {
            // Bytes that nobody reads would turn the close into a reset.
            super::front::close(conn.stream).await;
            None
        }
        Err(Ended::Silently) => None,
        Err(Ended::Poll) => {
            app.metrics.answered(200, None);
            say_and_close(conn.stream, &socketio::close_poll(head.target.of(&buf))).await;
            None
        }
        Err(Ended::With(answer)) => {
            app.metrics.answered(answer.status, None);
            answer_and_close(conn.stream, answer).await;
            None
        }
    }
}

/// How a request ended without an answer of a worker.
enum Ended {
    Silently,
    /// A poll that waited at a worker until that ended with the proxy: its session is over.
    Poll,
    With(Answer),
}

/// The tries of one request.
struct Attempts<'a> {
    app: &'a App,
    plan: policy::Plan<'a>,
    replayable: bool,
    name: &'a [u8],
    target: &'a [u8],
    /// Workers that could not take it.
    tried: Vec<Arc<Member>>,
    replayed: bool,
    last: Answer,
}

impl<'a> Attempts<'a> {
    fn new(app: &'a App, head: &'a Head, buf: &'a [u8], client: Client) -> Self {
        let headers = RawHeaders { head, buf };
        let target = head.target.of(buf);
        let get = head.method == Method::Get;
        let plan = policy::plan(&app.pool.settings().affinity, target, headers, client.ip, get, false);
        let name = head.method_name.of(buf);
        let replayable = policy::is_replayable(name);
        Attempts { app, plan, replayable, name, target, tried: Vec::new(), replayed: false, last: Answer::NO_WORKER }
    }

    /// `Ok` says whether the client's connection may carry another request.
    async fn run(
        mut self,
        conn: &mut Conn,
        head: &Head,
        first: &[u8],
        body: &BodyScanner,
        limits: Limits,
    ) -> Result<bool, Ended> {
        let began = Instant::now();
        while self.tried.len() < MAX_TRIES {
            let closing = || conn.admission.house().is_closing();
            let lease = tokio::select! {
                biased;
                lease = acquire(&self.app.pool, &self.plan, &self.tried, closing) => lease,
                () = gone(&mut conn.stream, &mut conn.ahead) => return Err(Ended::Silently),
            };
            let Some(lease) = lease else { break };
            let Some((worker, reused)) = self.reach(&lease).await? else { continue };
            let learner = self.plan.handshake.then(|| Learner::new(&self.app.pool, lease.member()));
            let mut exchange =
                Exchange::new(conn, &lease.member().silence, worker, head, first, body.clone(), limits, learner);
            let Err(broken) = exchange.run().await else {
                let finished = exchange.finish();
                self.app.metrics.answered(finished.status, (self.plan.usage == Use::Request).then(|| began.elapsed()));
                if let Some(worker) = finished.worker {
                    kept::keep(lease.member(), worker);
                }
                return Ok(finished.stay);
            };
            let (answered, whole) = (exchange.has_answered(), exchange.is_replayable());
            drop(exchange);
            if answered {
                self.app.metrics.failed(match broken {
                    Broken::Truncated => Failure::Truncated,
                    _ => Failure::ClientGone,
                });
                // The client must see that its answer is not whole.
                return Err(Ended::Silently);
            }
            let ended = matches!(broken, Broken::Unsent | Broken::Died | Broken::Unread);
            if ended && self.plan.is_waiting_poll() && conn.admission.house().is_closing() {
                return Err(Ended::Poll);
            }
            self.judge(broken, lease, reused, whole)?;
            self.app.metrics.retried();
        }
        if self.plan.is_waiting_poll() && conn.admission.house().is_closing() {
            return Err(Ended::Poll);
        }
        self.app.metrics.failed(if self.last == Answer::BROKEN { Failure::WorkerDied } else { Failure::NoWorker });
        Err(Ended::With(self.last))
    }

    /// A connection to the worker, and whether it was used before. `None`: it cannot be reached.
    async fn reach(&mut self, lease: &Lease) -> Result<Option<(UnixStream, bool)>, Ended> {
        if let Some(kept) = kept::take(lease.member(), self.app.keep_alive) {
            return Ok(Some((kept, true)));
        }
        match connect::connect(lease.member()).await {
            Ok(stream) => Ok(Some((stream, false))),
            // Its queue is full: it lives, and its sessions must not be tried elsewhere.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Ended::With(Answer::NO_WORKER)),
            Err(_) => {
                self.tried.push(lease.member().clone());
                Ok(None)
            }
        }
    }

    /// Once more, or the end? A request goes out again only when no worker can have acted on it, or
    /// acting twice does no harm; then once.
    fn judge(&mut self, broken: Broken, lease: Lease, reused: bool, whole: bool) -> Result<(), Ended> {
        let id = &lease.member().id;
        let answer = match broken {
            Broken::Unsent if whole => {
                // A kept connection that had ended says nothing of the worker.
                if !reused {
                    self.tried.push(lease.member().clone());
                }
                return Ok(());
            }
            // A Node worker reads all there is at once: what lay unread, it has not seen any of.
            Broken::Unread if whole && lease.member().tag.is_some() => {
                self.tried.push(lease.member().clone());
                return Ok(());
            }
            Broken::Died | Broken::Unread
                if whole && self.replayable && !self.replayed && (reused || !self.plan.is_bound()) =>
            {
                self.replayed = true;
                // A session's owner is asked again; for anything else another worker is better.
                if !self.plan.is_bound() {
                    self.tried.push(lease.member().clone());
                }
                self.last = Answer::BROKEN;
                return Ok(());
            }
            Broken::ClientGone | Broken::ClientEnded | Broken::ClientStalled | Broken::Truncated => {
                self.app.metrics.failed(Failure::ClientGone);
                return Err(Ended::Silently);
            }
            // Its own sessions wait for it; for them no other worker is of use.
            Broken::Hung if whole && self.replayable && !self.replayed && !self.plan.is_bound() => {
                self.replayed = true;
                self.tried.push(lease.member().clone());
                return Ok(());
            }
            Broken::Unsent | Broken::Died | Broken::Unread => Answer::BROKEN,
            Broken::Hung | Broken::NoAnswer => Answer::NO_ANSWER,
            Broken::BodyTimeout => Answer::HEAD_TIMEOUT,
            Broken::BodyTooLong => Answer::TOO_LONG,
            Broken::Framing(detail) => Answer { status: 400, detail },
            Broken::Malformed(why) => {
                log::warn!("{id}: {why}");
                Answer::BROKEN
            }
        };
        self.app.metrics.failed(match broken {
            Broken::Malformed(_) => Failure::Malformed,
            Broken::NoAnswer | Broken::Hung => Failure::NoAnswer,
            Broken::Unsent | Broken::Died | Broken::Unread => Failure::WorkerDied,
            _ => Failure::BadRequest,
        });
        if answer.status >= 500 {
            let (name, target) = (String::from_utf8_lossy(self.name), String::from_utf8_lossy(self.target));
            log::warn!("{id}: {name} {target} answered {}: {broken:?}", answer.status);
        }
        Err(Ended::With(answer))
    }
}

impl Watch for Option<Learner> {
    fn answer_head(&mut self, head: &response::Head, buf: &[u8]) {
        if let Some(learner) = self {
            let encoded = head.headers(buf).all("content-encoding").next().is_some();
            learner.begin(head.status == 200 && !encoded, head.body == Body::Chunked);
            head.headers(buf).all("set-cookie").for_each(|value| learner.set_cookie(value));
        }
    }

    fn answer_body(&mut self, bytes: &[u8]) {
        if let Some(learner) = self {
            learner.body(bytes);
        }
    }
}
